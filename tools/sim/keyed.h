// Requests that bring a key: clients that ask until they have an answer, and what the coordinator's process does for
// them around the real journal, as coordinator/http/idempotency does: begun on disk before they are executed, ended on
// disk before anybody gets the answer, begun again by the next process. The process may end at any write or sync.
// Every execution has an answer of its own, so that a second one would show. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/journal/batch.h"
#include "tools/sim/virtual_cluster.h"
#include "tools/sim/virtual_disk.h"

namespace shoal::sim {

class Keyed {
 public:
  static constexpr core::RequestId kFirstId = 2'000'000;  // of executions

  struct Hooks {
    std::function<void()> died;                                    // at a write or sync: end the coordinator
    std::function<void(const core::GenerateRequest&)> on_execute;  // before it is submitted
  };
  Keyed(VirtualCluster* cluster, Hooks hooks);

  // A client asks, and asks again whenever it gets no answer. One that does not `insist` asks once. The same key has
  // the same request every time.
  void Ask(int key, const core::GenerateRequest& request, bool insist = true);

  // --- The coordinator's process ---
  bool Open();            // before the core starts; false: it died in the middle of it
  void Crash(Left left);  // it has ended: by Hooks::died, or of something else; then `left` counts
  VirtualDisk& disk() { return disk_; }

  void Drain();                                                       // 503 is no end any more, and nobody asks again
  void End(const core::FinishRequest& finish, const Answer& answer);  // of an execution

  // Nobody waits, and nothing of an earlier process is left.
  bool settled() const;
  // Once settled: asks for every key once more, and says what is wrong when all of that is answered.
  void AskForAll();
  std::vector<std::string> Judge() const;
  int executions() const { return static_cast<int>(next_id_ - kFirstId); }
  int answers_from_journal() const { return replayed_; }

 private:
  struct Client {
    int key = 0;
    bool insists = false;
    std::string answer;
  };
  using ClientPtr = std::shared_ptr<Client>;
  struct Key {
    core::GenerateRequest request;
    std::set<std::string> answers;  // that clients got
    bool promised = false;          // accepted, on disk, and not freed since
    int deaths = 0;                 // of processes, since it was asked for
  };
  struct Execution {
    int key;
    bool resumed;
  };

  bool lives() const { return store_ != nullptr && cluster_->coordinator_up(); }
  void Send(const ClientPtr& client);
  void Again(const ClientPtr& client);
  void CommitSoon();
  void Commit();
  void Begun(const ClientPtr& client, const journal::Begun& begun);
  void Execute(int key, bool resumed);
  void Ended(int key, bool resumed, const std::string& answer);
  void Tell(int key, const std::string& answer);  // empty: ask again
  void Resume();
  void ResumeNext();
  void BegunAgain(int key, const absl::StatusOr<journal::Again>& again);

  VirtualCluster* const cluster_;
  const Hooks hooks_;
  VirtualDisk disk_;
  std::map<int, Key> keys_;
  std::vector<ClientPtr> clients_;
  core::RequestId next_id_ = kFirstId;
  bool draining_ = false;
  int replayed_ = 0;
  // Of the process:
  uint64_t process_ = 0;
  std::unique_ptr<journal::Store> store_;
  journal::Batch batch_;
  bool committing_ = false;
  std::map<core::RequestId, Execution> executions_;
  std::vector<ClientPtr> asking_;  // it is not known yet what the journal says
  std::map<int, std::vector<ClientPtr>> waiters_;
  std::deque<int> left_;  // by an earlier process, not begun again yet
};

}  // namespace shoal::sim
