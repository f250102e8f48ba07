//! Splitting text into words before byte-pair merging. The widespread splitting expressions are scanned by hand: linear in
//! the text, no backtracking limit, several times faster. Each scanner states the expression that it is equal to; tests
//! compare both on random text. Any other expression runs as it is.

use fancy_regex::Regex;
use std::sync::LazyLock;

/// GPT-2's expression, also inside the ByteLevel pre-tokenizer.
pub const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's: contractions in any case, at most three digits, line ends apart.
pub const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: Llama 3's with single digits.
pub const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// One splitting step; steps are applied to the pieces of the step before.
pub enum Stage {
    /// Each character of \p{N} is a piece.
    Digits,
    Gpt2,
    /// LLAMA3 with max_digits 3, QWEN2 with 1.
    Llama3 { max_digits: usize },
    /// Matches are pieces, and so is what lies between them.
    Expression(Box<Regex>),
}

impl Stage {
    pub fn expression(source: &str) -> Result<Stage, fancy_regex::Error> {
        Ok(match source {
            GPT2 => Stage::Gpt2,
            LLAMA3 => Stage::Llama3 { max_digits: 3 },
            QWEN2 => Stage::Llama3 { max_digits: 1 },
            other => Stage::Expression(Box::new(Regex::new(other)?)),
        })
    }

    pub fn is_scanner(&self) -> bool {
        !matches!(self, Stage::Expression(_))
    }

    pub fn split<'a>(&self, text: &'a str, out: &mut Vec<&'a str>) {
        match self {
            Stage::Digits => split_digits(text, out),
            Stage::Gpt2 => split_scan(text, out, gpt2_piece),
            Stage::Llama3 { max_digits } => split_scan(text, out, |rest| llama3_piece(rest, *max_digits)),
            Stage::Expression(regex) => split_expression(text, out, regex),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other = 0,
    Letter = 1,
    Number = 2,
    Space = 3,
}

/// \p{L}, \p{N} and \s of every character, in pages of 256.
struct Classes {
    page_of: Vec<u16>,
    pages: Vec<[Class; 256]>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::new);

impl Classes {
    fn new() -> Classes {
        let mut flat = vec![Class::Other; 0x11_0000];
        for (expression, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)] {
            for (first, last) in class_ranges(expression) {
                flat[first as usize..=last as usize].fill(class);
            }
        }
        let mut classes = Classes { page_of: Vec::new(), pages: Vec::new() };
        for page in flat.chunks_exact(256) {
            let page: [Class; 256] = page.try_into().expect("256 characters");
            let at = classes.pages.iter().position(|p| *p == page).unwrap_or_else(|| {
                classes.pages.push(page);
                classes.pages.len() - 1
            });
            classes.page_of.push(at as u16);
        }
        classes
    }

    fn of(&self, c: char) -> Class {
        let c = c as usize;
        self.pages[self.page_of[c >> 8] as usize][c & 255]
    }
}

fn class_ranges(expression: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(expression).expect("a class of our own");
    match hir.kind() {
        regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            class.ranges().iter().map(|r| (r.start(), r.end())).collect()
        }
        _ => unreachable!("not a class: {expression}"),
    }
}

fn class(c: char) -> Class {
    CLASSES.of(c)
}

/// Bytes of the leading characters of `text` that are of `wanted`.
fn run(text: &str, wanted: Class) -> usize {
    text.find(|c| class(c) != wanted).unwrap_or(text.len())
}

fn split_scan<'a>(mut rest: &'a str, out: &mut Vec<&'a str>, piece: impl Fn(&str) -> usize) {
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(piece(rest));
        out.push(head);
        rest = tail;
    }
}

fn split_digits<'a>(text: &'a str, out: &mut Vec<&'a str>) {
    let mut start = 0;
    for (at, c) in text.char_indices().filter(|(_, c)| class(*c) == Class::Number) {
        if start < at {
            out.push(&text[start..at]);
        }
        start = at + c.len_utf8();
        out.push(&text[at..start]);
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
}

fn split_expression<'a>(text: &'a str, out: &mut Vec<&'a str>, regex: &Regex) {
    let mut start = 0;
    // A match that runs into the engine's backtracking limit ends the splitting; what is left stays one piece.
    for found in regex.find_iter(text).map_while(Result::ok) {
        if found.start() > start {
            out.push(&text[start..found.start()]);
        }
        if found.end() > found.start() {
            out.push(found.as_str());
        }
        start = found.end();
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
}

/// Length of 's 't 're 've 'm 'll 'd at the start of `text`, else 0.
fn contraction(text: &str, any_case: bool) -> usize {
    let Some(rest) = text.strip_prefix('\'') else { return 0 };
    let fold = |c: char| match c {
        'A'..='Z' if any_case => c.to_ascii_lowercase(),
        '\u{17f}' if any_case => 's', // long s: equal to s when case is ignored
        other => other,
    };
    let mut chars = rest.chars();
    let first = chars.next();
    match (first.map(fold), chars.next().map(fold)) {
        (Some('r' | 'v'), Some('e')) | (Some('l'), Some('l')) => 3,
        (Some('s' | 't' | 'm' | 'd'), _) => 1 + first.map_or(0, char::len_utf8),
        _ => 0,
    }
}

/// `\s+(?!\S)|\s+` at the start of `text`, which is a space character: all of the run at the end of the text, else all but
/// its last character, which goes with the word that follows.
fn spaces(text: &str) -> usize {
    let end = run(text, Class::Space);
    if end == text.len() {
        return end;
    }
    let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
    if end > last {
        end - last
    } else {
        end
    }
}

fn gpt2_piece(text: &str) -> usize {
    let short = contraction(text, false);
    if short > 0 {
        return short;
    }
    let lead = usize::from(text.starts_with(' '));
    match text[lead..].chars().next().map(class) {
        Some(Class::Space) | None => spaces(text),
        Some(other) => lead + run(&text[lead..], other),
    }
}

fn llama3_piece(text: &str, max_digits: usize) -> usize {
    let short = contraction(text, true);
    if short > 0 {
        return short;
    }
    let mut chars = text.chars();
    let first = chars.next().unwrap_or('\0');
    let (first_class, first_len) = (class(first), first.len_utf8());
    match first_class {
        Class::Letter => return run(text, Class::Letter),
        Class::Number => {
            let digits = text.chars().take(max_digits).take_while(|c| class(*c) == Class::Number);
            return digits.map(char::len_utf8).sum();
        }
        _ => {}
    }
    if first != '\r' && first != '\n' {
        let letters = run(&text[first_len..], Class::Letter);
        if letters > 0 {
            return first_len + letters;
        }
    }
    let lead = usize::from(first == ' ');
    let others = run(&text[lead..], Class::Other);
    if others > 0 {
        let end = lead + others;
        return end + text[end..].bytes().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    }
    match text[..run(text, Class::Space)].rfind(['\r', '\n']) {
        Some(line_end) => line_end + 1,
        None => spaces(text),
    }
}
