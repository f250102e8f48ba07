// Answers of all formats against what they say, however they are cut into pieces and wherever they end.
#include "common/text/output_parser.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

#include "common/base/utf8.h"
#include "tests/text/output_corpus.h"

namespace shoal::text {
namespace {

using Kind = OutputEvent::Kind;

class Corpus : public testing::TestWithParam<Answer> {};

TEST_P(Corpus, Whole) { EXPECT_EQ(Parse(GetParam().format, {GetParam().text}), GetParam().says); }

TEST_P(Corpus, ByteByByte) { EXPECT_EQ(Parse(GetParam().format, Bytes(GetParam().text)), GetParam().says); }

TEST_P(Corpus, CutAtEveryPlace) {
  const std::string& text = GetParam().text;
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    EXPECT_EQ(Parse(GetParam().format, {text.substr(0, cut), text.substr(cut)}), GetParam().says) << "cut at " << cut;
  }
}

std::vector<std::string> Cut(const std::string& text, std::vector<size_t> places) {
  std::sort(places.begin(), places.end());
  std::vector<std::string> pieces;
  size_t from = 0;
  for (const size_t place : places) {
    pieces.push_back(text.substr(from, place - from));
    from = place;
  }
  pieces.push_back(text.substr(from));
  return pieces;
}

rc::Gen<std::vector<size_t>> Places(const std::string& text) {
  return rc::gen::container<std::vector<size_t>>(rc::gen::inRange<size_t>(0, text.size() + 1));
}

TEST_P(Corpus, CutAnywhere) {
  const Answer& answer = GetParam();
  EXPECT_TRUE(rc::check([&answer] {
    const std::vector<size_t> places = *Places(answer.text);
    RC_ASSERT(Parse(answer.format, Cut(answer.text, places)) == answer.says);
  }));
}

struct CallText {
  std::string name, arguments;
};

std::vector<CallText> CallsOf(const std::vector<OutputEvent>& events) {
  std::vector<CallText> calls;
  for (const OutputEvent& event : events) {
    if (event.kind == Kind::kCallBegins) calls.push_back({event.text, ""});
    if (event.kind == Kind::kArguments) calls.back().arguments += event.text;
  }
  return calls;
}

// What a client got of an answer that was cut off is the beginning of what it would have got.
TEST_P(Corpus, EndingEarlyKeepsTheBeginning) {
  const Answer& answer = GetParam();
  const std::vector<CallText> whole = CallsOf(answer.says);
  for (size_t end = 0; end < answer.text.size(); ++end) {
    const std::vector<CallText> calls = CallsOf(Parse(answer.format, {answer.text.substr(0, end)}));
    ASSERT_LE(calls.size(), whole.size()) << "end at " << end;
    for (size_t i = 0; i < calls.size(); ++i) {
      EXPECT_EQ(calls[i].name, whole[i].name) << "end at " << end;
      EXPECT_EQ(calls[i].arguments, whole[i].arguments.substr(0, calls[i].arguments.size())) << "end at " << end;
      const bool ended = i + 1 < calls.size();
      EXPECT_TRUE(!ended || calls[i].arguments == whole[i].arguments) << "end at " << end;
    }
  }
}

// Events are sent as they are: each must be text, when the pieces were.
TEST_P(Corpus, NoCharacterIsCut) {
  const Answer& answer = GetParam();
  OutputParser parser(answer.format);
  std::vector<OutputEvent> events;
  std::vector<std::string> texts;
  for (size_t i = 0; i < answer.text.size();) {
    const size_t size = Utf8SequenceLength(answer.text, i);
    ASSERT_GT(size, 0u);
    events.clear();
    parser.Push(answer.text.substr(i, size), &events);
    for (const OutputEvent& event : events) texts.push_back(event.text);
    i += size;
  }
  for (const std::string& text : texts) {
    EXPECT_EQ(text, ValidUtf8(text));
    EXPECT_NE(text, "");
  }
}

INSTANTIATE_TEST_SUITE_P(OutputParser, Corpus, testing::ValuesIn(AnswerCorpus()));

// Answers that nobody would write, of the parts that answers are made of.
rc::Gen<std::string> Noise() {
  static const std::vector<std::string> parts = {"<tool_call>",
                                                 "</tool_call>",
                                                 "<|python_tag|>",
                                                 "[TOOL_CALLS]",
                                                 "functools",
                                                 "[ARGS]",
                                                 "[CALL_ID]",
                                                 "<think>",
                                                 "</think>",
                                                 "{",
                                                 "}",
                                                 "[",
                                                 "]",
                                                 ",",
                                                 ":",
                                                 ";",
                                                 "\"",
                                                 "\\",
                                                 " ",
                                                 "\n",
                                                 "{\"name\":\"f\",",
                                                 "\"arguments\":",
                                                 "\"parameters\": ",
                                                 "\"name\": \"g\"",
                                                 "{\"a\":\"b\"}",
                                                 "null",
                                                 "12",
                                                 "f",
                                                 "é",
                                                 "\\u00e9",
                                                 "\\ud83d",
                                                 "<",
                                                 "\"{",
                                                 "\\\"",
                                                 "{\"name\":\"f\",\"arguments\":{}}",
                                                 "<|tool_call|>"};
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(parts)), [](const auto& chosen) {
    std::string text;
    for (const std::string& part : chosen) text += part;
    return text;
  });
}

rc::Gen<OutputFormat> Formats() {
  return rc::gen::map(rc::gen::tuple(rc::gen::inRange(0, 6), rc::gen::inRange(0, 4), rc::gen::arbitrary<bool>()),
                      [](const auto& drawn) {
                        return OutputFormat{static_cast<ToolFormat>(std::get<0>(drawn)),
                                            static_cast<ReasoningFormat>(std::get<1>(drawn)), std::get<2>(drawn)};
                      });
}

TEST(OutputParser, NoiseSaysTheSameHoweverItIsCut) {
  EXPECT_TRUE(rc::check([] {
    const OutputFormat format = *Formats();
    const std::string text = *Noise();
    const std::vector<OutputEvent> whole = Parse(format, {text});
    RC_ASSERT(Parse(format, Bytes(text)) == whole);
    RC_ASSERT(Parse(format, Cut(text, *Places(text))) == whole);
  }));
}

TEST(OutputParser, WhatIsNoCallIsContentCompleteAndInOrder) {
  EXPECT_TRUE(rc::check([] {
    OutputFormat format = *Formats();
    format.reasoning = ReasoningFormat::kNone;
    const std::string text = *Noise();
    const std::vector<OutputEvent> events = Parse(format, {text});
    if (!CallsOf(events).empty()) return;
    std::string content;
    for (const OutputEvent& event : events) content += event.text;
    RC_ASSERT(content == text);
  }));
}

}  // namespace
}  // namespace shoal::text
