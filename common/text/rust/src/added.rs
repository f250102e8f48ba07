//! Finds the tokens that are cut out of the text before it is split into words.

use crate::fail::{Fail, Result};
use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use tokenizers::AddedToken;

/// A token of tokenizer.json's `added_tokens`, or of a GGUF's control or user-defined ones.
#[derive(Clone, Debug)]
pub struct Added {
    pub id: u32,
    pub token: AddedToken,
}

/// One set of such tokens. Leftmost match wins, then the longest, as in the tokenizers library.
pub struct Matcher {
    automaton: Option<DoubleArrayAhoCorasick<u32>>,
    tokens: Vec<Added>,
}

/// Part of a text: an added token, or text in between.
pub enum Part<'a> {
    Token(u32),
    Text(&'a str),
}

impl Matcher {
    /// Tokens that must stand alone as words (`single_word`) are the caller's to avoid.
    pub fn new(tokens: Vec<Added>) -> Result<Matcher> {
        let tokens: Vec<Added> = tokens.into_iter().filter(|t| !t.token.content.is_empty()).collect();
        let automaton = if tokens.is_empty() {
            None
        } else {
            let patterns = tokens.iter().enumerate().map(|(i, t)| (t.token.content.as_str(), i as u32));
            let built = DoubleArrayAhoCorasickBuilder::new()
                .match_kind(MatchKind::LeftmostLongest)
                .build_with_values(patterns)
                .map_err(|e| Fail::invalid(format!("added tokens: {e}")))?;
            Some(built)
        };
        Ok(Matcher { automaton, tokens })
    }

    /// Calls `each` with the parts of `text` in order; empty texts are left out.
    pub fn cut<'a>(&self, text: &'a str, mut each: impl FnMut(Part<'a>) -> Result<()>) -> Result<()> {
        let mut done = 0;
        if let Some(automaton) = &self.automaton {
            for found in automaton.leftmost_find_iter(text) {
                let added = &self.tokens[found.value() as usize];
                let (mut start, mut end) = (found.start(), found.end());
                if end <= done {
                    continue; // inside the spaces that the token before took along
                }
                if added.token.lstrip {
                    start = text[..start].trim_end().len().max(done);
                }
                if added.token.rstrip {
                    end = text.len() - text[end..].trim_start().len();
                }
                if start > done {
                    each(Part::Text(&text[done..start]))?;
                }
                each(Part::Token(added.id))?;
                done = end;
            }
        }
        if done < text.len() {
            each(Part::Text(&text[done..]))?;
        }
        Ok(())
    }
}
