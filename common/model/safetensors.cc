#include "common/model/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <map>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "boost/json.hpp"
#include "common/base/status_macros.h"
#include "common/model/file.h"
#include "common/model/json_util.h"

namespace shoal::model {
namespace {

namespace json = boost::json;

constexpr uint64_t kMaxHeaderBytes = 16 << 20;
constexpr int64_t kMaxIndexBytes = 16 << 20;
constexpr size_t kMaxFiles = 4096, kMaxDims = 8;

std::optional<DType> DTypeOf(std::string_view name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  if (name == "F8_E4M3") return DType::kF8E4M3;
  if (name == "I8") return DType::kI8;
  return std::nullopt;
}

struct Placed {
  TensorEntry entry;
  int64_t offset = 0;  // in its file
  bool unused = false;
};

// [begin, end) of the data, inside of it.
absl::Status ReadRange(const json::object& row, int64_t data_bytes, int64_t* begin, int64_t* end) {
  const json::value* range = FindValue(row, "data_offsets");
  if (range == nullptr || !range->is_array() || range->get_array().size() != 2) {
    return absl::DataLossError("its shape or data_offsets are missing or malformed");
  }
  const int64_t* first = range->get_array()[0].if_int64();
  const int64_t* last = range->get_array()[1].if_int64();
  if (first == nullptr || last == nullptr || *first < 0 || *last < *first || *last > data_bytes) {
    return absl::DataLossError(absl::StrCat("its data_offsets lie outside the ", data_bytes,
                                            " bytes of data that the file has: truncated, or a header that lies"));
  }
  *begin = *first;
  *end = *last;
  return absl::OkStatus();
}

// Shape and byte range of one tensor. The range must be exactly what type and shape need.
absl::Status ReadEntry(const json::object& row, int64_t data_bytes, Placed* out) {
  const json::value* shape = FindValue(row, "shape");
  if (shape == nullptr || !shape->is_array() || shape->get_array().size() > kMaxDims) {
    return absl::DataLossError("its shape or data_offsets are missing or malformed");
  }
  int64_t elements = 1;
  for (const json::value& extent : shape->get_array()) {
    const int64_t* n = extent.if_int64();
    if (n == nullptr || *n <= 0 || *n > std::numeric_limits<int32_t>::max() || elements > data_bytes / *n) {
      return absl::DataLossError("its shape is impossible or larger than the whole file");
    }
    elements *= *n;
    out->entry.shape.push_back(*n);
  }
  int64_t end = 0;
  SHOAL_RETURN_IF_ERROR(ReadRange(row, data_bytes, &out->offset, &end));
  out->entry.bytes = static_cast<int64_t>(RowBytes(out->entry.dtype, elements));
  if (end - out->offset != out->entry.bytes) {
    return absl::DataLossError(
        absl::StrCat("its data_offsets span ", end - out->offset, " bytes, type and shape need ", out->entry.bytes));
  }
  return absl::OkStatus();
}

class SafetensorsReader final : public Checkpoint {
 public:
  explicit SafetensorsReader(const std::function<bool(std::string_view)>& is_unused) : is_unused_(is_unused) {}

  // Reads one file's header and appends its tensors.
  absl::Status Add(const std::string& path) {
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<File> file, File::Open(path));
    uint64_t header_bytes = 0;
    if (file->size() < 8)
      return absl::DataLossError(absl::StrCat(path, " is truncated: it has ", file->size(), " bytes"));
    SHOAL_RETURN_IF_ERROR(file->ReadAt(0, std::as_writable_bytes(std::span(&header_bytes, 1))));
    if (header_bytes > kMaxHeaderBytes || header_bytes > static_cast<uint64_t>(file->size() - 8)) {
      return absl::DataLossError(absl::StrCat(path, " is truncated or no safetensors file: it claims a header of ",
                                              header_bytes, " bytes; ",
                                              std::min<uint64_t>(kMaxHeaderBytes, file->size() - 8), " are possible"));
    }
    std::string header(header_bytes, '\0');
    SHOAL_RETURN_IF_ERROR(file->ReadAt(8, std::as_writable_bytes(std::span(header))));
    digest_ = Fnv1a(header, digest_);
    const int64_t data = 8 + static_cast<int64_t>(header_bytes);
    std::vector<Placed> found;
    SHOAL_RETURN_IF_ERROR(ReadHeader(header, path, file->size() - data, &found));
    SHOAL_RETURN_IF_ERROR(CheckContiguous(path, file->size() - data, &found));
    for (Placed& p : found) {
      if (!names_.insert(p.entry.name).second) {
        return absl::DataLossError(absl::StrCat(path, ": tensor ", p.entry.name, " is in another file too"));
      }
      if (p.unused) continue;
      places_.push_back({data + p.offset, files_.size()});
      tensors_.push_back(std::move(p.entry));
    }
    file_bytes_ += file->size();
    files_.push_back(std::move(file));
    return absl::OkStatus();
  }

  // Every weight type that no file may have, of all files.
  absl::Status UnsupportedTypes() const {
    if (unsupported_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "weight types that are not supported (F32, F16, BF16, F8_E4M3, I8 are): ", absl::StrJoin(unsupported_, ", ")));
  }

  // The index promises which file holds which tensor.
  absl::Status CheckIndex(const std::map<std::string, std::string>& file_of) const {
    std::vector<std::string> problems;
    for (const auto& [name, path] : file_of) {
      if (!names_.contains(name)) problems.push_back(absl::StrCat(name, " is not in ", path));
    }
    if (problems.empty()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("tensors that the index promises are missing: ", absl::StrJoin(problems, ", ")));
  }

  std::span<const TensorEntry> tensors() const override { return tensors_; }
  int64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }
  int64_t file_bytes() const override { return file_bytes_; }
  uint64_t header_digest() const override { return digest_; }

  absl::Status Read(const TensorEntry& tensor, int64_t offset, std::span<std::byte> dst) const override {
    SHOAL_RETURN_IF_ERROR(CheckRange(tensor, offset, dst.size()));
    const Place& place = places_[static_cast<size_t>(&tensor - tensors_.data())];
    SHOAL_RETURN_IF_ERROR(files_[place.file]->ReadAt(place.offset + offset, dst));
    bytes_read_.fetch_add(static_cast<int64_t>(dst.size()), std::memory_order_relaxed);
    return absl::OkStatus();
  }

 private:
  struct Place {
    int64_t offset;  // from the start of the file
    size_t file;
  };

  absl::Status ReadHeader(const std::string& header, const std::string& path, int64_t data_bytes,
                          std::vector<Placed>* found) {
    SHOAL_ASSIGN_OR_RETURN(const json::object rows, ParseObject(header, absl::StrCat("the header of ", path)));
    for (const auto& row : rows) {
      if (row.key() == "__metadata__") continue;
      Placed p;
      p.entry.name.assign(row.key().data(), row.key().size());
      if (!row.value().is_object()) {
        return absl::DataLossError(absl::StrCat(path, ": tensor ", p.entry.name, ": its description is no object"));
      }
      if (is_unused_ != nullptr && is_unused_(p.entry.name)) {
        int64_t end = 0;
        if (const absl::Status s = ReadRange(row.value().get_object(), data_bytes, &p.offset, &end); !s.ok()) {
          return absl::Status(s.code(), absl::StrCat(path, ": tensor ", p.entry.name, ": ", s.message()));
        }
        p.entry.bytes = end - p.offset;
        p.unused = true;
        found->push_back(std::move(p));
        continue;
      }
      SHOAL_ASSIGN_OR_RETURN(const std::string type, JsonString(row.value().get_object(), "dtype"));
      const std::optional<DType> dtype = DTypeOf(type);
      if (!dtype.has_value()) {
        unsupported_.push_back(absl::StrCat(p.entry.name, " (", type, ")"));
        continue;
      }
      p.entry.dtype = *dtype;
      if (const absl::Status s = ReadEntry(row.value().get_object(), data_bytes, &p); !s.ok()) {
        return absl::Status(s.code(), absl::StrCat(path, ": tensor ", p.entry.name, ": ", s.message()));
      }
      found->push_back(std::move(p));
    }
    return absl::OkStatus();
  }

  // The ranges must tile the data: no gap, no overlap, nothing behind.
  absl::Status CheckContiguous(const std::string& path, int64_t data_bytes, std::vector<Placed>* found) const {
    if (!unsupported_.empty()) return absl::OkStatus();  // their ranges are missing; refused soon
    std::sort(found->begin(), found->end(), [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
    int64_t at = 0;
    for (const Placed& p : *found) {
      if (p.offset != at) {
        return absl::DataLossError(
            absl::StrCat(path, ": tensor ", p.entry.name, " begins at ", p.offset, ", the one before it ends at ", at));
      }
      at += p.entry.bytes;
    }
    if (at == data_bytes) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(path, " has ", data_bytes, " bytes of data, its tensors take ", at));
  }

  const std::function<bool(std::string_view)> is_unused_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<TensorEntry> tensors_;
  std::vector<Place> places_;  // of tensors_
  absl::flat_hash_set<std::string> names_;
  std::vector<std::string> unsupported_;
  int64_t file_bytes_ = 0;
  uint64_t digest_ = kFnvBasis;
  mutable std::atomic<int64_t> bytes_read_{0};
};

// tensor name -> path, from model.safetensors.index.json. File names stay inside the directory.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& directory, const std::string& path) {
  SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadText(path, kMaxIndexBytes));
  SHOAL_ASSIGN_OR_RETURN(const json::object index, ParseObject(text, path));
  const json::value* map = FindValue(index, "weight_map");
  if (map == nullptr || !map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": \"weight_map\" is missing or not an object"));
  }
  std::map<std::string, std::string> out;
  for (const auto& row : map->get_object()) {
    const json::string* file = row.value().if_string();
    if (file == nullptr || file->empty() || file->find('/') != json::string::npos || file->front() == '.') {
      return absl::InvalidArgumentError(absl::StrCat(path, ": \"weight_map\" has an entry that is no plain file name"));
    }
    const std::string name(row.key().data(), row.key().size());
    out[name] = absl::StrCat(directory, "/", std::string(file->data(), file->size()));
  }
  return out;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Checkpoint>> OpenSafetensors(
    const std::string& directory, const std::function<bool(std::string_view)>& is_unused) {
  auto reader = std::make_shared<SafetensorsReader>(is_unused);
  const std::string single = directory + "/model.safetensors", index = directory + "/model.safetensors.index.json";
  struct stat st = {};
  if (::stat(index.c_str(), &st) == 0) {
    SHOAL_ASSIGN_OR_RETURN(const auto file_of, ReadIndex(directory, index));
    std::vector<std::string> files;
    for (const auto& [name, path] : file_of) files.push_back(path);
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    if (files.empty() || files.size() > kMaxFiles) {
      return absl::InvalidArgumentError(absl::StrCat(index, " names ", files.size(), " files"));
    }
    for (const std::string& path : files) SHOAL_RETURN_IF_ERROR(reader->Add(path));
    SHOAL_RETURN_IF_ERROR(reader->UnsupportedTypes());
    SHOAL_RETURN_IF_ERROR(reader->CheckIndex(file_of));
  } else if (::stat(single.c_str(), &st) == 0) {
    SHOAL_RETURN_IF_ERROR(reader->Add(single));
    SHOAL_RETURN_IF_ERROR(reader->UnsupportedTypes());
  } else {
    return absl::NotFoundError(
        absl::StrCat(directory, " has neither model.safetensors nor model.safetensors.index.json"));
  }
  return std::shared_ptr<const Checkpoint>(std::move(reader));
}

}  // namespace shoal::model
