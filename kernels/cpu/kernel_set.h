// The serial inner kernels of one instruction set. The parallel drivers of this folder cut an op into tasks and call
// these; a kernel neither knows threads nor allocates. Included by files that are compiled for a special instruction
// set: plain data only, no inline function, nothing from the standard library that has code.
#pragma once

#include <cstdint>

namespace shoal::ops::cpu {

// Packed weights. A group is `lanes` consecutive rows (the last one padded with zeros), 64-byte aligned, one stream of
// bytes in the order in which it is read:
//   plain   [k][lanes] elements
//   Q8_0    [k / 32] blocks of { [8][lanes][4] int8, [lanes] f16 scales }
//   int4    as Q8_0, code less zero point
//   Q4_*    [k / 32] blocks of { [4][lanes][4] nibble pairs, [lanes] f16 scales, Q4_1: [lanes] f16 minima }
// so that one vector holds the same 4 input columns of every row and a sum stays in its row's lane. Vector j of a Q4
// block holds columns 4j..4j+3 in its low and 16 + 4j.. in its high nibbles.
struct MatmulTask {
  const uint8_t* w;  // the first group
  int64_t group_bytes;
  int rows;  // valid rows from the first group's first
  int k;
  int tokens;
  const float* x;      // [tokens, k]                        plain
  const int8_t* q;     // [tokens, k]                        quantised, as the next two
  const float* scale;  // [tokens, k / 32]
  const float* sum;    // [tokens, k / 32]
  float* y;            // [tokens, rows], stride y_stride
  int64_t y_stride;
};

// Some rows of one sequence against the query heads that share one kv head.
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kMaxAttendStates = 32;  // rows * heads of one task; bounds its stack to about 200 KiB
struct AttendTask {
  const float* q;  // the first row's first head of the group; rows are q_stride apart, heads head_dim
  float* out;      // likewise, rows out_stride apart; unused when partial is set
  int64_t q_stride, out_stride;
  int rows, heads, head_dim;
  int position;  // of the first row
  int window;    // ops::AttentionArgs's
  int keys;      // 0: causal; else what every row sees
  float scale, soft_cap;
  const uint8_t* k;  // the layer's caches
  const uint8_t* v;
  uint8_t dtype;  // shoal::DType
  int block_size, kv_heads, kv_head;
  const int32_t* block_table;
  int split_begin, split_end;  // context splits to cover
  float* partial;  // [rows * heads][PartialFloats(head_dim)] of the one split covered, or null: fold and write out
};
// Layout of one partial: m (the maximum), l (the sum), then the head_dim unscaled sums.
struct FoldTask {
  const float* partial;  // of split 0 of this (row, head); the next split's is `stride` floats on
  int64_t stride;
  int first, splits, head_dim;  // splits [first, splits) are joined
  float* out;                   // [head_dim]
};

struct KernelSet {
  const char* name;                      // of the op table
  int lanes;                             // rows per packed group = OpTable::row_group
  void (*matmul[9])(const MatmulTask&);  // by shoal::DType
  // One row of k values; blocks of 32.
  void (*quantise)(const float* x, int k, int8_t* q, float* scale, float* sum);
  void (*rms_norm)(float* x, const float* add, const float* w, float* y, int dim, float eps, float weight_bias);
  void (*layer_norm)(float* x, const float* add, const float* w, const float* bias, float* y, int dim, float eps);
  void (*glu[3])(const float* gate, const float* up, float* y, int64_t count);  // by ops::Activation; up may be null
  void (*soft_cap)(float* y, int64_t count, float scale, float cap);
  void (*store)(uint8_t dtype, const float* src, int count, void* dst);  // f32 to f32, f16 or bf16
  // w[i] = exp((logits[i] - max) / temperature), and the sum of all of them.
  void (*weights)(const float* logits, int64_t count, double max, double temperature, double* w);
  double (*total_weight)(const float* logits, int64_t count, double max, double temperature);
  void (*attend)(const AttendTask&);
  void (*fold)(const FoldTask&);
};

extern const KernelSet kScalarSet;
extern const KernelSet kAvx2Set;
extern const KernelSet kAvx512Set;

}  // namespace shoal::ops::cpu
