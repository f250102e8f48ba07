// Tested by: tests/journal/journal_test.cc
#include "coordinator/journal/batch.h"

#include <memory>
#include <utility>

namespace shoal::journal {

absl::Status Batch::Write(Store& store) const {
  for (const Operation& operation : operations_) operation.act(store);
  return store.Sync();
}

void Batch::Tell(Store& store, const absl::Status& synced) const {
  for (const Operation& operation : operations_) operation.tell(store, synced);
}

void Batch::Begin(const Digest& id, const Digest& fingerprint, std::string request, std::function<void(Begun)> done) {
  auto begun = std::make_shared<Begun>();
  operations_.push_back(
      {[=, request = std::move(request)](Store& store) { *begun = store.Begin(id, fingerprint, request); },
       [=, done = std::move(done)](Store& store, const absl::Status& synced) {
         // Found in the same round as the entry itself, what runs or has its answer is as uncertain as that.
         const bool counts = begun->outcome == Begun::Outcome::kAccepted ||
                             begun->outcome == Begun::Outcome::kRunning || begun->outcome == Begun::Outcome::kFinished;
         if (!synced.ok() && counts) {
           if (begun->outcome == Begun::Outcome::kAccepted) store.Undo(id);
           *begun = {Begun::Outcome::kFailed, {}, synced};
         }
         done(std::move(*begun));
       }});
}

void Batch::Finish(const Digest& id, std::string answer, std::function<void(absl::Status)> done) {
  auto finished = std::make_shared<absl::Status>();
  operations_.push_back({[=, answer = std::move(answer)](Store& store) { *finished = store.Finish(id, answer); },
                         [=, done = std::move(done)](Store& store, const absl::Status& synced) {
                           if (finished->ok() && !synced.ok()) {
                             store.Undo(id);
                             *finished = synced;
                           }
                           done(*finished);
                         }});
}

void Batch::Forget(const Digest& id, std::function<void()> done) {
  operations_.push_back(
      {[=](Store& store) { store.Forget(id); }, [done = std::move(done)](Store&, const absl::Status&) { done(); }});
}

void Batch::BeginAgain(const Digest& id, bool suspect, std::function<void(absl::StatusOr<Again>)> done) {
  auto begun = std::make_shared<absl::StatusOr<Again>>(absl::UnknownError(""));
  operations_.push_back({[=](Store& store) { *begun = store.BeginAgain(id, suspect); },
                         [=, done = std::move(done)](Store&, const absl::Status& synced) {
                           if (suspect && begun->ok() && !synced.ok()) *begun = synced;
                           done(std::move(*begun));
                         }});
}

}  // namespace shoal::journal
