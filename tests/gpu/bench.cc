// Tested by: tests/gpu/CMakeLists.txt (gpu_suite_emulated runs the timings on small sizes)
#include "tests/gpu/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

#include "common/base/rng.h"
#include "tests/gpu/gpu_plugin.h"

namespace shoal::gpu {
namespace {

using Clock = std::chrono::steady_clock;

// Bits of 8 bytes of numbers. bf16: any sign and mantissa, 2^-7 to 2^-3. fp8: the same, 2^-1 to 2.
uint64_t Numbers(DType type, uint64_t i) {
  const uint64_t bits = RandomBits(1, 2, i);
  if (type == DType::kF8E4M3) return (bits & 0x8f8f8f8f8f8f8f8f) | 0x3030303030303030;
  return (bits & 0x81ff81ff81ff81ff) | 0x3c003c003c003c00;
}

}  // namespace

void Must(const absl::Status& status, const std::string& what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what.c_str(), status.ToString().c_str());
  std::exit(1);
}

Bench::Bench(std::unique_ptr<ops::Accelerator> accelerator, const BenchOptions& options)
    : accelerator_(accelerator.get()),
      device_(Must(device::MakeAcceleratorDevice(std::move(accelerator)), "device")),
      options_(options),
      large_(Must(accelerator_->Memory(), "memory").total >= kLargeDevice) {
  auto library = LibraryProduct::Open(device_.get(), accelerator_->native_stream());
  if (library.ok()) {
    library_ = std::move(*library);
  } else {
    std::printf("no product of cuBLASLt beside ours: %s\n", std::string(library.status().message()).c_str());
  }
}

std::vector<Shape> Bench::Shapes() const {
  if (!large_) {
    return {{"tiny bf16", DType::kBF16, 2, 64, 4, 2, 16, 96, 320},
            {"tiny fp8", DType::kF8E4M3, 2, 64, 4, 2, 16, 96, 320}};
  }
  // config.json of meta-llama/Llama-3.1-8B and Llama-3.1-70B.
  return {{"8B bf16", DType::kBF16, 32, 4096, 32, 8, 128, 14336, 128256},
          {"70B fp8", DType::kF8E4M3, 80, 8192, 64, 8, 128, 28672, 128256}};
}

device::Memory Bench::Random(size_t bytes, DType type, uint64_t seed) {
  const size_t piece = large_ ? size_t{32} << 20 : size_t{1} << 16;
  device::Memory& numbers = numbers_[type];
  if (numbers.size() == 0) {
    std::vector<uint64_t> values(2 * piece / 8);
    for (size_t i = 0; i < values.size(); ++i) values[i] = Numbers(type, i);
    numbers = Upload(values);
  }
  device::Memory memory = Must(device_->Allocate(std::max<size_t>(bytes, 1)), "memory");
  if (seed == 0) seed = ++turn_ << 32;
  for (size_t at = 0; at < bytes; at += piece) {
    const std::byte* const from = numbers.data() + RandomBits(seed, 3, at) % (piece / 256) * 256;
    Must(accelerator_->Copy(memory.data() + at, from, std::min(piece, bytes - at)), "copy");
  }
  Wait();
  return memory;
}

void Bench::Wait() {
  const uint64_t mark = Must(device_->Mark(), "mark");
  while (!Must(device_->Reached(mark), "waiting")) std::this_thread::yield();
}

double Bench::SecondsOf(const std::function<absl::Status(int)>& enqueue, int count) {
  Must(enqueue(0), "first");
  const auto graph = Must(device_->Record([&] {
    for (int i = 0; i < count; ++i) {
      if (absl::Status s = enqueue(i); !s.ok()) return s;
    }
    return absl::OkStatus();
  }),
                          "recording");
  const auto timed = [&](int launches) {
    const auto begin = Clock::now();
    for (int i = 0; i < launches; ++i) Must(device_->Launch(*graph), "launch");
    Wait();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const double at_least = large_ ? 0.03 : 0;
  double seconds = timed(1);  // warms up
  int launches = 1;
  while ((seconds = timed(launches)) < at_least) launches *= 2;
  for (int again = 0; again < 2; ++again) seconds = std::min(seconds, timed(launches));
  return seconds / launches / count;
}

int SetsOf(const Bench& bench, size_t bytes) {
  return bench.large() ? std::clamp(static_cast<int>(kRotateBytes / bytes) + 1, 1, 16) : 1;
}

double Bench::LibrarySeconds(DType type, int64_t tokens, int64_t n, int64_t k) {
  if (library_ == nullptr) return 0;
  const size_t width = type == DType::kBF16 ? 2 : 1, set = width * static_cast<size_t>(n * k);
  const int sets = SetsOf(*this, set);
  const device::Memory w = Random(set * static_cast<size_t>(sets), type);
  const device::Memory x = Random(width * static_cast<size_t>(tokens * k), type);
  const device::Memory y = Random(2 * static_cast<size_t>(tokens * n));
  bool found = true;
  const auto product = [&](int i) -> absl::Status {
    const auto done = library_->Multiply({.type = type,
                                          .x = x.data(),
                                          .w = w.data() + static_cast<size_t>(i % sets) * set,
                                          .y = y.data(),
                                          .tokens = tokens,
                                          .n = n,
                                          .k = k});
    if (done.ok()) found &= *done;
    return done.status();
  };
  Must(product(0), "cuBLASLt");
  return found ? SecondsOf(product, 16) : 0;
}

double Bench::CopyRate() {
  if (copy_ > 0) return copy_;
  const size_t bytes = large_ ? size_t{1} << 30 : size_t{1} << 16;
  const device::Memory from = Random(bytes), to = Random(bytes);
  copy_ = 2 * static_cast<double>(bytes) /
          SecondsOf([&](int) { return accelerator_->Copy(to.data(), from.data(), bytes); }, 4);
  Figure("device copy", copy_ / 1e9, "GB/s");
  return copy_;
}

void Bench::Figure(const std::string& name, double value, const char* unit) const {
  if (large_) std::printf("figure: %s %.4g %s\n", name.c_str(), value, unit);
  std::fflush(stdout);
}

}  // namespace shoal::gpu
