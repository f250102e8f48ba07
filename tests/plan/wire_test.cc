#include "common/plan/wire.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <set>

#include "cluster.pb.h"
#include "common/base/rng.h"
#include "common/plan/control.h"
#include "common/plan/wire_setup.h"
#include "plan.pb.h"
#include "worker.pb.h"

namespace shoal::plan {
namespace {

StepPlan SamplePlan() {
  StepPlan plan;
  plan.stamp = {3, 1ull << 60, 99};
  plan.ends = {5, 6};
  SequenceStart start{7, {1, 2, 3}, 2, {}, {4, 9}, 1};
  start.sampling = {.temperature = 0.7f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f, .seed = ~0ull, .choice = 1};
  start.sampling.repetition_penalty = 1.25f;
  start.sampling.presence_penalty = -0.5f;
  start.sampling.frequency_penalty = 0.75f;
  start.sampling.min_tokens = 9;
  start.sampling.end_tokens = {2, 300000};
  start.sampling.biases = {{4, -1.5f}, {90, 100}};
  start.sampling.allowed_tokens = {1, 5, 6};
  start.sampling.bad_words = {{7}, {8, 9, 10}, {11, 12}};
  start.sampling.logprobs = 5;
  start.sampling.prompt_logprobs = 0;
  plan.starts = {start};
  plan.blocks_added = {{8, {10, 11}}};
  plan.copies = {{1, 2}};
  plan.rows = {{7, TokenSource::kLiteral, 1, 2, RowOutput::kSample, 0},
               {8, TokenSource::kLastSample, 40, 1, RowOutput::kNone, 2},
               {9, TokenSource::kLiteral, 0, 3, RowOutput::kBoth, 0}};
  plan.cohort = 1;
  plan.mirror_digest = 0xDEADBEEFCAFEF00D;
  return plan;
}

void ExpectSame(const SamplingParams& got, const SamplingParams& want) {
  EXPECT_EQ(got.repetition_penalty, want.repetition_penalty);
  EXPECT_EQ(got.presence_penalty, want.presence_penalty);
  EXPECT_EQ(got.frequency_penalty, want.frequency_penalty);
  EXPECT_EQ(got.min_tokens, want.min_tokens);
  EXPECT_EQ(got.end_tokens, want.end_tokens);
  EXPECT_EQ(got.biases, want.biases);
  EXPECT_EQ(got.allowed_tokens, want.allowed_tokens);
  EXPECT_EQ(got.bad_words, want.bad_words);
  EXPECT_EQ(got.logprobs, want.logprobs);
  EXPECT_EQ(got.prompt_logprobs, want.prompt_logprobs);
}

TEST(WirePlan, ParametersThatAskForNothingStaySo) {
  StepPlan plan;
  plan.starts.push_back({7, {1, 2, 3}, 2, {}, {4, 9}, 1});
  const StepPlan back = DecodePlan(EncodePlan(plan)).value();
  ExpectSame(back.starts[0].sampling, {});
  EXPECT_EQ(back.starts[0].sampling.logprobs, -1);
}

TEST(WirePlan, RoundTripKeepsEveryField) {
  const StepPlan plan = SamplePlan();
  const std::string bytes = EncodePlan(plan);
  const StepPlan back = DecodePlan(bytes).value();
  EXPECT_EQ(EncodePlan(back), bytes);
  EXPECT_EQ(back.stamp, plan.stamp);
  EXPECT_EQ(back.ends, plan.ends);
  ASSERT_EQ(back.starts.size(), 1u);
  EXPECT_EQ(back.starts[0].tokens, plan.starts[0].tokens);
  EXPECT_EQ(back.starts[0].blocks, plan.starts[0].blocks);
  EXPECT_EQ(back.starts[0].kv_tokens, 1);
  EXPECT_EQ(back.starts[0].sampling.seed, ~0ull);
  EXPECT_EQ(back.starts[0].sampling.top_p, 0.9f);
  ExpectSame(back.starts[0].sampling, plan.starts[0].sampling);
  ASSERT_EQ(back.rows.size(), 3u);
  EXPECT_EQ(back.rows[2].output, RowOutput::kBoth);
  EXPECT_EQ(back.rows[1].source, TokenSource::kLastSample);
  EXPECT_EQ(back.rows[1].position, 40);
  EXPECT_EQ(back.rows[0].output, RowOutput::kSample);
  EXPECT_EQ(back.copies[0].dst, 2);
  EXPECT_EQ(back.mirror_digest, plan.mirror_digest);
  EXPECT_FALSE(back.checksum);
  StepPlan asks = plan;
  asks.checksum = true;
  EXPECT_TRUE(DecodePlan(EncodePlan(asks)).value().checksum);
  EXPECT_EQ(back.bucket, 0);
  asks.bucket = 24;
  EXPECT_EQ(DecodePlan(EncodePlan(asks)).value().bucket, 24);
}

TEST(WirePlan, RefusesWhatIsNotAPlan) {
  EXPECT_FALSE(DecodePlan("\xff\xff\xff\xff").ok());
  proto::StepPlan bad;
  bad.add_rows()->set_source(static_cast<proto::TokenSource>(17));
  EXPECT_EQ(DecodePlan(bad.SerializeAsString()).status().code(), absl::StatusCode::kInvalidArgument);
  bad.Clear();
  bad.add_starts()->mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(DecodePlan(bad.SerializeAsString()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(WirePlan, RefusesListsThatDoNotFitTogether) {
  const auto refused = [](const std::function<void(proto::SamplingParams*)>& change) {
    proto::StepPlan plan;
    plan.ParseFromString(EncodePlan(SamplePlan()));
    change(plan.mutable_starts(0)->mutable_sampling());
    return DecodePlan(plan.SerializeAsString()).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_FALSE(refused([](auto*) {}));
  EXPECT_TRUE(refused([](auto* s) { s->add_biases(1); }));
  EXPECT_TRUE(refused([](auto* s) { s->add_bias_tokens(1); }));
  EXPECT_TRUE(refused([](auto* s) { s->set_biases(0, std::numeric_limits<float>::infinity()); }));
  EXPECT_TRUE(refused([](auto* s) { s->add_bad_words(1); }));
  EXPECT_TRUE(refused([](auto* s) { s->set_bad_words(0, ~0u); }));
  EXPECT_TRUE(refused([](auto* s) { s->add_bad_word_tokens(1); }));
}

TEST(WirePlan, DamagedBytesNeverCrash) {
  const std::string good = EncodePlan(SamplePlan());
  int refused = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    std::string bytes = good;
    bytes[RandomBits(1, i, 0) % bytes.size()] ^= static_cast<char>(1 + RandomBits(1, i, 1) % 255);
    if (i % 3 == 0) bytes.resize(RandomBits(1, i, 2) % bytes.size());
    refused += !DecodePlan(bytes).ok();
  }
  EXPECT_GT(refused, 1000);
}

TEST(WireResult, RoundTrip) {
  StepResult result;
  result.stamp = {1, 2, 3};
  result.rank = 2;
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  result.rows = {{7, {11}, RowError::kNone, {{5, -0.5f, 2, {6, 5}, {-0.25f, -0.5f}}, {11, kNone, 30, {}, {}}}},
                 {8, {}, RowError::kNotFinite, {}}};
  result.times = {1, 2, 3, 4, 5};
  result.checksum = ~0ull;
  result.error = "why";
  const StepResult back = DecodeResult(EncodeResult(result)).value();
  EXPECT_EQ(back.stamp, result.stamp);
  EXPECT_EQ(back.rows[0].tokens, std::vector<int32_t>{11});
  EXPECT_EQ(back.rows[0].logprobs, result.rows[0].logprobs);
  EXPECT_TRUE(back.rows[1].logprobs.empty());
  EXPECT_EQ(back.rows[1].error, RowError::kNotFinite);
  EXPECT_EQ(back.times.waited, 4);
  EXPECT_EQ(back.times.sampling, 5);
  EXPECT_EQ(back.checksum, ~0ull);
  EXPECT_EQ(back.error, "why");
}

StepResult ResultWithLogprobs() {
  StepResult result;
  for (int32_t i = 0; i < 3; ++i) {
    result.rows.push_back({7, {11}, RowError::kNone, {{11, -0.5f, 2, {6, 5, i}, {-0.25f, -0.5f, -1.0f}}, {}}});
  }
  return result;
}

TEST(WireResult, RefusesLogprobsThatDoNotFitTogether) {
  const auto refused = [](const std::function<void(proto::RowResult*)>& change) {
    proto::StepResult result;
    result.ParseFromString(EncodeResult(ResultWithLogprobs()));
    change(result.mutable_rows(1));
    return DecodeResult(result.SerializeAsString()).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_FALSE(refused([](auto*) {}));
  EXPECT_TRUE(refused([](auto* r) { r->add_logprob_tokens(1); }));
  EXPECT_TRUE(refused([](auto* r) { r->add_logprobs(1); }));
  EXPECT_TRUE(refused([](auto* r) { r->add_ranks(1); }));
  EXPECT_TRUE(refused([](auto* r) { r->add_tops(1); }));
  EXPECT_TRUE(refused([](auto* r) { r->add_top_ids(1); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_tops(0, 2); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_tops(1, ~0u); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_logprobs(0, std::numeric_limits<float>::quiet_NaN()); }));
}

TEST(WireResult, DamagedBytesNeverCrash) {
  const std::string good = EncodeResult(ResultWithLogprobs());
  int refused = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    std::string bytes = good;
    bytes[RandomBits(2, i, 0) % bytes.size()] ^= static_cast<char>(1 + RandomBits(2, i, 1) % 255);
    if (i % 3 == 0) bytes.resize(RandomBits(2, i, 2) % bytes.size());
    refused += !DecodeResult(bytes).ok();
  }
  EXPECT_GT(refused, 1000);
}

// The coordinator subtracts them.
TEST(WireResult, TimesOutOfRangeAreRefused) {
  for (const DurationNs bad : {DurationNs{-1}, INT64_MIN, INT64_MAX}) {
    for (const StepTimes& times :
         {StepTimes{bad, 0, 0, 0, 0}, {0, bad, 0, 0, 0}, {0, 0, bad, 0, 0}, {0, 0, 0, bad, 0}, {0, 0, 0, 0, bad}}) {
      StepResult result;
      result.times = times;
      EXPECT_FALSE(DecodeResult(EncodeResult(result)).ok());
    }
  }
  EXPECT_EQ((StepTimes{1, 10, 100, 20, 5}.Own()), 65);
}

TEST(WireControl, RoundTrips) {
  AgentInfo agent{"a1",   5,   "127.0.0.1:1",        "host", "boot", "build", 42, {{"cpu", 2, 1 << 20}}, 9,
                  {0, 1}, "m", DrainState::kDraining};
  proto::AgentInfo agent_proto;
  ToProto(agent, &agent_proto);
  const AgentInfo agent_back = FromProto(agent_proto).value();
  EXPECT_EQ(agent_back.slots[0].memory_bytes, 1 << 20);
  EXPECT_EQ(agent_back.held_ranks, agent.held_ranks);
  EXPECT_EQ(agent_back.highest_epoch, 9u);
  EXPECT_EQ(agent_back.drain, DrainState::kDraining);
  for (const int32_t state : {-1, 3}) {
    agent_proto.set_drain(state);
    EXPECT_EQ(FromProto(agent_proto).status().code(), absl::StatusCode::kInvalidArgument);
  }

  JoinGroup join;
  join.epoch = 4, join.model = "/m.gguf", join.tp = 2, join.shard_hash = 77, join.comm_token = "t";
  join.engine.device = "ref", join.engine.block_size = 32;
  join.ranks = {{0, "a1", 0}, {1, "a1", 1}};
  join.limits = {100, 16, 8, 512, 2048, 49152};
  proto::JoinGroupRequest join_proto;
  ToProto(join, &join_proto);
  const JoinGroup join_back = FromProto(join_proto).value();
  EXPECT_EQ(join_back.engine.device, "ref");
  EXPECT_EQ(join_back.ranks[1].slot, 1);
  EXPECT_EQ(join_back.limits.max_model_len, 2048);
  EXPECT_EQ(join_back.shard_hash, 77u);

  Heartbeat beat{"a1", 5, 6, 7, {{}}};
  beat.ranks[0].state = RankState::kReady;
  beat.ranks[0].comm_bytes = {{"shm", 123}};
  beat.drain = DrainState::kDrained;
  proto::Heartbeat beat_proto;
  ToProto(beat, &beat_proto);
  const Heartbeat beat_back = FromProto(beat_proto).value();
  EXPECT_EQ(beat_back.ranks[0].state, RankState::kReady);
  EXPECT_EQ(beat_back.drain, DrainState::kDrained);
  EXPECT_EQ(beat_back.ranks[0].comm_bytes[0].second, 123);
  EXPECT_EQ(beat_back.ranks[0].waiting_for, std::nullopt);
  for (const int32_t peer : {RankStatus::kAgent, 0, 3}) {
    beat.ranks[0].waiting_for = peer;
    beat_proto.Clear();
    ToProto(beat, &beat_proto);
    EXPECT_EQ(FromProto(beat_proto)->ranks[0].waiting_for, peer);
  }
}

TEST(WireControl, HeartbeatsCarryWhatWasRefusedByPlace) {
  Heartbeat beat{"a1", 5, 6, 7, {}};
  beat.stale[static_cast<size_t>(StalePlace::kJoin)] = 3;
  beat.stale[static_cast<size_t>(StalePlace::kRecord)] = UINT64_MAX;  // a rank spoilt its page
  proto::Heartbeat message;
  ToProto(beat, &message);
  EXPECT_EQ(message.stale_size(), 2);
  const absl::StatusOr<Heartbeat> back = FromProto(message);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->stale[static_cast<size_t>(StalePlace::kJoin)], 3u);
  EXPECT_EQ(back->stale[static_cast<size_t>(StalePlace::kRecord)], kMaxStale);
  message.mutable_stale(0)->set_count(kMaxStale + 1);
  EXPECT_EQ(FromProto(message).status().code(), absl::StatusCode::kInvalidArgument);
  message.mutable_stale(0)->set_count(1);
  for (const int place : {-1, static_cast<int>(kStalePlaces)}) {
    message.mutable_stale(0)->set_place(place);
    EXPECT_EQ(FromProto(message).status().code(), absl::StatusCode::kInvalidArgument);
  }
  std::set<std::string_view> names;
  for (size_t place = 0; place < kStalePlaces; ++place) names.insert(StalePlaceName(static_cast<StalePlace>(place)));
  EXPECT_EQ(names.size(), kStalePlaces);
  EXPECT_EQ(StalePlaceName(StalePlace::kAnswer), "answer");
}

// Protobuf refuses a message whose text is not UTF-8: a line of a log that was cut inside a character must not end the
// stream that carries it.
TEST(WireControl, BytesThatAreNotTextArrive) {
  const std::string bad = "cut \xED\x95", clean = "cut \xEF\xBF\xBD\xEF\xBF\xBD";
  const auto carry = [](const auto& in, auto message) {
    ToProto(in, &message);
    decltype(message) arrived;
    EXPECT_TRUE(arrived.ParseFromString(message.SerializeAsString()));
    return arrived;
  };
  EXPECT_EQ(FromProto(carry(RankExit{1, 2, 3, bad}, proto::RankExit()))->cause, clean);
  AgentInfo agent;
  agent.id = "a", agent.address = "b", agent.hostname = bad, agent.slots = {{bad, 1, 1}};
  const AgentInfo arrived = FromProto(carry(agent, proto::AgentInfo())).value();
  EXPECT_EQ(arrived.hostname, clean);
  EXPECT_EQ(arrived.slots[0].kind, clean);
  Heartbeat beat{"a", 5, 6, 7, {{}}};
  beat.ranks[0].operation = bad;
  beat.ranks[0].comm_bytes = {{bad, 1}};
  const Heartbeat beaten = FromProto(carry(beat, proto::Heartbeat())).value();
  EXPECT_EQ(beaten.ranks[0].operation, clean);
  EXPECT_EQ(beaten.ranks[0].comm_bytes[0].first, clean);
  EngineOptions engine;
  engine.device = engine.compute_dtype = engine.kv_dtype = engine.load_format = engine.transport = engine.quantization =
      engine.numerics = engine.all_reduce = bad;
  EXPECT_EQ(FromProto(carry(engine, proto::EngineOptions())).device, clean);
  StepResult result;
  result.error = bad;
  EXPECT_EQ(DecodeResult(EncodeResult(result))->error, clean);
  JoinGroup join;
  join.model = bad, join.ranks = {{0, "a", 0}};
  EXPECT_EQ(FromProto(carry(join, proto::JoinGroupRequest()))->model, bad) << "a path is not text";
}

TEST(WireControl, AddressesArrive) {
  const std::string bytes("\0\xff not text", 11);
  LoadProgress progress{"a", 1, 2, false, true, 3, {}, {{1, bytes}, {4, std::string(kMaxAddressBytes, 'x')}}};
  proto::LoadModelProgress message;
  ToProto(progress, &message);
  const auto back = FromProto(message);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->addresses.size(), 2u);
  EXPECT_EQ(back->addresses[0].rank, 1);
  EXPECT_EQ(back->addresses[0].bytes, bytes);
  EXPECT_EQ(back->addresses[1].bytes.size(), kMaxAddressBytes);
  const auto connect = DecodeConnect(EncodeConnect({7, UINT64_MAX, {{0, bytes}, {1, "b"}}}));
  ASSERT_TRUE(connect.ok()) << connect.status();
  EXPECT_EQ(connect->epoch, 7u);
  EXPECT_EQ(connect->coordinator, UINT64_MAX);
  ASSERT_EQ(connect->ranks.size(), 2u);
  EXPECT_EQ(connect->ranks[0].bytes, bytes);
  EXPECT_EQ(connect->ranks[1].rank, 1);
}

TEST(WireControl, RefusesAddressesThatAreNone) {
  const auto published = [](int32_t rank, size_t bytes, int count = 1) {
    proto::LoadModelProgress message;
    for (int i = 0; i < count; ++i) {
      message.add_addresses()->set_rank(rank);
      message.mutable_addresses(i)->set_address(std::string(bytes, 'x'));
    }
    return FromProto(message).ok();
  };
  EXPECT_TRUE(published(0, 1));
  EXPECT_FALSE(published(-1, 1));
  EXPECT_FALSE(published(0, 0));
  EXPECT_FALSE(published(0, kMaxAddressBytes + 1));
  EXPECT_TRUE(published(0, 1, 1024));
  EXPECT_FALSE(published(0, 1, 1025));
  const auto connects = [](std::vector<int32_t> ranks) {
    ConnectRanks connect{1, 1, {}};
    for (const int32_t rank : ranks) connect.ranks.push_back({rank, "x"});
    return DecodeConnect(EncodeConnect(connect)).ok();
  };
  EXPECT_TRUE(connects({0, 1, 2}));
  EXPECT_FALSE(connects({0, 2}));
  EXPECT_FALSE(connects({1, 0}));
  EXPECT_FALSE(connects({0, 0}));
  EXPECT_EQ(DecodeConnect("\xff\xff").status().code(), absl::StatusCode::kDataLoss);
}

TEST(RankState, HasADifferentNameForEach) {
  EXPECT_EQ(RankStateName(RankState::kReady), "ready");
  EXPECT_EQ(RankStateName(RankState::kDead), "dead");
  EXPECT_NE(RankStateName(RankState::kStarting), RankStateName(RankState::kLoading));
}

TEST(WireControl, RefusesNonsense) {
  proto::JoinGroupRequest join;
  join.set_tp(2), join.set_pp(2);
  EXPECT_EQ(FromProto(join).status().code(), absl::StatusCode::kInvalidArgument);
  join.set_tp(1 << 30), join.set_pp(4);
  EXPECT_EQ(FromProto(join).status().code(), absl::StatusCode::kInvalidArgument);
  proto::Heartbeat beat;
  beat.add_ranks()->set_state(99);
  EXPECT_EQ(FromProto(beat).status().code(), absl::StatusCode::kInvalidArgument);
  beat.mutable_ranks(0)->set_state(1);
  for (int i = 0; i < 16; ++i) beat.mutable_ranks(0)->add_comm_bytes();
  EXPECT_TRUE(FromProto(beat).ok());
  beat.mutable_ranks(0)->add_comm_bytes();
  EXPECT_EQ(FromProto(beat).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FromProto(proto::AgentInfo()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(WireControl, LoadProgressNamesTheCaches) {
  const LoadProgress in = {"a", 5, 5, true, true, 0, {{2, UINT64_MAX}, {3, 7}}, {}};
  proto::LoadModelProgress proto;
  ToProto(in, &proto);
  const absl::StatusOr<LoadProgress> out = FromProto(proto);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->caches, in.caches);
}

TEST(WireControl, RefusesNumbersThatWouldOverflow) {
  proto::AgentInfo agent;
  agent.set_id("a"), agent.set_address("127.0.0.1:1");
  agent.set_highest_epoch((uint64_t{1} << 63) - 1);
  EXPECT_TRUE(FromProto(agent).ok());
  for (const uint64_t epoch : {uint64_t{1} << 63, UINT64_MAX}) {
    agent.set_highest_epoch(epoch);
    EXPECT_EQ(FromProto(agent).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const auto load = [](int64_t done, int64_t total, int64_t read) {
    proto::LoadModelProgress progress;
    progress.set_bytes_done(done), progress.set_bytes_total(total), progress.set_bytes_read(read);
    return FromProto(progress).ok();
  };
  EXPECT_TRUE(load(0, int64_t{1} << 50, 1));
  EXPECT_FALSE(load(-1, 5, 5));
  EXPECT_FALSE(load(5, -1, 5));
  EXPECT_FALSE(load(5, 5, -1));
  EXPECT_FALSE(load(INT64_MAX, 5, 5));
  EXPECT_FALSE(load(5, INT64_MAX, 5));
  EXPECT_FALSE(load(5, 5, INT64_MAX));
}

}  // namespace
}  // namespace shoal::plan
