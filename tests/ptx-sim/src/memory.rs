//! Global memory of a simulated device: allocations with addresses that never change, read and written by the host either
//! whole, as numbers, or in parts, by address.

use crate::finding::Fault;
use crate::region::Region;
use crate::types::Space;

/// Generic addresses of shared, local and parameter memory start here (PTX ISA 6.4.1: the windows' places are the
/// implementation's).
pub(crate) const SHARED_WINDOW: u64 = 1 << 60;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 60;
pub(crate) const PARAM_WINDOW: u64 = 3 << 60;

/// Each allocation has this much address space, so that no overrun reaches another one.
const STRIDE_BITS: u32 = 36;

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
///
/// Memory that was allocated and not written takes no memory of the host.
#[derive(Debug, Default)]
pub struct Memory {
    /// `None` where an allocation was freed: its addresses are not used again.
    regions: Vec<Option<Region>>,
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

    /// Gives an allocation back; from then on every access to it is out of bounds. `false` if it was free already.
    pub fn free(&mut self, buffer: Buffer) -> bool {
        self.regions.get_mut(buffer.0).is_some_and(|region| region.take().is_some())
    }

    /// The allocation that an address lies in, and how far inside.
    pub fn buffer(&self, address: u64) -> Option<(Buffer, u64)> {
        let (index, offset) = split(address)?;
        let region = self.regions.get(index)?.as_ref()?;
        (offset <= region.len() as u64).then_some((Buffer(index), offset))
    }

    /// Bytes of an allocation, 0 once it is free.
    pub fn size(&self, buffer: Buffer) -> usize {
        self.region_of(buffer).map_or(0, Region::len)
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
        let size = self.size(buffer);
        let region = self.region_of(buffer).ok_or(out_of_bounds(buffer.address(), size))?;
        match region.first_unknown(0, size) {
            Some(byte) => Err(uninitialised(buffer.address() + byte as u64)),
            None => Ok(region.bytes(0, size).chunks_exact(T::BYTES).map(T::from_bytes).collect()),
        }
    }

    /// Elements of a buffer, `None` where a byte was never written.
    pub fn read_partly<T: Scalar>(&self, buffer: Buffer) -> Vec<Option<T>> {
        let Some(region) = self.region_of(buffer) else { return Vec::new() };
        let known = |i: usize| region.first_unknown(i * T::BYTES, T::BYTES).is_none();
        let elements = region.bytes(0, region.len()).chunks_exact(T::BYTES).enumerate();
        elements.map(|(i, bytes)| known(i).then(|| T::from_bytes(bytes))).collect()
    }

    /// Copies bytes to the host. Where some were never written, it copies all the same and then names the first.
    pub fn read_bytes(&self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let (buffer, start) = self.part(address, out.len())?;
        let region = self.region_of(buffer).ok_or(out_of_bounds(address, out.len()))?;
        out.copy_from_slice(region.bytes(start, out.len()));
        match region.first_unknown(start, out.len()) {
            Some(byte) => Err(uninitialised(buffer.address() + byte as u64)),
            None => Ok(()),
        }
    }

    /// Copies bytes from the host.
    pub fn write_bytes(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        let (region, start) = self.part_mut(address, data.len())?;
        region.put(start, data);
        Ok(())
    }

    /// Writes the same few bytes `count` times.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: usize) -> Result<(), Fault> {
        let bytes = pattern.len().checked_mul(count).ok_or(out_of_bounds(address, usize::MAX))?;
        let (region, start) = self.part_mut(address, bytes)?;
        region.put(start, &pattern.repeat(count));
        Ok(())
    }

    /// Copies bytes from one place of the device to another; bytes never written stay so.
    pub fn copy_bytes(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), Fault> {
        let (source, start) = self.part(from, bytes)?;
        let region = self.region_of(source).ok_or(out_of_bounds(from, bytes))?;
        let data = region.bytes(start, bytes).to_vec();
        let all_known = region.first_unknown(start, bytes).is_none();
        let unknown = |i: &usize| !all_known && region.first_unknown(start + i, 1).is_some();
        let unknown: Vec<usize> = (0..bytes).filter(unknown).collect();
        let (region, start) = self.part_mut(to, bytes)?;
        region.put(start, &data);
        unknown.into_iter().for_each(|i| region.forget(start + i, 1));
        Ok(())
    }

    fn part(&self, address: u64, bytes: usize) -> Result<(Buffer, usize), Fault> {
        let (buffer, offset) = self.buffer(address).ok_or(out_of_bounds(address, bytes))?;
        let inside = offset.checked_add(bytes as u64).is_some_and(|end| end <= self.size(buffer) as u64);
        if inside { Ok((buffer, offset as usize)) } else { Err(out_of_bounds(address, bytes)) }
    }

    fn part_mut(&mut self, address: u64, bytes: usize) -> Result<(&mut Region, usize), Fault> {
        let (_, start) = self.part(address, bytes)?;
        let region = self.region(address).ok_or(out_of_bounds(address, bytes))?.0;
        Ok((region, start))
    }

    fn region_of(&self, buffer: Buffer) -> Option<&Region> {
        self.regions.get(buffer.0)?.as_ref()
    }

    fn push(&mut self, region: Region) -> Buffer {
        self.regions.push(Some(region));
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
        self.regions.iter_mut().flatten().for_each(Region::forget_accesses);
    }

    /// The allocation an address points into, by its upper bits, and the offset there.
    pub(crate) fn region(&mut self, address: u64) -> Option<(&mut Region, u64)> {
        let (index, offset) = split(address)?;
        Some((self.regions.get_mut(index)?.as_mut()?, offset))
    }
}

fn split(address: u64) -> Option<(usize, u64)> {
    let index = usize::try_from((address >> STRIDE_BITS).checked_sub(1)?).ok()?;
    Some((index, address & ((1 << STRIDE_BITS) - 1)))
}

fn out_of_bounds(address: u64, bytes: usize) -> Fault {
    Fault::OutOfBounds { space: Space::Global, address, bytes }
}

fn uninitialised(address: u64) -> Fault {
    Fault::Uninitialised { space: Space::Global, address }
}
