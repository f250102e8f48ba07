//! tokenizer.json, as the tokenizers library writes it. Truncation and padding are not read.

use crate::added::Added;
use crate::assemble::{assemble, BpeParts, Parts};
use crate::decode;
use crate::fail::{shown, Fail, Result};
use crate::tokenizer::Tokenizer;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use tokenizers::AddedToken;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(default)]
    added_tokens: Vec<FileToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct FileToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct FileBpe {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Older files write "left right", newer ones ["left", "right"].
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair((String, String)),
    Joined(String),
}

pub fn from_json(json: &str) -> Result<Tokenizer> {
    let bad = |what: &str, e: serde_json::Error| Fail::invalid(format!("tokenizer.json: {what}{e}"));
    let file: File = serde_json::from_str(json).map_err(|e| bad("", e))?;
    let kind: Kind = serde_json::from_str(file.model.get()).map_err(|e| bad("model: ", e))?;
    // Files from before the type was written are byte-pair ones.
    let kind = kind.kind.unwrap_or_else(|| "BPE".into());
    if kind != "BPE" {
        return Err(Fail::unsupported(format!("tokenizer.json: model {} is not supported, only BPE", shown(&kind))));
    }
    let bpe: FileBpe = serde_json::from_str(file.model.get()).map_err(|e| bad("model: ", e))?;
    let bos = leading_specials(&file.post_processor)?;
    assemble(Parts {
        bpe: BpeParts {
            vocab: bpe.vocab,
            merges: bpe.merges.into_iter().enumerate().map(pair).collect::<Result<_>>()?,
            unk_token: bpe.unk_token,
            continuing_subword_prefix: bpe.continuing_subword_prefix.filter(|p| !p.is_empty()),
            end_of_word_suffix: bpe.end_of_word_suffix.filter(|s| !s.is_empty()),
            fuse_unk: bpe.fuse_unk,
            byte_fallback: bpe.byte_fallback,
            ignore_merges: bpe.ignore_merges,
        },
        added: file.added_tokens.into_iter().map(added).collect(),
        unused: HashSet::new(),
        normalizer: file.normalizer,
        pre_tokenizer: file.pre_tokenizer,
        decoder: decode::parse(&file.decoder)?,
        bos,
    })
}

fn pair((number, merge): (usize, Merge)) -> Result<(String, String)> {
    match merge {
        Merge::Pair(pair) => Ok(pair),
        Merge::Joined(text) => match text.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.into(), right.into())),
            _ => Err(Fail::invalid(format!("tokenizer.json: merge {number}: {} is not a pair", shown(&text)))),
        },
    }
}

fn added(t: FileToken) -> Added {
    let token = AddedToken::from(t.content, t.special)
        .single_word(t.single_word)
        .lstrip(t.lstrip)
        .rstrip(t.rstrip)
        .normalized(t.normalized.unwrap_or(!t.special));
    Added { id: t.id, token }
}

/// The tokens that the post-processor's template puts before a single text: usually the beginning-of-text token.
fn leading_specials(post: &Value) -> Result<Vec<u32>> {
    let kind = post.get("type").and_then(Value::as_str).unwrap_or("");
    if kind == "Sequence" {
        for step in post.get("processors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
            // One level: a sequence inside a sequence has never been published.
            let nested = step.get("type").and_then(Value::as_str) == Some("Sequence");
            let found = if nested { Vec::new() } else { leading_specials(step)? };
            if !found.is_empty() {
                return Ok(found);
            }
        }
        return Ok(Vec::new());
    }
    if kind != "TemplateProcessing" {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    for item in post.get("single").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
        let Some(name) = item.get("SpecialToken").and_then(|t| t.get("id")).and_then(Value::as_str) else { break };
        let listed = post.get("special_tokens").and_then(|t| t.get(name)).and_then(|t| t.get("ids"));
        let Some(listed) = listed.and_then(Value::as_array) else {
            return Err(Fail::invalid(format!("tokenizer.json: post_processor does not define {}", shown(name))));
        };
        for id in listed {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.push(id.ok_or_else(|| Fail::invalid("tokenizer.json: post_processor: a token id out of range"))?);
        }
    }
    Ok(ids)
}
