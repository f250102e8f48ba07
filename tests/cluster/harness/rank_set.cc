#include "tests/cluster/harness/rank_set.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "worker/comm/staged.h"
#include "worker/kv/kv_cache.h"

namespace shoal::testing {
namespace {

// A permutation of the cache's blocks, so that neighbours in a sequence are none in memory.
std::vector<int32_t> ShuffledBlocks(int blocks) {
  std::vector<int32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  for (int i = blocks - 1; i > 0; --i) std::swap(order[i], order[RandomBits(17, 0, i) % (i + 1)]);
  return order;
}

}  // namespace

plan::MirrorLimits RankSet::limits() const {
  return {.blocks = options_.blocks,
          .block_size = options_.block_size,
          .max_sequences = options_.max_samples,
          .max_tokens = options_.max_tokens,
          .max_model_len = options_.max_model_len,
          .vocab = shards_->model.config.vocab};
}

absl::StatusOr<std::unique_ptr<RankSet>> RankSet::Make(std::shared_ptr<const Shards> shards,
                                                       const RankSetOptions& options) {
  auto set = std::make_unique<RankSet>();
  set->shards_ = std::move(shards);
  set->options_ = options;
  const Shards& s = *set->shards_;
  const model::ModelConfig& config = s.model.config;
  comm::GroupShape shape = {.tp = s.plan.tp, .pp = s.plan.pp};
  shape.max_activation_bytes = int64_t{options.max_tokens} * config.hidden * static_cast<int64_t>(sizeof(float));
  shape.max_samples = options.max_samples;
  set->group_ = std::make_unique<comm::TestGroup>(shape, options.transport);
  for (int r = 0; r < s.plan.tp * s.plan.pp; ++r) {
    const plan::RankShard& shard = s.plan.ranks[r];
    Rank& rank = set->ranks_.emplace_back();
    rank.page = std::make_unique<rank::ControlPage>();
    if (options.device == nullptr) {
      rank.device = device::MakeHostDevice(s.table, options.threads);
    } else {
      SHOAL_ASSIGN_OR_RETURN(rank.device, options.device(s.table));
    }
    if (!rank.device->is_host()) {
      set->group_->rank(r) = comm::MakeStaged(std::move(set->group_->rank(r)), rank.device.get());
    }
    const kv::KvShape kv = kv::MakeKvShape(shard, config, options.kv, options.block_size, options.blocks);
    const std::vector<std::byte> poison(static_cast<size_t>(kv::RegionBytes(kv)), std::byte{0xff});
    SHOAL_ASSIGN_OR_RETURN(rank.kv_memory, rank.device->Allocate(poison.size()));
    SHOAL_RETURN_IF_ERROR(rank.device->Upload(rank.kv_memory.data(), poison.data(), poison.size()));
    rank.kv = kv::MakeLayers(kv, {rank.kv_memory.data(), poison.size()});
    const graph::DecoderOptions decoder = {options.max_tokens, options.max_samples, options.max_model_len};
    rank.operations = std::make_unique<graph::OperationLog>(&rank.page->operation, &rank.device->stream());
    SHOAL_ASSIGN_OR_RETURN(rank.decoder,
                           graph::Decoder::Create(config, shard, decoder, rank.device.get(), &s.weights[r], rank.kv,
                                                  set->group_->rank(r).tensor.get(), rank.operations.get()));
  }
  return set;
}

absl::Status RankSet::StepOf(int r, const graph::Batch& batch, std::vector<float>* result) {
  comm::RankComm& comm = group_->rank(r);
  graph::Decoder& decoder = *ranks_[r].decoder;
  SHOAL_RETURN_IF_ERROR(decoder.Begin(batch));
  SHOAL_RETURN_IF_ERROR(comm.previous == nullptr ? decoder.Embed() : comm.previous->Receive(decoder.residual()));
  SHOAL_RETURN_IF_ERROR(decoder.Forward());
  if (comm.next != nullptr) return comm.next->Send(decoder.residual());
  const bool embeds = shards_->model.config.task == model::Task::kEmbed;
  SHOAL_ASSIGN_OR_RETURN(const std::span<const float> out, embeds ? decoder.Pooled() : decoder.Logits());
  if (comm.mailbox_out == nullptr) return absl::OkStatus();
  result->resize(out.size());
  return ranks_[r].device->Download(result->data(), out.data(), out.size_bytes());
}

absl::StatusOr<std::vector<float>> RankSet::Step(const std::vector<Chunk>& chunks, int sequences) {
  SHOAL_CHECK(shards_->model.config.task == model::Task::kGenerate);
  return Run(chunks, sequences);
}

absl::StatusOr<std::vector<float>> RankSet::Embed(const std::vector<Chunk>& chunks, int sequences) {
  SHOAL_CHECK(shards_->model.config.task == model::Task::kEmbed);
  return Run(chunks, sequences);
}

absl::StatusOr<std::vector<float>> RankSet::Run(const std::vector<Chunk>& chunks, int sequences) {
  const std::vector<int32_t> blocks = ShuffledBlocks(options_.blocks);
  const int stride = options_.blocks / sequences;
  std::vector<int32_t> positions, ids, rows;
  std::vector<int64_t> slots;
  std::vector<ops::AttentionSequence> parts;
  std::vector<graph::SequencePlace> places;
  for (const Chunk& chunk : chunks) {
    const int32_t* table = blocks.data() + chunk.sequence * stride;
    const int count = static_cast<int>(chunk.ids.size());
    SHOAL_CHECK(chunk.begin + count <= stride * options_.block_size);
    parts.push_back({table, static_cast<int>(ids.size()), count, chunk.begin});
    places.push_back({chunk.sequence, static_cast<uint64_t>(chunk.sequence) + 1});
    for (int i = 0; i < count; ++i) {
      const int p = chunk.begin + i;
      positions.push_back(p);
      slots.push_back(int64_t{table[p / options_.block_size]} * options_.block_size + p % options_.block_size);
      rows.push_back(static_cast<int32_t>(ids.size()));
      ids.push_back(chunk.ids[i]);
    }
  }
  const std::vector<ops::SampleRow> sampling(rows.size());
  const graph::Batch batch = {.tokens = static_cast<int>(ids.size()),
                              .sources = ids,
                              .last = nullptr,
                              .positions = positions,
                              .slots = slots,
                              .sequences = parts,
                              .places = places,
                              .sample_rows = rows,
                              .sampling = sampling};
  std::vector<float> result;
  for (const absl::Status& s : group_->Run([&](int r) { return StepOf(r, batch, &result); })) {
    SHOAL_RETURN_IF_ERROR(s);
  }
  return result;
}

absl::StatusOr<std::vector<float>> TeacherForced(RankSet& ranks, const std::vector<int32_t>& ids,
                                                 const std::vector<int>& chunk_sizes) {
  std::vector<float> all;
  size_t next_size = 0;
  for (size_t begin = 0; begin < ids.size();) {
    const size_t count = std::min<size_t>(chunk_sizes[next_size], ids.size() - begin);
    if (next_size + 1 < chunk_sizes.size()) ++next_size;
    const RankSet::Chunk chunk = {0, static_cast<int>(begin), {ids.begin() + begin, ids.begin() + begin + count}};
    SHOAL_ASSIGN_OR_RETURN(const std::vector<float> logits, ranks.Step({chunk}));
    all.insert(all.end(), logits.begin(), logits.end());
    begin += count;
  }
  return all;
}

}  // namespace shoal::testing
