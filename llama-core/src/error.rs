//! One error type for the whole crate: what is wrong, where (file, tensor, field, number), and what to do.
//!
//! What a file says is checked by code that does not know the file: the same check serves a GGUF and a config.json, a
//! vocabulary in memory and one in a folder. So such an error is made without a path, and gets it where the file was opened,
//! from `InFile::in_file`: there all that can go wrong about the file passes, whoever wrote the check. An error that has a
//! path keeps it, so the innermost file is the one that is named.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that the world can do wrong. Bugs of ours panic with shapes instead.
///
/// Each is one line. What is about a file begins with its path, which [`Error::path`] gives.
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
    #[error("{}: {field}{}: {problem}", path.display(), at(*offset))]
    File {
        /// The file; the path where it should be, if it is missing.
        path: PathBuf,
        /// The field, key or tensor, as the format's specification names it.
        field: String,
        /// Where the field starts, in bytes from the start of the file, if it is in it and its place is known.
        offset: Option<u64>,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A well-formed file that this library does not read (yet), or will not.
    #[error("{}{what} is not supported: {advice}", of(path))]
    Unsupported {
        /// The file, if it is about one: a backend refuses things, too.
        path: Option<PathBuf>,
        /// The format, architecture or feature.
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// A hyperparameter is missing, of the wrong type or impossible.
    #[error("{}hyperparameter {key}: {problem}", of(path))]
    Config {
        /// The file that the key is in, or is missing from.
        path: Option<PathBuf>,
        /// Key as the file spells it.
        key: String,
        /// What is wrong, with the value.
        problem: String,
    },
    /// A tensor is missing, or has the wrong shape, format or contents.
    #[error("{}tensor {name}: {problem}", of(path))]
    Tensor {
        /// The file that holds the tensor, or should: of several that which lists them all. `None` for numbers in memory.
        path: Option<PathBuf>,
        /// Name as the file spells it.
        name: String,
        /// What is wrong, with shapes.
        problem: String,
    },
    /// The tokenizer's data is inconsistent, or of an unknown kind.
    #[error("{}tokenizer: {field}: {problem}", of(path))]
    Tokenizer {
        /// The file that the field is in; `None` for a vocabulary in memory.
        path: Option<PathBuf>,
        /// Key or field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// A chat template does not parse, or raised an error, or ran out of its time or memory.
    #[error("{}chat template: {problem}", of(path))]
    Template {
        /// The file that the template is in, while it runs, too; `None` for a source in memory.
        path: Option<PathBuf>,
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
    /// Another rank, or the way to it.
    #[error("{peer}: {problem}")]
    Peer {
        /// Which, with its address.
        peer: String,
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

/// "file: ", where there is one.
fn of(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(String::new, |path| format!("{}: ", path.display()))
}

fn at(offset: Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at byte {offset}"))
}

/// A piece of a message: names and values from a file may have line ends in them, and what a terminal obeys.
fn line(text: impl Into<String>) -> String {
    let text = text.into();
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    if text.contains(char::is_control) { text.chars().map(plain).collect() } else { text }
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

    /// An [`Error::File`] about `field` of `path`, which starts at byte `offset` of it: `None` where nobody knows.
    pub fn file(
        path: impl AsRef<Path>,
        field: impl Into<String>,
        offset: impl Into<Option<u64>>,
        problem: impl Into<String>,
    ) -> Self {
        let path = path.as_ref().to_owned();
        Error::File { path, field: line(field), offset: offset.into(), problem: line(problem) }
    }

    /// An [`Error::Unsupported`], of no file yet.
    pub fn unsupported(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Unsupported { path: None, what: line(what), advice: line(advice) }
    }

    /// An [`Error::Config`] about `key`, of no file yet.
    pub fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Config { path: None, key: line(key), problem: line(problem) }
    }

    /// An [`Error::Tensor`] about `name`, of no file yet. [`TensorView::error`](crate::checkpoint::TensorView::error) knows both.
    pub fn tensor(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Tensor { path: None, name: line(name), problem: line(problem) }
    }

    /// An [`Error::Tokenizer`] about `field`, of no file yet.
    pub fn tokenizer(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Tokenizer { path: None, field: line(field), problem: line(problem) }
    }

    /// An [`Error::Template`], of no file yet.
    pub fn template(problem: impl Into<String>) -> Self {
        Error::Template { path: None, problem: line(problem) }
    }

    /// An [`Error::Parameter`] about `name`.
    pub fn parameter(name: &'static str, value: impl ToString, problem: impl Into<String>) -> Self {
        Error::Parameter { name, value: value.to_string(), problem: problem.into() }
    }

    /// An [`Error::Peer`] about `peer`.
    pub fn peer(peer: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Peer { peer: line(peer), problem: line(problem) }
    }

    /// The file or folder that this is about, whatever the variant; `None` if it is about none.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. } | Error::File { path, .. } => Some(path),
            Error::Unsupported { path, .. }
            | Error::Config { path, .. }
            | Error::Tensor { path, .. }
            | Error::Tokenizer { path, .. }
            | Error::Template { path, .. } => path.as_deref(),
            Error::Parameter { .. }
            | Error::ContextOverflow { .. }
            | Error::Memory { .. }
            | Error::Backend { .. }
            | Error::Peer { .. }
            | Error::NotFinite { .. }
            | Error::StateNotFinite { .. } => None,
        }
    }
}

/// Names the file in an error that does not name one yet: to be called where a file is opened, on all that comes of it.
pub(crate) trait InFile {
    /// The same, about what is in `path`. What is not about a file's contents stays as it is.
    fn in_file(self, path: &Path) -> Self;
}

impl InFile for Error {
    fn in_file(mut self, of: &Path) -> Self {
        if let Error::Unsupported { path, .. }
        | Error::Config { path, .. }
        | Error::Tensor { path, .. }
        | Error::Tokenizer { path, .. }
        | Error::Template { path, .. } = &mut self
        {
            path.get_or_insert_with(|| of.to_owned());
        }
        self
    }
}

impl<T> InFile for Result<T> {
    fn in_file(self, path: &Path) -> Self {
        self.map_err(|error| error.in_file(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_innermost_file() {
        let inner = || Err::<(), Error>(Error::config("head_dim", "is 0")).in_file(Path::new("x/config.json"));
        assert_eq!(inner().unwrap_err().to_string(), "x/config.json: hyperparameter head_dim: is 0");
        let error = inner().in_file(Path::new("x")).unwrap_err();
        assert_eq!(error.path(), Some(Path::new("x/config.json")));
    }

    #[test]
    fn what_is_about_no_file_names_none() {
        let error = Error::parameter("threads", 0, "at least 1").in_file(Path::new("x"));
        assert_eq!((error.to_string(), error.path()), ("parameter threads = 0: at least 1".into(), None));
        assert_eq!(Error::template("no end").to_string(), "chat template: no end");
    }

    #[test]
    fn what_a_file_says_cannot_break_the_line() {
        let error = Error::tensor("a\nb\u{1b}[31m", "is \u{85}\u{e9}").to_string();
        assert_eq!(error, "tensor a\\nb\\u{1b}[31m: is \\u{85}\u{e9}");
    }

    #[test]
    fn an_offset_is_told_where_it_is_known() {
        assert_eq!(Error::file("x", "magic", 0, "is wrong").to_string(), "x: magic at byte 0: is wrong");
        assert_eq!(Error::file("x", "magic", None, "is wrong").to_string(), "x: magic: is wrong");
    }
}
