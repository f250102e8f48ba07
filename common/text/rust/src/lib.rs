//! Tokenizers and chat templates behind `shoal_text.h`. The C entries are in `ffi`; everything else is plain, safe Rust.

mod added;
mod assemble;
mod decode;
mod fail;
mod ffi;
mod gguf;
mod json;
mod pyjson;
mod scan;
mod sentinel;
mod template;
mod tokenizer;
