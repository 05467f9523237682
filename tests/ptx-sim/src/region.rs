//! A stretch of simulated memory: bytes, which of them were ever written, and the checks every access goes through.

use crate::finding::Fault;
use crate::order::{Order, Released, Scope};
use crate::race::{Clash, Log, Who};
use crate::types::Space;

/// One allocation, the shared memory of one block or the local memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct Region {
    bytes: Vec<u8>,
    /// A bit a byte. Fresh memory of both kinds costs nothing until it is touched.
    known: Vec<u64>,
    log: Log,
    pub read_only: bool,
}

/// The place of an access: space and address for the message, offset for the region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    pub space: Space,
    pub address: u64,
    pub offset: u64,
}

impl Spot {
    fn at(self, byte: usize) -> u64 {
        self.address.wrapping_add((byte as u64).wrapping_sub(self.offset))
    }
}

/// An ordered access: what it orders, how far, and by whom (`None` if nobody checks).
pub(crate) type Ordered<'a> = (Order, Scope, Option<&'a Who<'a>>);

/// Copies as many bytes as both have. Most often they are a thread's few, where calling `memcpy` takes longer than copying.
fn copy(to: &mut [u8], from: &[u8]) {
    fn exactly<const N: usize>(to: &mut [u8], from: &[u8]) {
        if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk()) {
            *to = *from;
        }
    }
    match to.len() {
        2 => exactly::<2>(to, from),
        4 => exactly::<4>(to, from),
        8 => exactly::<8>(to, from),
        16 => exactly::<16>(to, from),
        _ => to.copy_from_slice(from),
    }
}

impl Region {
    pub fn new(bytes: usize) -> Self {
        Region { bytes: vec![0; bytes], known: vec![0; bytes.div_ceil(64)], ..Region::default() }
    }

    /// Memory of a block, where every read is remembered.
    pub fn shared(bytes: usize) -> Self {
        Region { log: Log::exact(), ..Region::new(bytes) }
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Region { known: vec![u64::MAX; bytes.len().div_ceil(64)], bytes, ..Region::default() }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Back to memory nobody ever wrote.
    pub fn reset(&mut self) {
        self.known.fill(0);
        self.log = Log::exact();
    }

    pub fn forget_accesses(&mut self) {
        self.log = Log::default();
    }

    /// The offset of an access, if it lies inside and is aligned.
    pub fn check(&self, spot: Spot, bytes: usize, alignment: usize) -> Result<usize, Fault> {
        let inside = spot.offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes.len() as u64);
        if !inside {
            return Err(Fault::OutOfBounds { space: spot.space, address: spot.address, bytes });
        }
        if !spot.address.is_multiple_of(alignment as u64) {
            return Err(Fault::Misaligned { address: spot.address, bytes });
        }
        Ok(spot.offset as usize)
    }

    /// The first of some bytes that was never written.
    pub fn first_unknown(&self, start: usize, bytes: usize) -> Option<usize> {
        let (word, shift) = (start / 64, start % 64);
        if bytes <= 64 - shift {
            let mask = u64::MAX >> (64 - bytes.max(1)) << shift;
            let missing = if bytes == 0 { 0 } else { !self.known[word] & mask };
            return (missing != 0).then(|| word * 64 + missing.trailing_zeros() as usize);
        }
        let part = 64 - shift;
        self.first_unknown(start, part).or_else(|| self.first_unknown_from(start + part, start + bytes))
    }

    /// The same from a multiple of 64 on.
    fn first_unknown_from(&self, start: usize, end: usize) -> Option<usize> {
        let words = start / 64..end / 64;
        let whole = words.clone().find(|&word| self.known[word] != u64::MAX);
        match whole {
            Some(word) => Some(word * 64 + self.known[word].trailing_ones() as usize),
            None => self.first_unknown(words.end.max(words.start) * 64, end % 64),
        }
    }

    fn mark(&mut self, start: usize, bytes: usize, known: bool) {
        let mut at = start;
        while at < start + bytes {
            let part = (64 - at % 64).min(start + bytes - at);
            let mask = u64::MAX >> (64 - part) << (at % 64);
            let word = &mut self.known[at / 64];
            *word = if known { *word | mask } else { *word & !mask };
            at += part;
        }
    }

    fn record(&mut self, spot: Spot, (start, bytes): (usize, usize), who: &Who<'_>, write: bool) -> Result<(), Fault> {
        match self.log.access(start, bytes, who, write) {
            None => Ok(()),
            Some((byte, Clash::Race(other))) => Err(Fault::Race {
                space: spot.space,
                address: spot.at(byte),
                block: other.block(),
                thread: other.actor(),
            }),
            Some((byte, Clash::Proxy(other))) => {
                Err(Fault::MissingProxyFence { address: spot.at(byte), thread: other.actor() })
            }
        }
    }

    /// Fills `out` with the bytes at a spot; all of them must have been written.
    pub fn read(&mut self, spot: Spot, who: Option<&Who<'_>>, out: &mut [u8]) -> Result<(), Fault> {
        let alignment = out.len();
        self.read_aligned(spot, who, out, alignment)
    }

    /// The same at another alignment than the access's size.
    pub fn read_aligned(
        &mut self,
        spot: Spot,
        who: Option<&Who<'_>>,
        out: &mut [u8],
        alignment: usize,
    ) -> Result<(), Fault> {
        let start = self.check(spot, out.len(), alignment)?;
        if let Some(who) = who {
            self.record(spot, (start, out.len()), who, false)?;
            self.must_know(spot, start, out.len())?;
        }
        copy(out, &self.bytes[start..start + out.len()]);
        Ok(())
    }

    fn must_know(&self, spot: Spot, start: usize, bytes: usize) -> Result<(), Fault> {
        match self.first_unknown(start, bytes) {
            Some(byte) => Err(Fault::Uninitialised { space: spot.space, address: spot.at(byte) }),
            None => Ok(()),
        }
    }

    pub fn write(&mut self, spot: Spot, who: Option<&Who<'_>>, data: &[u8]) -> Result<(), Fault> {
        let start = self.begin_write(spot, who, data.len(), data.len())?;
        self.log.overwrite(start);
        self.put(start, data);
        Ok(())
    }

    /// Checks a write and remembers it, before its data are there.
    pub fn begin_write(
        &mut self,
        spot: Spot,
        who: Option<&Who<'_>>,
        bytes: usize,
        alignment: usize,
    ) -> Result<usize, Fault> {
        let start = self.check(spot, bytes, alignment)?;
        if self.read_only {
            return Err(Fault::ReadOnly { address: spot.address });
        }
        if let Some(who) = who {
            self.record(spot, (start, bytes), who, true)?;
        }
        Ok(start)
    }

    pub fn put(&mut self, start: usize, data: &[u8]) {
        copy(&mut self.bytes[start..start + data.len()], data);
        self.mark(start, data.len(), true);
    }

    /// Nobody knows these bytes any more: something is on its way there.
    pub fn forget(&mut self, start: usize, bytes: usize) {
        self.mark(start, bytes, false);
    }

    pub fn bytes(&self, start: usize, bytes: usize) -> &[u8] {
        &self.bytes[start..start + bytes]
    }

    /// Replaces a value by `f` of it, atomically; returns the old one.
    pub fn update(
        &mut self,
        spot: Spot,
        (order, scope, who): Ordered<'_>,
        bytes: usize,
        mut f: impl FnMut(u64) -> u64,
    ) -> Result<u64, Fault> {
        let start = self.begin_write(spot, who, bytes, bytes)?;
        if let Some(who) = who {
            self.must_know(spot, start, bytes)?;
            self.log.release(start, Released::by(who.view, who.me, order, scope), true);
        }
        let mut old = [0; 8];
        old[..bytes].copy_from_slice(&self.bytes[start..start + bytes]);
        let old = u64::from_le_bytes(old);
        self.put(start, &f(old).to_le_bytes()[..bytes]);
        Ok(old)
    }

    /// A strong store leaves at its address what it releases.
    pub fn release(&mut self, spot: Spot, (order, scope, who): Ordered<'_>) {
        if let Some(who) = who {
            self.log.release(spot.offset as usize, Released::by(who.view, who.me, order, scope), false);
        }
    }

    /// What releases left at an address.
    pub fn released(&self, spot: Spot) -> Option<&Released> {
        self.log.released(spot.offset as usize)
    }
}
