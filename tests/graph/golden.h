// The references of tests/golden, read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shoal::testing {

struct GoldenGreedy {
  std::string name;
  std::vector<int32_t> prompt, tokens, second;
  std::vector<double> margin;  // of tokens over second, per step
};
std::vector<GoldenGreedy> ReadGoldenGreedy();

struct GoldenLogits {
  std::string name;
  std::vector<int32_t> ids;
  int stride = 1;                  // every stride-th position, the first is stride - 1
  std::vector<int32_t> best;       // per such position
  std::vector<const float*> rows;  // per such position: logits of some columns, then log(sum(exp(all)))
};
struct GoldenLogitsFile {
  int first_column = 0, column_step = 0, columns = 0;
  std::vector<float> values;
  std::vector<GoldenLogits> cases;
};
GoldenLogitsFile ReadGoldenLogits();

// transformers over the long text: at every position the best next token, and the log-probability of ids[i + 1].
struct GoldenText {
  std::vector<int32_t> ids, best;
  std::vector<double> next_log_prob;  // one fewer: the last token has no next one
};
GoldenText ReadGoldenText();

// llama.cpp over text2000 against the same reference.
struct GoldenPeer {
  double mean_kl = 0, top1_agreement = 0;
};
GoldenPeer ReadGoldenPeer();

}  // namespace shoal::testing
