// config.json of a tiny model of each family, in the form in which the family's checkpoints are published.
#pragma once

#include <map>
#include <string>

namespace shoal::testing {

std::map<std::string, std::string> TinyFamilyConfigs();

}  // namespace shoal::testing
