//! Performance that needs no clock: what a kernel fetches and issues is counted, and may not grow.

use crate::common::gemm;
use crate::common::gemv::measure;
use crate::common::weights::Kind;
use crate::common::{parse, ptx};
use ptx_sim::{Class, Counters};

/// Rows, inputs and columns with whole tiles everywhere.
const SHAPES: [(usize, usize, usize); 3] = [(64, 2048, 1), (64, 2048, 8), (16, 4096, 4)];

#[test]
fn a_gemv_fetches_its_weights_once_and_wastes_no_sector() {
    for kind in Kind::ALL {
        let module = parse(&ptx(&format!("gemv_{}", kind.name()))).expect("shipped PTX");
        for shape in SHAPES {
            let (rows, inputs, columns) = shape;
            let (counters, weight_bytes) = measure(&module, kind, shape).expect("no findings");
            // 32 inputs of a column are 64 bytes: two sectors, fetched by every 16 rows (from L1 but for the first).
            let x_sectors = (rows / 16 * inputs / 32 * columns * 2) as u64;
            assert_eq!(counters.global_sectors_read, weight_bytes / 32 + x_sectors, "{kind:?} {shape:?}");
            // 16 rows of bf16 are a sector, however many warps write them.
            assert_eq!(counters.global_bytes_written, (rows * columns * 2) as u64, "{kind:?} {shape:?}");
        }
    }
}

#[test]
fn a_gemv_issues_few_instructions_a_weight() {
    // Instructions of one lane. An H100 executes 132 SMs x 128 lanes x 1.7 GHz = 29 T of them a second while it reads
    // 3 TB: 9.6 a byte, so 19 a weight of bf16, 10 of q8_0 and 5.4 of q4_0 before memory stops being the wall.
    let most = [0.95, 7.6, 1.8, 3.0, 2.6, 3.1, 4.2, 5.2, 4.8, 4.2];
    for (kind, most) in Kind::ALL.into_iter().zip(most) {
        let module = parse(&ptx(&format!("gemv_{}", kind.name()))).expect("shipped PTX");
        let (rows, inputs, columns) = (32, 8192, 1);
        let (counters, _) = measure(&module, kind, (rows, inputs, columns)).expect("no findings");
        // Moves between registers are PTX's way of naming them: no device executes them.
        let work = counters.warp_instructions - counters.classes.get(&Class::Move).copied().unwrap_or(0);
        let per_weight = work as f64 * 32.0 / (rows * inputs) as f64;
        println!("{}: {per_weight:.2} PTX instructions a weight", kind.name());
        assert!(per_weight <= most, "{}: {per_weight:.2} instructions a weight, at most {most} allowed", kind.name());
    }
}

#[test]
fn a_gemm_has_no_bank_conflicts_and_few_instructions_an_mma() {
    // Of the loop alone: what more inputs add. An A100's tensor core takes 8 cycles for an mma and serves two warps, which
    // share the slots to issue in: 8 instructions an mma before issuing is the wall. ptxas makes one of a shift, a mask and
    // an or, so it is fewer than these: 7.0 for q4_0, 7.3 for q8_0, 4.3 for bf16 with the end of a segment.
    let most = [(Kind::Bf16, 3.8), (Kind::Q8_0, 8.3), (Kind::Q4_0, 8.0), (Kind::Q4K, 10.0), (Kind::Q6K, 11.8)];
    for (kind, most) in most {
        let module = parse(&ptx(&format!("gemm_{}", kind.name()))).expect("shipped PTX");
        let [less, more] = [2048, 4096].map(|inputs| gemm::measure(&module, kind, inputs).expect("no findings"));
        let work = |c: &Counters| c.warp_instructions - c.classes.get(&Class::Move).copied().unwrap_or(0);
        let ratio = (work(&more) - work(&less)) as f64 / (more.mma - less.mma) as f64;
        println!("{}: {ratio:.2} PTX instructions an mma", kind.name());
        assert!(ratio <= most, "{}: {ratio:.2} instructions an mma, at most {most} allowed", kind.name());
        // Of Q6_K's high bits a chunk wants two words of a lane's four, which takes as long as all of them.
        assert!(kind == Kind::Q6K || more.shared_conflicts == 0, "{}: bank conflicts", kind.name());
    }
}
