//! The vocabulary of a GGUF file (tokenizer.ggml.*). Which pre-tokenizer a name stands for, and how its tokenizer.json
//! splits and normalises, follows the published tokenizers and llama.cpp's table of the same names.

use crate::added::Added;
use crate::assemble::{assemble, BpeParts, Parts};
use crate::decode::Decoder;
use crate::fail::{shown, Fail, Result};
use crate::scan::{GPT2, LLAMA3, QWEN2};
use crate::tokenizer::Tokenizer;
use serde_json::{json, Value};
use std::collections::{HashMap, HashSet};
use tokenizers::AddedToken;

pub struct GgufVocab<'a> {
    pub model: &'a str,
    pub pre: &'a str,
    pub tokens: Vec<&'a str>,
    pub token_types: &'a [i32],
    pub merges: Vec<&'a str>,
    pub add_bos: Option<bool>,
    pub bos: i32,
    pub eos: i32,
    pub unk: i32,
}

/// What a `tokenizer.ggml.pre` stands for.
struct PreTokenizer {
    splits: &'static [Split],
    compose: bool,       // Unicode normal form C first
    ignore_merges: bool, // a word that is a token is that token
    add_bos: bool,       // when the file does not say
}

enum Split {
    Digits,
    Expression(&'static str),
}

fn pre_tokenizer(name: &str) -> Option<PreTokenizer> {
    let plain =
        |splits: &'static [Split]| PreTokenizer { splits, compose: false, ignore_merges: false, add_bos: false };
    Some(match name {
        "gpt-2" | "phi-2" | "jais" | "trillion" => plain(&[Split::Expression(GPT2)]),
        "olmo" | "mpt" => PreTokenizer { compose: true, ..plain(&[Split::Expression(GPT2)]) },
        "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" => {
            plain(&[Split::Digits, Split::Expression(GPT2)])
        }
        "command-r" => PreTokenizer { compose: true, ..plain(&[Split::Digits, Split::Expression(GPT2)]) },
        "llama-bpe" | "llama-v3" | "llama3" => {
            PreTokenizer { ignore_merges: true, add_bos: true, ..plain(&[Split::Expression(LLAMA3)]) }
        }
        "smaug-bpe" | "dbrx" => plain(&[Split::Expression(LLAMA3)]),
        "qwen2" => PreTokenizer { compose: true, ..plain(&[Split::Expression(QWEN2)]) },
        // llama.cpp's fallback for byte-level vocabularies of unknown origin.
        "default" => plain(&[
            Split::Expression(r"[\p{P}\$\+<=>\^~\|]+"),
            Split::Expression(GPT2),
            Split::Expression(r"\p{N}+"),
            Split::Expression(r"[0-9][0-9][0-9]"),
        ]),
        _ => return None,
    })
}

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

pub fn from_gguf(vocab: &GgufVocab) -> Result<Tokenizer> {
    if vocab.model != "gpt2" {
        let what = if vocab.model == "llama" { " (a SentencePiece vocabulary)" } else { "" };
        return Err(Fail::unsupported(format!(
            "tokenizer.ggml.model {}{what} is not supported; only \"gpt2\" (byte-level BPE) is",
            shown(vocab.model)
        )));
    }
    let pre = pre_tokenizer(vocab.pre).ok_or_else(|| {
        Fail::unsupported(format!("tokenizer.ggml.pre {} is not a known pre-tokenizer", shown(vocab.pre)))
    })?;
    if vocab.token_types.len() != vocab.tokens.len() {
        return Err(Fail::invalid("tokenizer.ggml.token_type and tokenizer.ggml.tokens differ in length"));
    }
    let mut tokens = HashMap::with_capacity(vocab.tokens.len());
    let (mut added, mut unused) = (Vec::new(), HashSet::new());
    for (id, (spelling, kind)) in vocab.tokens.iter().zip(vocab.token_types).enumerate() {
        let id = id as u32;
        if matches!(*kind, UNKNOWN | CONTROL | USER_DEFINED) {
            let special = *kind != USER_DEFINED;
            added.push(Added { id, token: AddedToken::from(*spelling, special).normalized(false) });
        }
        if *kind == UNUSED {
            unused.insert(id);
        }
        if let Some(first) = tokens.insert(spelling.to_string(), id) {
            return Err(Fail::invalid(format!("tokens {first} and {id} are both spelled {}", shown(spelling))));
        }
    }
    let bos = if vocab.add_bos.unwrap_or(pre.add_bos && vocab.bos >= 0) {
        vec![special_id("bos", vocab.bos, vocab.tokens.len())?]
    } else {
        Vec::new()
    };
    for (name, id) in [("eos", vocab.eos), ("unknown", vocab.unk), ("bos", vocab.bos)] {
        if id >= 0 {
            special_id(name, id, vocab.tokens.len())?;
        }
    }
    assemble(Parts {
        bpe: BpeParts {
            vocab: tokens,
            merges: vocab.merges.iter().enumerate().map(pair).collect::<Result<_>>()?,
            ignore_merges: pre.ignore_merges,
            ..BpeParts::default()
        },
        added,
        unused,
        normalizer: if pre.compose { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre_tokenizer_json(&pre),
        decoder: Decoder::byte_level(),
        bos,
    })
}

fn special_id(name: &str, id: i32, count: usize) -> Result<u32> {
    match usize::try_from(id) {
        Ok(at) if at < count => Ok(id as u32),
        _ => Err(Fail::invalid(format!("tokenizer.ggml.{name}_token_id {id} is not in the vocabulary"))),
    }
}

fn pair((number, merge): (usize, &&str)) -> Result<(String, String)> {
    match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.into(), right.into())),
        _ => Err(Fail::invalid(format!("tokenizer.ggml.merges[{number}]: {} is not a pair", shown(merge)))),
    }
}

fn pre_tokenizer_json(pre: &PreTokenizer) -> Value {
    let split = |split: &Split| match split {
        Split::Digits => json!({"type": "Digits", "individual_digits": true}),
        Split::Expression(source) => {
            json!({"type": "Split", "pattern": {"Regex": source}, "behavior": "Isolated", "invert": false})
        }
    };
    let mut steps: Vec<Value> = pre.splits.iter().map(split).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    steps.push(byte_level);
    json!({"type": "Sequence", "pretokenizers": steps})
}
