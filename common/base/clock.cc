#include "common/base/clock.h"

#include <ctime>

namespace shoal {

TimeNs RealClock::Now() const {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<TimeNs>(t.tv_sec) * kSecond + t.tv_nsec;
}

}  // namespace shoal
