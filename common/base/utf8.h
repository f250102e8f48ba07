// Whether bytes are text. Others' bytes (a path, a line of a log) need not be.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shoal {

// Length of the valid UTF-8 sequence at text[i] (no surrogates, no overlong forms), 0 when there is none. i is below
// text.size().
size_t Utf8SequenceLength(std::string_view text, size_t i);

// `text` with U+FFFD in place of each byte that belongs to no valid sequence.
std::string ValidUtf8(std::string_view text);

}  // namespace shoal
