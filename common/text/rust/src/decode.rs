//! From a token's spelling to the bytes it stands for in text, and the table of all of them.

use crate::fail::{shown, Fail, Result};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

/// GPT-2's alphabet: every byte as one printable character. Source: the published encoder's bytes_to_unicode.
pub static BYTE_CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut moved = (0x100u32..).filter_map(char::from_u32);
    std::array::from_fn(|b| {
        let b = b as u8;
        if printable(b) {
            char::from(b)
        } else {
            moved.next().unwrap_or('\u{fffd}')
        }
    })
});
static CHAR_BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| BYTE_CHARS.iter().enumerate().map(|(b, c)| (*c, b as u8)).collect());

/// What a tokenizer.json's `decoder` does to each token.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The spelling is in GPT-2's alphabet.
    ByteLevel,
    /// `<0xNN>` is that byte.
    ByteFallback,
    Replace { from: String, to: String },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoder {
    pub steps: Vec<Step>,
    /// Spaces that are taken away at the very start of a text.
    pub leading_spaces: u32,
}

impl Decoder {
    pub fn byte_level() -> Decoder {
        Decoder { steps: vec![Step::ByteLevel], leading_spaces: 0 }
    }

    pub fn is_byte_level(&self) -> bool {
        self.steps.contains(&Step::ByteLevel)
    }

    pub fn bytes(&self, spelling: &str) -> Vec<u8> {
        let mut text = spelling.to_string();
        for step in &self.steps {
            match step {
                Step::ByteLevel => {
                    let bytes: Option<Vec<u8>> = text.chars().map(|c| CHAR_BYTES.get(&c).copied()).collect();
                    return bytes.unwrap_or_else(|| text.into_bytes());
                }
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return vec![byte];
                    }
                }
                Step::Replace { from, to } => text = text.replace(from, to),
            }
        }
        text.into_bytes()
    }
}

fn fallback_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// Reads the `decoder` of a tokenizer.json: ByteLevel; Metaspace; a Sequence of Replace, ByteFallback, Fuse and Strip as
/// Llama 2 has it. Anything else is refused by name.
pub fn parse(decoder: &Value) -> Result<Decoder> {
    let mut parsed = Decoder::default();
    let mut fused = false;
    if decoder.is_null() {
        return Err(Fail::unsupported("tokenizer.json has no decoder"));
    }
    read_step(decoder, &mut parsed, &mut fused, 0)?;
    Ok(parsed)
}

fn read_step(step: &Value, into: &mut Decoder, fused: &mut bool, depth: usize) -> Result<()> {
    let text = |key: &str| step.get(key).and_then(Value::as_str);
    let kind = text("type").ok_or_else(|| Fail::invalid("tokenizer.json: a decoder without a type"))?;
    let unsupported =
        |what: &str| Err(Fail::unsupported(format!("tokenizer.json: decoder {} {what}is not supported", shown(kind))));
    if *fused && kind != "Strip" && kind != "Fuse" {
        return unsupported("after Fuse ");
    }
    match kind {
        "Sequence" if depth < 8 => {
            let steps = step.get("decoders").and_then(Value::as_array);
            for inner in steps.ok_or_else(|| Fail::invalid("tokenizer.json: a decoder sequence without decoders"))? {
                read_step(inner, into, fused, depth + 1)?;
            }
        }
        "ByteLevel" => into.steps.push(Step::ByteLevel),
        "ByteFallback" => into.steps.push(Step::ByteFallback),
        "Fuse" => *fused = true,
        "Metaspace" => {
            into.steps.push(Step::Replace { from: text("replacement").unwrap_or("\u{2581}").into(), to: " ".into() });
            let never = text("prepend_scheme").map_or_else(
                || step.get("add_prefix_space").and_then(Value::as_bool) == Some(false),
                |scheme| scheme == "never",
            );
            into.leading_spaces += u32::from(!never);
        }
        "Replace" => {
            let from = step.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
            let (Some(from), Some(to)) = (from.filter(|f| !f.is_empty()), text("content")) else {
                return unsupported("with an expression ");
            };
            into.steps.push(Step::Replace { from: from.into(), to: to.into() });
        }
        "Strip" => {
            let count = |key: &str| step.get(key).and_then(Value::as_u64).unwrap_or(0);
            if !*fused || text("content") != Some(" ") || count("stop") != 0 || count("start") > 16 {
                return unsupported("of this form ");
            }
            into.leading_spaces += count("start") as u32;
        }
        _ => return unsupported(""),
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Text,
    Control,
    /// Never in text: a hole, or a GGUF token of type "unused".
    Unused,
}

/// Every token's bytes and kind, flat: one allocation each however many tokens there are.
pub struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
}

impl Vocab {
    /// `tokens[id]`: the bytes and kind of each token.
    pub fn new(tokens: Vec<(Vec<u8>, Kind)>) -> Result<Vocab> {
        let total: usize = tokens.iter().map(|(bytes, _)| bytes.len()).sum();
        if u32::try_from(total).is_err() {
            return Err(Fail::invalid("the vocabulary's spellings have more than 4 GiB"));
        }
        let mut vocab =
            Vocab { bytes: Vec::with_capacity(total), ends: Vec::with_capacity(tokens.len()), kinds: Vec::new() };
        for (bytes, kind) in tokens {
            vocab.bytes.extend_from_slice(&bytes);
            vocab.ends.push(vocab.bytes.len() as u32);
            vocab.kinds.push(kind);
        }
        Ok(vocab)
    }

    pub fn size(&self) -> i32 {
        self.ends.len() as i32
    }

    pub fn bytes(&self, id: i32) -> &[u8] {
        let Some(id) = usize::try_from(id).ok().filter(|id| *id < self.ends.len()) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        &self.bytes[start..self.ends[id] as usize]
    }

    pub fn is_control(&self, id: i32) -> bool {
        usize::try_from(id).is_ok_and(|id| self.kinds.get(id) == Some(&Kind::Control))
    }
}
