//! A tokenizer's compiler, a compiled grammar, and the state of one sequence under it.

use super::lark::{self, Spec};
use super::memory::balance;
use crate::fail::{Code, Fail, Result};
use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{ParserFactory, TokenParser};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What a compilation may cost, in units that do not depend on the machine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Limits {
    pub bytes: u64,
    pub depth: u64,
    pub nodes: u64,
    pub compile_fuel: u64,
    pub step_fuel: u64,
    pub step_items: u64,
    pub states: u64,
}

/// Parsing and compiling recurse over what `bytes` and `depth` allow; the pages of a stack that are not used cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// The vocabulary as a trie of bytes. Forced text is left to the model to cut into tokens ("not canonical"), so a mask
/// depends on the grammar and the bytes so far and on nothing else.
struct Vocabulary {
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

pub struct Compiler {
    factory: ParserFactory,
    vocab_size: usize,
    ends: Arc<[u32]>,
    control: Vec<(String, u32)>, // spelling and id, longest first
    pub bytes: usize,
}

pub struct Grammar {
    /// The state before the first token. Its clones share its lexer, which learns (more states) as they go.
    start: Mutex<TokenParser>,
    shared: Arc<Shared>,
    fixed_bytes: usize,
    lexer_bytes_then: usize, // part of fixed_bytes
}

struct Shared {
    broken: AtomicBool, // a panic left the lexer unusable
    vocab_size: usize,
    ends: Arc<[u32]>,
}

pub struct Matcher {
    parser: TokenParser,
    shared: Arc<Shared>,
    ended: bool,
}

/// Sets of tokens that lexemes often allow as a whole, so that only the rest of the trie is walked: llguidance's own for
/// JSON strings, text without the beginnings of markers, and any text.
fn slices() -> Vec<String> {
    let mut slices = SlicedBiasComputer::json_slices();
    slices.push(r"[^<\[{]+".to_string());
    slices.push(r"(?s:.+)".to_string());
    slices
}

impl Compiler {
    /// `tokens`: the bytes of each id; empty for ids that no grammar may yield. `control`: those that text never spells.
    pub fn new(tokens: &[&[u8]], control: &[u8], ends: &[u32]) -> Result<Compiler> {
        let before = balance();
        let vocab_size = tokens.len();
        let mut words = Vec::with_capacity(vocab_size + 1);
        let mut spellings = Vec::new();
        for (id, bytes) in tokens.iter().enumerate() {
            let is_end = ends.contains(&(id as u32));
            words.push(match (control[id] != 0, bytes.is_empty() || is_end) {
                (_, true) => Vec::new(),
                (true, _) => {
                    spellings.push((String::from_utf8_lossy(bytes).into_owned(), id as u32));
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], *bytes].concat()
                }
                // The byte that marks control tokens in the trie; no text has it.
                (false, _) if bytes[0] == TokTrie::SPECIAL_TOKEN_MARKER => Vec::new(),
                (false, _) => bytes.to_vec(),
            });
        }
        spellings.sort_by_key(|(spelling, id)| (usize::MAX - spelling.len(), *id));
        // The end is a token of our own behind the last: models have none, one or several.
        words.push(b"\xFF<end>".to_vec());
        let info = TokRxInfo {
            vocab_size: words.len() as u32,
            tok_eos: vocab_size as u32,
            tok_bos: None,
            tok_pad: None,
            tok_unk: None,
            tok_end_of_turn: None,
        };
        let env: TokEnv = Arc::new(Vocabulary { trie: TokTrie::from(&info, &words) });
        let mut factory = ParserFactory::new(&env, Default::default(), &slices())
            .map_err(|e| Fail::internal(format!("cannot index the vocabulary: {e}")))?;
        factory.quiet();
        drop(words);
        let mut ends: Vec<u32> = ends.iter().copied().filter(|id| (*id as usize) < vocab_size).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut made = Compiler { factory, vocab_size, ends: ends.into(), control: spellings, bytes: 0 };
        made.bytes = (balance() - before).max(0) as usize;
        Ok(made)
    }

    pub fn compile(&self, spec: &Spec, limits: &Limits) -> Result<Grammar> {
        if spec.size() as u64 > limits.bytes {
            let most = limits.bytes;
            return Err(Fail::exhausted(format!("the grammar has {} bytes, more than {most}", spec.size())));
        }
        std::thread::scope(|scope| {
            let work = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.compile_here(spec, limits)))
            });
            match work.map_err(|e| Fail::exhausted(format!("no thread to compile on: {e}")))?.join() {
                Ok(Ok(outcome)) => outcome,
                _ => Err(Fail::unsupported("the grammar is one that the grammar library fails on")),
            }
        })
    }

    fn compile_here(&self, spec: &Spec, limits: &Limits) -> Result<Grammar> {
        let before = balance();
        let top = lark::build(spec, &self.control, limits)?;
        let parser_limits = ParserLimits {
            initial_lexer_fuel: limits.compile_fuel,
            step_lexer_fuel: limits.step_fuel,
            step_max_items: limits.step_items as usize,
            max_lexer_states: limits.states as usize,
            max_grammar_size: limits.nodes as usize,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        let parser = self.parser(top, parser_limits)?;
        let fixed_bytes = (balance() - before).max(0) as usize;
        let shared = Arc::new(Shared {
            broken: AtomicBool::new(false),
            vocab_size: self.vocab_size,
            ends: self.ends.clone(),
        });
        let lexer_bytes_then = parser.parser.lexer_stats().num_bytes;
        let grammar = Grammar { start: Mutex::new(parser), shared, fixed_bytes, lexer_bytes_then };
        // A grammar that allows nothing, or whose very first mask is too much, is refused now and not in the middle.
        let mut words = vec![0; self.vocab_size.div_ceil(32)];
        grammar.matcher()?.fill_mask(&mut words)?;
        Ok(grammar)
    }

    fn parser(&self, top: TopLevelGrammar, limits: ParserLimits) -> Result<TokenParser> {
        let init = llguidance::api::GrammarInit::Serialized(top);
        let mut parser = self
            .factory
            .create_parser_from_init_ext(init, llguidance::Logger::new(0, 0), Default::default(), limits)
            .map_err(|e| refusal(&format!("{e:#}")))?;
        parser.start_without_prompt();
        Ok(parser)
    }
}

impl Grammar {
    pub fn matcher(&self) -> Result<Matcher> {
        let parser = self.start.lock().map_err(|_| self.shared.fail())?.clone();
        Ok(Matcher { parser, shared: self.shared.clone(), ended: false })
    }

    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// With what the lexer has learned so far.
    pub fn bytes(&self) -> usize {
        if self.is_broken() {
            return self.fixed_bytes;
        }
        let now = self.start.lock().map_or(0, |parser| parser.parser.lexer_stats().num_bytes);
        self.fixed_bytes + now.saturating_sub(self.lexer_bytes_then)
    }
}

impl Shared {
    fn fail(&self) -> Fail {
        Fail::internal("the grammar failed before")
    }

    fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// Runs `body`; a panic in it makes the grammar unusable for all its sequences (its lexer is shared).
    fn guarded<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(self.fail());
        }
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|_| {
            self.broken.store(true, Ordering::Relaxed);
            Err(Fail::internal("the grammar library panicked"))
        })
    }
}

impl Matcher {
    pub fn copy(&self) -> Matcher {
        Matcher { parser: self.parser.clone(), shared: self.shared.clone(), ended: self.ended }
    }

    /// Unchanged unless Ok.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        let shared = self.shared.clone();
        shared.guarded(|| {
            let allowed = if token as usize >= shared.vocab_size {
                false
            } else if shared.is_end(token) {
                self.ended || self.parser.is_accepting()
            } else {
                !self.ended && self.parser.validate_token(token).map_err(|e| self.step_failure(&e))?
            };
            if !allowed {
                return Err(Fail::invalid(format!("token {token} is not allowed here")));
            }
            if shared.is_end(token) {
                self.ended = true;
                return Ok(());
            }
            self.parser.consume_token(token).map(|_| ()).map_err(|e| self.step_failure(&e))
        })
    }

    /// `words`: [vocab / 32, rounded up]; bit i % 32 of word i / 32 is whether token i may come.
    pub fn fill_mask(&mut self, words: &mut [u32]) -> Result<()> {
        let shared = self.shared.clone();
        if words.len() != shared.vocab_size.div_ceil(32) {
            return Err(Fail::internal("a mask of another vocabulary"));
        }
        shared.guarded(|| {
            words.fill(0);
            let can_end = if self.ended {
                true
            } else {
                let mask = self.parser.compute_mask().map_err(|e| self.step_failure(&e))?;
                let from = mask.as_slice();
                let shorter = from.len().min(words.len());
                words[..shorter].copy_from_slice(&from[..shorter]);
                let end = shared.vocab_size;
                if end / 32 < words.len() {
                    words[end / 32] &= !(!0 << (end % 32)); // our own end token
                }
                mask.is_allowed(end as u32)
            };
            if can_end {
                for id in shared.ends.iter() {
                    words[*id as usize / 32] |= 1 << (id % 32);
                }
            }
            if words.iter().all(|word| *word == 0) {
                return Err(Fail::invalid("no token of the vocabulary can continue or end this text"));
            }
            Ok(())
        })
    }

    pub fn can_end(&mut self) -> Result<bool> {
        let shared = self.shared.clone();
        shared.guarded(|| Ok(self.ended || self.parser.is_accepting()))
    }

    fn step_failure(&self, error: &dyn std::fmt::Display) -> Fail {
        match self.parser.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                Fail::exhausted(format!("the grammar is too complex at this place: {}", first_line(&error.to_string())))
            }
            StopReason::NoExtensionBias => Fail::invalid("no token of the vocabulary can continue this text"),
            _ => refusal(&error.to_string()),
        }
    }
}

fn first_line(message: &str) -> String {
    const MOST: usize = 300;
    let line: String = message.lines().take(2).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// llguidance has one error type; which of ours it is can only be told from its words (of the pinned version).
fn refusal(message: &str) -> Fail {
    const LIMITS: [&str; 9] = [
        "fuel", "too big", "too large", "too many", "too deeply", "stack level", "too complex", "Unable to determine",
        "precomputation failed",
    ];
    if message.contains("panic: ") {
        return Fail::unsupported("the grammar is one that the grammar library fails on");
    }
    let code = if LIMITS.iter().any(|words| message.contains(words)) { Code::Exhausted } else { Code::Invalid };
    Fail { code, message: first_line(message) }
}
