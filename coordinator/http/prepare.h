// From what a client asked for to what the core runs: template, tokens, limits of the model. Pure and thread-safe, but
// slow enough (a megabyte of text) to be kept off the I/O threads.
#pragma once

#include <optional>

#include "coordinator/core/request.h"
#include "coordinator/http/engine.h"
#include "coordinator/http/generation_spec.h"

namespace shoal::http {

// The tokens of a prompt or of rendered messages; at least one.
std::optional<ApiError> EncodePrompt(const GenerationSpec& spec, const ServedModel& model, std::vector<int32_t>* ids);

// Fills all of `request` but id and arrived. A missing seed comes from the system's randomness.
std::optional<ApiError> Prepare(const GenerationSpec& spec, const ServedModel& model, core::GenerateRequest* request);

// kModelNotFound unless `name` is empty or one of the model's names.
std::optional<ApiError> CheckModelName(const ServedModel& model, const std::string& name);

}  // namespace shoal::http
