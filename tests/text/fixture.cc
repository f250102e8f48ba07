#include "tests/text/fixture.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <variant>

#include "common/model/gguf.h"

namespace shoal::text::testing {
namespace {

namespace json = boost::json;

std::string SourcePath(const std::string& path) {
  const char* root = std::getenv("SHOAL_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/" + path;
}

json::value ReadJson(const std::string& name) {
  std::ifstream in(SourcePath("tests/text/data/" + name), std::ios::binary);
  EXPECT_TRUE(in.good()) << name;
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return json::parse(text);
}

std::string ToString(const json::value& v) { return std::string(v.as_string()); }

std::vector<std::string> ToStrings(const json::value& v) {
  std::vector<std::string> out;
  for (const json::value& item : v.as_array()) out.push_back(ToString(item));
  return out;
}

std::vector<int32_t> ToIds(const json::value& v) {
  std::vector<int32_t> ids;
  for (const json::value& item : v.as_array()) ids.push_back(static_cast<int32_t>(item.as_int64()));
  return ids;
}

// `row`: [.., plain ids, ids with control tokens unless they are the same], from `at` on.
Encoding ToEncoding(std::string text, const json::array& row, size_t at) {
  Encoding e;
  e.text = std::move(text);
  e.plain = ToIds(row.at(at));
  e.with_control = row.size() > at + 1 ? ToIds(row.at(at + 1)) : e.plain;
  return e;
}

// `rows` of [text, ids..] with `decoded`, where null means "as the text".
std::vector<Encoding> ToRows(const json::object& file) {
  std::vector<Encoding> rows;
  const json::array& decoded = file.at("decoded").as_array();
  for (const json::value& value : file.at("rows").as_array()) {
    const json::array& row = value.as_array();
    Encoding e = ToEncoding(ToString(row.at(0)), row, 1);
    const json::value& back = decoded.at(rows.size());
    e.decoded = back.is_null() ? e.text : ToString(back);
    rows.push_back(std::move(e));
  }
  return rows;
}

}  // namespace

Smollm2Answers ReadSmollm2Answers() {
  const json::value file = ReadJson("smollm2.json");
  return {ToStrings(file.at("control")), ToRows(file.as_object())};
}

ByteLevelAnswers ReadByteLevelAnswers() {
  const json::value file = ReadJson("byte_level.json");
  ByteLevelAnswers answers;
  answers.tokens = ToStrings(file.at("tokens"));
  answers.merges = ToStrings(file.at("merges"));
  answers.control = ToStrings(file.at("control"));
  answers.tokenizer_json = ToString(file.at("tokenizer_json"));
  const std::vector<std::string> texts = ToStrings(file.at("texts"));
  for (const auto& [pre, rows] : file.at("families").as_object()) {
    ByteLevelAnswers::Family family = {std::string(pre), {}};
    for (const json::value& row : rows.as_array()) {
      family.rows.push_back(ToEncoding(texts.at(family.rows.size()), row.as_array(), 0));
    }
    answers.families.push_back(std::move(family));
  }
  return answers;
}

SentencePieceAnswers ReadSentencePieceAnswers() {
  const json::value file = ReadJson("sentencepiece.json");
  return {ToString(file.at("tokenizer_json")), ToRows(file.as_object())};
}

TemplateAnswers ReadTemplateAnswers() {
  const json::value file = ReadJson("templates.json");
  TemplateAnswers answers;
  answers.now = file.at("now").as_int64();
  for (const json::value& value : file.at("cases").as_array()) {
    const json::object& row = value.as_object();
    TemplateCase c;
    c.name = ToString(row.at("template"));
    c.source = ToString(file.at("templates").at(c.name));
    c.context = ToString(row.at("context"));
    if (const json::value* rendered = row.if_contains("rendered")) c.rendered = ToString(*rendered);
    if (const json::value* raised = row.if_contains("raised")) c.raised = ToString(*raised);
    c.fails = row.contains("fails");
    answers.cases.push_back(std::move(c));
  }
  return answers;
}

std::shared_ptr<const Tokenizer> Smollm2() {
  const std::string path = SourcePath("models/SmolLM2-135M-Instruct-Q4_1.gguf");
  const auto file = model::GgufFile::Open(path);
  if (!file.ok()) {
    ADD_FAILURE() << path << ": " << file.status() << " (make model)";
    std::exit(1);
  }
  const auto strings = [&](std::string_view key) -> const std::vector<std::string>& {
    return std::get<std::vector<std::string>>((*file)->metadata().at(std::string(key)));
  };
  GgufVocab vocab;
  vocab.model = (*file)->GetString("tokenizer.ggml.model").value();
  vocab.pre = (*file)->GetString("tokenizer.ggml.pre").value();
  for (const std::string& token : strings("tokenizer.ggml.tokens")) vocab.tokens.push_back(token);
  for (const std::string& merge : strings("tokenizer.ggml.merges")) vocab.merges.push_back(merge);
  for (const int64_t type : std::get<std::vector<int64_t>>((*file)->metadata().at("tokenizer.ggml.token_type"))) {
    vocab.token_types.push_back(static_cast<int32_t>(type));
  }
  vocab.add_bos = (*file)->GetBool("tokenizer.ggml.add_bos_token").value();
  vocab.bos = static_cast<int32_t>((*file)->GetInt("tokenizer.ggml.bos_token_id").value());
  vocab.eos = static_cast<int32_t>((*file)->GetInt("tokenizer.ggml.eos_token_id").value());
  return Tokenizer::FromGguf(vocab).value();
}

std::shared_ptr<const Tokenizer> ByteLevel(const ByteLevelAnswers& answers, std::string_view pre) {
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = pre;
  for (const std::string& token : answers.tokens) {
    vocab.tokens.push_back(token);
    vocab.token_types.push_back(1);
    for (size_t i = 0; i < answers.control.size(); ++i) {
      if (token != answers.control[i]) continue;
      vocab.token_types.back() = 3;
      if (i == 0) vocab.bos = static_cast<int32_t>(vocab.tokens.size()) - 1;
    }
  }
  for (const std::string& merge : answers.merges) vocab.merges.push_back(merge);
  auto tokenizer = Tokenizer::FromGguf(vocab);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

std::string RandomText(Random& random) {
  static const std::vector<std::string> pieces = {"a",
                                                  "b",
                                                  "Z",
                                                  "the",
                                                  "ing",
                                                  " ",
                                                  "  ",
                                                  "\t",
                                                  "\n",
                                                  "\r\n",
                                                  "\n\n",
                                                  " \n",
                                                  "\u00a0",
                                                  "\u3000",
                                                  "0",
                                                  "7",
                                                  "42",
                                                  "\u0663",
                                                  "\u00bd",
                                                  "'",
                                                  "'s",
                                                  "'LL",
                                                  "'\u017f",
                                                  "n't",
                                                  ".",
                                                  "!?",
                                                  "--",
                                                  "(",
                                                  "_",
                                                  "\u2581",
                                                  "$",
                                                  "\u20ac",
                                                  "\uac00",
                                                  "\ub098\ub2e4",
                                                  "\u6f22\u5b57",
                                                  "\u3072",
                                                  "\u30ab",
                                                  "e\u0301",
                                                  "\u0301",
                                                  "\u00e9",
                                                  "\u0436",
                                                  "\u05d0",
                                                  "\U0001F600",
                                                  "\U0001F468\u200d\U0001F469",
                                                  "\ufe0f",
                                                  "\U0001F1F0\U0001F1F7",
                                                  "\u200d",
                                                  "\u00ad",
                                                  "<|im_end|>",
                                                  "<|",
                                                  "|>",
                                                  "im_end",
                                                  "<0x41>",
                                                  "\x01",
                                                  "\x7f",
                                                  "\u0085",
                                                  "\u2028",
                                                  "\U00020000"};
  std::string text;
  for (uint32_t n = 1 + random.Below(24); n > 0; --n)
    text += pieces[random.Below(static_cast<uint32_t>(pieces.size()))];
  return text;
}

std::string ReplaceAll(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

}  // namespace shoal::text::testing
