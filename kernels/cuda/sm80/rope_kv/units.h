// How the work on one token is cut: a unit is a vector of eight dimensions, or the two that a rotation joins.
#pragma once

#include "kernels/cuda/lang.h"

namespace shoal::cuda::rope {

struct Shape {
  int q_heads, kv_heads, head_dim, rot_dim;
  bool interleaved;
};

enum class Of : uint8_t { kQ, kK, kV };
struct Unit {
  Of of;
  int head;
  int first;    // its vector begins at this dimension of the head
  bool rotate;  // not interleaved: with the vector at first + rot_dim / 2. Its angles begin at AngleOf
};

// Of one head: units that rotate, and vectors past rot_dim.
SHOAL_HD inline int Rotating(const Shape& s) { return s.rot_dim / (s.interleaved ? 8 : 16); }
SHOAL_HD inline int Passing(const Shape& s) { return (s.head_dim - s.rot_dim) / 8; }

// q's dimensions past rot_dim stay where they are, and are in no unit.
SHOAL_HD inline int UnitCount(const Shape& s) {
  return s.q_heads * Rotating(s) + s.kv_heads * (Rotating(s) + Passing(s) + s.head_dim / 8);
}

SHOAL_HD inline Unit UnitOf(const Shape& s, int index) {
  const int rotating = Rotating(s), of_k = rotating + Passing(s), of_v = s.head_dim / 8;
  if (index < s.q_heads * rotating) return {Of::kQ, index / rotating, index % rotating * 8, true};
  index -= s.q_heads * rotating;
  if (index >= s.kv_heads * of_k) {
    index -= s.kv_heads * of_k;
    return {Of::kV, index / of_v, index % of_v * 8, false};
  }
  const int i = index % of_k;
  const bool rotate = i < rotating;
  return {Of::kK, index / of_k, rotate ? i * 8 : s.rot_dim + (i - rotating) * 8, rotate};
}

// The first of the unit's angles: four when interleaved, else eight.
SHOAL_HD inline int AngleOf(const Shape& s, const Unit& u) { return s.interleaved ? u.first / 2 : u.first; }

}  // namespace shoal::cuda::rope
