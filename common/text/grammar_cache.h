// Compiled grammars by the bytes of their specs, as many as fit in a number of bytes; the longest unused goes first.
// Thread-safe. Two threads that miss the same spec both compile it; one of the two results stays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/text/grammar.h"

namespace shoal::text {

class GrammarCache {
 public:
  GrammarCache(std::shared_ptr<const GrammarCompiler> compiler, const GrammarLimits& limits, size_t most_bytes)
      : compiler_(std::move(compiler)), limits_(limits), most_bytes_(most_bytes) {}

  // Compiles when it has none. Errors are the compiler's, and are not kept.
  absl::StatusOr<std::shared_ptr<const Grammar>> Get(const GrammarSpec& spec);

  struct Stats {
    size_t entries = 0, bytes = 0;
    uint64_t hits = 0, misses = 0;
  };
  Stats stats() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const Grammar> grammar;
    size_t bytes;  // as last asked: grammars grow
  };
  void EvictUntilItFits() SHOAL_REQUIRES(mutex_);

  // Constant.
  const std::shared_ptr<const GrammarCompiler> compiler_;
  const GrammarLimits limits_;
  const size_t most_bytes_;

  mutable Mutex mutex_;
  std::list<Entry> entries_ SHOAL_GUARDED_BY(mutex_);  // the last used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_ SHOAL_GUARDED_BY(mutex_);
  size_t bytes_ SHOAL_GUARDED_BY(mutex_) = 0;
  uint64_t hits_ SHOAL_GUARDED_BY(mutex_) = 0;
  uint64_t misses_ SHOAL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shoal::text
