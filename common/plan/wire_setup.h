// What an agent tells each of its ranks before the first plan: payloads of the ring's kSetup and kConnect records.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "common/plan/control.h"

namespace shoal::plan {

struct RankSetup {
  int32_t rank = 0;
  int32_t tp = 1, pp = 1;
  uint64_t epoch = 0;        // generation of the group's channels
  uint64_t coordinator = 0;  // incarnation
  model::ModelConfig model;  // without the token ids that only the coordinator needs
  EngineOptions engine;
  MirrorLimits limits;
  int32_t threads = 1;
  std::string host;  // that the transport binds, where it binds one
  // Where engine.device is "cuda": which one, and the sizes of the memory behind the inherited descriptors.
  int32_t device_index = 0;
  int64_t weights_bytes = 0, kv_bytes = 0;
  // What is to be in use of the whole device when the rank runs; 0: not known (also where ranks share it).
  int64_t planned_device_bytes = 0;
  int32_t checked_steps = 0;  // rank::EngineParts'
};

std::string EncodeSetup(const RankSetup& setup);
// Checks ranges and enum values; the model's own consistency is CheckConfig's.
absl::StatusOr<RankSetup> DecodeSetup(std::string_view bytes);

// The payload of the ring's kConnect record.
std::string EncodeConnect(const ConnectRanks& connect);
absl::StatusOr<ConnectRanks> DecodeConnect(std::string_view bytes);

}  // namespace shoal::plan
