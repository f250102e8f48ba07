//! Tokenizers, chat templates and grammars behind `shoal_text.h`. The C entries are in the files
//! `ffi`; everything else but the allocator is plain, safe Rust.

mod added;
mod assemble;
mod decode;
mod fail;
mod ffi;
mod gguf;
mod grammar;
mod json;
mod pyjson;
mod scan;
mod sentinel;
mod template;
mod tokenizer;
