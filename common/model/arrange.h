// From what files hold to what the rest of the system knows: a checkpoint with the names, shapes and order of
// tensor_table.h, whatever the files call their tensors and however they put them together.
//   another name    "model.layers.7.self_attn.q_proj.weight" or "blk.7.attn_q.weight" is "layers.7.attn.q"
//   fused           rows [a, b) of a stored matrix, or of its bias
//   transposed      stored as [in, out]
//   stacked         one expert of [experts, rows, columns]
// What this is for each family, families.h says.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/checkpoint.h"
#include "common/model/tensor_table.h"

namespace shoal::model {

// Which rows of the stored tensor: all; those of q, k or v in (q, k, v); of gate or up in (gate, up); the first alone.
enum class Piece : uint8_t { kWhole, kQOfQkv, kKOfQkv, kVOfQkv, kGateOfGateUp, kUpOfGateUp, kFirstRow };

// Where a role's tensors are, in every layer ("{L}") and of every expert ("{E}"; without it, those of all experts are
// one stack). A bias is where its matrix or norm is, with ".bias" for the last part of the name.
struct StoredName {
  Role role;
  const char* name;
  Piece piece = Piece::kWhole;
  bool transposed = false;
};

struct StoredNames {
  std::vector<const char*> prefixes = {""};  // any of them may stand before a name, but not before the head's
  std::vector<StoredName> names = {};        // several of one role: the first that the files have counts
  std::vector<const char*> unused = {};  // names of what carries nothing that is needed; one "*" stands for anything

  bool IsUnused(std::string_view name) const;
};

// Reads headers only. InvalidArgument lists every tensor that is missing, misshapen or of a type that it cannot be, and
// those that nothing uses, by their names in the files.
// Scales of rows ("<name>_scale") come along. A transposed tensor is best read by ReadBlock: a block of many rows reads
// at most twice the bytes that it gives, through a buffer of 1 MiB; other calls cost a read for each element of a row.
absl::StatusOr<std::shared_ptr<const Checkpoint>> Arrange(const ModelConfig& config, const StoredNames& names,
                                                          std::shared_ptr<const Checkpoint> stored);

}  // namespace shoal::model
