//! A JSON schema as the graph that its references make of it.

use crate::fail::{shown, Fail, Result};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Which keywords hold schemas.
pub mod subschemas {
    pub fn is_map(keyword: &str) -> bool {
        matches!(keyword, "properties" | "patternProperties" | "$defs" | "definitions")
    }
    pub fn is_list(keyword: &str) -> bool {
        matches!(keyword, "anyOf" | "oneOf" | "allOf" | "prefixItems" | "items")
    }
    pub fn is_single(keyword: &str) -> bool {
        matches!(keyword, "items" | "additionalItems" | "additionalProperties")
    }
}

/// Steps that proofs about `oneOf` may take, all together.
const MOST_STEPS: u64 = 2_000_000;
const MOST_REF_HOPS: usize = 64;

pub struct Document<'a> {
    root: &'a Value,
    schemas: Vec<(&'a Map<String, Value>, String)>,
    index: HashMap<*const Map<String, Value>, usize>,
    /// Objects that share a value with another schema (allOf and the like): closing one would contradict the other.
    composed: HashSet<*const Map<String, Value>>,
    steps: std::cell::Cell<u64>,
}

impl<'a> Document<'a> {
    pub fn read(root: &'a Value) -> Result<Document<'a>> {
        let mut document = Document {
            root,
            schemas: Vec::new(),
            index: HashMap::new(),
            composed: HashSet::new(),
            steps: std::cell::Cell::new(0),
        };
        document.visit(root, "#".to_string())?;
        // References may lead to places that no keyword of schemas leads to.
        let mut next = 0;
        while next < document.schemas.len() {
            let (schema, path) = document.schemas[next].clone();
            if let Some(reference) = schema.get("$ref") {
                let target = document.target(reference, &path)?;
                if !target.is_object() && !target.is_boolean() {
                    return Err(Fail::invalid(format!("$ref at {path} does not lead to a schema")));
                }
                document.visit(target, reference.as_str().unwrap_or("").to_string())?;
            }
            next += 1;
        }
        for i in 0..document.schemas.len() {
            document.compose(document.schemas[i].0);
        }
        Ok(document)
    }

    pub fn schemas(&self) -> impl Iterator<Item = (&'a Map<String, Value>, &str)> {
        self.schemas.iter().map(|(schema, path)| (*schema, path.as_str()))
    }

    fn visit(&mut self, value: &'a Value, path: String) -> Result<()> {
        let Value::Object(schema) = value else {
            return Ok(());
        };
        if self.index.contains_key(&(schema as *const _)) {
            return Ok(());
        }
        self.index.insert(schema as *const _, self.schemas.len());
        self.schemas.push((schema, path.clone()));
        for (keyword, value) in schema {
            match value {
                Value::Object(members) if subschemas::is_map(keyword) => {
                    for (name, member) in members {
                        self.visit(member, format!("{path}/{keyword}/{}", name.replace('~', "~0").replace('/', "~1")))?;
                    }
                }
                Value::Array(items) if subschemas::is_list(keyword) => {
                    for (i, item) in items.iter().enumerate() {
                        self.visit(item, format!("{path}/{keyword}/{i}"))?;
                    }
                }
                value if subschemas::is_single(keyword) => self.visit(value, format!("{path}/{keyword}"))?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The reference as llguidance looks it up: not escaped.
    pub fn plain_pointer(&self, reference: &str) -> Result<String> {
        let Some(pointer) = reference.strip_prefix('#') else {
            let shown = shown(reference);
            return Err(Fail::unsupported(format!("$ref {shown}: only places in the schema itself (#/...) are supported")));
        };
        let bytes = pointer.as_bytes();
        let mut plain = Vec::with_capacity(bytes.len());
        let mut i = 0;
        while i < bytes.len() {
            let hex = pointer.get(i + 1..i + 3).filter(|_| bytes[i] == b'%');
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) => {
                    plain.push(byte);
                    i += 3;
                }
                None => {
                    plain.push(bytes[i]);
                    i += 1;
                }
            }
        }
        let plain = String::from_utf8(plain).map_err(|_| Fail::invalid("a $ref is not UTF-8"))?;
        if plain.contains('~') || (!plain.is_empty() && !plain.starts_with('/')) {
            let shown = shown(reference);
            return Err(Fail::unsupported(format!("$ref {shown}: anchors and names with / or ~ are not supported")));
        }
        Ok(format!("#{plain}"))
    }

    fn target(&self, reference: &Value, path: &str) -> Result<&'a Value> {
        let Some(text) = reference.as_str() else {
            return Err(Fail::invalid(format!("$ref at {path} is not a string")));
        };
        let plain = self.plain_pointer(text)?;
        if plain == "#" || plain == "#/" {
            return Ok(self.root);
        }
        self.root
            .pointer(&plain[1..])
            .ok_or_else(|| Fail::invalid(format!("$ref at {path} leads nowhere: {}", shown(text))))
    }

    fn follow(&self, schema: &Map<String, Value>) -> Option<&'a Value> {
        schema.get("$ref").and_then(|reference| self.target(reference, "").ok())
    }

    fn compose(&mut self, schema: &'a Map<String, Value>) {
        const BESIDES: [&str; 6] =
            ["properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"];
        const IN_PLACE: [&str; 4] = ["allOf", "anyOf", "oneOf", "$ref"];
        let in_place = IN_PLACE.iter().filter(|keyword| schema.contains_key(**keyword)).count();
        let besides = BESIDES.iter().any(|keyword| schema.contains_key(*keyword));
        let more_than_one = schema.get("allOf").and_then(Value::as_array).is_some_and(|parts| parts.len() > 1);
        if in_place > 1 || (in_place == 1 && besides) || more_than_one {
            self.mark_composed(schema);
        }
    }

    fn mark_composed(&mut self, schema: &'a Map<String, Value>) {
        if !self.composed.insert(schema as *const _) {
            return;
        }
        let mut parts: Vec<&'a Value> = Vec::new();
        for keyword in ["allOf", "anyOf", "oneOf"] {
            parts.extend(schema.get(keyword).and_then(Value::as_array).into_iter().flatten());
        }
        parts.extend(self.follow(schema));
        for part in parts {
            if let Value::Object(part) = part {
                self.mark_composed(part);
            }
        }
    }

    pub fn is_composed(&self, value: &Value) -> bool {
        value.as_object().is_some_and(|schema| self.composed.contains(&(schema as *const _)))
    }

    /// Refuses a root of which no finite value can be: the least set of schemas that end is grown until nothing joins.
    pub fn check_ends(&self) -> Result<()> {
        let mut ends = vec![false; self.schemas.len()];
        let mut changed = true;
        let mut forward = false;
        // Alternating directions, a chain needs few rounds whichever way it runs.
        for _ in 0..1000 {
            if !changed || ends[0] {
                break;
            }
            changed = false;
            forward = !forward;
            for n in 0..ends.len() {
                let i = if forward { n } else { ends.len() - 1 - n };
                if !ends[i] && self.can_end(self.schemas[i].0, &ends) {
                    ends[i] = true;
                    changed = true;
                }
            }
        }
        match ends[0] {
            true => Ok(()),
            false => Err(Fail::invalid("no value that ends can match: each one must contain, or be, another of its kind")),
        }
    }

    fn value_ends(&self, value: &Value, ends: &[bool]) -> bool {
        match value {
            Value::Object(schema) => self.index.get(&(schema as *const _)).is_some_and(|i| ends[*i]),
            Value::Bool(allowed) => *allowed,
            _ => true, // malformed: the compiler says so
        }
    }

    fn can_end(&self, schema: &Map<String, Value>, ends: &[bool]) -> bool {
        if self.follow(schema).is_some_and(|target| !self.value_ends(target, ends)) {
            return false;
        }
        let list = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
        if list("allOf").is_some_and(|parts| !parts.iter().all(|part| self.value_ends(part, ends))) {
            return false;
        }
        for keyword in ["anyOf", "oneOf"] {
            if list(keyword).is_some_and(|parts| !parts.iter().any(|part| self.value_ends(part, ends))) {
                return false;
            }
        }
        types(schema).iter().any(|kind| match *kind {
            "object" => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let required = list("required").into_iter().flatten().filter_map(Value::as_str);
                let mut needed = required.filter_map(|name| properties.and_then(|all| all.get(name)));
                needed.all(|property| self.value_ends(property, ends))
            }
            "array" => {
                let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
                let first = list("prefixItems").map_or(&[][..], Vec::as_slice);
                first.iter().take(least).all(|item| self.value_ends(item, ends))
                    && (least <= first.len() || schema.get("items").is_none_or(|items| self.value_ends(items, ends)))
            }
            _ => true,
        })
    }

    /// Whether `oneOf` says the same as `anyOf` here: no value can match two of the options.
    pub fn check_exclusive(&self, schema: &Map<String, Value>, options: &[Value]) -> Result<()> {
        for (i, a) in options.iter().enumerate() {
            for b in &options[i + 1..] {
                if !self.are_disjoint(a, b, 0) {
                    let path = self.index.get(&(schema as *const _)).map_or("", |i| self.schemas[*i].1.as_str());
                    let message = if self.steps.get() > MOST_STEPS {
                        return Err(Fail::exhausted(format!("oneOf at {path} has too many options to tell apart")));
                    } else {
                        format!("oneOf at {path}: a value may match two options, which is not supported; use anyOf")
                    };
                    return Err(Fail::unsupported(message));
                }
            }
        }
        Ok(())
    }

    fn step(&self, steps: usize) -> bool {
        self.steps.set(self.steps.get() + steps as u64 + 1);
        self.steps.get() <= MOST_STEPS
    }

    /// False when it cannot be shown.
    fn are_disjoint(&self, a: &Value, b: &Value, depth: usize) -> bool {
        if depth > 16 || !self.step(0) {
            return false;
        }
        let (Some(a), Some(b)) = (self.resolve(a), self.resolve(b)) else {
            return a == false || b == false;
        };
        for (one, other) in [(a, b), (b, a)] {
            let other = &Value::Object(other.clone());
            for keyword in ["anyOf", "oneOf"] {
                let parts = one.get(keyword).and_then(Value::as_array);
                if parts.is_some_and(|parts| parts.iter().all(|part| self.are_disjoint(part, other, depth + 1))) {
                    return true;
                }
            }
            let parts = one.get("allOf").and_then(Value::as_array);
            if parts.is_some_and(|parts| parts.iter().any(|part| self.are_disjoint(part, other, depth + 1))) {
                return true;
            }
        }
        let (types_a, types_b) = (types(a), types(b));
        if !types_a.iter().any(|kind| types_b.contains(kind)) {
            return true;
        }
        if let (Some(a), Some(b)) = (constants(a), constants(b)) {
            if !self.step(a.len() + b.len()) {
                return false;
            }
            let seen: HashSet<String> = a.iter().map(|value| canonical(value)).collect();
            return b.iter().all(|value| !seen.contains(&canonical(value)));
        }
        types_a == ["object"] && types_b == ["object"] && self.are_disjoint_objects(a, b, depth)
    }

    fn are_disjoint_objects(&self, a: &Map<String, Value>, b: &Map<String, Value>, depth: usize) -> bool {
        let property = |schema: &'_ Map<String, Value>, name: &str| -> Option<Value> {
            schema.get("properties").and_then(|all| all.get(name)).cloned()
        };
        for (one, other) in [(a, b), (b, a)] {
            let required = one.get("required").and_then(Value::as_array).into_iter().flatten();
            for name in required.filter_map(Value::as_str) {
                match (property(one, name), property(other, name)) {
                    (Some(mine), Some(theirs)) if self.are_disjoint(&mine, &theirs, depth + 1) => return true,
                    (_, None)
                        if other.get("additionalProperties") == Some(&Value::Bool(false))
                            && !other.contains_key("patternProperties") =>
                    {
                        return true;
                    }
                    _ => {}
                }
            }
        }
        false
    }

    /// What the value refers to, over references that stand alone.
    fn resolve<'v>(&'v self, value: &'v Value) -> Option<&'v Map<String, Value>> {
        let mut schema = value.as_object()?;
        for _ in 0..MOST_REF_HOPS {
            match self.follow(schema) {
                Some(target) if !schema.keys().any(|keyword| matches!(keyword.as_str(), "allOf" | "anyOf" | "oneOf")) => {
                    schema = target.as_object()?;
                }
                _ => return Some(schema),
            }
        }
        Some(schema)
    }
}

/// The types that a value may have; "integer" counts as "number".
fn types(schema: &Map<String, Value>) -> Vec<&'static str> {
    const ALL: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
    let known = |name: &str| ALL.iter().copied().find(|kind| *kind == name || (*kind == "number" && name == "integer"));
    let given: Option<Vec<&'static str>> = match schema.get("type") {
        Some(Value::String(name)) => Some(known(name).into_iter().collect()),
        Some(Value::Array(names)) => Some(names.iter().filter_map(Value::as_str).filter_map(known).collect()),
        _ => None,
    };
    let of_constants: Option<Vec<&'static str>> = constants(schema).map(|values| {
        values
            .iter()
            .map(|value| match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            })
            .collect()
    });
    ALL.iter()
        .copied()
        .filter(|kind| given.as_ref().is_none_or(|given| given.contains(kind)))
        .filter(|kind| of_constants.as_ref().is_none_or(|all| all.contains(kind)))
        .collect()
}

fn constants(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    schema.get("enum").and_then(Value::as_array).map(|values| values.iter().collect())
}

/// Equal for values that JSON schema calls equal: 1 and 1.0.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |n| n.to_string()),
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_str());
            let parts: Vec<String> =
                sorted.into_iter().map(|(name, value)| format!("{name:?}:{}", canonical(value))).collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}
