#include "common/model/json_util.h"

#include <gtest/gtest.h>

#include "boost/json.hpp"

namespace shoal::model {
namespace {

std::string Refusal(std::string_view text) {
  const auto object = ParseObject(text, "doc");
  return object.ok() ? "" : std::string(object.status().message());
}

TEST(JsonUtil, RefusesWhatIsNoCleanObject) {
  EXPECT_NE(Refusal("{"), "");
  EXPECT_NE(Refusal(""), "");
  EXPECT_NE(Refusal("[1]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(Refusal("{} x"), "");
  EXPECT_NE(Refusal("{\"a\": \"\xff\"}"), "");
  EXPECT_NE(Refusal(R"({"a": {"b": 1, "b": 2}})").find("\"b\" twice"), std::string::npos);
  EXPECT_NE(Refusal(R"({"a": 1, "\u0061": 2})").find("\"a\" twice"), std::string::npos);
  EXPECT_EQ(Refusal(R"({"a": {"b": 1}, "c": {"b": 1}, "b": [{"b": 2}, {"b": 2}]})"), "");
}

TEST(JsonUtil, RefusesDeepNesting) {
  const std::string deep = "{\"a\": " + std::string(5000, '[') + std::string(5000, ']') + "}";
  EXPECT_NE(Refusal(deep), "");
}

TEST(JsonUtil, TypedLookUpsNameTheKey) {
  const auto object = ParseObject(R"({"i": 7, "whole": 8.0, "f": 1.5, "s": "x", "n": null, "big": 1e300})", "doc");
  ASSERT_TRUE(object.ok());
  EXPECT_EQ(*JsonInt(*object, "i"), 7);
  EXPECT_EQ(*JsonInt(*object, "whole"), 8);
  EXPECT_EQ(*JsonFloat(*object, "i"), 7.0);
  EXPECT_EQ(*JsonFloat(*object, "f"), 1.5);
  EXPECT_EQ(*JsonString(*object, "s"), "x");
  for (const char* key : {"f", "s", "n", "big", "missing"}) {
    const auto value = JsonInt(*object, key);
    ASSERT_FALSE(value.ok()) << key;
    EXPECT_NE(value.status().message().find(key), absl::string_view::npos) << value.status();
  }
  EXPECT_FALSE(JsonFloat(*object, "s").ok());
  EXPECT_FALSE(JsonString(*object, "i").ok());
  EXPECT_EQ(FindValue(*object, "n"), nullptr);
}

}  // namespace
}  // namespace shoal::model
