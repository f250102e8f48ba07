//! Chat templates: minijinja, set up as the `transformers` library sets up Jinja.

use crate::fail::{Fail, Result};
use crate::pyjson::{tojson, TooMuch};
use crate::sentinel::{Marker, Piece};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{from_args, Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;
use std::io;
use std::sync::Arc;

const MAX_STEPS: u64 = 1_000_000;
const MAX_OUTPUT: usize = 1 << 20; // bytes
const MAX_RECURSION: usize = 100; // macros and nested blocks; far above any published template
const NAME: &str = "chat";

pub struct Template {
    environment: Environment<'static>,
    marker: Arc<Marker>,
    bos_token: String,
    eos_token: String,
}

impl Template {
    pub fn create(source: &str, bos_token: &str, eos_token: &str, control_spellings: &[&str]) -> Result<Template> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Fail::internal(format!("template syntax: {e}")))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_recursion_limit(MAX_RECURSION);
        let marker = Arc::new(Marker::new(control_spellings)?);
        let of_method = Arc::clone(&marker);
        environment.set_unknown_method_callback(move |state, value, name, args| {
            method(&of_method, state, value, name, args)
        });
        let of_filter = Arc::clone(&marker);
        environment.add_filter("replace", move |value: &Value, from: &Value, to: &Value, most: Option<usize>| {
            replaced(&of_filter, &text_of(value), &text_of(from), &text_of(to), most)
        });
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", |value: &Value, indent: Option<Value>, options: Kwargs| {
            tojson(value, indent, options, MAX_OUTPUT)
        });
        let made = environment.add_template_owned(NAME, without_generation_tags(source));
        made.map_err(|e| Fail::invalid(format!("chat template{}", described(&e))))?;
        Ok(Template {
            environment,
            marker,
            bos_token: bos_token.into(),
            eos_token: eos_token.into(),
        })
    }

    /// `strftime` formats the current local time; None when it does not know the format.
    pub fn render<F>(&self, context_json: &str, strftime: F) -> Result<Vec<Piece>>
    where
        F: Fn(&str) -> Option<String> + Send + Sync + 'static,
    {
        let context: Json =
            serde_json::from_str(context_json).map_err(|e| Fail::invalid(format!("template context: {e}")))?;
        let Json::Object(context) = context else {
            return Err(Fail::invalid("template context: not a JSON object"));
        };
        // What transformers always defines; the context's own values come later and win.
        let mut variables: Vec<(String, Value)> = vec![
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), Value::from(false)),
            ("bos_token".into(), Value::from(self.bos_token.as_str())),
            ("eos_token".into(), Value::from(self.eos_token.as_str())),
        ];
        variables.extend(context.into_iter().map(|(key, value)| (key, self.marked(value))));
        let now = Value::from_function(move |format: &str| {
            strftime(format)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: format {format:?}")))
        });
        variables.push(("strftime_now".into(), now));

        let template = self.environment.get_template(NAME).map_err(|e| Fail::internal(e.to_string()))?;
        let mut out = Bounded(Vec::new());
        let rendered = template.render_captured_to(Value::from_pairs(variables), &mut out).map(|_| ());
        rendered.map_err(failure)?;
        let text = String::from_utf8(out.0).map_err(|_| Fail::internal("the chat template's output is not UTF-8"))?;
        Ok(self.marker.split(&text))
    }

    fn marked(&self, json: Json) -> Value {
        match json {
            Json::Null => Value::from(()),
            Json::Bool(b) => Value::from(b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::from(i),
                (None, Some(u)) => Value::from(u),
                _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::from(self.marker.mark(&s)),
            Json::Array(items) => items.into_iter().map(|item| self.marked(item)).collect(),
            Json::Object(pairs) => {
                Value::from_pairs(pairs.into_iter().map(|(k, v)| (self.marker.mark(&k), self.marked(v))))
            }
        }
    }
}

/// Collects output up to MAX_OUTPUT bytes.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(TooMuch));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message that the template itself raised.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &str) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message.to_string())))
}

fn described(error: &Error) -> String {
    let line = error.line().map(|line| format!(" line {line}")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{line}: {}: {detail}", error.kind()),
        None => format!("{line}: {}", error.kind()),
    }
}

fn failure(error: Error) -> Fail {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(at) = cause {
        if let Some(Raised(message)) = at.downcast_ref() {
            return Fail::invalid(format!("chat template: {message}"));
        }
        let inner = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if at.is::<TooMuch>() || inner.is_some_and(|e| e.is::<TooMuch>()) {
            return Fail::exhausted(format!("the chat template makes more than {MAX_OUTPUT} bytes"));
        }
        if let Some(e) = at.downcast_ref::<Error>() {
            if e.kind() == ErrorKind::OutOfFuel {
                return Fail::exhausted(format!("the chat template takes more than {MAX_STEPS} steps"));
            }
            if e.detail().is_some_and(|d| d.contains("recursion limit")) {
                return Fail::exhausted("the chat template is nested too deeply");
            }
        }
        cause = at.source();
    }
    let mut message = format!("chat template{}", described(&error));
    let mut cause = std::error::Error::source(&error);
    while let Some(at) = cause {
        message.push_str(&format!(": {at}"));
        cause = at.source();
    }
    Fail::invalid(message)
}

/// `{% generation %}` ... `{% endgeneration %}` tells transformers which part is the answer when it trains; for rendering
/// it is a block that is always there.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (head, tag) = rest.split_at(at + 2);
        out.push_str(head);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let body = &tag[..end];
        let replacement = match body.trim_matches(['-', '+']).trim() {
            "generation" => body.replace("generation", "if true"),
            "endgeneration" => body.replace("endgeneration", "endif"),
            _ => continue,
        };
        out.push_str(&replacement);
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

/// Python's methods: minijinja-contrib's, and those of str that it lacks.
fn method(
    marker: &Marker,
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> std::result::Result<Value, Error> {
    if value.kind() == ValueKind::String {
        let text = value.as_str().unwrap_or_default();
        if name == "replace" {
            let (from, to, most): (&str, &str, Option<i64>) = from_args(args)?;
            return Ok(Value::from(replaced(marker, text, from, to, most.and_then(|n| usize::try_from(n).ok()))));
        }
        if let Some(result) = string_method(text, name, args)? {
            return Ok(result);
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// `most`: how many occurrences; none for all.
fn replaced(marker: &Marker, text: &str, from: &str, to: &str, most: Option<usize>) -> String {
    let most = most.unwrap_or(usize::MAX);
    if to.is_empty() && !from.is_empty() {
        return marker.without(text, from, most);
    }
    text.replacen(from, to, most)
}

fn string_method(text: &str, name: &str, args: &[Value]) -> std::result::Result<Option<Value>, Error> {
    let three = |parts: [&str; 3]| Some(parts.into_iter().map(Value::from).collect());
    Ok(match name {
        "removeprefix" | "removesuffix" | "partition" | "rpartition" => {
            let (part,): (&str,) = from_args(args)?;
            if part.is_empty() && name.ends_with("partition") {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            match name {
                "removeprefix" => Some(Value::from(text.strip_prefix(part).unwrap_or(text))),
                "removesuffix" => Some(Value::from(text.strip_suffix(part).unwrap_or(text))),
                "partition" => three(text.split_once(part).map_or([text, "", ""], |(a, b)| [a, part, b])),
                _ => three(text.rsplit_once(part).map_or(["", "", text], |(a, b)| [a, part, b])),
            }
        }
        "rsplit" => {
            let (separator, most): (&str, Option<usize>) = from_args(args)?;
            let mut parts: Vec<&str> = match most {
                Some(most) => text.rsplitn(most + 1, separator).collect(),
                None => text.rsplit(separator).collect(),
            };
            parts.reverse();
            Some(parts.into_iter().map(Value::from).collect())
        }
        _ => None,
    })
}
