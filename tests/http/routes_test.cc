// The routes around generation: models, health, keys, CORS, metrics, cluster, tokenize; 404 and 405.
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

#include "coordinator/http/api.h"
#include "tests/http/api_fixture.h"

namespace shoal::http {
namespace {

class RoutesTest : public ApiFixture {
 protected:
  RawResponse Get(const std::string& path, const std::string& headers = "") {
    return Fetch(port(), GetRequest(path, headers));
  }
  static void ExpectError(const RawResponse& response, int status, const std::string& code) {
    EXPECT_EQ(response.status, status) << response.body;
    const auto body = Json(response.body);
    EXPECT_NE(At(body, "error.message"), "absent");
    EXPECT_NE(At(body, "error.type"), "absent");
    EXPECT_NE(At(body, "error.param"), "absent");
    EXPECT_EQ(At(body, "error.code"), "\"" + code + "\"");
    EXPECT_EQ(response.headers.at("content-type"), "application/json");
  }
};

TEST_F(RoutesTest, Models) {
  const auto list = Json(Get("/v1/models").body);
  EXPECT_EQ(At(list, "object"), "\"list\"");
  EXPECT_EQ(At(list, "data.0.id"), "\"tiny\"");
  EXPECT_EQ(At(list, "data.0.object"), "\"model\"");
  EXPECT_EQ(At(list, "data.0.created"), "1700000000");
  EXPECT_EQ(At(list, "data.0.owned_by"), "\"shoal\"");
  EXPECT_EQ(At(list, "data.0.max_model_len"), "4096");
  EXPECT_EQ(At(list, "data.1.id"), "\"org/tiny\"");
  EXPECT_EQ(At(Json(Get("/v1/models/tiny").body), "id"), "\"tiny\"");
  EXPECT_EQ(At(Json(Get("/v1/models/org%2Ftiny").body), "id"), "\"org/tiny\"");
  ExpectError(Get("/v1/models/other"), 404, "model_not_found");
}

TEST_F(RoutesTest, TheAnswerNamesTheModelThatWasAskedFor) {
  const auto answer = Json(Complete("/v1/completions", R"({"model":"org/tiny","prompt":"a"})", {"b"}).body);
  EXPECT_EQ(At(answer, "model"), "\"org/tiny\"");
  EXPECT_EQ(At(Json(Complete("/v1/completions", R"({"prompt":"a"})", {"b"}).body), "model"), "\"tiny\"");
  ExpectError(Post("/v1/completions", R"({"model":"gpt-4","prompt":"a"})"), 404, "model_not_found");
  ExpectError(Post("/v1/chat/completions", R"({"model":"gpt-4","messages":[{"role":"user","content":"a"}]})"), 404,
              "model_not_found");
}

TEST_F(RoutesTest, HealthSaysOneWord) {
  for (const char* path : {"/livez", "/readyz", "/health"}) EXPECT_EQ(Get(path).status, 200);
  EXPECT_EQ(Get("/livez").body, "ok\n");
  EXPECT_EQ(Get("/readyz").body, "ready\n");
  engine_.SetReady(false);
  EXPECT_EQ(Get("/livez").status, 200);
  EXPECT_EQ(Get("/readyz").status, 503);
  EXPECT_EQ(Get("/health").body, "notready\n");
}

TEST_F(RoutesTest, BeforeTheModelIsThereRequestsComeBackLater) {
  engine_.SetModel(nullptr);
  engine_.SetReady(false);
  for (const RawResponse& response :
       {Post("/v1/chat/completions", ChatBody("")), Post("/v1/completions", CompletionBody("")), Get("/v1/models"),
        Get("/v1/models/tiny"), Post("/tokenize", R"({"prompt":"a"})"), Post("/detokenize", R"({"tokens":[1]})")}) {
    ExpectError(response, 503, "service_unavailable");
    EXPECT_EQ(response.headers.at("retry-after"), "2");
  }
}

TEST_F(RoutesTest, DrainingRefusesNewWorkAndFinishesTheOld) {
  RawClient client(port());
  client.Send(PostRequest("/v1/completions", CompletionBody("")));
  const auto request = engine_.AwaitRequest();
  api_->Drain();
  EXPECT_EQ(Get("/readyz").status, 503);
  EXPECT_EQ(Get("/livez").status, 200);
  ExpectError(Post("/v1/completions", CompletionBody("")), 503, "service_unavailable");
  engine_.Finish(request.id, core::FinishReason::kStop, Bytes("done"));
  EXPECT_EQ(At(Json(client.Read().body), "choices.0.text"), "\"done\"");
}

TEST_F(RoutesTest, KeysGuardWhatCostsWork) {
  ApiOptions options;
  options.api_keys = {"sk-one", "sk-two"};
  Start(options);
  for (const char* path : {"/livez", "/readyz", "/health", "/metrics", "/version"}) EXPECT_EQ(Get(path).status, 200);
  for (const char* path : {"/v1/models", "/v1/models/tiny", "/v1/cluster"}) {
    const RawResponse refused = Get(path);
    ExpectError(refused, 401, "invalid_api_key");
    EXPECT_EQ(refused.headers.at("www-authenticate"), "Bearer");
    EXPECT_EQ(Get(path, "Authorization: Bearer sk-two\r\n").status, 200);
  }
  ExpectError(Get("/v1/models", "Authorization: Bearer sk-three\r\n"), 401, "invalid_api_key");
  ExpectError(Get("/v1/models", "Authorization: sk-one\r\n"), 401, "invalid_api_key");
  ExpectError(Get("/v1/models", "Authorization: Bearer \r\n"), 401, "invalid_api_key");
  ExpectError(Post("/v1/chat/completions", ChatBody("")), 401, "invalid_api_key");
  ExpectError(Post("/tokenize", R"({"prompt":"a"})"), 401, "invalid_api_key");
  EXPECT_EQ(engine_.submitted(), 0);
}

TEST_F(RoutesTest, UnknownRoutesAndMethodsAreJsonErrors) {
  ExpectError(Get("/"), 404, "not_found");
  ExpectError(Get("/v1/nothing"), 404, "not_found");
  ExpectError(Get("/v1/models/"), 404, "not_found");
  ExpectError(Post("/v1/embeddings", "{}"), 404, "not_found");
  const RawResponse refused = Get("/v1/chat/completions");
  ExpectError(refused, 405, "method_not_allowed");
  EXPECT_EQ(refused.headers.at("allow"), "POST, OPTIONS");
  ExpectError(Post("/v1/models", "{}"), 405, "method_not_allowed");
}

TEST_F(RoutesTest, BrowsersMayAsk) {
  RawClient client(port());
  client.Send(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: t\r\nOrigin: http://page\r\n"
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n\r\n");
  const RawResponse response = client.Read();
  EXPECT_EQ(response.status, 204);
  EXPECT_EQ(response.headers.at("access-control-allow-origin"), "*");
  EXPECT_EQ(response.headers.at("access-control-allow-headers"), "authorization,content-type");
  EXPECT_NE(response.headers.at("access-control-allow-methods").find("POST"), std::string::npos);
  client.Send(GetRequest("/livez"));
  EXPECT_EQ(client.Read().status, 200);  // the connection goes on
}

TEST_F(RoutesTest, WhatWasRefusedIsShownByPlace) {
  ApiOptions options;
  options.stale = [] {
    plan::StaleCounts counts{};
    counts[static_cast<size_t>(plan::StalePlace::kPlan)] = 4;
    counts[static_cast<size_t>(plan::StalePlace::kAnswer)] = 1;
    return counts;
  };
  Start(options);
  const auto cluster = Json(Get("/v1/cluster").body);
  EXPECT_EQ(At(cluster, "stale.plan"), "4");
  EXPECT_EQ(At(cluster, "stale.answer"), "7") << "with those of the core";
  EXPECT_EQ(At(cluster, "stale.reply"), "3") << "those that the core dropped";
  EXPECT_EQ(At(cluster, "stale.join"), "0");
  const std::string metrics = Get("/metrics").body;
  EXPECT_NE(metrics.find("shoal:stale_total{where=\"plan\"} 4\n"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("shoal:stale_total{where=\"answer\"} 7\n"), std::string::npos) << metrics;
}

TEST_F(RoutesTest, VersionAndCluster) {
  EXPECT_EQ(Get("/version").body, R"({"version":"1.2.3"})");
  const auto cluster = Json(Get("/v1/cluster").body);
  EXPECT_EQ(At(cluster, "phase"), "\"ready\"");
  EXPECT_EQ(At(cluster, "epoch"), "3");
  EXPECT_EQ(At(cluster, "tensor_parallel_size"), "2");
  EXPECT_EQ(At(cluster, "pipeline_parallel_size"), "1");
  EXPECT_EQ(At(cluster, "ranks.0.pid"), "4711");
  EXPECT_EQ(At(cluster, "ranks.0.tp"), "1");
  EXPECT_EQ(At(cluster, "ranks.0.pp"), "0");
  EXPECT_EQ(At(cluster, "ranks.0.state"), "\"ready\"");
  EXPECT_EQ(At(cluster, "ranks.0.comm_bytes.shm"), "12345");
  EXPECT_EQ(At(cluster, "ranks.0.waiting_for"), "0");
  EXPECT_EQ(At(cluster, "ranks.0.own_step_us"), "1500");
  EXPECT_EQ(At(cluster, "ranks.0.straggles"), "true");
  EXPECT_EQ(At(cluster, "transport"), "\"gloo\"");
  EXPECT_EQ(At(cluster, "agents.0.id"), "\"agent-a\"");
  EXPECT_EQ(At(cluster, "agents.0.heartbeat_age_ms"), "250");
  EXPECT_EQ(At(cluster, "agents.0.state"), "\"spare\"");
  EXPECT_EQ(At(cluster, "agents.0.detail"), "\"\"");
  EXPECT_EQ(At(cluster, "reforms"), "1");
  EXPECT_EQ(At(cluster, "reformed_from.tensor_parallel_size"), "2");
  EXPECT_EQ(At(cluster, "reformed_from.pipeline_parallel_size"), "2");
  EXPECT_EQ(At(cluster, "kv_blocks_free"), "75");
  EXPECT_EQ(At(cluster, "preemptions"), "7");
  EXPECT_EQ(At(cluster, "resumed"), "3");
  EXPECT_EQ(At(cluster, "recomputed_tokens"), "41");
  EXPECT_EQ(At(cluster, "poisoned"), "1");
  EXPECT_EQ(At(cluster, "canary_failures"), "5");
  EXPECT_EQ(At(cluster, "hidden_state_mismatches.1"), "6");
}

TEST_F(RoutesTest, MetricsShowWhatWasServed) {
  Complete("/v1/completions", CompletionBody(""), {"Hello"});
  const RawResponse response = Get("/metrics");
  EXPECT_EQ(response.headers.at("content-type").substr(0, 10), "text/plain");
  for (const char* line : {"vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 5",
                           "vllm:prompt_tokens_total{engine=\"0\",model_name=\"tiny\"} 2",
                           "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"tiny\"} 1",
                           "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"tiny\"} 1",
                           "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"200\"} 1"}) {
    EXPECT_NE(response.body.find(line), std::string::npos) << line << "\n" << response.body;
  }
}

TEST_F(RoutesTest, TokenizeAndBack) {
  EXPECT_EQ(Post("/tokenize", R"({"model":"tiny","prompt":"ab"})").body,
            R"({"count":2,"max_model_len":4096,"tokens":[97,98],"token_strs":null})");
  EXPECT_EQ(Post("/tokenize", R"({"prompt":"ab","return_token_strs":true})").body,
            R"({"count":2,"max_model_len":4096,"tokens":[97,98],"token_strs":["a","b"]})");
  const auto chat = Json(Post("/tokenize", R"({"messages":[{"role":"user","content":"a"}]})").body);
  EXPECT_EQ(At(chat, "tokens.0"), std::to_string(kImStart)) << boost::json::serialize(chat);
  EXPECT_EQ(Post("/detokenize", R"({"tokens":[104,105,257]})").body, R"({"prompt":"hi<|im_end|>"})");
  ExpectError(Post("/tokenize", "{}"), 400, "missing_required_parameter");
  ExpectError(Post("/tokenize", R"({"prompt":[1]})"), 400, "invalid_value");
  ExpectError(Post("/detokenize", "{}"), 400, "missing_required_parameter");
  ExpectError(Post("/detokenize", R"({"tokens":["a"]})"), 400, "invalid_value");
  ExpectError(Post("/detokenize", R"({"model":"x","tokens":[]})"), 404, "model_not_found");
}

TEST_F(RoutesTest, AFullTextQueueAsksToComeBack) {
  ApiOptions options;
  options.limits.queued_text_jobs = 0;
  Start(options);
  const RawResponse response = Post("/v1/completions", CompletionBody(""));
  ExpectError(response, 429, "rate_limit_exceeded");
  EXPECT_EQ(response.headers.at("retry-after"), "1");
  ExpectError(Post("/tokenize", R"({"prompt":"a"})"), 429, "rate_limit_exceeded");
}

}  // namespace
}  // namespace shoal::http
