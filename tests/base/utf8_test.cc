#include "common/base/utf8.h"

#include <gtest/gtest.h>

namespace shoal {
namespace {

TEST(Utf8, TextStaysAsItIs) {
  for (const char* text : {"", "plain", "\xED\x95\x9C\xEA\xB5\xAD", "\xF0\x9F\x99\x82!", "\xC3\xA9"}) {
    EXPECT_EQ(ValidUtf8(text), text);
  }
  EXPECT_EQ(ValidUtf8(std::string_view("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Utf8, EachBadByteIsReplaced) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(ValidUtf8("a\xFF"
                      "b"),
            "a" + bad + "b");
  EXPECT_EQ(ValidUtf8("\xED\x95"), bad + bad) << "cut off";
  EXPECT_EQ(ValidUtf8("\xC0\x80"), bad + bad) << "overlong";
  EXPECT_EQ(ValidUtf8("\xE0\x9F\xBF"), bad + bad + bad) << "overlong";
  EXPECT_EQ(ValidUtf8("\xED\xA0\x80"), bad + bad + bad) << "a surrogate";
  EXPECT_EQ(ValidUtf8("\xF4\x90\x80\x80"), bad + bad + bad + bad) << "beyond the last character";
  EXPECT_EQ(ValidUtf8("\xF0\x9F\x99x"), bad + bad + bad + "x");
  EXPECT_EQ(ValidUtf8("\x80"), bad);
}

}  // namespace
}  // namespace shoal
