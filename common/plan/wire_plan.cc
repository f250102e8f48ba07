// Plans and results as bytes of plan.proto.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "common/plan/wire.h"
#include "plan.pb.h"

namespace shoal::plan {
namespace {

// Centuries: sums and differences of a few times stay far from overflow.
constexpr int64_t kMaxTime = int64_t{1} << 61;

// More than any plan or result can hold; a longer message is not ours.
constexpr size_t kMaxMessageBytes = 64 << 20;

template <typename Message>
absl::StatusOr<Message> Parse(std::string_view bytes) {
  Message message;
  if (bytes.size() > kMaxMessageBytes || !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError(
        absl::StrCat(Message::descriptor()->name(), ": ", bytes.size(), " bytes that are not such a message"));
  }
  return message;
}

template <typename Message>
std::string Serialise(const Message& message) {
  std::string bytes;
  message.SerializeToString(&bytes);
  return bytes;
}

template <typename Enum, typename ProtoEnum>
absl::StatusOr<Enum> ToEnum(ProtoEnum value, int last, const char* what) {
  if (static_cast<int>(value) < 0 || static_cast<int>(value) > last) {
    return absl::InvalidArgumentError(absl::StrCat("unknown ", what, " ", static_cast<int>(value)));
  }
  return static_cast<Enum>(value);
}

void Put(const Stamp& in, proto::Stamp* out) {
  out->set_epoch(in.epoch);
  out->set_incarnation(in.incarnation);
  out->set_step(in.step);
}

Stamp Get(const proto::Stamp& in) { return {in.epoch(), in.incarnation(), in.step()}; }

void Put(const SamplingParams& in, proto::SamplingParams* out) {
  out->set_temperature(in.temperature);
  out->set_top_k(in.top_k);
  out->set_top_p(in.top_p);
  out->set_min_p(in.min_p);
  out->set_seed(in.seed);
  out->set_choice(in.choice);
  out->set_repetition_penalty(in.repetition_penalty);
  out->set_presence_penalty(in.presence_penalty);
  out->set_frequency_penalty(in.frequency_penalty);
  out->set_min_tokens(in.min_tokens);
  out->set_grammar(in.grammar);
  out->mutable_end_tokens()->Add(in.end_tokens.begin(), in.end_tokens.end());
  for (const TokenBias& b : in.biases) {
    out->add_bias_tokens(b.token);
    out->add_biases(b.bias);
  }
  out->mutable_allowed_tokens()->Add(in.allowed_tokens.begin(), in.allowed_tokens.end());
  for (const std::vector<int32_t>& word : in.bad_words) {
    out->mutable_bad_word_tokens()->Add(word.begin(), word.end());
    out->add_bad_words(static_cast<uint32_t>(word.size()));
  }
  out->set_logprobs(static_cast<uint32_t>(in.logprobs) + 1);
  out->set_prompt_logprobs(static_cast<uint32_t>(in.prompt_logprobs) + 1);
}

absl::Status GetLists(const proto::SamplingParams& in, SamplingParams* out) {
  out->end_tokens.assign(in.end_tokens().begin(), in.end_tokens().end());
  out->allowed_tokens.assign(in.allowed_tokens().begin(), in.allowed_tokens().end());
  if (in.bias_tokens_size() != in.biases_size()) {
    return absl::InvalidArgumentError("as many biases as tokens that have one are needed");
  }
  for (int i = 0; i < in.biases_size(); ++i) {
    if (!std::isfinite(in.biases(i))) return absl::InvalidArgumentError("a bias is not finite");
    out->biases.push_back({in.bias_tokens(i), in.biases(i)});
  }
  int64_t left = in.bad_word_tokens_size();
  auto next = in.bad_word_tokens().begin();
  for (const uint32_t size : in.bad_words()) {
    if (size > left) return absl::InvalidArgumentError("bad words have more tokens than came");
    out->bad_words.emplace_back(next, next + size);
    next += size;
    left -= size;
  }
  if (left != 0) return absl::InvalidArgumentError("bad words have fewer tokens than came");
  return absl::OkStatus();
}

absl::StatusOr<SamplingParams> Get(const proto::SamplingParams& in) {
  for (float f : {in.temperature(), in.top_p(), in.min_p(), in.repetition_penalty(), in.presence_penalty(),
                  in.frequency_penalty()}) {
    if (!std::isfinite(f)) return absl::InvalidArgumentError("a sampling parameter is not finite");
  }
  SamplingParams out;
  out.temperature = in.temperature();
  out.top_k = in.top_k();
  out.top_p = in.top_p();
  out.min_p = in.min_p();
  out.seed = in.seed();
  out.choice = in.choice();
  out.repetition_penalty = in.repetition_penalty();
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  out.min_tokens = in.min_tokens();
  out.grammar = in.grammar();
  out.logprobs = static_cast<int32_t>(in.logprobs() - 1);
  out.prompt_logprobs = static_cast<int32_t>(in.prompt_logprobs() - 1);
  SHOAL_RETURN_IF_ERROR(GetLists(in, &out));
  return out;
}

void Put(const SequenceStart& in, proto::SequenceStart* out) {
  out->set_id(in.id);
  out->mutable_tokens()->Add(in.tokens.begin(), in.tokens.end());
  out->set_prompt_tokens(in.prompt_tokens);
  Put(in.sampling, out->mutable_sampling());
  out->mutable_blocks()->Add(in.blocks.begin(), in.blocks.end());
  out->set_kv_tokens(in.kv_tokens);
}

absl::StatusOr<SequenceStart> Get(const proto::SequenceStart& in) {
  SequenceStart out;
  out.id = in.id();
  out.tokens.assign(in.tokens().begin(), in.tokens().end());
  out.prompt_tokens = in.prompt_tokens();
  SHOAL_ASSIGN_OR_RETURN(out.sampling, Get(in.sampling()));
  out.blocks.assign(in.blocks().begin(), in.blocks().end());
  out.kv_tokens = in.kv_tokens();
  return out;
}

absl::StatusOr<Row> Get(const proto::Row& in) {
  Row out;
  out.id = in.id();
  SHOAL_ASSIGN_OR_RETURN(out.source, ToEnum<TokenSource>(in.source(), proto::TokenSource_MAX, "token source"));
  out.position = in.position();
  out.count = in.count();
  SHOAL_ASSIGN_OR_RETURN(out.output, ToEnum<RowOutput>(in.output(), proto::RowOutput_MAX, "row output"));
  out.adapter = in.adapter();
  return out;
}

void Put(const Row& in, proto::Row* out) {
  out->set_id(in.id);
  out->set_source(static_cast<proto::TokenSource>(in.source));
  out->set_position(in.position);
  out->set_count(in.count);
  out->set_output(static_cast<proto::RowOutput>(in.output));
  out->set_adapter(in.adapter);
}

void Put(const std::vector<TokenLogprobs>& in, proto::RowResult* out) {
  for (const TokenLogprobs& t : in) {
    out->add_logprob_tokens(t.token);
    out->add_logprobs(t.logprob);
    out->add_ranks(t.rank);
    out->add_tops(static_cast<uint32_t>(t.top_ids.size()));
    out->mutable_top_ids()->Add(t.top_ids.begin(), t.top_ids.end());
    out->mutable_top_logprobs()->Add(t.top_logprobs.begin(), t.top_logprobs.end());
  }
}

// -Inf is a log-probability, too.
absl::Status GetLogprobs(const proto::RowResult& in, std::vector<TokenLogprobs>* out) {
  const auto refuse = [] { return absl::InvalidArgumentError("log-probabilities of a row do not fit together"); };
  const int count = in.logprob_tokens_size();
  if (in.logprobs_size() != count || in.ranks_size() != count || in.tops_size() != count ||
      in.top_ids_size() != in.top_logprobs_size()) {
    return refuse();
  }
  for (const auto& list : {in.logprobs(), in.top_logprobs()}) {
    for (const float f : list) {
      if (std::isnan(f)) return refuse();
    }
  }
  int64_t at = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t end = at + in.tops(i);
    if (end > in.top_ids_size()) return refuse();
    out->push_back({in.logprob_tokens(i),
                    in.logprobs(i),
                    in.ranks(i),
                    {in.top_ids().begin() + at, in.top_ids().begin() + end},
                    {in.top_logprobs().begin() + at, in.top_logprobs().begin() + end}});
    at = end;
  }
  return at == in.top_ids_size() ? absl::OkStatus() : refuse();
}

}  // namespace

std::string EncodePlan(const StepPlan& plan) {
  proto::StepPlan out;
  Put(plan.stamp, out.mutable_stamp());
  out.mutable_ends()->Add(plan.ends.begin(), plan.ends.end());
  for (const auto& s : plan.starts) Put(s, out.add_starts());
  for (const auto& b : plan.blocks_added) {
    auto* added = out.add_blocks_added();
    added->set_id(b.id);
    added->mutable_blocks()->Add(b.blocks.begin(), b.blocks.end());
  }
  for (const auto& c : plan.copies) {
    auto* copy = out.add_copies();
    copy->set_src(c.src);
    copy->set_dst(c.dst);
  }
  for (const auto& r : plan.rows) Put(r, out.add_rows());
  out.set_cohort(plan.cohort);
  out.set_mirror_digest(plan.mirror_digest);
  out.set_checksum(plan.checksum);
  out.set_bucket(plan.bucket);
  return Serialise(out);
}

absl::StatusOr<StepPlan> DecodePlan(std::string_view bytes) {
  SHOAL_ASSIGN_OR_RETURN(const auto in, Parse<proto::StepPlan>(bytes));
  StepPlan out;
  out.stamp = Get(in.stamp());
  out.ends.assign(in.ends().begin(), in.ends().end());
  for (const auto& s : in.starts()) {
    SHOAL_ASSIGN_OR_RETURN(out.starts.emplace_back(), Get(s));
  }
  for (const auto& b : in.blocks_added()) out.blocks_added.push_back({b.id(), {b.blocks().begin(), b.blocks().end()}});
  for (const auto& c : in.copies()) out.copies.push_back({c.src(), c.dst()});
  out.rows.reserve(static_cast<size_t>(in.rows_size()));
  for (const auto& r : in.rows()) {
    SHOAL_ASSIGN_OR_RETURN(out.rows.emplace_back(), Get(r));
  }
  out.cohort = in.cohort();
  out.mirror_digest = in.mirror_digest();
  out.checksum = in.checksum();
  out.bucket = in.bucket();
  return out;
}

std::string EncodeResult(const StepResult& result) {
  proto::StepResult out;
  Put(result.stamp, out.mutable_stamp());
  out.set_rank(result.rank);
  for (const auto& r : result.rows) {
    auto* row = out.add_rows();
    row->set_id(r.id);
    row->mutable_tokens()->Add(r.tokens.begin(), r.tokens.end());
    row->set_error(static_cast<proto::RowError>(r.error));
    Put(r.logprobs, row);
  }
  out.set_received_ns(result.times.received);
  out.set_started_ns(result.times.started);
  out.set_ended_ns(result.times.ended);
  out.set_waited_ns(result.times.waited);
  out.set_sampling_ns(result.times.sampling);
  out.set_checksum(result.checksum);
  out.set_error(ValidUtf8(result.error));
  return Serialise(out);
}

absl::StatusOr<StepResult> DecodeResult(std::string_view bytes) {
  SHOAL_ASSIGN_OR_RETURN(const auto in, Parse<proto::StepResult>(bytes));
  StepResult out;
  out.stamp = Get(in.stamp());
  out.rank = in.rank();
  for (const auto& r : in.rows()) {
    RowResult row{r.id(), {r.tokens().begin(), r.tokens().end()}, RowError::kNone, {}};
    SHOAL_ASSIGN_OR_RETURN(row.error, ToEnum<RowError>(r.error(), proto::RowError_MAX, "row error"));
    SHOAL_RETURN_IF_ERROR(GetLogprobs(r, &row.logprobs));
    out.rows.push_back(std::move(row));
  }
  out.times = {in.received_ns(), in.started_ns(), in.ended_ns(), in.waited_ns(), in.sampling_ns()};
  for (const int64_t t : {in.received_ns(), in.started_ns(), in.ended_ns(), in.waited_ns(), in.sampling_ns()}) {
    if (t < 0 || t > kMaxTime) return absl::InvalidArgumentError("a step's times are out of range");
  }
  out.checksum = in.checksum();
  out.error = in.error();
  return out;
}

}  // namespace shoal::plan
