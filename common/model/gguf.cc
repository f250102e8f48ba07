#include "common/model/gguf.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/model/file.h"

namespace shoal::model {
namespace {

// Our limits on a header. The largest published ones stay a factor of ten below: 1,200 tensors, 60 keys, 256 k tokens
// of vocabulary, names of 64 bytes, 12 MiB in all.
constexpr uint64_t kMaxTensors = 1 << 16, kMaxKeys = 1 << 14, kMaxKeyBytes = 1 << 16, kMaxNameBytes = 1024;
constexpr uint64_t kMaxStringBytes = 1 << 24, kMaxArray = 1 << 23, kMaxHeaderBytes = 256 << 20;
constexpr uint64_t kMaxAlignment = 4096, kDefaultAlignment = 32;
constexpr uint32_t kMaxDims = 4;

enum class ValueType : uint32_t {
  kUint8 = 0,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
  kCount
};

// Names of ggml's tensor types, by their number in the file; a hole is a type that was withdrawn.
constexpr const char* kTypeNames[] = {
    "F32",    "F16",      "Q4_0",     "Q4_1",     "Q4_2",  "Q4_3",  "Q5_0",       "Q5_1",       "Q8_0",       "Q8_1",
    "Q2_K",   "Q3_K",     "Q4_K",     "Q5_K",     "Q6_K",  "Q8_K",  "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",    "IQ1_S",
    "IQ4_NL", "IQ3_S",    "IQ2_S",    "IQ4_XS",   "I8",    "I16",   "I32",        "I64",        "F64",        "IQ1_M",
    "BF16",   "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};

std::optional<DType> DTypeOf(uint32_t ggml_type) {
  switch (ggml_type) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 8:
      return DType::kQ8_0;
    case 30:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

std::string TypeName(uint32_t ggml_type) {
  if (ggml_type < std::size(kTypeNames)) return kTypeNames[ggml_type];
  return absl::StrCat("number ", ggml_type);
}

// Reads the header front to back through a buffer. Every length is held against what is left of the file (and of the
// header's limit) before anything of that size is allocated.
class Cursor {
 public:
  explicit Cursor(const File& file) : file_(file), end_(std::min<uint64_t>(file.size(), kMaxHeaderBytes)) {}

  uint64_t offset() const { return offset_; }
  uint64_t left() const { return end_ - offset_; }
  uint64_t digest() const { return digest_; }

  absl::Status Bytes(void* dst, uint64_t n) {
    if (n > left()) {
      return absl::DataLossError(absl::StrCat(file_.path(), " is truncated or lies about a size: ", n,
                                              " bytes wanted at offset ", offset_, " of the header, ", left(),
                                              " are left"));
    }
    auto* out = static_cast<char*>(dst);
    while (n > 0) {
      if (buffer_at_ == buffer_.size()) SHOAL_RETURN_IF_ERROR(Fill());
      const uint64_t part = std::min<uint64_t>(n, buffer_.size() - buffer_at_);
      std::memcpy(out, buffer_.data() + buffer_at_, part);
      digest_ = Fnv1a({out, part}, digest_);
      buffer_at_ += part;
      offset_ += part;
      out += part;
      n -= part;
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Number() {
    static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");
    T value;
    SHOAL_RETURN_IF_ERROR(Bytes(&value, sizeof(T)));
    return value;
  }

  absl::StatusOr<std::string> String(uint64_t limit, const char* what) {
    SHOAL_ASSIGN_OR_RETURN(const uint64_t length, Number<uint64_t>());
    if (length > limit || length > left()) {
      return absl::DataLossError(absl::StrCat(file_.path(), ": ", what, " at offset ", offset_, " claims ", length,
                                              " bytes; at most ", std::min(limit, left()), " are possible"));
    }
    std::string text(length, '\0');
    SHOAL_RETURN_IF_ERROR(Bytes(text.data(), length));
    return text;
  }

 private:
  absl::Status Fill() {
    constexpr uint64_t kChunk = 1 << 18;
    buffer_.resize(std::min(kChunk, left()));
    buffer_at_ = 0;
    return file_.ReadAt(static_cast<int64_t>(offset_), std::as_writable_bytes(std::span(buffer_)));
  }

  const File& file_;
  const uint64_t end_;
  uint64_t offset_ = 0, digest_ = kFnvBasis;
  std::vector<char> buffer_;
  size_t buffer_at_ = 0;
};

using Value = GgufValue;

template <typename Stored, typename Wide>
absl::StatusOr<Value> ReadNumber(Cursor& in) {
  SHOAL_ASSIGN_OR_RETURN(const Stored v, in.Number<Stored>());
  return Value(static_cast<Wide>(v));
}

template <typename Stored, typename Wide>
absl::StatusOr<Value> ReadArray(Cursor& in, uint64_t count) {
  if (count > in.left() / sizeof(Stored)) {
    return absl::DataLossError(absl::StrCat("an array claims ", count, " elements; ", in.left(), " bytes are left"));
  }
  std::vector<Stored> raw(count);
  SHOAL_RETURN_IF_ERROR(in.Bytes(raw.data(), count * sizeof(Stored)));
  return Value(std::vector<Wide>(raw.begin(), raw.end()));
}

absl::StatusOr<Value> ReadStrings(Cursor& in, uint64_t count) {
  if (count > in.left() / sizeof(uint64_t)) {
    return absl::DataLossError(absl::StrCat("an array claims ", count, " strings; ", in.left(), " bytes are left"));
  }
  std::vector<std::string> strings;
  strings.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    SHOAL_ASSIGN_OR_RETURN(std::string s, in.String(kMaxStringBytes, "a string"));
    strings.push_back(std::move(s));
  }
  return Value(std::move(strings));
}

absl::StatusOr<Value> ReadArrayValue(Cursor& in) {
  SHOAL_ASSIGN_OR_RETURN(const uint32_t type, in.Number<uint32_t>());
  SHOAL_ASSIGN_OR_RETURN(const uint64_t count, in.Number<uint64_t>());
  if (count > kMaxArray) {
    return absl::DataLossError(
        absl::StrCat("an array claims ", count, " elements; at most ", kMaxArray, " are accepted"));
  }
  switch (static_cast<ValueType>(type)) {
    case ValueType::kUint8:
      return ReadArray<uint8_t, int64_t>(in, count);
    case ValueType::kInt8:
      return ReadArray<int8_t, int64_t>(in, count);
    case ValueType::kUint16:
      return ReadArray<uint16_t, int64_t>(in, count);
    case ValueType::kInt16:
      return ReadArray<int16_t, int64_t>(in, count);
    case ValueType::kUint32:
      return ReadArray<uint32_t, int64_t>(in, count);
    case ValueType::kInt32:
      return ReadArray<int32_t, int64_t>(in, count);
    case ValueType::kUint64:
      return ReadArray<uint64_t, int64_t>(in, count);
    case ValueType::kInt64:
      return ReadArray<int64_t, int64_t>(in, count);
    case ValueType::kBool:
      return ReadArray<uint8_t, int64_t>(in, count);
    case ValueType::kFloat32:
      return ReadArray<float, double>(in, count);
    case ValueType::kFloat64:
      return ReadArray<double, double>(in, count);
    case ValueType::kString:
      return ReadStrings(in, count);
    case ValueType::kArray:
      return absl::InvalidArgumentError("arrays of arrays are not supported");
    case ValueType::kCount:
      break;
  }
  return absl::DataLossError(absl::StrCat("an array has the unknown element type ", type));
}

absl::StatusOr<Value> ReadValue(Cursor& in) {
  SHOAL_ASSIGN_OR_RETURN(const uint32_t type, in.Number<uint32_t>());
  switch (static_cast<ValueType>(type)) {
    case ValueType::kUint8:
      return ReadNumber<uint8_t, uint64_t>(in);
    case ValueType::kInt8:
      return ReadNumber<int8_t, int64_t>(in);
    case ValueType::kUint16:
      return ReadNumber<uint16_t, uint64_t>(in);
    case ValueType::kInt16:
      return ReadNumber<int16_t, int64_t>(in);
    case ValueType::kUint32:
      return ReadNumber<uint32_t, uint64_t>(in);
    case ValueType::kInt32:
      return ReadNumber<int32_t, int64_t>(in);
    case ValueType::kUint64:
      return ReadNumber<uint64_t, uint64_t>(in);
    case ValueType::kInt64:
      return ReadNumber<int64_t, int64_t>(in);
    case ValueType::kFloat32:
      return ReadNumber<float, double>(in);
    case ValueType::kFloat64:
      return ReadNumber<double, double>(in);
    case ValueType::kBool: {
      SHOAL_ASSIGN_OR_RETURN(const uint8_t v, in.Number<uint8_t>());
      if (v > 1) return absl::DataLossError(absl::StrCat("a boolean has the value ", int{v}));
      return Value(v == 1);
    }
    case ValueType::kString: {
      SHOAL_ASSIGN_OR_RETURN(std::string s, in.String(kMaxStringBytes, "a string"));
      return Value(std::move(s));
    }
    case ValueType::kArray:
      return ReadArrayValue(in);
    case ValueType::kCount:
      break;
  }
  return absl::DataLossError(absl::StrCat("it has the unknown type ", type));
}

// One row of the tensor directory, not yet believed.
struct Stored {
  TensorEntry entry;
  uint64_t offset = 0;  // from the start of the data section
};

class GgufReader final : public GgufFile {
 public:
  explicit GgufReader(std::unique_ptr<File> file) : file_(std::move(file)) {}

  absl::Status ReadHeader() {
    Cursor in(*file_);
    char magic[4] = {};
    if (file_->size() < 4 || !in.Bytes(magic, 4).ok() || std::memcmp(magic, "GGUF", 4) != 0) {
      return absl::InvalidArgumentError(absl::StrCat(file_->path(), " is not a GGUF file"));
    }
    SHOAL_ASSIGN_OR_RETURN(const uint32_t version, in.Number<uint32_t>());
    if (version != 2 && version != 3) {
      return absl::InvalidArgumentError(absl::StrCat(file_->path(), " is GGUF version ", version,
                                                     "; versions 2 and 3 (little-endian) are supported"));
    }
    SHOAL_ASSIGN_OR_RETURN(const uint64_t tensors, in.Number<uint64_t>());
    SHOAL_ASSIGN_OR_RETURN(const uint64_t keys, in.Number<uint64_t>());
    if (tensors == 0 || tensors > kMaxTensors || keys > kMaxKeys) {
      return absl::DataLossError(absl::StrCat(file_->path(), " claims ", tensors, " tensors and ", keys,
                                              " metadata keys; 1 to ", kMaxTensors, " and at most ", kMaxKeys,
                                              " are accepted"));
    }
    SHOAL_RETURN_IF_ERROR(ReadMetadata(in, keys));
    SHOAL_RETURN_IF_ERROR(ReadDirectory(in, tensors));
    SHOAL_RETURN_IF_ERROR(PlaceTensors(in.offset()));
    digest_ = in.digest();
    return absl::OkStatus();
  }

  const absl::flat_hash_map<std::string, GgufValue>& metadata() const override { return metadata_; }
  std::span<const TensorEntry> tensors() const override { return tensors_; }
  int64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }
  int64_t file_bytes() const override { return file_->size(); }
  uint64_t header_digest() const override { return digest_; }

  absl::Status Read(const TensorEntry& tensor, int64_t offset, std::span<std::byte> dst) const override {
    SHOAL_RETURN_IF_ERROR(CheckRange(tensor, offset, dst.size()));
    const auto index = static_cast<size_t>(&tensor - tensors_.data());
    SHOAL_RETURN_IF_ERROR(file_->ReadAt(offsets_[index] + offset, dst));
    bytes_read_.fetch_add(static_cast<int64_t>(dst.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

 private:
  absl::Status ReadMetadata(Cursor& in, uint64_t keys) {
    for (uint64_t i = 0; i < keys; ++i) {
      SHOAL_ASSIGN_OR_RETURN(std::string key, in.String(kMaxKeyBytes, "a metadata key"));
      absl::StatusOr<Value> value = ReadValue(in);
      if (!value.ok()) {
        return absl::Status(value.status().code(),
                            absl::StrCat(file_->path(), ": metadata key ", key, ": ", value.status().message()));
      }
      const std::string name = key;
      if (!metadata_.emplace(std::move(key), *std::move(value)).second) {
        return absl::DataLossError(absl::StrCat(file_->path(), ": metadata key ", name, " occurs twice"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadDirectory(Cursor& in, uint64_t count) {
    std::vector<std::string> unsupported;
    absl::flat_hash_set<std::string> names;
    for (uint64_t i = 0; i < count; ++i) {
      Stored row;
      uint32_t type = 0;
      SHOAL_RETURN_IF_ERROR(ReadRow(in, &row, &type));
      if (!names.insert(row.entry.name).second) {
        return absl::DataLossError(absl::StrCat(file_->path(), ": tensor ", row.entry.name, " occurs twice"));
      }
      if (!DTypeOf(type).has_value()) {
        unsupported.push_back(absl::StrCat(row.entry.name, " (", TypeName(type), ")"));
        continue;
      }
      row.entry.dtype = *DTypeOf(type);
      SHOAL_RETURN_IF_ERROR(SetBytes(&row));
      rows_.push_back(std::move(row));
    }
    if (unsupported.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(file_->path(), ": weight types that are not supported (f32, f16, bf16, q8_0, q4_0, q4_1 are): ",
                     absl::StrJoin(unsupported, ", ")));
  }

  absl::Status ReadRow(Cursor& in, Stored* row, uint32_t* type) {
    SHOAL_ASSIGN_OR_RETURN(row->entry.name, in.String(kMaxNameBytes, "a tensor name"));
    SHOAL_ASSIGN_OR_RETURN(const uint32_t dims, in.Number<uint32_t>());
    if (dims == 0 || dims > kMaxDims) {
      return absl::DataLossError(
          absl::StrCat(file_->path(), ": tensor ", row->entry.name, " has ", dims, " dimensions"));
    }
    for (uint32_t d = 0; d < dims; ++d) {  // stored innermost first
      SHOAL_ASSIGN_OR_RETURN(const uint64_t extent, in.Number<uint64_t>());
      if (extent == 0 || extent > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
        return absl::DataLossError(
            absl::StrCat(file_->path(), ": tensor ", row->entry.name, " has a dimension of ", extent));
      }
      row->entry.shape.insert(row->entry.shape.begin(), static_cast<int64_t>(extent));
    }
    SHOAL_ASSIGN_OR_RETURN(*type, in.Number<uint32_t>());
    SHOAL_ASSIGN_OR_RETURN(row->offset, in.Number<uint64_t>());
    return absl::OkStatus();
  }

  // Bytes from type and shape, without overflow: at most four extents below 2^31, held against the file at every step.
  absl::Status SetBytes(Stored* row) {
    const DTypeInfo& info = Info(row->entry.dtype);
    if (row->entry.shape.back() % info.block != 0) {
      return absl::DataLossError(absl::StrCat(file_->path(), ": tensor ", row->entry.name, " has rows of ",
                                              row->entry.shape.back(), " elements, no multiple of its block of ",
                                              info.block));
    }
    int64_t bytes = static_cast<int64_t>(RowBytes(row->entry.dtype, row->entry.shape.back()));
    for (size_t d = 0; d + 1 < row->entry.shape.size(); ++d) {
      if (bytes > file_->size() / row->entry.shape[d]) {
        return absl::DataLossError(absl::StrCat(file_->path(), " is truncated or lies: tensor ", row->entry.name,
                                                " would be larger than the whole file of ", file_->size(), " bytes"));
      }
      bytes *= row->entry.shape[d];
    }
    row->entry.bytes = bytes;
    return absl::OkStatus();
  }

  absl::Status PlaceTensors(uint64_t header_bytes) {
    uint64_t alignment = kDefaultAlignment;
    if (Has("general.alignment")) {
      SHOAL_ASSIGN_OR_RETURN(const int64_t value, GetInt("general.alignment"));
      alignment = static_cast<uint64_t>(value);
      if (value < 8 || alignment > kMaxAlignment || !std::has_single_bit(alignment)) {
        return absl::DataLossError(absl::StrCat(file_->path(), ": general.alignment is ", value,
                                                "; a power of two in [8, ", kMaxAlignment, "] is expected"));
      }
    }
    const uint64_t data = (header_bytes + alignment - 1) / alignment * alignment;
    const auto size = static_cast<uint64_t>(file_->size());
    std::vector<const Stored*> by_offset;
    for (const Stored& row : rows_) {
      const auto bytes = static_cast<uint64_t>(row.entry.bytes);
      if (row.offset % alignment != 0) {
        return absl::DataLossError(absl::StrCat(file_->path(), ": tensor ", row.entry.name, " lies at offset ",
                                                row.offset, ", no multiple of the alignment ", alignment));
      }
      if (data > size || row.offset > size - data || bytes > size - data - row.offset) {
        return absl::DataLossError(absl::StrCat(file_->path(), " is truncated or lies: tensor ", row.entry.name,
                                                " needs ", bytes, " bytes at offset ", row.offset,
                                                " of the data section, the file has ", size > data ? size - data : 0));
      }
      by_offset.push_back(&row);
    }
    std::sort(by_offset.begin(), by_offset.end(),
              [](const Stored* a, const Stored* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < by_offset.size(); ++i) {
      const Stored& before = *by_offset[i - 1];
      if (before.offset + static_cast<uint64_t>(before.entry.bytes) > by_offset[i]->offset) {
        return absl::DataLossError(absl::StrCat(file_->path(), ": tensors ", before.entry.name, " and ",
                                                by_offset[i]->entry.name, " overlap"));
      }
    }
    for (Stored& row : rows_) {
      tensors_.push_back(std::move(row.entry));
      offsets_.push_back(static_cast<int64_t>(data + row.offset));
    }
    rows_.clear();
    return absl::OkStatus();
  }

  const std::unique_ptr<File> file_;
  absl::flat_hash_map<std::string, GgufValue> metadata_;
  std::vector<Stored> rows_;  // while opening
  std::vector<TensorEntry> tensors_;
  std::vector<int64_t> offsets_;  // of tensors_, from the start of the file
  uint64_t digest_ = 0;
  mutable std::atomic<int64_t> bytes_read_{0};
};

absl::Status WrongType(std::string_view key, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat("GGUF metadata key ", std::string(key), " is not ", wanted));
}

absl::StatusOr<const GgufValue*> FindKey(const GgufFile& file, std::string_view key) {
  const auto it = file.metadata().find(absl::string_view(key.data(), key.size()));
  if (it != file.metadata().end()) return &it->second;
  return absl::InvalidArgumentError(absl::StrCat("GGUF metadata key ", std::string(key), " is missing"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const GgufFile>> GgufFile::Open(const std::string& path) {
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<File> file, File::Open(path));
  auto reader = std::make_shared<GgufReader>(std::move(file));
  SHOAL_RETURN_IF_ERROR(reader->ReadHeader());
  return std::shared_ptr<const GgufFile>(std::move(reader));
}

bool GgufFile::Has(std::string_view key) const { return FindKey(*this, key).ok(); }

absl::StatusOr<int64_t> GgufFile::GetInt(std::string_view key) const {
  SHOAL_ASSIGN_OR_RETURN(const GgufValue* value, FindKey(*this, key));
  if (const auto* i = std::get_if<int64_t>(value)) return *i;
  if (const auto* u = std::get_if<uint64_t>(value);
      u != nullptr && *u <= uint64_t{std::numeric_limits<int64_t>::max()}) {
    return static_cast<int64_t>(*u);
  }
  return WrongType(key, "an integer");
}

absl::StatusOr<double> GgufFile::GetFloat(std::string_view key) const {
  SHOAL_ASSIGN_OR_RETURN(const GgufValue* value, FindKey(*this, key));
  if (const auto* d = std::get_if<double>(value)) return *d;
  return WrongType(key, "a floating-point number");
}

absl::StatusOr<bool> GgufFile::GetBool(std::string_view key) const {
  SHOAL_ASSIGN_OR_RETURN(const GgufValue* value, FindKey(*this, key));
  if (const auto* b = std::get_if<bool>(value)) return *b;
  return WrongType(key, "a boolean");
}

absl::StatusOr<std::string_view> GgufFile::GetString(std::string_view key) const {
  SHOAL_ASSIGN_OR_RETURN(const GgufValue* value, FindKey(*this, key));
  if (const auto* s = std::get_if<std::string>(value)) return std::string_view(*s);
  return WrongType(key, "a string");
}

}  // namespace shoal::model
