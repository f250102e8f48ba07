// `shoal status` and `shoal chat`: talk to a running server.
#pragma once

#include "tools/cli/options.h"

namespace shoal::cli {

int RunStatus(const ClientOptions& options);
// Reads lines until end of file. Ctrl-C stops the answer, not the program; at the prompt it ends it.
int RunChat(const ClientOptions& options);

}  // namespace shoal::cli
