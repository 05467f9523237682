//! What an H100 made of operands on which it and the simulator once disagreed, one row of each such case: they agree now, bit for
//! bit or within the case's bound.

use opcodes::{Case, Machine, Simulator, cases};

/// A form, its operands, and the H100's result.
const SEEN: [(&str, &[u64], u64); 41] = [
    ("bfe.u64", &[0xfc29_8d00_9231_5fc5, 0x9d7e_8239, 8], 0),
    ("bfe.s64", &[0xffff_ffff_ffff_fffe, 6, 0x4_0000], 0xffff_ffff_ffff_ffff),
    ("bfi.b64", &[0xffff_f9d6_48a1_1428, 0x8000_0000_0001, 1, 0x400_0000], 0xffff_f3ac_9142_2851),
    ("add.rm.f32", &[0x8000_0000, 0], 0x8000_0000),
    ("sub.rm.f32", &[0xff7f_ffff, 0xff7f_ffff], 0x8000_0000),
    ("fma.rm.f32", &[0x8000_0000, 0x3f80_0001, 0], 0x8000_0000),
    ("add.rm.ftz.f32", &[0x8045_9cde, 0xa_0fb7], 0x8000_0000),
    ("sub.rm.ftz.f32", &[0x8000_0001, 0x8036_597a], 0x8000_0000),
    ("fma.rm.ftz.f32", &[0x2e22_9be3, 0x10_ded3, 0x8019_2557], 0x8000_0000),
    ("div.rm.ftz.f32", &[0x80_0000, 0xbf80_0001], 0x8000_0000),
    ("div.approx.f32", &[0x3c24_0cb0, 0x7cc2_15b6], 0xd_8622),
    ("div.full.f32", &[0x77_82f9, 0xc310_6e82], 0x8000_d3d4),
    ("rcp.approx.f32", &[0xff27_7927], 0x8030_ea50),
    ("ex2.approx.f32 (modest)", &[0xc2fe_fd65], 0x2d_6a2c),
    ("ex2.approx.f16", &[0xcbf9], 0x109),
    ("ex2.approx.f16x2", &[0xc4c9_cc59], 0x28a4_0061),
    ("tanh.approx.bf16", &[0xbf42], 0xbf23),
    ("tanh.approx.bf16x2", &[0x8080_3d29], 0x8080_3d28),
    ("cvt.s8.u8", &[0xffff], 0xffff),
    ("cvt.s8.u16", &[0x81], 0xff81),
    ("cvt.s8.s16", &[0x76b5], 0xffb5),
    ("cvt.sat.s8.s16", &[0x8c6d], 0xff80),
    ("cvt.s8.u32", &[0xeb4f_79bd], 0xffbd),
    ("cvt.s8.s32", &[0x6675_e0ef], 0xffef),
    ("cvt.sat.s8.s32", &[0x8e84_fa15], 0xff80),
    ("cvt.s8.u64", &[0x1724_62de_7774_c9b9], 0xffb9),
    ("cvt.s8.s64", &[0x25cd_5b4f_3570_fc98], 0xff98),
    ("cvt.sat.s8.s64", &[0xffff_ffff_ffff_d087], 0xff80),
    ("cvt.rni.s8.f16", &[0xd06f], 0xffdd),
    ("cvt.rzi.s8.f16", &[0xf498], 0xff80),
    ("cvt.rmi.s8.f16", &[0x800f], 0xffff),
    ("cvt.rpi.s8.f16", &[0xfbff], 0xff80),
    ("cvt.rni.s8.f32", &[0xc2c1_8c56], 0xff9f),
    ("cvt.rzi.s8.f32", &[0xc1a4_3f21], 0xffec),
    ("cvt.rmi.s8.f32", &[0x8038_41ce], 0xffff),
    ("cvt.rpi.s8.f32", &[0xc278_665b], 0xffc2),
    ("cvt.rzi.ftz.s8.f32", &[0xced9_3d19], 0xff80),
    ("cvt.rni.s8.f64", &[0xc050_af97_9295_4e05], 0xffbd),
    ("cvt.rzi.s8.f64", &[0xc001_63e0_0a4e_3f50], 0xfffe),
    ("cvt.rmi.s8.f64", &[0xbf7a_ec7e_94d3_3642], 0xffff),
    ("cvt.rpi.s8.f64", &[0xc8ff_f4f1_8d50_ffda], 0xff80),
];

fn simulated(case: &Case, operands: &[u64]) -> u64 {
    let rows = operands.repeat(case.threads as usize);
    Simulator.run(case, &rows).unwrap()[0]
}

#[test]
fn the_simulator_agrees_with_what_was_seen() {
    let all = cases::all();
    for (form, operands, gpu) in SEEN {
        let case = all.iter().find(|case| case.form == form).unwrap();
        let simulator = simulated(case, operands);
        let verdict = case.judge.compare(&[gpu], &[simulator], 1);
        assert!(verdict.wrong.is_empty(), "{form} {operands:x?}: {gpu:#x}, simulator {simulator:#x}");
    }
}

/// One unit more than is allowed, on the same operands.
#[test]
fn approximations_are_forgiven_no_more_than_their_bound() {
    let all = cases::all();
    for (form, operand, further) in [
        ("ex2.approx.f16", 0xcbf9, 0x108),
        ("ex2.approx.f16x2", 0xc4c9_cc59, 0x28a4_0060),
        ("tanh.approx.bf16", 0xbf42, 0xbf22),
        ("rcp.approx.f32", 0xff27_7927, 0x8030_ea51),
        ("ex2.approx.f32 (modest)", 0xc2fe_fd65, 0x2d_6a2a),
    ] {
        let case = all.iter().find(|case| case.form == form).unwrap();
        let verdict = case.judge.compare(&[further], &[simulated(case, &[operand])], 1);
        assert_eq!(verdict.wrong.len(), 1, "{form}");
    }
}
