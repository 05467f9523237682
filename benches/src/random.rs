//! Models of random weights in the shapes of Llamas: speed does not depend on the weights, and such a file may be as large as
//! any without being fetched. Written as GGUF (version 3, ggml's specification), which every peer reads.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use llama_core::format::Format;

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Sizes {
    pub name: &'static str,
    pub layers: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// The head is the embedding.
    pub tied: bool,
}

const fn sizes(name: &'static str, [layers, hidden, ffn, heads, kv_heads, head_dim]: [usize; 6], tied: bool) -> Sizes {
    Sizes { name, layers, hidden, ffn, heads, kv_heads, head_dim, vocab: 128_256, tied }
}

/// Llama 3.2 1B and 3B, 3.1 8B and 70B, and one for trying a program out.
pub const SIZES: [Sizes; 5] = [
    sizes("1b", [16, 2048, 8192, 32, 8, 64], true),
    sizes("3b", [28, 3072, 8192, 24, 8, 128], true),
    sizes("8b", [32, 4096, 14_336, 32, 8, 128], false),
    sizes("70b", [80, 8192, 28_672, 64, 8, 128], false),
    Sizes { vocab: 512, ..sizes("tiny", [2, 256, 512, 4, 2, 64], true) },
];

impl Sizes {
    /// Columns of the heads side by side, and of keys or values.
    pub fn widths(&self) -> (usize, usize) {
        (self.heads * self.head_dim, self.kv_heads * self.head_dim)
    }

    /// `(name, rows, columns)` of every tensor, in the order of the file; a gain has one row.
    fn tensors(&self) -> Vec<(String, usize, usize)> {
        let (hidden, (q, kv)) = (self.hidden, self.widths());
        let mut tensors = vec![("token_embd".to_owned(), self.vocab, hidden)];
        for l in 0..self.layers {
            let layer = [
                ("attn_norm", 1, hidden),
                ("attn_q", q, hidden),
                ("attn_k", kv, hidden),
                ("attn_v", kv, hidden),
                ("attn_output", hidden, q),
                ("ffn_norm", 1, hidden),
                ("ffn_gate", self.ffn, hidden),
                ("ffn_up", self.ffn, hidden),
                ("ffn_down", hidden, self.ffn),
            ];
            tensors.extend(layer.map(|(name, rows, cols)| (format!("blk.{l}.{name}"), rows, cols)));
        }
        tensors.push(("output_norm".to_owned(), 1, hidden));
        if !self.tied {
            tensors.push(("output".to_owned(), self.vocab, hidden));
        }
        tensors
    }
}

/// ggml's number of a format that this writes, and of what a file is mostly made of.
fn codes(format: Format) -> Option<(u32, u32)> {
    Some(match format {
        Format::F32 => (0, 0),
        Format::F16 => (1, 1),
        Format::Q4_0 => (2, 2),
        Format::Q4_1 => (3, 3),
        Format::Q8_0 => (8, 7),
        Format::Q4_K => (12, 15),
        Format::Q5_K => (13, 17),
        Format::Q6_K => (14, 18),
        Format::BF16 => (30, 32),
        _ => return None,
    })
}

/// Writes a model whose matrices are all in `format`.
///
/// # Errors
/// What the file system says, and [`io::ErrorKind::InvalidInput`] for a format that ggml files have no matrices in.
pub fn write(path: &Path, sizes: &Sizes, format: Format) -> io::Result<()> {
    let (_, mostly) = codes(format).ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = Counting { out: BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?), written: 0 };
    let tensors = sizes.tensors();
    let form = |rows: usize| if rows == 1 { Format::F32 } else { format };
    header(&mut file, sizes, mostly, tensors.len())?;
    let mut offset = 0u64;
    for (name, rows, cols) in &tensors {
        let (kind, bytes) = (form(*rows), rows * form(*rows).row_bytes(*cols).ok_or(io::ErrorKind::InvalidInput)?);
        let code = codes(kind).ok_or(io::ErrorKind::InvalidInput)?.0;
        string(&mut file, &format!("{name}.weight"))?;
        let extents = [*cols as u64, *rows as u64];
        let extents = if *rows == 1 { &extents[..1] } else { &extents };
        file.write_all(&(extents.len() as u32).to_le_bytes())?;
        extents.iter().try_for_each(|n| file.write_all(&n.to_le_bytes()))?;
        file.write_all(&code.to_le_bytes())?;
        file.write_all(&offset.to_le_bytes())?;
        offset += (bytes as u64).next_multiple_of(ALIGNMENT);
    }
    pad(&mut file)?;
    let pool = Pool::new(format);
    for (_, rows, cols) in &tensors {
        match rows {
            1 => (0..*cols).try_for_each(|_| file.write_all(&1f32.to_le_bytes()))?,
            _ => pool.write(&mut file, rows * cols)?,
        }
        pad(&mut file)?;
    }
    file.flush()
}

const ALIGNMENT: u64 = 32;

/// Knows how far it is.
struct Counting<W> {
    out: W,
    written: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn pad<W: Write>(file: &mut Counting<W>) -> io::Result<()> {
    let bytes = file.written.next_multiple_of(ALIGNMENT) - file.written;
    file.write_all(&[0; ALIGNMENT as usize][..bytes as usize])
}

fn string(file: &mut impl Write, text: &str) -> io::Result<()> {
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())
}

/// Types of metadata.
const U32: u32 = 4;
const F32: u32 = 6;
const STRING: u32 = 8;

fn header(file: &mut impl Write, sizes: &Sizes, mostly: u32, tensors: usize) -> io::Result<()> {
    let numbers = [
        ("general.file_type", mostly as usize),
        ("llama.vocab_size", sizes.vocab),
        ("llama.context_length", 131_072),
        ("llama.embedding_length", sizes.hidden),
        ("llama.block_count", sizes.layers),
        ("llama.feed_forward_length", sizes.ffn),
        ("llama.attention.head_count", sizes.heads),
        ("llama.attention.head_count_kv", sizes.kv_heads),
        ("llama.attention.key_length", sizes.head_dim),
        ("llama.attention.value_length", sizes.head_dim),
        ("llama.rope.dimension_count", sizes.head_dim),
    ];
    let floats = [("llama.attention.layer_norm_rms_epsilon", 1e-5f32), ("llama.rope.freq_base", 500_000.0)];
    let strings = [("general.architecture", "llama"), ("general.name", sizes.name), ("tokenizer.ggml.model", "none")];
    file.write_all(b"GGUF")?;
    file.write_all(&3u32.to_le_bytes())?;
    file.write_all(&(tensors as u64).to_le_bytes())?;
    file.write_all(&((numbers.len() + floats.len() + strings.len()) as u64).to_le_bytes())?;
    for (key, text) in strings {
        string(file, key)?;
        file.write_all(&STRING.to_le_bytes())?;
        string(file, text)?;
    }
    for (key, number) in numbers {
        string(file, key)?;
        file.write_all(&U32.to_le_bytes())?;
        file.write_all(&(number as u32).to_le_bytes())?;
    }
    for (key, number) in floats {
        string(file, key)?;
        file.write_all(&F32.to_le_bytes())?;
        file.write_all(&number.to_le_bytes())?;
    }
    Ok(())
}

/// Encoded random weights, used over and over from a place that moves: encoding gigabytes would take minutes.
pub struct Pool {
    format: Format,
    bytes: Vec<u8>,
}

/// Weights of a pool: whole blocks of every format.
const POOL: usize = 1 << 18;

impl Pool {
    /// Weights of a size that keeps activations of a deep model in range.
    pub fn new(format: Format) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let weights: Vec<f32> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.03
        })
        .take(POOL)
        .collect();
        let mut bytes = vec![0; format.row_bytes(POOL).unwrap_or(0)];
        // A format without an encoder would leave zeros, which are weights as good as others for a speed.
        let _ = format.encode(&weights, &mut bytes);
        Pool { format, bytes }
    }

    /// Writes `weights` of them.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, out: &mut impl Write, weights: usize) -> io::Result<()> {
        let mut left = self.format.row_bytes(weights).unwrap_or(0);
        while left > 0 {
            let n = left.min(self.bytes.len());
            out.write_all(&self.bytes[..n])?;
            left -= n;
        }
        Ok(())
    }

    /// `rows` rows of `cols` weights.
    pub fn matrix(&self, rows: usize, cols: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector does not fail.
        let _ = self.write(&mut bytes, rows * cols);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llama_core::checkpoint::Checkpoint;
    use llama_core::config::Head;

    #[test]
    fn what_is_written_opens_as_what_was_asked_for() {
        let path = std::env::temp_dir().join(format!("llama-benches-{}.gguf", std::process::id()));
        for format in [Format::BF16, Format::Q4_0, Format::Q4_K] {
            for tied in [true, false] {
                let sizes = Sizes { tied, ..SIZES[4] };
                write(&path, &sizes, format).unwrap();
                let checkpoint = Checkpoint::open(&path).unwrap();
                checkpoint.verify().unwrap();
                let config = checkpoint.config();
                let read = [config.layers, config.hidden, config.ffn, config.heads, config.kv_heads, config.head_dim];
                let wanted = [sizes.layers, sizes.hidden, sizes.ffn, sizes.heads, sizes.kv_heads, sizes.head_dim];
                assert_eq!((read, config.vocab, config.head == Head::Tied), (wanted, sizes.vocab, tied));
                assert!(checkpoint.tensors().filter(|t| t.rows > 1).all(|t| t.format == Some(format)));
            }
        }
        std::fs::remove_file(path).unwrap();
    }
}
