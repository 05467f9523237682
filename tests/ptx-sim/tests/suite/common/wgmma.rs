//! The wgmma kernels: activations packed, multiplied, and compared with f64 and, bit for bit, with gemv.

use ptx_sim::{Launch, Memory, Module};

use super::cases::{Covered, go};
use super::element::Fields;
use super::gemm::{GEMV, Product, Setting, Shape, Sink, has_min};
use super::weights::Kind;
use super::{Rng, judge, parse, ptx, ptx_90a};

const COLUMNS: usize = 128;
const CHUNK: usize = 64;

/// Bytes of a packed chunk: `packed_bytes` in packed.cuh.
fn packed_bytes(kind: Kind) -> usize {
    COLUMNS * CHUNK * 2 + if has_min(kind) { CHUNK / kind.group() * COLUMNS * 4 } else { 0 }
}

/// Dynamic shared memory of a block: `Sizes::SHARED` in wgmma.cuh.
fn shared(kind: Kind) -> usize {
    let (weights, inputs) = (8 * kind.tile_bytes(), packed_bytes(kind));
    let fixed = 2 * 128 * 64 * 4 + 512;
    let (room, large) = (227 * 1024 - fixed, kind.is_k());
    let stages = 6.min(if large { (room - 2 * weights) / inputs } else { room / (weights + inputs) });
    stages * inputs + if large { 2 } else { stages } * weights + fixed
}

fn chunks(kind: Kind, inputs: usize) -> usize {
    inputs.div_ceil(kind.tile_inputs()) * kind.tile_inputs() / CHUNK
}

fn pack_kernel(kind: Kind) -> &'static str {
    match (kind.group(), has_min(kind)) {
        (16, false) => "pack_16",
        (16, true) => "pack_16_sums",
        (_, false) => "pack_32",
        (_, true) => "pack_32_sums",
    }
}

/// Packs a product's activations; the packed bytes.
fn pack(covered: &mut Covered, module: &Module, product: &Product) -> Result<Vec<u8>, String> {
    let (kind, Setting { inputs, columns, gather, .. }) = (product.kind(), product.setting);
    let (mut memory, chunks) = (Memory::new(), chunks(kind, inputs));
    let blocks = columns.div_ceil(COLUMNS) * chunks;
    let (packed, x) = (memory.alloc(blocks * packed_bytes(kind)), memory.upload(&product.x));
    let fields = Fields::default().buffers(&[packed, x]);
    let fields = if gather { fields.buffers(&[memory.upload(&product.gather)]) } else { fields.null() };
    let fields = fields.words(&[columns, inputs, chunks, 0]);
    go(covered, module, pack_kernel(kind), &mut memory, Launch::new(blocks as u32, 256), &[fields.arg()])?;
    memory.read(packed).map_err(|fault| fault.to_string())
}

/// Where input `i` comes among the steps' mma columns: 2q, 2q+1, 2q+8, 2q+9 are lane quarter q's four inputs.
fn place(kind: Kind, i: usize) -> usize {
    let (q, step) = match kind.group() {
        16 => (i % 16 / 4, i / 16),
        _ => (i % 32 / 8, i / 32 * 2 + i % 8 / 4),
    };
    16 * step + 2 * q + i % 2 + i % 4 / 2 * 8
}

/// Whether packed bytes are the product's activations, where packed.cuh says they lie.
fn check_packed(product: &Product, packed: &[u8]) -> Result<(), String> {
    let (kind, Setting { inputs, columns, .. }) = (product.kind(), product.setting);
    let (chunks, bytes) = (chunks(kind, inputs), packed_bytes(kind));
    let (mut sums, mut plain, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    for (at, tile) in packed.chunks(bytes).enumerate() {
        let (first, chunk) = (at / chunks * COLUMNS, at % chunks);
        for column in 0..COLUMNS {
            let x = |i: usize| {
                let inside = first + column < columns && chunk * CHUNK + i < inputs;
                if inside { product.input(first + column, chunk * CHUNK + i) } else { 0.0 }
            };
            for i in 0..CHUNK {
                let k = place(kind, i);
                let unit = (k / 8) ^ (column % 8);
                let byte = column * 128 + unit * 16 + k % 8 * 2;
                if super::from_bf16(u16::from_le_bytes([tile[byte], tile[byte + 1]])) != x(i) {
                    return Err(format!("pack: input {i} of column {column} of tile {at}"));
                }
            }
            for group in 0..(bytes - COLUMNS * CHUNK * 2) / (COLUMNS * 4) {
                let at = COLUMNS * CHUNK * 2 + (group * COLUMNS + column) * 4;
                let of = |i| x(group * kind.group() + i);
                sums.push(f64::from(f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]])));
                truth.push((0..kind.group()).map(of).sum::<f64>());
                plain.push(f64::from((0..kind.group()).fold(0f32, |sum, i| sum + of(i) as f32)));
            }
        }
    }
    judge("sums", &sums, &plain, &truth)
}

pub fn pack_case(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(60));
    let kinds = [(Kind::Bf16, [72, 51]), (Kind::Q4_1, [96, 32]), (Kind::Q6K, [256, 256]), (Kind::Grouped, [80, 16])];
    for (kind, [long, short]) in kinds {
        for (inputs, columns, gather) in [(long, 130, true), (short, 5, false)] {
            let setting =
                Setting { shape: Shape::Wide, rows: 1, inputs, columns, sink: Sink::F32, bias: false, gather };
            let product = Product::random(&mut rng, kind, setting);
            let packed = pack(&mut covered, module, &product)?;
            check_packed(&product, &packed)?;
        }
    }
    Ok(covered)
}

/// Rows and columns past every edge, several segments, odd tiles; two tasks a block, so that a ring goes on from one into
/// the next.
fn settings(kind: Kind) -> Vec<(Setting, u32)> {
    let tile = kind.tile_inputs();
    let odd = if tile > 64 {
        0
    } else if !kind.is_float() {
        32
    } else {
        3
    };
    let of = |(rows, inputs, columns), sink| Setting {
        shape: Shape::Wide,
        rows,
        inputs,
        columns,
        sink,
        bias: false,
        gather: false,
    };
    vec![
        (Setting { bias: true, ..of((37, 9 * tile - odd, 27), Sink::Add) }, 1),
        (Setting { gather: true, ..of((133, 2 * tile - odd, 130), Sink::Bf16) }, 3),
        (of((117, tile - odd, 70), Sink::F32), 1),
    ]
}

const WGMMA: [&str; 10] = crate::kernels!("wgmma_", "_bf16");

pub fn case(module: &Module, kind: Kind) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(70));
    let (packing, gemv) = (parse(&ptx_90a("pack_sm90"))?, parse(&ptx(&format!("gemv_{}", kind.name())))?);
    for (setting, blocks) in settings(kind) {
        let product = Product::random(&mut rng, kind, setting);
        let packed = pack(&mut Vec::new(), &packing, &product)?;
        let launch = Launch::new(blocks, 384).shared(shared(kind));
        let got = product.run_with(&mut covered, module, WGMMA[kind as usize], launch, &packed)?;
        let expected = product.run(&mut Vec::new(), &gemv, GEMV[kind as usize], product.gemv_launch())?;
        product.compare(&got, &expected)?;
        product.judge(&got)?;
    }
    Ok(covered)
}
