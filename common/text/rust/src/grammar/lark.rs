//! What a request wants its answer to look like, as the Lark text and JSON schemas that llguidance takes.

use super::schema;
use super::session::Limits;
use crate::fail::{shown, Fail, Result};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::regex_to_lark;
use serde_json::Value;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    JsonObject,
    JsonSchema,
    Regex,
    Choice,
    Lark,
    Calls,
}

/// Between the parts of a JSON value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WhiteSpace {
    None,   // {"a":1,"b":2}: as OpenAI's models write it
    Single, // {"a": 1, "b": 2}: as Python's json.dumps
    Any,
}

/// How calls are written: first, then before call after, between, ..., last.
pub struct CallShape<'a> {
    pub first: &'a str,
    pub before: &'a str,
    pub after: &'a str,
    pub between: &'a str,
    pub last: &'a str,
    pub arguments_key: &'a str,
    pub most: u32,           // calls; 0: any number
    pub optional: bool,      // text without a call is fine as well
    pub only_at_start: bool, // a call is only where the answer begins; text is told from it by its first character
    pub repeats: bool,       // text and calls may alternate
}

pub struct Spec<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub items: Vec<&'a str>, // choices; of calls: name, parameters, name, parameters...
    pub after: &'a str,      // any text up to this marker comes first
    pub white_space: WhiteSpace,
    pub calls: CallShape<'a>,
}

impl Spec<'_> {
    pub fn size(&self) -> usize {
        self.text.len() + self.after.len() + self.items.iter().map(|item| item.len()).sum::<usize>()
    }
}

struct Builder<'a> {
    control: &'a [(String, u32)],
    limits: &'a Limits,
    white_space: WhiteSpace,
    rules: String,
    schemas: Vec<Value>,
}

pub fn build(spec: &Spec, control: &[(String, u32)], limits: &Limits) -> Result<TopLevelGrammar> {
    let mut builder =
        Builder { control, limits, white_space: spec.white_space, rules: String::new(), schemas: Vec::new() };
    let own = spec.kind == Kind::Lark;
    if own {
        if spec.text.contains("::=") {
            return Err(Fail::unsupported("a grammar in GBNF (`::=`) is not supported; Lark is (`start: ...`)"));
        }
        if spec.text.trim().is_empty() {
            return Err(Fail::invalid("the grammar is empty"));
        }
    }
    let body = if own { "@own".to_string() } else { builder.body(spec)? };
    let thought = if spec.after.is_empty() { String::new() } else { builder.up_to(spec.after, "thought") };
    let mut grammars = Vec::new();
    if own && thought.is_empty() {
        grammars.push(GrammarWithLexer::from_lark(spec.text.to_string()));
    } else {
        grammars.push(GrammarWithLexer::from_lark(format!("start: {thought} {body}\n{}", builder.rules)));
        if own {
            let text = spec.text.to_string();
            grammars.push(GrammarWithLexer { name: Some("own".to_string()), ..GrammarWithLexer::from_lark(text) });
        }
    }
    for (i, schema) in builder.schemas.into_iter().enumerate() {
        grammars.push(GrammarWithLexer { name: Some(format!("json{i}")), ..GrammarWithLexer::from_json_schema(schema) });
    }
    Ok(TopLevelGrammar { grammars, max_tokens: None })
}

/// A string of a Lark grammar. JSON's syntax, but for the one control character that JSON does not escape.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

impl Builder<'_> {
    /// An expression for what follows the thought.
    fn body(&mut self, spec: &Spec) -> Result<String> {
        match spec.kind {
            Kind::JsonObject => self.schema(r#"{"type":"object"}"#, "json_object"),
            Kind::JsonSchema => self.schema(spec.text, "json_schema"),
            Kind::Regex => self.regex(spec.text),
            Kind::Choice => self.choice(&spec.items),
            Kind::Calls => self.calls(spec),
            Kind::Lark => Err(Fail::internal("a grammar of its own has no body")),
        }
    }

    fn schema(&mut self, text: &str, what: &str) -> Result<String> {
        let mut schema = schema::prepare(text, what, self.limits)?;
        if let Some(keywords) = schema.as_object_mut() {
            let (item, key) = if self.white_space == WhiteSpace::Single { (", ", ": ") } else { (",", ":") };
            let options = serde_json::json!({
                "item_separator": item,
                "key_separator": key,
                "whitespace_flexible": self.white_space == WhiteSpace::Any,
            });
            keywords.insert("x-guidance".to_string(), options);
        }
        self.schemas.push(schema);
        Ok(format!("@json{}", self.schemas.len() - 1))
    }

    fn regex(&mut self, text: &str) -> Result<String> {
        // The whole answer must match, with or without anchors.
        let mut body = text.strip_prefix('^').unwrap_or(text);
        if let Some(cut) = body.strip_suffix('$') {
            let backslashes = cut.len() - cut.trim_end_matches('\\').len();
            body = if backslashes % 2 == 0 { cut } else { body };
        }
        regex_syntax::Parser::new().parse(body).map_err(|e| {
            let lines = e.to_string();
            let reason = lines.lines().last().unwrap_or("").trim_start_matches("error: ").to_string();
            Fail::invalid(format!("the regex is not one that is supported: {reason}"))
        })?;
        if body.is_empty() {
            return Ok(r#""""#.to_string());
        }
        self.rules += &format!("PATTERN: /{}/\n", regex_to_lark(body, ""));
        Ok("PATTERN".to_string())
    }

    fn choice(&mut self, choices: &[&str]) -> Result<String> {
        if choices.is_empty() {
            return Err(Fail::invalid("no choices are given"));
        }
        let spelled: Vec<String> = choices.iter().filter(|choice| !choice.is_empty()).map(|c| quoted(c)).collect();
        if !spelled.is_empty() {
            self.rules += &format!("CHOICE: {}\n", spelled.join(" | "));
        }
        let empty = spelled.len() < choices.len();
        Ok(match (empty, spelled.is_empty()) {
            (true, true) => r#""""#.to_string(),
            (true, false) => r#"(CHOICE | "")"#.to_string(),
            _ => "CHOICE".to_string(),
        })
    }

    /// An expression for this very text, control tokens and all.
    fn literal(&self, text: &str) -> String {
        let mut parts = Vec::new();
        let mut plain = 0;
        let mut at = 0;
        while at < text.len() {
            match self.control.iter().find(|(spelling, _)| !spelling.is_empty() && text[at..].starts_with(spelling)) {
                Some((spelling, id)) => {
                    if plain < at {
                        parts.push(quoted(&text[plain..at]));
                    }
                    parts.push(format!("<[{id}]>"));
                    at += spelling.len();
                    plain = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        if plain < text.len() {
            parts.push(quoted(&text[plain..]));
        }
        if parts.is_empty() { r#""""#.to_string() } else { parts.join(" ") }
    }

    fn is_control(&self, marker: &str) -> bool {
        self.control.iter().any(|(spelling, _)| spelling == marker)
    }

    /// An expression for any text up to and with the first `marker`.
    fn up_to(&mut self, marker: &str, rule: &str) -> String {
        if self.is_control(marker) {
            self.rules += &format!("{rule}: ANY_TEXT? {}\n", self.literal(marker));
            self.any_text();
        } else {
            self.rules += &format!("{rule}[suffix={}]: /(?s:.*)/\n", quoted(marker));
        }
        rule.to_string()
    }

    fn any_text(&mut self) {
        if !self.rules.contains("ANY_TEXT:") {
            self.rules += "ANY_TEXT: /(?s:.+)/\n";
        }
    }

    fn calls(&mut self, spec: &Spec) -> Result<String> {
        let shape = &spec.calls;
        if spec.items.is_empty() || spec.items.len() % 2 != 0 {
            return Err(Fail::invalid("no functions are given to call"));
        }
        let mut calls = Vec::new();
        for tool in spec.items.chunks(2) {
            let parameters = if tool[1].is_empty() { r#"{"type":"object"}"# } else { tool[1] };
            let arguments = self.schema(parameters, &format!("the parameters of {}", shown(tool[0])))?;
            let head = format!("{{\"name\": {}, \"{}\": ", Value::from(tool[0]), shape.arguments_key);
            calls.push(format!("{} {arguments} \"}}\"", quoted(&head)));
        }
        self.rules += &format!("object: {}\n", calls.join("\n  | "));
        let (before, after) = (self.literal(shape.before), self.literal(shape.after));
        self.rules += &format!("call: {before} object {after}\n");
        let more = match shape.most {
            1 => String::new(),
            0 => format!("({} call)*", self.literal(shape.between)),
            most => format!("({} call){{0,{}}}", self.literal(shape.between), most - 1),
        };
        let (first, last) = (self.literal(shape.first), self.literal(shape.last));
        if !shape.optional {
            return Ok(format!("{first} call {more} {last}"));
        }
        if shape.only_at_start {
            let opening = format!("{}{}{{", shape.first, shape.before).chars().next().unwrap_or('{');
            self.rules += &format!("PLAIN: /\\s*[^\\s\\{opening}](?s:.*)/\n");
            return Ok(format!("(PLAIN | \"\" | {first} call {more} {last})"));
        }
        let whole = format!("{}{}", shape.first, shape.before);
        let marker = self.control.iter().find(|(spelling, _)| !spelling.is_empty() && whole.starts_with(spelling));
        let marker = marker.map_or(whole.trim_end(), |(spelling, _)| spelling).to_string();
        let rest = self.literal(&whole[marker.len()..]);
        let head = self.up_to(&marker, "head");
        let tail = if self.is_control(&marker) {
            self.any_text();
            "ANY_TEXT".to_string()
        } else {
            let pattern = regex_to_lark(&regex_syntax::escape(&marker), "");
            self.rules += &format!("TAIL: ~/(?s:.*){pattern}(?s:.*)/\n");
            "TAIL".to_string()
        };
        let block = format!("{head} {rest} object {after}");
        if shape.repeats && shape.most != 1 {
            self.rules += &format!("turns: {tail} | \"\" | {block} turns\n");
            return Ok("turns".to_string());
        }
        Ok(format!("({tail} | \"\" | {block} {more} {last})"))
    }
}
