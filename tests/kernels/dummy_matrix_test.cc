#include "kernels/ops/dummy_matrix.h"

#include <gtest/gtest.h>

#include <set>

#include "kernels/cpu/cpu_stream.h"
#include "tests/kernels/dummy_pieces.h"
#include "tests/kernels/kernel_test_util.h"

namespace shoal::ops {
namespace {

std::vector<const OpTable*> Tables() {
  std::vector<const OpTable*> tables = FastTables();
  tables.push_back(&RefTable());
  return tables;
}

TEST(DummyMatrix, IsWhatPackingTheBytesGives) {
  for (const OpTable* table : Tables()) {
    for (const DummyPiece& piece : DummyPieces()) {
      SCOPED_TRACE(testing::Message() << table->name << " " << piece.args);
      for (const int threads : {1, 3}) {
        const std::vector<uint8_t> expected = piece.Packed(*table);
        std::vector<uint8_t> guarded(expected.size() + 64, 0xff);
        const AlignedBytes memory = AllocateAligned(guarded.size());
        std::copy(guarded.begin(), guarded.end(), memory.get());
        DummyMatrixArgs args = piece.args;
        args.data = memory.get();
        const auto stream = MakeCpuStream(threads);
        const absl::Status status = table->dummy_matrix(*stream, args);
        ASSERT_TRUE(status.ok()) << status;
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), memory.get()));
        ASSERT_EQ(std::set<uint8_t>(memory.get() + expected.size(), memory.get() + guarded.size()).size(), 1u);
      }
    }
  }
}

// More rows than one task makes.
TEST(DummyMatrix, ManyTasksMakeOneMatrix) {
  const DummyPiece piece = {.args = {.tensor = {.seed = 1, .stream = 2, .type = DType::kBF16, .kind = {}},
                                     .columns = 1024,
                                     .row_begin = 3,
                                     .column_begin = 512,
                                     .n = 2500,
                                     .k = 512,
                                     .data = nullptr}};
  for (const OpTable* table : Tables()) {
    const std::vector<uint8_t> expected = piece.Packed(*table);
    const AlignedBytes memory = AllocateAligned(expected.size());
    DummyMatrixArgs args = piece.args;
    args.data = memory.get();
    const auto stream = MakeCpuStream(2);
    ASSERT_TRUE(table->dummy_matrix(*stream, args).ok());
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), memory.get())) << table->name;
  }
}

TEST(DummyMatrix, NullMakesNothing) {
  const OpTable& null = **FindOpTable("null");
  const auto stream = MakeCpuStream(1);
  for (const DummyPiece& piece : DummyPieces()) EXPECT_TRUE(null.dummy_matrix(*stream, piece.args).ok());
}

TEST(DummyMatrix, PiecesThatAreNoneAreRefused) {
  const auto stream = MakeCpuStream(1);
  const DummyMatrixArgs good = {.tensor = {.seed = 1, .stream = 2, .type = DType::kQ4_0, .kind = {}},
                                .columns = 96,
                                .row_begin = 0,
                                .column_begin = 32,
                                .n = 0,
                                .k = 64,
                                .data = nullptr};
  for (const OpTable* table : Tables()) {
    EXPECT_TRUE(table->dummy_matrix(*stream, good).ok());
    DummyMatrixArgs bad = good;
    bad.k = 40;
    EXPECT_TRUE(absl::IsInvalidArgument(table->dummy_matrix(*stream, bad)));
    bad = good;
    bad.column_begin = 64;
    EXPECT_TRUE(absl::IsInvalidArgument(table->dummy_matrix(*stream, bad)));
    bad = good;
    bad.columns = 100;
    EXPECT_TRUE(absl::IsInvalidArgument(table->dummy_matrix(*stream, bad)));
  }
}

}  // namespace
}  // namespace shoal::ops
