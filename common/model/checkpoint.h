// A checkpoint on disk: a list of named tensors, each a byte range of a file. Formats: gguf.h, safetensors.h, dummy.h.
// Opening reads headers only; every size in them is checked against the file before it is believed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/dtype.h"
#include "common/base/dummy_values.h"
#include "common/model/model_config.h"
#include "common/text/tokenizer.h"

namespace shoal::model {

// A tensor: row-major, canonical block layout. shape is outermost first ([out, in] for a matrix).
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// Rows [row, row + rows) x columns [column, column + columns).
struct TensorBlock {
  int64_t row = 0, rows = 0, column = 0, columns = 0;
};

// Thread-safe once opened.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual std::span<const TensorEntry> tensors() const = 0;
  const TensorEntry* Find(std::string_view name) const;  // linear; for many names: TensorIndex

  // Reads [offset, offset + dst.size()) of the bytes of a tensor (an element of tensors(), not a copy of one). Counted
  // in bytes_read(). DataLoss when the file is shorter by now.
  virtual absl::Status Read(const TensorEntry& tensor, int64_t offset, std::span<std::byte> dst) const = 0;
  // Reads rows x columns of a matrix (a vector is one row), side by side into dst, which they fill. Columns are in
  // whole blocks. As it stands here: whole rows in one Read, else one Read for each row.
  virtual absl::Status ReadBlock(const TensorEntry& tensor, const TensorBlock& block, std::span<std::byte> dst) const;
  virtual int64_t bytes_read() const = 0;
  // Sizes of all files together.
  virtual int64_t file_bytes() const = 0;
  // Hash of the headers as they lie in the files: equal for equal copies anywhere.
  virtual uint64_t header_digest() const = 0;
  // How the tensor's values are made, where they are dummies: whoever makes them so need not read it.
  virtual std::optional<DummyTensor> Dummy(const TensorEntry&) const { return std::nullopt; }

 protected:
  // CHECKs that the entry is one of tensors(); InvalidArgument when the range is not inside it.
  absl::Status CheckRange(const TensorEntry& tensor, int64_t offset, size_t bytes) const;
};

// The tensors of a checkpoint by their names, while it lives.
class TensorIndex {
 public:
  explicit TensorIndex(const Checkpoint& checkpoint);
  // Null when there is none.
  const TensorEntry* Find(std::string_view name) const;

 private:
  absl::flat_hash_map<absl::string_view, const TensorEntry*> entries_;
};

class GgufFile;

// A model as found on disk: what `MODEL` on the command line resolves to.
struct ModelFiles {
  std::string name;  // served name by default: file stem or directory name
  std::string path;  // absolute
  enum class Format : uint8_t { kGguf, kSafetensors } format = Format::kGguf;
  ModelConfig config;
  std::shared_ptr<const Checkpoint> checkpoint;  // with the names, shapes and order of tensor_table.h
  std::shared_ptr<const GgufFile> gguf;          // kGguf: the file
  std::string chat_template;                     // empty: the model has none
  std::string bos_spelling, eos_spelling;
  bool add_bos = false;  // the tokenizer puts bos before plain prompts, where it has one
  std::string revision;  // hash of headers: two agents with the same revision read the same model
};

// `spec`: a .gguf file, a directory with config.json, or org/name[@rev] in the Hugging Face cache (HF_HUB_CACHE,
// HF_HOME). Errors name the file and say what to do: NotFound, InvalidArgument (unknown architecture or weight type, by
// name), DataLoss (truncated, or a header that lies).
// kDummy: for MakeDummyCheckpoint. A directory then needs no weight files, and any in it are not looked at: its
// checkpoint lists what the config asks for, in config.json's torch_dtype (bf16 when it says none), and reads nothing.
// A quantization_config (quantization.h) makes the matrices inside the layers fp8 or int8, with a scale for each row.
enum class WeightSource : uint8_t { kFiles, kDummy };
absl::StatusOr<ModelFiles> OpenModel(std::string_view spec, WeightSource weights = WeightSource::kFiles);

// The tokenizer of a model that OpenModel found. Separate, since ranks need none.
absl::StatusOr<std::shared_ptr<const text::Tokenizer>> OpenTokenizer(const ModelFiles& files);

// The tensors of a model with this config, all of one plain type, without values: Read fails (FailedPrecondition).
// Matrices inside the layers are of type `matrices`; when that is a type of one byte, each comes with f32 scales
// "<name>_scale" [rows, 1].
std::shared_ptr<const Checkpoint> TensorsWithoutValues(const ModelConfig& config, DType dtype, DType matrices);

// Dummy weights: same names, shapes and types as `like`, values as common/base/dummy_values.h defines them: the same to
// the bit in every layout and on every device. No file is read. Every type's weights, scales included, deviate by about
// 0.02 from zero.
std::shared_ptr<const Checkpoint> MakeDummyCheckpoint(std::shared_ptr<const Checkpoint> like, uint64_t seed);

}  // namespace shoal::model
