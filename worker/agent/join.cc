// Tested by: tests/agent/agent_test.cc
#include "worker/agent/join.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/model/tensor_table.h"
#include "worker/comm/all_reduce.h"
#include "worker/device/open.h"
#include "worker/graph/decoder.h"
#include "worker/kv/kv_cache.h"
#include "worker/sampling/sampler.h"
#include "worker/weights/open_weights.h"

namespace shoal::agent {
namespace {

absl::Status OpenCheckpoint(Joined& joined) {
  const plan::JoinGroup& join = joined.join;
  SHOAL_ASSIGN_OR_RETURN(weights::OpenedWeights opened, weights::OpenWeights(join.model, join.revision, join.engine));
  joined.files = std::move(opened.files);
  joined.checkpoint = std::move(opened.checkpoint);
  return absl::OkStatus();
}

// Slots are of one kind, and ranks of all agents compute on the same.
absl::Status CheckDevice(const std::string& wanted, bool cuda) {
  if ((wanted == device::kCuda) == cuda) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the group computes on ", wanted, ", and the slots of this agent are ", cuda ? "" : "not ",
                   "on CUDA devices: give --device ", cuda ? "cuda" : wanted, " to both"));
}

absl::StatusOr<comm::Transport> FindTransport(const std::string& name, bool cuda) {
  if (name == "auto" || name == "shm") return comm::Transport::kShm;
  if (name == "gloo") return comm::Transport::kGloo;
  if (name == "nccl" && cuda) return comm::Transport::kNccl;
  return absl::InvalidArgumentError(
      absl::StrCat("transport ", name, ": there are shm, gloo and, between CUDA devices, nccl"));
}

absl::Status CheckAllReduce(const plan::JoinGroup& join, comm::Transport transport) {
  const auto policy = comm::AllReducePolicyFromName(join.engine.all_reduce);
  if (!policy.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("all-reduce ", join.engine.all_reduce, ": there are auto, nccl and one-shot"));
  }
  if (*policy != comm::AllReducePolicy::kOneShot || join.tp == 1) return absl::OkStatus();
  if (comm::PeerAllReduceBytes(join.tp) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--all-reduce one-shot is not for ", join.tp, " tensor ranks; --all-reduce auto is"));
  }
  if (transport != comm::Transport::kNccl) {
    return absl::InvalidArgumentError("--all-reduce one-shot is for ranks on CUDA devices with transport nccl");
  }
  return absl::OkStatus();
}

// They size memory and go to ranks, which take them as good.
absl::Status CheckJoinLimits(const plan::JoinGroup& join, const model::ModelConfig& model) {
  plan::MirrorLimits limits = join.limits;
  limits.blocks = std::max(limits.blocks, 1);  // 0: still to be decided
  SHOAL_RETURN_IF_ERROR(plan::CheckLimits(limits));
  if (limits.block_size != join.engine.block_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("limits: block_size is ", limits.block_size, ", the engine's is ", join.engine.block_size));
  }
  if (limits.vocab != model.vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat("limits: vocab is ", limits.vocab, ", the model has ", model.vocab, " tokens"));
  }
  return absl::OkStatus();
}

// The assignments of this agent, checked: every rank of the group once, own slots used at most once.
absl::StatusOr<std::vector<plan::RankAssignment>> OwnAssignments(const plan::JoinGroup& join,
                                                                 const plan::AgentInfo& self) {
  std::set<int32_t> ranks, slots;
  std::vector<plan::RankAssignment> own;
  for (const plan::RankAssignment& a : join.ranks) {
    if (a.rank < 0 || a.rank >= join.tp * join.pp || !ranks.insert(a.rank).second) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", a.rank, " of a group of ", join.tp * join.pp));
    }
    if (a.agent != self.id) continue;
    if (a.slot < 0 || a.slot >= static_cast<int32_t>(self.slots.size()) || !slots.insert(a.slot).second) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", a.slot, " of an agent with ", self.slots.size()));
    }
    own.push_back(a);
  }
  if (own.empty()) return absl::InvalidArgumentError("no rank of the group is assigned to this agent");
  std::sort(own.begin(), own.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  return own;
}

// The types of all matrices of the model, in order of their names: the same on every agent, whichever shards it holds.
std::string WeightTypes(const Joined& joined) {
  std::set<std::string> types;
  const model::TensorIndex index(*joined.checkpoint);
  for (const model::TensorSpec& spec : model::TensorTable(joined.files.config)) {
    const model::TensorEntry* stored = index.Find(spec.name);
    if (stored != nullptr && spec.shape.size() > 1) types.insert(std::string(Info(stored->dtype).name));
  }
  return absl::StrJoin(types, "+");
}

void NameNumerics(const plan::AgentInfo& self, Joined& joined) {
  const plan::EngineOptions& engine = joined.join.engine;
  const std::string cut =
      absl::StrCat("tp", joined.join.tp, "xpp", joined.join.pp, "/", std::string(joined.table->name), "/",
                   joined.numerics.compute_f32 ? "f32" : "auto");
  const std::string source =
      engine.load_format == "dummy" ? absl::StrCat("dummy", engine.dummy_seed) : std::string("files");
  joined.numerics_id = absl::StrCat(self.build_id, "/", cut, "/", source, "-", WeightTypes(joined), "/kv-",
                                    std::string(Info(joined.numerics.kv).name), "/b", engine.block_size);
  if (joined.cuda != nullptr) {
    std::vector<int32_t> slots;
    for (const LocalRank& local : joined.ranks) slots.push_back(local.slot_index);
    absl::StrAppend(&joined.numerics_id, "/", joined.cuda->Numerics(slots));
  }
  joined.weights_key = absl::StrCat(joined.files.revision, "/", source, "-", engine.quantization, "/", cut);
}

// What the slot has for weights and KV, beside the rank's working memory.
absl::StatusOr<int64_t> MemoryFor(const Joined& joined, const LocalRank& local, const Shelf& shelf) {
  const int64_t working = WorkingBytes(joined, local);
  if (joined.cuda == nullptr) return std::max<int64_t>(0, local.slot.memory_bytes - working);
  absl::StatusOr<int64_t> offer =
      joined.cuda->Offer(local.slot_index, working, shelf.BytesOn(local.device), joined.numerics.mode);
  if (offer.ok()) return offer;
  return absl::Status(offer.status().code(),
                      absl::StrCat("rank ", local.rank, " on CUDA device ", local.device, " with ", working,
                                   " bytes to work with: ", offer.status().message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Joined>> ResolveJoin(const plan::JoinGroup& join, const plan::AgentInfo& self,
                                                    CudaDevices* cuda) {
  auto joined = std::make_unique<Joined>();
  joined->join = join;
  joined->cuda = cuda;
  SHOAL_RETURN_IF_ERROR(CheckDevice(join.engine.device, cuda != nullptr));
  SHOAL_ASSIGN_OR_RETURN(joined->transport, FindTransport(join.engine.transport, cuda != nullptr));
  SHOAL_RETURN_IF_ERROR(CheckAllReduce(join, joined->transport));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<plan::RankAssignment> own, OwnAssignments(join, self));
  SHOAL_ASSIGN_OR_RETURN(joined->numerics, rank::ResolveNumerics(join.engine));
  SHOAL_ASSIGN_OR_RETURN(joined->table, device::FindTable(join.engine.device, joined->numerics.mode));
  SHOAL_RETURN_IF_ERROR(OpenCheckpoint(*joined));
  SHOAL_RETURN_IF_ERROR(CheckJoinLimits(join, joined->files.config));
  SHOAL_ASSIGN_OR_RETURN(const plan::ShardPlan shards, plan::MakeShardPlan(joined->files.config, join.tp, join.pp));
  if (shards.Hash() != join.shard_hash) {
    return absl::FailedPreconditionError("agent and coordinator cut the model differently");
  }
  for (const plan::RankAssignment& a : own) {
    LocalRank local;
    local.rank = a.rank;
    local.slot_index = a.slot;
    local.slot = self.slots[a.slot];
    if (cuda != nullptr) local.device = cuda->Index(a.slot);
    local.shard = shards.ranks[a.rank];
    SHOAL_ASSIGN_OR_RETURN(local.layout, weights::MakeLayout(joined->files.config, *joined->checkpoint, local.shard,
                                                             *joined->table, joined->numerics.compute_f32));
    joined->has_first_rank = joined->has_first_rank || a.rank == 0;
    joined->ranks.push_back(std::move(local));
  }
  joined->alone = joined->ranks.size() == join.ranks.size();
  NameNumerics(self, *joined);
  return joined;
}

int64_t WorkingBytes(const Joined& joined, const LocalRank& local) {
  const plan::MirrorLimits& limits = joined.join.limits;
  const graph::DecoderOptions options{limits.max_tokens, limits.max_sequences, limits.max_model_len};
  // One tensor rank of the last stage samples.
  const bool samples = local.shard.has_head && local.shard.tp_index == 0;
  return graph::DecoderBytes(joined.files.config, local.shard, joined.join.tp, options, *joined.table,
                             local.slot.threads) +
         (samples ? sampling::Sampler::Bytes(limits.max_sequences, limits.vocab) : 0);
}

absl::StatusOr<plan::JoinReply> ReplyTo(const Joined& joined, const Shelf& shelf) {
  plan::JoinReply reply;
  reply.numerics_id = joined.numerics_id;
  for (const LocalRank& local : joined.ranks) {
    const kv::KvShape one_block =
        kv::MakeKvShape(local.shard, joined.files.config, joined.numerics.kv, joined.join.engine.block_size, 1);
    const bool held = shelf.Weights(joined.weights_key, local.rank, local.device) != nullptr;
    SHOAL_ASSIGN_OR_RETURN(const int64_t memory, MemoryFor(joined, local, shelf));
    reply.ranks.push_back({.rank = local.rank,
                           .weight_bytes = local.layout.region_bytes,
                           .read_bytes = held ? 0 : local.layout.read_bytes,
                           .kv_bytes_per_block = kv::BytesPerBlock(one_block),
                           .memory_bytes = memory});
  }
  return reply;
}

}  // namespace shoal::agent
