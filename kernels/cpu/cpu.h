// The CPU backend: parallel drivers over the serial kernels of one instruction set. Thread-safe: no state.
#pragma once

#include "kernels/cpu/kernel_set.h"
#include "kernels/ops/op_table.h"

namespace shoal::ops::cpu {

// The tables that were compiled in, slowest first, and whether this machine can run them.
struct Choice {
  const OpTable* table;
  bool (*runnable)();
};
std::span<const Choice> Choices();

absl::Status Embed(const KernelSet&, Stream&, const EmbedArgs&);
absl::Status GatherRows(Stream&, const GatherRowsArgs&);
absl::Status RmsNorm(const KernelSet&, Stream&, const RmsNormArgs&);
absl::Status LayerNorm(const KernelSet&, Stream&, const LayerNormArgs&);
absl::Status Quantise(const KernelSet&, Stream&, const QuantiseArgs&);
absl::Status Matmul(const KernelSet&, Stream&, const MatmulArgs&);
absl::Status RopeKv(const KernelSet&, Stream&, const RopeKvArgs&);
absl::Status Attention(const KernelSet&, Stream&, const AttentionArgs&);
int64_t AttentionWorkspace(int threads, int tokens, int q_heads, int head_dim, int max_context);
absl::Status Glu(const KernelSet&, Stream&, const GluArgs&);
absl::Status ExpertMatmul(const KernelSet&, Stream&, const ExpertMatmulArgs&);
absl::Status SoftCap(const KernelSet&, Stream&, const SoftCapArgs&);
absl::Status Sample(const KernelSet&, Stream&, const SampleArgs&);
absl::Status CopyBlocks(Stream&, const CopyBlocksArgs&);

// Packed weights: kernel_set.h has the layout.
int64_t GroupBytes(int lanes, DType t, int64_t k);  // of one group of rows; a multiple of 64
size_t PackedBytes(int lanes, DType t, int64_t n, int64_t k);
void PackRows(int lanes, DType t, const void* src, int64_t row_begin, int64_t rows, int64_t k, void* dst);
// dst[0, k) = row `row` of a packed matrix as floats, the same as DequantiseRow of the canonical row.
void UnpackRow(int lanes, DType t, const void* packed, int64_t row, int64_t k, float* dst);

// How many tasks to cut `work` (elements touched, about) into: one when it is too small to be worth waking a thread.
int TaskCount(const Stream& stream, int64_t work, int64_t pieces);

}  // namespace shoal::ops::cpu
