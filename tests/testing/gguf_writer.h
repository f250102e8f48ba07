// Writes GGUF files (version 3) for tests, and remembers where each size, count, type and offset of the header lies, so
// that a test can make the file lie about every one of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal::testing {

class GgufWriter {
 public:
  // Metadata, in the order of calls.
  void Uint32(std::string_view key, uint32_t value);
  void Float32(std::string_view key, float value);
  void Bool(std::string_view key, bool value);
  void String(std::string_view key, std::string_view value);
  void Strings(std::string_view key, const std::vector<std::string>& values);
  void Int32s(std::string_view key, const std::vector<int32_t>& values);
  // Any scalar or array: its type number and its bytes as they stand in the file.
  void Raw(std::string_view key, uint32_t type, std::string_view bytes);

  // shape: outermost first. ggml_type: its number in the format (0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16).
  void Tensor(std::string_view name, const std::vector<int64_t>& shape, uint32_t ggml_type, std::string data);

  // Where the header states something that a reader might believe.
  struct Field {
    size_t offset;
    size_t width;  // bytes
    std::string what;
  };
  struct File {
    std::string bytes;
    std::vector<Field> fields;
    size_t header_bytes;  // before the padding
  };
  File Build(uint32_t version = 3) const;

 private:
  struct Entry {
    std::string key;
    uint32_t type;
    std::string value;
    std::vector<Field> fields;  // offsets from the start of the value
  };
  struct Row {
    std::string name;
    std::vector<int64_t> shape;
    uint32_t type;
    std::string data;
  };
  std::vector<Entry> metadata_;
  std::vector<Row> tensors_;
};

}  // namespace shoal::testing
