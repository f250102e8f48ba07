// Checkpoints as families store them, for tests: made from the tensor table by the names of the family, so that what is
// fused, transposed or stacked in files is so here.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/model/arrange.h"
#include "common/model/model_config.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/tiny_model.h"

namespace shoal::testing {

// Our name -> values that every type holds exactly.
std::map<std::string, std::vector<float>> ExactValues(const model::ModelConfig& config);

// What the files of a model with these values hold, f32, of several names the first.
struct StoredTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::map<std::string, StoredTensor> StoredTensors(const model::ModelConfig& config, const model::StoredNames& names);

// The same as files: safetensors (type: f32 or bf16), and rows of a GGUF (f32).
std::map<std::string, RawTensor> RawTensors(const std::map<std::string, StoredTensor>& tensors, DType type);
void AddTensors(const std::map<std::string, StoredTensor>& tensors, GgufWriter* writer);

}  // namespace shoal::testing
