// The way to cuBLASLt, on one that the host plays by cuBLASLt's rules (fake_cuda/): that what is multiplied is what was
// meant, how often it is asked, and what is said when it cannot help.
#include <gmock/gmock.h>

#include <bit>

#include "common/base/rng.h"
#include "kernels/cuda/cublaslt_gemm.h"
#include "kernels/cuda/cublaslt_library.h"
#include "kernels/cuda/queue_stream.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/table.h"
#include "tests/kernels/cuda/buffers.h"
#include "tests/kernels/cuda/fake_cuda/fake_cublaslt.h"
#include "tests/kernels/cuda/fake_cuda/fake_cuda.h"

namespace shoal::cuda {
namespace {

using ops::Numerics;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::byte g_workspace;  // the played library never looks at it

// With room for `tokens` tokens of 96 columns in fp8.
constexpr int kScratchColumns = 96;
std::unique_ptr<LibraryGemm> Open(int64_t tokens = 256) {
  static Buffer<uint8_t> codes(256 * kScratchColumns);
  static Buffer<float> scales(256);
  const GemmScratch scratch = {codes.data(), scales.data(), tokens * kScratchColumns, tokens};
  return OpenCublasLtGemm(&g_workspace, scratch).value();
}

ops::Acts ActsOf(Buffer<bf16>& b) { return ops::Acts(static_cast<void*>(b.data())); }

// What was called since it was made.
struct Calls {
  int asked = fake::cublaslt().asked, checked = fake::cublaslt().checked, multiplied = fake::cublaslt().multiplied;
  int Asked() const { return fake::cublaslt().asked - asked; }
  int Checked() const { return fake::cublaslt().checked - checked; }
  int Multiplied() const { return fake::cublaslt().multiplied - multiplied; }
};

// A stream that runs what it is given at once and remembers its names.
class Listed final : public emulated::Queue {
 public:
  absl::Status Enqueue(const std::string& name, Work work) override {
    names.push_back(name);
    return work();
  }
  std::vector<std::string> names;
};

// Weights of several types that share x, multiplied by the table of `numerics` with the library `gemm`.
class Product {
 public:
  static constexpr int kK = 96;
  Product(std::vector<DType> types, int tokens, bool f32_out)
      : types_(std::move(types)), tokens_(tokens), f32_out_(f32_out) {
    for (size_t p = 0; p < types_.size(); ++p) {
      canonical_.push_back(ops::RandomWeight(types_[p], N(p), kK, 10 + p));
      packed_.push_back(ops::Pack(Table(), types_[p], canonical_[p], N(p), kK));
      factors_.emplace_back(ops::RandomFloats(static_cast<size_t>(N(p)), 20 + p));
      if (types_[p] == DType::kF8E4M3) packed_[p].view.row_scale = factors_[p].data();
    }
    x_ = RandomBf16(static_cast<size_t>(tokens_ * kK), 8);
  }
  int N(size_t p) const {
    return types_[p] == DType::kF8E4M3 ? 32 + 16 * static_cast<int>(p) : 40 + 9 * static_cast<int>(p);
  }
  int Stride(size_t p) const { return (N(p) + 15) / 8 * 8; }  // more than n

  // Whatever is multiplied after this has a bias; y's tolerance covers that one is rounded to y's type.
  void AddBiases() {
    for (size_t p = 0; p < types_.size(); ++p) {
      biases_.emplace_back(ops::RandomFloats(static_cast<size_t>(N(p)), 30 + p, 20));
      packed_[p].view.bias = biases_[p].data();
    }
  }
  void DropFactors() {
    for (ops::PackedWeight& w : packed_) w.view.row_scale = nullptr;
  }

  // y of part p, [tokens, n].
  std::vector<std::vector<float>> Run(Numerics numerics, LibraryGemm* gemm, emulated::Queue* queue = nullptr) {
    QueueStream stream(queue, 4);
    stream.SetGemm(gemm);
    Buffer<bf16> dx(x_);
    ops::MatmulArgs args = {
        .x = ActsOf(dx), .xq = nullptr, .parts = {}, .part_count = 0, .tokens = tokens_, .k = kK, .f32_out = f32_out_};
    std::vector<Buffer<bf16>> y;
    std::vector<Buffer<float>> logits;
    for (size_t p = 0; p < types_.size(); ++p) {
      y.emplace_back(static_cast<size_t>(Stride(p) * tokens_));
      logits.emplace_back(static_cast<size_t>(Stride(p) * tokens_));
      args.parts[args.part_count++] = {packed_[p].view, f32_out_ ? ops::Acts(logits[p].data()) : ActsOf(y[p]),
                                       Stride(p)};
    }
    const absl::Status status = Table(numerics).matmul(stream, args);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<std::vector<float>> out;
    for (size_t p = 0; p < types_.size(); ++p) {
      out.push_back(ops::RowsOfStride(f32_out_ ? logits[p].Floats() : y[p].Floats(), N(p), Stride(p)));
    }
    return out;
  }
  // x as e4m3 has it, by its definition (quantise_rows.h).
  std::vector<float> QuantisedX() const {
    std::vector<float> x = x_;
    for (auto row = x.begin(); row != x.end(); row += kK) {
      float largest = 0;
      for (int i = 0; i < kK; ++i) largest = std::max(largest, std::abs(row[i]));
      for (int i = 0; i < kK; ++i) row[i] = F8E4M3ToF32(F32ToF8E4M3(row[i] * (1 / (largest / 448)))) * (largest / 448);
    }
    return x;
  }
  std::vector<float> Expected(size_t p, bool quantised = false) const {
    const int n = N(p);
    std::vector<float> w(static_cast<size_t>(n * kK)), y(static_cast<size_t>(tokens_ * n));
    DequantiseRow(types_[p], canonical_[p].data(), n * kK, w.data());
    const std::vector<float> x = quantised ? QuantisedX() : x_;
    ops::MatmulArgs args = {.x = x.data(), .xq = nullptr, .parts = {}, .part_count = 1, .tokens = tokens_, .k = kK};
    args.parts[0] = {{w.data(), DType::kF32, n, kK, packed_[p].view.row_scale, packed_[p].view.bias}, y.data(), n};
    const auto stream = ops::MakeCpuStream(1);
    EXPECT_TRUE(ops::RefTable().matmul(*stream, args).ok());
    return y;
  }

 private:
  const std::vector<DType> types_;
  const int tokens_;
  const bool f32_out_;
  std::vector<std::vector<uint8_t>> canonical_;
  std::vector<ops::PackedWeight> packed_;
  mutable std::vector<Buffer<float>> factors_;  // of rows, for fp8
  std::vector<Buffer<float>> biases_;
  std::vector<float> x_;
};

TEST(CublasLt, FastMultipliesWhatInvariantDoes) {
  const auto gemm = Open();
  for (const bool f32_out : {false, true}) {
    for (const int tokens : {65, 130}) {
      Product product({DType::kBF16, DType::kQ8_0, DType::kBF16, DType::kF8E4M3}, tokens, f32_out);
      const Calls calls;
      const auto got = product.Run(Numerics::kFast, gemm.get());
      EXPECT_EQ(calls.Multiplied(), 3) << "the parts in bf16 and fp8";
      const auto own = product.Run(Numerics::kInvariant, gemm.get());
      EXPECT_EQ(calls.Multiplied(), 3);
      for (size_t p = 0; p < 4; ++p) {
        const auto n = static_cast<size_t>(product.N(p));
        ops::ExpectRowsNear(product.Expected(p, p == 3), got[p], n, f32_out ? 1e-4f : 8e-3f);
      }
      ops::ExpectSameBits(own[1], got[1]);
    }
  }
}

// Weights in fp8 as a library multiplies them: x rounded to e4m3, and else exactly what is meant. In one piece, in two
// and in three of the scratch; whatever the piece, the same bits.
TEST(CublasLt, Fp8GoesPieceByPieceOfTheScratch) {
  for (const bool f32_out : {false, true}) {
    Product product({DType::kF8E4M3, DType::kF8E4M3}, 256 + 3, f32_out);
    std::vector<std::vector<float>> first;
    for (const int64_t room : {128, 200, 256}) {
      const auto gemm = Open(room);
      const Calls calls;
      const auto got = product.Run(Numerics::kFast, gemm.get());
      EXPECT_EQ(calls.Multiplied(), room < 256 ? 6 : 4);
      EXPECT_EQ(calls.Asked(), 4) << "two sizes, two parts of other n";
      for (size_t p = 0; p < 2; ++p) {
        const auto n = static_cast<size_t>(product.N(p));
        ops::ExpectRowsNear(product.Expected(p, true), got[p], n, f32_out ? 1e-5f : 8e-3f);
        ops::ExpectRowsNear(product.Expected(p), got[p], n, 0.1f);
        if (!first.empty()) ops::ExpectSameBits(first[p], got[p]);
      }
      first = got;
    }
  }
}

// A library's product is added to its bias, in one piece or several; a part that goes to our own kernels has its own.
TEST(CublasLt, ABiasIsAdded) {
  for (const bool f32_out : {false, true}) {
    for (const int tokens : {5, 70, 256 + 3}) {
      const auto gemm = Open(128);
      Product product({DType::kBF16, DType::kQ8_0, DType::kBF16, DType::kF8E4M3}, tokens, f32_out);
      product.AddBiases();
      const Calls calls;
      Listed queue;
      const auto got = product.Run(Numerics::kFast, gemm.get(), &queue);
      EXPECT_EQ(calls.Multiplied(), tokens == 5 ? 0 : tokens == 70 ? 3 : 5);
      EXPECT_EQ(std::count(queue.names.begin(), queue.names.end(), "place_bias"), calls.Multiplied());
      for (size_t p = 0; p < 4; ++p) {
        const auto n = static_cast<size_t>(product.N(p));
        ops::ExpectRowsNear(product.Expected(p, p == 3 && tokens > 5), got[p], n, f32_out ? 1e-4f : 8e-3f);
      }
    }
  }
}

// What the library refuses after its bias was placed is written over.
TEST(CublasLt, ARefusedProductLeavesNoBiasBehind) {
  const auto gemm = Open();
  Product product({DType::kF8E4M3}, 70, false);
  product.AddBiases();
  const auto own = product.Run(Numerics::kInvariant, nullptr);
  fake::cublaslt().refuses_fp8 = true;
  const auto got = product.Run(Numerics::kFast, gemm.get());
  fake::cublaslt().refuses_fp8 = false;
  ops::ExpectSameBits(own[0], got[0]);
}

// q/k/v: the scratch has x once, and each part's own factors are met.
TEST(CublasLt, PartsInFp8ShareOneQuantisedX) {
  const auto gemm = Open();
  Product product({DType::kF8E4M3, DType::kF8E4M3, DType::kF8E4M3}, 100, true);
  Listed queue;
  const auto got = product.Run(Numerics::kFast, gemm.get(), &queue);
  EXPECT_THAT(queue.names, ElementsAre("quantise_rows", "cublasLtMatmul", "cublasLtMatmul", "cublasLtMatmul"));
  for (size_t p = 0; p < 3; ++p) {
    ops::ExpectRowsNear(product.Expected(p, true), got[p], static_cast<size_t>(product.N(p)), 1e-5f);
  }
}

// A device, or a version, that has no such product: asked once for a size, and x is not quantised for nothing.
TEST(CublasLt, WhereTheLibraryHasNoFp8OwnKernelsDo) {
  const auto gemm = Open();
  Product product({DType::kF8E4M3, DType::kBF16}, 70, false);
  const auto own = product.Run(Numerics::kInvariant, nullptr);
  fake::cublaslt().knows_fp8 = false;
  const Calls calls;
  for (int i = 0; i < 2; ++i) {
    Listed queue;
    ops::ExpectSameBits(own[0], product.Run(Numerics::kFast, gemm.get(), &queue)[0]);
    EXPECT_THAT(queue.names, ElementsAre("cublasLtMatmul", "linear_fp8"));
  }
  fake::cublaslt().knows_fp8 = true;
  EXPECT_EQ(calls.Asked(), 2) << "fp8 and bf16";
}

TEST(CublasLt, AProductInFp8ThatIsRefusedAfterAllIsOurs) {
  const auto gemm = Open(128);
  Product product({DType::kF8E4M3, DType::kF8E4M3}, 200, false);
  const auto own = product.Run(Numerics::kInvariant, nullptr);
  fake::cublaslt().refuses_fp8 = true;
  const Calls calls;
  for (int i = 0; i < 2; ++i) {
    const auto got = product.Run(Numerics::kFast, gemm.get());
    for (size_t p = 0; p < 2; ++p) ops::ExpectSameBits(own[p], got[p]);
  }
  fake::cublaslt().refuses_fp8 = false;
  EXPECT_EQ(calls.Multiplied(), 2) << "once for each part";
}

TEST(CublasLt, Fp8WithoutFactorsIsOurs) {
  const auto gemm = Open();
  Product product({DType::kF8E4M3}, 70, false);
  product.DropFactors();
  const Calls calls;
  ops::ExpectSameBits(product.Run(Numerics::kInvariant, nullptr)[0], product.Run(Numerics::kFast, gemm.get())[0]);
  EXPECT_EQ(calls.Asked() + calls.Multiplied(), 0);
}

TEST(CublasLt, FewTokensAreLeftToOwnKernels) {
  const auto gemm = Open();
  Product product({DType::kBF16}, static_cast<int>(kLibraryTokens), false);
  const Calls calls;
  ops::ExpectSameBits(product.Run(Numerics::kInvariant, nullptr)[0], product.Run(Numerics::kFast, gemm.get())[0]);
  EXPECT_EQ(calls.Multiplied(), 0);
  EXPECT_EQ(Table().name, "cuda-sm80");
  EXPECT_EQ(Table(Numerics::kFast).name, "cuda-sm80-fast");
}

TEST(CublasLt, IsAskedOnceForEachBucketAndCheckedOnceForEachSize) {
  const auto gemm = Open();
  const Calls calls;
  for (const int tokens : {65, 70, 72, 65, 70}) Product({DType::kBF16}, tokens, false).Run(Numerics::kFast, gemm.get());
  EXPECT_EQ(calls.Asked(), 1);
  EXPECT_EQ(calls.Checked(), 3);
  EXPECT_EQ(calls.Multiplied(), 5);
  Product({DType::kBF16}, 73, false).Run(Numerics::kFast, gemm.get());
  Product({DType::kBF16}, 73, true).Run(Numerics::kFast, gemm.get());
  EXPECT_EQ(calls.Asked(), 3) << "another bucket, another type";
}

TEST(CublasLt, AnAlgorithmThatDoesForItsBucketAloneIsReplaced) {
  const auto gemm = Open();
  fake::cublaslt().picky = true;
  const Calls calls;
  Product product({DType::kBF16}, 70, false);
  const auto got = product.Run(Numerics::kFast, gemm.get());
  fake::cublaslt().picky = false;
  EXPECT_EQ(calls.Asked(), 2);
  EXPECT_EQ(calls.Multiplied(), 1);
  ops::ExpectRowsNear(product.Expected(0), got[0], static_cast<size_t>(product.N(0)), 8e-3f);
}

TEST(CublasLt, WithoutAnAlgorithmOwnKernelsDo) {
  const auto gemm = Open();
  fake::cublaslt().helpless = true;
  const Calls calls;
  Product product({DType::kBF16}, 70, false);
  const auto got = product.Run(Numerics::kFast, gemm.get());
  product.Run(Numerics::kFast, gemm.get());
  fake::cublaslt().helpless = false;
  EXPECT_EQ(calls.Asked(), 1) << "and it is remembered";
  EXPECT_EQ(calls.Multiplied(), 0);
  ops::ExpectSameBits(product.Run(Numerics::kInvariant, nullptr)[0], got[0]);
}

TEST(CublasLt, WhileAGraphIsRecordedOnlyWhatIsKnownIsUsed) {
  const auto gemm = Open();
  for (const DType type : {DType::kBF16, DType::kF8E4M3}) {
    Product known({type}, 70, false), unknown({type}, 71, false);
    known.Run(Numerics::kFast, gemm.get());
    gemm->SetRecording(true);
    const Calls calls;
    known.Run(Numerics::kFast, gemm.get());
    ops::ExpectSameBits(unknown.Run(Numerics::kInvariant, nullptr)[0], unknown.Run(Numerics::kFast, gemm.get())[0]);
    EXPECT_EQ(calls.Asked() + calls.Checked(), 0);
    EXPECT_EQ(calls.Multiplied(), 1);
    gemm->SetRecording(false);
    unknown.Run(Numerics::kFast, gemm.get());
    EXPECT_EQ(calls.Multiplied(), 2);
  }
}

TEST(CublasLt, SaysWhatTheLibrarySays) {
  const auto gemm = Open();
  Buffer<bf16> x(RandomBf16(70 * 32, 1)), w(RandomBf16(8 * 32, 2)), y(70 * 8);
  const GemmProduct product = {x.data(), nullptr, w.data(), DType::kBF16, nullptr, y.data(), false, 8, 70, 8, 32};
  ASSERT_TRUE(LibraryTakes(product, gemm->scratch()));
  fake::cublaslt().failing = true;
  for (int i = 0; i < 2; ++i) {  // asking; then, once it is known what to do, doing it
    const auto done = gemm->Multiply(nullptr, product);
    EXPECT_EQ(done.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(done.status().message()),
                AllOf(HasSubstr(i == 0 ? "GetHeuristic" : "cublasLtMatmul:"), HasSubstr("the library failed")));
    fake::cublaslt().failing = false;
    EXPECT_TRUE(gemm->Multiply(nullptr, product).ok());
    fake::cublaslt().failing = i == 0;
  }
}

TEST(CublasLt, WithoutTheLibraryItIsToldWhatHelps) {
  for (const char* file : {"libcublasLt-that-is-not.so.13", "libm.so.6"}) {
    const absl::Status status = OpenCublasLt(file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(file), HasSubstr("libcublas-13-0"), HasSubstr("--numerics invariant")));
  }
}

TEST(CublasLt, NothingIsLeftOfIt) {
  const int before = fake::cublaslt().alive;
  {
    const auto gemm = Open();
    Product({DType::kBF16}, 70, false).Run(Numerics::kFast, gemm.get());
    EXPECT_GT(fake::cublaslt().alive, before);
  }
  EXPECT_EQ(fake::cublaslt().alive, before);
}

// y of 70 tokens by a device's accelerator (runtime.cc): at once, recorded, and by the graph. Each of x is 0.74609375,
// each factor of rows of w (fp8) 0.747..., each of w 0.74609375 (bf16) or 1 (fp8).
void ExpectProductThroughAGraph(DType type, int asked, int multiplied, float expected) {
  constexpr int kTokens = 70, kN = 32, kK = 64;
  const auto a = OpenDevice(0, Numerics::kFast).value();
  EXPECT_EQ(a->table().name, "cuda-sm80-fast");
  EXPECT_TRUE(a->table().warms_up);
  auto* const x = static_cast<bf16*>(a->Allocate(kTokens * kK * 2).value());
  auto* const w = static_cast<bf16*>(a->Allocate(kN * kK * 2).value());
  auto* const factors = static_cast<float*>(a->Allocate(kN * 4).value());
  auto* const y = static_cast<bf16*>(a->Allocate(kTokens * kN * 2).value());
  auto* const pinned = static_cast<uint16_t*>(a->AllocatePinned(kTokens * kN * 2).value());
  ASSERT_TRUE(a->Fill(x, 0x3f, kTokens * kK * 2).ok());
  ASSERT_TRUE(a->Fill(w, type == DType::kBF16 ? 0x3f : 0x38, kN * kK * 2).ok());
  ASSERT_TRUE(a->Fill(factors, 0x3f, kN * 4).ok());
  const auto multiply = [&] {
    ops::MatmulArgs args = {.x = ops::ConstActs(static_cast<const void*>(x)),
                            .xq = nullptr,
                            .parts = {},
                            .part_count = 1,
                            .tokens = kTokens,
                            .k = kK};
    args.parts[0] = {{w, type, kN, kK, type == DType::kBF16 ? nullptr : factors}, ops::Acts(static_cast<void*>(y)), kN};
    return a->table().matmul(a->stream(), args);
  };
  const Calls calls;
  ASSERT_TRUE(multiply().ok());
  ASSERT_TRUE(a->BeginCapture().ok());
  ASSERT_TRUE(multiply().ok());
  const auto graph = a->EndCapture().value();
  EXPECT_EQ(calls.Multiplied(), multiplied);
  EXPECT_EQ(calls.Asked(), asked);
  ASSERT_TRUE(a->Fill(y, 0, kTokens * kN * 2).ok());
  ASSERT_TRUE(a->Launch(*graph).ok());
  ASSERT_TRUE(a->CopyOut(pinned, y, kTokens * kN * 2).ok());
  ASSERT_TRUE(a->Synchronise().ok());
  for (int i = 0; i < kTokens * kN; ++i) EXPECT_EQ(pinned[i], F32ToBF16(expected));
  a->Free(x), a->Free(w), a->Free(factors), a->Free(y), a->FreePinned(pinned);
}

// It has a table of its own then, and what it opened goes with it.
TEST(CublasLt, AnAcceleratorMultipliesThroughGraphs) {
  const int before = fake::Alive(), library = fake::cublaslt().alive;
  constexpr float kX = 0.74609375f, kFactor = std::bit_cast<float>(0x3f3f3f3f);
  ExpectProductThroughAGraph(DType::kBF16, 1, 2, kX * kX * 64);
  EXPECT_EQ(fake::Alive(), before);
  EXPECT_EQ(fake::cublaslt().alive, library);
  EXPECT_EQ(OpenDevice(0).value()->table().name, "cuda-sm80");
  for (const int major : {8, 9}) {
    SCOPED_TRACE(testing::Message() << major << ".0");
    fake::settings().compute_major = major;
    ExpectProductThroughAGraph(DType::kF8E4M3, major == 9 ? 1 : 0, major == 9 ? 2 : 0, kX * 64 * kFactor);
    EXPECT_EQ(fake::Alive(), before);
    EXPECT_EQ(fake::cublaslt().alive, library);
  }
  fake::settings().compute_major = 8;
}

}  // namespace
}  // namespace shoal::cuda
