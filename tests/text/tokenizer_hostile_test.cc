// What must be refused, by name and without harm; and texts made to hurt.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/text/tokenizer.h"
#include "tests/text/fixture.h"

namespace shoal::text {
namespace {

using ::testing::HasSubstr;
using Mode = Tokenizer::Mode;

constexpr char kModel[] = R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})";

std::string File(const std::string& model, const std::string& more = R"("decoder":{"type":"ByteLevel"})") {
  return R"({"version":"1.0","model":)" + model + (more.empty() ? "" : "," + more) + "}";
}

void ExpectRefused(const std::string& json, absl::StatusCode code, const std::string& words) {
  const auto tokenizer = Tokenizer::FromJson(json);
  ASSERT_FALSE(tokenizer.ok()) << json.substr(0, 200);
  EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(words));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;

TEST(TokenizerJson, TheSmallestOneWorks) {
  const auto tokenizer = Tokenizer::FromJson(File(kModel));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("abba", Mode::kPlain, false).value(), (std::vector<int32_t>{2, 1, 0}));
}

TEST(TokenizerJson, RefusesWhatIsWrong) {
  ExpectRefused("", kInvalid, "tokenizer.json");
  ExpectRefused("[]", kInvalid, "tokenizer.json");
  ExpectRefused("{}", kInvalid, "model");
  ExpectRefused("\xff", kInvalid, "not valid UTF-8");
  ExpectRefused(File(R"({"type":"BPE"})"), kInvalid, "vocab");
  ExpectRefused(File(R"({"type":"BPE","vocab":{},"merges":[]})"), kInvalid, "empty");
  ExpectRefused(File(R"({"type":"BPE","vocab":{"a":-1},"merges":[]})"), kInvalid, "tokenizer.json: model");
  ExpectRefused(File(R"({"type":"BPE","vocab":{"a":4294967295},"merges":[]})"), kInvalid, "4294967295");
  ExpectRefused(File(R"({"type":"BPE","vocab":{"a":0},"merges":["a b"]})"), kInvalid, "\"b\" is not in the vocabulary");
  ExpectRefused(File(R"({"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]})"), kInvalid,
                "\"ab\" is not in the vocabulary");
  ExpectRefused(File(R"({"type":"BPE","vocab":{"a":0},"merges":["abc"]})"), kInvalid, "not a pair");
  ExpectRefused(File(R"({"type":"BPE","vocab":{"a":0},"merges":["a b c"]})"), kInvalid, "not a pair");
  ExpectRefused(File(R"({"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"?"})"), kInvalid, "\"?\"");
  ExpectRefused(
      File(R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"],"continuing_subword_prefix":"##"})"),
      kInvalid, "prefix");
  const std::string decoder = R"("decoder":{"type":"ByteLevel"},)";
  ExpectRefused(File(kModel, decoder + R"("normalizer":{"type":"Nonsense"})"), kInvalid, "normalizer \"Nonsense\"");
  ExpectRefused(File(kModel, decoder + R"("pre_tokenizer":{"type":"Nonsense"})"), kInvalid,
                "pre_tokenizer \"Nonsense\"");
  ExpectRefused(
      File(kModel,
           decoder +
               R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"(["},"behavior":"Isolated","invert":false})"),
      kInvalid, "pre_tokenizer");
  ExpectRefused(
      File(
          kModel,
          decoder +
              R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}],"special_tokens":{}})"),
      kInvalid, "\"<s>\"");
  ExpectRefused(
      File(
          kModel,
          decoder +
              R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"s"}}],"special_tokens":{"s":{"ids":[77]}}})"),
      kInvalid, "77");
}

TEST(TokenizerJson, RefusesByNameWhatItDoesNotDo) {
  ExpectRefused(File(R"({"type":"Unigram","vocab":[["a",0.0]]})"), kUnsupported, "\"Unigram\"");
  ExpectRefused(File(R"({"type":"WordPiece","vocab":{}})"), kUnsupported, "\"WordPiece\"");
  ExpectRefused(File(kModel, ""), kUnsupported, "no decoder");
  ExpectRefused(File(kModel, R"("decoder":{"type":"CTC"})"), kUnsupported, "\"CTC\"");
  ExpectRefused(
      File(kModel,
           R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"Regex":"a"},"content":""}]})"),
      kUnsupported, "\"Replace\"");
  ExpectRefused(
      File(kModel, R"("decoder":{"type":"Sequence","decoders":[{"type":"Strip","content":"x","start":1,"stop":0}]})"),
      kUnsupported, "\"Strip\"");
}

TEST(TokenizerJson, SurvivesDeepNesting) {
  for (const char* key : {"normalizer", "pre_tokenizer", "decoder", "post_processor"}) {
    std::string open, close;
    for (int i = 0; i < 20000; ++i) open += R"({"type":"Sequence","decoders":[)", close += "]}";
    ExpectRefused(File(kModel, std::string("\"") + key + "\":" + open + "null" + close), kInvalid, "recursion limit");
  }
  ExpectRefused(std::string(100000, '['), kInvalid, "tokenizer.json");
}

// Every cut of a real file is refused; none is taken for a smaller tokenizer.
TEST(TokenizerJson, RefusesEveryTruncation) {
  const std::string json = testing::ReadByteLevelAnswers().tokenizer_json;
  for (size_t size = 0; size < json.size(); size += 1 + json.size() / 400) {
    const auto tokenizer = Tokenizer::FromJson(json.substr(0, size));
    ASSERT_FALSE(tokenizer.ok()) << size;
    EXPECT_EQ(tokenizer.status().code(), kInvalid);
  }
}

// A changed byte may give another valid tokenizer; it must give a Status or one that encodes.
TEST(TokenizerJson, SurvivesChangedBytes) {
  const std::string json = testing::ReadSentencePieceAnswers().tokenizer_json;
  testing::Random random(11);
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    std::string changed = json;
    for (int n = 0; n < 3; ++n)
      changed[random.Below(static_cast<uint32_t>(json.size()))] = "\"{}[]:,0a"[random.Below(9)];
    const auto tokenizer = Tokenizer::FromJson(changed);
    refused += tokenizer.ok() ? 0 : 1;
    if (!tokenizer.ok()) {
      EXPECT_NE(tokenizer.status().code(), absl::StatusCode::kInternal) << tokenizer.status();
      continue;
    }
    EXPECT_TRUE((*tokenizer)->Encode("Hello, 안녕 <s>", Mode::kWithControl, true).ok());
  }
  EXPECT_GT(refused, 100);
}

GgufVocab SmallVocab() {
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = "gpt-2";
  vocab.tokens = {"a", "b", "ab", "<end>"};
  vocab.token_types = {1, 1, 1, 3};
  vocab.merges = {"a b"};
  return vocab;
}

void ExpectRefused(const GgufVocab& vocab, absl::StatusCode code, const std::string& words) {
  const auto tokenizer = Tokenizer::FromGguf(vocab);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(words));
}

TEST(GgufVocab, RefusesWhatIsWrong) {
  ASSERT_TRUE(Tokenizer::FromGguf(SmallVocab()).ok());
  GgufVocab v = SmallVocab();
  v.token_types.pop_back();
  ExpectRefused(v, kInvalid, "differ in length");
  v = SmallVocab();
  v.tokens[1] = "a";
  ExpectRefused(v, kInvalid, "tokens 0 and 1 are both spelled \"a\"");
  v = SmallVocab();
  v.merges.push_back("a zz");
  ExpectRefused(v, kInvalid, "merge 1: \"zz\"");
  v = SmallVocab();
  v.merges[0] = "ab";
  ExpectRefused(v, kInvalid, "tokenizer.ggml.merges[0]");
  v = SmallVocab();
  v.add_bos = true;
  ExpectRefused(v, kInvalid, "tokenizer.ggml.bos_token_id -1");
  v.bos = 4;
  ExpectRefused(v, kInvalid, "tokenizer.ggml.bos_token_id 4");
  v = SmallVocab();
  v.eos = 99;
  ExpectRefused(v, kInvalid, "tokenizer.ggml.eos_token_id 99");
  v = SmallVocab();
  v.tokens[0] = "\xff";
  ExpectRefused(v, kInvalid, "token 0 is not valid UTF-8");
  v = SmallVocab();
  v.tokens.clear();
  v.token_types.clear();
  v.merges.clear();
  ExpectRefused(v, kInvalid, "empty");
}

TEST(GgufVocab, RefusesByNameWhatItDoesNotDo) {
  GgufVocab v = SmallVocab();
  v.model = "llama";
  ExpectRefused(v, kUnsupported, "\"llama\" (a SentencePiece vocabulary)");
  v.model = "t5";
  ExpectRefused(v, kUnsupported, "\"t5\"");
  v = SmallVocab();
  v.pre = "made-up";
  ExpectRefused(v, kUnsupported, "tokenizer.ggml.pre \"made-up\"");
  v.pre = "";
  ExpectRefused(v, kUnsupported, "tokenizer.ggml.pre \"\"");
}

// Unused tokens keep their ids but are in no text; user-defined ones are cut out of user text, too.
TEST(GgufVocab, HonoursTokenTypes) {
  GgufVocab v = SmallVocab();
  v.tokens = {"a", "b", "ab", "<end>", "<mark>", "<unused>", "<unk>"};
  v.token_types = {1, 1, 5, 3, 4, 5, 2};
  const auto tokenizer = Tokenizer::FromGguf(v).value();
  EXPECT_EQ(tokenizer->Encode("ab", Mode::kPlain, false).value(), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(tokenizer->Encode("a<mark>b", Mode::kPlain, false).value(), (std::vector<int32_t>{0, 4, 1}));
  EXPECT_EQ(tokenizer->TokenBytes(4, false), "<mark>");
  EXPECT_EQ(tokenizer->TokenBytes(5, true), "");
  EXPECT_EQ(tokenizer->TokenId("<unused>"), 5);
  EXPECT_EQ(tokenizer->control_spellings(), (std::vector<std::string>{"<end>", "<unk>"}));
}

TEST(Encode, RefusesInvalidUtf8) {
  const auto tokenizer = testing::Smollm2();
  for (const std::string& bad : {std::string("a\xff"), std::string("\xed\xa0\x80"), std::string("\xe2\x82")}) {
    const auto ids = tokenizer->Encode(bad, Mode::kPlain, false);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.status().code(), kInvalid);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("UTF-8"));
  }
  EXPECT_TRUE(tokenizer->Encode(std::string_view("a\0b", 3), Mode::kPlain, false).ok());
}

// A megabyte of each kind of text that could make a splitter or a merger slow. Quadratic work would take hours.
TEST(Encode, TakesAMegabyteOfAnything) {
  const auto byte_level = testing::ReadByteLevelAnswers();
  const auto sentencepiece = Tokenizer::FromJson(testing::ReadSentencePieceAnswers().tokenizer_json).value();
  const std::vector<std::shared_ptr<const Tokenizer>> tokenizers = {
      testing::Smollm2(), testing::ByteLevel(byte_level, "llama-bpe"), testing::ByteLevel(byte_level, "default"),
      sentencepiece};
  for (const char* unit : {"a", " ", "\n", " \n", "ab", "한", "1", "'", "\u0301", "<|im_end|>", "word "}) {
    std::string text;
    while (text.size() < (1u << 20)) text += unit;
    for (const auto& tokenizer : tokenizers) {
      const auto ids = tokenizer->Encode(text, Mode::kPlain, false);
      ASSERT_TRUE(ids.ok()) << unit << ": " << ids.status();
      std::string back;
      for (const int32_t id : *ids) back += tokenizer->TokenBytes(id, false);
      if (tokenizer == sentencepiece) back.erase(0, 1);
      EXPECT_TRUE(back == text) << unit;
    }
  }
}

// Control tokens are looked for in the raw text, even when the file asks for the normalised one: no other character may
// become one of theirs.
TEST(Encode, NormalisationMakesNoControlToken) {
  const std::string json = R"({"added_tokens":[{"id":6,"content":"<E>","special":true,"normalized":true}],
    "normalizer":{"type":"NFKC"},"model":{"type":"BPE","vocab":{"<":0,"E":1,">":2,"<E":3,"<E>":6},"merges":["< E","<E >"]},
    "decoder":{"type":"Sequence","decoders":[{"type":"Fuse"}]}})";
  const auto tokenizer = Tokenizer::FromJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("<E>", Mode::kWithControl, false).value(), (std::vector<int32_t>{6}));
  EXPECT_EQ((*tokenizer)->Encode("<E>", Mode::kPlain, false).value(), (std::vector<int32_t>{3, 2}));
  const std::string wide = "\uFF1C\uFF25\uFF1E";  // compatibility forms of < E >
  EXPECT_EQ((*tokenizer)->Encode(wide, Mode::kWithControl, false).value(), (std::vector<int32_t>{3, 2}));
}

}  // namespace
}  // namespace shoal::text
