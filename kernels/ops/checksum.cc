// Tested by tests/kernels/row_ops_test.cc
#include "kernels/ops/checksum.h"

#include "common/base/checksum.h"

namespace shoal::ops {

absl::Status ChecksumOnHost(Stream& stream, const ChecksumArgs& a) {
  const auto* const data = static_cast<const std::byte*>(a.data);
  const int64_t words = a.bytes / 4;
  ParallelFor(stream, kChecksumParts, [&](int part) {
    const int64_t begin = words * part / kChecksumParts * 4, end = words * (part + 1) / kChecksumParts * 4;
    a.sums[part] = Checksum64({data + begin, static_cast<size_t>(end - begin)}, static_cast<uint64_t>(part) + 1);
  });
  return absl::OkStatus();
}

}  // namespace shoal::ops
