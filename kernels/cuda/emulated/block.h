// CUDA's execution model on the host, for tests: one thread block at a time, its threads as fibers. What a GPU leaves
// open is decided adversely and can be varied, so that a kernel which works here relies on nothing:
//   shared memory begins as 0xff bytes; which thread runs next between barriers is a choice (`Order`);
//   an asynchronous copy happens when its thread waits for it, not before.
// A block gives way to the others of its grid only while it looks for what another device will write (Yield).
// A barrier that not all threads reach ends the program with the place of each thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace shoal::cuda::emulated {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Which thread of a block, and which block of a grid, goes first.
enum class Order : uint8_t { kAscending, kDescending, kShuffled };
// For all launches that follow, of every thread.
void SetOrder(Order order, uint64_t seed = 0);

// Runs body() once for each thread of each block, with Here() set.
void RunGrid(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& body);

// The running thread's place, and its block's shared memory (128-byte aligned).
struct Place {
  Dim3 grid, block, block_index, thread_index;
  std::byte* shared = nullptr;
  size_t shared_bytes = 0;
  int lane() const { return static_cast<int>(linear() % 32); }
  unsigned linear() const { return thread_index.x + block.x * (thread_index.y + block.y * thread_index.z); }
};
extern thread_local Place here;

// __syncthreads: every thread of the block that has not ended.
void BlockBarrier();
// Between two looks at memory that somebody else writes: the other threads go on, and the other blocks once all of this
// one that could run have only looked.
void Yield();

// What the 32 threads of a warp do together: each brings `in`; when all lanes of `mask` have, compute(in, out) runs
// once over the lanes' slots, and each takes its `out`. Slots are kSlotBytes wide.
inline constexpr size_t kSlotBytes = 64;
struct WarpSlots {
  alignas(16) std::byte of[32][kSlotBytes];
};
using WarpFn = void (*)(uint32_t mask, const WarpSlots& in, WarpSlots& out);
void Collective(uint32_t mask, const char* what, const void* in, size_t in_bytes, void* out, size_t out_bytes,
                WarpFn compute);

// Copies of this thread: begun, closed into a group, and done when at most `pending` groups are left open.
void BeginCopy(void* shared, const void* global, size_t bytes, size_t valid_bytes);
void CommitCopies();
void WaitCopies(int pending);

}  // namespace shoal::cuda::emulated
