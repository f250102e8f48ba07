// A rank over Gloo in a process of its own: `gloo_peer TP RANK ROUNDS`, one stage. Writes its address to stdout, reads
// those of all ranks from stdin, a line each, and sums. Exits with 0 when every sum was right, with 4 when it has lost
// a rank, with 5 when it could not connect; sums for ever when ROUNDS is 0.
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "worker/comm/gloo.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int tp = std::atoi(argv[1]), rank = std::atoi(argv[2]), rounds = std::atoi(argv[3]);
  std::signal(SIGPIPE, SIG_IGN);
  shoal::comm::EndOnGlooFault(4);
  const shoal::comm::GroupShape shape = {.tp = tp, .pp = 1, .max_activation_bytes = 0, .max_samples = 1};
  const shoal::comm::AbortFlag abort{0};
  const auto listener = shoal::comm::GlooListener::Listen(shape, rank, 5, "127.0.0.1", &abort);
  if (!listener.ok()) return 3;
  std::cout << (*listener)->address() << std::endl;
  std::vector<std::string> addresses(tp);
  for (std::string& address : addresses) std::getline(std::cin, address);
  auto comm = (*listener)->Connect(addresses, 30 * shoal::kSecond);
  if (!comm.ok()) {
    std::cerr << comm.status() << std::endl;
    return 5;
  }
  for (int i = 0; rounds == 0 || i < rounds; ++i) {
    std::vector<float> data(1 + i % 6000, static_cast<float>(i + rank));
    const absl::Status summed = comm->tensor->AllReduceSum(data);
    if (!summed.ok()) return absl::IsUnavailable(summed) ? 4 : 6;
    for (float x : data) {
      if (x != static_cast<float>(tp * i + tp * (tp - 1) / 2)) return 7;
    }
  }
  return 0;
}
