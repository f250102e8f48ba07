// What is asked of a Store in one go: operations in order, one sync for all of them, then what each has to tell. Not
// thread-safe; the thread that has the store commits it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "coordinator/journal/store.h"

namespace shoal::journal {

class Batch {
 public:
  void Begin(const Digest& id, const Digest& fingerprint, std::string request, std::function<void(Begun)> done);
  // Of an entry that runs; once.
  void Finish(const Digest& id, std::string answer, std::function<void(absl::Status)> done);
  void Forget(const Digest& id, std::function<void()> done);
  void BeginAgain(const Digest& id, bool suspect, std::function<void(absl::StatusOr<Again>)> done);

  bool empty() const { return operations_.empty(); }
  void swap(Batch& other) { operations_.swap(other.operations_); }

  // All operations, and the sync: its outcome.
  absl::Status Write(Store& store) const;
  // Then the callbacks, in the order of the calls: what they tell is on disk, or they say what went wrong.
  void Tell(Store& store, const absl::Status& synced) const;

 private:
  // First on the store; then, with the outcome of the sync, the callback.
  struct Operation {
    std::function<void(Store&)> act;
    std::function<void(Store&, const absl::Status& synced)> tell;
  };
  std::vector<Operation> operations_;
};

}  // namespace shoal::journal
