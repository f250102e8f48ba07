#include "tools/cli/sse.h"

namespace shoal::cli {

void SseParser::Push(std::string_view piece) {
  held_.append(piece);
  size_t begin = 0;
  for (size_t end; (end = held_.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
    const std::string_view event = std::string_view(held_).substr(begin, end - begin);
    constexpr std::string_view kData = "data: ";
    if (event.substr(0, kData.size()) == kData) on_data_(event.substr(kData.size()));
  }
  held_.erase(0, begin);
}

}  // namespace shoal::cli
