// The parts that the generation parsers share. Internal.
#pragma once

#include <boost/json/object.hpp>

#include "coordinator/http/fields.h"
#include "coordinator/http/generation_spec.h"

namespace shoal::http {

// Refuses known fields whose effect is not offered.
void RefuseUnsupported(bool chat, Fields* fields);

// model, stream, stream_options, sampling, stop, limits: what chat and completions have in common.
void ParseSampling(const Limits& limits, Fields* fields, GenerationSpec* spec);

// What shapes logits, n, and log-probabilities: those of vLLM's and OpenAI's fields that are numbers, lists and flags.
// After all others: it looks at stream and max_tokens.
void ParseLogits(const Limits& limits, Fields* fields, GenerationSpec* spec);

// "messages" and what else the chat template sees, into spec->context_json.
void ParseMessages(const boost::json::object& body, const Limits& limits, Fields* fields, GenerationSpec* spec);

// "prompt" of completions and /tokenize.
void ParsePrompt(const boost::json::value& prompt, Fields* fields, GenerationSpec* spec);

// An array of token ids under `name`; each must fit an int32.
void ParseTokenIds(const boost::json::value& value, std::string_view name, size_t limit, Fields* fields,
                   std::vector<int32_t>* ids);

}  // namespace shoal::http
