#include "tools/cli/terminal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

namespace shoal::cli {
namespace {

TEST(HumanBytes, PicksTheUnit) {
  EXPECT_EQ(HumanBytes(17), "17 B");
  EXPECT_EQ(HumanBytes(1536), "1.50 KiB");
  EXPECT_EQ(HumanBytes(98ll << 20), "98 MiB");
  EXPECT_EQ(HumanBytes(3ll << 40), "3.00 TiB");
}

TEST(Span, NamesTheFirstAndTheLast) {
  EXPECT_EQ(Span({3, 6}), "3-5");
  EXPECT_EQ(Span({5, 6}), "5");
  EXPECT_EQ(Span({5, 5}), "-");
}

TEST(FormatTable, AlignsColumns) {
  EXPECT_EQ(FormatTable({{"rank", "bytes"}, {"0", "1"}, {"10", "12345678"}}),
            "rank     bytes\n0            1\n10    12345678\n");
}

TEST(ProgressLine, PrintsFewLinesWhenNotOnATerminal) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  SimClock clock;
  ProgressLine line(out, false, &clock);
  for (int i = 1; i <= 100; ++i) {
    clock.AdvanceTo(i * 100 * kMillisecond);
    line.Update("loading", i << 20, 100 << 20);
  }
  line.Finish();
  std::fclose(out);
  const std::string shown(text, size);
  std::free(text);
  EXPECT_EQ(std::count(shown.begin(), shown.end(), '\n'), 6);
  EXPECT_NE(shown.find("loading  100 MiB of 100 MiB"), std::string::npos) << shown;
  EXPECT_NE(shown.find("s left"), std::string::npos);
}

}  // namespace
}  // namespace shoal::cli
