//! Device memory as a driver uses it: allocations come and go, addresses stay, bytes are moved by address.

use ptx_sim::{Arg, Buffer, Checks, Fault, Finding, Launch, Memory, Module, launch};

#[test]
fn allocations_are_freed_in_any_order() {
    let mut memory = Memory::new();
    let [a, b, c] = [10, 20, 30].map(|bytes| memory.alloc(bytes));
    let addresses = [a, b, c].map(Buffer::address);
    assert!(memory.free(b));
    assert!(!memory.free(b), "freed twice");
    let d = memory.alloc(40);
    assert!(!addresses.contains(&d.address()), "a dangling pointer must not find new data");
    assert_eq!([a, c].map(Buffer::address), [addresses[0], addresses[2]]);
    assert_eq!([a, b, c, d].map(|buffer| memory.size(buffer)), [10, 0, 30, 40]);
    assert_eq!(memory.buffer(c.address() + 7), Some((c, 7)));
    assert_eq!(memory.buffer(b.address()), None);
    assert!(matches!(memory.read::<u8>(b), Err(Fault::OutOfBounds { .. })));
}

#[test]
fn bytes_move_by_address() {
    let mut memory = Memory::new();
    let (a, b) = (memory.alloc(200), memory.alloc(200));
    memory.write_bytes(a.address() + 3, &[1, 2, 3]).expect("inside");
    memory.fill(a.address() + 100, &[7, 8], 50).expect("inside");
    let mut out = [0; 3];
    memory.read_bytes(a.address() + 3, &mut out).expect("written");
    assert_eq!(out, [1, 2, 3]);
    memory.read_bytes(a.address() + 197, &mut out).expect("written");
    assert_eq!(out, [8, 7, 8]);
    let unwritten = memory.read_bytes(a.address() + 4, &mut out);
    assert!(matches!(unwritten, Err(Fault::Uninitialised { address, .. }) if address == a.address() + 6));
    assert_eq!(out[..2], [2, 3], "copied all the same");
    memory.copy_bytes(b.address(), a.address() + 3, 100).expect("inside");
    assert_eq!(memory.read_partly::<u8>(b)[..4], [Some(1), Some(2), Some(3), None]);
    assert_eq!(memory.read_partly::<u8>(b)[97..101], [Some(7), Some(8), Some(7), None]);
    for (at, bytes) in [(a.address() + 198, 3), (a.address() - 1, 1), (u64::MAX, 1), (0, 1)] {
        assert!(matches!(memory.write_bytes(at, &vec![0; bytes]), Err(Fault::OutOfBounds { .. })));
        assert!(matches!(memory.fill(at, &[0], bytes), Err(Fault::OutOfBounds { .. })));
        assert!(matches!(memory.copy_bytes(at, a.address() + 3, bytes), Err(Fault::OutOfBounds { .. })));
    }
}

#[test]
fn untouched_memory_costs_nothing() {
    let mut memory = Memory::new();
    let huge: Vec<Buffer> = (0..64).map(|_| memory.alloc(4 << 30)).collect();
    memory.write_bytes(huge[63].address() + (3 << 30), &[1]).expect("inside");
    assert!(huge.into_iter().all(|buffer| memory.free(buffer)));
}

/// Every thread adds its neighbour's number to its own, with `between` in between.
fn neighbours(between: &str, checks: Checks) -> Result<Vec<u32>, Finding> {
    let text = format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 out) {{
        .shared .align 4 .b8 s[256]; .reg .b32 %r<8>; .reg .b64 %rd<3>;
        mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.s32 %r3, %r2, %r1; xor.b32 %r4, %r1, 4;
        add.s32 %r4, %r2, %r4; st.shared.u32 [%r3], %r0; {between} ld.shared.u32 %r5, [%r4];
        ld.param.u64 %rd1, [out]; cvt.u64.u32 %rd2, %r1; add.s64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r5; ret; }}"
    );
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let out = memory.alloc(256);
    launch(&module, "k", &mut memory, Launch::new(1, 64).checks(checks), &[Arg::Buffer(out)])?;
    Ok(memory.read(out).expect("written by all threads"))
}

#[test]
fn checks_can_be_reduced_to_addresses() {
    let want: Vec<u32> = (0..64).map(|i| i ^ 1).collect();
    assert_eq!(neighbours("bar.sync 0;", Checks::All), Ok(want.clone()));
    assert_eq!(neighbours("bar.sync 0;", Checks::Addresses), Ok(want.clone()));
    assert!(matches!(neighbours("", Checks::All).map_err(|finding| finding.fault), Err(Fault::Race { .. })));
    assert_eq!(neighbours("", Checks::Addresses), Ok(want));
    let outside = neighbours("ld.shared.u32 %r5, [%r3+256];", Checks::Addresses).map_err(|finding| finding.fault);
    assert!(matches!(outside, Err(Fault::OutOfBounds { .. })));
}

/// Where dynamic shared memory starts after 432 bytes of variables, in a kernel that stores 16 bytes at it.
fn dynamic_start(align: &str) -> Result<u32, Fault> {
    let text = format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.extern .shared {align} .b8 d[];
        .entry k(.param .u64 out) {{ .shared .align 16 .b8 s[424]; .shared .b32 t[2]; .reg .b32 %r<3>; .reg .b64 %rd<2>;
        mov.u32 %r0, d; mov.u32 %r1, 0; st.shared.u32 [t], %r1; st.shared.v4.u32 [%r0], {{%r1, %r1, %r1, %r1}};
        ld.param.u64 %rd1, [out]; st.global.u32 [%rd1], %r0; ret; }}"
    );
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let out = memory.alloc(4);
    launch(&module, "k", &mut memory, Launch::new(1, 1).shared(16), &[Arg::Buffer(out)])
        .map_err(|found| found.fault)?;
    let start = memory.read::<u32>(out).expect("written")[0];
    assert_eq!(module.shared("k"), Some(start as usize));
    Ok(start)
}

#[test]
fn dynamic_shared_memory_starts_where_its_declaration_allows() {
    assert_eq!(dynamic_start(".align 16"), Ok(432));
    assert_eq!(dynamic_start(".align 128"), Ok(512));
    assert_eq!(dynamic_start(".align 1024"), Ok(1024));
    assert_eq!(dynamic_start(".align 64"), Ok(448));
}
