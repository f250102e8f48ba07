// `shoal status`, `shoal drain` and `shoal chat`: talk to a running server.
#pragma once

#include "tools/cli/options.h"

namespace shoal::cli {

int RunStatus(const ClientOptions& options);
// 0: the agent has no ranks, or without `wait`, will have none. 1, with the reason: it will not be drained.
int RunDrain(const ClientOptions& options);
// Reads lines until end of file. Ctrl-C stops the answer, not the program; at the prompt it ends it.
int RunChat(const ClientOptions& options);

}  // namespace shoal::cli
