//! What the tensor memory accelerator needs to know of a tensor: `CUtensorMap`, whose 128 bytes the driver fills and only the
//! hardware reads. Their layout here is the simulator's own.

use thiserror::Error;

/// Most dimensions of a tensor.
const MOST_RANK: usize = 5;
/// The first bytes of every map; a kernel that passes anything else is found out.
const MAGIC: [u8; 4] = *b"TMAP";

/// How rows of a box are spread over the banks of shared memory: 16-byte chunks of a row are permuted by the row's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // named by the bytes after which the pattern repeats within a row
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// Bytes of a row that chunks are permuted within.
    pub fn span(self) -> u64 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Where the byte at an address of shared memory really lies: bits 7 and up flip bits 4 and up.
    pub fn apply(self, address: u64) -> u64 {
        address ^ (address >> 3 & (self.span() - 16))
    }
}

/// A tensor in global memory and the box that is copied from it; dimensions are innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    /// Of the first element.
    pub address: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element: usize,
    /// Elements along each dimension.
    pub dims: Vec<u64>,
    /// Bytes from one element to the next along all dimensions but the innermost.
    pub strides: Vec<u64>,
    /// Elements of the box along each dimension.
    pub extent: Vec<u32>,
    /// How the box lies in shared memory.
    pub swizzle: Swizzle,
}

/// Why a tensor cannot be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TensorMapProblem(&'static str);

impl TensorMap {
    /// Bytes of a map, which must lie at a multiple of 64.
    pub const BYTES: usize = 128;

    /// The map's bytes, if the driver would accept it.
    pub fn encode(&self) -> Result<[u8; TensorMap::BYTES], TensorMapProblem> {
        self.check()?;
        let mut out = Vec::with_capacity(TensorMap::BYTES);
        out.extend(MAGIC);
        out.extend([self.dims.len() as u8, self.element as u8, self.swizzle as u8, 0]);
        out.extend(self.address.to_le_bytes());
        for i in 0..MOST_RANK {
            out.extend((self.dims.get(i).map_or(0, |n| n - 1) as u32).to_le_bytes());
        }
        for i in 0..MOST_RANK {
            out.extend((self.extent.get(i).copied().unwrap_or(0) as u16).to_le_bytes());
        }
        for i in 0..MOST_RANK - 1 {
            out.extend(self.strides.get(i).copied().unwrap_or(0).to_le_bytes());
        }
        out.resize(TensorMap::BYTES, 0);
        out.try_into().map_err(|_| TensorMapProblem("too large"))
    }

    /// The map that some bytes encode; `None` if they are none.
    pub fn decode(bytes: &[u8; TensorMap::BYTES]) -> Option<TensorMap> {
        let (rank, element) = (bytes[4] as usize, bytes[5] as usize);
        let swizzle = *[Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128].get(bytes[6] as usize)?;
        if bytes[..4] != MAGIC || !(1..=MOST_RANK).contains(&rank) {
            return None;
        }
        let number = |at: usize, size: usize| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(&bytes[at..at + size]);
            u64::from_le_bytes(word)
        };
        let map = TensorMap {
            address: number(8, 8),
            element,
            dims: (0..rank).map(|i| number(16 + 4 * i, 4) + 1).collect(),
            extent: (0..rank).map(|i| number(36 + 2 * i, 2) as u32).collect(),
            strides: (0..rank - 1).map(|i| number(46 + 8 * i, 8)).collect(),
            swizzle,
        };
        map.check().ok().map(|()| map)
    }

    /// The driver's rules (`cuTensorMapEncodeTiled`).
    fn check(&self) -> Result<(), TensorMapProblem> {
        let rank = self.dims.len();
        let rules = [
            ((1..=MOST_RANK).contains(&rank), "a tensor has one to five dimensions"),
            (self.strides.len() + 1 == rank && self.extent.len() == rank, "dimensions, strides and box do not match"),
            (matches!(self.element, 1 | 2 | 4 | 8), "an element has 1, 2, 4 or 8 bytes"),
            (self.address.is_multiple_of(16), "the address is no multiple of 16"),
            (self.dims.iter().all(|n| (1..=1 << 32).contains(n)), "a dimension is 0 or larger than 2^32"),
            (self.strides.iter().all(|s| s.is_multiple_of(16) && *s < 1 << 40), "a stride is no multiple of 16"),
            (self.extent.iter().all(|n| (1..=256).contains(n)), "a box has 1 to 256 elements along a dimension"),
        ];
        if let Some((_, why)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(TensorMapProblem(why));
        }
        let row = u64::from(self.extent[0]) * self.element as u64;
        match () {
            () if !row.is_multiple_of(16) => Err(TensorMapProblem("a row of the box is no multiple of 16 bytes")),
            () if self.swizzle != Swizzle::None && row > self.swizzle.span() => {
                Err(TensorMapProblem("a row of the box is longer than what is swizzled"))
            }
            () => Ok(()),
        }
    }

    /// Bytes of a box.
    pub fn box_bytes(&self) -> usize {
        self.extent.iter().map(|&n| n as usize).product::<usize>() * self.element
    }

    /// The rows of the box at some coordinates: for each, the part that lies inside the tensor, as an offset in the box, an
    /// address, and a number of bytes.
    pub(crate) fn rows(&self, at: &[i32]) -> Vec<(usize, u64, usize)> {
        let row = self.extent[0] as usize * self.element;
        let count: usize = self.extent[1..].iter().map(|&n| n as usize).product();
        let first = i64::from(at[0]).max(0);
        let end = (i64::from(at[0]) + i64::from(self.extent[0])).min(self.dims[0] as i64);
        let skip = (first - i64::from(at[0])) as usize * self.element;
        let inside = |i: &usize| first < end && self.row_address(at, *i).is_some();
        let part = |i: usize| {
            let start = self.row_address(at, i).unwrap_or(0).wrapping_add(first as u64 * self.element as u64);
            (i * row + skip, start, (end - first) as usize * self.element)
        };
        (0..count).filter(inside).map(part).collect()
    }

    /// Where the row of the box with a number starts in the tensor; `None` if it lies outside.
    fn row_address(&self, at: &[i32], mut number: usize) -> Option<u64> {
        let mut address = self.address;
        let axes = at[1..].iter().zip(&self.extent[1..]).zip(self.dims[1..].iter().zip(&self.strides));
        for ((&at, &extent), (&size, stride)) in axes {
            let coordinate = i64::from(at) + (number % extent as usize) as i64;
            number /= extent as usize;
            if coordinate < 0 || coordinate >= size as i64 {
                return None;
            }
            address = address.wrapping_add((coordinate as u64).wrapping_mul(*stride));
        }
        Some(address)
    }
}
