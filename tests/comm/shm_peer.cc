// A rank of a shared-memory group in a process of its own: `shm_peer FD RANK ROUNDS`, the segment inherited as FD.
// Exits with 0 when every sum was right; sums for ever when ROUNDS is 0.
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>

#include "worker/comm/shm.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int fd = std::atoi(argv[1]), rank = std::atoi(argv[2]), rounds = std::atoi(argv[3]);
  struct stat info = {};
  if (fstat(fd, &info) != 0) return 3;
  const size_t bytes = info.st_size;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return 4;
  const shoal::comm::GroupShape shape = {.tp = 2, .pp = 1, .max_activation_bytes = 0, .max_samples = 1};
  const shoal::comm::AbortFlag abort{0};
  auto comm = shoal::comm::MakeShmRank(shape, rank, 5, {static_cast<std::byte*>(memory), bytes}, &abort);
  if (!comm.ok()) {
    std::fprintf(stderr, "%s\n", comm.status().ToString().c_str());
    return 5;
  }
  for (int i = 0; rounds == 0 || i < rounds; ++i) {
    std::vector<float> data(1 + i % 6000, static_cast<float>(i + rank));
    if (!comm->tensor->AllReduceSum(data).ok()) return 6;
    for (float x : data) {
      if (x != static_cast<float>(2 * i + 1)) return 7;
    }
  }
  return 0;
}
