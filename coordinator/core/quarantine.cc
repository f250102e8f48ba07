// Tested by: tests/core/policies_test.cc
#include "coordinator/core/quarantine.h"

namespace shoal::core {

bool RunsAlone(const Suspicion& suspicion) {
  return suspicion.losses >= kMaxLosses - 1 || suspicion.in_company >= kMaxInCompany;
}

bool Blame(bool alone, Suspicion* suspicion) {
  ++suspicion->losses;
  ++(alone ? suspicion->alone : suspicion->in_company);
  return alone && (suspicion->losses >= kMaxLosses || suspicion->alone >= kMaxLosses);
}

}  // namespace shoal::core
