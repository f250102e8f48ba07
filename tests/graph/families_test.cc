// Every family against its own reference (tests/golden/families): logits and vectors in f32 at each layout, from
// safetensors and from the GGUF twin, and the properties that hold for all of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <tuple>

#include "tests/cluster/harness/compare.h"
#include "tests/cluster/harness/rank_set.h"
#include "tests/testing/temp_dir.h"

namespace shoal::testing {
namespace {

namespace json = boost::json;

constexpr const char* kKept = "tests/golden/families/";
constexpr float kTolerance = 1e-3f;

// The checkpoints themselves, written by tests/golden/families_weights.py, which CTest runs first.
std::string BuildFolder() {
  const char* build = std::getenv("SHOAL_BUILD_DIR");
  return build == nullptr ? "build" : build;
}
std::string Folder() { return BuildFolder() + "/families/"; }

struct Expected {
  std::string name;
  std::vector<int32_t> ids, greedy;
  std::vector<model::Pooling> pooled;  // of each row, for models that embed
  int first_row = 0;
  bool overridden = false;  // keys of the config had other values
};

struct Family {
  std::vector<Expected> cases;
  std::vector<std::string> of_gguf;  // names of the cases that a reader of the twin computes
  std::vector<float> rows;
  int columns = 0;

  const float* Row(const Expected& c, size_t row) const {
    return rows.data() + (static_cast<size_t>(c.first_row) + row) * static_cast<size_t>(columns);
  }
};

template <typename T>
std::vector<T> List(const json::object& object, std::string_view key) {
  return object.contains(key) ? json::value_to<std::vector<T>>(object.at(key)) : std::vector<T>();
}

Family ReadFamily(const std::string& name) {
  const json::object file = json::parse(ReadFile(kKept + name + "/expected.json")).as_object();
  Family family;
  family.columns = file.at("columns").to_number<int>();
  for (const json::value& value : file.at("cases").as_array()) {
    const json::object& c = value.as_object();
    Expected& expected = family.cases.emplace_back();
    expected.name = json::value_to<std::string>(c.at("name"));
    expected.ids = List<int32_t>(c, "ids");
    expected.greedy = List<int32_t>(c, "greedy");
    for (const std::string& how : List<std::string>(c, "pooled")) {
      expected.pooled.push_back(how == "mean" ? model::Pooling::kMean : model::Pooling::kFirst);
    }
    expected.first_row = c.at("first_row").to_number<int>();
    expected.overridden = !c.at("overrides").as_object().empty();
  }
  if (file.contains("gguf")) family.of_gguf = List<std::string>(file.at("gguf").as_object(), "cases");
  const std::string bytes = ReadFile(kKept + name + "/expected.f32");
  family.rows.resize(bytes.size() / sizeof(float));
  std::memcpy(family.rows.data(), bytes.data(), bytes.size());
  return family;
}

struct Case {
  std::string family;
  bool gguf;
  int tp, pp;
};
std::string LayoutOf(const Case& c) { return std::to_string(c.tp) + "x" + std::to_string(c.pp); }
std::string NameOf(const Case& c) { return c.family + (c.gguf ? "_gguf_" : "_safetensors_") + LayoutOf(c); }

std::vector<std::string> FamilyNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kKept)) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& name : FamilyNames()) {
    for (const bool gguf : {false, true}) {
      if (gguf && !std::filesystem::exists(kKept + name + "/model.gguf.delta")) continue;
      for (const auto& [tp, pp] : {std::pair{1, 1}, {3, 1}, {2, 2}}) cases.push_back({name, gguf, tp, pp});
    }
  }
  return cases;
}

// What was proven by all tests of a case, for the table in README.md (tests/golden/proven.py).
class Proven : public ::testing::Environment {
 public:
  static constexpr int kTests = 2;  // of each case: against the reference, and in pieces

  static void Passed(const Case& c) { ++Counts()[{c.family, c.gguf ? "GGUF" : "safetensors", LayoutOf(c)}]; }
  void TearDown() override {
    json::array proven;
    for (const auto& [what, passed] : Counts()) {
      if (passed == kTests) proven.push_back(json::array{std::get<0>(what), std::get<1>(what), std::get<2>(what)});
    }
    const std::filesystem::path folder = BuildFolder() + "/proven";
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "families.json") << json::serialize(proven) << "\n";
  }

 private:
  static std::map<std::tuple<std::string, std::string, std::string>, int>& Counts() {
    static std::map<std::tuple<std::string, std::string, std::string>, int> counts;
    return counts;
  }
};
[[maybe_unused]] ::testing::Environment* const proven = ::testing::AddGlobalTestEnvironment(new Proven);

class FamiliesTest : public ::testing::TestWithParam<Case> {
 protected:
  void TearDown() override {
    if (!HasFailure() && !IsSkipped()) Proven::Passed(GetParam());
  }

  void SetUp() override {
    family_ = ReadFamily(GetParam().family);
    const std::string path = Folder() + GetParam().family + (GetParam().gguf ? "/model.gguf" : "");
    auto files = model::OpenModel(path);
    ASSERT_TRUE(files.ok()) << files.status();
    model_ = {files->config, files->checkpoint};
  }

  // The cases that this file is to give, when contexts of `max_model_len` are served.
  bool IsOurs(const Expected& c, int max_model_len) const {
    if (model_.config.rope.scaling == model::RopeScaling::kLongRope) {
      const bool is_long = max_model_len > model_.config.rope.original_max_position;
      if (is_long != c.name.ends_with("/always_long")) return false;
    } else if (!GetParam().gguf && c.overridden) {
      return false;
    }
    const std::vector<std::string>& twin = family_.of_gguf;
    if (GetParam().gguf && std::find(twin.begin(), twin.end(), c.name) == twin.end()) return false;
    return static_cast<int>(c.ids.size() + c.greedy.size()) <= max_model_len;
  }

  std::unique_ptr<RankSet> Ranks(int max_model_len, bool compute_f32 = true) const {
    auto shards = LoadShards(model_, GetParam().tp, GetParam().pp, "cpu", compute_f32);
    EXPECT_TRUE(shards.ok()) << shards.status();
    if (!shards.ok()) return nullptr;
    auto ranks = RankSet::Make(*shards, {.kv = DType::kF32, .threads = 1, .max_model_len = max_model_len});
    EXPECT_TRUE(ranks.ok()) << ranks.status();
    return ranks.ok() ? *std::move(ranks) : nullptr;
  }

  Family family_;
  TestModel model_;
};

TEST_P(FamiliesTest, LogitsAreThoseOfTheReference) {
  if (model_.config.task == model::Task::kEmbed) GTEST_SKIP() << "has no logits";
  const int vocab = model_.config.vocab;
  ASSERT_EQ(vocab, family_.columns);
  int checked = 0;
  float worst = 0;
  for (const int max_model_len : {32, 64}) {
    for (const Expected& c : family_.cases) {
      if (!IsOurs(c, max_model_len)) continue;
      SCOPED_TRACE(c.name);
      const auto ranks = Ranks(max_model_len);
      ASSERT_NE(ranks, nullptr);
      const auto logits = TeacherForced(*ranks, c.ids, {13, 1, 5});
      ASSERT_TRUE(logits.ok()) << logits.status();
      for (size_t p = 0; p < c.ids.size(); ++p) {
        for (int i = 0; i < vocab; ++i) {
          const float off = std::fabs((*logits)[p * vocab + i] - family_.Row(c, p)[i]);
          ASSERT_LT(off, kTolerance) << "position " << p << " token " << i;
          worst = std::max(worst, off);
        }
      }
      const float* last = logits->data() + (c.ids.size() - 1) * vocab;
      EXPECT_EQ(std::max_element(last, last + vocab) - last, c.greedy[0]);
      ++checked;
    }
  }
  EXPECT_GE(checked, 1);
  std::printf("figure: %s largest difference of a logit %.1e\n", NameOf(GetParam()).c_str(), worst);
}

TEST_P(FamiliesTest, VectorsAreThoseOfTheReference) {
  if (model_.config.task != model::Task::kEmbed) GTEST_SKIP() << "has no vectors";
  ASSERT_EQ(model_.config.hidden, family_.columns);
  float worst = 0;
  for (const Expected& c : family_.cases) {
    for (size_t row = 0; row < c.pooled.size(); ++row) {
      model_.config.pooling = c.pooled[row];
      const auto ranks = Ranks(64);
      ASSERT_NE(ranks, nullptr);
      const auto vector = ranks->Embed({{0, 0, c.ids}});
      ASSERT_TRUE(vector.ok()) << vector.status();
      for (int i = 0; i < family_.columns; ++i) {
        const float off = std::fabs((*vector)[i] - family_.Row(c, row)[i]);
        ASSERT_LT(off, kTolerance) << c.name << " row " << row << " element " << i;
        worst = std::max(worst, off);
      }
    }
  }
  std::printf("figure: %s largest difference of an element %.1e\n", NameOf(GetParam()).c_str(), worst);
}

// As stored, quantised where the file is: any chunking, any neighbours in the batch.
TEST_P(FamiliesTest, ChunksAndNeighboursDoNotShow) {
  const auto ranks = Ranks(64, false);
  ASSERT_NE(ranks, nullptr);
  const std::vector<int32_t>&a = family_.cases[0].ids, &b = family_.cases[1].ids;
  if (model_.config.task == model::Task::kEmbed) {
    const auto one = ranks->Embed({{0, 0, a}}, 2), other = ranks->Embed({{1, 0, b}}, 2);
    const auto both = ranks->Embed({{0, 0, a}, {1, 0, b}}, 2);
    ASSERT_TRUE(one.ok() && other.ok() && both.ok()) << both.status();
    std::vector<float> joined = *one;
    joined.insert(joined.end(), other->begin(), other->end());
    EXPECT_EQ(0, std::memcmp(joined.data(), both->data(), joined.size() * sizeof(float)));
    return;
  }
  const auto vocab = static_cast<size_t>(model_.config.vocab);
  const auto whole = ranks->Step({{0, 0, a}}, 2);
  ASSERT_TRUE(whole.ok()) << whole.status();
  for (size_t begin = 0, size = 1; begin < a.size(); begin += size, size = size % 7 + 2) {
    size = std::min(size, a.size() - begin);
    const std::vector<int32_t> part(a.begin() + begin, a.begin() + begin + size);
    const std::vector<int32_t> beside(b.begin(), b.begin() + 1 + begin % b.size());
    const auto step = ranks->Step({{1, 0, beside}, {0, static_cast<int>(begin), part}}, 2);
    ASSERT_TRUE(step.ok()) << step.status();
    ASSERT_EQ(0, std::memcmp(step->data() + beside.size() * vocab, whole->data() + begin * vocab,
                             size * vocab * sizeof(float)))
        << "from " << begin;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamiliesTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace shoal::testing
