//! `tokenizer.model`: SentencePiece's own file, for folders that have no tokenizer.json.
//!
//! ```text
//! ModelProto      1: pieces, each { 1: spelling, 2: score, 3: kind }   2: trainer   3: normalizer
//! trainer         3: algorithm, 2 for BPE   24: white space is a suffix   40, 41, 42: ids of unk, bos, eos
//! normalizer      2: a table of replacements   3: put a space in front   4: remove extra spaces   5: escape spaces
//! ```
//! It is a message of Protocol Buffers: fields, each a number and a type in one integer, then the value; a field that is
//! absent has its default. Kinds are numbered as in GGUF. The rest is transformers' (`LlamaTokenizer`): a prompt begins
//! with `bos` unless tokenizer_config.json says otherwise, and its `legacy` says where spaces are put in front.
//!
//! Source: google/sentencepiece, src/sentencepiece_model.proto.

use std::path::Path;

use super::folder::{ADDED, Settings};
use super::huggingface::{Table, named_token};
use super::vocab::{Order, Scheme, SpacePrefix, TokenKind, Vocab};
use crate::checkpoint::foreign;
use crate::error::{Error, InFile, Result};

/// Score of tokens that were added to the file's: nothing merges into them sooner than into others.
const ADDED_SCORE: f32 = f32::MIN;

/// The vocabulary of the `tokenizer.model` at `path`, which holds `bytes`, and the tokens that `config` adds.
pub(super) fn vocab(path: &Path, bytes: &[u8], config: &Settings) -> Result<Vocab> {
    match foreign::refusal_of_text(path, bytes) {
        Some(refusal) => Err(refusal),
        None => Model::read(bytes).and_then(|model| with_settings(model, config)).in_file(path),
    }
}

fn with_settings(model: Model, config: &Settings) -> Result<Vocab> {
    model.check()?;
    let Model { mut table, mut scores, ids: [unk, bos, eos], space, .. } = model;
    let strips = table.add_later_tokens(&config.get(ADDED), None)?;
    scores.resize(table.tokens.len(), ADDED_SCORE);
    let named = |key: &str, default: u64| match named_token(config, key)? {
        Some(spelling) => match table.find(&spelling) {
            Some(id) => Ok(Some(id)),
            None => Err(config.get(key).error(format!("{spelling:?} is not in the vocabulary, as was expected"))),
        },
        None => Ok(id_of(default, table.tokens.len())),
    };
    let space_prefix =
        match (space && config.get("add_prefix_space").bool_or(true)?, config.get("legacy").bool_or(true)?) {
            (false, _) => SpacePrefix::Never,
            (true, true) => SpacePrefix::Every,
            (true, false) => SpacePrefix::FirstUnlessSpaced,
        };
    let (bos, eos) = (named("bos_token", bos)?, named("eos_token", eos)?);
    Ok(Vocab {
        unk: id_of(unk, table.tokens.len()),
        tokens: table.tokens,
        kinds: table.kinds,
        scheme: Scheme::SentencePiece { order: Order::Scores(scores), space_prefix },
        bos,
        eos,
        end_tokens: Vec::new(),
        add_bos: config.get("add_bos_token").bool_or(true)?,
        add_eos: config.get("add_eos_token").bool_or(false)?,
        strips,
        infill: None,
    })
}

/// An id of the trainer's; -1, which is a large number here, is none.
fn id_of(id: u64, tokens: usize) -> Option<u32> {
    u32::try_from(id).ok().filter(|&id| (id as usize) < tokens)
}

/// What the file says.
struct Model {
    table: Table,
    scores: Vec<f32>,
    /// unk, bos, eos.
    ids: [u64; 3],
    algorithm: u64,
    suffix: bool,
    replaces: bool,
    space: bool,
    removes_spaces: bool,
    escapes_spaces: bool,
}

impl Model {
    fn read(bytes: &[u8]) -> Result<Model> {
        let mut model = Model {
            table: Table::default(),
            scores: Vec::new(),
            ids: [0, 1, 2],
            algorithm: 1,
            suffix: false,
            replaces: false,
            space: true,
            removes_spaces: true,
            escapes_spaces: true,
        };
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.add_piece(piece)?,
                (2, Value::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => model.read_normalizer(normalizer)?,
                _ => {}
            }
        }
        Ok(model)
    }

    fn add_piece(&mut self, piece: &[u8]) -> Result<()> {
        let (mut spelling, mut score, mut kind) = ("", 0.0, 1);
        let id = self.scores.len();
        for field in fields(piece) {
            match field? {
                (1, Value::Bytes(bytes)) => {
                    spelling = std::str::from_utf8(bytes)
                        .map_err(|_| Error::tokenizer(format!("piece {id}"), "is not UTF-8, which was expected"))?;
                }
                (2, Value::Four(bytes)) => score = f32::from_le_bytes(bytes),
                (3, Value::Integer(n)) => kind = n,
                _ => {}
            }
        }
        let kind = i32::try_from(kind).ok().and_then(TokenKind::from_gguf);
        self.table.given += 1;
        self.table.tokens.push(spelling.to_owned());
        self.table.kinds.push(
            kind.ok_or_else(|| Error::tokenizer(format!("piece {id}"), "is of no known kind; 1 to 6 was expected"))?,
        );
        self.scores.push(score);
        Ok(())
    }

    fn read_trainer(&mut self, trainer: &[u8]) -> Result<()> {
        for field in fields(trainer) {
            match field? {
                (3, Value::Integer(n)) => self.algorithm = n,
                (24, Value::Integer(n)) => self.suffix = n != 0,
                (number @ 40..=42, Value::Integer(id)) => self.ids[number as usize - 40] = id,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, normalizer: &[u8]) -> Result<()> {
        for field in fields(normalizer) {
            match field? {
                (2, Value::Bytes(table)) => self.replaces = !table.is_empty(),
                (3, Value::Integer(n)) => self.space = n != 0,
                (4, Value::Integer(n)) => self.removes_spaces = n != 0,
                (5, Value::Integer(n)) => self.escapes_spaces = n != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what is not Llama's kind of SentencePiece.
    fn check(&self) -> Result<()> {
        let what = match self {
            _ if self.scores.is_empty() => {
                return Err(Error::tokenizer("pieces", "are none; Llama 3's is tiktoken's: take tokenizer.json"));
            }
            Model { algorithm: n, .. } if *n != 2 => format!("algorithm {n}"),
            Model { suffix: true, .. } => "white space as a suffix".into(),
            Model { replaces: true, .. } => "a table of replacements".into(),
            Model { removes_spaces: true, .. } => "removal of extra spaces".into(),
            Model { escapes_spaces: false, .. } => "spaces that are not escaped".into(),
            _ => return Ok(()),
        };
        let advice = "BPE without any normalization is read, as Llama has it; take the model's tokenizer.json";
        Err(Error::unsupported(format!("a SentencePiece model with {what}"), advice))
    }
}

/// The value of a field.
enum Value<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
    Eight,
}

/// The fields of a message. Every one takes at least a byte, so there are no more of them than bytes.
fn fields<'a>(mut bytes: &'a [u8]) -> impl Iterator<Item = Result<(u64, Value<'a>)>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field.ok_or_else(|| {
            let problem = "is not one of SentencePiece's; Llama 3's is tiktoken's: take tokenizer.json";
            Error::tokenizer("message", problem)
        }))
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = integer(bytes)?;
    let value = match key & 7 {
        0 => Value::Integer(integer(bytes)?),
        1 => {
            *bytes = bytes.get(8..)?;
            Value::Eight
        }
        2 => {
            let length = usize::try_from(integer(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Value::Bytes(value)
        }
        5 => {
            let (value, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Value::Four(*value)
        }
        _ => return None,
    };
    Some((key >> 3, value))
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn integer(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}
