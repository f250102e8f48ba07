// The layouts that must agree.
#pragma once

#include <string>
#include <utility>

namespace shoal::testing {

struct Layout {
  int tp, pp;
};
inline constexpr Layout kLayouts[] = {{1, 1}, {2, 1}, {3, 1}, {4, 1}, {1, 2}, {2, 2}, {3, 2}, {1, 3}};
inline std::string LayoutName(Layout l) { return std::to_string(l.tp) + "x" + std::to_string(l.pp); }

}  // namespace shoal::testing
