// Stop strings: the matcher fed in random parts against a search of the whole text.
#include <gtest/gtest.h>

#include "common/base/rng.h"
#include "common/text/detokenizer.h"

namespace shoal::text {
namespace {

struct Found {
  std::string text;
  bool stopped = false;
  int index = -1;
};

// The definition: the stop string that ends first; among those the longest; among equals the first in the list.
Found Search(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& stop = stops[i];
      if (stop.empty() || stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (best < 0 || stop.size() > stops[best].size()) best = static_cast<int>(i);
    }
    if (best >= 0) return {text.substr(0, include ? end : end - stops[best].size()), true, best};
  }
  return {text, false, -1};
}

Found Match(const std::vector<std::string>& parts, const std::vector<std::string>& stops, bool include) {
  StopMatcher matcher(stops, include);
  Found found;
  for (const std::string& part : parts) {
    const StopMatcher::Output out = matcher.Push(part);
    if (found.stopped) {
      EXPECT_EQ(out.text, "");
      EXPECT_TRUE(out.stopped);
    }
    found.text += out.text;
    if (out.stopped) {
      found.stopped = true;
      found.index = out.stop_index;
    }
  }
  found.text += matcher.Finish();
  return found;
}

void ExpectSame(const Found& got, const Found& want) {
  EXPECT_EQ(got.text, want.text);
  EXPECT_EQ(got.stopped, want.stopped);
  EXPECT_EQ(got.index, want.index);
}

TEST(StopMatcher, FindsAcrossBorders) {
  ExpectSame(Match({"ab", "c<", "/s", "top>d"}, {"</stop>"}, false), {"abc", true, 0});
  ExpectSame(Match({"ab", "c<", "/s", "top>d"}, {"</stop>"}, true), {"abc</stop>", true, 0});
  ExpectSame(Match({"ab", "c<", "/s"}, {"</stop>"}, false), {"abc</s", false, -1});
  ExpectSame(Match({"안녕", "하세", "요!"}, {"세요"}, false), {"안녕하", true, 0});
}

TEST(StopMatcher, HoldsBackOnlyWhatMayStillMatch) {
  StopMatcher matcher({"END", "xyz"}, false);
  EXPECT_EQ(matcher.Push("hello").text, "hello");
  EXPECT_EQ(matcher.Push("EN").text, "");
  EXPECT_EQ(matcher.Push("EN").text, "EN");
  EXPECT_EQ(matcher.Push(" x").text, "EN ");
  EXPECT_EQ(matcher.Push("y").text, "");
  EXPECT_EQ(matcher.Push("END").text, "xy");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcher, EndsFirstThenLongest) {
  ExpectSame(Match({"abcdef"}, {"bcde", "cd"}, false), {"ab", true, 1});
  ExpectSame(Match({"abcdef"}, {"cd", "bcd"}, false), {"a", true, 1});
  ExpectSame(Match({"abcdef"}, {"cd", "cd"}, false), {"ab", true, 0});
}

TEST(StopMatcher, EmptyListsAndStringsNeverMatch) {
  ExpectSame(Match({"ab", "c"}, {}, false), {"abc", false, -1});
  ExpectSame(Match({"ab", "c"}, {"", ""}, false), {"abc", false, -1});
}

TEST(StopMatcher, EqualsASearchOfTheWholeText) {
  uint64_t draws = 0;
  const auto below = [&](uint64_t n) { return RandomBits(5, 0, draws++) % n; };
  const auto random_text = [&](size_t most, const std::vector<std::string>& letters) {
    std::string text;
    for (size_t n = below(most + 1); n > 0; --n) text += letters[below(letters.size())];
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::vector<std::string> letters =
        round % 2 == 0 ? std::vector<std::string>{"a", "b"} : std::vector<std::string>{"a", "한", "é", "\n"};
    const std::string text = random_text(24, letters);
    std::vector<std::string> stops;
    for (size_t n = 1 + below(4); n > 0; --n) stops.push_back(random_text(6, letters));
    std::vector<std::string> parts;
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min<size_t>(1 + below(5), text.size() - at);
      parts.push_back(text.substr(at, size));
      at += size;
    }
    const bool include = below(2) == 0;
    const Found want = Search(text, stops, include);
    stopped += want.stopped ? 1 : 0;
    SCOPED_TRACE(text);
    ExpectSame(Match(parts, stops, include), want);
    if (HasFailure()) return;
  }
  EXPECT_GT(stopped, 2000);
  EXPECT_LT(stopped, 18000);
}

// A quadratic matcher would take minutes.
TEST(StopMatcher, IsLinearInLongStopStrings) {
  const std::string almost(200000, 'a');
  StopMatcher matcher({almost + "b"}, false);
  size_t sent = 0;
  for (int i = 0; i < 400000; ++i) sent += matcher.Push("a").text.size();
  EXPECT_EQ(sent, 200000u);
  EXPECT_TRUE(matcher.Push("b").stopped);
}

}  // namespace
}  // namespace shoal::text
