//! The one error type of the crate.

/// What an entry returns; the numbers are those of `shoal_text.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    Invalid = 1,
    Exhausted = 2,
    Unsupported = 3,
    Internal = 4,
}

#[derive(Debug)]
pub struct Fail {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Fail>;

impl Fail {
    pub fn invalid(message: impl Into<String>) -> Fail {
        Fail { code: Code::Invalid, message: message.into() }
    }
    pub fn exhausted(message: impl Into<String>) -> Fail {
        Fail { code: Code::Exhausted, message: message.into() }
    }
    pub fn unsupported(message: impl Into<String>) -> Fail {
        Fail { code: Code::Unsupported, message: message.into() }
    }
    pub fn internal(message: impl Into<String>) -> Fail {
        Fail { code: Code::Internal, message: message.into() }
    }
}

/// A name from outside, cut to a length fit for an error message.
pub fn shown(name: &str) -> String {
    const MOST: usize = 80;
    if name.chars().count() <= MOST {
        return format!("{name:?}");
    }
    let cut: String = name.chars().take(MOST).collect();
    format!("{cut:?}...")
}
