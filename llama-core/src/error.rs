//! One error type for the whole crate: what is wrong, where (file, tensor, field, number), and what to do.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that the world can do wrong. Bugs of ours panic with shapes instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model file is malformed.
    #[error("{}: {field} at byte {offset}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The field, key or tensor, as the format's specification names it.
        field: String,
        /// Where the field starts, in bytes from the start of the file.
        offset: u64,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A well-formed file that this library does not read (yet), or will not.
    #[error("{what} is not supported: {advice}")]
    Unsupported {
        /// The format, architecture or feature.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// A hyperparameter is missing, of the wrong type or impossible.
    #[error("hyperparameter {key}: {problem}")]
    Config {
        /// Key as the file spells it.
        key: String,
        /// What is wrong, with the value.
        problem: String,
    },
    /// A tensor is missing, or has the wrong shape, format or contents.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Name as the file spells it.
        name: String,
        /// What is wrong, with shapes.
        problem: String,
    },
    /// The tokenizer's data is inconsistent, or of an unknown kind.
    #[error("tokenizer: {field}: {problem}")]
    Tokenizer {
        /// Key or field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// A chat template does not parse, or raised an error, or ran out of its time or memory.
    #[error("chat template: {problem}")]
    Template {
        /// The engine's message, with the line where known.
        problem: String,
    },
    /// A parameter of a call is out of range.
    #[error("parameter {name} = {value}: {problem}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value, printed.
        value: String,
        /// What is allowed.
        problem: String,
    },
    /// A prompt and what is to be generated do not fit into the context.
    #[error(
        "context overflow: {needed} tokens are needed and the limit is {limit}; shorten the prompt or raise the context limit"
    )]
    ContextOverflow {
        /// Tokens of the prompt plus those asked for.
        needed: usize,
        /// The engine's context limit.
        limit: usize,
    },
    /// The memory plan exceeds the cap, or memory could not be had.
    #[error("memory for {what}: {} are needed and {}; lower {advice}", bytes(*needed), allowed(*limit))]
    Memory {
        /// Which part of the plan.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed; [`isize::MAX`], more than which nothing can hold, where no cap was set and the system refused.
        limit: u64,
        /// The number to change.
        advice: &'static str,
    },
    /// A backend could not do what a verb asked for.
    #[error("backend {backend}: {verb}: {problem}")]
    Backend {
        /// Name of the backend.
        backend: &'static str,
        /// The verb of the contract.
        verb: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A model produced a logit that is not a finite number.
    #[error(
        "sequence {sequence}: logit of token {token} at position {position} is {value}; the weights are damaged or overflow this numerics mode"
    )]
    NotFinite {
        /// Sequence number.
        sequence: u64,
        /// Token whose logit is not finite.
        token: u32,
        /// Position that was evaluated.
        position: u32,
        /// The value.
        value: f32,
    },
    /// A model produced a hidden state that is not finite.
    #[error(
        "sequence {sequence}: hidden state at position {position} holds {value} in column {column}; the weights are damaged or overflow this numerics mode"
    )]
    StateNotFinite {
        /// Sequence number.
        sequence: u64,
        /// Column that is not finite.
        column: usize,
        /// Position that was evaluated; of a mean the last.
        position: u32,
        /// The value.
        value: f32,
    },
}

fn allowed(limit: u64) -> String {
    if limit >= isize::MAX as u64 { "the system refuses them".into() } else { format!("the limit is {}", bytes(limit)) }
}

/// Exactly, and as people and options name it.
fn bytes(count: u64) -> String {
    format!("{count} bytes ({} MiB)", count.div_ceil(1 << 20))
}

/// Which of `all` is called `value`.
///
/// # Errors
/// [`Error::Parameter`] about the parameter `name`, which lists the names there are.
pub fn by_name<T: Copy, const N: usize>(
    name: &'static str,
    value: &str,
    all: [T; N],
    name_of: impl Fn(T) -> &'static str,
) -> Result<T> {
    let found = all.into_iter().find(|&one| name_of(one) == value);
    found.ok_or_else(|| Error::parameter(name, value, format!("must be one of {}", all.map(name_of).join(", "))))
}

impl Error {
    /// An [`Error::Memory`] about `needed` bytes that the system refused.
    pub fn refused(what: &'static str, needed: u64, advice: &'static str) -> Self {
        Error::Memory { what, needed, limit: isize::MAX as u64, advice }
    }

    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_owned(), source }
    }

    /// An [`Error::File`] about `field` of `path`.
    pub fn file(path: impl AsRef<Path>, field: impl Into<String>, offset: u64, problem: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_owned(), field: field.into(), offset, problem: problem.into() }
    }

    /// An [`Error::Config`] about `key`.
    pub fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Config { key: key.into(), problem: problem.into() }
    }

    /// An [`Error::Tensor`] about `name`.
    pub fn tensor(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Tensor { name: name.into(), problem: problem.into() }
    }

    /// An [`Error::Tokenizer`] about `field`.
    pub fn tokenizer(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Tokenizer { field: field.into(), problem: problem.into() }
    }

    /// An [`Error::Parameter`] about `name`.
    pub fn parameter(name: &'static str, value: impl ToString, problem: impl Into<String>) -> Self {
        Error::Parameter { name, value: value.to_string(), problem: problem.into() }
    }
}
