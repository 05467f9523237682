//! Tokenizers and chat templates: on vocabularies of our own, on files of many origins, against other programs.

mod files;
mod infill;
mod pretokenize;
mod reference;
mod sentencepiece;
mod template;
mod to_gguf;
mod tokenizer;
