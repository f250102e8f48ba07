#include "tools/cli/inspect.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "boost/json.hpp"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "tests/weights/shards.h"

namespace shoal::cli {
namespace {

namespace json = boost::json;
using testing::TempDir;

struct Printed {
  absl::Status status;
  std::string text;
};

Printed Inspect(const std::string& model, int tp, int pp, bool as_json) {
  char* data = nullptr;
  size_t size = 0;
  std::FILE* out = ::open_memstream(&data, &size);
  Printed printed = {RunInspect(model, tp, pp, as_json, out), ""};
  std::fclose(out);
  printed.text.assign(data, size);
  std::free(data);
  return printed;
}

json::object InspectJson(const std::string& model, int tp, int pp) {
  const Printed printed = Inspect(model, tp, pp, true);
  EXPECT_TRUE(printed.status.ok()) << printed.status;
  return json::parse(printed.text).as_object();
}

TEST(Inspect, JsonAddsUp) {
  const TempDir dir;
  testing::TinyModel m;
  m.heads = 6;
  m.kv_heads = 3;
  m.matrices = DType::kQ4_1;
  testing::WriteTinyGguf(m, dir / "m.gguf");
  const json::object o = InspectJson(dir / "m.gguf", 2, 2);
  EXPECT_EQ(o.at("config").at("heads"), 6);
  EXPECT_EQ(o.at("tensor_types").at("q4_1").at("tensors"), 14);
  EXPECT_EQ(o.at("tensor_types").at("f32").at("tensors"), 6);
  ASSERT_EQ(o.at("ranks").as_array().size(), 4u);
  int64_t read = 0, stored = 0, extra = 0;
  for (const json::value& rank : o.at("ranks").as_array()) {
    read += rank.at("read_bytes").as_int64();
    EXPECT_GT(rank.at("resident_bytes").as_int64(), 0);
  }
  for (const auto& type : o.at("tensor_types").as_object()) stored += type.value().at("bytes").as_int64();
  for (const auto& shared : o.at("shared").as_object()) extra += shared.value().at("extra_bytes").as_int64();
  EXPECT_EQ(read, o.at("read_bytes").as_int64());
  EXPECT_EQ(read, stored + extra) << "what is read twice is listed, with its bytes";
  EXPECT_EQ(o.at("shared").at("embedding").at("ranks"), 2) << "tied, at both ends of the pipeline";
  EXPECT_EQ(o.at("shared").at("layers.*.attn.k").at("ranks"), 2) << "kv head 1 serves heads 2 and 3";
  EXPECT_EQ(o.at("shared").at("layers.*.attn.norm").at("tensors"), 2);
  EXPECT_FALSE(o.at("shared").as_object().contains("layers.*.ffn.up"));
  EXPECT_GT(o.at("balance_bound").as_double(), 0.5);
}

TEST(Inspect, NothingIsSharedByOneRank) {
  const TempDir dir;
  testing::WriteTinyGguf({}, dir / "m.gguf");
  const json::object o = InspectJson(dir / "m.gguf", 1, 1);
  EXPECT_TRUE(o.at("shared").as_object().empty());
  EXPECT_EQ(o.at("balance_bound").as_double(), 1.0);
}

TEST(Inspect, TextIsATable) {
  const TempDir dir;
  testing::WriteTinyGguf({}, dir / "m.gguf");
  const Printed printed = Inspect(dir / "m.gguf", 2, 2, false);
  ASSERT_TRUE(printed.status.ok()) << printed.status;
  for (const char* part :
       {"architecture", "llama", "4 of 32, 2 kv", "head tied to the embedding", "ranks of tp 2 x pp 2",
        "held by several ranks", "layers.*.attn.norm", "bound of uneven work"}) {
    EXPECT_NE(printed.text.find(part), std::string::npos) << part << " in\n" << printed.text;
  }
  // The rows of the rank table are equally long: its columns are aligned.
  const size_t header = printed.text.find("  rank");
  const size_t first = printed.text.find('\n', header), second = printed.text.find('\n', first + 1);
  EXPECT_EQ(first - header, second - first - 1);
}

TEST(Inspect, ErrorsPrintNothing) {
  const TempDir dir;
  const Printed missing = Inspect(dir / "none.gguf", 1, 1, false);
  EXPECT_EQ(missing.status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.text, "");
  testing::WriteTinyGguf({}, dir / "m.gguf");
  const Printed many = Inspect(dir / "m.gguf", 5, 1, true);
  EXPECT_EQ(many.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(many.status.message().find("1 to 3"), absl::string_view::npos) << many.status;
  EXPECT_EQ(many.text, "");
}

TEST(Inspect, DefaultModel) {
  const std::string path = weights::DefaultModelPath();
  if (path.empty()) FAIL() << "the default model is missing: run `make model`";
  const json::object o = InspectJson(path, 3, 2);
  EXPECT_EQ(o.at("config").at("layers"), 30);
  EXPECT_EQ(o.at("tensor_types").at("q4_1").at("tensors"), 210);
  EXPECT_EQ(o.at("ranks").as_array().size(), 6u);
  EXPECT_EQ(o.at("shared").at("embedding").at("extra_bytes"), 30081024);
}

}  // namespace
}  // namespace shoal::cli
