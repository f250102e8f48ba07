// GGUF files (version 2 and 3, little-endian): metadata and tensor directory. Format: ggml's published gguf.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"

namespace shoal::model {

// Integers of every width are widened; arrays hold one kind. Strings are owned.
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;

class GgufFile : public Checkpoint {
 public:
  // Reads and checks the header: counts, lengths, alignment, offsets, overlap and the file's size, before allocating.
  static absl::StatusOr<std::shared_ptr<const GgufFile>> Open(const std::string& path);

  virtual const absl::flat_hash_map<std::string, GgufValue>& metadata() const = 0;

  // Typed look-ups; InvalidArgument names the key when it is missing or of another type.
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  bool Has(std::string_view key) const;
};

}  // namespace shoal::model
