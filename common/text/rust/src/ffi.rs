//! The C entries, but for those of grammars (grammar/ffi.rs). Nearly all `unsafe` of the crate is in the two: borrowed
//! views in, sinks out, one catch_unwind around each body.

use crate::fail::{Code, Fail, Result};
use crate::gguf::GgufVocab;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use std::ffi::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Str {
    data: *const c_char,
    size: usize,
}

impl Str {
    fn of(bytes: &[u8]) -> Str {
        Str { data: bytes.as_ptr().cast(), size: bytes.len() }
    }

    /// # Safety
    /// `data` is readable for `size` bytes for as long as the result is used.
    pub(crate) unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            return &[];
        }
        std::slice::from_raw_parts(self.data.cast(), self.size)
    }

    /// # Safety
    /// As for `bytes`.
    pub(crate) unsafe fn utf8<'a>(self, what: &str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| Fail::invalid(format!("{what} is not valid UTF-8 (at byte {})", e.valid_up_to())))
    }
}

#[repr(C)]
pub struct BytesSink {
    context: *mut c_void,
    write: extern "C" fn(*mut c_void, *const c_char, usize),
}

#[repr(C)]
pub struct IdSink {
    context: *mut c_void,
    write: extern "C" fn(*mut c_void, *const i32, usize),
}

#[repr(C)]
pub struct PieceSink {
    context: *mut c_void,
    piece: extern "C" fn(*mut c_void, *const c_char, usize, i32),
}

#[repr(C)]
pub struct TimeFormat {
    context: *mut c_void,
    format: extern "C" fn(*mut c_void, *const c_char, usize, *mut c_char, usize) -> isize,
}

#[repr(C)]
pub struct CGgufVocab {
    model: Str,
    pre: Str,
    tokens: *const Str,
    token_types: *const i32,
    token_count: usize,
    merges: *const Str,
    merge_count: usize,
    add_bos: i32,
    bos: i32,
    eos: i32,
    unk: i32,
}

/// Runs `body`, turns a panic into an error, and reports an error to the sink.
pub(crate) fn guarded(error: &BytesSink, body: impl FnOnce() -> Result<()>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown panic");
        Err(Fail { code: Code::Internal, message: format!("text library: {text}") })
    });
    match outcome {
        Ok(()) => 0,
        Err(fail) => {
            (error.write)(error.context, fail.message.as_ptr().cast(), fail.message.len());
            fail.code as i32
        }
    }
}

/// # Safety
/// `data` is readable for `count` items, each a readable view, while the result is used.
pub(crate) unsafe fn strings<'a>(data: *const Str, count: usize, what: &str) -> Result<Vec<&'a str>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    std::slice::from_raw_parts(data, count)
        .iter()
        .enumerate()
        .map(|(i, s)| s.utf8(&format!("{what} {i}")))
        .collect()
}

/// # Safety
/// See shoal_text.h: views are readable during the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_from_json(json: Str, out: *mut *mut Tokenizer, error: BytesSink) -> i32 {
    guarded(&error, || {
        let made = crate::json::from_json(json.utf8("tokenizer.json")?)?;
        *out = Box::into_raw(Box::new(made));
        Ok(())
    })
}

/// # Safety
/// See shoal_text.h: views are readable during the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_from_gguf(
    vocab: *const CGgufVocab,
    out: *mut *mut Tokenizer,
    error: BytesSink,
) -> i32 {
    guarded(&error, || {
        let v = &*vocab;
        let token_types =
            if v.token_count == 0 { &[][..] } else { std::slice::from_raw_parts(v.token_types, v.token_count) };
        let made = crate::gguf::from_gguf(&GgufVocab {
            model: v.model.utf8("tokenizer.ggml.model")?,
            pre: v.pre.utf8("tokenizer.ggml.pre")?,
            tokens: strings(v.tokens, v.token_count, "token")?,
            token_types,
            merges: strings(v.merges, v.merge_count, "merge")?,
            add_bos: match v.add_bos {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            },
            bos: v.bos,
            eos: v.eos,
            unk: v.unk,
        })?;
        *out = Box::into_raw(Box::new(made));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` came from one of the two functions above, is freed once, and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// `tokenizer` is alive; `text` is readable during the call.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: Str,
    with_control: i32,
    add_bos: i32,
    ids: IdSink,
    error: BytesSink,
) -> i32 {
    guarded(&error, || {
        let found = (*tokenizer).encode(text.utf8("text")?, with_control != 0, add_bos != 0)?;
        (ids.write)(ids.context, found.as_ptr().cast(), found.len());
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_vocab_size(tokenizer: *const Tokenizer) -> i32 {
    (*tokenizer).vocab.size()
}

/// # Safety
/// `tokenizer` is alive.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_is_control(tokenizer: *const Tokenizer, id: i32) -> i32 {
    (*tokenizer).vocab.is_control(id) as i32
}

/// # Safety
/// `tokenizer` is alive; `spelling` is readable during the call.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_token_id(tokenizer: *const Tokenizer, spelling: Str) -> i32 {
    match std::str::from_utf8(spelling.bytes()) {
        Ok(spelling) => (*tokenizer).token_id(spelling),
        Err(_) => -1,
    }
}

/// # Safety
/// `tokenizer` is alive, and outlives the use of the result.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_token_bytes(tokenizer: *const Tokenizer, id: i32) -> Str {
    Str::of((*tokenizer).vocab.bytes(id))
}

/// # Safety
/// `tokenizer` is alive.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_leading_spaces(tokenizer: *const Tokenizer) -> i32 {
    (*tokenizer).leading_spaces as i32
}

/// # Safety
/// `tokenizer` is alive.
#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_uses_scanner(tokenizer: *const Tokenizer) -> i32 {
    (*tokenizer).uses_scanner() as i32
}

/// # Safety
/// See shoal_text.h: views are readable during the call, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn shoal_template_create(
    source: Str,
    bos_token: Str,
    eos_token: Str,
    control_spellings: *const Str,
    control_count: usize,
    out: *mut *mut Template,
    error: BytesSink,
) -> i32 {
    guarded(&error, || {
        let made = Template::create(
            source.utf8("chat template")?,
            bos_token.utf8("bos token")?,
            eos_token.utf8("eos token")?,
            &strings(control_spellings, control_count, "control token")?,
        )?;
        *out = Box::into_raw(Box::new(made));
        Ok(())
    })
}

/// # Safety
/// `template` came from shoal_template_create, is freed once, and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn shoal_template_free(template: *mut Template) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

/// The caller's clock, as a plain value that a template function may hold during one render.
#[derive(Clone, Copy)]
struct Clock {
    context: usize,
    format: extern "C" fn(*mut c_void, *const c_char, usize, *mut c_char, usize) -> isize,
}

impl Clock {
    fn format(self, format: &str) -> Option<String> {
        let mut out = [0u8; 256];
        let n = (self.format)(
            self.context as *mut c_void,
            format.as_ptr().cast(),
            format.len(),
            out.as_mut_ptr().cast(),
            out.len(),
        );
        let n = usize::try_from(n).ok().filter(|n| *n <= out.len())?;
        String::from_utf8(out[..n].to_vec()).ok()
    }
}

/// # Safety
/// `template` is alive; `context_json` is readable and `now` callable during the call.
#[no_mangle]
pub unsafe extern "C" fn shoal_template_render(
    template: *const Template,
    context_json: Str,
    now: TimeFormat,
    pieces: PieceSink,
    error: BytesSink,
) -> i32 {
    guarded(&error, || {
        let clock = Clock { context: now.context as usize, format: now.format };
        let rendered = (*template).render(context_json.utf8("template context")?, move |f: &str| clock.format(f))?;
        for piece in &rendered {
            (pieces.piece)(pieces.context, piece.text.as_ptr().cast(), piece.text.len(), piece.plain as i32);
        }
        Ok(())
    })
}
