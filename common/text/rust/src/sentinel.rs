//! Tells user text apart from the template's own in a rendered conversation.
//!
//! Before rendering, each control spelling inside a string of the context is put between OPEN and CLOSE, and a string that
//! begins or ends with part of a spelling gets an EDGE there. The three are noncharacters, taken out of the context first,
//! so whatever is found afterwards was put there here. After rendering they are taken out again: what stood between OPEN
//! and CLOSE is a plain piece, and so is a spelling that came together across an EDGE (a user's "<|im_" joined to "end|>").
//! There are no marks inside of a string: they would hide from the template what it looks for ("</think>", where "</s>" is
//! a control token). Where `replace` takes something out, it leaves an EDGE at a seam that could be inside of a spelling.

use crate::fail::{Fail, Result};
use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use std::collections::HashSet;
use std::ops::Range;

const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';
const EDGE: char = '\u{fdd2}';

/// How a mark looks inside the printed form of a list or dictionary.
const ESCAPED: [(&str, char); 6] = [
    ("\\u{fdd0}", OPEN),
    ("\\u{fdd1}", CLOSE),
    ("\\u{fdd2}", EDGE),
    ("\\ufdd0", OPEN),
    ("\\ufdd1", CLOSE),
    ("\\ufdd2", EDGE),
];

pub fn is_mark(c: char) -> bool {
    matches!(c, OPEN | CLOSE | EDGE)
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Piece {
    pub text: String,
    pub plain: bool,
}

pub struct Marker {
    automaton: Option<DoubleArrayAhoCorasick<u32>>,
    /// Proper beginnings and ends of the spellings.
    beginnings: HashSet<String>,
    ends: HashSet<String>,
    folded: HashSet<String>, // the spellings in lower case
    longest: usize,          // bytes of the longest spelling
}

impl Marker {
    pub fn new(spellings: &[&str]) -> Result<Marker> {
        let mut unique: Vec<&str> = spellings.iter().copied().filter(|s| !s.is_empty()).collect();
        unique.sort_unstable();
        unique.dedup();
        let longest = unique.iter().map(|s| s.len()).max().unwrap_or(0);
        if longest > 1024 {
            return Err(Fail::invalid(format!("a control token is spelled with {longest} bytes; at most 1024 may be")));
        }
        let folded = unique.iter().map(|s| s.to_lowercase()).collect();
        let mut marker =
            Marker { automaton: None, beginnings: HashSet::new(), ends: HashSet::new(), folded, longest };
        for spelling in &unique {
            for (at, _) in spelling.char_indices().skip(1) {
                marker.beginnings.insert(spelling[..at].to_string());
                marker.ends.insert(spelling[at..].to_string());
            }
        }
        if !unique.is_empty() {
            let built = DoubleArrayAhoCorasickBuilder::new()
                .match_kind(MatchKind::LeftmostLongest)
                .build_with_values(unique.iter().enumerate().map(|(i, s)| (*s, i as u32)));
            marker.automaton = Some(built.map_err(|e| Fail::invalid(format!("control tokens: {e}")))?);
        }
        Ok(marker)
    }

    /// A string of the context, with marks.
    pub fn mark(&self, text: &str) -> String {
        let mut text = text.to_string();
        if text.contains(is_mark) {
            text.retain(|c| !is_mark(c));
        }
        let found: Vec<Range<usize>> = self.find(&text).collect();
        let (head_end, tail_start) = match (found.first(), found.last()) {
            (Some(first), Some(last)) => (first.start, last.end),
            _ => (text.len(), 0),
        };
        let mut marks: Vec<(usize, char)> = Vec::new();
        marks.extend(self.head_edge(&text[..head_end]).map(|at| (at, EDGE)));
        marks.extend(found.iter().flat_map(|r| [(r.start, OPEN), (r.end, CLOSE)]));
        marks.extend(self.tail_edge(&text[tail_start..]).map(|at| (tail_start + at, EDGE)));
        // A user's own spelling of an escaped mark must not be taken for one.
        for (escaped, _) in ESCAPED {
            marks.extend(text.match_indices(escaped).map(|(at, _)| (at + 2, EDGE)));
        }
        marks.sort_by_key(|(at, _)| *at); // stable: CLOSE of one spelling stays before OPEN of the next
        let mut marked = String::with_capacity(text.len() + 3 * marks.len());
        let mut done = 0;
        for (at, mark) in marks {
            marked.push_str(&text[done..at]);
            marked.push(mark);
            done = at;
        }
        marked.push_str(&text[done..]);
        marked
    }

    /// The rendered text without marks, in pieces. Neighbours that are not plain are one piece; no piece is empty.
    pub fn split(&self, rendered: &str) -> Vec<Piece> {
        let unescaped = unescape(rendered);
        let (clean, mut plain, edges) = self.unmark(unescaped.as_deref().unwrap_or(rendered));
        if !edges.is_empty() {
            plain = self.with_joined(&clean, plain, &edges);
        }
        let mut pieces = Vec::new();
        let mut done = 0;
        let mut add = |range: Range<usize>, plain: bool| {
            if !range.is_empty() {
                pieces.push(Piece { text: clean[range].to_string(), plain });
            }
        };
        for range in plain {
            add(done..range.start, false);
            done = range.end;
            add(range, true);
        }
        add(done..clean.len(), false);
        pieces
    }

    /// `text` without the first `most` occurrences of `gone`, where a template takes them out: halves of a spelling that
    /// meet there are kept apart by an EDGE.
    pub fn without(&self, text: &str, gone: &str, most: usize) -> String {
        let mut parts = text.splitn(most.saturating_add(1), gone);
        let mut left = parts.next().unwrap_or_default().to_string();
        for right in parts {
            if self.ends_in_beginning(&left) {
                left.push(EDGE);
            }
            left.push_str(right);
        }
        left
    }

    fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.automaton.iter().flat_map(move |a| a.leftmost_find_iter(text).map(|m| m.start()..m.end()))
    }

    /// Where an edge belongs at the start of `text`: after its spaces when a template may trim them.
    fn head_edge(&self, text: &str) -> Option<usize> {
        let trimmed = text.len() - text.trim_start().len();
        [0, trimmed].into_iter().find(|at| {
            let ends = text[*at..].char_indices().skip(1).map(|(i, _)| at + i).chain([text.len()]);
            ends.take_while(|end| end - at < self.longest).any(|end| self.ends.contains(&text[*at..end]))
        })
    }

    fn tail_edge(&self, text: &str) -> Option<usize> {
        [text.len(), text.trim_end().len()].into_iter().find(|at| self.ends_in_beginning(&text[..*at]))
    }

    fn ends_in_beginning(&self, text: &str) -> bool {
        let starts = text.char_indices().rev().map(|(i, _)| i);
        starts.take_while(|start| text.len() - start < self.longest).any(|at| self.beginnings.contains(&text[at..]))
    }

    /// Takes the marks out; returns the text, what stood between OPEN and CLOSE, and where edges were. A mark without its
    /// partner (the template cut the string) is dropped: no whole spelling of the user's is left then.
    fn unmark(&self, marked: &str) -> (String, Vec<Range<usize>>, Vec<usize>) {
        let mut clean = String::with_capacity(marked.len());
        let (mut plain, mut edges, mut open) = (Vec::new(), Vec::new(), None);
        for c in marked.chars() {
            match c {
                OPEN => open = Some(clean.len()),
                CLOSE => {
                    let range = open.take().map(|start| start..clean.len());
                    plain.extend(range.filter(|r| self.holds_spelling(&clean[r.clone()])));
                }
                EDGE => edges.push(clean.len()),
                c => clean.push(c),
            }
        }
        (clean, plain, edges)
    }

    /// Whether the text between two marks is still what was put there, or another spelling that a filter made of it. If
    /// the template split the string at the spelling, what is between is the template's own.
    fn holds_spelling(&self, text: &str) -> bool {
        if text.len() > 2 * self.longest {
            return false;
        }
        self.folded.contains(&text.to_lowercase()) || self.find(text).next().is_some()
    }

    /// `plain` and, outside of it, each spelling with an edge inside.
    fn with_joined(&self, clean: &str, plain: Vec<Range<usize>>, edges: &[usize]) -> Vec<Range<usize>> {
        let mut all = Vec::with_capacity(plain.len());
        let mut done = 0;
        for next in plain.into_iter().map(Some).chain([None]) {
            let end = next.as_ref().map_or(clean.len(), |r| r.start);
            for found in self.find(&clean[done..end]) {
                let (start, stop) = (done + found.start, done + found.end);
                let inside = edges.partition_point(|at| *at <= start);
                if edges.get(inside).is_some_and(|at| *at < stop) {
                    all.push(start..stop);
                }
            }
            if let Some(range) = next {
                done = range.end;
                all.push(range);
            }
        }
        all
    }
}

fn unescape(rendered: &str) -> Option<String> {
    if !rendered.contains("\\ufdd") && !rendered.contains("\\u{fdd") {
        return None;
    }
    let mut text = rendered.to_string();
    for (escaped, mark) in ESCAPED {
        text = text.replace(escaped, mark.encode_utf8(&mut [0; 4]));
    }
    Some(text)
}
