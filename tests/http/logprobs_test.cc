// Several choices and log-probabilities in answers, byte by byte: whole and streamed, chat and completions.
#include <gtest/gtest.h>

#include "coordinator/http/choice.h"
#include "coordinator/http/logprob_format.h"
#include "coordinator/http/prepare.h"
#include "tests/http/api_fixture.h"

namespace shoal::http {
namespace {

using core::FinishReason;
constexpr char kChat[] = "/v1/chat/completions";
constexpr char kCompletions[] = "/v1/completions";

// Each token at -0.5 and rank 1; beside it 'x' at -1 and half of an e with an accent at -2.
std::vector<plan::TokenLogprobs> Scores(const std::string& text, int32_t top) {
  std::vector<plan::TokenLogprobs> out;
  for (const int32_t token : Bytes(text)) {
    plan::TokenLogprobs of{token, -0.5f, 1, {token, 'x', 0xC3}, {-0.5f, -1.0f, -2.0f}};
    of.top_ids.resize(static_cast<size_t>(top));
    of.top_logprobs.resize(static_cast<size_t>(top));
    out.push_back(of);
  }
  return out;
}

class LogprobsTest : public ApiFixture {
 protected:
  // Emits text to a choice, with `top` log-probabilities beside each token.
  void Emit(core::RequestId id, const std::string& text, int32_t choice, int32_t top) {
    engine_.Emit(id, Bytes(text), choice, Scores(text, top));
  }
};

// JSON as At() words it.
std::string Worded(const std::string& json) { return At(Json(R"({"x":)" + json + "}"), "x"); }

// The events' choices of one index: text, tokens and ends, in order.
struct Streamed {
  std::string text, tokens, finish, stop;
  std::vector<std::string> logprobs;
};
Streamed Of(const std::vector<std::string>& events, int64_t index) {
  Streamed out;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const auto event = Json(events[i]);
    const auto& choices = event.at("choices").as_array();
    if (choices.empty() || choices[0].at("index").as_int64() != index) continue;
    EXPECT_EQ(out.finish, "") << "after its end: " << events[i];
    const auto text = At(event, "choices.0.text");
    if (text != "absent") out.text += text.substr(1, text.size() - 2);
    const auto content = At(event, "choices.0.delta.content");
    if (content != "absent") out.text += content.substr(1, content.size() - 2);
    const auto logprobs = At(event, "choices.0.logprobs");
    if (logprobs != "null") out.logprobs.push_back(logprobs);
    if (At(event, "choices.0.finish_reason") != "null") {
      out.finish = At(event, "choices.0.finish_reason");
      out.stop = At(event, "choices.0.stop_reason");
    }
  }
  return out;
}

TEST_F(LogprobsTest, AWholeChatAnswerHasOpenAIsShape) {
  RawClient client(port());
  client.Send(PostRequest(kChat, ChatBody(R"(,"logprobs":true,"top_logprobs":3)")));
  const auto request = engine_.AwaitRequest();
  EXPECT_EQ(request.sampling.logprobs, 3);
  Emit(request.id, "a\"", 0, 3);
  engine_.Finish(request.id, FinishReason::kStop);
  const RawResponse response = client.Read();
  const std::string a =
      R"({"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"a","logprob":-0.5,"bytes":[97]},)"
      R"({"token":"x","logprob":-1,"bytes":[120]},{"token":")"
      "\xEF\xBF\xBD"
      R"(","logprob":-2,"bytes":[195]}]})";
  EXPECT_NE(response.body.find(R"("logprobs":{"content":[)" + a + ","), std::string::npos) << response.body;
  EXPECT_EQ(At(Json(response.body), "choices.0.logprobs.content.1.token"), R"("\"")");
  EXPECT_EQ(At(Json(response.body), "choices.0.logprobs.refusal"), "null");
  EXPECT_EQ(At(Json(response.body), "choices.0.message.content"), R"("a\"")");
}

TEST_F(LogprobsTest, AWholeCompletionHasFourLists) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"logprobs":2)")));
  const auto request = engine_.AwaitRequest();
  Emit(request.id, "b", 0, 2);
  // Two bytes of one character: what is no text of its own is told by its bytes, and lies where the character does.
  Emit(request.id, "\xC3\xA9", 0, 2);
  engine_.Emit(request.id, {'c'}, 0, {{'c', -3.25f, 9, {'x', 'y'}, {-0.0f, -1e30f}}});
  engine_.Finish(request.id, FinishReason::kLength);
  EXPECT_NE(client.Read().body.find(
                R"("text":"b)"
                "\xC3\xA9"
                R"(c","logprobs":{"text_offset":[0,1,1,2],"token_logprobs":[-0.5,-0.5,-0.5,-3.25],)"
                R"("tokens":["b","bytes:\\xc3","bytes:\\xa9","c"],"top_logprobs":[{"b":-0.5,"x":-1},)"
                R"({"bytes:\\xc3":-0.5,"x":-1},{"bytes:\\xa9":-0.5,"x":-1},{"x":0,"y":-9999,"c":-3.25}]},)"
                R"("finish_reason":"length")"),
            std::string::npos);
}

TEST_F(LogprobsTest, TokensMayBeToldByTheirIds) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"logprobs":0,"return_tokens_as_token_ids":true)")));
  const auto request = engine_.AwaitRequest();
  Emit(request.id, "b", 0, 0);
  engine_.Finish(request.id, FinishReason::kLength);
  EXPECT_NE(client.Read().body.find(R"("tokens":["token_id:98"],"top_logprobs":[{"token_id:98":-0.5}])"),
            std::string::npos);
}

TEST_F(LogprobsTest, ThoseOfThePromptHaveVllmsShape) {
  for (const char* path : {kChat, kCompletions}) {
    RawClient client(port());
    const std::string extra = R"(,"prompt_logprobs":1,"n":2)";
    client.Send(PostRequest(path, path == kChat ? ChatBody(extra) : CompletionBody(extra)));
    const auto request = engine_.AwaitRequest();
    engine_.EmitPrompt(request.id, {{'i', -1.5f, 4, {'x'}, {-0.25f}}, {'x', -0.25f, 1, {'x'}, {-0.25f}}});
    engine_.Emit(request.id, Bytes("a"), 1);
    engine_.FinishChoice(request.id, FinishReason::kStop, 1);
    engine_.Finish(request.id, FinishReason::kLength, Bytes("b"));
    const RawResponse response = client.Read();
    const std::string shape = R"([null,{"105":{"logprob":-1.5,"rank":4,"decoded_token":"i"},)"
                              R"("120":{"logprob":-0.25,"rank":1,"decoded_token":"x"}},)"
                              R"({"120":{"logprob":-0.25,"rank":1,"decoded_token":"x"}}])";
    const auto answer = Json(response.body);
    if (path == kChat) {
      EXPECT_EQ(At(answer, "prompt_logprobs"), Worded(shape));
      EXPECT_NE(response.body.find(R"("prompt_logprobs":)" + shape + "}"), std::string::npos);
    } else {
      EXPECT_EQ(At(answer, "choices.0.prompt_logprobs"), Worded(shape));
      EXPECT_EQ(At(answer, "choices.1.prompt_logprobs"), Worded(shape));
      EXPECT_EQ(At(answer, "prompt_logprobs"), "absent");
    }
    EXPECT_EQ(At(answer, "choices.0.finish_reason"), "\"length\"");
    EXPECT_EQ(At(answer, "choices.1.finish_reason"), "\"stop\"");
    EXPECT_EQ(At(answer, "choices.0.logprobs"), "null");
    EXPECT_EQ(At(answer, "usage.completion_tokens"), "2");
  }
}

TEST_F(LogprobsTest, ChoicesOfAStreamInterleaveAndEachEndsOnce) {
  for (const char* path : {kChat, kCompletions}) {
    RawClient client(port());
    const std::string extra = R"(,"n":3,"stop":"END","stream":true,"stream_options":{"include_usage":true})";
    client.Send(PostRequest(path, path == kChat ? ChatBody(extra) : CompletionBody(extra)));
    const auto request = engine_.AwaitRequest();
    EXPECT_EQ(request.n, 3);
    engine_.Emit(request.id, Bytes("one"), 0);
    engine_.Emit(request.id, Bytes("two E"), 1);
    engine_.Emit(request.id, Bytes("three"), 2);
    engine_.FinishChoice(request.id, FinishReason::kLength, 0);
    engine_.Emit(request.id, Bytes("ND, unseen"), 1);
    engine_.Emit(request.id, Bytes("unheard"), 1);
    engine_.Emit(request.id, Bytes("!"), 2);
    engine_.Finish(request.id, FinishReason::kStop);
    const auto events = Events(client.Read().body);
    const Streamed one = Of(events, 0), two = Of(events, 1), three = Of(events, 2);
    EXPECT_EQ(one.text, "one");
    EXPECT_EQ(one.finish, "\"length\"");
    EXPECT_EQ(two.text, "two ");
    EXPECT_EQ(two.finish, "\"stop\"");
    EXPECT_EQ(two.stop, "\"END\"");
    EXPECT_EQ(three.text, "three!");
    EXPECT_EQ(three.finish, "\"stop\"");
    EXPECT_EQ(three.stop, "null");
    EXPECT_EQ(events.back(), "[DONE]");
    EXPECT_EQ(At(Json(events[events.size() - 2]), "usage.completion_tokens"), std::to_string(3 + 7 + 6));
    if (path == kChat) {
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(At(Json(events[i]), "choices.0.index"), std::to_string(i));
        EXPECT_EQ(At(Json(events[i]), "choices.0.delta.role"), "\"assistant\"");
      }
    }
  }
}

TEST_F(LogprobsTest, TheLastChoiceToMeetAStopStringEndsTheRequest) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"n":2,"stop":"!")")));
  const auto request = engine_.AwaitRequest();
  engine_.Emit(request.id, Bytes("a!"), 1);
  engine_.Emit(request.id, Bytes("bc!d"), 0);
  const auto answer = Json(client.Read().body);
  EXPECT_EQ(At(answer, "choices.0.text"), "\"bc\"");
  EXPECT_EQ(At(answer, "choices.1.text"), "\"a\"");
  EXPECT_EQ(At(answer, "choices.1.index"), "1");
  EXPECT_EQ(At(answer, "usage.completion_tokens"), "5");
  EXPECT_EQ(engine_.AwaitCancel(request.id), core::CancelCause::kStopString);
}

TEST_F(LogprobsTest, TheyAreHeldBackWithTheirText) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"logprobs":0,"stop":"END","stream":true)")));
  const auto request = engine_.AwaitRequest();
  Emit(request.id, "aE", 0, 0);
  Emit(request.id, "N", 0, 0);
  Emit(request.id, "O", 0, 0);
  Emit(request.id, "EN", 0, 0);
  Emit(request.id, "D", 0, 0);
  const auto events = Events(client.Read().body);
  const Streamed streamed = Of(events, 0);
  EXPECT_EQ(streamed.text, "aENO");
  ASSERT_EQ(streamed.logprobs.size(), 2u);
  EXPECT_EQ(streamed.logprobs[0],
            Worded(R"({"text_offset":[0],"token_logprobs":[-0.5],"tokens":["a"],"top_logprobs":[{"a":-0.5}]})"));
  EXPECT_EQ(At(Json(streamed.logprobs[1]), "tokens"), R"(["E","N","O"])");
  EXPECT_EQ(At(Json(streamed.logprobs[1]), "text_offset"), "[1,2,3]");
}

TEST_F(LogprobsTest, AnEchoIsInFrontOfEachChoice) {
  for (const char* prompt : {R"("hi")", "[104,105]"}) {
    for (const bool stream : {false, true}) {
      RawClient client(port());
      client.Send(PostRequest(kCompletions, std::string(R"({"prompt":)") + prompt +
                                                R"(,"echo":true,"logprobs":1,"n":2)" +
                                                (stream ? R"(,"stream":true})" : "}")));
      const auto request = engine_.AwaitRequest();
      EXPECT_EQ(request.sampling.prompt_logprobs, 1);
      engine_.EmitPrompt(request.id, Scores("i", 1));
      Emit(request.id, "a", 1, 1);
      Emit(request.id, "b", 0, 1);
      engine_.Finish(request.id, FinishReason::kLength);
      const RawResponse response = client.Read();
      const std::string expected = R"({"text_offset":[0,1,2],"token_logprobs":[null,-0.5,-0.5],"tokens":["h","i","b"],)"
                                   R"("top_logprobs":[null,{"i":-0.5},{"b":-0.5}]})";
      if (stream) {
        const Streamed first = Of(Events(response.body), 0), second = Of(Events(response.body), 1);
        EXPECT_EQ(first.text, "hib");
        EXPECT_EQ(second.text, "hia");
        EXPECT_EQ(first.logprobs, std::vector<std::string>{Worded(expected)});
      } else {
        const auto answer = Json(response.body);
        EXPECT_EQ(At(answer, "choices.0.text"), "\"hib\"");
        EXPECT_EQ(At(answer, "choices.1.text"), "\"hia\"");
        EXPECT_NE(response.body.find(R"("logprobs":)" + expected), std::string::npos) << response.body;
        EXPECT_EQ(At(answer, "usage.completion_tokens"), "2");
      }
    }
  }
}

// Whoever reads is not slow because one event is long.
TEST_F(LogprobsTest, AnEchoMayBeLongerThanTheQueueOfAStream) {
  const std::string prompt(3000, 'h');
  RawClient client(port());
  client.Send(PostRequest(kCompletions, R"({"prompt":")" + prompt + R"(","echo":true,"logprobs":1,"stream":true})"));
  const auto request = engine_.AwaitRequest();
  engine_.EmitPrompt(request.id, Scores(prompt.substr(1), 1));
  Emit(request.id, "b", 0, 1);
  engine_.Finish(request.id, FinishReason::kLength);
  const RawResponse response = client.Read();
  EXPECT_GT(response.body.size(), Limits().stream_queue_bytes);
  EXPECT_EQ(Of(Events(response.body), 0).text, prompt + "b");
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(LogprobsTest, EchoAndPromptEachHaveAsManyAsWereAskedFor) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"echo":true,"logprobs":0,"prompt_logprobs":1)")));
  const auto request = engine_.AwaitRequest();
  EXPECT_EQ(request.sampling.prompt_logprobs, 1);
  engine_.EmitPrompt(request.id, {{'i', -1.5f, 4, {'x'}, {-0.25f}}});
  Emit(request.id, "b", 0, 0);
  engine_.Finish(request.id, FinishReason::kLength);
  const auto answer = Json(client.Read().body);
  EXPECT_EQ(At(answer, "choices.0.logprobs.top_logprobs"), Worded(R"([null,{"i":-1.5},{"b":-0.5}])"));
  EXPECT_EQ(At(answer, "choices.0.prompt_logprobs"),
            Worded(R"([null,{"105":{"logprob":-1.5,"rank":4,"decoded_token":"i"},)"
                   R"("120":{"logprob":-0.25,"rank":1,"decoded_token":"x"}}])"));
}

TEST(Prepare, AnswersOfTooManyLogprobsAreRefused) {
  ServedModel model;
  model.vocab = 300;
  model.max_model_len = 200'000;
  model.max_num_seqs = 64;
  GenerationSpec spec;
  spec.prompt_ids.assign(50'000, 5);
  spec.max_tokens = 1;
  const auto refused = [&](const char* param) {
    core::GenerateRequest request;
    const std::optional<ApiError> error = Prepare(spec, model, &request);
    return error.has_value() && error->param == param && error->kind == ErrorKind::kInvalidValue;
  };
  spec.prompt_logprobs = 19;  // 50,000 times 20
  EXPECT_FALSE(refused("prompt_logprobs"));
  spec.n = 2;
  EXPECT_TRUE(refused("prompt_logprobs"));
  spec.prompt_logprobs.reset();
  spec.logprobs = 19;
  EXPECT_FALSE(refused("logprobs"));
  spec.echo = true;
  EXPECT_TRUE(refused("logprobs"));
  spec.echo = false;
  spec.max_tokens = 120'000;
  EXPECT_TRUE(refused("logprobs"));
  spec.stream = true;
  EXPECT_FALSE(refused("logprobs"));
}

TEST_F(LogprobsTest, AnEchoOfThePromptAlone) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"echo":true,"max_tokens":0,"logprobs":0)")));
  const auto request = engine_.AwaitRequest();
  EXPECT_EQ(request.max_tokens, 1);
  engine_.EmitPrompt(request.id, Scores("i", 0));
  Emit(request.id, "z", 0, 0);
  engine_.Finish(request.id, FinishReason::kLength);
  const auto answer = Json(client.Read().body);
  EXPECT_EQ(At(answer, "choices.0.text"), "\"hi\"");
  EXPECT_EQ(At(answer, "choices.0.logprobs.tokens"), R"(["h","i"])");
  EXPECT_EQ(At(answer, "choices.0.finish_reason"), "\"length\"");
  EXPECT_EQ(At(answer, "usage.completion_tokens"), "0");
}

TEST_F(LogprobsTest, StopStringsCountOnlyAfterTheLeastOfTokens) {
  RawClient client(port());
  client.Send(PostRequest(kCompletions, CompletionBody(R"(,"stop":"!","min_tokens":3)")));
  const auto request = engine_.AwaitRequest();
  engine_.Emit(request.id, Bytes("!!!!x"));
  const auto answer = Json(client.Read().body);
  EXPECT_EQ(At(answer, "choices.0.text"), "\"!!!\"");
  EXPECT_EQ(At(answer, "usage.completion_tokens"), "4");
}

TEST_F(LogprobsTest, AnErrorEndsAllChoices) {
  RawClient client(port());
  client.Send(PostRequest(kChat, ChatBody(R"(,"n":2,"stream":true)")));
  const auto request = engine_.AwaitRequest();
  engine_.Emit(request.id, Bytes("a"), 1);
  engine_.FailWith(request.id, absl::InternalError("rank 1 broke"));
  const auto events = Events(client.Read().body);
  EXPECT_EQ(At(Json(events.back()), "error.code"), "\"internal_error\"");
  EXPECT_EQ(Of(events, 1).text, "a");
}

// A choice's tokens all come out in the end, at whatever point the text is looked at.
TEST(Choice, EveryTokenComesOutWithItsText) {
  GenerationSpec spec;
  spec.stop = {"stop", "\xF0\x9F\x98\x80!"};
  spec.logprobs = 0;
  const std::string text = "a\xC3\xA9st sto \xF0\x9F\x98\x80 \xED\x95\x9C.";
  for (size_t every = 1; every <= text.size(); ++every) {
    Choice choice(spec, TinyTokenizer());
    std::string shown;
    std::vector<int32_t> tokens;
    const auto take = [&] {
      Choice::Piece piece = choice.Take();
      shown += piece.text;
      for (const ScoredToken& t : piece.tokens) {
        tokens.push_back(t.token);
        EXPECT_LE(t.offset, Characters(shown));
      }
      EXPECT_LE(tokens.size(), shown.size());  // a byte each
    };
    for (size_t i = 0; i < text.size(); ++i) {
      const int32_t token = static_cast<uint8_t>(text[i]);
      const plan::TokenLogprobs of{token, -1, 1, {}, {}};
      choice.Push(token, &of);
      if (i % every == 0) take();
    }
    choice.End();
    take();
    EXPECT_EQ(shown, text);
    EXPECT_EQ(tokens, Bytes(text));
    EXPECT_FALSE(choice.stopped());
  }
}

}  // namespace
}  // namespace shoal::http
