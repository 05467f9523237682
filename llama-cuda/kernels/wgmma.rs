//! The wgmma kernels: activations packed, multiplied, and compared with f64 and, bit for bit, with gemv.

use ptx_sim::{Launch, Memory, Module};

use super::cases::{Covered, go};
use super::element::Fields;
use super::gemm::{Product, Setting, Shape, Sink};
use super::tiles::{self, Format};
use super::{Rng, judge, parse, ptx, ptx_90a};

const COLUMNS: usize = 128;
const CHUNK: usize = 64;

/// Bytes of a packed chunk: `packed_bytes` in packed.cuh.
fn packed_bytes(format: &Format) -> usize {
    COLUMNS * CHUNK * 2 + if format.min { CHUNK / format.group * COLUMNS * 4 } else { 0 }
}

/// Dynamic shared memory of a block: `Sizes::SHARED` in wgmma.cuh.
fn shared(format: &Format) -> usize {
    let (weights, inputs) = (8 * format.tile_bytes, packed_bytes(format));
    let fixed = 2 * 128 * 64 * 4 + 512;
    let (room, large) = (227 * 1024 - fixed, format.inputs > CHUNK);
    let stages = 6.min(if large { (room - 2 * weights) / inputs } else { room / (weights + inputs) });
    stages * inputs + if large { 2 } else { stages } * weights + fixed
}

fn chunks(format: &Format, inputs: usize) -> usize {
    inputs.div_ceil(format.inputs) * format.inputs / CHUNK
}

fn pack_kernel(format: &Format) -> &'static str {
    match (format.group, format.min) {
        (16, false) => "pack_16",
        (16, true) => "pack_16_sums",
        (_, false) => "pack_32",
        (_, true) => "pack_32_sums",
    }
}

/// Packs a product's activations; the packed bytes.
fn pack(covered: &mut Covered, module: &Module, product: &Product<'_>) -> Result<Vec<u8>, String> {
    let (format, Setting { inputs, columns, gather, .. }) = (product.format, product.setting);
    let (mut memory, chunks) = (Memory::new(), chunks(format, inputs));
    let blocks = columns.div_ceil(COLUMNS) * chunks;
    let (packed, x) = (memory.alloc(blocks * packed_bytes(format)), memory.upload(&product.x));
    let fields = Fields::default().buffers(&[packed, x]);
    let fields = if gather { fields.buffers(&[memory.upload(&product.gather)]) } else { fields.null() };
    let fields = fields.words(&[columns, inputs, chunks, 0]);
    go(covered, module, pack_kernel(format), &mut memory, Launch::new(blocks as u32, 256), &[fields.arg()])?;
    memory.read(packed).map_err(|fault| fault.to_string())
}

/// Whether packed bytes are the product's activations, where packed.cuh says they lie.
fn check_packed(product: &Product<'_>, packed: &[u8]) -> Result<(), String> {
    let (format, Setting { inputs, columns, .. }) = (product.format, product.setting);
    let (chunks, bytes) = (chunks(format, inputs), packed_bytes(format));
    let (mut sums, mut plain, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    for (at, tile) in packed.chunks(bytes).enumerate() {
        let (first, chunk) = (at / chunks * COLUMNS, at % chunks);
        for column in 0..COLUMNS {
            let x = |i: usize| {
                let inside = first + column < columns && chunk * CHUNK + i < inputs;
                if inside { product.input(first + column, chunk * CHUNK + i) } else { 0.0 }
            };
            for i in 0..CHUNK {
                let place = format.place(0, i);
                // Mma columns 2q, 2q+1, 2q+8, 2q+9 of the step.
                let k = 16 * place.step + 2 * (place.lane % 4) + place.half + 8 * (place.pair / 2);
                let unit = (k / 8) ^ (column % 8);
                let byte = column * 128 + unit * 16 + k % 8 * 2;
                if super::from_bf16(u16::from_le_bytes([tile[byte], tile[byte + 1]])) != x(i) {
                    return Err(format!("pack: input {i} of column {column} of tile {at}"));
                }
            }
            for group in 0..(bytes - COLUMNS * CHUNK * 2) / (COLUMNS * 4) {
                let at = COLUMNS * CHUNK * 2 + (group * COLUMNS + column) * 4;
                let of = |i| x(group * format.group + i);
                sums.push(f64::from(f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]])));
                truth.push((0..format.group).map(of).sum::<f64>());
                plain.push(f64::from((0..format.group).fold(0f32, |sum, i| sum + of(i) as f32)));
            }
        }
    }
    judge("sums", &sums, &plain, &truth)
}

pub fn pack_case(module: &Module) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(60));
    for format in [&tiles::BF16, &tiles::Q4_1, &tiles::Q6_K, &tiles::GROUPED] {
        for (inputs, columns, gather) in [(72, 130, true), (51, 5, false)] {
            let setting =
                Setting { shape: Shape::Wide, rows: 1, inputs, columns, sink: Sink::F32, bias: false, gather };
            let product = Product::random(&mut rng, format, setting);
            let packed = pack(&mut covered, module, &product)?;
            check_packed(&product, &packed)?;
        }
    }
    Ok(covered)
}

/// Rows and columns past every edge, several segments, odd tiles; two tasks a block, so that a ring goes on from one into
/// the next.
fn settings(format: &Format) -> Vec<(Setting, u32)> {
    let tile = format.inputs;
    let odd = if tile > 64 {
        0
    } else if format.scaled() {
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

fn run(module: &Module, format: &Format, [wgmma, gemv]: [&'static str; 2]) -> Result<Covered, String> {
    let (mut covered, mut rng) = (Vec::new(), Rng(70));
    let (packing, other) = (parse(&ptx_90a("pack_sm90"))?, parse(&ptx(&format!("gemv_{}", format.name)))?);
    for (setting, blocks) in settings(format) {
        let product = Product::random(&mut rng, format, setting);
        let packed = pack(&mut Vec::new(), &packing, &product)?;
        let launch = Launch::new(blocks, 384).shared(shared(format));
        let got = product.run_with(&mut covered, module, wgmma, launch, &packed)?;
        let expected = product.run(&mut Vec::new(), &other, gemv, product.gemv_launch())?;
        product.compare(&got, &expected)?;
        product.judge(&got)?;
    }
    Ok(covered)
}

macro_rules! cases {
    ($($case:ident $format:ident $name:literal;)*) => {$(
        pub fn $case(module: &Module) -> Result<Covered, String> {
            run(module, &tiles::$format, [concat!("wgmma_", $name, "_bf16"), concat!("gemv_", $name, "_bf16")])
        }
    )*};
}

cases! {
    bf16_case BF16 "bf16";
    f16_case F16 "f16";
    f32_case F32 "f32";
    q8_0_case Q8_0 "q8_0";
    q4_0_case Q4_0 "q4_0";
    q4_1_case Q4_1 "q4_1";
    q4_k_case Q4_K "q4_k";
    q5_k_case Q5_K "q5_k";
    q6_k_case Q6_K "q6_k";
    grouped_case GROUPED "grouped";
}
