//! Text: tokenizers, streaming of tokens to text, chat templates.

mod bad_words;
mod bytes;
mod chat;
mod checkpoint;
mod folder;
mod gguf;
mod huggingface;
mod infill;
mod json;
mod merge;
pub mod pretokenize;
mod sentencepiece;
mod special;
mod stop;
mod stream;
pub(crate) mod to_gguf;
mod tokenizer;
mod vocab;

pub use chat::{ChatTemplate, Date, Message, RenderOptions, Trust};
pub use infill::Infill;
pub use pretokenize::Pattern;
pub use special::Specials;
pub use stop::StopMatcher;
pub use stream::TextStream;
pub use tokenizer::{MAX_TEXT, Tokenizer};
pub use vocab::{Order, Scheme, SpacePrefix, Strip, TokenKind, Vocab};
