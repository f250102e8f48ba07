//! JSON schemas as requests bring them, checked and put into the words that llguidance takes exactly.
//!
//! What it would get wrong, spend without bound or not say with a place is found here: keywords that it does not know,
//! references that lead nowhere or never end, sizes. `oneOf` becomes `anyOf` where no value can match two options.

use super::session::Limits;
use super::walk::{subschemas, Document};
use crate::fail::{shown, Fail, Result};
use serde_json::{Map, Value};

/// Keywords that restrict and that a grammar cannot follow.
const UNSUPPORTED: [&str; 17] = [
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "contains", "minContains",
    "maxContains", "uniqueItems", "unevaluatedProperties", "unevaluatedItems", "propertyNames", "$dynamicRef",
    "$recursiveRef", "extends",
];
/// The standard's formats that are followed (formats.rs of llguidance, and `uri` here).
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
/// The standard's other formats. Names outside of the standard say nothing about the text, so they are left out.
const UNSUPPORTED_FORMATS: [&str; 9] = [
    "idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template", "json-pointer",
    "relative-json-pointer", "regex",
];
/// RFC 3986: a scheme, and after it only characters of its grammar.
const URI: &str = r"^[A-Za-z][A-Za-z0-9+.\-]*:(//[A-Za-z0-9._~\-]+(:[0-9]+)?)?(/([A-Za-z0-9._~!$&'()*+,;=:@\-]|%[0-9A-Fa-f]{2})*)*(\?([A-Za-z0-9._~!$&'()*+,;=:@/?\-]|%[0-9A-Fa-f]{2})*)?(#([A-Za-z0-9._~!$&'()*+,;=:@/?\-]|%[0-9A-Fa-f]{2})*)?$";
/// A date whose February ends where it does.
const FEBRUARY: &str = "^....-(0[13-9]-..|1[0-2]-..|02-[01].|02-2[0-8])|^..(0[48]|[2468][048]|[13579][26])-02-29|^(0[48]|[2468][048]|[13579][26])00-02-29";
/// Matches every name of a property.
const ANY_NAME: &str = "(?s:.*)";
/// Integers beyond are not exact as the floating-point numbers that the compiler computes with.
const EXACT: f64 = 9007199254740992.0; // 2^53
const MOST_LENGTH: u64 = 1 << 20; // of minLength and maxLength

/// `what`: how errors call it.
pub fn prepare(text: &str, what: &str, limits: &Limits) -> Result<Value> {
    let root: Value = serde_json::from_str(text).map_err(|e| {
        let message = format!("{what} is not JSON: {e}");
        if message.contains("recursion limit") { Fail::exhausted(message) } else { Fail::invalid(message) }
    })?;
    let mut size = Size { values: 0, depth: 0 };
    size.measure(&root, 1);
    if size.depth > limits.depth {
        return Err(Fail::exhausted(format!("{what} is nested deeper than {}", limits.depth)));
    }
    if size.values > limits.nodes {
        return Err(Fail::exhausted(format!("{what} has more than {} values", limits.nodes)));
    }
    let within = |fail: Fail| Fail { message: format!("{what}: {}", fail.message), ..fail };
    match &root {
        Value::Bool(true) => return Ok(Value::Object(Map::new())),
        Value::Object(_) => {}
        _ => return Err(Fail::invalid(format!("{what} is not an object"))),
    }
    let document = Document::read(&root).map_err(within)?;
    for (schema, path) in document.schemas() {
        check(schema, path, limits).map_err(within)?;
    }
    document.check_ends().map_err(within)?;
    rebuild(&root, &document).map_err(within)
}

struct Size {
    values: u64,
    depth: u64,
}

impl Size {
    fn measure(&mut self, value: &Value, depth: u64) {
        self.values += 1;
        self.depth = self.depth.max(depth);
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.measure(item, depth + 1)),
            Value::Object(members) => members.values().for_each(|member| self.measure(member, depth + 1)),
            _ => {}
        }
    }
}

fn check(schema: &Map<String, Value>, path: &str, limits: &Limits) -> Result<()> {
    for (keyword, value) in schema {
        let at = || format!("{keyword} at {path}");
        match keyword.as_str() {
            "uniqueItems" if value == false => {}
            "type" => check_type(value, &at())?,
            "format" => match value.as_str() {
                Some(format) if UNSUPPORTED_FORMATS.contains(&format) => {
                    return Err(Fail::unsupported(format!("{}: {} is not supported", at(), shown(format))));
                }
                Some(_) => {}
                None => return Err(Fail::invalid(format!("{} is not a string", at()))),
            },
            "minLength" | "maxLength" if value.as_u64().is_some_and(|n| n > MOST_LENGTH) => {
                return Err(Fail::exhausted(format!("{} is more than {MOST_LENGTH}", at())));
            }
            "minItems" | "maxItems" | "minProperties" | "maxProperties"
                if value.as_u64().is_some_and(|n| n > limits.nodes / 8) =>
            {
                return Err(Fail::exhausted(format!("{} is more than {}", at(), limits.nodes / 8)));
            }
            "enum" => match value.as_array() {
                Some(values) if values.is_empty() => {
                    return Err(Fail::invalid(format!("{} has no values", at())));
                }
                Some(values) => values.iter().try_for_each(|value| check_exact(value, &at()))?,
                None => return Err(Fail::invalid(format!("{} is not an array", at()))),
            },
            "const" => check_exact(value, &at())?,
            "multipleOf" if value.as_f64().is_some_and(|n| n == 0.0) => {
                return Err(Fail::invalid(format!("{} is 0", at())));
            }
            "minimum" | "exclusiveMinimum" if value.as_f64().is_some_and(|n| n > EXACT) => {
                return Err(Fail::unsupported(format!("{} is beyond 2^53", at())));
            }
            "maximum" | "exclusiveMaximum" if value.as_f64().is_some_and(|n| n < -EXACT) => {
                return Err(Fail::unsupported(format!("{} is beyond -2^53", at())));
            }
            unsupported if UNSUPPORTED.contains(&unsupported) => {
                return Err(Fail::unsupported(format!("{} is not supported", at())));
            }
            _ => {}
        }
    }
    // Free names may repeat, so that more members are not more properties.
    let required = schema.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    if schema.get("minProperties").and_then(Value::as_u64).is_some_and(|least| least > required + 1) {
        return Err(Fail::unsupported(format!("minProperties at {path} above the required ones by two or more")));
    }
    Ok(())
}

fn check_type(value: &Value, at: &str) -> Result<()> {
    const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];
    let names = match value {
        Value::Array(names) if !names.is_empty() => names.as_slice(),
        other => std::slice::from_ref(other),
    };
    match names.iter().find(|name| !name.as_str().is_some_and(|name| TYPES.contains(&name))) {
        Some(name) => Err(Fail::invalid(format!("{at}: {} is not a type", shown(&name.to_string())))),
        None => Ok(()),
    }
}

fn check_exact(value: &Value, at: &str) -> Result<()> {
    match value {
        Value::Number(n) if n.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() >= EXACT) => {
            Err(Fail::unsupported(format!("{at}: numbers beyond 2^53 are not supported")))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_exact(item, at)),
        Value::Object(members) => members.values().try_for_each(|member| check_exact(member, at)),
        _ => Ok(()),
    }
}

/// The schema in the words of llguidance; pointers into it stay good.
fn rebuild(value: &Value, document: &Document) -> Result<Value> {
    let Value::Object(schema) = value else {
        return Ok(value.clone());
    };
    let mut made = Map::new();
    for (keyword, value) in schema {
        let value = if subschemas::is_map(keyword) {
            match value {
                Value::Object(members) => Value::Object(
                    members.iter().map(|(k, v)| Ok((k.clone(), rebuild(v, document)?))).collect::<Result<_>>()?,
                ),
                other => other.clone(),
            }
        } else if subschemas::is_list(keyword) && value.is_array() {
            let items = value.as_array().into_iter().flatten();
            Value::Array(items.map(|item| rebuild(item, document)).collect::<Result<_>>()?)
        } else if subschemas::is_single(keyword) {
            rebuild(value, document)?
        } else {
            value.clone()
        };
        made.insert(keyword.clone(), value);
    }
    made.shift_remove("uniqueItems"); // false: see check
    made.shift_remove("x-guidance"); // options of llguidance are ours to give
    if let Some(reference) = made.get("$ref").and_then(Value::as_str) {
        made.insert("$ref".to_string(), Value::from(document.plain_pointer(reference)?));
    }
    rewrite_format(&mut made);
    if let Some(options) = schema.get("oneOf").and_then(Value::as_array) {
        document.check_exclusive(schema, options)?;
        if let Some(options) = made.shift_remove("oneOf") {
            if made.contains_key("anyOf") {
                push_all_of(&mut made, Value::Object([("anyOf".to_string(), options)].into_iter().collect()));
            } else {
                made.insert("anyOf".to_string(), options);
            }
        }
    }
    if !document.is_composed(value) {
        close(&mut made);
    }
    Ok(Value::Object(made))
}

fn push_all_of(schema: &mut Map<String, Value>, part: Value) {
    match schema.get_mut("allOf").and_then(Value::as_array_mut) {
        Some(parts) => parts.push(part),
        None => {
            schema.insert("allOf".to_string(), Value::Array(vec![part]));
        }
    }
}

fn rewrite_format(schema: &mut Map<String, Value>) {
    let Some(format) = schema.get("format").and_then(Value::as_str).map(str::to_string) else {
        return;
    };
    if format == "uri" {
        schema.shift_remove("format");
        if schema.contains_key("pattern") {
            push_all_of(schema, serde_json::json!({ "pattern": URI }));
        } else {
            schema.insert("pattern".to_string(), Value::from(URI));
        }
    } else if matches!(format.as_str(), "time" | "date" | "date-time") {
        // llguidance's formats have leap seconds, as RFC 3339 has, but most that read times do not; they have a year
        // 0, and a 29th of February in all years.
        if format != "date" {
            push_all_of(schema, serde_json::json!({ "pattern": ":[0-5][0-9]:[0-5][0-9]" }));
        }
        if format != "time" {
            push_all_of(schema, serde_json::json!({ "pattern": "^(...[1-9]|..[1-9]0|.[1-9]00|[1-9]000)-" }));
            push_all_of(schema, serde_json::json!({ "pattern": FEBRUARY }));
        }
    } else if !FORMATS.contains(&format.as_str()) {
        schema.shift_remove("format");
    }
}

/// Which properties an object may have besides those that its schema names: none unless it says so. (By the standard,
/// any; but a model that is free to add properties does not end.) Where free names are wanted they are a pattern,
/// because llguidance keeps a pattern's names, but not an additional property's, apart from "named" ones however spelled.
fn close(schema: &mut Map<String, Value>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let names_only_these = schema
        .get("required")
        .and_then(Value::as_array)
        .is_none_or(|names| names.iter().filter_map(Value::as_str).all(|name| properties.contains_key(name)));
    let nothing_named = properties.is_empty();
    let patterns = schema.contains_key("patternProperties");
    let others = match schema.get("additionalProperties") {
        None if names_only_these || patterns => Value::Bool(false),
        None => Value::Bool(true),
        Some(others) => others.clone(),
    };
    if others == false || nothing_named || patterns {
        schema.insert("additionalProperties".to_string(), others);
        return;
    }
    let named = Value::Object([(ANY_NAME.to_string(), others)].into_iter().collect());
    schema.insert("patternProperties".to_string(), named);
    schema.insert("additionalProperties".to_string(), Value::Bool(false));
}
