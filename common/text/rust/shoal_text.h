/* The C face of the Rust half: tokenizers, chat templates and grammars. Used by the C++ files of common/text only.
 *
 * Handles, matchers apart, are immutable once created and may be used from many threads at once. No entry unwinds or
 * aborts on bad input: each returns a code and, when it is not SHOAL_TEXT_OK, hands a message (UTF-8, not terminated)
 * to the error sink once. Sinks are called on the calling thread, before the entry returns; what they are given dies
 * when they return. */
#ifndef SHOAL_TEXT_H_
#define SHOAL_TEXT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ShoalTokenizer ShoalTokenizer;
typedef struct ShoalTemplate ShoalTemplate;

/* Borrowed bytes; data may be null when size is 0. */
typedef struct {
  const char* data;
  size_t size;
} ShoalStr;

enum {
  SHOAL_TEXT_OK = 0,
  SHOAL_TEXT_INVALID = 1,     /* the caller's data is wrong */
  SHOAL_TEXT_EXHAUSTED = 2,   /* a template ran past its limits */
  SHOAL_TEXT_UNSUPPORTED = 3, /* understood, but not something this library does */
  SHOAL_TEXT_INTERNAL = 4     /* a panic: our bug */
};

typedef struct {
  void* context;
  void (*write)(void* context, const char* data, size_t size);
} ShoalBytesSink;

typedef struct {
  void* context;
  void (*write)(void* context, const int32_t* ids, size_t count);
} ShoalIdSink;

typedef struct {
  void* context;
  void (*piece)(void* context, const char* data, size_t size, int32_t plain);
} ShoalPieceSink;

/* Formats the caller's current local time with a strftime format (not terminated); returns the bytes written to `out`,
 * or -1 when the format is not understood or the result does not fit. */
typedef struct {
  void* context;
  ptrdiff_t (*format)(void* context, const char* format, size_t size, char* out, size_t capacity);
} ShoalTimeFormat;

/* tokenizer.ggml.* of a GGUF file. token_types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
 * add_bos: 0, 1, or -1 when the file does not say. Ids are -1 when there is none. */
typedef struct {
  ShoalStr model;
  ShoalStr pre;
  const ShoalStr* tokens;     /* [token_count] */
  const int32_t* token_types; /* [token_count] */
  size_t token_count;
  const ShoalStr* merges; /* [merge_count] */
  size_t merge_count;
  int32_t add_bos;
  int32_t bos;
  int32_t eos;
  int32_t unk;
} ShoalGgufVocab;

int32_t shoal_tokenizer_from_json(ShoalStr json, ShoalTokenizer** out, ShoalBytesSink error);
int32_t shoal_tokenizer_from_gguf(const ShoalGgufVocab* vocab, ShoalTokenizer** out, ShoalBytesSink error);
void shoal_tokenizer_free(ShoalTokenizer* tokenizer);

int32_t shoal_tokenizer_encode(const ShoalTokenizer* tokenizer, ShoalStr text, int32_t with_control, int32_t add_bos,
                               ShoalIdSink ids, ShoalBytesSink error);
int32_t shoal_tokenizer_vocab_size(const ShoalTokenizer* tokenizer);
int32_t shoal_tokenizer_is_control(const ShoalTokenizer* tokenizer, int32_t id);
/* -1 when there is none. */
int32_t shoal_tokenizer_token_id(const ShoalTokenizer* tokenizer, ShoalStr spelling);
/* Lives as long as the tokenizer. Empty for ids outside the vocabulary. */
ShoalStr shoal_tokenizer_token_bytes(const ShoalTokenizer* tokenizer, int32_t id);
/* How many spaces at the very start of a text the model's own decoder takes away. */
int32_t shoal_tokenizer_leading_spaces(const ShoalTokenizer* tokenizer);
/* Which way text is split: 1 when a built-in scanner does it, 0 when the tokenizer's own regular expressions do. */
int32_t shoal_tokenizer_uses_scanner(const ShoalTokenizer* tokenizer);

int32_t shoal_template_create(ShoalStr source, ShoalStr bos_token, ShoalStr eos_token,
                              const ShoalStr* control_spellings, size_t control_count, ShoalTemplate** out,
                              ShoalBytesSink error);
void shoal_template_free(ShoalTemplate* chat_template);
int32_t shoal_template_render(const ShoalTemplate* chat_template, ShoalStr context_json, ShoalTimeFormat now,
                              ShoalPieceSink pieces, ShoalBytesSink error);

/* Grammars. The contract is common/text/grammar.h. */
typedef struct ShoalGrammarCompiler ShoalGrammarCompiler;
typedef struct ShoalGrammar ShoalGrammar;
typedef struct ShoalMatcher ShoalMatcher; /* one thread at a time */

enum {
  SHOAL_GRAMMAR_JSON_OBJECT = 0,
  SHOAL_GRAMMAR_JSON_SCHEMA = 1, /* text */
  SHOAL_GRAMMAR_REGEX = 2,       /* text */
  SHOAL_GRAMMAR_CHOICE = 3,      /* items */
  SHOAL_GRAMMAR_LARK = 4,        /* text */
  SHOAL_GRAMMAR_CALLS = 5        /* items: name, schema of the parameters, name, schema, ...; and calls */
};

/* first, then before CALL after, between, before CALL after, ..., last. */
typedef struct {
  ShoalStr first, before, after, between, last;
  ShoalStr arguments_key;
  uint32_t most;         /* calls; 0: any number */
  int32_t optional;      /* text without a call is fine */
  int32_t only_at_start; /* text is told from calls by its first character */
  int32_t repeats;       /* text and calls alternate */
} ShoalCallShape;

typedef struct {
  int32_t kind;
  int32_t white_space; /* in JSON: 0 none, 1 one space after : and comma, 2 any */
  ShoalStr text;
  const ShoalStr* items; /* [item_count] */
  size_t item_count;
  ShoalStr after; /* any text up to and with this marker comes first; empty: none */
  ShoalCallShape calls;
} ShoalGrammarSpec;

typedef struct {
  uint64_t bytes, depth, nodes, compile_fuel, step_fuel, step_items, states;
} ShoalGrammarLimits;

/* `tokens` [count]: the bytes of each id, empty for ids that never may come; `control` [count]: 1 for control tokens.
 */
int32_t shoal_grammar_compiler_create(const ShoalStr* tokens, const uint8_t* control, size_t count,
                                      const uint32_t* ends, size_t end_count, ShoalGrammarCompiler** out,
                                      ShoalBytesSink error);
void shoal_grammar_compiler_free(ShoalGrammarCompiler* compiler);
size_t shoal_grammar_compiler_bytes(const ShoalGrammarCompiler* compiler);
int32_t shoal_grammar_compile(const ShoalGrammarCompiler* compiler, const ShoalGrammarSpec* spec,
                              const ShoalGrammarLimits* limits, ShoalGrammar** out, ShoalBytesSink error);
void shoal_grammar_free(ShoalGrammar* grammar);
/* Grows with use. */
size_t shoal_grammar_bytes(const ShoalGrammar* grammar);
/* 1 after a panic, which leaves it unusable. */
int32_t shoal_grammar_is_broken(const ShoalGrammar* grammar);

/* Grammars and matchers keep what they need of what they were made from. */
int32_t shoal_matcher_create(const ShoalGrammar* grammar, ShoalMatcher** out, ShoalBytesSink error);
int32_t shoal_matcher_copy(const ShoalMatcher* matcher, ShoalMatcher** out, ShoalBytesSink error);
void shoal_matcher_free(ShoalMatcher* matcher);
int32_t shoal_matcher_accept(ShoalMatcher* matcher, uint32_t token, ShoalBytesSink error);
int32_t shoal_matcher_mask(ShoalMatcher* matcher, uint32_t* words, size_t count, ShoalBytesSink error);
int32_t shoal_matcher_can_end(ShoalMatcher* matcher, int32_t* out, ShoalBytesSink error);

#ifdef __cplusplus
}
#endif

#endif /* SHOAL_TEXT_H_ */
