//! `ldmatrix` and the matrix products (PTX ISA 9.7.14 and 9.7.15).

use super::any;
use crate::case::{Case, Needs};
use crate::judge::Judge;
use crate::values::Domain;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = loads();
    for ty in ["bf16", "f16"] {
        for k in [8, 16] {
            cases.push(mma(ty, k, modest(ty)));
        }
    }
    cases
}

/// Pairs of modest numbers: so that the bound on the sum means something.
fn modest(ty: &str) -> Domain {
    if ty == "bf16" { Domain::ModestPair(8, 7) } else { Domain::ModestPair(5, 10) }
}

/// Each lane's row of eight 16-bit numbers is four slots' lower halves; every lane then loads its part of the matrices.
fn loads() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [1usize, 2, 4] {
        for trans in ["", ".trans"] {
            let form = format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16");
            let registers: Vec<String> = (0..count).map(|i| format!("%d{i}")).collect();
            let body = format!(
                "mov.u32 %r2, shared; mad.lo.u32 %r2, %t, 16, %r2; st.shared.v4.b32 [%r2], {{%s0, %s1, %s2, %s3}};
                bar.sync 0; {form} {{{}}}, [%r2];",
                registers.join(", ")
            );
            cases.push(Case::with(form, &body, &vec![32; count], &[any(32); 4], Judge::Bits).threads(32));
        }
    }
    cases
}

/// A product's registers, as text.
fn names(from: usize, count: usize) -> String {
    (from..from + count).map(|i| format!("%s{i}")).collect::<Vec<_>>().join(", ")
}

/// Operands of a lane: a, b, and c.
fn sources(a: usize, b: usize, domain: Domain) -> Vec<(u32, Domain)> {
    let mut sources = vec![(32, domain); a + b];
    sources.extend([(32, Domain::Modest(8, 23)); 4]);
    sources
}

/// `mma.sync` into four registers.
fn product(form: &str, d: &str, (a, b): (usize, usize)) -> String {
    format!("{form} {{{d}}}, {{{}}}, {{{}}}, {{{}}};", names(0, a), names(a, b), names(a + b, 4))
}

/// The same product of magnitudes, the largest of a lane's four in `%d4`: what the judge measures by. Spoils the operands.
fn magnitudes(form: &str, (a, b): (usize, usize)) -> String {
    let halves: String = (0..a + b).map(|i| format!("and.b32 %s{i}, %s{i}, 0x7fff7fff;")).collect();
    let added: String = (a + b..a + b + 4).map(|i| format!("and.b32 %s{i}, %s{i}, 0x7fffffff;")).collect();
    let largest = "max.f32 %r2, %r2, %r3; max.f32 %r4, %r4, %r5; max.f32 %d4, %r2, %r4;";
    halves + &added + &product(form, "%r2, %r3, %r4, %r5", (a, b)) + largest
}

/// The opcode.
fn mma_form(ty: &str, k: usize) -> String {
    format!("mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32")
}

/// One product of a warp: a 16 x k, b k x 8, c 16 x 8. Results: the four sums of a lane, and what they are judged by.
pub fn mma(ty: &str, k: usize, domain: Domain) -> Case {
    let (form, parts) = (mma_form(ty, k), (k / 4, k / 8));
    let body = product(&form, "%d0, %d1, %d2, %d3", parts) + &magnitudes(&form, parts);
    Case::with(form, &body, &[32; 5], &sources(parts.0, parts.1, domain), Judge::Sums).threads(32)
}

/// The same product by a warpgroup, m64n8k16: each of four warps has an a of its own and the first warp's b, from shared memory.
///
/// Operands and results are those of [`mma`].
pub fn wgmma(ty: &str, domain: Domain) -> Case {
    let form = format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.{ty}.{ty}");
    let synchronous = mma_form(ty, 16);
    // b is 16 x 8, "K-major" without swizzle: core matrices of 8 columns by 8 inputs, 16 bytes a column. In `mma.sync`'s
    // fragment, lane 4 n + q holds inputs 2q and 2q + 1 of column n, and in its second register those eight further on.
    let place_b = "mov.u32 %r2, shared; mov.u32 %r3, %laneid; shr.u32 %r4, %r3, 2; and.b32 %r3, %r3, 3;
        mad.lo.u32 %r2, %r4, 16, %r2; mad.lo.u32 %r2, %r3, 4, %r2; setp.lt.u32 %p, %t, 32;
        @%p st.shared.b32 [%r2], %s4; @%p st.shared.b32 [%r2+128], %s5; fence.proxy.async.shared::cta; bar.sync 0;
        ld.shared.b32 %s4, [%r2]; ld.shared.b32 %s5, [%r2+128];";
    // Address, distance of the two core matrices along k and that of groups of 8 columns, in units of 16 bytes.
    let descriptor = "mov.u32 %r6, shared; shr.u32 %r6, %r6, 4; and.b32 %r6, %r6, 0x3fff; cvt.u64.u32 %w0, %r6;
        or.b64 %w0, %w0, 0x0000001000080000; setp.eq.u32 %p, %r6, %r6;";
    let asynchronous = format!(
        "mov.b32 %d0, %s6; mov.b32 %d1, %s7; mov.b32 %d2, %s8; mov.b32 %d3, %s9; wgmma.fence.sync.aligned;
        {form} {{%d0, %d1, %d2, %d3}}, {{%s0, %s1, %s2, %s3}}, %w0, %p, 1, 1, 0;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
    );
    let body = [place_b, descriptor, &asynchronous, &magnitudes(&synchronous, (4, 2))].join("\n");
    Case::with(form, &body, &[32; 5], &sources(4, 2, domain), Judge::Sums).needs(Needs::HopperAlone)
}
