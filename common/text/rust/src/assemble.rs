//! Checks the parts of a tokenizer and puts them together: the common end of both file formats.

use crate::added::{Added, Matcher};
use crate::decode::{Decoder, Kind, Vocab};
use crate::fail::{shown, Fail, Result};
use crate::scan::Stage;
use crate::tokenizer::{normalize, Cutter, Direct, Library, Path, Tokenizer};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use tokenizers::models::bpe::{BpeTrainer, BPE};
use tokenizers::{AddedVocabulary, Model, NormalizerWrapper, PreTokenizerWrapper, Token};

/// Ids above this are refused: four times the largest published vocabulary, rounded up to a power of two.
const MAX_ID: u32 = 1 << 20;

#[derive(Default)]
pub struct BpeParts {
    pub vocab: HashMap<String, u32>,
    pub merges: Vec<(String, String)>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
}

pub struct Parts {
    pub bpe: BpeParts,
    pub added: Vec<Added>,
    /// Ids that exist but are never in text (GGUF type "unused").
    pub unused: HashSet<u32>,
    /// As in tokenizer.json; null for none.
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Decoder,
    pub bos: Vec<u32>,
}

pub fn assemble(mut parts: Parts) -> Result<Tokenizer> {
    let normalizer: Option<NormalizerWrapper> = component("normalizer", &parts.normalizer)?;
    let pre: Option<PreTokenizerWrapper> = component("pre_tokenizer", &parts.pre_tokenizer)?;
    let size = vocab_size(&parts)?;
    let vocab = Vocab::new(spell(&parts, size))?;
    if let Some(id) = parts.bos.iter().find(|id| **id as usize >= size) {
        return Err(Fail::invalid(format!("the token at the start of a text, id {id}, is not in the vocabulary")));
    }

    // Control tokens match in the raw text only, unless normalisation cannot make one out of other characters.
    if !spelling_is_kept(&parts.normalizer) {
        for added in parts.added.iter_mut().filter(|a| a.token.special) {
            added.token.normalized = false;
        }
    }
    let outside_model = take_out_of_model(&mut parts);
    let path = match direct_path(&parts, normalizer.as_ref())? {
        Some(direct) => Path::Direct(Box::new(direct)),
        None => Path::Library(Box::new(library_path(&parts.added, normalizer, pre)?)),
    };
    Ok(Tokenizer {
        vocab,
        leading_spaces: parts.decoder.leading_spaces,
        path,
        model: build_bpe(parts.bpe)?,
        outside_model,
        bos: parts.bos.iter().map(|id| *id as i32).collect(),
    })
}

fn component<T: serde::de::DeserializeOwned>(name: &str, value: &Value) -> Result<Option<T>> {
    if value.is_null() {
        return Ok(None);
    }
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("without a type");
    let parsed = T::deserialize(value);
    parsed.map(Some).map_err(|e| Fail::invalid(format!("tokenizer.json: {name} {}: {e}", shown(kind))))
}

fn vocab_size(parts: &Parts) -> Result<usize> {
    let ids = parts.bpe.vocab.values().copied().chain(parts.added.iter().map(|a| a.id));
    let Some(largest) = ids.max() else { return Err(Fail::invalid("the vocabulary is empty")) };
    if largest > MAX_ID {
        return Err(Fail::invalid(format!("token id {largest} is above the limit of {MAX_ID}")));
    }
    Ok(largest as usize + 1)
}

fn spell(parts: &Parts, size: usize) -> Vec<(Vec<u8>, Kind)> {
    let mut tokens = vec![(Vec::new(), Kind::Unused); size];
    for (spelling, id) in &parts.bpe.vocab {
        if !parts.unused.contains(id) {
            tokens[*id as usize] = (parts.decoder.bytes(spelling), Kind::Text);
        }
    }
    for added in &parts.added {
        let content = &added.token.content;
        let kind = if added.token.special { Kind::Control } else { Kind::Text };
        // Added tokens are cut out of the text as they are, before it is mapped to the byte alphabet.
        let literal = kind == Kind::Control || parts.decoder.is_byte_level();
        let bytes = if literal { content.as_bytes().to_vec() } else { parts.decoder.bytes(content) };
        tokens[added.id as usize] = (bytes, kind);
    }
    tokens
}

/// Removes from the byte-pair model what no text may become: control and unused tokens, and the merges that make them.
/// Returns the spellings that the model does not know afterwards.
fn take_out_of_model(parts: &mut Parts) -> HashMap<String, u32> {
    let mut outside: HashMap<String, u32> = HashMap::new();
    let mut removed: HashSet<String> = HashSet::new();
    for added in &parts.added {
        outside.insert(added.token.content.clone(), added.id);
        if added.token.special {
            removed.insert(added.token.content.clone());
        }
    }
    for (spelling, id) in &parts.bpe.vocab {
        if parts.unused.contains(id) {
            outside.insert(spelling.clone(), *id);
            removed.insert(spelling.clone());
        }
    }
    parts.bpe.vocab.retain(|spelling, _| !removed.contains(spelling));
    if parts.bpe.unk_token.as_ref().is_some_and(|unk| removed.contains(unk)) {
        parts.bpe.unk_token = None;
    }
    let prefix = parts.bpe.continuing_subword_prefix.clone().unwrap_or_default();
    parts.bpe.merges.retain(|(left, right)| {
        let whole = format!("{left}{}", right.strip_prefix(&prefix).unwrap_or(right));
        !(removed.contains(left) || removed.contains(right) || removed.contains(&whole))
    });
    outside
}

fn build_bpe(parts: BpeParts) -> Result<BPE> {
    let prefix = parts.continuing_subword_prefix.clone().unwrap_or_default();
    for (number, (left, right)) in parts.merges.iter().enumerate() {
        let tail = right.strip_prefix(&prefix).ok_or_else(|| {
            Fail::invalid(format!("merge {number}: {} does not begin with the subword prefix", shown(right)))
        })?;
        for token in [left.as_str(), right.as_str(), format!("{left}{tail}").as_str()] {
            if !parts.vocab.contains_key(token) {
                return Err(Fail::invalid(format!("merge {number}: {} is not in the vocabulary", shown(token))));
            }
        }
    }
    if let Some(unk) = parts.unk_token.as_ref().filter(|unk| !parts.vocab.contains_key(*unk)) {
        return Err(Fail::invalid(format!("the unknown token {} is not in the vocabulary", shown(unk))));
    }
    let vocab: ahash::AHashMap<String, u32> = parts.vocab.into_iter().collect();
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab, parts.merges)
        .fuse_unk(parts.fuse_unk)
        .byte_fallback(parts.byte_fallback)
        .ignore_merges(parts.ignore_merges);
    if let Some(unk) = parts.unk_token {
        builder = builder.unk_token(unk);
    }
    if let Some(prefix) = parts.continuing_subword_prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = parts.end_of_word_suffix {
        builder = builder.end_of_word_suffix(suffix);
    }
    builder.build().map_err(|e| Fail::invalid(format!("byte-pair model: {e}")))
}

/// True when no other text normalises to the spelling of a control token: nothing at all, or SentencePiece's replacement
/// of spaces.
fn spelling_is_kept(normalizer: &Value) -> bool {
    match normalizer.get("type").and_then(Value::as_str) {
        None => true,
        Some("Prepend") => true,
        Some("Replace") => normalizer.get("content").and_then(Value::as_str) == Some("\u{2581}"),
        Some("Sequence") => {
            normalizer.get("normalizers").and_then(Value::as_array).is_some_and(|all| all.iter().all(spelling_is_kept))
        }
        Some(_) => false,
    }
}

/// The direct path, where it gives the same as the library's pipeline: no normaliser but NFC, byte-level splitting without
/// an added space, no added token that must stand alone.
fn direct_path(parts: &Parts, normalizer: Option<&NormalizerWrapper>) -> Result<Option<Direct>> {
    let compose = match parts.normalizer.get("type").and_then(Value::as_str) {
        None if parts.normalizer.is_null() => false,
        Some("NFC") => true,
        _ => return Ok(None),
    };
    let Some(stages) = direct_stages(&parts.pre_tokenizer)? else { return Ok(None) };
    if parts.added.iter().any(|a| a.token.single_word) {
        return Ok(None);
    }
    let cutter = |with_control: bool| -> Result<Cutter> {
        let wanted = parts.added.iter().filter(|a| with_control || !a.token.special).cloned();
        let (mut normalized, raw): (Vec<Added>, Vec<Added>) = wanted.partition(|a| a.token.normalized);
        for added in &mut normalized {
            added.token.content = normalize(normalizer, &added.token.content)?;
        }
        Ok(Cutter { raw: Matcher::new(raw)?, normalized: Matcher::new(normalized)? })
    };
    Ok(Some(Direct { compose, stages, with_control: cutter(true)?, plain: cutter(false)? }))
}

fn direct_stages(pre: &Value) -> Result<Option<Vec<Stage>>> {
    let single = std::slice::from_ref(pre);
    let steps: &[Value] = match pre.get("type").and_then(Value::as_str) {
        Some("Sequence") => pre.get("pretokenizers").and_then(Value::as_array).map_or(&[], Vec::as_slice),
        _ => single,
    };
    let Some((last, before)) = steps.split_last() else { return Ok(None) };
    let flag = |step: &Value, key: &str, default: bool| step.get(key).and_then(Value::as_bool).unwrap_or(default);
    let kind = |step: &Value| step.get("type").and_then(Value::as_str).unwrap_or("").to_string();
    if kind(last) != "ByteLevel" || flag(last, "add_prefix_space", true) {
        return Ok(None);
    }
    let mut stages = Vec::new();
    for step in before {
        match kind(step).as_str() {
            "Digits" if flag(step, "individual_digits", false) => stages.push(Stage::Digits),
            "Split" => {
                let isolated = step.get("behavior").and_then(Value::as_str) == Some("Isolated");
                let source = step.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str);
                let (Some(source), true, false) = (source, isolated, flag(step, "invert", false)) else {
                    return Ok(None);
                };
                let stage = Stage::expression(source);
                stages.push(stage.map_err(|e| Fail::invalid(format!("splitting expression {}: {e}", shown(source))))?);
            }
            _ => return Ok(None),
        }
    }
    if flag(last, "use_regex", true) {
        stages.push(Stage::Gpt2);
    }
    Ok(Some(stages))
}

/// Tells the library's AddedVocabulary which id each added token has.
struct Ids(HashMap<String, u32>);

impl Model for Ids {
    type Trainer = BpeTrainer;
    fn tokenize(&self, _: &str) -> tokenizers::Result<Vec<Token>> {
        Ok(Vec::new())
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.get(token).copied()
    }
    fn id_to_token(&self, _: u32) -> Option<String> {
        None
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.0.clone()
    }
    fn get_vocab_size(&self) -> usize {
        self.0.len()
    }
    fn save(&self, _: &std::path::Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

fn library_path(
    added: &[Added],
    normalizer: Option<NormalizerWrapper>,
    pre: Option<PreTokenizerWrapper>,
) -> Result<Library> {
    let ids = Ids(added.iter().map(|a| (a.token.content.clone(), a.id)).collect());
    let vocabulary = |with_control: bool| -> Result<AddedVocabulary> {
        let wanted = added.iter().filter(|a| with_control || !a.token.special).map(|a| a.token.clone());
        let mut vocabulary = AddedVocabulary::new();
        let made = vocabulary.add_tokens(wanted, &ids, normalizer.as_ref());
        made.map_err(|e| Fail::invalid(format!("added tokens: {e}")))?;
        Ok(vocabulary)
    };
    let (with_control, plain) = (vocabulary(true)?, vocabulary(false)?);
    Ok(Library { normalizer, pre, with_control, plain })
}
