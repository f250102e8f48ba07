// What a backend may do with the bits of a result. Part of numerics_id by the name of the table that computes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace shoal::ops {

enum class Numerics : uint8_t {
  kInvariant,  // a row's bits depend on the row alone: not on the batch, nor on the chunking
  kFast,       // the fastest kernel for a shape, whose sums may be in another order than another's
};

// "invariant", "fast"; nothing: neither.
constexpr std::optional<Numerics> NumericsFromName(std::string_view name) {
  if (name == "invariant") return Numerics::kInvariant;
  if (name == "fast") return Numerics::kFast;
  return std::nullopt;
}

}  // namespace shoal::ops
