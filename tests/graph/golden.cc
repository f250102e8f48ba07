#include "tests/graph/golden.h"

#include <boost/json.hpp>
#include <cstring>

#include "common/base/check.h"
#include "tests/testing/temp_dir.h"

namespace shoal::testing {
namespace {

namespace json = boost::json;

json::value Parse(const std::string& name) { return json::parse(ReadFile("tests/golden/" + name)); }

template <typename T>
std::vector<T> List(const json::value& object, std::string_view key) {
  return json::value_to<std::vector<T>>(object.at(key));
}

}  // namespace

std::vector<GoldenGreedy> ReadGoldenGreedy() {
  std::vector<GoldenGreedy> out;
  const json::value file = Parse("greedy.json");
  for (const json::value& c : file.at("cases").as_array()) {
    out.push_back({.name = json::value_to<std::string>(c.at("name")),
                   .prompt = List<int32_t>(c, "prompt"),
                   .tokens = List<int32_t>(c, "tokens"),
                   .second = List<int32_t>(c, "second"),
                   .margin = List<double>(c, "margin")});
  }
  return out;
}

GoldenLogitsFile ReadGoldenLogits() {
  const json::value file = Parse("logits.json");
  GoldenLogitsFile out;
  out.first_column = file.at("first_column").to_number<int>();
  out.column_step = file.at("column_step").to_number<int>();
  out.columns = file.at("columns").to_number<int>();
  const std::string bytes = ReadFile("tests/golden/logits.f32");
  out.values.resize(bytes.size() / sizeof(float));
  std::memcpy(out.values.data(), bytes.data(), bytes.size());
  const float* row = out.values.data();
  for (const json::value& c : file.at("cases").as_array()) {
    GoldenLogits& g = out.cases.emplace_back();
    g.name = json::value_to<std::string>(c.at("name"));
    g.ids = List<int32_t>(c, "ids");
    g.stride = c.at("stride").to_number<int>();
    g.best = List<int32_t>(c, "best");
    for (size_t p = g.stride - 1; p < g.ids.size(); p += g.stride, row += out.columns + 1) g.rows.push_back(row);
    SHOAL_CHECK(g.rows.size() == g.best.size());
  }
  SHOAL_CHECK(row == out.values.data() + out.values.size());
  return out;
}

GoldenText ReadGoldenText() {
  const json::value file = Parse("text2000.json");
  return {List<int32_t>(file, "ids"), List<int32_t>(file, "best"), List<double>(file, "next_log_prob")};
}

GoldenPeer ReadGoldenPeer() {
  const json::value file = Parse("llama_cpp.json");
  return {file.at("mean_kl_nats").to_number<double>(), file.at("top1_agreement").to_number<double>()};
}

}  // namespace shoal::testing
