// Events and effects as text, for timelines, and folded into a hash, to compare runs. Pure. What a new kind holds is
// said by one more Fields() in the source; until then only its place in the variant counts.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/core/events.h"

namespace shoal::sim {

std::string Describe(const core::Event& event);
std::string Describe(const core::Effect& effect);

uint64_t Digest(uint64_t hash, const core::Event& event);
uint64_t Digest(uint64_t hash, const core::Effect& effect);

}  // namespace shoal::sim
