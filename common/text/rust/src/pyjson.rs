//! JSON as Python's json.dumps writes it. Chat templates are written against that; models have seen its spacing.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

const MAX_DEPTH: usize = 200; // the request body is limited to less; a template can build more

/// The template tried to make more than it may.
#[derive(Debug)]
pub struct TooMuch;

impl std::fmt::Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("past the limit")
    }
}

impl std::error::Error for TooMuch {}

struct Writer<'a> {
    out: String,
    limit: usize,
    indent: Option<String>,
    item_separator: &'a str,
    key_separator: &'a str,
    ensure_ascii: bool,
    sort_keys: bool,
}

/// The `tojson` filter: tojson(indent=None, ensure_ascii=False, separators=None, sort_keys=False).
pub fn tojson(value: &Value, indent: Option<Value>, options: Kwargs, limit: usize) -> Result<String, Error> {
    let indent = indent.or(options.get::<Option<Value>>("indent")?).filter(|i| !i.is_none() && !i.is_undefined());
    let indent = match indent {
        None => None,
        Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
        Some(count) => {
            let count = usize::try_from(count)?;
            if count > 64 {
                return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent is above 64"));
            }
            Some(" ".repeat(count))
        }
    };
    let separators = options.get::<Option<Value>>("separators")?.filter(|s| !s.is_none() && !s.is_undefined());
    let separator = |at: usize| -> Result<Option<String>, Error> {
        separators.as_ref().map(|s| s.get_item_by_index(at).map(|v| v.to_string())).transpose()
    };
    let (items, keys) = (separator(0)?, separator(1)?);
    let mut writer = Writer {
        out: String::new(),
        limit,
        item_separator: items.as_deref().unwrap_or(if indent.is_some() { "," } else { ", " }),
        key_separator: keys.as_deref().unwrap_or(": "),
        indent,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.out)
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH || self.out.len() > self.limit {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: too much output").with_source(TooMuch));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            other => {
                let what = format!("tojson: a value of type {other} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn sequence(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut any = false;
        for item in value.try_iter()? {
            if any {
                self.out.push_str(self.item_separator);
            }
            any = true;
            self.line(depth + 1);
            self.value(&item, depth + 1)?;
        }
        if any {
            self.line(depth);
        }
        self.out.push(']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut pairs = Vec::new();
        for key in value.try_iter()? {
            let item = value.get_item(&key)?;
            pairs.push((key_text(&key)?, item));
        }
        if self.sort_keys {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        let any = !pairs.is_empty();
        for (number, (key, item)) in pairs.into_iter().enumerate() {
            if number > 0 {
                self.out.push_str(self.item_separator);
            }
            self.line(depth + 1);
            self.string(&key);
            self.out.push_str(self.key_separator);
            self.value(&item, depth + 1)?;
        }
        if any {
            self.line(depth);
        }
        self.out.push('}');
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~' && !crate::sentinel::is_mark(c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_string(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number if key.is_integer() => key.to_string(),
        ValueKind::Number => float(f64::try_from(key.clone())?),
        other => {
            let what = format!("tojson: a key of type {other} is not JSON serializable");
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
    })
}

/// Python's repr of a float: the shortest digits; an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || value == 0.0 {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
