#include "tests/testing/gguf_writer.h"

namespace shoal::testing {
namespace {

constexpr size_t kAlignment = 32;
constexpr uint32_t kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9;

template <typename T>
std::string Little(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string Counted(std::string_view s) { return Little(uint64_t{s.size()}) + std::string(s); }

size_t Padded(size_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufWriter::Raw(std::string_view key, uint32_t type, std::string_view bytes) {
  metadata_.push_back({std::string(key), type, std::string(bytes), {}});
}
void GgufWriter::Uint32(std::string_view key, uint32_t value) { Raw(key, kUint32, Little(value)); }
void GgufWriter::Float32(std::string_view key, float value) { Raw(key, kFloat32, Little(value)); }
void GgufWriter::Bool(std::string_view key, bool value) { Raw(key, kBool, Little(static_cast<uint8_t>(value))); }

void GgufWriter::String(std::string_view key, std::string_view value) {
  metadata_.push_back({std::string(key), kString, Counted(value), {{0, 8, "string length"}}});
}

void GgufWriter::Strings(std::string_view key, const std::vector<std::string>& values) {
  Entry e = {std::string(key),
             kArray,
             Little(kString) + Little(uint64_t{values.size()}),
             {{0, 4, "element type"}, {4, 8, "array length"}}};
  for (const std::string& v : values) {
    e.fields.push_back({e.value.size(), 8, "string length in array"});
    e.value += Counted(v);
  }
  metadata_.push_back(std::move(e));
}

void GgufWriter::Int32s(std::string_view key, const std::vector<int32_t>& values) {
  Entry e = {std::string(key),
             kArray,
             Little(kInt32) + Little(uint64_t{values.size()}),
             {{0, 4, "element type"}, {4, 8, "array length"}}};
  for (const int32_t v : values) e.value += Little(v);
  metadata_.push_back(std::move(e));
}

void GgufWriter::Tensor(std::string_view name, const std::vector<int64_t>& shape, uint32_t ggml_type,
                        std::string data) {
  tensors_.push_back({std::string(name), shape, ggml_type, std::move(data)});
}

GgufWriter::File GgufWriter::Build(uint32_t version) const {
  File file;
  const auto field = [&](std::string bytes, const std::string& what) {
    file.fields.push_back({file.bytes.size(), bytes.size(), what});
    file.bytes += bytes;
  };
  file.bytes = "GGUF";
  field(Little(version), "version");
  field(Little(uint64_t{tensors_.size()}), "tensor count");
  field(Little(uint64_t{metadata_.size()}), "metadata count");
  for (const Entry& e : metadata_) {
    field(Little(uint64_t{e.key.size()}), e.key + ": key length");
    file.bytes += e.key;
    field(Little(e.type), e.key + ": type");
    for (const Field& f : e.fields)
      file.fields.push_back({file.bytes.size() + f.offset, f.width, e.key + ": " + f.what});
    file.bytes += e.value;
  }
  size_t offset = 0;
  for (const Row& row : tensors_) {
    field(Little(uint64_t{row.name.size()}), row.name + ": name length");
    file.bytes += row.name;
    field(Little(static_cast<uint32_t>(row.shape.size())), row.name + ": dimensions");
    for (size_t d = row.shape.size(); d > 0; --d) {
      field(Little(static_cast<uint64_t>(row.shape[d - 1])), row.name + ": extent");
    }
    field(Little(row.type), row.name + ": type");
    field(Little(uint64_t{offset}), row.name + ": offset");
    offset = Padded(offset + row.data.size());
  }
  file.header_bytes = file.bytes.size();
  for (const Row& row : tensors_) {
    file.bytes.resize(Padded(file.bytes.size()), '\0');
    file.bytes += row.data;
  }
  return file;
}

}  // namespace shoal::testing
