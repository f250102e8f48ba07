#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <span>

#include "boost/json.hpp"
#include "common/model/checkpoint.h"
#include "common/model/gguf.h"
#include "common/model/tensor_table.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace shoal::model {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;
using testing::TempDir;
using testing::TinyModel;
using testing::WriteFile;

bool Says(const absl::Status& s, std::string_view part) {
  return s.message().find(absl::string_view(part.data(), part.size())) != absl::string_view::npos;
}

TEST(OpenModel, Gguf) {
  const TempDir dir;
  testing::WriteTinyGguf({}, dir / "tiny-llama.gguf");
  const auto files = OpenModel(dir / "tiny-llama.gguf");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->name, "tiny-llama");
  EXPECT_TRUE(fs::path(files->path).is_absolute());
  EXPECT_EQ(files->format, ModelFiles::Format::kGguf);
  EXPECT_EQ(files->config.vocab, 288);
  EXPECT_NE(files->chat_template.find("<|im_start|>"), std::string::npos);
  EXPECT_EQ(files->bos_spelling, "<|im_start|>");
  EXPECT_EQ(files->eos_spelling, "<|im_end|>");
  EXPECT_FALSE(files->add_bos);
  EXPECT_EQ(files->revision.size(), 32u);
}

TEST(OpenModel, Directory) {
  const TempDir dir;
  testing::WriteTinyDirectory({}, dir / "tiny-hf", 2);
  const auto files = OpenModel(dir / "tiny-hf/");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->name, "tiny-hf");
  EXPECT_EQ(files->format, ModelFiles::Format::kSafetensors);
  EXPECT_EQ(files->bos_spelling, "<|im_start|>");
  EXPECT_EQ(files->eos_spelling, "<|im_end|>");
  EXPECT_EQ(files->config.eos_tokens, (std::vector<int32_t>{2, 0}));
  EXPECT_NE(files->chat_template.find("add_generation_prompt"), std::string::npos);
}

TEST(OpenModel, IsCalledWhatThePathSaysNotWhatItLinksTo) {
  const TempDir dir;
  testing::WriteTinyGguf({}, dir / "blobs-0123abcd");
  fs::create_symlink("blobs-0123abcd", dir / "tiny-llama.gguf");
  const auto file = OpenModel(dir / "tiny-llama.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->name, "tiny-llama");
  EXPECT_EQ(fs::path(file->path).filename(), "blobs-0123abcd");
  testing::WriteTinyDirectory({}, dir / "c0ffee");
  fs::create_directory_symlink("c0ffee", dir / "tiny-hf");
  for (const char* spelling : {"tiny-hf", "tiny-hf/", "tiny-hf/.", "c0ffee/../tiny-hf//"}) {
    const auto directory = OpenModel(dir / spelling);
    ASSERT_TRUE(directory.ok()) << directory.status();
    EXPECT_EQ(directory->name, "tiny-hf") << spelling;
  }
}

TEST(OpenModel, ChatTemplateByPrecedence) {
  const TempDir dir;
  testing::WriteTinyDirectory({}, dir.path());
  const auto opened = [&](const json::value& value) {
    WriteFile(dir / "tokenizer_config.json", json::serialize(json::object{{"chat_template", value}}));
    const auto files = OpenModel(dir.path());
    EXPECT_TRUE(files.ok()) << files.status();
    return files->chat_template;
  };
  EXPECT_EQ(opened("one"), "one");
  EXPECT_EQ(opened(nullptr), "");
  EXPECT_EQ(opened({{{"name", "tool_use"}, {"template", "t"}}, {{"name", "default"}, {"template", "d"}}}), "d");
  WriteFile(dir / "chat_template.jinja", "from the file");
  EXPECT_EQ(opened("one"), "from the file");
}

TEST(OpenModel, AddBosFromConfigOrPostProcessor) {
  const TempDir dir;
  testing::WriteTinyDirectory({}, dir.path());
  const auto adds = [&](const char* config, const char* tokenizer) {
    WriteFile(dir / "tokenizer_config.json", config);
    WriteFile(dir / "tokenizer.json", tokenizer);
    const auto files = OpenModel(dir.path());
    EXPECT_TRUE(files.ok()) << files.status();
    return files->add_bos;
  };
  const char* llama3 = R"({"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"},
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {}}]}]}})";
  EXPECT_TRUE(adds(R"({"bos_token": "<s>"})", llama3));
  EXPECT_TRUE(adds(R"({"bos_token": {"content": "<s>"}})", llama3));
  EXPECT_FALSE(adds(R"({"bos_token": "<other>"})", llama3));
  EXPECT_FALSE(adds(R"({"bos_token": "<s>", "add_bos_token": false})", llama3));
  EXPECT_TRUE(adds(R"({"bos_token": "<s>", "add_bos_token": true})", R"({"post_processor": null})"));
  EXPECT_FALSE(adds(R"({"bos_token": "<s>"})", R"({"post_processor": null})"));
}

TEST(OpenModel, FindsModelsInTheHubCache) {
  const TempDir dir;
  testing::WriteTinyDirectory({}, dir / "models--org--tiny/snapshots/c0ffee");
  WriteFile(dir / "models--org--tiny/refs/main", "c0ffee");
  ::setenv("HF_HUB_CACHE", dir.path().c_str(), 1);
  const auto files = OpenModel("org/tiny");
  EXPECT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->name, "org/tiny");
  const auto other = OpenModel("org/absent");
  ::unsetenv("HF_HUB_CACHE");
  EXPECT_EQ(other.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Says(other.status(), "org/absent")) << other.status();
}

TEST(OpenModel, SaysWhatIsWrong) {
  const TempDir dir;
  EXPECT_EQ(OpenModel("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenModel(dir / "none.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Says(OpenModel(dir / "none.gguf").status(), dir / "none.gguf"));
  EXPECT_EQ(OpenModel(dir.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Says(OpenModel(dir.path()).status(), "config.json"));
  WriteFile(dir / "config.json", testing::TinyConfigJson({}));
  EXPECT_TRUE(Says(OpenModel(dir.path()).status(), "model.safetensors"));
  WriteFile(dir / "config.json", R"({"architectures": ["Other"]})");
  EXPECT_TRUE(Says(OpenModel(dir.path()).status(), "\"Other\" is not supported"));
  WriteFile(dir / "text.gguf", "hello");
  EXPECT_TRUE(Says(OpenModel(dir / "text.gguf").status(), "not a GGUF file"));
  testing::WriteTinyGguf({}, dir / "m.gguf");
  const std::string whole = testing::ReadFile(dir / "m.gguf");
  WriteFile(dir / "m.gguf", std::string_view(whole).substr(0, whole.size() / 2));
  const absl::Status truncated = OpenModel(dir / "m.gguf").status();
  EXPECT_EQ(truncated.code(), absl::StatusCode::kDataLoss) << truncated;
  EXPECT_TRUE(Says(truncated, dir / "m.gguf")) << truncated;
}

TEST(OpenModel, DummyWeightsNeedNoWeightFiles) {
  const TempDir dir;
  testing::WriteTinyDirectory({}, dir / "whole");
  fs::create_directory(dir / "bare");
  fs::copy(dir / "whole/tokenizer.json", dir / "bare/tokenizer.json");
  const auto write_config = [&](const TinyModel& tiny, const std::string& type) {
    const std::string config = testing::TinyConfigJson(tiny).insert(1, "\"torch_dtype\": \"" + type + "\",");
    for (const char* folder : {"whole", "bare"}) WriteFile(dir / folder + "/config.json", config);
  };
  write_config({}, "float32");
  EXPECT_FALSE(OpenModel(dir / "bare").ok());
  const auto bare = OpenModel(dir / "bare", WeightSource::kDummy);
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_TRUE(CheckTensors(bare->config, *bare->checkpoint).ok());
  std::byte byte;
  EXPECT_EQ(bare->checkpoint->Read(bare->checkpoint->tensors()[0], 0, {&byte, 1}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(OpenTokenizer(*bare).ok());

  // Names, shapes and sizes are those of the files, so that the weights made like them are the same.
  const auto whole = OpenModel(dir / "whole");
  ASSERT_TRUE(whole.ok()) << whole.status();
  const auto made = MakeDummyCheckpoint(bare->checkpoint, 3), like_files = MakeDummyCheckpoint(whole->checkpoint, 3);
  ASSERT_EQ(made->tensors().size(), like_files->tensors().size());
  for (const TensorEntry& t : made->tensors()) {
    const TensorEntry* other = like_files->Find(t.name);
    ASSERT_NE(other, nullptr) << t.name;
    EXPECT_EQ(t.shape, other->shape);
    ASSERT_EQ(t.bytes, other->bytes) << t.name;
    std::vector<std::byte> a(static_cast<size_t>(t.bytes)), b(a.size());
    ASSERT_TRUE(made->Read(t, 0, a).ok() && like_files->Read(*other, 0, b).ok());
    EXPECT_EQ(a, b) << t.name;
  }

  // Files that are there are not looked at; another shape is another revision.
  EXPECT_EQ(OpenModel(dir / "whole", WeightSource::kDummy)->checkpoint->header_digest(),
            bare->checkpoint->header_digest());
  TinyModel deeper;
  deeper.layers = 3;
  write_config(deeper, "float32");
  EXPECT_NE(OpenModel(dir / "bare", WeightSource::kDummy)->revision, bare->revision);
  write_config({}, "float16");
  EXPECT_NE(OpenModel(dir / "bare", WeightSource::kDummy)->revision, bare->revision);
  write_config({}, "float8_e5m2");
  EXPECT_TRUE(Says(OpenModel(dir / "bare", WeightSource::kDummy).status(), "torch_dtype float8_e5m2"));
}

// A config that speaks of fp8 or int8 gives the dummies that files of that type would give.
TEST(OpenModel, DummiesFollowTheQuantisationOfTheConfig) {
  for (const DType type : {DType::kF8E4M3, DType::kI8}) {
    const TempDir dir;
    const TinyModel tiny = {.matrices = type};
    testing::WriteTinyDirectory(tiny, dir / "whole", 2);
    WriteFile(dir / "bare/config.json", testing::TinyConfigJson(tiny).insert(1, "\"torch_dtype\": \"float32\","));
    const auto whole = OpenModel(dir / "whole"), bare = OpenModel(dir / "bare", WeightSource::kDummy);
    ASSERT_TRUE(whole.ok() && bare.ok()) << whole.status() << bare.status();
    const auto made = MakeDummyCheckpoint(bare->checkpoint, 3), like_files = MakeDummyCheckpoint(whole->checkpoint, 3);
    ASSERT_EQ(made->tensors().size(), like_files->tensors().size());
    for (const TensorEntry& t : made->tensors()) {
      const TensorEntry* other = like_files->Find(t.name);
      ASSERT_NE(other, nullptr) << t.name;
      ASSERT_EQ(t.bytes, other->bytes) << t.name;
      std::vector<std::byte> a(static_cast<size_t>(t.bytes)), b(a.size());
      ASSERT_TRUE(made->Read(t, 0, a).ok() && like_files->Read(*other, 0, b).ok());
      EXPECT_EQ(a, b) << t.name;
    }
    EXPECT_EQ(bare->checkpoint->Find("layers.1.ffn.down")->dtype, type);
    EXPECT_EQ(bare->checkpoint->Find("embedding")->dtype, DType::kF32);
  }
}

TEST(OpenModel, PartsOfSplitFilesAreRefused) {
  const TempDir dir;
  testing::GgufWriter w = testing::TinyGguf({});
  w.Uint32("split.count", 3);
  WriteFile(dir / "m-00001-of-00003.gguf", w.Build().bytes);
  EXPECT_TRUE(Says(OpenModel(dir / "m-00001-of-00003.gguf").status(), "split GGUF"));
}

TEST(OpenModel, MissingTensorsAreFoundBeforeAnythingIsLoaded) {
  const TempDir dir;
  TinyModel big;
  big.layers = 3;
  testing::WriteTinyDirectory({}, dir.path());  // two layers
  WriteFile(dir / "config.json", testing::TinyConfigJson(big));
  const absl::Status s = OpenModel(dir.path()).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Says(s, "9 problems") && Says(s, "model.layers.2.mlp.down_proj.weight")) << s;
}

TEST(OpenModel, RevisionTellsModelsApart) {
  const TempDir dir;
  TinyModel m;
  testing::WriteTinyGguf(m, dir / "a.gguf");
  testing::WriteTinyGguf(m, dir / "copy.gguf");
  m.seed = 2;  // same headers, other weights
  testing::WriteTinyGguf(m, dir / "b.gguf");
  const auto a = OpenModel(dir / "a.gguf"), copy = OpenModel(dir / "copy.gguf"), b = OpenModel(dir / "b.gguf");
  ASSERT_TRUE(a.ok() && copy.ok() && b.ok());
  EXPECT_EQ(a->revision, copy->revision);
  EXPECT_NE(a->revision, b->revision);
  EXPECT_LT(a->checkpoint->bytes_read(), 5000);
}

// As when an adapter is merged into one kind of tensor, and nothing else changes.
TEST(OpenModel, RevisionSeesAnyOneTensorChange) {
  const TempDir dir;
  TinyModel m;
  m.layers = 20;  // more tensors than one would sample at a stride
  testing::WriteTinyGguf(m, dir / "a.gguf");
  const auto a = OpenModel(dir / "a.gguf");
  ASSERT_TRUE(a.ok()) << a.status();
  const std::string whole = testing::ReadFile(dir / "a.gguf");
  std::set<std::string> revisions = {a->revision};
  for (const TensorEntry& tensor : a->checkpoint->tensors()) {
    std::string values(static_cast<size_t>(tensor.bytes), '\0'), changed = whole;
    ASSERT_TRUE(a->checkpoint->Read(tensor, 0, std::as_writable_bytes(std::span(values))).ok());
    const size_t at = whole.find(values);
    ASSERT_NE(at, std::string::npos);
    for (size_t i = at; i < at + values.size(); ++i) changed[i] = static_cast<char>(changed[i] ^ 1);
    WriteFile(dir / "b.gguf", changed);
    const auto b = OpenModel(dir / "b.gguf");
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_TRUE(revisions.insert(b->revision).second) << tensor.name;
  }
  EXPECT_GT(revisions.size(), 180u);
}

TEST(OpenTokenizer, SameFromEitherFormatAndBesideDummyWeights) {
  const TempDir dir;
  testing::WriteTinyGguf({}, dir / "m.gguf");
  testing::WriteTinyDirectory({}, dir / "hf");
  auto gguf = OpenModel(dir / "m.gguf");
  const auto hf = OpenModel(dir / "hf");
  ASSERT_TRUE(gguf.ok() && hf.ok());
  gguf->checkpoint = MakeDummyCheckpoint(gguf->checkpoint, 1);
  const auto a = OpenTokenizer(*gguf), b = OpenTokenizer(*hf);
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  for (const char* text : {"hello, wor1d 42", "\xED\x95\x9C\xEA\xB5\xAD\xEC\x96\xB4", "<|im_end|>"}) {
    const auto ids = (*a)->Encode(text, text::Tokenizer::Mode::kPlain, false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, *(*b)->Encode(text, text::Tokenizer::Mode::kPlain, false)) << text;
    std::string back;
    for (const int32_t id : *ids) back += (*a)->TokenBytes(id, false);
    EXPECT_EQ(back, text);
  }
  EXPECT_EQ((*a)->TokenId("<|im_end|>"), testing::kTinyImEnd);
  fs::remove(dir / "hf/tokenizer.json");
  EXPECT_EQ(OpenTokenizer(*hf).status().code(), absl::StatusCode::kNotFound);
}

// Files from before the key `add_bos_token` existed: the pre-tokenizer says whether there is a bos.
TEST(OpenTokenizer, GgufWithoutTheKeyAddsBosAsItsPreTokenizerDoes) {
  const TempDir dir;
  const std::string bytes = testing::TinyGguf({}).Build().bytes;
  const auto first = [&](const char* pre) {  // as long as "smollm"
    std::string changed = bytes;
    const size_t key = changed.find("tokenizer.ggml.add_bos_token");
    changed.replace(key, 4, "xxxx");
    changed.replace(changed.find("smollm"), 6, pre);
    WriteFile(dir / "m.gguf", changed);
    const auto files = OpenModel(dir / "m.gguf");
    EXPECT_TRUE(files.ok()) << files.status();
    const auto tokenizer = OpenTokenizer(*files);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return (*tokenizer)->Encode("a", text::Tokenizer::Mode::kPlain, files->add_bos)->front();
  };
  EXPECT_EQ(first("llama3"), testing::kTinyImStart);
  EXPECT_NE(first("smollm"), testing::kTinyImStart);
}

TEST(OpenTokenizer, ContradictingVocabulariesAreRefused) {
  const TempDir dir;
  testing::GgufWriter w;
  w.String("tokenizer.ggml.model", "gpt2");
  w.Strings("tokenizer.ggml.tokens", {"a", "b"});
  w.Int32s("tokenizer.ggml.token_type", {1});
  w.Tensor("t", {1}, 0, "1234");
  WriteFile(dir / "m.gguf", w.Build().bytes);
  ModelFiles files;
  files.path = dir / "m.gguf";
  const absl::Status s = OpenTokenizer(files).status();
  EXPECT_TRUE(Says(s, "2 tokens, but 1 token types")) << s;
}

// The default model; `make model` fetches it.
TEST(OpenModel, SmolLm2) {
  const char* root = std::getenv("SHOAL_SOURCE_DIR");
  const std::string path = std::string(root == nullptr ? "." : root) + "/models/SmolLM2-135M-Instruct-Q4_1.gguf";
  if (!fs::exists(path)) FAIL() << path << " is missing: run `make model`";
  const auto files = OpenModel(path);
  ASSERT_TRUE(files.ok()) << files.status();
  const ModelConfig& c = files->config;
  EXPECT_EQ(c.layers, 30);
  EXPECT_EQ(c.hidden, 576);
  EXPECT_EQ(c.heads, 9);
  EXPECT_EQ(c.kv_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.ffn, 1536);
  EXPECT_EQ(c.vocab, 49152);
  EXPECT_EQ(c.max_position, 8192);
  EXPECT_EQ(c.rope.theta, 100000.0);
  EXPECT_TRUE(c.rope.interleaved);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_EQ(c.eos_tokens, std::vector<int32_t>{2});
  EXPECT_EQ(files->eos_spelling, "<|im_end|>");
  EXPECT_FALSE(files->add_bos);
  EXPECT_EQ(files->checkpoint->tensors().size(), 272u);
  EXPECT_LT(files->checkpoint->bytes_read(), 10000);
}

}  // namespace
}  // namespace shoal::model
