// Walks over the masks of schemas and prints what they spell, a line each: {"schema": index, "answer": text} or
// {"schema": index, "error": text}. For tests/text/grammar_schemas_test.py, which validates the answers.
// Tested by: tests/text/grammar_schemas_test.py
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "tests/text/grammar_fixture.h"

namespace json = boost::json;

int main(int argc, char** argv) {
  using namespace shoal::text;           // NOLINT
  using namespace shoal::text::testing;  // NOLINT
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s SCHEMAS.json WALKS\n", argv[0]);
    return 2;
  }
  std::ifstream file(argv[1]);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const json::array rows = json::parse(text).as_array();
  const int walks = std::atoi(argv[2]);
  Random random(5);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto grammar = SmolGrammars().compiler->Compile(SchemaSpec(json::serialize(rows[i].at("schema"))), {});
    if (!grammar.ok()) {
      std::cout << json::serialize(json::object{{"schema", i}, {"error", grammar.status().ToString()}}) << "\n";
      continue;
    }
    for (int walk = 0; walk < walks; ++walk) {
      const auto matcher = (*grammar)->NewMatcher();
      const auto answer = Walk(SmolGrammars(), *matcher, random, /*most=*/120);
      if (answer.has_value()) std::cout << json::serialize(json::object{{"schema", i}, {"answer", *answer}}) << "\n";
    }
  }
  return ::testing::UnitTest::GetInstance()->Failed() ? 1 : 0;
}
