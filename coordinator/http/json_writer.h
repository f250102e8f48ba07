// JSON by hand, for what is written once per token. Everything else uses Boost.JSON.
#pragma once

#include <string>
#include <string_view>

namespace shoal::http {

// Appends `text` as a JSON string with its quotes. What is not valid UTF-8 in it becomes U+FFFD, so that the result is
// always valid JSON.
void AppendJsonString(std::string_view text, std::string* out);

// The length of the longest prefix of `text` that is valid UTF-8 (no surrogates, no overlong forms).
size_t ValidUtf8Prefix(std::string_view text);

}  // namespace shoal::http
