// The reference backend: naive, sums in double, canonical weight layout. It is the definition of every op; the fast
// backends are tested against it. Thread-safe: no state.
#pragma once

#include "kernels/ops/op_table.h"

namespace shoal::ops::ref {

const OpTable& Table();

absl::Status Embed(Stream&, const EmbedArgs&);
absl::Status RmsNorm(Stream&, const RmsNormArgs&);
absl::Status LayerNorm(Stream&, const LayerNormArgs&);
absl::Status Quantise(Stream&, const QuantiseArgs&);
absl::Status Matmul(Stream&, const MatmulArgs&);
absl::Status RopeKv(Stream&, const RopeKvArgs&);
absl::Status Attention(Stream&, const AttentionArgs&);
absl::Status Glu(Stream&, const GluArgs&);
absl::Status ExpertMatmul(Stream&, const ExpertMatmulArgs&);
absl::Status SoftCap(Stream&, const SoftCapArgs&);
absl::Status Sample(Stream&, const SampleArgs&);
absl::Status CopyBlocks(Stream&, const CopyBlocksArgs&);

}  // namespace shoal::ops::ref
