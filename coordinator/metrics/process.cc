#include "coordinator/metrics/process.h"

#include <dirent.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace shoal::metrics {
namespace {

double CountOpenFds() {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  double count = 0;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(dir);
  return count - 1;  // the one that reads
}

// Field 22 of /proc/self/stat: start after boot in clock ticks (proc(5)). The name in field 2 may hold spaces.
double StartTime() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  size_t at = line.rfind(')');
  if (at == std::string::npos) return 0;
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = line.find(' ', at + 1);
  if (at == std::string::npos) return 0;
  const double ticks = std::strtod(line.c_str() + at, nullptr);
  timespec now, up;
  clock_gettime(CLOCK_REALTIME, &now);
  clock_gettime(CLOCK_BOOTTIME, &up);
  const double boot =
      static_cast<double>(now.tv_sec - up.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec - up.tv_nsec);
  return boot + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

ProcessFigures ReadProcessFigures() {
  ProcessFigures figures;
  std::ifstream file("/proc/self/statm");
  double size = 0, resident = 0;
  if (file >> size >> resident) figures.resident_bytes = resident * static_cast<double>(sysconf(_SC_PAGESIZE));
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    figures.cpu_s = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                    1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  }
  figures.open_fds = CountOpenFds();
  figures.start_time_s = StartTime();
  return figures;
}

}  // namespace shoal::metrics
