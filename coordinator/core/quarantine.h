// Who runs alone because ranks died while it ran, and who is poison. Pure.
//
// A loss counts for the requests that were in unanswered plans, when a step may have caused it (blame.h). At the second
// one without getting on, a request runs alone until it gets on: then it is known not to be the cause. What dies of it
// alone, dies of it: at the third loss it is poison. Nobody is poison for what happened in company.
//
// How many losses there can be: k requests that kill whenever they run, 2 in company and one alone each, 2 + k.
// Requests that kill only in company: kMaxInCompany, then each of them runs alone to its end. Whatever they do: each
// request that kills is in at most kMaxInCompany losses in company, counted anew when another was found to be poison,
// and kMaxLosses alone; and each loss has such a request in it.
#pragma once

#include <cstdint>

namespace shoal::core {

inline constexpr int32_t kMaxLosses = 3, kMaxInCompany = 4;

struct Suspicion {
  int32_t losses = 0;      // since it last got further than it ever was
  int32_t in_company = 0;  // with others in the plans under way, and none of those was found to be poison since
  int32_t alone = 0;       // with nothing else in the plans under way
};

// Nothing else may be on the ranks while it runs.
bool RunsAlone(const Suspicion& suspicion);

// One more loss. True: it is poison, and is not tried again.
bool Blame(bool alone, Suspicion* suspicion);

// It got further than it ever was.
inline void GotOn(Suspicion* suspicion) { suspicion->losses = 0; }

// Another request was found to be poison: losses in company were that one's. Whether this one is another, a run alone
// still has to show.
inline void Explained(Suspicion* suspicion) { suspicion->in_company = 0; }

}  // namespace shoal::core
