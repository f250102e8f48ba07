// Early return for absl::Status and absl::StatusOr.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SHOAL_CONCAT_INNER(a, b) a##b
#define SHOAL_CONCAT(a, b) SHOAL_CONCAT_INNER(a, b)

#define SHOAL_RETURN_IF_ERROR(expr)              \
  do {                                           \
    ::absl::Status shoal_status = (expr);        \
    if (!shoal_status.ok()) return shoal_status; \
  } while (false)

#define SHOAL_ASSIGN_OR_RETURN(lhs, expr) SHOAL_ASSIGN_OR_RETURN_IMPL(SHOAL_CONCAT(shoal_or_, __LINE__), lhs, expr)
#define SHOAL_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) return std::move(tmp).status();    \
  lhs = std::move(tmp).value()
