#include "kernels/cuda/dummy_matrix.h"

#include <gtest/gtest.h>

#include "kernels/cuda/table.h"
#include "tests/kernels/cuda/buffers.h"
#include "tests/kernels/dummy_pieces.h"

namespace shoal::cuda {
namespace {

TEST(CudaDummyMatrix, IsWhatPackingTheBytesGives) {
  size_t compared = 0;
  for (const ops::DummyPiece& piece : ops::DummyPieces()) {
    SCOPED_TRACE(testing::Message() << piece.args);
    const std::vector<uint8_t> expected = piece.Packed(Table());
    const auto run = [&] {
      Buffer<uint8_t> made(expected.size() + 32);
      ops::DummyMatrixArgs args = piece.args;
      args.data = made.data();
      const absl::Status status = Enqueue(nullptr, args);
      EXPECT_TRUE(status.ok()) << status;
      return std::vector<uint8_t>(made.data(), made.data() + made.size());
    };
    const std::vector<uint8_t> got = InEveryOrder<uint8_t>(run);
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), got.begin()));
    ASSERT_TRUE(std::all_of(got.end() - 32, got.end(), [](uint8_t b) { return b == 0xff; })) << "written beyond";
    compared += expected.size();
  }
  EXPECT_GT(compared, 100000u);
}

TEST(CudaDummyMatrix, PiecesThatAreNoneAreRefused) {
  ops::DummyMatrixArgs args = {.tensor = {.seed = 1, .stream = 2, .type = DType::kF8E4M3, .kind = {}},
                               .columns = 96,
                               .row_begin = 0,
                               .column_begin = 0,
                               .n = 16,
                               .k = 40,  // in whole blocks of the type, not of the tiles
                               .data = nullptr};
  EXPECT_TRUE(absl::IsInvalidArgument(Enqueue(nullptr, args)));
  args.k = 128;
  EXPECT_TRUE(absl::IsInvalidArgument(Enqueue(nullptr, args)));
  args.n = 0;
  args.k = 32;
  EXPECT_TRUE(Enqueue(nullptr, args).ok());
}

}  // namespace
}  // namespace shoal::cuda
