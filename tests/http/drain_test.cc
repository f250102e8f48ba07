// POST /v1/cluster/drain: who is meant, and what is said about it.
#include "coordinator/http/drain.h"

#include <gtest/gtest.h>

#include "tests/http/api_fixture.h"

namespace shoal::http {
namespace {

using AgentState = core::ClusterState::AgentState;

core::ClusterState State() {
  core::ClusterState state{};
  const auto add = [&state](const char* id, const char* host, AgentState s, const char* detail) {
    core::ClusterState::Agent agent{};
    agent.info.id = id;
    agent.info.hostname = host;
    agent.state = s;
    agent.detail = detail;
    state.agents.push_back(agent);
  };
  add("abc1", "one", AgentState::kServing, "");
  add("abc2", "two", AgentState::kSpare, "");
  add("abc", "three", AgentState::kDraining, "no replacement yet");
  add("d", "two", AgentState::kDrained, "");
  for (int rank = 0; rank < 2; ++rank) {
    core::ClusterState::Rank r{};
    r.rank = rank;
    r.agent = "abc1";
    state.ranks.push_back(r);
  }
  return state;
}

struct Outcome {
  int status;
  std::string agent, state, detail, error;
  std::string drain;
};

Outcome Drain(const std::string& body) {
  Outcome outcome;
  const Response response = DrainAnswer(body, Limits{}, State(), &outcome.drain);
  outcome.status = response.status;
  const auto json = Json(response.body);
  outcome.agent = At(json, "agent");
  outcome.state = At(json, "state");
  outcome.detail = At(json, "detail");
  outcome.error = At(json, "error.message");
  return outcome;
}
Outcome DrainAgent(const std::string& name) { return Drain(R"({"agent":")" + name + R"("})"); }

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(DrainAnswer, ByIdByItsBeginningAndByHost) {
  for (const char* name : {"abc1", "one"}) {
    const Outcome o = DrainAgent(name);
    EXPECT_EQ(o.status, 202);
    EXPECT_EQ(o.agent, "\"abc1\"");
    EXPECT_EQ(o.state, "\"draining\"");
    EXPECT_TRUE(Has(o.detail, "2 ranks move")) << o.detail;
    EXPECT_EQ(o.drain, "abc1");
  }
  EXPECT_EQ(DrainAgent("abc2").drain, "abc2");
  EXPECT_TRUE(Has(DrainAgent("abc2").detail, "it has no ranks"));
  EXPECT_TRUE(Has(DrainAgent("abc2").detail, "no spare is left"));
  EXPECT_EQ(DrainAgent("three").agent, "\"abc\"");
}

TEST(DrainAnswer, AnExactIdIsNoBeginning) { EXPECT_EQ(DrainAgent("abc").agent, "\"abc\""); }

TEST(DrainAnswer, NobodyOrAnyOfSeveral) {
  const Outcome nobody = DrainAgent("x");
  EXPECT_EQ(nobody.status, 404);
  EXPECT_TRUE(Has(nobody.error, "there is no agent 'x'") && Has(nobody.error, "abc1 on one")) << nobody.error;
  for (const char* name : {"ab", "two"}) {
    const Outcome several = DrainAgent(name);
    EXPECT_EQ(several.status, 400);
    EXPECT_EQ(several.drain, "");
    EXPECT_TRUE(Has(several.error, "may be any of")) << several.error;
  }
  std::string none;
  EXPECT_EQ(DrainAnswer(R"({"agent":"a"})", Limits{}, {}, &none).status, 404);
}

TEST(DrainAnswer, TwiceIsNothingNew) {
  const Outcome again = DrainAgent("three");
  EXPECT_EQ(again.status, 202);
  EXPECT_EQ(again.drain, "");
  EXPECT_TRUE(Has(again.detail, "already: no replacement yet")) << again.detail;
  const Outcome done = DrainAgent("d");
  EXPECT_EQ(done.status, 200);
  EXPECT_EQ(done.drain, "");
  EXPECT_EQ(done.state, "\"drained\"");
}

TEST(DrainAnswer, BodiesThatNameNobody) {
  for (const char* body :
       {"", "[]", "{}", R"({"agent":7})", R"({"agent":""})", R"({"agent":null})", "{\"agent\":\"\xff\"}"}) {
    const Outcome o = Drain(body);
    EXPECT_EQ(o.status, 400) << body;
    EXPECT_EQ(o.drain, "") << body;
  }
}

class DrainRouteTest : public ApiFixture {};

TEST_F(DrainRouteTest, TheEngineIsTold) {
  const RawResponse response = Post("/v1/cluster/drain", R"({"agent":"agent-a"})");
  EXPECT_EQ(response.status, 202) << response.body;
  EXPECT_EQ(engine_.drained(), (std::vector<plan::AgentId>{"agent-a"}));
  EXPECT_EQ(Post("/v1/cluster/drain", R"({"agent":"b"})").status, 404);
  EXPECT_EQ(Fetch(port(), GetRequest("/v1/cluster/drain")).status, 405);
  EXPECT_EQ(engine_.drained().size(), 1u);
}

TEST_F(DrainRouteTest, NeedsTheKeyOfAnOperator) {
  const std::string client = "Authorization: Bearer sk\r\n", admin = "Authorization: Bearer ak\r\n";
  const auto drain = [&](const std::string& header) {
    return Fetch(port(), PostRequest("/v1/cluster/drain", R"({"agent":"agent-a"})", header));
  };
  ApiOptions options;
  options.api_keys = {"sk"};
  Start(options);
  EXPECT_EQ(drain("").status, 401);
  const RawResponse nobody = drain(client);
  EXPECT_EQ(nobody.status, 403);
  EXPECT_TRUE(Has(nobody.body, "--admin-api-key")) << nobody.body;
  options.admin_keys = {"ak"};
  Start(options);
  EXPECT_EQ(drain("").status, 401);
  EXPECT_EQ(drain("Authorization: Bearer other\r\n").status, 401);
  const RawResponse refused = drain(client);
  EXPECT_EQ(refused.status, 403);
  EXPECT_EQ(At(Json(refused.body), "error.code"), "\"insufficient_permissions\"");
  EXPECT_TRUE(engine_.drained().empty());
  EXPECT_EQ(drain(admin).status, 202);
  for (const std::string& key : {client, admin}) {
    EXPECT_EQ(Fetch(port(), GetRequest("/v1/cluster", key)).status, 200) << key;
  }
  EXPECT_EQ(Fetch(port(), GetRequest("/v1/cluster", "Authorization: Bearer other\r\n")).status, 401);
  options.api_keys.clear();
  Start(options);
  EXPECT_EQ(drain("").status, 401);
  EXPECT_EQ(drain(admin).status, 202);
  EXPECT_EQ(Fetch(port(), GetRequest("/v1/cluster")).status, 200) << "clients need none";
  EXPECT_EQ(engine_.drained().size(), 2u);
}

}  // namespace
}  // namespace shoal::http
