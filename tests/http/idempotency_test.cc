// Requests with an Idempotency-Key: the real server, routes and journal over a scripted engine. The end of server and
// routes in the middle of a request is to the journal what the death of the process is.
#include "coordinator/http/idempotency.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "coordinator/http/digest.h"
#include "tests/http/api_fixture.h"
#include "tests/testing/temp_dir.h"

namespace shoal::http {
namespace {

constexpr char kPath[] = "/v1/completions";

class IdempotencyTest : public ApiFixture {
 protected:
  void SetUp() override { Restart(); }

  journal::StoreOptions StoreOptions() {
    journal::StoreOptions options;
    options.directory = dir_ / "state";
    options.now_s = [] { return 1'700'000'000; };
    options.sync = [](int) { return 0; };
    return options;
  }
  // As after the death of the process.
  void Restart(ApiOptions options = {}) {
    server_.reset();
    api_.reset();
    auto journal = journal::Journal::Open(StoreOptions());
    ASSERT_TRUE(journal.ok()) << journal.status();
    Start(options, std::move(*journal));
  }
  // What an earlier process left, in order.
  std::vector<KeptRequest> Left() {
    server_.reset();
    api_.reset();
    auto store = journal::Store::Open(StoreOptions());
    EXPECT_TRUE(store.ok()) << store.status();
    std::vector<KeptRequest> left;
    for (const journal::Digest& id : (*store)->Unfinished()) {
      left.push_back(DecodeKeptRequest((*store)->BeginAgain(id, false)->request).value_or(KeptRequest{}));
    }
    return left;
  }

  static std::string Keyed(const std::string& key, const std::string& body, const std::string& more = "") {
    return PostRequest(kPath, body, "Idempotency-Key: " + key + "\r\n" + more);
  }
  // Sent, and at the engine.
  core::GenerateRequest Begin(RawClient& client, const std::string& request) {
    client.Send(request);
    return engine_.AwaitRequest();
  }
  void Finish(const core::GenerateRequest& request, const std::string& text) {
    engine_.Emit(request.id, Bytes(text));
    engine_.Finish(request.id, core::FinishReason::kStop);
  }
  static bool Replayed(const RawResponse& response) { return response.headers.count("idempotent-replayed") == 1; }

  testing::TempDir dir_;
  const std::string body_ = CompletionBody(R"(,"temperature":1)");
};

TEST_F(IdempotencyTest, OneExecutionAnswersAllWhoBringTheKey) {
  RawClient first(port()), second(port());
  const core::GenerateRequest request = Begin(first, Keyed("k1", body_));
  second.Send(Keyed("k1", body_));
  EXPECT_EQ(Fetch(port(), Keyed("k1", CompletionBody(",\"n\":1"))).status, 422);
  Finish(request, "hello");
  const RawResponse one = first.Read(), two = second.Read();
  EXPECT_EQ(one.status, 200);
  EXPECT_EQ(At(Json(one.body), "choices.0.text"), "\"hello\"");
  EXPECT_EQ(two.body, one.body);
  EXPECT_FALSE(Replayed(one));
  EXPECT_TRUE(Replayed(two));
  EXPECT_EQ(two.headers.at("x-shoal-preemptions"), one.headers.at("x-shoal-preemptions"));
  EXPECT_NE(two.headers.at("x-request-id"), one.headers.at("x-request-id"));
  const RawResponse later = Fetch(port(), Keyed("k1", body_));
  EXPECT_EQ(later.body, one.body);
  EXPECT_TRUE(Replayed(later));
  EXPECT_EQ(engine_.submitted(), 1);
  Restart();
  EXPECT_EQ(Fetch(port(), Keyed("k1", body_)).body, one.body);
  EXPECT_EQ(engine_.submitted(), 1);
}

TEST_F(IdempotencyTest, AnAnswerOfSeveralChoicesIsKeptWhole) {
  const std::string body = CompletionBody(R"(,"temperature":1,"n":2)");
  RawClient client(port());
  const core::GenerateRequest request = Begin(client, Keyed("k", body));
  EXPECT_EQ(request.n, 2);
  engine_.Emit(request.id, Bytes("one"), 1);
  engine_.FinishChoice(request.id, core::FinishReason::kLength, 1);
  Finish(request, "zero");
  const RawResponse answer = client.Read();
  EXPECT_EQ(At(Json(answer.body), "choices.0.text"), "\"zero\"");
  EXPECT_EQ(At(Json(answer.body), "choices.1.text"), "\"one\"");
  EXPECT_EQ(At(Json(answer.body), "choices.1.finish_reason"), "\"length\"");
  const RawResponse later = Fetch(port(), Keyed("k", body));
  EXPECT_EQ(later.body, answer.body);
  EXPECT_TRUE(Replayed(later));
  EXPECT_EQ(engine_.submitted(), 1);
}

TEST_F(IdempotencyTest, AKeyStandsForOneRequest) {
  RawClient client(port());
  Finish(Begin(client, Keyed("k", body_)), "x");
  ASSERT_EQ(client.Read().status, 200);
  const RawResponse other = Fetch(port(), Keyed("k", CompletionBody(R"(,"temperature":0.5)")));
  EXPECT_EQ(other.status, 422);
  EXPECT_EQ(At(Json(other.body), "error.code"), "\"idempotency_key_reused\"");
  EXPECT_EQ(At(Json(other.body), "error.param"), "\"Idempotency-Key\"");
  const std::string chat = PostRequest("/v1/chat/completions", body_, "Idempotency-Key: k\r\n");
  EXPECT_EQ(Fetch(port(), chat).status, 422) << "another route is another request";
}

TEST_F(IdempotencyTest, WhatWasAcceptedIsExecutedAgainAfterADeath) {
  core::GenerateRequest before;
  {
    RawClient client(port());
    before = Begin(client, Keyed("k1", body_));
    engine_.Emit(before.id, Bytes("hal"));
    const std::vector<KeptRequest> left = Left();  // ends server and routes
    ASSERT_EQ(left.size(), 1u);
    EXPECT_EQ(left[0].body, body_);
    EXPECT_EQ(left[0].fixed.seed, before.sampling.seed);
    EXPECT_FALSE(client.Read().complete);
    Restart();
    api_->Resume(server_->executor());
    const core::GenerateRequest again = engine_.AwaitRequest();  // without its client
    EXPECT_EQ(again.prompt, before.prompt);
    EXPECT_EQ(again.sampling.seed, before.sampling.seed) << "drawn once";
    RawClient back(port());
    back.Send(Keyed("k1", body_));
    Finish(again, "hallo");
    const RawResponse answer = back.Read();
    EXPECT_EQ(answer.status, 200);
    EXPECT_TRUE(Replayed(answer));
    const auto json = Json(answer.body);
    EXPECT_EQ(At(json, "choices.0.text"), "\"hallo\"");
    EXPECT_EQ(At(json, "id"), "\"cmpl-" + left[0].fixed.id + "\"");
    EXPECT_EQ(At(json, "created"), std::to_string(left[0].fixed.created));
  }
  EXPECT_EQ(engine_.submitted(), 2);
  EXPECT_TRUE(Left().empty());
}

TEST_F(IdempotencyTest, ManyThatWereLeftAreExecutedAFewAtATime) {
  constexpr int kMany = 40;
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < kMany; ++i) {
    clients.push_back(std::make_unique<RawClient>(port()));
    Begin(*clients.back(), Keyed("k" + std::to_string(i), body_));
  }
  Restart();
  api_->Resume(server_->executor());
  for (int i = 0; i < kMany; ++i) Finish(engine_.AwaitRequest(), "done");
  for (int i = 0; i < kMany; ++i) {
    const RawResponse answer = Fetch(port(), Keyed("k" + std::to_string(i), body_));
    EXPECT_EQ(At(Json(answer.body), "choices.0.text"), "\"done\"");
  }
  EXPECT_EQ(engine_.submitted(), 2 * kMany);
}

TEST_F(IdempotencyTest, WhatTheServerDiesOfIsNotExecutedForEver) {
  RawClient first(port()), second(port());
  Begin(first, Keyed("poison", CompletionBody(R"(,"max_tokens":7)")));
  Begin(second, Keyed("innocent", body_));
  ApiOptions after_crash;
  after_crash.after_crash = true;
  // What one life executes: one at a time, those first that were not there at the last crash. "poison" ends it.
  const auto next = [&] { return engine_.AwaitRequest(); };
  Restart(after_crash);
  api_->Resume(server_->executor());
  EXPECT_EQ(next().max_tokens, 7);
  Restart(after_crash);
  api_->Resume(server_->executor());
  Finish(next(), "harmless");
  EXPECT_EQ(next().max_tokens, 7);
  Restart(after_crash);
  api_->Resume(server_->executor());
  const RawResponse poisoned = Fetch(port(), Keyed("poison", CompletionBody(R"(,"max_tokens":7)")));
  EXPECT_EQ(poisoned.status, 500);
  EXPECT_EQ(poisoned.headers.at("x-should-retry"), "false");
  EXPECT_NE(poisoned.body.find("poisoned"), std::string::npos);
  const RawResponse harmless = Fetch(port(), Keyed("innocent", body_));
  EXPECT_EQ(At(Json(harmless.body), "choices.0.text"), "\"harmless\"");
  EXPECT_EQ(engine_.submitted(), 5);
}

TEST_F(IdempotencyTest, AClientThatGoesDoesNotEndIt) {
  core::GenerateRequest request;
  {
    RawClient client(port());
    request = Begin(client, Keyed("k", body_));
    client.Close();
  }
  EXPECT_EQ(Fetch(port(), GetRequest("/livez")).status, 200);
  EXPECT_EQ(api_->kept_executions(), 1u) << "which a shutdown waits for";
  Finish(request, "kept");
  const RawResponse answer = Fetch(port(), Keyed("k", body_));
  EXPECT_EQ(At(Json(answer.body), "choices.0.text"), "\"kept\"");
  EXPECT_EQ(engine_.submitted(), 1);
  EXPECT_EQ(api_->kept_executions(), 0u);
  const std::string metrics = Fetch(port(), GetRequest("/metrics")).body;
  for (const char* line : {"shoal:journal_entries{engine=\"0\",model_name=\"tiny\"} 1\n",
                           "shoal:journal_accepted_total{engine=\"0\",model_name=\"tiny\"} 1\n",
                           "shoal:journal_answered_again_total{engine=\"0\",model_name=\"tiny\"} 1\n"}) {
    EXPECT_NE(metrics.find(line), std::string::npos) << line << metrics;
  }
}

TEST_F(IdempotencyTest, WhatWasNotExecutedFreesTheKey) {
  for (const absl::Status& error : {absl::UnavailableError("no ranks"), absl::ResourceExhaustedError("queue")}) {
    RawClient client(port());
    engine_.FailWith(Begin(client, Keyed("k", body_)).id, error, 3);
    const RawResponse refused = client.Read();
    EXPECT_TRUE(refused.status == 503 || refused.status == 429);
    EXPECT_EQ(refused.headers.at("retry-after"), "3");
    EXPECT_FALSE(Replayed(refused));
  }
  RawClient client(port());
  Finish(Begin(client, Keyed("k", CompletionBody(""))), "x");  // another body, even
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(IdempotencyTest, AnInternalErrorIsItsAnswer) {
  RawClient client(port());
  engine_.FailWith(Begin(client, Keyed("k", body_)).id, absl::InternalError("poisoned"));
  EXPECT_EQ(client.Read().status, 500);
  const RawResponse again = Fetch(port(), Keyed("k", body_));
  EXPECT_EQ(again.status, 500);
  EXPECT_TRUE(Replayed(again));
  EXPECT_EQ(engine_.submitted(), 1);
}

TEST_F(IdempotencyTest, BadRequestsAndStreamsAreRefusedAndTheKeyStaysFree) {
  EXPECT_EQ(Fetch(port(), Keyed("k", R"({"prompt":1})")).status, 400);
  const RawResponse stream = Fetch(port(), Keyed("k", CompletionBody(R"(,"stream":true)")));
  EXPECT_EQ(stream.status, 400);
  EXPECT_EQ(At(Json(stream.body), "error.code"), "\"unsupported_parameter\"");
  EXPECT_EQ(At(Json(stream.body), "error.param"), "\"stream\"");
  RawClient client(port());
  Finish(Begin(client, Keyed("k", body_)), "x");
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(IdempotencyTest, BadKeys) {
  for (const std::string& key : {std::string(), std::string(256, 'k'), std::string("caf\xC3\xA9")}) {
    const RawResponse refused = Fetch(port(), Keyed(key, body_));
    EXPECT_EQ(refused.status, 400) << key;
    EXPECT_EQ(At(Json(refused.body), "error.param"), "\"Idempotency-Key\"");
  }
  EXPECT_EQ(Fetch(port(), Keyed("a", body_, "Idempotency-Key: a\r\n")).status, 400) << "two of them";
  RawClient client(port());
  Finish(Begin(client, Keyed(std::string(255, '~'), body_)), "x");
  EXPECT_EQ(client.Read().status, 200);
  EXPECT_EQ(engine_.submitted(), 1);
}

TEST_F(IdempotencyTest, KeysOfOneClientMeanNothingToAnother) {
  ApiOptions options;
  options.api_keys = {"alice", "bob"};
  Restart(options);
  RawClient alice(port()), bob(port());
  const std::string as_alice = "Authorization: Bearer alice\r\n", as_bob = "Authorization: Bearer bob\r\n";
  Finish(Begin(alice, Keyed("k", body_, as_alice)), "for alice");
  Finish(Begin(bob, Keyed("k", body_, as_bob)), "for bob");
  EXPECT_EQ(At(Json(alice.Read().body), "choices.0.text"), "\"for alice\"");
  EXPECT_EQ(At(Json(bob.Read().body), "choices.0.text"), "\"for bob\"");
  EXPECT_EQ(At(Json(Fetch(port(), Keyed("k", body_, as_alice)).body), "choices.0.text"), "\"for alice\"");
}

TEST_F(IdempotencyTest, WhatAShutdownCutsShortIsLeftForTheNextProcess) {
  RawClient client(port());
  const core::GenerateRequest request = Begin(client, Keyed("k", body_));
  api_->Drain();
  engine_.FailWith(request.id, absl::UnavailableError("the server is shutting down"));
  EXPECT_EQ(client.Read().status, 503);
  EXPECT_EQ(Left().size(), 1u);
}

TEST_F(IdempotencyTest, WhoAsksForAnAnswerThatCannotBeMadeYetIsToldSoInTime) {
  RawClient client(port());
  Begin(client, Keyed("k", body_));
  Restart();
  RawClient back(port());
  back.Send(Keyed("k", body_));
  // Until it waits there is nobody to turn away, so again and again, as the server does.
  std::atomic<bool> done{false};
  std::thread server([&] {
    while (!done) {
      api_->TurnAwayWaiting();
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(back.Read().status, 503);
  done = true;
  server.join();
  EXPECT_EQ(Left().size(), 1u) << "it will be made all the same";
}

TEST_F(IdempotencyTest, WithoutAJournalKeysAreRefused) {
  Start({});
  const RawResponse refused = Fetch(port(), Keyed("k", body_));
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(At(Json(refused.body), "error.param"), "\"Idempotency-Key\"");
}

TEST_F(IdempotencyTest, ADiskThatTakesNoMoreIsToldAndHurtsNobodyElse) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit small{64, old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const RawResponse refused = Fetch(port(), Keyed("k", body_));
  const RawResponse unharmed = Complete(kPath, body_, {"x"});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.body.find("File too large"), std::string::npos) << refused.body;
  EXPECT_EQ(unharmed.status, 200);
  RawClient client(port());
  Finish(Begin(client, Keyed("k", body_)), "x");
  EXPECT_EQ(client.Read().status, 200);
}

TEST(Kept, WhatWasWrittenIsReadAndNothingElse) {
  KeptRequest request{true, {~0ull, "abc", -5}, std::string("body\0\xFF", 6)};
  const std::string bytes = EncodeKept(request);
  const auto back = DecodeKeptRequest(bytes);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->chat, true);
  EXPECT_EQ(back->fixed.seed, ~0ull);
  EXPECT_EQ(back->fixed.id, "abc");
  EXPECT_EQ(back->fixed.created, -5);
  EXPECT_EQ(back->body, request.body);
  Response response;
  response.status = 500;
  response.headers = {{"A", "b"}};
  response.body = "{}";
  const std::string answer = EncodeKept(response);
  ASSERT_TRUE(DecodeKeptResponse(answer).has_value());
  EXPECT_EQ(DecodeKeptResponse(answer)->headers, response.headers);
  EXPECT_EQ(DecodeKeptResponse(answer)->body, "{}");
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(DecodeKeptRequest(bytes.substr(0, size)));
  for (size_t size = 0; size < answer.size(); ++size) EXPECT_FALSE(DecodeKeptResponse(answer.substr(0, size)));
  EXPECT_FALSE(DecodeKeptResponse(std::string(64, '\xFF')));
}

TEST(Sha256, IsTheStandardOne) {
  const auto digest = Sha256("abc");  // FIPS 180-2 B.1
  EXPECT_EQ(digest[0], 0xBA);
  EXPECT_EQ(digest[1], 0x78);
  EXPECT_EQ(digest[31], 0xAD);
}

}  // namespace
}  // namespace shoal::http
