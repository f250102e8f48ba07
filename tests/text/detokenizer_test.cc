// Detokenisation token by token: whole characters only, nothing lost, the same as decoding all at once.
#include "common/text/detokenizer.h"

#include <gtest/gtest.h>

#include "tests/text/fixture.h"

namespace shoal::text {
namespace {

using Mode = Tokenizer::Mode;

// Tokens are bytes 0..255; 256 is a control token, 257 is " x".
class ByteTokenizer final : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, Mode, bool) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  std::string TokenBytes(int32_t id, bool show_control) const override {
    if (id == 256) return show_control ? "<end>" : "";
    if (id == 257) return " x";
    return std::string(1, static_cast<char>(id));
  }
  int leading_spaces() const override { return 2; }
  int32_t vocab_size() const override { return 258; }
  bool is_control(int32_t id) const override { return id == 256; }
  int32_t TokenId(std::string_view) const override { return -1; }
  std::vector<std::string> control_spellings() const override { return {"<end>"}; }
};

std::string PushAll(Detokenizer&& detokenizer, std::initializer_list<int32_t> ids) {
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  return text;
}

std::string DecodeBytes(std::string_view bytes) {
  Detokenizer detokenizer(std::make_shared<ByteTokenizer>(), false);
  std::string text;
  for (const char c : bytes) text += detokenizer.Push(static_cast<uint8_t>(c));
  return text + detokenizer.Finish();
}

bool IsWholeUtf8(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    const uint8_t b = static_cast<uint8_t>(s[i]);
    const size_t size = b < 0x80                ? 1
                        : b >= 0xC2 && b < 0xE0 ? 2
                        : b >= 0xE0 && b < 0xF0 ? 3
                        : b >= 0xF0 && b < 0xF5 ? 4
                                                : 0;
    if (size == 0 || i + size > s.size()) return false;
    for (size_t k = 1; k < size; ++k) {
      if ((static_cast<uint8_t>(s[i + k]) & 0xC0) != 0x80) return false;
    }
    i += size;
  }
  return true;
}

// One U+FFFD per maximal part of a sequence; the examples are those of Unicode 15, tables 3-8 to 3-11, and Python's.
TEST(Detokenizer, ReplacesWhatCannotBecomeACharacter) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(DecodeBytes("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(DecodeBytes("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(DecodeBytes("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(DecodeBytes("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(DecodeBytes("\x80\x80"), r + r);
  EXPECT_EQ(DecodeBytes("\xE2\x82\xAC\xF0\x9F\x98\x80"), "€😀");
}

TEST(Detokenizer, DropsACharacterCutAtTheEnd) {
  EXPECT_EQ(DecodeBytes("ab\xE2\x82"), "ab");
  EXPECT_EQ(DecodeBytes("ab\xF0\x9F\x98"), "ab");
  EXPECT_EQ(DecodeBytes("\xF0"), "");
}

TEST(Detokenizer, HoldsBackAtMostThreeBytes) {
  Detokenizer detokenizer(std::make_shared<ByteTokenizer>(), false);
  EXPECT_EQ(detokenizer.Push(0xF0), "");
  EXPECT_EQ(detokenizer.Push(0x9F), "");
  EXPECT_EQ(detokenizer.Push(0x98), "");
  EXPECT_EQ(detokenizer.Push(256), "");  // hidden: the bytes around it belong together
  EXPECT_EQ(detokenizer.Push(0x80), "😀");
  EXPECT_EQ(detokenizer.Push('a'), "a");
}

TEST(Detokenizer, ShowsControlTokensOnRequest) {
  EXPECT_EQ(PushAll(Detokenizer(std::make_shared<ByteTokenizer>(), true), {'a', 256, 'b'}), "a<end>b");
}

TEST(Detokenizer, DropsLeadingSpacesOnlyAtTheStartOfAText) {
  const auto tokenizer = std::make_shared<ByteTokenizer>();
  EXPECT_EQ(PushAll(Detokenizer(tokenizer, false), {257, 257}), " x x");
  EXPECT_EQ(PushAll(Detokenizer(tokenizer, false, true), {' ', 257, 257}), "x x");
  EXPECT_EQ(PushAll(Detokenizer(tokenizer, false, true), {' ', ' ', ' '}), " ");
  EXPECT_EQ(PushAll(Detokenizer(tokenizer, false, true), {'a', ' ', 'b'}), "a b");
}

void ExpectDecodesTo(const Tokenizer& tokenizer, std::shared_ptr<const Tokenizer> shared,
                     const std::vector<int32_t>& ids, const std::string& want, bool at_text_start) {
  Detokenizer detokenizer(std::move(shared), false, at_text_start);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = detokenizer.Push(id);
    ASSERT_TRUE(IsWholeUtf8(part)) << want << ": " << tokenizer.TokenBytes(id, true);
    text += part;
  }
  EXPECT_EQ(text + detokenizer.Finish(), want);
}

TEST(Detokenizer, DecodesAsHuggingFace) {
  const auto smollm2 = testing::Smollm2();
  for (const auto& row : testing::ReadSmollm2Answers().rows)
    ExpectDecodesTo(*smollm2, smollm2, row.plain, row.decoded, true);
  const auto answers = testing::ReadSentencePieceAnswers();
  const auto sentencepiece = Tokenizer::FromJson(answers.tokenizer_json).value();
  for (const auto& row : answers.rows) ExpectDecodesTo(*sentencepiece, sentencepiece, row.plain, row.decoded, true);
}

// Random tokens, not text: sequences cut anywhere. The pushed text is what decoding all bytes at once gives.
TEST(Detokenizer, RandomTokensEqualTheWhole) {
  const auto smollm2 = testing::Smollm2();
  testing::Random random(7);
  const std::vector<std::string> texts = {"안녕하세요 세계",      "👩🏽‍💻🇰🇷",
                                          "e\u0301\u0323o\u0302", "漢字かな",
                                          "plain text",           "\U00020000\U0001F9FF"};
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids;
    for (int n = 0; n < 6; ++n) {
      const auto encoded = smollm2->Encode(texts[random.Below(texts.size())], Mode::kPlain, false).value();
      const size_t from = random.Below(static_cast<uint32_t>(encoded.size()));
      const size_t to = from + random.Below(static_cast<uint32_t>(encoded.size() - from)) + 1;
      ids.insert(ids.end(), encoded.begin() + static_cast<ptrdiff_t>(from),
                 encoded.begin() + static_cast<ptrdiff_t>(to));
    }
    std::string bytes;
    for (const int32_t id : ids) bytes += smollm2->TokenBytes(id, false);
    Detokenizer one_by_one(smollm2, false);
    std::string text;
    for (const int32_t id : ids) {
      const std::string part = one_by_one.Push(id);
      ASSERT_TRUE(IsWholeUtf8(part));
      text += part;
    }
    ASSERT_EQ(text + one_by_one.Finish(), DecodeBytes(bytes));
  }
}

TEST(Detokenizer, ValidTextComesBackUnchanged) {
  const auto smollm2 = testing::Smollm2();
  testing::Random random(8);
  for (int round = 0; round < 1000; ++round) {
    const std::string text = testing::RandomText(random);
    const auto ids = smollm2->Encode(text, Mode::kPlain, false).value();
    ExpectDecodesTo(*smollm2, smollm2, ids, text, false);
  }
}

}  // namespace
}  // namespace shoal::text
