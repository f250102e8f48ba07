// A process that an agent takes for a rank: it maps its page and its rings, says that it is ready, and with its first
// plan, which has step 7, begins to behave as SHOAL_FAKE_RANKS has it for its number. A list of "idle" (is done with
// it), "works", "waits" (for rank 0), "unheard" (waits for its agent), "spins", "sleeps", "tires" (works for a while
// before it sleeps), and "deaf" (does not even take the plan).
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "common/plan/control.h"
#include "common/plan/ring.h"
#include "worker/device/memory.h"
#include "worker/rank/control_page.h"
#include "worker/rank/operation.h"
#include "worker/rank/process.h"

namespace shoal {
namespace {

constexpr int kTires = 1500;  // operations of a millisecond

void Nap() {
  const timespec millisecond = {0, 1000000};
  nanosleep(&millisecond, nullptr);
}

void Behave(const std::string& how, rank::ControlPage& page) {
  page.step = 6;
  page.operation = static_cast<uint32_t>(rank::Operation::kAttention);
  page.state = static_cast<uint32_t>(plan::RankState::kRunning);
  if (how == "idle") {
    page.state = static_cast<uint32_t>(plan::RankState::kReady);
    page.step = 7;
  }
  if (how == "faults") {
    page.device_failed = 1;
    std::_Exit(1);
  }
  const uint32_t peer = how == "waits" ? 1 : how == "unheard" ? comm::WaitNote::kAgent : 0;
  comm::NotedWait wait(&page.waiting, peer);
  for (int turn = 0;; ++turn) {
    if (how == "works" || (how == "tires" && turn < kTires)) {
      ++page.progress;
      Nap();
    } else if (peer != 0) {
      wait.Look();
      Nap();
    } else if (how == "spins") {
      volatile uint64_t x = 0;
      while (page.abort == 0) x = x + 1;
    } else {
      pause();
    }
    if (page.abort != 0) return;
  }
}

int Run(int reader) {
  auto control = device::SharedMemory::Attach(rank::kControlFd, true);
  auto results = device::SharedMemory::Attach(rank::kResultRingFd, true);
  auto plans = device::SharedMemory::Attach(rank::kPlanRingFd, true);
  if (!control.ok() || !results.ok() || !plans.ok()) return 1;
  auto ring = plan::RingWriter::Create({results->data(), results->size()});
  if (!ring.ok() || !ring->AttachReader().ok()) return 2;
  const std::vector<std::string> list = absl::StrSplit(std::getenv("SHOAL_FAKE_RANKS"), ',');
  auto& page = *reinterpret_cast<rank::ControlPage*>(control->data());
  page.stale_records = 2;
  page.state = static_cast<uint32_t>(plan::RankState::kReady);
  const std::string& how = list.at(static_cast<size_t>(reader));
  if (how == "deaf") pause();
  auto records = plan::RingReader::Attach({plans->data(), plans->size()}, reader);
  if (!records.ok()) return 3;
  while (true) {
    const auto record = records->Next(-1, nullptr);
    if (!record.ok() || record->kind == plan::RecordKind::kStop) return 4;
    if (record->kind == plan::RecordKind::kPlan) break;
  }
  Behave(how, page);
  return 0;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) { return argc == 4 ? shoal::Run(std::atoi(argv[3])) : 3; }
