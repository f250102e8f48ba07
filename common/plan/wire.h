// Structs <-> protocol buffers: the only code that knows both. Decoding checks everything (sizes, enum values, finite
// floats), since bytes come from other processes; what a plan means is checked by plan_check.h. Encoding replaces what
// is not UTF-8 in free text by U+FFFD: protobuf would refuse the whole message on the other side.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/plan/control.h"
#include "common/plan/step_plan.h"

namespace shoal::proto {
class StepPlan;
class StepResult;
class AgentInfo;
class EngineOptions;
class MirrorLimits;
class Heartbeat;
class JoinGroupRequest;
class JoinGroupReply;
class LoadModelRequest;
class LoadModelProgress;
class ConnectRanksRequest;
class RankExit;
}  // namespace shoal::proto

namespace shoal::plan {

// Bytes of plan.proto messages: what travels in Execute frames and ring records. Encoding is deterministic.
std::string EncodePlan(const StepPlan& plan);
absl::StatusOr<StepPlan> DecodePlan(std::string_view bytes);
std::string EncodeResult(const StepResult& result);
absl::StatusOr<StepResult> DecodeResult(std::string_view bytes);

// Messages of cluster.proto and worker.proto.
void ToProto(const EngineOptions& in, proto::EngineOptions* out);
EngineOptions FromProto(const proto::EngineOptions& in);
void ToProto(const MirrorLimits& in, proto::MirrorLimits* out);
absl::StatusOr<MirrorLimits> FromProto(const proto::MirrorLimits& in);
void ToProto(const AgentInfo& in, proto::AgentInfo* out);
absl::StatusOr<AgentInfo> FromProto(const proto::AgentInfo& in);
void ToProto(const Heartbeat& in, proto::Heartbeat* out);
absl::StatusOr<Heartbeat> FromProto(const proto::Heartbeat& in);
void ToProto(const JoinGroup& in, proto::JoinGroupRequest* out);
absl::StatusOr<JoinGroup> FromProto(const proto::JoinGroupRequest& in);
void ToProto(const JoinReply& in, proto::JoinGroupReply* out);
absl::StatusOr<JoinReply> FromProto(const proto::JoinGroupReply& in);
void ToProto(const LoadModel& in, proto::LoadModelRequest* out);
absl::StatusOr<LoadModel> FromProto(const proto::LoadModelRequest& in);
void ToProto(const LoadProgress& in, proto::LoadModelProgress* out);
absl::StatusOr<LoadProgress> FromProto(const proto::LoadModelProgress& in);
void ToProto(const ConnectRanks& in, proto::ConnectRanksRequest* out);
// InvalidArgument unless there is one address, of a bounded length, for each of ranks 0, 1, ...
absl::StatusOr<ConnectRanks> FromProto(const proto::ConnectRanksRequest& in);
void ToProto(const RankExit& in, proto::RankExit* out);
absl::StatusOr<RankExit> FromProto(const proto::RankExit& in);
absl::StatusOr<DrainState> ToDrainState(int32_t state);

}  // namespace shoal::plan
