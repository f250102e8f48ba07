// The way to cuBLASLt, on one that the host plays by cuBLASLt's rules (fake_cuda/): that what is multiplied is what was
// meant, how often it is asked, and what is said when it cannot help.
#include <gmock/gmock.h>

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
using ::testing::HasSubstr;

std::byte g_workspace;  // the played library never looks at it

std::unique_ptr<LibraryGemm> Open() { return OpenCublasLtGemm(&g_workspace).value(); }

ops::Acts ActsOf(Buffer<bf16>& b) { return ops::Acts(static_cast<void*>(b.data())); }

// What was called since it was made.
struct Calls {
  int asked = fake::cublaslt().asked, checked = fake::cublaslt().checked, multiplied = fake::cublaslt().multiplied;
  int Asked() const { return fake::cublaslt().asked - asked; }
  int Checked() const { return fake::cublaslt().checked - checked; }
  int Multiplied() const { return fake::cublaslt().multiplied - multiplied; }
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
    }
    x_ = RandomBf16(static_cast<size_t>(tokens_ * kK), 8);
  }
  int N(size_t p) const { return 40 + 9 * static_cast<int>(p); }
  int Stride(size_t p) const { return (N(p) + 15) / 8 * 8; }  // more than n

  // y of part p, [tokens, n].
  std::vector<std::vector<float>> Run(Numerics numerics, LibraryGemm* gemm) {
    QueueStream stream(nullptr, 4);
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
    std::vector<std::vector<float>> out(types_.size());
    for (size_t p = 0; p < types_.size(); ++p) {
      const std::vector<float> all = f32_out_ ? logits[p].Floats() : y[p].Floats();
      for (int t = 0; t < tokens_; ++t) {
        const auto row = all.begin() + t * Stride(p);
        out[p].insert(out[p].end(), row, row + N(p));
        EXPECT_TRUE(std::all_of(row + N(p), row + Stride(p), [](float v) { return std::isnan(v); })) << "between rows";
      }
    }
    return out;
  }
  std::vector<float> Expected(size_t p) const {
    const int n = N(p);
    std::vector<float> w(static_cast<size_t>(n * kK)), y(static_cast<size_t>(tokens_ * n));
    DequantiseRow(types_[p], canonical_[p].data(), n * kK, w.data());
    ops::MatmulArgs args = {.x = x_.data(), .xq = nullptr, .parts = {}, .part_count = 1, .tokens = tokens_, .k = kK};
    args.parts[0] = {{w.data(), DType::kF32, n, kK}, y.data(), n};
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
  std::vector<float> x_;
};

TEST(CublasLt, FastMultipliesWhatInvariantDoes) {
  const auto gemm = Open();
  for (const bool f32_out : {false, true}) {
    for (const int tokens : {65, 130}) {
      Product product({DType::kBF16, DType::kQ8_0, DType::kBF16, DType::kF8E4M3}, tokens, f32_out);
      const Calls calls;
      const auto got = product.Run(Numerics::kFast, gemm.get());
      EXPECT_EQ(calls.Multiplied(), 2) << "the parts in bf16";
      const auto own = product.Run(Numerics::kInvariant, gemm.get());
      EXPECT_EQ(calls.Multiplied(), 2);
      for (size_t p = 0; p < 4; ++p) {
        ops::ExpectRowsNear(product.Expected(p), got[p], static_cast<size_t>(product.N(p)), f32_out ? 1e-4f : 8e-3f);
      }
      for (const size_t p : {1, 3}) ops::ExpectSameBits(own[p], got[p]);
    }
  }
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
  Product known({DType::kBF16}, 70, false), unknown({DType::kBF16}, 71, false);
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

TEST(CublasLt, SaysWhatTheLibrarySays) {
  const auto gemm = Open();
  Buffer<bf16> x(RandomBf16(70 * 32, 1)), w(RandomBf16(8 * 32, 2)), y(70 * 8);
  const GemmProduct product = {x.data(), w.data(), DType::kBF16, false, y.data(), false, 8, 70, 8, 32};
  ASSERT_TRUE(LibraryTakes(product));
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

// The device's accelerator (runtime.cc) has a table of its own then, and what it opened goes with it.
TEST(CublasLt, AnAcceleratorMultipliesThroughGraphs) {
  const int before = fake::Alive(), library = fake::cublaslt().alive;
  constexpr int kTokens = 70, kN = 24, kK = 64;
  {
    const auto a = OpenDevice(0, Numerics::kFast).value();
    EXPECT_EQ(a->table().name, "cuda-sm80-fast");
    EXPECT_TRUE(a->table().warms_up);
    auto* const x = static_cast<bf16*>(a->Allocate(kTokens * kK * 2).value());
    auto* const w = static_cast<bf16*>(a->Allocate(kN * kK * 2).value());
    auto* const y = static_cast<bf16*>(a->Allocate(kTokens * kN * 2).value());
    auto* const pinned = static_cast<uint16_t*>(a->AllocatePinned(kTokens * kN * 2).value());
    // bf16 0x3f3f is 0.74609375.
    ASSERT_TRUE(a->Fill(x, 0x3f, kTokens * kK * 2).ok());
    ASSERT_TRUE(a->Fill(w, 0x3f, kN * kK * 2).ok());
    const auto multiply = [&] {
      ops::MatmulArgs args = {.x = ops::ConstActs(static_cast<const void*>(x)),
                              .xq = nullptr,
                              .parts = {},
                              .part_count = 1,
                              .tokens = kTokens,
                              .k = kK};
      args.parts[0] = {{w, DType::kBF16, kN, kK}, ops::Acts(static_cast<void*>(y)), kN};
      return a->table().matmul(a->stream(), args);
    };
    const Calls calls;
    ASSERT_TRUE(multiply().ok());
    ASSERT_TRUE(a->BeginCapture().ok());
    ASSERT_TRUE(multiply().ok());
    const auto graph = a->EndCapture().value();
    EXPECT_EQ(calls.Multiplied(), 2);
    EXPECT_EQ(calls.Asked(), 1);
    ASSERT_TRUE(a->Fill(y, 0, kTokens * kN * 2).ok());
    ASSERT_TRUE(a->Launch(*graph).ok());
    ASSERT_TRUE(a->CopyOut(pinned, y, kTokens * kN * 2).ok());
    ASSERT_TRUE(a->Synchronise().ok());
    for (int i = 0; i < kTokens * kN; ++i) EXPECT_EQ(pinned[i], F32ToBF16(0.74609375f * 0.74609375f * kK));
    a->Free(x), a->Free(w), a->Free(y), a->FreePinned(pinned);
  }
  EXPECT_EQ(fake::Alive(), before);
  EXPECT_EQ(fake::cublaslt().alive, library);
  EXPECT_EQ(OpenDevice(0).value()->table().name, "cuda-sm80");
}

}  // namespace
}  // namespace shoal::cuda
