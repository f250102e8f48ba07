// Tested by: tests/kernels/cuda/emulated_test.cc
#include "kernels/cuda/emulated/block.h"

#include <algorithm>
#include <atomic>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace shoal::cuda::emulated {
namespace {

namespace ctx = boost::context;

constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kSharedAlignment = 128;

thread_local ctx::pooled_fixedsize_stack t_stacks(kStackBytes);

// Read by every thread that launches.
std::atomic<Order> g_order = Order::kAscending;
std::atomic<uint64_t> g_seed = 0;

struct Copy {
  void* to;
  const void* from;
  size_t bytes, valid_bytes;
};

struct Thread {
  Place place;
  ctx::fiber fiber;                // where it goes on; empty: ended
  const uint64_t* wait = nullptr;  // stands until *wait != seen
  uint64_t seen = 0;
  bool looked = false;  // has given way by Yield() since it was resumed
  bool ended = false;
  const char* what = "start";  // what it waits for
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

struct Warp {
  uint32_t arrived = 0, mask = 0;
  uint64_t generation = 0;
  const char* what = nullptr;
  WarpSlots in, out;
};

struct Block {
  Block(const Place& first, size_t shared_bytes);

  std::unique_ptr<std::byte, void (*)(void*)> shared;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned alive = 0, at_barrier = 0;
  uint64_t barrier_generation = 0;
  ctx::fiber scheduler;
  Thread* running = nullptr;
};

thread_local Block* t_block = nullptr;

[[noreturn]] void Die(const char* why) {
  std::fprintf(stderr, "emulated kernel: %s\n", why);
  if (t_block != nullptr) {
    for (const Thread& t : t_block->threads) {
      if (!t.fiber && &t != t_block->running) continue;
      const Dim3 b = t.place.block_index, i = t.place.thread_index;
      std::fprintf(stderr, "  block (%u,%u,%u) thread (%u,%u,%u) at %s\n", b.x, b.y, b.z, i.x, i.y, i.z, t.what);
    }
  }
  std::abort();
}

// Back to the scheduler, until *wait changes.
void Stand(const uint64_t* wait, const char* what) {
  Block& block = *t_block;
  Thread& self = *block.running;
  self.wait = wait;
  self.seen = *wait;
  self.what = what;
  block.scheduler = std::move(block.scheduler).resume();
  self.wait = nullptr;
}

void ReleaseBarrierIfFull(Block& block) {
  if (block.at_barrier == 0 || block.at_barrier < block.alive) return;
  block.at_barrier = 0;
  ++block.barrier_generation;
}

void RunThread(Block& block, Thread& thread, const std::function<void()>& body) {
  if (!thread.fiber) {
    thread.fiber = ctx::fiber(std::allocator_arg, t_stacks, [&block, &body](ctx::fiber&& scheduler) {
      block.scheduler = std::move(scheduler);
      body();
      return std::move(block.scheduler);
    });
  }
  block.running = &thread;
  thread.looked = false;
  here = thread.place;
  thread.fiber = std::move(thread.fiber).resume();
  block.running = nullptr;
  if (thread.fiber) return;
  if (!thread.open.empty() || !thread.groups.empty()) Die("a thread ended with copies that nobody waited for");
  thread.ended = true;
  --block.alive;
  ReleaseBarrierIfFull(block);
}

std::vector<unsigned> Turns(unsigned count, std::mt19937_64& random) {
  const Order order = g_order;
  std::vector<unsigned> turns(count);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order == Order::kDescending) std::reverse(turns.begin(), turns.end());
  if (order == Order::kShuffled) std::shuffle(turns.begin(), turns.end(), random);
  return turns;
}

Block::Block(const Place& first, size_t shared_bytes)
    : shared(static_cast<std::byte*>(
                 std::aligned_alloc(kSharedAlignment, (shared_bytes / kSharedAlignment + 1) * kSharedAlignment)),
             std::free) {
  const unsigned count = first.block.x * first.block.y * first.block.z;
  std::memset(shared.get(), 0xff, shared_bytes);
  threads.resize(count);
  warps.resize((count + 31) / 32);
  alive = count;
  for (unsigned i = 0; i < count; ++i) {
    Place& p = threads[i].place;
    p = first;
    p.shared = shared.get();
    p.shared_bytes = shared_bytes;
    p.thread_index = {i % first.block.x, i / first.block.x % first.block.y, i / (first.block.x * first.block.y)};
  }
}

// Until all of its threads have ended, or those that can run only look (then false).
bool Advance(Block& block, const std::function<void()>& body, std::mt19937_64& random) {
  t_block = &block;
  bool only_looks = false;
  while (block.alive > 0 && !only_looks) {
    bool moved = false;
    only_looks = true;
    for (const unsigned i : Turns(static_cast<unsigned>(block.threads.size()), random)) {
      Thread& thread = block.threads[i];
      if (thread.ended || (thread.wait != nullptr && *thread.wait == thread.seen)) continue;
      moved = true;
      RunThread(block, thread, body);
      only_looks &= thread.looked;
    }
    if (!moved) Die("threads wait for each other: not all reach a barrier, or not all lanes of a mask come");
  }
  t_block = nullptr;
  return block.alive == 0;
}

// Blocks that have only looked, again and again until the last one has ended: all of a grid are there at once.
void RunWaiting(std::vector<std::unique_ptr<Block>> waiting, const std::function<void()>& body,
                std::mt19937_64& random) {
  constexpr int kLooksAtOnce = 16;  // then others, too, shall have a core
  for (int looks = 0; !waiting.empty(); ++looks) {
    const size_t before = waiting.size();
    std::erase_if(waiting, [&](const auto& block) { return Advance(*block, body, random); });
    if (waiting.size() < before) looks = 0;
    if (looks < kLooksAtOnce) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

}  // namespace

thread_local Place here;

void SetOrder(Order order, uint64_t seed) {
  g_order = order;
  g_seed = seed;
}

void RunGrid(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  std::mt19937_64 random(g_seed);
  const Place former = here;
  std::vector<std::unique_ptr<Block>> waiting;
  for (const unsigned i : Turns(grid.x * grid.y * grid.z, random)) {
    Place first;
    first.grid = grid;
    first.block = block;
    first.block_index = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
    auto one = std::make_unique<Block>(first, shared_bytes);
    if (!Advance(*one, body, random)) waiting.push_back(std::move(one));
  }
  RunWaiting(std::move(waiting), body, random);
  here = former;
}

void BlockBarrier() {
  Block& block = *t_block;
  ++block.at_barrier;
  const uint64_t before = block.barrier_generation;
  ReleaseBarrierIfFull(block);
  if (block.barrier_generation == before) Stand(&block.barrier_generation, "__syncthreads");
  here = block.running->place;
}

void Yield() {
  Block& block = *t_block;
  block.running->looked = true;
  block.running->what = "a look at memory";
  block.scheduler = std::move(block.scheduler).resume();
}

void Collective(uint32_t mask, const char* what, const void* in, size_t in_bytes, void* out, size_t out_bytes,
                WarpFn compute) {
  Block& block = *t_block;
  const int lane = here.lane();
  Warp& warp = block.warps[here.linear() / 32];
  if (in_bytes > kSlotBytes || out_bytes > kSlotBytes) Die("a warp's slot is too small");
  if ((mask >> lane & 1) == 0) Die("a lane calls what its mask leaves out");
  if (warp.arrived == 0) {
    warp.mask = mask;
    warp.what = what;
  } else if (warp.mask != mask || std::strcmp(warp.what, what) != 0) {
    Die("lanes of a warp do different things at once");
  }
  warp.arrived |= 1u << lane;
  std::memcpy(warp.in.of[lane], in, in_bytes);
  if (warp.arrived == mask) {
    compute(mask, warp.in, warp.out);
    warp.arrived = 0;
    ++warp.generation;
  } else {
    Stand(&warp.generation, what);
    here = block.running->place;
  }
  std::memcpy(out, warp.out.of[lane], out_bytes);
}

void BeginCopy(void* shared, const void* global, size_t bytes, size_t valid_bytes) {
  t_block->running->open.push_back({shared, global, bytes, valid_bytes});
}

void CommitCopies() {
  Thread& self = *t_block->running;
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

void WaitCopies(int pending) {
  Thread& self = *t_block->running;
  while (static_cast<int>(self.groups.size()) > pending) {
    for (const Copy& c : self.groups.front()) {
      std::memcpy(c.to, c.from, c.valid_bytes);
      std::memset(static_cast<std::byte*>(c.to) + c.valid_bytes, 0, c.bytes - c.valid_bytes);
    }
    self.groups.pop_front();
  }
}

}  // namespace shoal::cuda::emulated
