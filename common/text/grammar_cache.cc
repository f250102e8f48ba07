// Least-recently-used eviction by bytes.
#include "common/text/grammar_cache.h"

#include <utility>

namespace shoal::text {

absl::StatusOr<std::shared_ptr<const Grammar>> GrammarCache::Get(const GrammarSpec& spec) {
  std::string key = spec.Key();
  std::shared_ptr<const Grammar> found;
  {
    MutexLock lock(mutex_);
    const auto it = by_key_.find(key);
    if (it != by_key_.end() && !it->second->grammar->is_broken()) {
      entries_.splice(entries_.begin(), entries_, it->second);
      found = it->second->grammar;
      ++hits_;
    } else {
      ++misses_;
    }
  }
  if (found == nullptr) {
    absl::StatusOr<std::shared_ptr<const Grammar>> made = compiler_->Compile(spec, limits_);
    if (!made.ok()) return made.status();
    found = *std::move(made);
  }
  const size_t bytes = found->bytes() + 2 * key.size();  // may wait for a mask: not under the lock

  MutexLock lock(mutex_);
  const auto it = by_key_.find(key);
  if (it != by_key_.end()) {
    bytes_ += bytes - it->second->bytes;
    it->second->grammar = found;
    it->second->bytes = bytes;
  } else {
    entries_.push_front({key, found, bytes});
    by_key_.emplace(std::move(key), entries_.begin());
    bytes_ += bytes;
  }
  EvictUntilItFits();
  return found;
}

void GrammarCache::EvictUntilItFits() {
  while (bytes_ > most_bytes_ && !entries_.empty()) {
    bytes_ -= entries_.back().bytes;
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

GrammarCache::Stats GrammarCache::stats() const {
  MutexLock lock(mutex_);
  return {.entries = entries_.size(), .bytes = bytes_, .hits = hits_, .misses = misses_};
}

}  // namespace shoal::text
