// Grammars: which tokens may come next in an answer that must match a JSON schema, a regular expression, a list of
// choices, a grammar, or call functions. Knows tokens and bytes, nothing of requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/text/grammar_spec.h"
#include "common/text/tokenizer.h"

namespace shoal::text {

// What a grammar may cost, in units that do not depend on the machine. On 2 GHz, a million of compile_fuel are some 20
// ms, 200,000 of step_fuel and 50,000 of step_items some 17 ms.
struct GrammarLimits {
  uint64_t bytes = 256 << 10;         // of the spec
  uint64_t depth = 100;               // nesting of a schema's JSON
  uint64_t nodes = 100'000;           // values of a schema; symbols of the grammar that it becomes
  uint64_t compile_fuel = 1'000'000;  // nodes of regular expressions
  uint64_t step_fuel = 200'000;       // the same, for one mask
  uint64_t step_items = 50'000;       // parser items for one mask
  uint64_t states = 30'000;           // of the lexer, of 1 to 2 kB each
};

// The state of one sequence: a pure function of the grammar and the tokens accepted. One owner. After any error but
// Accept's InvalidArgument it is of no more use. ResourceExhausted: this place of the grammar is beyond its limits;
// Internal: a bug of ours, and the end of the grammar for all its sequences.
class Matcher {
 public:
  virtual ~Matcher() = default;
  // InvalidArgument, unchanged: the token may not come here.
  virtual absl::Status Accept(int32_t token) = 0;
  // Sets bit i % 32 of mask[i / 32] when token i may come, else clears it; mask: [MaskWords(vocab)]. At least one bit
  // is set: where the text is whole, those of all end tokens; once it has ended, only those. InvalidArgument: there is
  // no way on, the vocabulary cannot spell what the grammar wants.
  virtual absl::Status FillMask(std::span<uint32_t> mask) = 0;
  // Whether an end token may come. False when the state is in error.
  virtual bool CanEnd() = 0;
  virtual std::unique_ptr<Matcher> Clone() const = 0;
};

// Immutable but for what its lexer learns, which changes no mask; thread-safe.
class Grammar {
 public:
  virtual ~Grammar() = default;
  virtual std::unique_ptr<Matcher> NewMatcher() const = 0;
  // Held memory. Grows with use, to at most `states`.
  virtual size_t bytes() const = 0;
  // An Internal error happened: not to be used any more.
  virtual bool is_broken() const = 0;
};

// One model's. Immutable; thread-safe. Its grammars may outlive it.
class GrammarCompiler {
 public:
  // `vocab`: how many ids the model has logits for, more or fewer than the tokenizer's. Ids without a spelling are
  // never allowed, control tokens only where a grammar names them, `end_tokens` only where a text may end.
  static absl::StatusOr<std::shared_ptr<const GrammarCompiler>> Create(const Tokenizer& tokenizer, int vocab,
                                                                       const std::vector<int32_t>& end_tokens);
  virtual ~GrammarCompiler() = default;

  // InvalidArgument: malformed, allows nothing, or never ends. Unimplemented: understood, but not supported, named.
  // ResourceExhausted: beyond a limit, named. Takes milliseconds, and up to seconds at the limits: not for a thread
  // that others wait for.
  virtual absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const GrammarSpec& spec,
                                                                 const GrammarLimits& limits) const = 0;
  virtual absl::Duration creation_time() const = 0;
  virtual size_t bytes() const = 0;
};

}  // namespace shoal::text
