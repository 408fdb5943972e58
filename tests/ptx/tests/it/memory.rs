//! Memory: widths, vectors, spaces, variables of the module, asynchronous copies.

use ptx::{FaultKind, Launch, Module, Options};

use super::support::{Heap, fault, launch, line, one, other_line, r, run_with};

#[test]
fn narrow_and_vector_accesses() {
    assert_eq!(r("ld.global.s8 %r2, [%rd0+1];", &[0x8000]), 0xffff_ff80);
    assert_eq!(r("ld.global.u8 %r2, [%rd0+1];", &[0x8000]), 0x80);
    assert_eq!(
        one("ld.global.s16 %rd2, [%rd0];", "%rd2", &[0x8000]),
        0xffff_ffff_ffff_8000
    );
    assert_eq!(
        r(
            "ld.global.v2.u16 {%h2, %h3}, [%rd0]; mov.b32 %r2, {%h3, %h2};",
            &[0x1234_5678]
        ),
        0x5678_1234
    );
    let body = "ld.global.v4.u8 {%h2, %h3, %h4, %h5}, [%rd0]; st.global.v4.u8 [%rd1], {%h5, %h4, %h3, %h2}; \
        ld.global.u32 %r2, [%rd1];";
    assert_eq!(r(body, &[0x1234_5678]), 0x7856_3412);
    let body = "ld.global.v2.f64 {%d2, %d3}, [%rd0]; add.f64 %d2, %d2, %d3;";
    // Buffers are aligned to 8 bytes only, so that 16 may be misaligned; both outcomes are right.
    let heap = Heap::default();
    let bytes: Vec<u8> = (0..32).collect();
    let address = heap.buffer(&bytes);
    let result = run_with(body, (1, 1), (address, address), &heap, &Options::default());
    assert_eq!(result.is_ok(), address % 16 == 0);
}

#[test]
fn generic_addresses_reach_all_spaces() {
    let body = ".shared .align 8 .b8 s[16]; .local .align 8 .b8 l[16]; mov.u32 %r3, s; cvt.u64.u32 %rd5, %r3;
        cvta.shared.u64 %rd6, %rd5; mov.u64 %rd7, l; cvta.local.u64 %rd8, %rd7; cvta.global.u64 %rd9, %rd0; \
        mov.b64 %rd20, in;
        cvta.param.u64 %rd21, %rd20;
        st.u32 [%rd6], 1; ld.shared.u32 %r4, [s]; st.u32 [%rd8+4], 2; ld.local.u32 %r5, [l+4]; \
        ld.u32 %r6, [%rd9]; ld.u64 %rd22, [%rd21];
        cvta.to.shared.u64 %rd23, %rd6; sub.u64 %rd24, %rd23, %rd5; sub.u64 %rd25, %rd22, %rd0; \
        or.b64 %rd24, %rd24, %rd25;
        isspacep.shared %p1, %rd6; isspacep.local %p2, %rd8; isspacep.global %p3, %rd9; isspacep.global %p4, %rd6;
        cvt.u32.u64 %r2, %rd24; mad.lo.u32 %r2, %r4, 1000, %r2; mad.lo.u32 %r2, %r5, 100, %r2; add.u32 %r2, %r2, %r6;
        @!%p1 mov.u32 %r2, 0; @!%p2 mov.u32 %r2, 0; @!%p3 mov.u32 %r2, 0; @%p4 mov.u32 %r2, 0;";
    assert_eq!(r(body, &[7]), 1207);
}

#[test]
fn variables_of_the_module_have_their_values() {
    let text = ".version 8.5
        .target sm_80
        .address_size 64
        .const .align 4 .u32 table[4] = {1, 2, 3};
        .global .align 8 .b8 bytes[8] = {0, 0, 0, 0, 0, 0, 240, 63};
        .global .f32 single = 0f40000000;
        .extern .shared .align 16 .b8 dynamic[];
        .visible .entry k(.param .u64 out, .param .align 4 .b8 numbers[12])
        .maxntid 64, 2, 1
        {
            .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f64 %d<3>; .reg .f32 %f<3>;
            .shared .align 4 .b8 first[20];
            ld.param.u64 %rd1, [out]; ld.param.v2.u32 {%r1, %r2}, [numbers];
            ld.const.u32 %r3, [table+4]; mov.u64 %rd2, table; ld.u32 %r4, [%rd2+12];
            mov.u64 %rd3, bytes; ld.global.nc.f64 %d1, [%rd3]; cvt.rzi.u32.f64 %r5, %d1;
            ld.global.f32 %f1, [single]; cvt.rzi.u32.f32 %r6, %f1;
            mov.u32 %r7, dynamic; st.shared.u32 [%r7+12], %r6; mov.u32 %r8, first; ld.shared.u32 %r6, [dynamic+12];
            st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%rd1+16], {%r5, %r6, %r7, %r8};
            ret;
        }";
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let kernel = module.kernels().next().expect("a kernel");
    assert_eq!(
        (kernel.param_bytes(), kernel.max_threads()),
        (20, Some(128))
    );
    assert_eq!(kernel.static_shared(), 32);
    let heap = Heap::default();
    // Of these, one is aligned to 16.
    let out = (0..64)
        .map(|_| heap.blank(32))
        .find(|a| a % 16 == 0)
        .expect("an aligned buffer");
    let params: Vec<u8> = out
        .to_le_bytes()
        .into_iter()
        .chain([9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0])
        .collect();
    let launched = Launch {
        kernel: "k",
        grid: [1; 3],
        block: [1; 3],
        shared: 16,
        params: &params,
    };
    launch(&module, &launched, &heap, &Options::default()).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(heap.read_words(out), [9, 8, 2, 0, 1, 2, 32, 0]);
    let short = Launch {
        shared: 8,
        ..launched
    };
    let found = launch(&module, &short, &heap, &Options::default()).expect_err("a fault");
    assert!(
        matches!(found.kind, FaultKind::OutOfBounds { .. }),
        "{found}"
    );
}

#[test]
fn asynchronous_copies_arrive_at_the_wait() {
    let body = |before: &str, wait: &str| {
        format!(
            ".shared .align 16 .b8 s[256]; shl.b32 %r3, %r0, 2; mov.u32 %r4, s; add.u32 %r3, %r3, %r4; \
            add.u32 %r5, %r3, 128;
             cp.async.ca.shared.global [%r3], [%rd3], 4;
             cp.async.commit_group;
             cp.async.ca.shared.global [%r5], [%rd3], 4, 2;
             cp.async.commit_group;
             {before}
             {wait}
             ld.shared.u32 %r6, [%r3]; cp.async.wait_all; ld.shared.u32 %r7, [%r5]; shl.b32 %r7, %r7, 8; \
             add.u32 %r2, %r6, %r7;"
        )
    };
    let input: Vec<u32> = (0..32).map(|i| i | 0x10_0000).collect();
    for seed in 0..5 {
        let options = Options {
            seed,
            races: true,
            ..Options::default()
        };
        let run = |text: &str| super::support::warp(text, &input, &options);
        let found = run(&body("", "cp.async.wait_group 1;")).unwrap_or_else(|f| panic!("{f}"));
        let expected: Vec<u32> = (0..32).map(|i| (i | 0x10_0000) + (i << 8)).collect();
        assert_eq!(found, expected);
    }
    let found = fault(&body("", ""));
    assert!(
        matches!(found.kind, FaultKind::PendingCopy { .. }),
        "{found}"
    );
    assert_eq!((line(&found), other_line(&found)), (8, 2));
    let found = fault(&body("st.shared.u32 [%r5], 1;", ""));
    assert!(
        matches!(found.kind, FaultKind::PendingCopy { .. }),
        "{found}"
    );
    assert_eq!((line(&found), other_line(&found)), (6, 4));
    let found = fault(&body("", "cp.async.wait_group 2;"));
    assert!(
        matches!(found.kind, FaultKind::PendingCopy { .. }),
        "{found}"
    );
}
