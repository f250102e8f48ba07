// The small parts of the HTTP side, each by its contract.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <set>
#include <thread>

#include "coordinator/http/answer_format.h"
#include "coordinator/http/auth.h"
#include "coordinator/http/errors.h"
#include "coordinator/http/fields.h"
#include "coordinator/http/json_writer.h"
#include "coordinator/http/percent.h"
#include "coordinator/http/prepare.h"
#include "coordinator/http/response_head.h"
#include "coordinator/http/text_pool.h"
#include "tests/http/api_fixture.h"

namespace shoal::http {
namespace {

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(text, &out);
  return out;
}

TEST(JsonWriter, EscapesWhatMustBeAndNothingElse) {
  EXPECT_EQ(Quoted("a/b"), "\"a/b\"");
  EXPECT_EQ(Quoted("\"\\\n\r\t\b\x01\x7F"), "\"\\\"\\\\\\n\\r\\t\\u0008\\u0001\\u007f\"");
  EXPECT_EQ(Quoted(std::string_view("\0", 1)), "\"\\u0000\"");
  EXPECT_EQ(Quoted("é한😀"), "\"é한😀\"");
}

TEST(JsonWriter, EveryByteStringBecomesAStringThatParsersTake) {
  // Overlong, surrogate, above U+10FFFF, cut, lone continuation: each bad byte is one U+FFFD.
  EXPECT_EQ(Quoted("\xC0\x80"), "\"\uFFFD\uFFFD\"");
  EXPECT_EQ(Quoted("\xED\xA0\x80"), "\"\uFFFD\uFFFD\uFFFD\"");
  EXPECT_EQ(Quoted("\xF4\x90\x80\x80"), "\"\uFFFD\uFFFD\uFFFD\uFFFD\"");
  EXPECT_EQ(Quoted("a\xE2\x82"), "\"a\uFFFD\uFFFD\"");
  uint32_t state = 1;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 12; ++i) {
      state = state * 1664525 + 1013904223;
      bytes += static_cast<char>(state >> 24);
    }
    Json(Quoted(bytes));  // expects that it parses
  }
}

TEST(JsonWriter, WhatIsValidComesBackUnchanged) {
  for (uint32_t c = 1; c < 0x10FFFF; c += 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text += {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
               static_cast<char>(0x80 | (c & 63))};
    } else {
      text += {static_cast<char>(0xF0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 63)),
               static_cast<char>(0x80 | ((c >> 6) & 63)), static_cast<char>(0x80 | (c & 63))};
    }
    ASSERT_EQ(std::string(Json(Quoted(text)).as_string()), text) << c;
  }
}

TEST(Errors, EveryKindHasAStatusATypeAndACode) {
  std::set<std::string> codes;
  for (int i = 0; i <= static_cast<int>(ErrorKind::kUnavailable); ++i) {
    ApiError error;
    error.kind = static_cast<ErrorKind>(i);
    error.message = "why \"so\"";
    const ErrorInfo& info = Info(error.kind);
    EXPECT_GE(info.status, 400);
    EXPECT_LT(info.status, 600);
    const auto body = Json(ErrorBody(error));
    EXPECT_EQ(At(body, "error.message"), "\"why \\\"so\\\"\"");
    EXPECT_EQ(At(body, "error.param"), "null");
    codes.insert(At(body, "error.code"));
  }
  EXPECT_EQ(codes.size(), static_cast<size_t>(ErrorKind::kUnavailable) + 1);
}

TEST(Errors, StatusesOfTheCore) {
  EXPECT_EQ(FromStatus(absl::ResourceExhaustedError("x"), 3).retry_after_s, 3);
  EXPECT_EQ(Info(FromStatus(absl::ResourceExhaustedError("x"), 3).kind).status, 429);
  EXPECT_EQ(Info(FromStatus(absl::UnknownError(""), 0).kind).status, 500);
  EXPECT_FALSE(FromStatus(absl::UnknownError(""), 0).message.empty());
  const ApiError poisoned = FromStatus(absl::FailedPreconditionError("x"), 0);
  EXPECT_EQ(Info(poisoned.kind).status, 500);
  EXPECT_STREQ(Info(poisoned.kind).code, "poisoned");
}

TEST(Percent, Decodes) {
  EXPECT_EQ(PercentDecode("a%2Fb%41%e2%82%ac"), "a/bA€");
  EXPECT_EQ(PercentDecode("100%"), "100%");
  EXPECT_EQ(PercentDecode("%4"), "%4");
  EXPECT_EQ(PercentDecode("%zz%-1"), "%zz%-1");
}

TEST(ApiKeys, OnlyOneOfTheKeysPasses) {
  const ApiKeys keys({"alpha", "beta"});
  EXPECT_TRUE(keys.Allows("Bearer alpha"));
  EXPECT_TRUE(keys.Allows("bearer beta"));
  for (const char* refused : {"", "Bearer", "Bearer ", "alpha", "Bearer alph", "Bearer alphaa", "Bearer  alpha",
                              "Basic alpha", "Bearer ALPHA"}) {
    EXPECT_FALSE(keys.Allows(refused)) << refused;
  }
  EXPECT_TRUE(ApiKeys({}).Allows(""));
}

TEST(ResponseHead, RequestIdsOfClientsAreKeptWhenHarmless) {
  EXPECT_EQ(UsableRequestId("abc-1_2.3", 16), "abc-1_2.3");
  for (const std::string& refused :
       {std::string(), std::string("a b"), std::string("a\r\nX: y"), std::string("é"), std::string(17, 'a')}) {
    EXPECT_EQ(UsableRequestId(refused, 16).size(), 32u);
  }
}

TEST(ResponseHead, ChunksCarryTheirLength) {
  EXPECT_EQ(Chunk("abc"), "3\r\nabc\r\n");
  EXPECT_EQ(Chunk(std::string(300, 'x')).substr(0, 5), "12c\r\n");
}

TEST(ResponseHead, A204HasNoBodyHeaders) {
  Response response;
  response.status = 204;
  const std::string head = ResponseHead(response, "id", true);
  EXPECT_EQ(head.find("Content-"), std::string::npos);
  EXPECT_EQ(head.substr(head.size() - 4), "\r\n\r\n");
}

TEST(AnswerFormat, NamesOfClientsCannotBreakTheJson) {
  AnswerHead head;
  head.chat = true;
  head.id = "id";
  head.model = "a\"b\\c";
  const Usage usage{1, 2};
  AnswerEnd end;
  end.finish_reason = "stop";
  EXPECT_EQ(At(Json(AnswerBody(head, {{"x\"y", end, "null"}}, "", usage)), "choices.0.message.content"), "\"x\\\"y\"");
  const ChunkWriter chunks(head, true, true);
  for (const std::string& event : {chunks.Role(0, usage), chunks.Text(0, "\"\n\n", "null", usage),
                                   chunks.End(0, end, usage), chunks.FinalUsage(usage)}) {
    const auto chunk = Json(Events(event).at(0));
    EXPECT_EQ(At(chunk, "model"), "\"a\\\"b\\\\c\"");
    EXPECT_EQ(At(chunk, "usage.total_tokens"), "3");
  }
}

TEST(TextPool, RunsJobsOnItsThreadsAndRefusesWhatDoesNotFit) {
  TextPool pool(1, 2);
  std::promise<void> started, release;
  ASSERT_TRUE(pool.Submit([&] {
    started.set_value();
    release.get_future().wait();
  }));
  started.get_future().wait();
  std::atomic<int> ran{0};
  std::promise<void> done;
  EXPECT_TRUE(pool.Submit([&] { ++ran; }));
  EXPECT_TRUE(pool.Submit([&] {
    ++ran;
    done.set_value();
  }));
  EXPECT_FALSE(pool.Submit([&] { ++ran; }));
  release.set_value();
  done.get_future().wait();
  EXPECT_EQ(ran, 2);
}

TEST(TextPool, DropsWhatWaitsAtItsEnd) {
  auto token = std::make_shared<int>(0);
  {
    TextPool pool(1, 10);
    std::promise<void> started;
    pool.Submit([&] { started.set_value(); });
    started.get_future().wait();
    for (int i = 0; i < 5; ++i) pool.Submit([token] { ++*token; });
  }
  EXPECT_EQ(token.use_count(), 1);  // every job has run or is gone
  EXPECT_LE(*token, 5);
}

TEST(Fields, FirstErrorWinsAndValuesStay) {
  boost::json::object object;
  ASSERT_FALSE(ParseObject(R"({"a":1,"b":"x","c":2.0,"d":null})", 4, &object).has_value());
  Fields fields(object, "p.");
  int64_t a = 0, b = 7, c = 0, d = 9;
  EXPECT_TRUE(fields.Integer("a", 0, 1, &a));
  EXPECT_TRUE(fields.Integer("c", 0, 5, &c));
  EXPECT_FALSE(fields.Integer("d", 0, 5, &d));
  EXPECT_TRUE(fields.ok());
  EXPECT_FALSE(fields.Integer("b", 0, 5, &b));
  EXPECT_FALSE(fields.Integer("a", 5, 6, &a));
  EXPECT_EQ(a, 1);
  EXPECT_EQ(b, 7);
  EXPECT_EQ(c, 2);
  EXPECT_EQ(d, 9);
  EXPECT_EQ(fields.error()->param, "p.b");
}

TEST(EncodePrompt, RefusesTokensWithoutAnEmbedding) {
  ScriptedEngine engine;
  ServedModel model = engine.DefaultModel();
  GenerationSpec spec;
  spec.prompt = "az";
  std::vector<int32_t> ids;
  EXPECT_FALSE(EncodePrompt(spec, model, &ids).has_value());
  model.vocab = 'z';  // bytes are their own ids
  const auto error = EncodePrompt(spec, model, &ids);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->param, "prompt");
  EXPECT_NE(error->message.find("token id 122"), std::string::npos) << error->message;
}

TEST(Prepare, FillsTheRequest) {
  const ScriptedEngine engine;
  GenerationSpec spec;
  spec.prompt = "ab";
  spec.seed = 5;
  core::GenerateRequest request;
  ASSERT_FALSE(Prepare(spec, *engine.Model(), &request).has_value());
  EXPECT_EQ(request.prompt, Bytes("ab"));
  EXPECT_EQ(request.max_tokens, 4094);
  EXPECT_EQ(request.sampling.seed, 5u);
  EXPECT_EQ(request.stop_tokens, std::vector<int32_t>{kImEnd});
  // Exactly full fits; one more does not.
  spec.max_tokens = 4094;
  core::GenerateRequest full;
  EXPECT_FALSE(Prepare(spec, *engine.Model(), &full).has_value());
  spec.max_tokens = 4095;
  core::GenerateRequest over;
  EXPECT_EQ(Prepare(spec, *engine.Model(), &over)->kind, ErrorKind::kContextLength);
}

}  // namespace
}  // namespace shoal::http
