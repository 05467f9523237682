//! Performance that needs no clock: what a kernel fetches and issues is counted, and may not grow.

mod common;

use common::gemv::measure;
use common::{parse, ptx};
use ptx_sim::Class;

/// Rows, inputs and columns with whole tiles everywhere.
const SHAPES: [(usize, usize, usize); 3] = [(64, 2048, 1), (64, 2048, 8), (16, 4096, 4)];

#[test]
fn a_gemv_fetches_its_weights_once_and_wastes_no_sector() {
    for format in ["bf16", "f16", "q8_0", "q4_0", "q4_1"] {
        let module = parse(&ptx(&format!("gemv_{format}"))).expect("shipped PTX");
        for shape in SHAPES {
            let (rows, inputs, columns) = shape;
            let (counters, weight_bytes) = measure(&module, format, shape).expect("no findings");
            // 32 inputs of a column are 64 bytes: two sectors, fetched by every tile of 16 rows (from L1 but for the first).
            let x_sectors = (rows / 16 * inputs / 32 * columns * 2) as u64;
            assert_eq!(counters.global_sectors_read, weight_bytes / 32 + x_sectors, "{format} {shape:?}");
            // 16 rows of bf16 are a sector, however many warps write them.
            assert_eq!(counters.global_bytes_written, (rows * columns * 2) as u64, "{format} {shape:?}");
        }
    }
}

#[test]
fn a_gemv_issues_few_instructions_a_weight() {
    // Instructions of one lane. An H100 executes 132 SMs x 128 lanes x 1.7 GHz = 29 T of them a second while it reads
    // 3 TB: 9.6 a byte, so 19 a weight of bf16, 10 of q8_0 and 5.4 of q4_0 before memory stops being the wall.
    for (format, most) in [("bf16", 1.3), ("f16", 5.4), ("q8_0", 4.3), ("q4_0", 3.3), ("q4_1", 5.0)] {
        let module = parse(&ptx(&format!("gemv_{format}"))).expect("shipped PTX");
        let (rows, inputs, columns) = (32, 8192, 1);
        let (counters, _) = measure(&module, format, (rows, inputs, columns)).expect("no findings");
        // Moves between registers are PTX's way of naming them: no device executes them.
        let work = counters.warp_instructions - counters.classes.get(&Class::Move).copied().unwrap_or(0);
        let per_weight = work as f64 * 32.0 / (rows * inputs) as f64;
        println!("{format}: {per_weight:.2} PTX instructions a weight");
        assert!(per_weight <= most, "{format}: {per_weight:.2} instructions a weight, at most {most} allowed");
    }
}
