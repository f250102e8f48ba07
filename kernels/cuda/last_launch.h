// What this thread has launched last. Kernels fail when they run, long after their launch: only where each is waited
// for is it the one that has failed.
#pragma once

namespace shoal::cuda {

void NoteLaunch(const char* name);  // of static storage
const char* LastLaunch();           // "nothing" at first

}  // namespace shoal::cuda
