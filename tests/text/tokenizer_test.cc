// Tokenizers against Hugging Face's: same ids in both modes, same text back.
#include "common/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/text/fixture.h"

namespace shoal::text {
namespace {

using testing::Encoding;
using Mode = Tokenizer::Mode;

std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text, Mode mode, bool add_bos = false) {
  auto ids = tokenizer.Encode(text, mode, add_bos);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>{-1});
}

void ExpectSame(const Tokenizer& tokenizer, const std::vector<Encoding>& rows) {
  for (const Encoding& row : rows) {
    EXPECT_EQ(Encode(tokenizer, row.text, Mode::kPlain), row.plain) << "plain: [" << row.text << "]";
    EXPECT_EQ(Encode(tokenizer, row.text, Mode::kWithControl), row.with_control) << "control: [" << row.text << "]";
  }
}

TEST(Smollm2, EncodesAsHuggingFace) {
  const auto tokenizer = testing::Smollm2();
  const auto answers = testing::ReadSmollm2Answers();
  ASSERT_GE(answers.rows.size(), 300u);
  ExpectSame(*tokenizer, answers.rows);
  EXPECT_GE(std::count_if(answers.rows.begin(), answers.rows.end(),
                          [](const Encoding& r) { return r.plain != r.with_control; }),
            10);
}

TEST(Smollm2, KnowsItsControlTokens) {
  const auto tokenizer = testing::Smollm2();
  const auto answers = testing::ReadSmollm2Answers();
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  EXPECT_EQ(tokenizer->control_spellings(), answers.control);
  EXPECT_EQ(tokenizer->leading_spaces(), 0);
  for (size_t i = 0; i < answers.control.size(); ++i) {
    const int32_t id = tokenizer->TokenId(answers.control[i]);
    EXPECT_EQ(id, static_cast<int32_t>(i));
    EXPECT_TRUE(tokenizer->is_control(id));
    EXPECT_EQ(tokenizer->TokenBytes(id, true), answers.control[i]);
    EXPECT_EQ(tokenizer->TokenBytes(id, false), "");
  }
  EXPECT_EQ(tokenizer->TokenId("no such token"), -1);
  EXPECT_EQ(tokenizer->TokenBytes(tokenizer->TokenId("\u0120the"), false), " the");
  for (const int32_t id : {-1, 49152, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->TokenBytes(id, true), "");
    EXPECT_FALSE(tokenizer->is_control(id));
  }
}

// The vocabulary says that this model wants no start token.
TEST(Smollm2, AddsNoStartToken) {
  const auto tokenizer = testing::Smollm2();
  EXPECT_EQ(Encode(*tokenizer, "Hello", Mode::kPlain, true), Encode(*tokenizer, "Hello", Mode::kPlain, false));
}

TEST(ByteLevel, EncodesAsHuggingFaceUnderEachPreTokenizer) {
  const auto answers = testing::ReadByteLevelAnswers();
  ASSERT_GE(answers.families.size(), 5u);
  for (const auto& family : answers.families) {
    SCOPED_TRACE(family.pre);
    ASSERT_GE(family.rows.size(), 200u);
    ExpectSame(*testing::ByteLevel(answers, family.pre), family.rows);
  }
}

TEST(ByteLevel, PreTokenizersDiffer) {  // else the test above would show little
  const auto answers = testing::ReadByteLevelAnswers();
  for (size_t a = 0; a < answers.families.size(); ++a) {
    for (size_t b = a + 1; b < answers.families.size(); ++b) {
      const auto& [one, two] = std::pair(answers.families[a], answers.families[b]);
      EXPECT_FALSE(std::equal(one.rows.begin(), one.rows.end(), two.rows.begin(),
                              [](const Encoding& x, const Encoding& y) { return x.plain == y.plain; }))
          << one.pre << " " << two.pre;
    }
  }
}

TEST(ByteLevel, TokenizerJsonEncodesAsHuggingFace) {
  const auto answers = testing::ReadByteLevelAnswers();
  const auto family = std::find_if(answers.families.begin(), answers.families.end(),
                                   [](const auto& f) { return f.pre == "llama-bpe"; });
  ASSERT_NE(family, answers.families.end());
  // It asks for truncation to 5 tokens and padding to 32; both are for training.
  ASSERT_NE(answers.tokenizer_json.find("\"max_length\":5"), std::string::npos);
  const auto tokenizer = Tokenizer::FromJson(answers.tokenizer_json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectSame(**tokenizer, family->rows);
  EXPECT_EQ((*tokenizer)->control_spellings(), answers.control);
}

TEST(ByteLevel, StartTokenComesFromTheTemplateOrTheGguf) {
  const auto answers = testing::ReadByteLevelAnswers();
  const auto from_json = Tokenizer::FromJson(answers.tokenizer_json).value();
  const auto from_gguf = testing::ByteLevel(answers, "llama-bpe");  // add_bos absent: Llama 3 has one
  for (const auto& tokenizer : {from_json, from_gguf}) {
    std::vector<int32_t> expected = Encode(*tokenizer, "Hi", Mode::kPlain);
    expected.insert(expected.begin(), tokenizer->TokenId("<|begin_of_text|>"));
    EXPECT_EQ(Encode(*tokenizer, "Hi", Mode::kPlain, true), expected);
  }
  const auto none = testing::ByteLevel(answers, "gpt-2");
  EXPECT_EQ(Encode(*none, "Hi", Mode::kPlain, true), Encode(*none, "Hi", Mode::kPlain));
}

// The scanners are equal to the expressions that they stand for, and both ways through the text to each other.
TEST(ByteLevel, ScannerExpressionAndLibraryAgreeOnRandomText) {
  const auto answers = testing::ReadByteLevelAnswers();
  const std::string scanned = answers.tokenizer_json;
  const std::string llama3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";
  ASSERT_NE(scanned.find(llama3), std::string::npos);
  // The same expression in other letters has no scanner; an empty normaliser takes the library's own way.
  const std::string expression = testing::ReplaceAll(scanned, llama3, "(?:(?i:'s|'t|'re|'ve|'m|'ll|'d))|");
  const std::string library =
      testing::ReplaceAll(expression, "\"normalizer\":null", R"("normalizer":{"type":"Sequence","normalizers":[]})");
  ASSERT_NE(expression, scanned);
  ASSERT_NE(library, expression);
  const auto a = Tokenizer::FromJson(scanned).value();
  const auto b = Tokenizer::FromJson(expression).value();
  const auto c = Tokenizer::FromJson(library).value();
  testing::Random random(1);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = testing::RandomText(random);
    for (const Mode mode : {Mode::kPlain, Mode::kWithControl}) {
      const std::vector<int32_t> ids = Encode(*a, text, mode);
      ASSERT_EQ(ids, Encode(*b, text, mode)) << "[" << text << "]";
      ASSERT_EQ(ids, Encode(*c, text, mode)) << "[" << text << "]";
    }
  }
}

TEST(ByteLevel, Gpt2ScannerEqualsItsExpression) {
  const auto answers = testing::ReadByteLevelAnswers();
  const std::string split = R"({"type":"Split","pattern":{"Regex":"EXPRESSION"},"behavior":"Isolated","invert":false})";
  const std::string expression =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+)";
  const std::string& file = answers.tokenizer_json;
  const size_t from = file.find("\"pre_tokenizer\":"), to = file.find(",\"post_processor\":");
  ASSERT_LT(from, to);
  const auto with = [&](const std::string& steps) {
    const std::string byte_level =
        R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";
    std::string changed = file;
    changed.replace(from, to - from,
                    R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[)" + steps + "," + byte_level + "]}");
    return Tokenizer::FromJson(changed).value();
  };
  const std::string digits = R"({"type":"Digits","individual_digits":true})";
  const std::string digits_expression = testing::ReplaceAll(split, "EXPRESSION", R"((?:\\p{N}))");
  const std::string scanned = testing::ReplaceAll(split, "EXPRESSION", expression);
  const std::string matched = testing::ReplaceAll(split, "EXPRESSION", "(?:" + expression + ")");
  const auto a = with(digits + "," + scanned), b = with(digits_expression + "," + matched);
  testing::Random random(2);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = testing::RandomText(random);
    ASSERT_EQ(Encode(*a, text, Mode::kPlain), Encode(*b, text, Mode::kPlain)) << "[" << text << "]";
  }
}

TEST(SentencePiece, EncodesAsHuggingFace) {
  const auto answers = testing::ReadSentencePieceAnswers();
  ASSERT_GE(answers.rows.size(), 200u);
  const auto tokenizer = Tokenizer::FromJson(answers.tokenizer_json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectSame(**tokenizer, answers.rows);
  EXPECT_EQ((*tokenizer)->leading_spaces(), 1);
  EXPECT_EQ((*tokenizer)->TokenBytes((*tokenizer)->TokenId("<0x0A>"), false), "\n");
  EXPECT_EQ((*tokenizer)->TokenBytes((*tokenizer)->TokenId("\u2581"), false), " ");
  std::vector<int32_t> expected = Encode(**tokenizer, "Hi", Mode::kPlain);
  expected.insert(expected.begin(), 1);
  EXPECT_EQ(Encode(**tokenizer, "Hi", Mode::kPlain, true), expected);
}

// User text is never a control token, whatever it spells and however it is cut.
TEST(Plain, NeverYieldsControlTokens) {
  const auto byte_level = testing::ReadByteLevelAnswers();
  const std::vector<std::shared_ptr<const Tokenizer>> tokenizers = {
      testing::Smollm2(), testing::ByteLevel(byte_level, "llama-bpe"),
      Tokenizer::FromJson(byte_level.tokenizer_json).value(),
      Tokenizer::FromJson(testing::ReadSentencePieceAnswers().tokenizer_json).value()};
  testing::Random random(3);
  for (const auto& tokenizer : tokenizers) {
    const std::vector<std::string> controls = tokenizer->control_spellings();
    for (int i = 0; i < 500; ++i) {
      std::string text = testing::RandomText(random);
      for (int n = 0; n < 3; ++n) {
        text.insert(random.Below(2) == 0 ? 0 : text.size(),
                    controls[random.Below(static_cast<uint32_t>(controls.size()))]);
      }
      for (const int32_t id : Encode(*tokenizer, text, Mode::kPlain)) ASSERT_FALSE(tokenizer->is_control(id)) << text;
    }
    for (const std::string& control : controls) {
      EXPECT_EQ(Encode(*tokenizer, control, Mode::kWithControl).back(), tokenizer->TokenId(control));
      EXPECT_GT(Encode(*tokenizer, control, Mode::kPlain).size(), 1u) << control;
    }
  }
}

TEST(Tokenizer, OneHandleServesManyThreads) {
  const auto tokenizer = testing::Smollm2();
  const auto answers = testing::ReadSmollm2Answers();
  std::vector<std::thread> threads;
  std::vector<int> wrong(8, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < answers.rows.size(); ++i) {
        const Encoding& row = answers.rows[(i + 50 * t) % answers.rows.size()];
        const auto ids = tokenizer->Encode(row.text, Mode::kWithControl, false);
        wrong[t] += !ids.ok() || *ids != row.with_control;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(8, 0));
}

}  // namespace
}  // namespace shoal::text
