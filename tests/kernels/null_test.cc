#include "kernels/null/null.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

constexpr int kLayers = 3, kHeads = 6, kHeadDim = 32, kDim = kHeads * kHeadDim, kFfn = 256, kVocab = 1000;
constexpr int kBlockSize = 16, kBlocks = 12;

// One tensor rank's cut: query heads, the kv heads they touch, feed-forward and vocabulary rows.
struct Cut {
  int q_begin, q_end, kv_begin, kv_end, ffn, vocab_begin, vocab_end;
};

struct Rank {
  Cut cut;
  std::vector<AlignedBytes> k, v;
  std::vector<KvLayer> layers;
  std::vector<int32_t> q_to_kv;
};

// A decoder over the null table as a rank would run it, the sums over ranks made by hand. Plain weights and quantised
// ones take different inputs (x, xq); `weights` chooses.
class Model {
 public:
  Model(int tp, DType weights, DType cache) : weights_(weights), stream_(MakeCpuStream(1)) {
    for (int r = 0; r < tp; ++r) {
      Rank rank;
      const int q0 = kHeads * r / tp, q1 = kHeads * (r + 1) / tp;
      const int kv0 = q0 / 2, kv1 = (q1 - 1) / 2 + 1, v0 = kVocab * r / tp, v1 = kVocab * (r + 1) / tp;
      rank.cut = {q0, q1, kv0, kv1, kFfn / 32 * (r + 1) / tp * 32 - kFfn / 32 * r / tp * 32, v0, v1};
      for (int h = q0; h < q1; ++h) rank.q_to_kv.push_back(h / 2 - kv0);
      for (int l = 0; l < kLayers; ++l) {
        const size_t bytes = RowBytes(cache, int64_t{kBlocks} * (kv1 - kv0) * kBlockSize * kHeadDim);
        rank.k.push_back(AllocateAligned(bytes));
        rank.v.push_back(AllocateAligned(bytes));
        rank.layers.push_back({rank.k.back().get(), rank.v.back().get(), cache, kBlockSize, kv1 - kv0, kHeadDim});
      }
      ranks_.push_back(std::move(rank));
    }
  }

  // The token that follows `ids`, whose first sits at `position`.
  int32_t Step(const std::vector<int32_t>& ids, int position, const std::vector<int32_t>& table) {
    const int tokens = static_cast<int>(ids.size());
    std::vector<std::vector<float>> x(ranks_.size()), add(ranks_.size());
    for (size_t r = 0; r < ranks_.size(); ++r) {
      x[r].resize(ids.size() * kDim);
      const Cut& c = ranks_[r].cut;
      const Weight w = {nullptr, weights_, c.vocab_end - c.vocab_begin, kDim};
      Ok(table_.embed(*stream_, {w, ids.data(), c.vocab_begin, 1, x[r].data(), tokens}));
    }
    SumOver(x);
    for (int l = 0; l < kLayers; ++l) {
      for (size_t r = 0; r < ranks_.size(); ++r)
        add[r] = AttentionPart(ranks_[r], l, Norm(x[r], nullptr), position, table);
      SumOver(add);
      std::vector<std::vector<float>> mlp(ranks_.size());
      for (size_t r = 0; r < ranks_.size(); ++r) mlp[r] = FeedForward(ranks_[r], Norm(x[r], add[r].data()));
      SumOver(mlp);
      for (size_t r = 0; r < ranks_.size(); ++r) Norm(x[r], mlp[r].data());
    }
    std::vector<float> logits;  // gathered in rank order
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const auto rows = Multiply(Norm(x[r], nullptr), kDim, ranks_[r].cut.vocab_end - ranks_[r].cut.vocab_begin);
      const auto n = static_cast<std::ptrdiff_t>(rows.size()) / tokens;
      logits.insert(logits.end(), rows.end() - n, rows.end());
    }
    int32_t token = -1;
    const SampleRow row = {};
    Ok(table_.sample(*stream_, {logits.data(), kVocab, &row, &token, 1, kVocab}));
    return token;
  }

  void Copy(int32_t src, int32_t dst) {
    const BlockPair pair = {src, dst};
    for (Rank& rank : ranks_) {
      for (const KvLayer& layer : rank.layers) Ok(table_.copy_blocks(*stream_, {layer, &pair, 1}));
    }
  }

 private:
  static void Ok(const absl::Status& s) { ASSERT_TRUE(s.ok()) << s; }

  static void SumOver(std::vector<std::vector<float>>& parts) {
    for (size_t r = 1; r < parts.size(); ++r) {
      for (size_t i = 0; i < parts[0].size(); ++i) parts[0][i] += parts[r][i];
    }
    for (size_t r = 1; r < parts.size(); ++r) parts[r] = parts[0];
  }

  std::vector<float> Norm(std::vector<float>& x, const float* add) {
    std::vector<float> y(x.size());
    const std::vector<float> w(kDim, 1);
    Ok(table_.rms_norm(*stream_,
                       {x.data(), add, w.data(), y.data(), static_cast<int>(x.size()) / kDim, kDim, 1e-5f, 0}));
    return y;
  }

  std::vector<float> Multiply(const std::vector<float>& x, int k, int n) {
    const int tokens = static_cast<int>(x.size()) / k;
    std::vector<float> y(static_cast<size_t>(tokens * n)), scale(x.size() / 32), sum(scale.size());
    std::vector<int8_t> q(x.size());
    const QuantisedActs acts = {q.data(), scale.data(), sum.data()};
    MatmulArgs a{};
    a.tokens = tokens;
    a.k = k;
    a.part_count = 1;
    a.parts[0] = {{nullptr, weights_, n, k}, y.data(), n};
    if (IsQuantised(weights_)) {
      Ok(table_.quantise(*stream_, {x.data(), acts, tokens, k}));
      a.xq = &acts;
    } else {
      a.x = x.data();
    }
    Ok(table_.matmul(*stream_, a));
    return y;
  }

  std::vector<float> AttentionPart(Rank& rank, int l, const std::vector<float>& y, int position,
                                   const std::vector<int32_t>& table) {
    const int tokens = static_cast<int>(y.size()) / kDim;
    const int q_dim = static_cast<int>(rank.q_to_kv.size()) * kHeadDim, kv_dim = rank.layers[0].kv_heads * kHeadDim;
    auto q = Multiply(y, kDim, q_dim), k = Multiply(y, kDim, kv_dim), v = Multiply(y, kDim, kv_dim);
    std::vector<int64_t> slots;
    for (int p = position; p < position + tokens; ++p) {
      slots.push_back(int64_t{table[static_cast<size_t>(p / kBlockSize)]} * kBlockSize + p % kBlockSize);
    }
    RopeKvArgs rope{};
    rope.q = q.data();
    rope.k = k.data();
    rope.v = v.data();
    rope.q_stride = q_dim;
    rope.kv_stride = kv_dim;
    rope.slots = slots.data();
    rope.cache = rank.layers[static_cast<size_t>(l)];
    rope.tokens = tokens;
    rope.q_heads = static_cast<int>(rank.q_to_kv.size());
    Ok(table_.rope_kv(*stream_, rope));
    std::vector<float> out(q.size());
    const AttentionSequence sequence = {table.data(), 0, tokens, position};
    AttentionArgs a{};
    a.q = q.data();
    a.out = out.data();
    a.q_stride = q_dim;
    a.cache = rope.cache;
    a.sequences = &sequence;
    a.sequence_count = 1;
    a.q_to_kv = rank.q_to_kv.data();
    a.q_heads = rope.q_heads;
    a.q_head_begin = rank.cut.q_begin;
    Ok(table_.attention(*stream_, a));
    return Multiply(out, q_dim, kDim);
  }

  std::vector<float> FeedForward(Rank& rank, const std::vector<float>& y) {
    const auto gate = Multiply(y, kDim, rank.cut.ffn), up = Multiply(y, kDim, rank.cut.ffn);
    std::vector<float> act(gate.size(), 5);
    const int tokens = static_cast<int>(y.size()) / kDim;
    Ok(table_.glu(*stream_, {gate.data(), up.data(), act.data(), tokens, rank.cut.ffn, Activation::kSilu}));
    return Multiply(act, rank.cut.ffn, kDim);
  }

  const OpTable& table_ = null::Table();
  DType weights_;
  std::unique_ptr<Stream> stream_;
  std::vector<Rank> ranks_;
};

const std::vector<int32_t> kPrompt = {5, 17, 3, 999, 42, 42, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};

// Prefill in chunks, then greedy decoding.
std::vector<int32_t> Generate(Model& m, int chunk, const std::vector<int32_t>& table, int count,
                              std::vector<int32_t> prompt = kPrompt) {
  int32_t next = -1;
  const int length = static_cast<int>(prompt.size());
  for (int p = 0; p < length; p += chunk) {
    next = m.Step({prompt.begin() + p, prompt.begin() + std::min(length, p + chunk)}, p, table);
  }
  std::vector<int32_t> out = {next};
  while (static_cast<int>(out.size()) < count) {
    out.push_back(m.Step({out.back()}, length + static_cast<int>(out.size()) - 1, table));
  }
  return out;
}

std::vector<int32_t> Expected() {
  Model m(1, DType::kF32, DType::kF16);
  return Generate(m, 100, {0, 1, 2, 3}, 20);
}

TEST(Null, TextIsTheSameForEveryLayoutChunkingDtypeAndPlacement) {
  const auto expected = Expected();
  std::vector<int32_t> distinct = expected;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  EXPECT_GT(distinct.size(), 15u) << "the text hardly varies";
  for (const int tp : {1, 2, 3, 4}) {
    for (const DType weights : {DType::kF32, DType::kQ4_1}) {
      for (const DType cache : {DType::kF32, DType::kF16, DType::kBF16}) {
        Model m(tp, weights, cache);
        EXPECT_EQ(Generate(m, tp == 2 ? 7 : 1, {9, 4, 7, 2}, 20), expected) << "tp " << tp;
      }
    }
  }
}

TEST(Null, AnotherPromptOrOrderGivesAnotherText) {
  const auto expected = Expected();
  for (const size_t at : {0u, 7u, 19u}) {
    auto prompt = kPrompt;
    ++prompt[at];
    Model m(1, DType::kF32, DType::kF16);
    EXPECT_NE(Generate(m, 100, {0, 1, 2, 3}, 20, prompt), expected) << "changed at " << at;
  }
  auto prompt = kPrompt;
  std::swap(prompt[2], prompt[3]);
  Model m(1, DType::kF32, DType::kF16);
  EXPECT_NE(Generate(m, 100, {0, 1, 2, 3}, 20, prompt), expected);
}

// The faults that the backend is there to show.
TEST(Null, WrongTablesAndCopiesChangeTheText) {
  const std::vector<int32_t> table = {0, 1, 2, 3};
  const auto continue_with = [&](auto fault, const std::vector<int32_t>& decode_table) {
    Model m(3, DType::kQ8_0, DType::kF16);
    int32_t next = m.Step(kPrompt, 0, table);
    fault(m);
    std::vector<int32_t> out = {next};
    for (int i = 0; i < 5; ++i) out.push_back(m.Step({out.back()}, 20 + i, decode_table));
    return out;
  };
  const auto nothing = [](Model&) {};
  const auto right = continue_with(nothing, table);
  EXPECT_EQ(continue_with([](Model& m) { m.Copy(0, 8); }, {8, 1, 2, 3}), right) << "a proper copy-on-write";
  EXPECT_NE(continue_with(nothing, {8, 1, 2, 3}), right) << "a block that was not copied";
  EXPECT_NE(continue_with(nothing, {1, 0, 2, 3}), right) << "blocks in the wrong order";
  EXPECT_NE(continue_with([](Model& m) { m.Copy(1, 0); }, table), right) << "a block overwritten by another";
}

TEST(Null, SamplingSeesTheDrawOnlyWhenItIsRandom) {
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  const float logits[] = {77, 0, 77, 0};
  const auto draw = [&](float temperature, float uniform) {
    const SampleRow row = {.temperature = temperature, .uniform = uniform};
    int32_t token = -1;
    EXPECT_TRUE(null::Table().sample(*stream, {logits, 2, &row, &token, 1, 49152}).ok());
    return token;
  };
  EXPECT_EQ(draw(0, 0.1f), draw(0, 0.9f));
  EXPECT_NE(draw(1, 0.1f), draw(1, 0.9f));
  EXPECT_EQ(draw(1, 0.5f), draw(1, 0.5f));
  const SampleRow padding = {.top_k = -1};
  int32_t token = 0;
  EXPECT_TRUE(null::Table().sample(*stream, {logits, 2, &padding, &token, 1, 49152}).ok());
  EXPECT_EQ(token, -1);
}

constexpr int kNullVocab = 700;
struct Drawn {
  int32_t token = -99;
  SampleLogprobs logprobs = {};
};
Drawn SampleOnNull(const SampleRow& row, const std::vector<uint16_t>& counts, const uint32_t* masks = nullptr) {
  const std::unique_ptr<Stream> stream = MakeCpuStream(1);
  const float logits[kNullVocab] = {77};
  Drawn out;
  const SampleBias biases[] = {{3, 1.0f}, {9, -2.5f}};
  const SampleArgs args = {logits,     kNullVocab, &row,   &out.token,    1,
                           kNullVocab, masks,      biases, counts.data(), &out.logprobs};
  EXPECT_TRUE(null::Table().sample(*stream, args).ok());
  return out;
}

TEST(Null, SamplingSeesEveryCountWhenThereArePenalties) {
  const auto stride = static_cast<size_t>(CountsStride(kNullVocab));
  const std::vector<uint16_t> none(3 * stride);
  std::vector<uint16_t> some = none;
  some[stride + 9] = 1;
  const SampleRow plain = {.place = 1}, penalised = {.presence = 0.5f, .place = 1};
  EXPECT_EQ(SampleOnNull(plain, some).token, SampleOnNull({}, none).token);
  const int32_t right = SampleOnNull(penalised, some).token;
  const auto other = [&](size_t at, uint16_t count) {
    std::vector<uint16_t> counts = some;
    counts[at] = count;
    return SampleOnNull(penalised, counts).token;
  };
  EXPECT_NE(right, SampleOnNull(plain, some).token);
  EXPECT_NE(right, SampleOnNull({.presence = 0.25f, .place = 1}, some).token);
  EXPECT_NE(right, SampleOnNull({.presence = 0.5f, .place = 2}, some).token) << "another place";
  for (const uint16_t count : {0, 2, 0x8001}) EXPECT_NE(right, other(stride + 9, count));
  EXPECT_NE(right, other(stride + kNullVocab - 1, 1));
  EXPECT_EQ(right, other(8, 1)) << "another place's";
}

TEST(Null, SamplingSeesBiasesAndGivesWhatIsForced) {
  const std::vector<uint16_t> counts;
  const auto token = [&](int32_t first, int32_t count, int32_t forced) {
    return SampleOnNull({.bias_first = first, .bias_count = count, .forced = forced}, counts).token;
  };
  const int32_t free = token(0, 0, -1);
  EXPECT_EQ(token(1, 0, -1), free);
  EXPECT_NE(token(0, 1, -1), free);
  EXPECT_NE(token(1, 1, -1), free);
  EXPECT_NE(token(0, 1, -1), token(1, 1, -1));
  EXPECT_EQ(token(0, 2, 41), 41);
}

TEST(Null, SamplingTakesTheNextIdThatIsAllowed) {
  const std::vector<uint16_t> counts;
  const int32_t free = SampleOnNull({}, counts).token;
  std::vector<uint32_t> mask((kNullVocab + 31) / 32, ~0u);
  SampleRow row = {};
  row.mask = 0;
  const auto without = [&](int32_t id) { mask[static_cast<size_t>(id / 32)] &= ~(1u << (id % 32)); };
  EXPECT_EQ(SampleOnNull(row, counts, mask.data()).token, free);
  without(free);
  EXPECT_EQ(SampleOnNull(row, counts, mask.data()).token, (free + 1) % kNullVocab);
  mask.assign(mask.size(), 0);
  mask[0] = 8;
  EXPECT_EQ(SampleOnNull(row, counts, mask.data()).token, 3) << "round the end";
  mask[0] = 0;
  mask.back() = ~0u << kNullVocab % 32;
  EXPECT_EQ(SampleOnNull(row, counts, mask.data()).token, -1) << "only what is no id is allowed";
}

TEST(Null, LogprobsNameTheTokenFirst) {
  const Drawn got = SampleOnNull({.logprobs = 3}, {});
  EXPECT_EQ(got.logprobs.rank, 1);
  EXPECT_EQ(got.logprobs.logprob, 0);
  for (int i = 0; i < kMaxTopLogprobs; ++i) {
    EXPECT_EQ(got.logprobs.top_ids[i], i < 3 ? (got.token + i) % kNullVocab : -1);
    EXPECT_EQ(got.logprobs.top_logprobs[i], i < 3 ? static_cast<float>(-i) : -INFINITY);
  }
  const Drawn padding = SampleOnNull({.top_k = -1, .logprobs = 3}, {});
  EXPECT_EQ(padding.logprobs.rank, 0);
  EXPECT_EQ(padding.logprobs.top_ids[0], -1);
  EXPECT_EQ(SampleOnNull({}, {}).logprobs.top_logprobs[0], 0) << "not asked for, not written";
}

}  // namespace
}  // namespace shoal::ops
