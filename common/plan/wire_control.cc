// Control messages of cluster.proto and worker.proto.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cluster.pb.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "common/plan/wire.h"
#include "worker.pb.h"

namespace shoal::plan {
namespace {

constexpr int kMaxSlots = 1024;  // of one agent; more is a mistake, not a machine
// What an agent may say it has seen: the coordinator goes on from there, and must never come round to 0.
constexpr uint64_t kMaxEpoch = uint64_t{1} << 63;
// 1 PiB of weights on one agent: more is a mistake, and sums over all agents stay far from overflow.
constexpr int64_t kMaxLoadBytes = int64_t{1} << 50;
constexpr int kMaxTransports = 16;    // a rank can count bytes of
constexpr int kMaxRanks = kMaxSlots;  // of a group, whose addresses travel together

void Put(const RankStatus& in, proto::RankStatus* out) {
  out->set_rank(in.rank);
  out->set_pid(in.pid);
  out->set_state(static_cast<int>(in.state));
  out->set_step(in.step);
  out->set_progress(in.progress);
  out->set_operation(ValidUtf8(in.operation));
  if (in.waiting_for.has_value()) out->set_waiting_for(*in.waiting_for);
  out->set_resident_bytes(in.resident_bytes);
  out->set_decode_steps(in.decode_steps);
  out->set_decode_steps_planned(in.decode_steps_planned);
  for (const auto& [transport, bytes] : in.comm_bytes) {
    auto* comm = out->add_comm_bytes();
    comm->set_transport(ValidUtf8(transport));
    comm->set_bytes(bytes);
  }
}

absl::StatusOr<RankStatus> Get(const proto::RankStatus& in) {
  if (in.state() < 0 || in.state() > static_cast<int>(RankState::kDead)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown rank state ", in.state()));
  }
  RankStatus out;
  out.rank = in.rank();
  out.pid = in.pid();
  out.state = static_cast<RankState>(in.state());
  out.step = in.step();
  out.progress = in.progress();
  out.operation = in.operation();
  if (in.has_waiting_for()) out.waiting_for = in.waiting_for();
  out.resident_bytes = in.resident_bytes();
  out.decode_steps = in.decode_steps();
  out.decode_steps_planned = in.decode_steps_planned();
  if (in.comm_bytes_size() > kMaxTransports) {
    return absl::InvalidArgumentError(absl::StrCat(in.comm_bytes_size(), " transports"));
  }
  for (const auto& c : in.comm_bytes()) out.comm_bytes.emplace_back(c.transport(), c.bytes());
  return out;
}

template <typename Addresses>
absl::StatusOr<std::vector<RankAddress>> GetAddresses(const Addresses& in) {
  if (in.size() > kMaxRanks) return absl::InvalidArgumentError(absl::StrCat(in.size(), " addresses of ranks"));
  std::vector<RankAddress> out;
  for (const proto::RankAddress& a : in) {
    if (a.rank() < 0 || a.address().empty() || a.address().size() > kMaxAddressBytes) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", a.rank(), " has an address of ", a.address().size(),
                                                     " bytes; 1 to ", kMaxAddressBytes, " are possible"));
    }
    out.push_back({a.rank(), a.address()});
  }
  return out;
}

void PutAddress(const RankAddress& in, proto::RankAddress* out) {
  out->set_rank(in.rank);
  out->set_address(in.bytes);
}

}  // namespace

absl::StatusOr<DrainState> ToDrainState(int32_t state) {
  if (state >= 0 && state <= static_cast<int32_t>(DrainState::kDrained)) return static_cast<DrainState>(state);
  return absl::InvalidArgumentError(absl::StrCat("drain state ", state));
}

void ToProto(const MirrorLimits& in, proto::MirrorLimits* out) {
  out->set_blocks(in.blocks);
  out->set_block_size(in.block_size);
  out->set_max_sequences(in.max_sequences);
  out->set_max_tokens(in.max_tokens);
  out->set_max_model_len(in.max_model_len);
  out->set_vocab(in.vocab);
}

absl::StatusOr<MirrorLimits> FromProto(const proto::MirrorLimits& in) {
  const MirrorLimits out{in.blocks(),     in.block_size(),    in.max_sequences(),
                         in.max_tokens(), in.max_model_len(), in.vocab()};
  for (int32_t v : {out.blocks, out.block_size, out.max_sequences, out.max_tokens, out.max_model_len, out.vocab}) {
    if (v < 0) return absl::InvalidArgumentError("a limit is negative");
  }
  return out;
}

void ToProto(const EngineOptions& in, proto::EngineOptions* out) {
  out->set_device(ValidUtf8(in.device));
  out->set_compute_dtype(ValidUtf8(in.compute_dtype));
  out->set_kv_dtype(ValidUtf8(in.kv_dtype));
  out->set_load_format(ValidUtf8(in.load_format));
  out->set_dummy_seed(in.dummy_seed);
  out->set_quantization(ValidUtf8(in.quantization));
  out->set_numerics(ValidUtf8(in.numerics));
  out->set_all_reduce(ValidUtf8(in.all_reduce));
  out->set_transport(ValidUtf8(in.transport));
  out->set_block_size(in.block_size);
}

EngineOptions FromProto(const proto::EngineOptions& in) {
  return {in.device(),    in.compute_dtype(), in.kv_dtype(),     in.load_format(), in.dummy_seed(),
          in.transport(), in.block_size(),    in.quantization(), in.numerics(),    in.all_reduce()};
}

void ToProto(const AgentInfo& in, proto::AgentInfo* out) {
  out->set_id(in.id);
  out->set_incarnation(in.incarnation);
  out->set_address(in.address);
  out->set_hostname(ValidUtf8(in.hostname));
  out->set_boot_id(in.boot_id);
  out->set_build_id(in.build_id);
  out->set_pid(in.pid);
  for (const auto& s : in.slots) {
    auto* slot = out->add_slots();
    slot->set_kind(ValidUtf8(s.kind));
    slot->set_threads(s.threads);
    slot->set_memory_bytes(s.memory_bytes);
  }
  out->set_highest_epoch(in.highest_epoch);
  out->mutable_held_ranks()->Add(in.held_ranks.begin(), in.held_ranks.end());
  out->set_held_model(in.held_model);
  out->set_drain(static_cast<int32_t>(in.drain));
}

absl::StatusOr<AgentInfo> FromProto(const proto::AgentInfo& in) {
  if (in.id().empty() || in.address().empty()) return absl::InvalidArgumentError("an agent without id or address");
  if (in.slots_size() > kMaxSlots) return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxSlots, " slots"));
  if (in.highest_epoch() >= kMaxEpoch) {
    return absl::InvalidArgumentError(absl::StrCat("an agent that has seen epoch ", in.highest_epoch()));
  }
  AgentInfo out;
  out.id = in.id();
  out.incarnation = in.incarnation();
  out.address = in.address();
  out.hostname = in.hostname();
  out.boot_id = in.boot_id();
  out.build_id = in.build_id();
  out.pid = in.pid();
  for (const auto& s : in.slots()) {
    if (s.threads() < 0 || s.memory_bytes() < 0) return absl::InvalidArgumentError("a slot with negative sizes");
    out.slots.push_back({s.kind(), s.threads(), s.memory_bytes()});
  }
  out.highest_epoch = in.highest_epoch();
  out.held_ranks.assign(in.held_ranks().begin(), in.held_ranks().end());
  out.held_model = in.held_model();
  SHOAL_ASSIGN_OR_RETURN(out.drain, ToDrainState(in.drain()));
  return out;
}

void ToProto(const Heartbeat& in, proto::Heartbeat* out) {
  out->set_agent(in.agent);
  out->set_incarnation(in.incarnation);
  out->set_sequence(in.sequence);
  out->set_epoch(in.epoch);
  for (const auto& r : in.ranks) Put(r, out->add_ranks());
  for (size_t place = 0; place < kStalePlaces; ++place) {
    if (in.stale[place] == 0) continue;
    proto::StaleCount* stale = out->add_stale();
    stale->set_place(static_cast<int>(place));
    stale->set_count(std::min(in.stale[place], kMaxStale));
  }
  out->set_drain(static_cast<int32_t>(in.drain));
}

absl::StatusOr<Heartbeat> FromProto(const proto::Heartbeat& in) {
  Heartbeat out;
  out.agent = in.agent();
  out.incarnation = in.incarnation();
  out.sequence = in.sequence();
  out.epoch = in.epoch();
  for (const auto& r : in.ranks()) {
    SHOAL_ASSIGN_OR_RETURN(out.ranks.emplace_back(), Get(r));
  }
  for (const proto::StaleCount& s : in.stale()) {
    if (s.place() < 0 || s.place() >= static_cast<int>(kStalePlaces) || s.count() > kMaxStale) {
      return absl::InvalidArgumentError(absl::StrCat(s.count(), " stale messages at place ", s.place()));
    }
    out.stale[s.place()] = s.count();
  }
  SHOAL_ASSIGN_OR_RETURN(out.drain, ToDrainState(in.drain()));
  return out;
}

void ToProto(const JoinGroup& in, proto::JoinGroupRequest* out) {
  out->set_epoch(in.epoch);
  out->set_coordinator(in.coordinator);
  out->set_model(in.model);
  out->set_revision(in.revision);
  ToProto(in.engine, out->mutable_engine());
  out->set_tp(in.tp);
  out->set_pp(in.pp);
  out->set_shard_hash(in.shard_hash);
  for (const auto& r : in.ranks) {
    auto* rank = out->add_ranks();
    rank->set_rank(r.rank);
    rank->set_agent(r.agent);
    rank->set_slot(r.slot);
  }
  out->set_comm_token(in.comm_token);
  ToProto(in.limits, out->mutable_limits());
}

absl::StatusOr<JoinGroup> FromProto(const proto::JoinGroupRequest& in) {
  JoinGroup out;
  out.epoch = in.epoch();
  out.coordinator = in.coordinator();
  out.model = in.model();
  out.revision = in.revision();
  out.engine = FromProto(in.engine());
  out.tp = in.tp();
  out.pp = in.pp();
  out.shard_hash = in.shard_hash();
  if (out.tp < 1 || out.pp < 1 || out.tp > kMaxSlots || out.pp > kMaxSlots || in.ranks_size() != out.tp * out.pp) {
    return absl::InvalidArgumentError(
        absl::StrCat("a group of tp ", out.tp, " x pp ", out.pp, " with ", in.ranks_size(), " ranks"));
  }
  for (const auto& r : in.ranks()) out.ranks.push_back({r.rank(), r.agent(), r.slot()});
  out.comm_token = in.comm_token();
  SHOAL_ASSIGN_OR_RETURN(out.limits, FromProto(in.limits()));
  return out;
}

void ToProto(const JoinReply& in, proto::JoinGroupReply* out) {
  out->set_numerics_id(in.numerics_id);
  for (const auto& r : in.ranks) {
    auto* rank = out->add_ranks();
    rank->set_rank(r.rank);
    rank->set_weight_bytes(r.weight_bytes);
    rank->set_read_bytes(r.read_bytes);
    rank->set_kv_bytes_per_block(r.kv_bytes_per_block);
    rank->set_memory_bytes(r.memory_bytes);
  }
}

absl::StatusOr<JoinReply> FromProto(const proto::JoinGroupReply& in) {
  JoinReply out;
  out.numerics_id = in.numerics_id();
  for (const auto& r : in.ranks()) {
    if (r.weight_bytes() < 0 || r.kv_bytes_per_block() < 0 || r.memory_bytes() < 0 || r.read_bytes() < 0) {
      return absl::InvalidArgumentError("a rank with negative sizes");
    }
    out.ranks.push_back({r.rank(), r.weight_bytes(), r.read_bytes(), r.kv_bytes_per_block(), r.memory_bytes()});
  }
  return out;
}

void ToProto(const LoadModel& in, proto::LoadModelRequest* out) {
  out->set_epoch(in.epoch);
  ToProto(in.limits, out->mutable_limits());
}

absl::StatusOr<LoadModel> FromProto(const proto::LoadModelRequest& in) {
  LoadModel out;
  out.epoch = in.epoch();
  SHOAL_ASSIGN_OR_RETURN(out.limits, FromProto(in.limits()));
  return out;
}

void ToProto(const LoadProgress& in, proto::LoadModelProgress* out) {
  out->set_agent(in.agent);
  out->set_bytes_done(in.bytes_done);
  out->set_bytes_total(in.bytes_total);
  out->set_done(in.done);
  out->set_reused(in.reused);
  out->set_bytes_read(in.bytes_read);
  for (const LoadProgress::Cache& c : in.caches) {
    proto::KvCache* cache = out->add_caches();
    cache->set_rank(c.rank);
    cache->set_id(c.id);
  }
  for (const RankAddress& a : in.addresses) PutAddress(a, out->add_addresses());
}

absl::StatusOr<LoadProgress> FromProto(const proto::LoadModelProgress& in) {
  for (const int64_t bytes : {in.bytes_done(), in.bytes_total(), in.bytes_read()}) {
    if (bytes < 0 || bytes > kMaxLoadBytes)
      return absl::InvalidArgumentError(absl::StrCat("a load of ", bytes, " bytes"));
  }
  LoadProgress out{in.agent(), in.bytes_done(), in.bytes_total(), in.done(), in.reused(), in.bytes_read(), {}, {}};
  for (const proto::KvCache& c : in.caches()) out.caches.push_back({c.rank(), c.id()});
  SHOAL_ASSIGN_OR_RETURN(out.addresses, GetAddresses(in.addresses()));
  return out;
}

void ToProto(const ConnectRanks& in, proto::ConnectRanksRequest* out) {
  out->set_epoch(in.epoch);
  out->set_coordinator(in.coordinator);
  for (const RankAddress& a : in.ranks) PutAddress(a, out->add_addresses());
}

absl::StatusOr<ConnectRanks> FromProto(const proto::ConnectRanksRequest& in) {
  ConnectRanks out{in.epoch(), in.coordinator(), {}};
  SHOAL_ASSIGN_OR_RETURN(out.ranks, GetAddresses(in.addresses()));
  for (size_t i = 0; i < out.ranks.size(); ++i) {
    if (out.ranks[i].rank == static_cast<int32_t>(i)) continue;
    return absl::InvalidArgumentError(absl::StrCat("the address of rank ", out.ranks[i].rank, " in place of rank ", i));
  }
  return out;
}

void ToProto(const RankExit& in, proto::RankExit* out) {
  out->set_rank(in.rank);
  out->set_pid(in.pid);
  out->set_epoch(in.epoch);
  out->set_cause(ValidUtf8(in.cause));
}

absl::StatusOr<RankExit> FromProto(const proto::RankExit& in) {
  return RankExit{in.rank(), in.pid(), in.epoch(), in.cause()};
}

}  // namespace shoal::plan
