//! `ldmatrix` and `mma` in every form the simulator knows, against matrices multiplied by hand.

use crate::common::{Rng, from_bf16, from_f16, to_bf16, to_f16};
use ptx_sim::{Arg, Launch, Memory, Module, launch};

/// A 16 x k matrix times a k x 8 one through `mma`; fragments come from shared memory by `ldmatrix`.
fn multiply(k: usize, ty: &str, a: &[u16], b: &[u16], b_transposed: bool) -> Vec<f32> {
    let (count_a, count_b) = (k / 4, k / 8);
    let list = |name: &str, n: usize| (0..n).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ");
    let (a_list, b_list) = (list("a", count_a), list("b", count_b));
    // Row r of A's matrix m lies at (r + 8 (m % 2), 8 (m / 2)); B is stored by columns, or by rows if transposed.
    let trans = if b_transposed { ".trans" } else { "" };
    let (b_row, b_matrix) = if b_transposed { (16, 128) } else { (2 * k, 16) };
    let ptx = format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 a, .param .u64 b, .param .u64 d) {{
        .shared .align 16 .b8 sa[512]; .shared .align 16 .b8 sb[256];
        .reg .pred %p<3>; .reg .b16 %h; .reg .b32 %r<12>; .reg .b32 %a<4>; .reg .b32 %b<2>; .reg .f32 %d<4>; .reg .b64 %rd<8>;
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [d]; mov.u32 %r0, %tid.x;
        mov.u32 %r1, %r0; mov.u32 %r9, sa; mov.u32 %r10, sb;
        LOOP: setp.lt.u32 %p1, %r1, {}; setp.lt.u32 %p2, %r1, {};
        mul.wide.u32 %rd4, %r1, 2; shl.b32 %r2, %r1, 1;
        add.s64 %rd5, %rd1, %rd4; @%p1 ld.global.u16 %h, [%rd5]; add.s32 %r3, %r9, %r2; @%p1 st.shared.u16 [%r3], %h;
        add.s64 %rd5, %rd2, %rd4; @%p2 ld.global.u16 %h, [%rd5]; add.s32 %r3, %r10, %r2; @%p2 st.shared.u16 [%r3], %h;
        add.s32 %r1, %r1, 32; @%p1 bra LOOP; bar.sync 0;
        and.b32 %r4, %r0, 15; mul.lo.s32 %r4, %r4, {}; shr.u32 %r5, %r0, 4; mad.lo.s32 %r4, %r5, 16, %r4;
        and.b32 %r4, %r4, 511; add.s32 %r4, %r4, %r9;
        ldmatrix.sync.aligned.m8n8.x{count_a}.shared.b16 {{{a_list}}}, [%r4];
        and.b32 %r4, %r0, 7; mul.lo.s32 %r4, %r4, {b_row}; shr.u32 %r5, %r0, 3; mad.lo.s32 %r4, %r5, {b_matrix}, %r4;
        and.b32 %r4, %r4, 255; add.s32 %r4, %r4, %r10;
        ldmatrix.sync.aligned.m8n8.x{count_b}{trans}.shared.b16 {{{b_list}}}, [%r4];
        mov.f32 %d0, 0f3F800000; mov.f32 %d1, %d0; mov.f32 %d2, %d0; mov.f32 %d3, %d0;
        mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32 {{%d0, %d1, %d2, %d3}}, {{{a_list}}}, {{{b_list}}}, {{%d0, %d1, %d2, %d3}};
        mul.wide.u32 %rd4, %r0, 8; add.s64 %rd3, %rd3, %rd4;
        st.global.v2.f32 [%rd3], {{%d0, %d1}}; st.global.v2.f32 [%rd3+256], {{%d2, %d3}}; ret; }}",
        16 * k,
        8 * k,
        2 * k,
    );
    let module = Module::parse(&ptx).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let (a, b, d) = (memory.upload(a), memory.upload(b), memory.alloc(512));
    launch(&module, "k", &mut memory, Launch::new(1, 32), &[a, b, d].map(Arg::Buffer))
        .unwrap_or_else(|finding| panic!("{finding}"));
    memory.read(d).expect("written by all lanes")
}

#[test]
fn fragments_meet_their_partners() {
    let mut rng = Rng(1);
    for (k, ty, b_transposed) in [(8, "bf16", false), (16, "bf16", false), (16, "f16", true), (8, "f16", true)] {
        let narrow = if ty == "bf16" { to_bf16 } else { to_f16 };
        let wide = if ty == "bf16" { from_bf16 } else { from_f16 };
        let mut random = |n: usize| (0..n).map(|_| narrow(f64::from(rng.unit()))).collect::<Vec<u16>>();
        let (a, b) = (random(16 * k), random(8 * k));
        let at = |i: usize, column: usize| if b_transposed { b[i * 8 + column] } else { b[column * k + i] };
        let d = multiply(k, ty, &a, &b, b_transposed);
        for (i, got) in d.iter().enumerate() {
            let (row, column) = (i / 8, i % 8);
            let want: f64 = 1.0 + (0..k).map(|i| wide(a[row * k + i]) * wide(at(i, column))).sum::<f64>();
            assert!((f64::from(*got) - want).abs() < 1e-6, "{ty} k{k} ({row}, {column}): {got} not {want}");
        }
    }
}
