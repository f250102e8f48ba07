// Effects of one event while they are being made. Control leaves before what clients see: devices wait, people do not
// notice microseconds. Within each list the order is kept.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "coordinator/core/events.h"

namespace shoal::core {

struct EffectList {
  // SendJoin, SendLoad, SendConnect, SendPreload, SendPlan, SendAbort, SendDrain, SetTimer, LogLine,
  // Report, CanaryLearned
  std::vector<Effect> control;
  std::vector<Effect> client;  // EmitTokens, EmitPromptLogprobs, FinishChoice, FinishRequest

  void Log(LogLine::Level level, std::string text) { control.push_back(LogLine{level, std::move(text)}); }
  void Info(std::string text) { Log(LogLine::Level::kInfo, std::move(text)); }
  void Warn(std::string text) { Log(LogLine::Level::kWarning, std::move(text)); }
  void Error(std::string text) { Log(LogLine::Level::kError, std::move(text)); }
};

}  // namespace shoal::core
