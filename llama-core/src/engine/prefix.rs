//! The KV of a prefix in a file: what one engine has computed of a long prompt another need not compute again.
//!
//! What goes on from there gets the tokens and the bits that it would have got: the file is the cache's own bytes, whole blocks
//! of them, and is taken only by a model whose cache would hold the same ([`Model::identity`](crate::model::Model::identity)):
//! the same weights, arithmetic and form of keys and values. Threads, tiers and ranks may differ. Of an adapter's sequences the
//! same holds for engines that have that adapter, whatever others they have.
//!
//! ```text
//! magic [u8; 8], order u32, version u32, identity u64, adapter u64, tokens u64, block_bytes u64
//! ids [tokens] u32, whole blocks of them
//! blocks [tokens / BLOCK] of [block_bytes] u8
//! checksum u64 of all that
//! ```
//! in the order of bytes of the machine that wrote it, which `order` tells.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::Engine;
use super::adapters::Variant;
use crate::batch::{AdapterId, BLOCK, BlockId};
use crate::checkpoint::checksum;
use crate::error::{Error, Result};
use crate::kv::{BlockPool, Prefix};
use crate::whole;

const MAGIC: [u8; 8] = *b"LLAMA-KV";
const ORDER: u32 = 0x0102_0304;
const VERSION: u32 = 2;
/// Bytes before the ids, and after the blocks.
const HEADER: u64 = 48;
const CHECKSUM: u64 = 8;
/// The identity of no adapter: that of one is a checksum.
const NO_ADAPTER: u64 = 0;

impl Engine {
    /// Writes the KV of the first of `tokens` to a file at `path`: as many whole blocks of [`BLOCK`] as the prefix cache
    /// has, which is those of prompts and answers as long as their room is not needed. Returns how many tokens that is. A file
    /// that was there is replaced when all is written.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the cache has none of them; [`Error::Io`]; what the backend says.
    pub fn save_prefix(&mut self, tokens: &[u32], path: impl AsRef<Path>) -> Result<usize> {
        self.save(self.variant(None)?, tokens, path.as_ref())
    }

    /// The same of what was computed with `adapter`.
    ///
    /// # Errors
    /// As [`Engine::save_prefix`]; [`Error::Parameter`] if there is no such adapter.
    pub fn save_adapted_prefix(&mut self, adapter: &str, tokens: &[u32], path: impl AsRef<Path>) -> Result<usize> {
        self.save(self.variant(Some(adapter))?, tokens, path.as_ref())
    }

    fn save(&mut self, variant: Variant, tokens: &[u32], path: &Path) -> Result<usize> {
        let (blocks, _) = find(self.scheduler.pool_mut(), variant.start, tokens);
        let saved = blocks.len() * BLOCK;
        let written = if saved > 0 {
            whole::written(path, |partial| self.write_blocks((&tokens[..saved], variant.adapter), &blocks, partial))
        } else {
            let problem = format!("the cache holds no {BLOCK} of them: complete a request that begins with them first");
            Err(Error::parameter("tokens", tokens.len(), problem))
        };
        release(self.scheduler.pool_mut(), blocks);
        written.map(|()| saved)
    }

    /// Takes over what [`Engine::save_prefix`] wrote: requests that begin with these tokens find their KV. Returns how many
    /// tokens it could, which is all unless the cache is smaller, or busy.
    ///
    /// # Errors
    /// [`Error::File`] with what is wrong with the file, or that it is another model's; [`Error::Io`]; [`Error::Parameter`] where
    /// [`EngineOptions::prefix_cache`](super::EngineOptions::prefix_cache) is off; what the backend says. Then nothing was taken over.
    pub fn load_prefix(&mut self, path: impl AsRef<Path>) -> Result<usize> {
        if !self.prefix_cache {
            return Err(Error::parameter("prefix_cache", false, "this engine shares no prefixes: switch it on"));
        }
        let mut source = Source::open(path.as_ref())?;
        let (ids, variant) = self.header(&mut source)?;
        let (mut blocks, mut through) = find(self.scheduler.pool_mut(), variant.start, &ids);
        let known = blocks.len();
        if let Err(error) = self.read_blocks(&mut source, ids.len() / BLOCK, &mut blocks) {
            release(self.scheduler.pool_mut(), blocks);
            return Err(error);
        }
        let pool = self.scheduler.pool_mut();
        for (id, tokens) in blocks.iter_mut().zip(ids.as_chunks().0).skip(known) {
            (*id, through) = pool.publish(*id, through, tokens);
        }
        let taken = blocks.len() * BLOCK;
        release(pool, blocks);
        Ok(taken)
    }

    fn write_blocks(
        &mut self,
        (tokens, adapter): (&[u32], Option<AdapterId>),
        blocks: &[BlockId],
        partial: &Path,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        self.model.read_block(blocks[0], &mut bytes)?;
        let mut target = Target::create(partial)?;
        target.put(&MAGIC)?;
        target.put(bytemuck::cast_slice(&[ORDER, VERSION]))?;
        let loaded = adapter.and_then(|id| self.model.adapters()[id as usize].as_ref());
        let adapter = loaded.map_or(NO_ADAPTER, |loaded| loaded.identity);
        let numbers = [self.model.identity(), adapter, tokens.len() as u64, bytes.len() as u64];
        target.put(bytemuck::cast_slice(&numbers))?;
        target.put(bytemuck::cast_slice(tokens))?;
        target.put(&bytes)?;
        for &block in &blocks[1..] {
            self.model.read_block(block, &mut bytes)?;
            target.put(&bytes)?;
        }
        target.end()
    }

    /// The tokens of a file that is as long as it should be, of this model, and of its vocabulary; and which model they were
    /// computed by.
    fn header(&mut self, source: &mut Source) -> Result<(Vec<u32>, Variant)> {
        let (magic, [order, version]) = (source.words::<u8>("magic", 8)?, source.pair()?);
        if magic != MAGIC || order != ORDER {
            let problem = "this is no file of a saved prefix, or one of a machine with another order of bytes";
            return Err(source.error("magic", problem));
        }
        if version != VERSION {
            return Err(source.error("version", format!("is {version}; this library writes and reads {VERSION}")));
        }
        let numbers = source.words::<u64>("header", 4)?;
        let [identity, adapter, tokens, block_bytes] = [numbers[0], numbers[1], numbers[2], numbers[3]];
        if identity != self.model.identity() {
            let problem = "is of another model, or of another arithmetic, device or form of keys and values";
            return Err(source.error("identity", problem));
        }
        let variant = self
            .variant_of(Some(adapter).filter(|&adapter| adapter != NO_ADAPTER))
            .ok_or_else(|| source.error("adapter", "is none of those that this engine has"))?;
        let mut block = Vec::new();
        self.model.read_block(0, &mut block)?;
        if block_bytes != block.len() as u64 {
            return Err(source.error("block_bytes", format!("is {block_bytes}; this model's are {}", block.len())));
        }
        source.check_length(tokens, block_bytes)?;
        let ids = source.words::<u32>("ids", tokens as usize)?;
        match ids.iter().find(|&&id| id as usize >= self.model.config().vocab) {
            Some(id) => Err(source.error("ids", format!("token {id} is not in the vocabulary"))),
            None => Ok((ids, variant)),
        }
    }

    /// Reads the file's blocks to its end, and puts those after `blocks` into the cache as far as that has room.
    fn read_blocks(&mut self, source: &mut Source, count: usize, blocks: &mut Vec<BlockId>) -> Result<()> {
        let known = blocks.len();
        let mut bytes = vec![0; source.block_bytes];
        let mut room = true;
        for i in 0..count {
            source.fill("blocks", &mut bytes)?;
            if i < known || !room {
                continue;
            }
            match self.scheduler.pool_mut().allocate() {
                Some(id) => {
                    blocks.push(id);
                    self.model.write_block(id, &bytes)?;
                }
                None => room = false,
            }
        }
        source.end()
    }
}

/// The published blocks of the longest prefix of `tokens` after `start`, with a reference to each, and what that prefix is.
fn find(pool: &mut BlockPool, start: Prefix, tokens: &[u32]) -> (Vec<BlockId>, Prefix) {
    let (mut blocks, mut through) = (Vec::new(), start);
    for tokens in tokens.as_chunks().0 {
        let Some((id, next)) = pool.find(through, tokens) else { break };
        blocks.push(id);
        through = next;
    }
    (blocks, through)
}

/// Last block first, so that the cache forgets a prefix from its end.
fn release(pool: &mut BlockPool, blocks: Vec<BlockId>) {
    blocks.into_iter().rev().for_each(|id| pool.release(id));
}

/// A file that is being written, and its checksum.
struct Target<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    sum: u64,
}

impl<'a> Target<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| Error::io(path, error))?;
        Ok(Target { path, file: BufWriter::new(file), sum: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum = checksum(self.sum, bytes);
        self.file.write_all(bytes).map_err(|error| Error::io(self.path, error))
    }

    fn end(mut self) -> Result<()> {
        let sum = self.sum;
        self.put(&sum.to_ne_bytes())?;
        let file = self.file.into_inner().map_err(|error| Error::io(self.path, error.into_error()))?;
        file.sync_all().map_err(|error| Error::io(self.path, error))
    }
}

/// A file that is being read, and the checksum so far.
struct Source<'a> {
    path: &'a Path,
    file: BufReader<File>,
    length: u64,
    block_bytes: usize,
    sum: u64,
    at: u64,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let io = |error| Error::io(path, error);
        // A pipe would be waited for when it is opened.
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::file(path, "file", None, "is no regular file"));
        }
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        Ok(Source { path, file: BufReader::new(file), length, block_bytes: 0, sum: 0, at: 0 })
    }

    fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::file(self.path, field, None, problem)
    }

    /// As long as its header says, before anything is made that large.
    fn check_length(&mut self, tokens: u64, block_bytes: u64) -> Result<()> {
        let blocks = tokens / BLOCK as u64;
        let body = blocks.checked_mul(block_bytes).and_then(|bytes| bytes.checked_add(tokens.checked_mul(4)?));
        if tokens == 0 || !tokens.is_multiple_of(BLOCK as u64) {
            return Err(self.error("tokens", format!("is {tokens}, which are not whole blocks of {BLOCK}")));
        }
        if body.and_then(|body| body.checked_add(HEADER + CHECKSUM)) != Some(self.length) {
            let problem = format!("is {tokens}, which does not fit a file of {} bytes", self.length);
            return Err(self.error("tokens", problem));
        }
        self.block_bytes = block_bytes as usize;
        Ok(())
    }

    fn fill(&mut self, field: &str, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::file(self.path, field, self.at, "the file ends before its end"),
            _ => Error::io(self.path, error),
        })?;
        self.at += bytes.len() as u64;
        self.sum = checksum(self.sum, bytes);
        Ok(())
    }

    fn words<T: bytemuck::Pod>(&mut self, field: &str, count: usize) -> Result<Vec<T>> {
        let mut words = vec![T::zeroed(); count];
        self.fill(field, bytemuck::cast_slice_mut(&mut words))?;
        Ok(words)
    }

    fn pair(&mut self) -> Result<[u32; 2]> {
        let words = self.words("header", 2)?;
        Ok([words[0], words[1]])
    }

    fn end(&mut self) -> Result<()> {
        let sum = self.sum;
        if self.words::<u64>("checksum", 1)? == [sum] {
            Ok(())
        } else {
            Err(self.error("checksum", "does not fit what is in the file: it is damaged"))
        }
    }
}
