//! One model's tokenizer: added tokens cut out, the rest split into words, each word merged by byte-pair encoding.

use crate::added::{Matcher, Part};
use crate::decode::{Vocab, BYTE_CHARS};
use crate::fail::{Fail, Result};
use crate::scan::Stage;
use std::collections::HashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedVocabulary, Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizer, PreTokenizerWrapper,
};

pub struct Tokenizer {
    pub vocab: Vocab,
    pub leading_spaces: u32,
    pub(crate) path: Path,
    /// Without control tokens, so that no text reaches one through merges.
    pub(crate) model: BPE,
    /// Spellings that `model` does not hold.
    pub(crate) outside_model: HashMap<String, u32>,
    pub(crate) bos: Vec<i32>,
}

/// How a text gets from characters to words.
pub(crate) enum Path {
    /// Byte-level tokenizers with plain splitting steps: on the text itself.
    Direct(Box<Direct>),
    /// All others: through the tokenizers library's own pipeline.
    Library(Box<Library>),
}

pub(crate) struct Direct {
    pub compose: bool, // to Unicode normal form C first
    pub stages: Vec<Stage>,
    pub with_control: Cutter,
    pub plain: Cutter,
}

/// Added tokens are looked for in the raw text, then those marked `normalized` in what is left, after normalisation.
pub(crate) struct Cutter {
    pub raw: Matcher,
    pub normalized: Matcher,
}

pub(crate) struct Library {
    pub normalizer: Option<NormalizerWrapper>,
    pub pre: Option<PreTokenizerWrapper>,
    pub with_control: AddedVocabulary,
    pub plain: AddedVocabulary,
}

impl Tokenizer {
    pub fn encode(&self, text: &str, with_control: bool, add_bos: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_bos {
            ids.extend(self.bos.iter().map(|id| *id as u32));
        }
        match &self.path {
            Path::Direct(direct) => direct.encode(text, with_control, &self.model, &mut ids)?,
            Path::Library(library) => library.encode(text, with_control, &self.model, &mut ids)?,
        }
        Ok(ids)
    }

    pub fn token_id(&self, spelling: &str) -> i32 {
        let id = self.outside_model.get(spelling).copied().or_else(|| self.model.token_to_id(spelling));
        id.map_or(-1, |id| id as i32)
    }

    pub fn uses_scanner(&self) -> bool {
        matches!(&self.path, Path::Direct(direct) if direct.stages.iter().all(Stage::is_scanner))
    }
}

fn merge(model: &BPE, word: &str, ids: &mut Vec<u32>) -> Result<()> {
    let tokens = model.tokenize(word).map_err(|e| Fail::invalid(format!("cannot encode: {e}")))?;
    ids.extend(tokens.iter().map(|t| t.id));
    Ok(())
}

impl Direct {
    fn encode(&self, text: &str, with_control: bool, model: &BPE, ids: &mut Vec<u32>) -> Result<()> {
        let cutter = if with_control { &self.with_control } else { &self.plain };
        cutter.raw.cut(text, |part| match part {
            Part::Token(id) => {
                ids.push(id);
                Ok(())
            }
            Part::Text(text) if self.compose && !text.is_ascii() => {
                let mut composed = NormalizedString::from(text);
                composed.nfc();
                self.encode_normalized(composed.get(), cutter, model, ids)
            }
            Part::Text(text) => self.encode_normalized(text, cutter, model, ids),
        })
    }

    fn encode_normalized(&self, text: &str, cutter: &Cutter, model: &BPE, ids: &mut Vec<u32>) -> Result<()> {
        cutter.normalized.cut(text, |part| match part {
            Part::Token(id) => {
                ids.push(id);
                Ok(())
            }
            Part::Text(text) => self.encode_words(text, model, ids),
        })
    }

    fn encode_words(&self, text: &str, model: &BPE, ids: &mut Vec<u32>) -> Result<()> {
        let mut words = vec![text];
        for stage in &self.stages {
            let mut pieces = Vec::with_capacity(text.len() / 4 + 1);
            for word in words {
                stage.split(word, &mut pieces);
            }
            words = pieces;
        }
        let mut spelled = String::new();
        for word in words {
            spelled.clear();
            spelled.extend(word.bytes().map(|b| BYTE_CHARS[b as usize]));
            merge(model, &spelled, ids)?;
        }
        Ok(())
    }
}

impl Library {
    fn encode(&self, text: &str, with_control: bool, model: &BPE, ids: &mut Vec<u32>) -> Result<()> {
        let failed = |e: tokenizers::Error| Fail::invalid(format!("cannot encode: {e}"));
        let added = if with_control { &self.with_control } else { &self.plain };
        let mut words = added.extract_and_normalize(self.normalizer.as_ref(), text);
        if let Some(pre) = &self.pre {
            pre.pre_tokenize(&mut words).map_err(failed)?;
        }
        for (word, _, tokens) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|t| t.id)),
                None => merge(model, word, ids)?,
            }
        }
        Ok(())
    }
}

/// The normalised form of `text`; used when the tables are built.
pub(crate) fn normalize(normalizer: Option<&NormalizerWrapper>, text: &str) -> Result<String> {
    let Some(normalizer) = normalizer else { return Ok(text.to_string()) };
    let mut normalized = NormalizedString::from(text);
    normalizer.normalize(&mut normalized).map_err(|e| Fail::invalid(format!("normalizer: {e}")))?;
    Ok(normalized.get().to_string())
}
