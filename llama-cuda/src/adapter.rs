//! What an adapter adds to a weight, as it lies on the device: one span that begins with where everything in it is
//! (`kernels/adapter.cuh`).
//!
//! ```text
//! head      address of a, all ranks, how many parts
//! parts     of each: address of its b, its rows of the weight, its ranks, where they begin among all
//! a         [ranks, in], part below part: one kernel multiplies a row by all of them
//! b         of each part [rank, rows], transposed: neighbouring threads read neighbouring rows
//! ```
//!
//! So a kernel needs one address for an adapter, and a launch has room for [`ADAPTERS`] of them: which row has which adapter is
//! read from the step's batch (`adapted`).

use bytemuck::{bytes_of, cast_slice};
use llama_core::Result;
use llama_core::backend::LowRank;

use crate::device::Span;
use crate::params::{AdapterHead, AdapterPart, Address};

/// Adapters that a launch knows.
pub(crate) const ADAPTERS: usize = 16;

/// Matrices begin at multiples of so many bytes: a load of four numbers.
const ALIGN: usize = 16;

/// What one adapter adds to one weight: a span that stays where it is, so that steps which were recorded find whatever comes there.
#[derive(Debug)]
pub struct Adapter {
    span: Span,
    /// Of the weight.
    rows: usize,
    cols: usize,
    /// Of what is there; none where that is nothing.
    ranks: u32,
}

/// Consecutive adapters of one weight, as many as a launch knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Group {
    /// Number of the first.
    pub first: u32,
    /// Null where one adds nothing.
    pub heads: [Address; ADAPTERS],
    /// The most that one has.
    pub ranks: u32,
}

impl Adapter {
    /// One that adds nothing to a weight of `[rows, cols]`, in memory that [`Adapter::bytes`] says how much there must be of.
    pub(crate) fn new([rows, cols]: [usize; 2], span: Span) -> Adapter {
        Adapter { span, rows, cols, ranks: 0 }
    }

    /// Lays out `parts` over what is there.
    ///
    /// # Panics
    /// If the parts' shapes do not fit each other, the weight or the memory.
    pub(crate) fn set(&mut self, parts: &[LowRank<'_>]) -> Result<()> {
        let Adapter { span, rows, cols, ranks } = self;
        for LowRank { first_row, a, b } in parts {
            let fits = first_row + b.rows() <= *rows && (a.rows(), a.cols()) == (b.cols(), *cols);
            assert!(fits, "{} and {} at row {first_row} of {rows}", a.name(), b.name());
        }
        *ranks = 0;
        if !parts.is_empty() {
            let places = Places::new(*cols, &shapes(parts));
            span.write(0, &image(&places, parts, span.address()))?;
        }
        *ranks = parts.iter().map(|part| part.a.rows() as u32).sum();
        Ok(())
    }

    /// Bytes on the device for parts of these `(rows, rank)` beside a weight of `cols` columns.
    pub(crate) fn bytes(cols: usize, parts: &[(usize, usize)]) -> u64 {
        Places::new(cols, parts).bytes as u64
    }
}

impl Group {
    /// `adapters` of one weight in groups.
    pub fn all(adapters: &[Option<Adapter>]) -> impl Iterator<Item = Group> {
        adapters.chunks(ADAPTERS).enumerate().map(|(i, some)| {
            let mut group = Group { first: (i * ADAPTERS) as u32, heads: [0; ADAPTERS], ranks: 0 };
            for (head, adapter) in group.heads.iter_mut().zip(some) {
                let Some(adapter) = adapter.as_ref().filter(|adapter| adapter.ranks > 0) else { continue };
                *head = adapter.span.address();
                group.ranks = group.ranks.max(adapter.ranks);
            }
            group
        })
    }

    /// Whether the adapter of that number is one of these, and adds something.
    pub fn has(&self, adapter: u32) -> bool {
        let index = adapter.checked_sub(self.first).map(|index| index as usize);
        index.and_then(|index| self.heads.get(index)).is_some_and(|&head| head != 0)
    }
}

/// Where matrices begin, in bytes from the start of the span.
struct Places {
    a: usize,
    b: Vec<usize>,
    bytes: usize,
}

impl Places {
    fn new(cols: usize, parts: &[(usize, usize)]) -> Places {
        let mut bytes = size_of::<AdapterHead>() + parts.len() * size_of::<AdapterPart>();
        let mut matrix = |len: usize| {
            let start = bytes.next_multiple_of(ALIGN);
            bytes = start + len * size_of::<f32>();
            start
        };
        let a = matrix(cols * parts.iter().map(|(_, rank)| rank).sum::<usize>());
        let b = parts.iter().map(|(rows, rank)| matrix(rows * rank)).collect();
        Places { a, b, bytes }
    }
}

/// Rows and rank of each part.
fn shapes(parts: &[LowRank<'_>]) -> Vec<(usize, usize)> {
    parts.iter().map(|part| (part.b.rows(), part.b.cols())).collect()
}

/// The bytes of a span at `address`.
fn image(places: &Places, parts: &[LowRank<'_>], address: Address) -> Vec<u8> {
    let mut image = vec![0; places.bytes];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let (mut ranks, mut a, mut described) = (0, places.a, size_of::<AdapterHead>());
    for (part, &b) in parts.iter().zip(&places.b) {
        let (rows, rank) = (part.b.rows() as u32, part.b.cols() as u32);
        let about = AdapterPart { b: address + b as u64, first: part.first_row as u32, rows, ranks: rank, low: ranks };
        put(described, bytes_of(&about));
        let numbers = part.a.to_f32();
        put(a, cast_slice(&numbers));
        put(b, cast_slice(&transposed(&part.b.to_f32(), part.b.cols())));
        described += size_of::<AdapterPart>();
        a += size_of_val(&numbers[..]);
        ranks += rank;
    }
    put(0, bytes_of(&AdapterHead { a: address + places.a as u64, ranks, count: parts.len() as u32 }));
    image
}

/// `[rows, cols]` as `[cols, rows]`.
fn transposed(matrix: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|column| matrix.iter().skip(column).step_by(cols)).copied().collect()
}

#[cfg(test)]
mod tests {
    use llama_core::checkpoint::TensorView;
    use llama_core::format::Format;

    use super::*;

    fn bytes(first: u32, count: u32) -> Vec<u8> {
        (first..first + count).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    #[test]
    fn a_kernel_finds_every_matrix_from_the_head() {
        let [a0, b0, a1, b1] = [bytes(0, 3), bytes(10, 2), bytes(20, 6), bytes(30, 6)];
        let view = |data, rows, cols| TensorView::new("w", Format::F32, rows, cols, data).expect("a matrix");
        let parts = [
            LowRank { first_row: 1, a: view(&a0, 1, 3), b: view(&b0, 2, 1) },
            LowRank { first_row: 4, a: view(&a1, 2, 3), b: view(&b1, 3, 2) },
        ];
        let places = Places::new(3, &shapes(&parts));
        let image = image(&places, &parts, 1 << 20);
        assert_eq!(image.len() as u64, Adapter::bytes(3, &[(2, 1), (3, 2)]));
        let head: AdapterHead = bytemuck::pod_read_unaligned(&image[..16]);
        let part = |i: usize| bytemuck::pod_read_unaligned::<AdapterPart>(&image[16 + 24 * i..][..24]);
        let floats = |address: Address, count: usize| -> Vec<f32> {
            let at = (address - (1 << 20)) as usize;
            assert!(at.is_multiple_of(ALIGN));
            image[at..at + 4 * count].chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
        };
        assert_eq!((head.ranks, head.count), (3, 2));
        assert_eq!(floats(head.a, 9), [0., 1., 2., 20., 21., 22., 23., 24., 25.]);
        let of = |i| (part(i).first, part(i).rows, part(i).ranks, part(i).low);
        assert_eq!((of(0), of(1)), ((1, 2, 1, 0), (4, 3, 2, 1)));
        assert_eq!(floats(part(0).b, 2), [10., 11.]);
        assert_eq!(floats(part(1).b, 6), [30., 32., 34., 31., 33., 35.], "transposed");
    }

    #[test]
    fn a_group_has_its_adapters_alone() {
        let mut heads = [0; ADAPTERS];
        (heads[0], heads[15]) = (256, 512);
        let group = Group { first: 16, heads, ranks: 4 };
        let known: Vec<u32> = (0..40).filter(|&adapter| group.has(adapter)).collect();
        assert_eq!(known, [16, 31]);
    }
}
