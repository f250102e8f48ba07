#include "tools/cli/sse.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace shoal::cli {
namespace {

TEST(SseParser, EventsInAnyCut) {
  const std::string stream = ": keepalive\n\ndata: {\"a\":1}\n\ndata: [DONE]\n\n";
  for (size_t cut = 1; cut <= stream.size(); ++cut) {
    std::vector<std::string> events;
    SseParser parser([&](std::string_view data) { events.emplace_back(data); });
    for (size_t at = 0; at < stream.size(); at += cut) parser.Push(std::string_view(stream).substr(at, cut));
    EXPECT_EQ(events, (std::vector<std::string>{"{\"a\":1}", "[DONE]"})) << cut;
  }
}

}  // namespace
}  // namespace shoal::cli
