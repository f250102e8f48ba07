// The default model against references from outside (tests/golden): f32 logits, greedy text, and what the fast path
// loses.
#include "tests/graph/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/cluster/harness/compare.h"
#include "tests/cluster/harness/driver.h"

namespace shoal::testing {
namespace {

constexpr double kTie = 2e-3;  // a margin below it may go either way
constexpr int kChunk = 100;

std::shared_ptr<const Shards> Load(bool compute_f32) {
  const auto model = OpenDefaultModel();
  if (!model.ok()) return nullptr;
  return LoadShards(*model, 1, 1, "cpu", compute_f32).value();
}

RankSetOptions Options(DType kv) {
  return {.kv = kv, .threads = 2, .blocks = 130, .max_tokens = kChunk, .max_samples = kChunk, .max_model_len = 2080};
}

int Best(const float* logits, int vocab) { return static_cast<int>(std::max_element(logits, logits + vocab) - logits); }

double LogSumExp(const float* logits, int vocab) {
  const double top = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int i = 0; i < vocab; ++i) sum += std::exp(logits[i] - top);
  return top + std::log(sum);
}

// KL(reference || tested) of the two softmaxes, in nats.
double Divergence(const float* reference, const float* tested, int vocab) {
  const double r = LogSumExp(reference, vocab), t = LogSumExp(tested, vocab);
  double kl = 0;
  for (int i = 0; i < vocab; ++i) {
    const double log_p = reference[i] - r;
    kl += std::exp(log_p) * (log_p - (tested[i] - t));
  }
  return kl;
}

// Runs `ids` in chunks through both sets and hands over each position's logits.
template <typename Fn>
void ForEachPosition(const std::vector<int32_t>& ids, RankSet& a, RankSet* b, const Fn& fn) {
  const int vocab = a.shards().model.config.vocab;
  for (size_t begin = 0; begin < ids.size(); begin += kChunk) {
    const size_t end = std::min(ids.size(), begin + kChunk);
    const RankSet::Chunk chunk = {0, static_cast<int>(begin), {ids.begin() + begin, ids.begin() + end}};
    const auto of_a = a.Step({chunk});
    ASSERT_TRUE(of_a.ok()) << of_a.status();
    absl::StatusOr<std::vector<float>> of_b = std::vector<float>();
    if (b != nullptr) of_b = b->Step({chunk});
    ASSERT_TRUE(of_b.ok()) << of_b.status();
    for (size_t p = begin; p < end; ++p) {
      fn(p, of_a->data() + (p - begin) * vocab, b == nullptr ? nullptr : of_b->data() + (p - begin) * vocab);
    }
  }
}

// Checks one position against the golden columns; returns the largest difference.
float CheckRow(const GoldenLogitsFile& file, const GoldenLogits& g, size_t row, const float* logits, int vocab) {
  float worst = 0;
  for (int c = 0; c < file.columns; ++c) {
    const float d = std::fabs(logits[file.first_column + c * file.column_step] - g.rows[row][c]);
    worst = std::isfinite(d) ? std::max(worst, d) : INFINITY;
  }
  EXPECT_NEAR(LogSumExp(logits, vocab), g.rows[row][file.columns], kLogitTolerance) << g.name << " row " << row;
  if (Margin(logits, vocab) > kTie) {
    EXPECT_EQ(Best(logits, vocab), g.best[row]) << g.name << " row " << row;
  }
  return worst;
}

TEST(GoldenTest, LogitsAreThoseOfTransformersInF32) {
  const auto shards = Load(true);
  ASSERT_NE(shards, nullptr) << "run `make model` first";
  const int vocab = shards->model.config.vocab;
  const GoldenLogitsFile file = ReadGoldenLogits();
  float worst = 0;
  for (const GoldenLogits& g : file.cases) {
    if (g.stride > 1) continue;  // the long text: below
    auto ranks = RankSet::Make(shards, Options(DType::kF32)).value();
    ForEachPosition(g.ids, *ranks, nullptr, [&](size_t p, const float* logits, const float*) {
      worst = std::max(worst, CheckRow(file, g, p, logits, vocab));
    });
  }
  std::printf("figure: f32 over four prompts: largest difference of a logit %.2e\n", worst);
  EXPECT_LT(worst, kLogitTolerance);
}

// The reference's whole distributions are not kept (200 MB): those of the exact path stand in for them, once this has
// held it to the reference at the position. Returns how far the next token's log-probability is off.
double CheckPosition(const GoldenText& text, size_t p, const float* logits, int vocab) {
  if (Margin(logits, vocab) > kTie) {
    EXPECT_EQ(Best(logits, vocab), text.best[p]) << "position " << p;
  }
  if (p + 1 == text.ids.size()) return 0;
  const double off = std::fabs(logits[text.ids[p + 1]] - LogSumExp(logits, vocab) - text.next_log_prob[p]);
  return std::isfinite(off) ? off : INFINITY;
}

TEST(GoldenTest, FastPathLosesNoMoreThanLlamaCppOverALongText) {
  const auto exact = Load(true), fast = Load(false);
  ASSERT_NE(exact, nullptr) << "run `make model` first";
  const int vocab = exact->model.config.vocab;
  const GoldenText text = ReadGoldenText();
  const GoldenLogitsFile file = ReadGoldenLogits();
  const auto g = std::find_if(file.cases.begin(), file.cases.end(), [](const auto& c) { return c.stride > 1; });
  ASSERT_NE(g, file.cases.end());
  ASSERT_EQ(g->ids, text.ids);
  ASSERT_EQ(text.ids.size(), 2000u);
  auto exact_ranks = RankSet::Make(exact, Options(DType::kF32)).value();
  auto fast_ranks = RankSet::Make(fast, Options(DType::kF16)).value();
  double kl = 0, worst_log_prob = 0;
  int agree = 0;
  float worst = 0;
  ForEachPosition(text.ids, *exact_ranks, fast_ranks.get(), [&](size_t p, const float* stand_in, const float* tested) {
    if ((p + 1) % g->stride == 0) worst = std::max(worst, CheckRow(file, *g, p / g->stride, stand_in, vocab));
    worst_log_prob = std::max(worst_log_prob, CheckPosition(text, p, stand_in, vocab));
    kl += Divergence(stand_in, tested, vocab);
    agree += text.best[p] == Best(tested, vocab);
  });
  const double positions = static_cast<double>(text.ids.size());
  const GoldenPeer peer = ReadGoldenPeer();
  std::printf("figure: f32 over 2,000 tokens: largest difference of a logit %.2e, of a log-probability %.2e\n", worst,
              worst_log_prob);
  std::printf("figure: fast path against transformers: mean KL %.6f, top-1 %.4f; llama.cpp: %.6f, %.4f\n",
              kl / positions, agree / positions, peer.mean_kl, peer.top1_agreement);
  EXPECT_LT(worst, kLogitTolerance);
  EXPECT_LT(worst_log_prob, kLogitTolerance);
  EXPECT_LE(kl / positions, 1.1 * peer.mean_kl);
  EXPECT_GE(agree / positions, peer.top1_agreement - 0.005);
  EXPECT_GT(kl, 0) << "the fast path quantises activations: no difference means that it did not run";
}

TEST(GoldenTest, GreedyTextIsThatOfTransformers) {
  const auto shards = Load(true);
  ASSERT_NE(shards, nullptr) << "run `make model` first";
  const std::vector<GoldenGreedy> cases = ReadGoldenGreedy();
  RankSetOptions options = Options(DType::kF32);
  options.blocks = 24 * 10;
  auto ranks = RankSet::Make(shards, options).value();
  std::vector<TestRequest> requests;
  for (const GoldenGreedy& c : cases) requests.push_back({c.prompt, static_cast<int>(c.tokens.size()), {}});
  const auto got = RunAlone(*ranks, requests, {.chunk = 64});
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_EQ(cases.size(), 24u);
  int equal = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const GoldenGreedy& c = cases[i];
    const auto [a, b] = std::mismatch(c.tokens.begin(), c.tokens.end(), got->tokens[i].begin(), got->tokens[i].end());
    equal += a == c.tokens.end();
    if (a == c.tokens.end()) continue;
    const size_t at = a - c.tokens.begin();
    ASSERT_LT(at, got->tokens[i].size()) << c.name;
    EXPECT_LT(c.margin[at], kTie) << c.name << " at " << at;
    EXPECT_EQ(*b, c.second[at]) << c.name << " at " << at;
  }
  std::printf("figure: f32 greedy: %d of %zu texts equal to the end\n", equal, cases.size());
}

}  // namespace
}  // namespace shoal::testing
