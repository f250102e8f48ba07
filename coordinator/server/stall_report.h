// A stall report as the one JSON object that its file holds.
#pragma once

#include <string>

#include "coordinator/core/report.h"

namespace shoal::server {

// "2026-11-21T16:17:03.250Z" for milliseconds since 1970.
std::string Timestamp(int64_t unix_ms);

// One line. Of requests it tells counts only, never what they say.
std::string ReportJson(const core::StallReport& report, int64_t unix_ms);

}  // namespace shoal::server
