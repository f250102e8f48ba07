// The layouts that must agree.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "tests/comm/group.h"

namespace shoal::testing {

struct Layout {
  int tp, pp;
};
inline constexpr Layout kLayouts[] = {{1, 1}, {2, 1}, {3, 1}, {4, 1}, {1, 2}, {2, 2}, {3, 2}, {1, 3}};

// Every layout over every transport inside a host; over Gloo those that differ in who talks to whom.
inline std::vector<std::tuple<Layout, comm::TestTransport>> LayoutsAndTransports() {
  std::vector<std::tuple<Layout, comm::TestTransport>> all;
  for (const comm::TestTransport transport : comm::kAllTransports) {
    if (transport == comm::TestTransport::kGloo) continue;
    for (const Layout layout : kLayouts) all.emplace_back(layout, transport);
  }
  for (const Layout layout : {Layout{2, 1}, Layout{3, 1}, Layout{1, 2}, Layout{2, 2}, Layout{3, 2}}) {
    all.emplace_back(layout, comm::TestTransport::kGloo);
  }
  return all;
}
inline std::string LayoutName(Layout l) { return std::to_string(l.tp) + "x" + std::to_string(l.pp); }

}  // namespace shoal::testing
