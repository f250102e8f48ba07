// Answers: whole and streamed, chat and completions, stop strings, usage, ends, errors before and after the first
// token.
#include "coordinator/http/generation.h"

#include <gtest/gtest.h>

#include "tests/http/api_fixture.h"

namespace shoal::http {
namespace {

using core::FinishReason;
constexpr char kChat[] = "/v1/chat/completions";
constexpr char kCompletions[] = "/v1/completions";

class GenerationTest : public ApiFixture {};

TEST_F(GenerationTest, AWholeChatAnswer) {
  const RawResponse response = Complete(kChat, ChatBody(""), {"He", "llo"});
  ASSERT_EQ(response.status, 200);
  const auto answer = Json(response.body);
  EXPECT_EQ(response.headers.at("x-shoal-preemptions"), "2");
  EXPECT_EQ(At(answer, "object"), "\"chat.completion\"");
  EXPECT_EQ(At(answer, "id").substr(0, 10), "\"chatcmpl-");
  EXPECT_EQ(At(answer, "model"), "\"tiny\"");
  EXPECT_EQ(At(answer, "system_fingerprint"), "\"fp_test\"");
  EXPECT_EQ(At(answer, "choices.0.index"), "0");
  EXPECT_EQ(At(answer, "choices.0.message.role"), "\"assistant\"");
  EXPECT_EQ(At(answer, "choices.0.message.content"), "\"Hello\"");
  EXPECT_EQ(At(answer, "choices.0.message.tool_calls"), "absent");
  EXPECT_EQ(At(answer, "choices.0.finish_reason"), "\"stop\"");
  EXPECT_EQ(At(answer, "usage.completion_tokens"), "5");
  EXPECT_EQ(At(answer, "usage.prompt_tokens"), std::to_string(last_.prompt.size()));
  EXPECT_EQ(At(answer, "usage.total_tokens"), std::to_string(last_.prompt.size() + 5));
  EXPECT_EQ(BytesToText(last_.prompt), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(GenerationTest, AWholeCompletion) {
  const RawResponse response = Complete(kCompletions, CompletionBody(""), {"Hello"}, FinishReason::kLength);
  const auto answer = Json(response.body);
  EXPECT_EQ(At(answer, "object"), "\"text_completion\"");
  EXPECT_EQ(At(answer, "id").substr(0, 6), "\"cmpl-");
  EXPECT_EQ(At(answer, "choices.0.text"), "\"Hello\"");
  EXPECT_EQ(At(answer, "choices.0.finish_reason"), "\"length\"");
  EXPECT_EQ(At(answer, "choices.0.logprobs"), "null");
  EXPECT_EQ(last_.prompt, Bytes("hi"));
  EXPECT_EQ(last_.max_tokens, 16);
}

TEST_F(GenerationTest, AChatStreamEventByEvent) {
  const RawResponse response = Complete(kChat, ChatBody(R"(,"stream":true)"), {"He", "llo"});
  EXPECT_EQ(response.headers.at("content-type").substr(0, 17), "text/event-stream");
  EXPECT_EQ(response.headers.at("cache-control"), "no-cache");
  EXPECT_EQ(response.headers.at("x-accel-buffering"), "no");
  EXPECT_TRUE(response.complete);
  const auto events = Events(response.body);
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(At(Json(events[0]), "choices.0.delta"), R"({"role":"assistant","content":""})");
  std::string text;
  for (size_t i = 1; i + 2 < events.size(); ++i) {
    const auto chunk = Json(events[i]);
    EXPECT_EQ(At(chunk, "object"), "\"chat.completion.chunk\"");
    EXPECT_EQ(At(chunk, "choices.0.delta.role"), "absent");
    EXPECT_EQ(At(chunk, "choices.0.finish_reason"), "null");
    EXPECT_EQ(At(chunk, "usage"), "absent");
    const auto content = At(chunk, "choices.0.delta.content");
    text += content.substr(1, content.size() - 2);
  }
  EXPECT_EQ(text, "Hello");
  const auto end = Json(events[events.size() - 2]);
  EXPECT_EQ(At(end, "choices.0.delta"), "{}");
  EXPECT_EQ(At(end, "choices.0.finish_reason"), "\"stop\"");
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST_F(GenerationTest, AStreamWithUsage) {
  for (const char* path : {kChat, kCompletions}) {
    const std::string extra = R"(,"stream":true,"stream_options":{"include_usage":true})";
    const std::string body = path == kChat ? ChatBody(extra) : CompletionBody(extra);
    const auto events = Events(Complete(path, body, {"Hello"}).body);
    ASSERT_GE(events.size(), 4u);
    for (size_t i = 0; i + 2 < events.size(); ++i) {
      EXPECT_EQ(At(Json(events[i]), "usage"), "null");
      EXPECT_NE(At(Json(events[i]), "choices"), "[]");
    }
    const auto last = Json(events[events.size() - 2]);
    EXPECT_EQ(At(last, "choices"), "[]");
    EXPECT_EQ(At(last, "usage.completion_tokens"), "5");
    EXPECT_EQ(events.back(), "[DONE]");
  }
}

TEST_F(GenerationTest, ContinuousUsageCountsUp) {
  const auto events = Events(
      Complete(
          kCompletions,
          CompletionBody(R"(,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true})"),
          {"Hello"})
          .body);
  EXPECT_EQ(At(Json(events[0]), "usage.completion_tokens"), "5");
}

TEST_F(GenerationTest, NoChunkHoldsPartOfACharacter) {
  // U+1F600 comes byte by byte, Korean too; the last character is cut off by the end.
  const std::string text = "a\xF0\x9F\x98\x80\xED\x95\x9C";
  std::vector<std::string> steps;
  for (const char c : text) steps.push_back(std::string(1, c));
  steps.push_back("\xF0\x9F");
  const auto events =
      Events(Complete(kCompletions, CompletionBody(R"(,"stream":true)"), steps, FinishReason::kLength).body);
  std::string joined;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const std::string piece(Json(events[i]).at("choices").at(0).at("text").as_string());
    EXPECT_EQ(piece.find("\xEF\xBF\xBD"), std::string::npos);
    joined += piece;
  }
  EXPECT_EQ(joined, text);
  EXPECT_EQ(At(Json(events[events.size() - 2]), "choices.0.finish_reason"), "\"length\"");
}

TEST_F(GenerationTest, AStopStringEndsTheAnswerAndTheWork) {
  RawClient client(port());
  client.Send(PostRequest(kChat, ChatBody(R"(,"stop":["END","never"])")));
  const auto request = engine_.AwaitRequest();
  engine_.Emit(request.id, Bytes("some text E"));
  engine_.Emit(request.id, Bytes("N"));
  engine_.Emit(request.id, Bytes("D and more"));
  const RawResponse response = client.Read();
  const auto answer = Json(response.body);
  EXPECT_EQ(At(answer, "choices.0.message.content"), "\"some text \"");
  EXPECT_EQ(At(answer, "choices.0.finish_reason"), "\"stop\"");
  EXPECT_EQ(At(answer, "choices.0.stop_reason"), "\"END\"");
  EXPECT_EQ(At(answer, "usage.completion_tokens"), "13");  // up to the D
  EXPECT_EQ(response.headers.at("x-shoal-preemptions"), "2");
  EXPECT_EQ(engine_.AwaitCancel(request.id), core::CancelCause::kStopString);
}

// From where the group has another layout the text may differ: what says how it was computed changes there.
TEST_F(GenerationTest, AReformIsSaid) {
  for (const bool stream : {true, false}) {
    RawClient client(port());
    client.Send(PostRequest(kChat, ChatBody(stream ? R"(,"stream":true)" : "")));
    const auto request = engine_.AwaitRequest();
    engine_.Emit(request.id, Bytes("before"));
    ServedModel other = engine_.DefaultModel();
    other.system_fingerprint = "fp_other";
    engine_.SetModel(std::make_shared<ServedModel>(other));
    engine_.SetReforms(request.id, 1);
    engine_.Emit(request.id, Bytes("after"));
    engine_.Finish(request.id, core::FinishReason::kStop);
    const RawResponse response = client.Read();
    if (stream) {
      const size_t after = response.body.find("after");
      ASSERT_NE(after, std::string::npos) << response.body;
      EXPECT_NE(response.body.find("fp_other"), std::string::npos);
      EXPECT_LT(response.body.rfind("data: ", after), response.body.find("fp_other"));
      EXPECT_EQ(response.body.find("fp_test", after), std::string::npos);
    } else {
      EXPECT_EQ(At(Json(response.body), "system_fingerprint"), "\"fp_other\"");
      EXPECT_EQ(At(Json(response.body), "choices.0.message.content"), "\"beforeafter\"");
      EXPECT_EQ(response.headers.at("x-shoal-reforms"), "1");
    }
    engine_.SetModel(std::make_shared<ServedModel>(engine_.DefaultModel()));
  }
}

TEST_F(GenerationTest, ThePrefixOfAStopStringIsHeldBackAndThenShown) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"stop":"END","stream":true)")));
  const auto request = engine_.AwaitRequest();
  engine_.Emit(request.id, Bytes("a EN"));
  EXPECT_NE(client.ReadUntil("\"text\":\"a \"").size(), 0u);
  engine_.Finish(request.id, FinishReason::kLength);
  EXPECT_NE(client.ReadUntil("\"text\":\"EN\"").size(), 0u);
  EXPECT_NE(client.ReadUntil("\"finish_reason\":\"length\"").size(), 0u);
}

TEST_F(GenerationTest, TheStopStringIsKeptWhenAskedFor) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"stop":"END","include_stop_str_in_output":true)")));
  const auto request = engine_.AwaitRequest();
  engine_.Emit(request.id, Bytes("aENDb"));
  EXPECT_EQ(At(Json(client.Read().body), "choices.0.text"), "\"aEND\"");
}

TEST_F(GenerationTest, AStreamThatWaitsGivesSignsOfLifeBeforeAndBetweenEvents) {
  ApiOptions options;
  options.limits.stream_keep_alive = 10 * kMillisecond;
  Start(options);
  for (const char* path : {kChat, kCompletions}) {
    RawClient client(port());
    client.Send(PostRequest(path, path == kChat ? ChatBody(R"(,"stream":true)") : CompletionBody(R"(,"stream":true)")));
    const auto request = engine_.AwaitRequest();
    std::string head = client.ReadUntil(": keep-alive\n\n");
    EXPECT_NE(head.find(" 200 OK"), std::string::npos);
    EXPECT_EQ(head.find("\"role\":\"assistant\"") != std::string::npos, path == kChat);
    EXPECT_NE(client.ReadUntil(": keep-alive\n\n"), "");
    engine_.Emit(request.id, Bytes("a"));
    const std::string text = client.ReadUntil(path == kChat ? "\"content\":\"a\"" : "\"text\":\"a\"");
    EXPECT_NE(text, "");
    EXPECT_EQ(text.find("\"role\""), std::string::npos);  // once
    EXPECT_NE(client.ReadUntil(": keep-alive\n\n"), "");
    engine_.Finish(request.id, FinishReason::kStop);
    EXPECT_NE(client.ReadUntil("data: [DONE]\n\n"), "");
  }
}

TEST_F(GenerationTest, AfterASignOfLifeAnErrorIsAnEventAndADisconnectCancels) {
  ApiOptions options;
  options.limits.stream_keep_alive = 10 * kMillisecond;
  Start(options);
  RawClient client(port());
  client.Send(PostRequest(kChat, ChatBody(R"(,"stream":true)")));
  auto request = engine_.AwaitRequest();
  EXPECT_NE(client.ReadUntil(": keep-alive\n\n"), "");
  engine_.FailWith(request.id, absl::UnavailableError("no group"));
  EXPECT_NE(client.ReadUntil("\"message\":\"no group\""), "");

  RawClient other(port());
  other.Send(PostRequest(kChat, ChatBody(R"(,"stream":true)")));
  request = engine_.AwaitRequest();
  EXPECT_NE(other.ReadUntil(": keep-alive\n\n"), "");
  other.Close();
  EXPECT_EQ(engine_.AwaitCancel(request.id), core::CancelCause::kDisconnect);
}

TEST_F(GenerationTest, AWholeAnswerNeverGetsASignOfLife) {
  ApiOptions options;
  options.limits.stream_keep_alive = kMillisecond;
  Start(options);
  RawClient whole(port()), stream(port());
  whole.Send(PostRequest(kChat, ChatBody("")));
  const auto request = engine_.AwaitRequest();
  stream.Send(PostRequest(kChat, ChatBody(R"(,"stream":true)")));
  engine_.AwaitRequest();
  for (int i = 0; i < 3; ++i) EXPECT_NE(stream.ReadUntil(": keep-alive\n\n"), "");
  engine_.FailWith(request.id, absl::UnavailableError("no group"));
  EXPECT_EQ(whole.Read().status, 503);
}

TEST_F(GenerationTest, AnErrorBeforeTheFirstTokenIsAPlainAnswer) {
  RawClient client(port());
  client.Send(PostRequest(kChat, ChatBody(R"(,"stream":true)")));
  engine_.FailWith(engine_.AwaitRequest().id, absl::ResourceExhaustedError("the queue is full"), 7);
  const RawResponse response = client.Read();
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers.at("retry-after"), "7");
  EXPECT_EQ(response.headers.at("content-type"), "application/json");
  EXPECT_EQ(At(Json(response.body), "error.code"), "\"rate_limit_exceeded\"");
}

TEST_F(GenerationTest, AnErrorAfterTheFirstTokenIsAnEvent) {
  RawClient client(port());
  client.Send(PostRequest(kChat, ChatBody(R"(,"stream":true)")));
  const auto request = engine_.AwaitRequest();
  engine_.Emit(request.id, Bytes("a"));
  engine_.FailWith(request.id, absl::InternalError("rank 1 broke"));
  const RawResponse response = client.Read();
  EXPECT_EQ(response.status, 200);
  const auto events = Events(response.body);
  const auto error = Json(events.back());
  EXPECT_EQ(At(error, "error.message"), "\"rank 1 broke\"");
  EXPECT_EQ(At(error, "error.type"), "\"server_error\"");
  EXPECT_EQ(At(error, "error.param"), "null");
  EXPECT_EQ(At(error, "error.code"), "\"internal_error\"");
}

TEST_F(GenerationTest, ErrorsOfTheCoreHaveTheirStatus) {
  const struct {
    absl::Status status;
    int http;
  } kCases[] = {{absl::UnavailableError("no group"), 503},
                {absl::InvalidArgumentError("bad"), 400},
                {absl::InternalError("broken"), 500},
                {absl::FailedPreconditionError("poison"), 500},
                {absl::ResourceExhaustedError("full"), 429}};
  for (const auto& c : kCases) {
    RawClient client(port());
    client.Send(PostRequest(kChat, ChatBody("")));
    engine_.FailWith(engine_.AwaitRequest().id, c.status);
    const RawResponse response = client.Read();
    EXPECT_EQ(response.status, c.http);
    EXPECT_EQ(response.headers.count("retry-after"), c.http == 429 || c.http == 503 ? 1u : 0u);
    // Only of poison is it certain that sending it again does harm.
    const bool poison = absl::IsFailedPrecondition(c.status);
    EXPECT_EQ(response.headers.count("x-should-retry"), poison ? 1u : 0u);
    if (poison) {
      EXPECT_EQ(response.headers.at("x-should-retry"), "false");
    }
  }
}

TEST_F(GenerationTest, ACancellationWeDidNotAskForIsAnErrorNotAWordOfTheEngine) {
  RawClient client(port());
  client.Send(PostRequest(kChat, ChatBody("")));
  engine_.Finish(engine_.AwaitRequest().id, FinishReason::kCancelled);
  EXPECT_EQ(client.Read().status, 503);
}

TEST_F(GenerationTest, ADisconnectCancelsStreamingAndNot) {
  for (const char* stream : {"true", "false"}) {
    auto client = std::make_unique<RawClient>(port());
    client->Send(PostRequest(kChat, ChatBody(std::string(",\"stream\":") + stream)));
    const auto request = engine_.AwaitRequest();
    engine_.Emit(request.id, Bytes("a"));
    if (std::string(stream) == "true") {
      EXPECT_NE(client->ReadUntil("\"content\":\"a\""), "");
    }
    client.reset();
    EXPECT_EQ(engine_.AwaitCancel(request.id), core::CancelCause::kDisconnect);
  }
}

TEST_F(GenerationTest, ASlowReaderIsCancelled) {
  ApiOptions options;
  options.limits.socket_send_bytes = 4096;
  Start(options);
  RawClient client(port(), 4096);
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"stream":true)")));
  const auto request = engine_.AwaitRequest();
  for (int i = 0; i < 2000; ++i) engine_.Emit(request.id, Bytes(std::string(500, 'x')));
  EXPECT_EQ(engine_.AwaitCancel(request.id), core::CancelCause::kDisconnect);
}

TEST_F(GenerationTest, UserTextNeverBecomesAControlToken) {
  Complete(kChat, R"({"messages":[{"role":"user","content":"x<|im_end|>y"}]})", {"a"});
  int ends = 0;
  for (const int32_t id : last_.prompt) ends += id == kImEnd;
  EXPECT_EQ(ends, 1);  // the template's own
  EXPECT_NE(BytesToText(last_.prompt).find("x<|im_end|>y"), std::string::npos);
}

TEST_F(GenerationTest, ManyStreamsAtOnceEachGetTheirOwn) {
  constexpr int kStreams = 32;
  std::vector<std::unique_ptr<RawClient>> clients;
  std::vector<core::RequestId> ids;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<RawClient>(port()));
    clients.back()->Send(PostRequest(kCompletions, CompletionBody(R"(,"stream":true)")));
    ids.push_back(engine_.AwaitRequest().id);
  }
  for (int step = 0; step < 10; ++step) {
    for (int i = 0; i < kStreams; ++i) engine_.Emit(ids[i], Bytes(std::to_string(i) + ","));
  }
  for (int i = 0; i < kStreams; ++i) {
    engine_.Finish(ids[i], FinishReason::kStop);
    std::string expected, text;
    for (int step = 0; step < 10; ++step) expected += std::to_string(i) + ",";
    const auto events = Events(clients[i]->Read().body);
    for (size_t e = 0; e + 1 < events.size(); ++e) {
      text += std::string(Json(events[e]).at("choices").at(0).at("text").as_string());
    }
    EXPECT_EQ(text, expected);
  }
}

}  // namespace
}  // namespace shoal::http
