// What the system says of this process.
#pragma once

namespace shoal::metrics {

struct ProcessFigures {
  double resident_bytes = 0;
  double open_fds = 0;
  double cpu_s = 0;         // user and system
  double start_time_s = 0;  // since 1970
};

// From /proc and getrusage; a figure that cannot be read stays 0.
ProcessFigures ReadProcessFigures();

}  // namespace shoal::metrics
