// Markers in text, however they break off.
#include "common/text/marker_matcher.h"

#include <gtest/gtest.h>

#include <string>

namespace shoal::text {
namespace {

// The text with markers as (0), (1), ...
std::string Match(std::vector<std::string_view> markers, std::string_view text) {
  MarkerMatcher matcher(std::move(markers));
  std::string seen;
  for (const char byte : text) {
    const MarkerMatcher::Step step = matcher.Push(byte);
    seen += step.broken;
    if (step.found >= 0) seen += "(" + std::to_string(step.found) + ")";
    if (!step.taken) seen += byte;
  }
  return seen + "|" + std::string(matcher.partial());
}

TEST(MarkerMatcher, FindsMarkers) {
  EXPECT_EQ(Match({"<a>"}, "x<a>y<a><a>"), "x(0)y(0)(0)|");
  EXPECT_EQ(Match({"<a>", "</a>"}, "<a>x</a>"), "(0)x(1)|");
  EXPECT_EQ(Match({"functools", "<|t|>"}, "functools<|t|>"), "(0)(1)|");
}

TEST(MarkerMatcher, WhatBreaksOffIsText) {
  EXPECT_EQ(Match({"<a>", "</a>"}, "<<a<a>< </a </b>"), "<<a(0)< </a </b>|");
  EXPECT_EQ(Match({"<a>", "</a>"}, "x</"), "x|</");
  EXPECT_EQ(Match({}, "<a>"), "<a>|");
}

TEST(MarkerMatcher, ForgetsWhenTold) {
  MarkerMatcher matcher({"<a>"});
  matcher.Push('<');
  EXPECT_EQ(matcher.partial(), "<");
  matcher.Reset();
  EXPECT_EQ(matcher.partial(), "");
  EXPECT_FALSE(matcher.Push('a').taken);
}

}  // namespace
}  // namespace shoal::text
