// Values that models write: where they end, and what strings say.
#include "common/text/json_scan.h"

#include <gtest/gtest.h>

#include <string_view>

namespace shoal::text {
namespace {

// The value that `text` begins with.
std::string Value(std::string_view text) {
  JsonValueScanner scanner;
  for (size_t i = 0; i < text.size(); ++i) {
    const ScanStep step = scanner.Push(text[i]);
    if (step != ScanStep::kMore) return std::string(text.substr(0, step == ScanStep::kEnd ? i + 1 : i));
  }
  return std::string(text) + " ...";
}

std::string Said(std::string_view text) {
  JsonStringDecoder decoder;
  std::string said;
  for (const char byte : text) {
    if (decoder.Push(byte, &said) == ScanStep::kEnd) return said + "|";
  }
  return said;
}

TEST(JsonValueScanner, EndsOfValues) {
  EXPECT_EQ(Value(R"({"a": "}\"{", "b": [1, {}]}, 2)"), R"({"a": "}\"{", "b": [1, {}]})");
  EXPECT_EQ(Value(R"([[], "]\\"], 1])"), R"([[], "]\\"])");
  EXPECT_EQ(Value(R"("a\"b\\" : 1)"), R"("a\"b\\")");
  EXPECT_EQ(Value("-1.5e+3, 2"), "-1.5e+3");
  EXPECT_EQ(Value("true}"), "true");
  EXPECT_EQ(Value("null "), "null");
}

TEST(JsonValueScanner, UnfinishedValues) {
  EXPECT_EQ(Value(R"({"a": "b)"), R"({"a": "b ...)");
  EXPECT_EQ(Value("12"), "12 ...");
}

TEST(JsonValueScanner, WhatIsNoPart) {
  EXPECT_EQ(Value("<x"), "");
  EXPECT_EQ(Value(":1"), "");
  EXPECT_EQ(Value(R"({"a": "<b>", <c)"), R"({"a": "<b>", )");
  EXPECT_EQ(Value("{'a': True, }x"), "{'a': True, }");
}

TEST(JsonStringDecoder, Escapes) {
  EXPECT_EQ(Said(R"(a\n\t\"\\\/\b\f\r" b)"), "a\n\t\"\\/\b\f\r|");
  EXPECT_EQ(Said(R"(\u0041\u00e9\u6771\uD83D\uDE00")"), "Aé東😀|");
  EXPECT_EQ(Said(R"(\u00")"), "\\u00|");
}

TEST(JsonStringDecoder, SurrogatesWithoutTheirOther) {
  EXPECT_EQ(Said(R"(\ud83dx\ud83d\n\ud83d\ud83d\ude00\ude00\ud83d")"), "�x�\n�😀��|");
  EXPECT_EQ(Said(R"(\ud83d\u0041\ud83d\u00")"), "�A�\\u00|");
}

TEST(JsonStringDecoder, MistakesAreKept) {
  EXPECT_EQ(Said("a\\qb\n\\u12\\n\""), "a\\qb\n\\u12\n|");
  EXPECT_EQ(Said("\\u12é\""), "\\u12é|");
  EXPECT_EQ(Said("a\\"), "a");
}

}  // namespace
}  // namespace shoal::text
