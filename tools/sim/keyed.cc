// Tested by: tests/sim/keyed_test.cc
#include "tools/sim/keyed.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal::sim {
namespace {

constexpr DurationNs kPatience = 200 * kMillisecond;  // of a client, before it asks again
constexpr int kMaxSuspects = 3;                       // as in coordinator/http/idempotency

journal::Digest DigestOf(int key) {
  journal::Digest digest{};
  for (int i = 0; i < 4; ++i) digest[i] = static_cast<uint8_t>(key >> (8 * i));
  digest[31] = 1;
  return digest;
}

int KeyOf(const journal::Digest& digest) {
  int key = 0;
  for (int i = 0; i < 4; ++i) key |= digest[i] << (8 * i);
  return key;
}

std::string BytesOf(const core::GenerateRequest& r) {
  return absl::StrCat(absl::StrJoin(r.prompt, " "), " max ", r.max_tokens, " seed ", r.sampling.seed, " at ",
                      r.sampling.temperature, " stop ", absl::StrJoin(r.stop_tokens, " "), " choices ", r.n);
}

}  // namespace

Keyed::Keyed(VirtualCluster* cluster, Hooks hooks) : cluster_(cluster), hooks_(std::move(hooks)) {}

// --- Clients ---

void Keyed::Ask(int key, const core::GenerateRequest& request, bool insist) {
  keys_[key].request = request;
  const auto client = std::make_shared<Client>();
  client->key = key;
  client->insists = insist;
  clients_.push_back(client);
  Send(client);
}

void Keyed::Send(const ClientPtr& client) {
  if (!lives()) return Again(client);
  const journal::Digest id = DigestOf(client->key);
  asking_.push_back(client);
  batch_.Begin(id, id, BytesOf(keys_[client->key].request),
               [this, client](const journal::Begun& begun) { Begun(client, begun); });
  CommitSoon();
}

void Keyed::Again(const ClientPtr& client) {
  if (!client->insists || draining_) return;
  cluster_->At(cluster_->now() + kPatience, [this, client] { Send(client); });
}

void Keyed::Tell(int key, const std::string& answer) {
  for (const ClientPtr& client : std::exchange(waiters_[key], {})) {
    if (answer.empty()) {
      Again(client);
      continue;
    }
    client->answer = answer;
    keys_[key].answers.insert(answer);
  }
}

// --- The process ---

bool Keyed::Open() {
  ++process_;
  absl::StatusOr<std::unique_ptr<journal::Store>> store = journal::Store::Open(disk_.Options());
  if (disk_.ended()) {
    store = absl::CancelledError();  // nobody has its files open any more
    disk_.Restart();
    return false;
  }
  if (!store.ok()) {
    cluster_->world().Problem(absl::StrCat("the journal does not open: ", store.status().ToString()));
    return false;
  }
  store_ = *std::move(store);
  for (const journal::Digest& id : store_->Unfinished()) left_.push_back(KeyOf(id));
  for (const auto& [key, facts] : keys_) {
    if (!facts.promised) continue;
    const bool waits = std::find(left_.begin(), left_.end(), key) != left_.end();
    const journal::Digest id = DigestOf(key);
    if (waits || store_->Begin(id, id, "").outcome == journal::Begun::Outcome::kFinished) continue;
    cluster_->world().Problem(absl::StrCat("key ", key, " was accepted, and the next process knows nothing of it"));
  }
  Resume();
  return true;
}

void Keyed::Crash(Left left) {
  if (store_ == nullptr) return;
  ++process_;
  disk_.End(left);
  store_.reset();
  disk_.Restart();
  batch_ = {};
  committing_ = false;
  executions_.clear();
  left_.clear();
  for (auto& [key, facts] : keys_) ++facts.deaths;
  for (const auto& [key, clients] : std::exchange(waiters_, {})) {
    for (const ClientPtr& client : clients) Again(client);
  }
  // Who had asked and was not yet in the journal has lost the connection, too.
  for (const ClientPtr& client : std::exchange(asking_, {})) Again(client);
}

void Keyed::CommitSoon() {
  if (std::exchange(committing_, true)) return;
  const DurationNs takes = cluster_->world().Between(50 * kMicrosecond, 2 * kMillisecond);
  cluster_->At(cluster_->now() + takes, [this, process = process_] {
    if (process == process_) Commit();
  });
}

void Keyed::Commit() {
  if (cluster_->coordinator_frozen()) {
    return cluster_->At(cluster_->now() + 20 * kMillisecond, [this, process = process_] {
      if (process == process_) Commit();
    });
  }
  committing_ = false;
  journal::Batch batch;
  batch.swap(batch_);
  batch.Tell(*store_, batch.Write(*store_));
  if (disk_.ended()) hooks_.died();
}

void Keyed::Begun(const ClientPtr& client, const journal::Begun& begun) {
  if (disk_.ended()) return;
  using Outcome = journal::Begun::Outcome;
  const int key = client->key;
  std::erase(asking_, client);
  switch (begun.outcome) {
    case Outcome::kAccepted:
      keys_[key].promised = true;
      waiters_[key].push_back(client);
      return Execute(key, /*resumed=*/false);
    case Outcome::kRunning:
      return waiters_[key].push_back(client);
    case Outcome::kFinished:
      ++replayed_;
      client->answer = begun.answer;
      keys_[key].answers.insert(begun.answer);
      return;
    default:
      cluster_->world().Problem(absl::StrCat("key ", key, " is refused: ", begun.error.ToString()));
  }
}

void Keyed::Execute(int key, bool resumed) {
  core::GenerateRequest request = keys_[key].request;
  request.id = next_id_++;
  executions_[request.id] = {key, resumed};
  hooks_.on_execute(request);
  cluster_->Submit(request);
}

void Keyed::End(const core::FinishRequest& finish, const Answer& answer) {
  const auto it = executions_.find(finish.id);
  if (it == executions_.end()) return;
  const Execution execution = it->second;
  executions_.erase(it);
  std::string text;
  if (finish.error.ok()) {
    text = absl::StrCat("200 of ", finish.id, ": ", absl::StrJoin(answer.tokens, " "));
    for (const auto& [choice, tokens] : answer.others) {
      absl::StrAppend(&text, ", choice ", choice, ": ", absl::StrJoin(tokens, " "));
    }
  } else if (!absl::IsUnavailable(finish.error) && !absl::IsResourceExhausted(finish.error)) {
    text = absl::StrCat("500 of ", finish.id);
  }
  Ended(execution.key, execution.resumed, text);
}

void Keyed::Ended(int key, bool resumed, const std::string& answer) {
  const journal::Digest id = DigestOf(key);
  if (!answer.empty()) {
    batch_.Finish(id, answer, [this, key, answer](const absl::Status& kept) {
      if (disk_.ended()) return;
      if (!kept.ok())
        cluster_->world().Problem(absl::StrCat("the answer to key ", key, " is not kept: ", kept.ToString()));
      Tell(key, answer);
    });
  } else if (draining_) {
    Tell(key, "");
  } else {
    keys_[key].promised = false;
    batch_.Forget(id, [this, key] {
      if (!disk_.ended()) Tell(key, "");
    });
  }
  CommitSoon();
  if (resumed) ResumeNext();
}

// What an earlier process accepted is executed one after the other, once there is a group.
void Keyed::Resume() {
  if (left_.empty()) return;
  cluster_->At(cluster_->now() + 50 * kMillisecond, [this, process = process_] {
    if (process != process_) return;
    const bool ready = lives() && cluster_->state().phase == core::ClusterState::Phase::kReady;
    ready && !cluster_->coordinator_frozen() ? ResumeNext() : Resume();
  });
}

void Keyed::ResumeNext() {
  if (left_.empty()) return;
  const int key = left_.front();
  left_.pop_front();
  batch_.BeginAgain(DigestOf(key), /*suspect=*/true,
                    [this, key](const absl::StatusOr<journal::Again>& again) { BegunAgain(key, again); });
  CommitSoon();
}

void Keyed::BegunAgain(int key, const absl::StatusOr<journal::Again>& again) {
  if (disk_.ended()) return;
  if (!again.ok() || again->request != BytesOf(keys_[key].request)) {
    return cluster_->world().Problem(absl::StrCat("key ", key, " begins again as something else"));
  }
  if (again->suspects < kMaxSuspects) return Execute(key, /*resumed=*/true);
  if (keys_[key].deaths < kMaxSuspects) cluster_->world().Problem(absl::StrCat("key ", key, " counts as poison"));
  Ended(key, /*resumed=*/true, "500 poisoned");
}

// --- The end ---

bool Keyed::settled() const {
  return left_.empty() && executions_.empty() && batch_.empty() && !committing_ &&
         std::all_of(clients_.begin(), clients_.end(),
                     [](const ClientPtr& client) { return !client->insists || !client->answer.empty(); });
}

void Keyed::Drain() {
  draining_ = true;
  disk_.EndAt(0, Left::kAll);
}

void Keyed::AskForAll() {
  for (const auto& [key, facts] : keys_) Ask(key, core::GenerateRequest(facts.request));
}

std::vector<std::string> Keyed::Judge() const {
  std::vector<std::string> wrong;
  for (const auto& [key, facts] : keys_) {
    if (facts.answers.size() == 1 || (facts.answers.empty() && draining_)) continue;
    wrong.push_back(
        absl::StrCat("key ", key, " has ", facts.answers.size(), " answers: ", absl::StrJoin(facts.answers, " and ")));
  }
  return wrong;
}

}  // namespace shoal::sim
