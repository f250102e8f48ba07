// Tiny Llama models with real files: the same weights as a GGUF file and as a Hugging Face directory, with a byte-level
// vocabulary of single bytes and a few merges, a ChatML template and everything else that a served model needs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/base/dtype.h"
#include "tests/testing/gguf_writer.h"

namespace shoal::testing {

struct TinyModel {
  int layers = 2;
  int hidden = 64;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int ffn = 96;
  int vocab = 288;  // at least kTinyVocab; the rest is unused padding
  int max_position = 256;
  bool tied = true;
  float rope_theta = 10000.0f;
  DType matrices = DType::kF32;
  DType embedding = DType::kF32;  // and head
  uint64_t seed = 1;
};
inline constexpr int kTinyVocab = 261;                                      // 3 control tokens, 256 bytes, "he", "ll"
inline constexpr int kTinyEndOfText = 0, kTinyImStart = 1, kTinyImEnd = 2;  // bos is kTinyImStart, eos kTinyImEnd

// One tensor in the row order of Hugging Face, f32, from a normal-like distribution; norms near 1.
struct TinyTensor {
  std::string name, hf_name, gguf_name;  // name: ours
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::vector<TinyTensor> TinyTensors(const TinyModel& model);

// As a GGUF: rows of q and k permuted as llama.cpp's converter does it, matrices and embedding in the given types.
// The writer can be changed before it is built.
GgufWriter TinyGguf(const TinyModel& model);
void WriteTinyGguf(const TinyModel& model, const std::string& path);

// As a directory with config.json, generation_config.json, tokenizer.json, tokenizer_config.json and safetensors in
// `files` parts (with an index when more than one). Block-quantised types are not possible here, nor are types of one
// byte in a GGUF; matrices of those come with f32 scales [rows, 1].
void WriteTinyDirectory(const TinyModel& model, const std::string& directory, int files = 1);

// int4 is in no file: what a model of it is to be quantised from, bf16 in its place.
TinyModel BeforeInt4(TinyModel model);

// The parts, for tests that change them.
std::string TinyConfigJson(const TinyModel& model);
// Name -> (safetensors type, shape, bytes) as one file.
struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
std::string SafetensorsFile(const std::map<std::string, RawTensor>& tensors);

}  // namespace shoal::testing
