// Whether a rank's death may have been caused by the step it was executing. Pure.
#pragma once

#include <string_view>

namespace shoal::core {

// `cause` as agents word it in RankExit. False for signals that come from outside (HUP, INT, KILL, TERM, STOP, TSTP;
// but not for a KILL by the kernel when memory ran out), and for a rank that ended because it lost another one.
bool Blames(std::string_view cause);

}  // namespace shoal::core
