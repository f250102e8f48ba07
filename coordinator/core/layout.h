// How a group is cut: tp x pp, and what to do when there is no longer room for what was asked for. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "common/plan/control.h"

namespace shoal::core {

struct Layout {
  int32_t tp = 1, pp = 1;
  int32_t ranks() const { return tp * pp; }
  bool operator==(const Layout&) const = default;
};
std::string LayoutText(const Layout& layout);  // "tp 2 x pp 2"

struct PlacedLayout {
  Layout layout;
  std::vector<plan::RankAssignment> ranks;  // in rank order
};

// The best layout with at most `asked.tp` tensor ranks and `asked.pp` stages that the model can be cut into and that
// these agents have slots for: the one whose largest rank has the least work, and so the most room for KV; with more
// tensor ranks where that is equal. `asked` itself is one of them, on fewer agents. Whether weights and cache fit is
// known when the ranks have been asked; `refused` are those that turned out not to. `span_hosts`: ranks need not share
// memory. Unavailable: there is none.
absl::StatusOr<PlacedLayout> ChooseSmallerLayout(const model::ModelConfig& model,
                                                 std::span<const plan::AgentInfo> agents, const Layout& asked,
                                                 std::span<const Layout> refused, bool span_hosts = false);

}  // namespace shoal::core
