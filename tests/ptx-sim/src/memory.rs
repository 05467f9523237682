//! Global memory: allocations whose bytes know whether they were ever written, and the checks every access goes through.

use crate::finding::Fault;
use crate::race::{Access, Log, Stamp};
use crate::types::Space;

/// Generic addresses of shared, local and parameter memory start here (PTX ISA 6.4.1: the windows' places are the implementation's).
pub(crate) const SHARED_WINDOW: u64 = 1 << 60;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 60;
pub(crate) const PARAM_WINDOW: u64 = 3 << 60;

/// Each allocation has this much address space, so that no overrun reaches another one.
const STRIDE_BITS: u32 = 36;

/// A stretch of bytes: one allocation, the shared memory of one block or the local memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct Region {
    bytes: Vec<u8>,
    known: Vec<bool>,
    /// The thread whose asynchronous copy into this byte is under way, plus one.
    copying: Vec<u32>,
    log: Log,
    read_only: bool,
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
        self.address + (byte as u64 - self.offset)
    }
}

impl Region {
    pub fn new(bytes: usize) -> Self {
        Region { bytes: vec![POISON; bytes], known: vec![false; bytes], ..Region::default() }
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        Region { known: vec![true; bytes.len()], bytes, ..Region::default() }
    }

    fn check(&self, spot: Spot, bytes: usize, alignment: usize) -> Result<usize, Fault> {
        let inside = spot.offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes.len() as u64);
        if !inside {
            return Err(Fault::OutOfBounds { space: spot.space, address: spot.address, bytes });
        }
        if !spot.address.is_multiple_of(alignment as u64) {
            return Err(Fault::Misaligned { address: spot.address, bytes });
        }
        Ok(spot.offset as usize)
    }

    fn check_copies(&self, spot: Spot, start: usize, bytes: usize) -> Result<(), Fault> {
        let Some(copying) = self.copying.get(start..start + bytes) else { return Ok(()) };
        match copying.iter().position(|&thread| thread != 0) {
            None => Ok(()),
            Some(i) => Err(Fault::InFlight { address: spot.at(start + i), thread: copying[i] - 1 }),
        }
    }

    fn record(&mut self, spot: Spot, range: (usize, usize), now: Stamp, access: Access) -> Result<(), Fault> {
        self.check_copies(spot, range.0, range.1)?;
        match self.log.access(range.0, range.1, now, access) {
            None => Ok(()),
            Some((byte, other)) => {
                Err(Fault::Race { space: spot.space, address: spot.at(byte), block: other.block, thread: other.thread })
            }
        }
    }

    /// Fills `out` with the bytes at a spot; all of them must have been written.
    pub fn read(&mut self, spot: Spot, now: Stamp, out: &mut [u8]) -> Result<(), Fault> {
        let start = self.check(spot, out.len(), out.len())?;
        self.record(spot, (start, out.len()), now, Access::Read)?;
        self.take_known(spot, start, out)
    }

    fn take_known(&self, spot: Spot, start: usize, out: &mut [u8]) -> Result<(), Fault> {
        match self.known[start..start + out.len()].iter().position(|known| !known) {
            Some(i) => Err(Fault::Uninitialised { space: spot.space, address: spot.at(start + i) }),
            None => {
                out.copy_from_slice(&self.bytes[start..start + out.len()]);
                Ok(())
            }
        }
    }

    pub fn write(&mut self, spot: Spot, now: Stamp, data: &[u8]) -> Result<(), Fault> {
        let start = self.check(spot, data.len(), data.len())?;
        if self.read_only {
            return Err(Fault::ReadOnly { address: spot.address });
        }
        self.record(spot, (start, data.len()), now, Access::Write)?;
        self.put(start, data);
        Ok(())
    }

    fn put(&mut self, start: usize, data: &[u8]) {
        self.bytes[start..start + data.len()].copy_from_slice(data);
        self.known[start..start + data.len()].fill(true);
    }

    /// Replaces a value by `f` of it, atomically; returns the old one.
    pub fn update(&mut self, spot: Spot, now: Stamp, bytes: usize, f: impl Fn(u64) -> u64) -> Result<u64, Fault> {
        let start = self.check(spot, bytes, bytes)?;
        if self.read_only {
            return Err(Fault::ReadOnly { address: spot.address });
        }
        self.record(spot, (start, bytes), now, Access::Atomic)?;
        let mut old = [0; 8];
        self.take_known(spot, start, &mut old[..bytes])?;
        let old = u64::from_le_bytes(old);
        self.put(start, &f(old).to_le_bytes()[..bytes]);
        Ok(old)
    }

    /// An asynchronous copy into these bytes begins: until it is complete nobody may touch them.
    pub fn begin_copy(&mut self, spot: Spot, now: Stamp, bytes: usize) -> Result<usize, Fault> {
        let start = self.check(spot, bytes, bytes)?;
        self.record(spot, (start, bytes), now, Access::Write)?;
        self.copying.resize(self.bytes.len(), 0);
        self.copying[start..start + bytes].fill(now.thread + 1);
        self.known[start..start + bytes].fill(false);
        Ok(start)
    }

    /// The copy is complete, as seen by the thread that waited for it.
    pub fn finish_copy(&mut self, start: usize, now: Stamp, data: &[u8]) {
        self.copying[start..start + data.len()].fill(0);
        self.log.access(start, data.len(), now, Access::Write);
        self.put(start, data);
    }
}

/// What unwritten memory holds: as a float of any width, a NaN or a huge number.
const POISON: u8 = 0xff;

/// An allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer(usize);

impl Buffer {
    /// Its address on the simulated device, a multiple of any alignment a kernel may want.
    pub fn address(self) -> u64 {
        (self.0 as u64 + 1) << STRIDE_BITS
    }
}

/// The global memory of a simulated device.
#[derive(Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
}

/// A number that can be kept in memory.
pub trait Scalar: Copy {
    /// Its size.
    const BYTES: usize;
    /// Appends it, little end first.
    fn append(self, bytes: &mut Vec<u8>);
    /// Reads it back.
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! scalar {
    ($($t:ty)*) => {$(
        impl Scalar for $t {
            const BYTES: usize = size_of::<$t>();
            fn append(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$t>()];
                own.copy_from_slice(bytes);
                <$t>::from_le_bytes(own)
            }
        }
    )*};
}
scalar!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

impl Memory {
    /// A device with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that must be written before they are read.
    pub fn alloc(&mut self, bytes: usize) -> Buffer {
        self.push(Region::new(bytes))
    }

    /// A copy of some numbers.
    pub fn upload<T: Scalar>(&mut self, values: &[T]) -> Buffer {
        let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
        values.iter().for_each(|value| value.append(&mut bytes));
        self.push(Region::from_bytes(bytes))
    }

    /// The same, where `None` stands for bytes that must be written before they are read.
    pub fn upload_partly<T: Scalar>(&mut self, values: &[Option<T>]) -> Buffer {
        let mut region = Region::new(values.len() * T::BYTES);
        for (i, value) in values.iter().enumerate() {
            if let Some(value) = value {
                let mut bytes = Vec::with_capacity(T::BYTES);
                value.append(&mut bytes);
                region.put(i * T::BYTES, &bytes);
            }
        }
        self.push(region)
    }

    /// What a buffer holds; the fault names the first byte never written.
    pub fn read<T: Scalar>(&self, buffer: Buffer) -> Result<Vec<T>, Fault> {
        let region = &self.regions[buffer.0];
        match region.known.iter().position(|known| !known) {
            Some(i) => Err(Fault::Uninitialised { space: Space::Global, address: buffer.address() + i as u64 }),
            None => Ok(region.bytes.chunks_exact(T::BYTES).map(T::from_bytes).collect()),
        }
    }

    /// Elements of a buffer, `None` where a byte was never written.
    pub fn read_partly<T: Scalar>(&self, buffer: Buffer) -> Vec<Option<T>> {
        let region = &self.regions[buffer.0];
        let elements = region.bytes.chunks_exact(T::BYTES).zip(region.known.chunks_exact(T::BYTES));
        elements.map(|(bytes, known)| known.iter().all(|k| *k).then(|| T::from_bytes(bytes))).collect()
    }

    /// Gives an allocation back; from then on every access to it is out of bounds.
    pub fn free(&mut self, buffer: Buffer) -> bool {
        self.regions[buffer.0] = Region::default();
        true
    }

    /// The allocation that an address lies in, and how far inside.
    pub fn buffer(&self, address: u64) -> Option<(Buffer, u64)> {
        let index = (address >> STRIDE_BITS).checked_sub(1)? as usize;
        let start = address & ((1 << STRIDE_BITS) - 1);
        let region = self.regions.get(index)?;
        (start <= region.bytes.len() as u64).then_some((Buffer(index), start))
    }

    /// Bytes of an allocation, 0 once it is free.
    pub fn size(&self, buffer: Buffer) -> usize {
        self.regions[buffer.0].bytes.len()
    }

    /// Copies bytes to the host. Where some were never written, it copies all the same and then names the first.
    pub fn read_bytes(&self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let (index, start) = self.stretch(address, out.len())?;
        out.copy_from_slice(&self.regions[index].bytes[start..start + out.len()]);
        match self.regions[index].known[start..start + out.len()].iter().position(|known| !known) {
            Some(i) => Err(Fault::Uninitialised { space: Space::Global, address: address + i as u64 }),
            None => Ok(()),
        }
    }

    /// Copies bytes from the host.
    pub fn write_bytes(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        let (index, start) = self.stretch(address, data.len())?;
        self.regions[index].put(start, data);
        Ok(())
    }

    /// Writes the same few bytes `count` times.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: usize) -> Result<(), Fault> {
        self.write_bytes(address, &pattern.repeat(count))
    }

    /// Copies bytes from one place of the device to another; bytes never written stay so.
    pub fn copy_bytes(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
        let ((source, start), (target, end)) = (self.stretch(from, bytes)?, self.stretch(to, bytes)?);
        let data = self.regions[source].bytes[start..start + bytes].to_vec();
        let known = self.regions[source].known[start..start + bytes].to_vec();
        let region = &mut self.regions[target];
        region.bytes[end..end + bytes].copy_from_slice(&data);
        region.known[end..end + bytes].copy_from_slice(&known);
        Ok(())
    }

    fn stretch(&self, address: u64, bytes: usize) -> Result<(usize, usize), Fault> {
        let outside = Fault::OutOfBounds { space: Space::Global, address, bytes };
        let (buffer, start) = self.buffer(address).ok_or(outside)?;
        let start = start as usize;
        if start.saturating_add(bytes) <= self.size(buffer) { Ok((buffer.0, start)) } else { Err(outside) }
    }

    fn push(&mut self, region: Region) -> Buffer {
        self.regions.push(region);
        Buffer(self.regions.len() - 1)
    }

    pub(crate) fn add_variable(&mut self, data: Vec<u8>, constant: bool) -> Buffer {
        let mut region = Region::from_bytes(data);
        region.read_only = constant;
        self.push(region)
    }

    /// Number of allocations, to return to with `truncate`.
    pub(crate) fn len(&self) -> usize {
        self.regions.len()
    }

    pub(crate) fn truncate(&mut self, regions: usize) {
        self.regions.truncate(regions);
    }

    pub(crate) fn forget_accesses(&mut self) {
        self.regions.iter_mut().for_each(|region| region.log.clear());
    }

    /// The allocation an address points into, by its upper bits, and the offset there.
    pub(crate) fn region(&mut self, address: u64) -> Option<(&mut Region, u64)> {
        let index = (address >> STRIDE_BITS).checked_sub(1)?;
        let region = self.regions.get_mut(usize::try_from(index).ok()?)?;
        Some((region, address & ((1 << STRIDE_BITS) - 1)))
    }
}
