// A rank that sums up with others over peer memory, as a process: `gpu_sum_rank DEVICE RANK RANKS ROUNDS SEED TIMED`.
// Says "offer ..." on stdout, takes those of all ranks, a line each, from stdin; then runs rounds and looks at every
// bit. TIMED, 1: then it measures, and rank 0 says what a sum takes in a graph of sums, as lines "figure: ...". Ends
// with 0, with 4 when its device does not reach the memory of another rank's, else with 1; stderr says why. Tested by:
// tests/gpu/all_reduce_gpu_test.cc
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/dtype.h"
#include "common/base/rng.h"
#include "common/base/status_macros.h"
#include "tests/gpu/gpu_plugin.h"
#include "worker/comm/all_reduce.h"
#include "worker/comm/peer_memory.h"
#include "worker/device/device.h"

namespace {

using shoal::comm::PeerMemory;
using shoal::comm::PeerOffer;

constexpr int kUnreachable = 4;
constexpr int kSumsAtOnce = 8;  // enqueued back to back, of different sizes

struct Options {
  int device, rank, ranks, rounds;
  uint64_t seed;
  bool timed;
};

// Values of about the same size, so that the order of a sum of three and more shows.
std::vector<uint16_t> Values(const Options& o, int rank, uint64_t sum, size_t count) {
  std::vector<uint16_t> values(count);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t bits = shoal::RandomBits(o.seed + static_cast<uint64_t>(rank), sum, i);
    values[i] = shoal::F32ToBF16(static_cast<float>(static_cast<int64_t>(bits % 200001) - 100000) / 1024);
  }
  return values;
}

std::vector<uint16_t> Sums(const Options& o, uint64_t sum, size_t count) {
  std::vector<float> total(count);
  for (int r = 0; r < o.ranks; ++r) {
    const std::vector<uint16_t> part = Values(o, r, sum, count);
    for (size_t i = 0; i < count; ++i) {
      const float x = shoal::BF16ToF32(part[i]);
      total[i] = r == 0 ? x : total[i] + x;
    }
  }
  std::vector<uint16_t> rounded(count);
  std::transform(total.begin(), total.end(), rounded.begin(), shoal::F32ToBF16);
  return rounded;
}

// Mostly what a decoder has; now and then as much as there may be. Odd counts and places, too.
size_t CountOf(const Options& o, uint64_t sum) {
  const uint64_t bits = shoal::RandomBits(o.seed, 1, sum);
  const size_t most = shoal::comm::PeerAllReduceBytes(o.ranks) / sizeof(uint16_t);
  return sum % 13 == 5 ? most : 1 + bits % 20000;
}

std::string Encode(const PeerOffer& offer) {
  const absl::string_view device(reinterpret_cast<const char*>(offer.device.data()), offer.device.size());
  return absl::StrCat(offer.host, " ", offer.port, " ", absl::BytesToHexString(device), " ", offer.bytes);
}

absl::StatusOr<std::vector<PeerOffer>> ReadOffers(int ranks) {
  std::vector<PeerOffer> offers;
  std::string device;
  for (PeerOffer offer; static_cast<int>(offers.size()) < ranks; offers.push_back(offer)) {
    if (!(std::cin >> offer.host >> offer.port >> device >> offer.bytes)) {
      return absl::InvalidArgumentError("no offers came");
    }
    const std::string bytes = absl::HexStringToBytes(device);
    if (bytes.size() != offer.device.size()) return absl::InvalidArgumentError("an offer without a device");
    std::memcpy(offer.device.data(), bytes.data(), bytes.size());
  }
  return offers;
}

// One buffer on the device for each sum that is under way.
class Rounds {
 public:
  Rounds(const Options& o, PeerMemory* memory, shoal::device::Device* device)
      : o_(o), memory_(memory), device_(device) {}

  absl::Status Make() {
    for (auto& buffer : buffers_) {
      const size_t bytes = shoal::comm::PeerAllReduceBytes(o_.ranks) + 2 * sizeof(uint16_t);
      SHOAL_ASSIGN_OR_RETURN(buffer, device_->Allocate(bytes));
    }
    return absl::OkStatus();
  }

  // Sums [first, first + kSumsAtOnce) of fresh values, as they come or recorded in `graph`.
  absl::Status Run(uint64_t first, shoal::ops::AcceleratorGraph* graph, uint64_t graph_first) {
    const uint64_t sizes = graph == nullptr ? first : graph_first;
    for (uint64_t s = 0; s < kSumsAtOnce; ++s) {
      const std::vector<uint16_t> mine = Values(o_, o_.rank, first + s, CountOf(o_, sizes + s));
      SHOAL_RETURN_IF_ERROR(device_->Upload(At(s), mine.data(), mine.size() * sizeof(uint16_t)));
    }
    SHOAL_RETURN_IF_ERROR(graph == nullptr ? Enqueue(sizes) : device_->Launch(*graph));
    for (uint64_t s = 0; s < kSumsAtOnce; ++s) {
      std::vector<uint16_t> got(CountOf(o_, sizes + s));
      SHOAL_RETURN_IF_ERROR(device_->Download(got.data(), At(s), got.size() * sizeof(uint16_t)));
      if (got != Sums(o_, first + s, got.size())) {
        return absl::DataLossError(absl::StrCat("sum ", first + s, " of ", got.size(), " elements is wrong"));
      }
    }
    return absl::OkStatus();
  }
  absl::Status Enqueue(uint64_t sizes) {
    for (uint64_t s = 0; s < kSumsAtOnce; ++s) {
      const auto count = static_cast<int64_t>(CountOf(o_, sizes + s));
      SHOAL_RETURN_IF_ERROR(memory_->AllReduceSum(shoal::ops::Acts(static_cast<void*>(At(s))), count));
    }
    return absl::OkStatus();
  }

 private:
  // Every third one is not aligned.
  uint16_t* At(uint64_t s) { return buffers_[s].as<uint16_t>() + (s % 3 == 2 ? 1 : 0); }

  const Options o_;
  PeerMemory* const memory_;
  shoal::device::Device* const device_;
  std::array<shoal::device::Memory, kSumsAtOnce> buffers_;
};

// Sums of one size one after the other in a graph, with no host between them, as in a decoder.
absl::Status Time(const Options& o, PeerMemory& memory, shoal::device::Device& device) {
  constexpr int kSums = 64, kLaunches = 20;
  const size_t most = shoal::comm::PeerAllReduceBytes(o.ranks);
  SHOAL_ASSIGN_OR_RETURN(const shoal::device::Memory data, device.Allocate(most));
  SHOAL_ASSIGN_OR_RETURN(const shoal::device::Memory word, device.Allocate(4));
  const std::vector<uint8_t> zeros(most);
  SHOAL_RETURN_IF_ERROR(device.Upload(data.data(), zeros.data(), most));
  for (size_t bytes = 4096; bytes <= most; bytes *= 4) {
    const auto sums = [&]() -> absl::Status {
      for (int i = 0; i < kSums; ++i) {
        const auto count = static_cast<int64_t>(bytes / sizeof(uint16_t));
        SHOAL_RETURN_IF_ERROR(memory.AllReduceSum(shoal::ops::Acts(static_cast<void*>(data.data())), count));
      }
      return absl::OkStatus();
    };
    SHOAL_ASSIGN_OR_RETURN(const auto graph, device.Record(sums));
    uint32_t end = 0;
    SHOAL_RETURN_IF_ERROR(device.Launch(*graph));
    SHOAL_RETURN_IF_ERROR(device.Download(&end, word.data(), sizeof end));
    const shoal::TimeNs begin = shoal::RealClock().Now();
    for (int i = 0; i < kLaunches; ++i) SHOAL_RETURN_IF_ERROR(device.Launch(*graph));
    SHOAL_RETURN_IF_ERROR(device.Download(&end, word.data(), sizeof end));
    const auto taken = static_cast<double>(shoal::RealClock().Now() - begin);
    if (o.rank == 0) {
      std::printf("figure: all-reduce of %zu KiB over peer memory of %d devices %.2f us\n", bytes >> 10, o.ranks,
                  taken / 1e3 / kSums / kLaunches);
    }
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& o) {
  SHOAL_ASSIGN_OR_RETURN(auto accelerator, shoal::gpu::OpenAccelerator(shoal::ops::Numerics::kInvariant, o.device));
  shoal::ops::Accelerator* const raw = accelerator.get();
  SHOAL_ASSIGN_OR_RETURN(const auto device, shoal::device::MakeAcceleratorDevice(std::move(accelerator)));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<PeerMemory> memory, PeerMemory::Create(raw));
  std::printf("offer %s\n", Encode(memory->offer()).c_str());
  std::fflush(stdout);
  SHOAL_ASSIGN_OR_RETURN(const std::vector<PeerOffer> offers, ReadOffers(o.ranks));
  const shoal::TimeNs deadline = shoal::RealClock().Now() + 30 * shoal::kSecond;
  SHOAL_RETURN_IF_ERROR(memory->Map(offers, o.rank, deadline, [] { return absl::OkStatus(); }));
  Rounds rounds(o, memory.get(), device.get());
  SHOAL_RETURN_IF_ERROR(rounds.Make());
  uint64_t first = 0;
  for (int round = 0; round < o.rounds; ++round, first += kSumsAtOnce) {
    SHOAL_RETURN_IF_ERROR(rounds.Run(first, nullptr, 0));
  }
  SHOAL_ASSIGN_OR_RETURN(const auto graph, device->Record([&] { return rounds.Enqueue(0); }));
  for (int round = 0; round < o.rounds; ++round, first += kSumsAtOnce) {
    SHOAL_RETURN_IF_ERROR(rounds.Run(first, graph.get(), 0));
  }
  return o.timed ? Time(o, *memory, *device) : absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const Options options = {std::atoi(argv[1]),
                           std::atoi(argv[2]),
                           std::atoi(argv[3]),
                           std::atoi(argv[4]),
                           std::strtoull(argv[5], nullptr, 10),
                           std::atoi(argv[6]) != 0};
  const absl::Status status = Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "rank %d: %s\n", options.rank, status.ToString().c_str());
  return absl::IsFailedPrecondition(status) ? kUnreachable : 1;
}
