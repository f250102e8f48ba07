// The maker as a process: `shoal maker`, started by an agent (client.h) for one request. It alone opens the driver for
// what is not a rank's, and what it makes outlives it in the descriptor that it sends back.
#pragma once

#include "absl/status/status.h"

namespace shoal::maker {

inline constexpr int kSocketFd = 3;  // the agent's other end; the process ends when it is closed

// Does what the socket asks for and answers there, errors included. Not OK: nobody asked, or nobody took the answer.
absl::Status RunMakerProcess();

}  // namespace shoal::maker
