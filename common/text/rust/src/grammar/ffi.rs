//! The C entries of grammars; the rest of the crate's are in `crate::ffi`, where the rules are told.

use super::lark::{CallShape, Kind, Spec, WhiteSpace};
use super::session::{Compiler, Grammar, Limits, Matcher};
use crate::fail::{Fail, Result};
use crate::ffi::{guarded, strings, BytesSink, Str};

#[repr(C)]
pub struct CCallShape {
    first: Str,
    before: Str,
    after: Str,
    between: Str,
    last: Str,
    arguments_key: Str,
    most: u32,
    optional: i32,
    only_at_start: i32,
    repeats: i32,
}

#[repr(C)]
pub struct CSpec {
    kind: i32,
    white_space: i32,
    text: Str,
    items: *const Str,
    item_count: usize,
    after: Str,
    calls: CCallShape,
}

impl CSpec {
    /// # Safety
    /// All views are readable while the result is used.
    unsafe fn read<'a>(&self) -> Result<Spec<'a>> {
        let kind = match self.kind {
            0 => Kind::JsonObject,
            1 => Kind::JsonSchema,
            2 => Kind::Regex,
            3 => Kind::Choice,
            4 => Kind::Lark,
            5 => Kind::Calls,
            other => return Err(Fail::internal(format!("no kind of grammar has the number {other}"))),
        };
        let white_space = match self.white_space {
            0 => WhiteSpace::None,
            1 => WhiteSpace::Single,
            _ => WhiteSpace::Any,
        };
        let calls = &self.calls;
        Ok(Spec {
            kind,
            white_space,
            text: self.text.utf8("the grammar")?,
            items: strings(self.items, self.item_count, "choice or function")?,
            after: self.after.utf8("the marker")?,
            calls: CallShape {
                first: calls.first.utf8("a marker of calls")?,
                before: calls.before.utf8("a marker of calls")?,
                after: calls.after.utf8("a marker of calls")?,
                between: calls.between.utf8("a marker of calls")?,
                last: calls.last.utf8("a marker of calls")?,
                arguments_key: calls.arguments_key.utf8("the key of arguments")?,
                most: calls.most,
                optional: calls.optional != 0,
                only_at_start: calls.only_at_start != 0,
                repeats: calls.repeats != 0,
            },
        })
    }
}

/// # Safety
/// See shoal_text.h: views and arrays are readable during the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_grammar_compiler_create(
    tokens: *const Str,
    control: *const u8,
    count: usize,
    ends: *const u32,
    end_count: usize,
    out: *mut *mut Compiler,
    error: BytesSink,
) -> i32 {
    guarded(&error, || {
        if count == 0 {
            return Err(Fail::invalid("the vocabulary is empty"));
        }
        let words: Vec<&[u8]> = std::slice::from_raw_parts(tokens, count).iter().map(|token| token.bytes()).collect();
        let control = std::slice::from_raw_parts(control, count);
        let ends = if end_count == 0 { &[] } else { std::slice::from_raw_parts(ends, end_count) };
        *out = Box::into_raw(Box::new(Compiler::new(&words, control, ends)?));
        Ok(())
    })
}

/// # Safety
/// `compiler` came from the function above, is freed once, and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn shoal_grammar_compiler_free(compiler: *mut Compiler) {
    if !compiler.is_null() {
        drop(Box::from_raw(compiler));
    }
}

/// # Safety
/// `compiler` is alive.
#[no_mangle]
pub unsafe extern "C" fn shoal_grammar_compiler_bytes(compiler: *const Compiler) -> usize {
    (*compiler).bytes
}

/// # Safety
/// `compiler` is alive; `spec` and its views and `limits` are readable during the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_grammar_compile(
    compiler: *const Compiler,
    spec: *const CSpec,
    limits: *const Limits,
    out: *mut *mut Grammar,
    error: BytesSink,
) -> i32 {
    guarded(&error, || {
        let made = (*compiler).compile(&(*spec).read()?, &*limits)?;
        *out = Box::into_raw(Box::new(made));
        Ok(())
    })
}

/// # Safety
/// `grammar` came from shoal_grammar_compile, is freed once, and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn shoal_grammar_free(grammar: *mut Grammar) {
    if !grammar.is_null() {
        drop(Box::from_raw(grammar));
    }
}

/// # Safety
/// `grammar` is alive.
#[no_mangle]
pub unsafe extern "C" fn shoal_grammar_bytes(grammar: *const Grammar) -> usize {
    (*grammar).bytes()
}

/// # Safety
/// `grammar` is alive.
#[no_mangle]
pub unsafe extern "C" fn shoal_grammar_is_broken(grammar: *const Grammar) -> i32 {
    (*grammar).is_broken() as i32
}

/// # Safety
/// `grammar` is alive, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_create(
    grammar: *const Grammar,
    out: *mut *mut Matcher,
    error: BytesSink,
) -> i32 {
    guarded(&error, || {
        *out = Box::into_raw(Box::new((*grammar).matcher()?));
        Ok(())
    })
}

/// # Safety
/// `matcher` is alive and used by nobody else during the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_copy(matcher: *const Matcher, out: *mut *mut Matcher, error: BytesSink) -> i32 {
    guarded(&error, || {
        *out = Box::into_raw(Box::new((*matcher).copy()));
        Ok(())
    })
}

/// # Safety
/// `matcher` came from one of the two functions above, is freed once, and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_free(matcher: *mut Matcher) {
    if !matcher.is_null() {
        drop(Box::from_raw(matcher));
    }
}

/// # Safety
/// `matcher` is alive and used by nobody else during the call.
#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_accept(matcher: *mut Matcher, token: u32, error: BytesSink) -> i32 {
    guarded(&error, || (*matcher).accept(token))
}

/// # Safety
/// `matcher` is alive and used by nobody else during the call; `words` is writable for `count` words.
#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_mask(
    matcher: *mut Matcher,
    words: *mut u32,
    count: usize,
    error: BytesSink,
) -> i32 {
    guarded(&error, || (*matcher).fill_mask(std::slice::from_raw_parts_mut(words, count)))
}

/// # Safety
/// `matcher` is alive and used by nobody else during the call; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_can_end(matcher: *mut Matcher, out: *mut i32, error: BytesSink) -> i32 {
    guarded(&error, || {
        *out = (*matcher).can_end()? as i32;
        Ok(())
    })
}
