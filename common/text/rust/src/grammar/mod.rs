//! Grammars and what they let a model say next, over llguidance. The C entries are in `ffi`.

mod ffi;
mod lark;
mod memory;
mod schema;
mod session;
mod walk;
