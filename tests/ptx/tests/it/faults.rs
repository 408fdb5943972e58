//! Each fault, with its line and thread, and errors of the text.

use ptx::{Error, FaultKind, Launch, Module, Options, Space};

use super::support::{Heap, fault, fault_with, launch, line, other_line, parse, run_with, text};

#[test]
fn accesses_outside_of_allocations() {
    let found = fault("setp.eq.u32 %p1, %r0, 5;\n@%p1 ld.global.u32 %r2, [%rd0+128];");
    assert!(matches!(
        found.kind,
        FaultKind::OutOfBounds {
            space: Space::Global,
            bytes: 4,
            ..
        }
    ));
    let place = found.place.clone().expect("a place");
    assert_eq!((line(&found), place.thread), (2, [5, 0, 0]));
    assert_eq!(place.text, "@%p1 ld.global.u32 %r2, [%rd0+128];");
    assert_eq!(found.kernel, "k");
    let found = fault("st.global.u32 [%rd1+-4], %r0;");
    assert!(
        matches!(found.kind, FaultKind::OutOfBounds { .. }),
        "{found}"
    );
    let found = fault("mov.u32 %r3, 0; st.shared.u32 [%r3], %r0;");
    assert!(matches!(
        found.kind,
        FaultKind::OutOfBounds {
            space: Space::Shared,
            ..
        }
    ));
    let found = fault("mov.u64 %rd5, 0; ld.u32 %r2, [%rd5];");
    assert!(
        matches!(found.kind, FaultKind::OutOfBounds { .. }),
        "{found}"
    );
    let found = fault(".local .align 4 .b8 l[8]; mov.u64 %rd5, l; st.local.u32 [%rd5+8], %r0;");
    assert!(matches!(
        found.kind,
        FaultKind::OutOfBounds {
            space: Space::Local,
            ..
        }
    ));
    let found = fault("mov.b64 %rd5, in; ld.param.u64 %rd6, [%rd5+16];");
    assert!(matches!(
        found.kind,
        FaultKind::OutOfBounds {
            space: Space::Param,
            ..
        }
    ));
}

#[test]
fn misaligned_accesses() {
    let found = fault("ld.global.u32 %r2, [%rd0+2];");
    assert!(
        matches!(found.kind, FaultKind::Misaligned { bytes: 4, .. }),
        "{found}"
    );
    let found = fault("ld.global.v2.u32 {%r2, %r3}, [%rd0+4];");
    assert!(
        matches!(found.kind, FaultKind::Misaligned { bytes: 8, .. }),
        "{found}"
    );
}

#[test]
fn reads_of_what_was_never_written() {
    let found = fault(".shared .align 4 .b8 s[64];\nmov.u32 %r3, s;\nld.shared.u32 %r2, [%r3+4];");
    let kind = FaultKind::UninitialisedMemory {
        space: Space::Shared,
        address: 4,
        bytes: 4,
    };
    assert_eq!((line(&found), found.kind), (3, kind));
    let found = fault(
        "add.u32 %r2, %r40, 1;\nadd.u32 %r2, %r2, 1;\nadd.u32 %r3, %r2, 1;\nst.global.u32 [%rd1], %r3;",
    );
    assert_eq!(
        found.kind,
        FaultKind::UninitialisedRegister {
            register: "%r3".into()
        }
    );
    assert_eq!(line(&found), 4);
    let found = fault("mov.u32 %r2, 0;\n@%p3 add.u32 %r2, %r2, 1;");
    assert_eq!(
        found.kind,
        FaultKind::UninitialisedRegister {
            register: "%p3".into()
        }
    );
    assert_eq!(line(&found), 2);
    let found = fault("ld.global.u32 %r2, [%rd60];");
    assert_eq!(
        found.kind,
        FaultKind::UninitialisedRegister {
            register: "%rd60".into()
        }
    );
    let found = fault(".local .align 4 .b8 l[8]; mov.u64 %rd5, l; ld.local.u32 %r2, [%rd5];");
    assert_eq!(
        found.kind,
        FaultKind::UninitialisedRegister {
            register: "%r2".into()
        }
    );
    let heap = Heap::default();
    let (blank, out) = (heap.blank(64), heap.blank(64));
    let body = "ld.global.u32 %r2, [%rd0];";
    let found =
        run_with(body, (1, 1), (blank, out), &heap, &Options::default()).expect_err("a fault");
    assert!(matches!(
        found.kind,
        FaultKind::UninitialisedMemory {
            space: Space::Global,
            ..
        }
    ));
    // A choice does not depend on the value that it leaves.
    let body = "setp.eq.u32 %p1, %r0, %r0; selp.u32 %r2, 1, %r40, %p1; setp.eq.u32 %p2, %r40, 0;
        or.pred %p3, %p1, %p2; @%p3 st.global.u32 [%rd1], %r2;";
    run_with(body, (1, 1), (blank, out), &heap, &Options::default()).expect("no fault");
}

#[test]
fn divisions_by_zero_and_traps() {
    let found = fault("setp.eq.u32 %p1, %r0, 9;\n@%p1 div.u32 %r2, 1, %r10;");
    assert_eq!(
        (line(&found), found.kind.clone()),
        (2, FaultKind::DivisionByZero)
    );
    assert_eq!(found.place.expect("a place").thread, [9, 0, 0]);
    assert_eq!(
        fault("rem.s64 %rd5, %rd1, 0;").kind,
        FaultKind::DivisionByZero
    );
    let found = fault("setp.eq.u32 %p1, %r0, 3; @!%p1 bra END;\ntrap;\nEND: mov.u32 %r2, 0;");
    assert_eq!((line(&found), found.kind), (2, FaultKind::Trap));
    let found = fault("T: .branchtargets A;\nbrx.idx %r0, T;\nA: mov.u32 %r2, 0;");
    assert_eq!(
        found.kind,
        FaultKind::BranchIndex {
            index: 1,
            targets: 1
        }
    );
}

#[test]
fn barriers_that_some_threads_miss() {
    let block = |body: &str, threads: u32| {
        let heap = Heap::default();
        let out = heap.blank(1024);
        let options = Options::default();
        run_with(
            &format!("\n{body}"),
            (1, threads),
            (out, out),
            &heap,
            &options,
        )
        .expect_err("a fault")
    };
    // Both halves of a warp wait at barriers of their own.
    let found = block(
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra A;\nbar.sync 0;\nbra B;\nA: bar.sync 0;\nB: mov.u32 %r2, 0;",
        32,
    );
    assert!(
        matches!(found.kind, FaultKind::BarrierDivergence { .. }),
        "{found}"
    );
    assert_eq!((line(&found), other_line(&found)), (4, 2));
    // Warps at different instructions of the same barrier are fine, a thread that waits for its warp is not.
    let found = block(
        "setp.eq.u32 %p1, %r0, 0; @%p1 bra A;\nbar.warp.sync -1;\nA: bar.sync 0;",
        32,
    );
    assert!(
        matches!(found.kind, FaultKind::BarrierDivergence { .. }),
        "{found}"
    );
    // Too few threads.
    let found = block("bar.sync 1, 64;", 32);
    assert!(matches!(found.kind, FaultKind::Deadlock { .. }), "{found}");
    assert_eq!(line(&found), 1);
    let found = block(
        "setp.lt.u32 %p1, %r0, 32; @%p1 bra A;\nbar.sync 1;\nA: bar.sync 2;",
        64,
    );
    assert!(matches!(found.kind, FaultKind::Deadlock { .. }), "{found}");
    let found = block(
        "setp.lt.u32 %p1, %r0, 32; @%p1 bra A;\nbar.sync 1, 64;\nbra B;\nA: bar.sync 1, 96;\nB: mov.u32 %r2, 0;",
        64,
    );
    assert!(
        matches!(found.kind, FaultKind::BarrierMismatch { barrier: 1, .. }),
        "{found}"
    );
    let found = block("bar.sync 16;", 32);
    assert_eq!(
        found.kind,
        FaultKind::BarrierOperands {
            barrier: 16,
            threads: 0
        }
    );
    let found = block("bar.sync 1, 33;", 32);
    assert_eq!(
        found.kind,
        FaultKind::BarrierOperands {
            barrier: 1,
            threads: 33
        }
    );
}

#[test]
fn masks_that_are_wrong() {
    let found = fault("bar.warp.sync 0xfffffffe;");
    assert_eq!(
        found.kind,
        FaultKind::NotInMask {
            lane: 0,
            mask: 0xffff_fffe
        }
    );
    let found = fault("shfl.sync.idx.b32 %r2, %r0, 20, 31, 0xffff; mov.u32 %r3, 0;");
    assert_eq!(
        found.kind,
        FaultKind::NotInMask {
            lane: 16,
            mask: 0xffff
        }
    );
    let found = fault(
        "setp.lt.u32 %p1, %r0, 16; @!%p1 bra END;\nshfl.sync.idx.b32 %r2, %r0, 20, 31, 0xffff;\nEND: mov.u32 %r2, 0;",
    );
    assert_eq!(
        found.kind,
        FaultKind::AbsentLane {
            lane: 20,
            mask: 0xffff
        }
    );
    // The upper half never arrives, because it spins or waits for something else.
    let found = fault("setp.lt.u32 %p1, %r0, 16; @%p1 bra A;\nbar.sync 0;\nA: bar.warp.sync -1;");
    assert!(
        matches!(found.kind, FaultKind::BarrierDivergence { .. }),
        "{found}"
    );
    let found = fault(
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra A;\nbar.warp.sync 0xffff0001;\nA: bar.warp.sync -1; mov.u32 %r2, 0;",
    );
    assert!(
        matches!(
            found.kind,
            FaultKind::NotInMask { .. } | FaultKind::Deadlock { .. }
        ),
        "{found}"
    );
    let found = fault(
        "setp.lt.u32 %p1, %r0, 16; \
        @%p1 bra A;\nvote.sync.ballot.b32 %r2, %p1, -1;\nbra END;\nA: shfl.sync.idx.b32 %r2, %r0, 0, 31, -1;\nEND: mov.u32 %r2, 0;",
    );
    assert!(
        matches!(found.kind, FaultKind::SyncMismatch { .. }),
        "{found}"
    );
}

#[test]
fn endless_loops_end() {
    let found = fault("LOOP: add.u32 %r2, %r10, 1;\nbra LOOP;");
    assert!(matches!(found.kind, FaultKind::Budget { .. }), "{found}");
}

#[test]
fn launches_that_do_not_fit() {
    let module = parse(".shared .align 16 .b8 s[1000]; mov.u32 %r3, s;");
    let kernel = module.kernel("k").expect("the kernel");
    assert_eq!(
        (kernel.name(), kernel.param_bytes(), kernel.static_shared()),
        ("k", 16, 1000)
    );
    assert_eq!(kernel.max_threads(), None);
    let heap = Heap::default();
    let base = Launch {
        kernel: "k",
        grid: [1; 3],
        block: [32, 1, 1],
        shared: 0,
        params: &[0; 16],
    };
    let kind = |launched: Launch<'_>, architecture: u32| {
        let options = Options {
            architecture,
            ..Options::default()
        };
        launch(&module, &launched, &heap, &options).map_err(|fault| fault.kind)
    };
    assert!(kind(base.clone(), 75).is_ok());
    assert_eq!(
        kind(
            Launch {
                kernel: "x",
                ..base.clone()
            },
            75
        ),
        Err(FaultKind::NoKernel)
    );
    let short = Launch {
        params: &[0; 12],
        ..base.clone()
    };
    assert_eq!(
        kind(short, 75),
        Err(FaultKind::Parameters {
            expected: 16,
            found: 12
        })
    );
    let most = 64 * 1024 - 1000;
    assert!(
        kind(
            Launch {
                shared: most,
                ..base.clone()
            },
            75
        )
        .is_ok()
    );
    let found = kind(
        Launch {
            shared: most + 1,
            ..base.clone()
        },
        75,
    );
    assert_eq!(
        found,
        Err(FaultKind::SharedMemory {
            bytes: 65537,
            limit: 65536
        })
    );
    for block in [[0, 1, 1], [1025, 1, 1], [1, 1, 65]] {
        assert!(matches!(
            kind(
                Launch {
                    block,
                    ..base.clone()
                },
                75
            ),
            Err(FaultKind::Size { .. })
        ));
    }
    assert!(matches!(
        kind(
            Launch {
                grid: [1, 65536, 1],
                ..base
            },
            75
        ),
        Err(FaultKind::Size { .. })
    ));
    let found = fault_with(
        "redux.sync.add.s32 %r2, %r0, -1;",
        &Options {
            architecture: 75,
            ..Options::default()
        },
    );
    assert_eq!(
        found.kind,
        FaultKind::Architecture {
            needed: 80,
            found: 75
        }
    );
}

#[test]
fn texts_that_are_no_modules() {
    let error = |body: &str| Module::parse(&text(body)).expect_err("an error");
    let unknown = error("mov.u32 %r2, 1;\nwmma.load.a.sync.aligned %r2, %r3;");
    assert_eq!(
        unknown,
        Error::Unknown {
            line: 11,
            instruction: "wmma.load.a.sync.aligned".into()
        }
    );
    assert!(matches!(
        error("add.u32.foo %r2, %r3, %r4;"),
        Error::Unknown { .. }
    ));
    assert!(matches!(
        error("add.u32 %r2, %r3;"),
        Error::Syntax { line: 10, .. }
    ));
    assert!(matches!(
        error("add.u32 %r2, %r3, %x4;"),
        Error::Syntax { .. }
    ));
    assert!(matches!(
        error("add.u32 %r2, %rd3, %r4;"),
        Error::Syntax { .. }
    ));
    assert!(matches!(error("bra NOWHERE;"), Error::Syntax { .. }));
    assert!(matches!(
        error("call (x), nothing, (y);"),
        Error::Unknown { .. }
    ));
    assert!(matches!(
        Module::parse("hello"),
        Err(Error::Syntax { line: 1, .. })
    ));
    assert!(matches!(Module::parse("é"), Err(Error::Syntax { .. })));
    assert!(matches!(
        Module::parse(".entry k() {"),
        Err(Error::Syntax { .. })
    ));
}

#[test]
fn damaged_texts_are_errors_and_no_panics() {
    let body = ".shared .align 16 .b8 s[512]; .local .align 8 .b8 l[16]; mov.u32 %r3, s; \
    setp.lt.and.s32 %p1|%p2, %r0, 5, !%p3;
        @!%p1 bra END; mad.wide.u32 %rd5, %r0, 4, %rd1; ld.global.nc.v2.f32 {%f2, %f3}, [%rd5+8]; \
        fma.rn.ftz.f32 %f2, %f3, 0f3F800000, %f2;
        cvt.rni.sat.s8.f32 %r4, %f2; shfl.sync.bfly.b32 %r5|%p4, %r4, 1, 31, -1; vote.sync.ballot.b32 %r6, %p1, -1;
        bar.red.popc.u32 %r7, 0, 64, %p1; atom.shared.cas.b32 %r8, [s+4], %r7, %r6; prmt.b32.f4e %r9, %r8, %r7, 1;
        mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r20, %r21, %r22, %r23}, {%r3, %r3, %r3, %r3}, {%r3, %r3}, {%r3, %r3, %r3, %r3};
        ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r20, %r21, %r22, %r23}, [%r3]; \
        cp.async.cg.shared.global [%r3], [%rd0], 16, %r3;
        cp.async.wait_group 1; match.all.sync.b32 %r2|%p1, %r3, -1; mov.b64 {%r2, _}, %rd0; \
        cvt.pack.sat.s8.s32.b32 %r2, %r3, %r4, %r5;
        T: .branchtargets END, END; brx.idx %r2, T; { .reg .b32 %t; madc.hi.cc.u32 %t, %r2, %r3, %r4; \
        set.lt.u32.f32 %r2, %f2, 0d3FF0000000000000; }
        END: redux.sync.min.s32 %r2, %r3, -1; testp.finite.f32 %p1, %f2; bfi.b32 %r2, %r3, %r4, %r5, %r6; \
        lop3.b32 %r2, %r3, %r4, %r5, 0x96;";
    let whole = text(body);
    Module::parse(&whole).unwrap_or_else(|error| panic!("{error}"));
    let mut state = 1u64;
    let mut below = move |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for _ in 0..20_000 {
        let mut damaged = whole.clone();
        for _ in 0..1 + below(2) {
            let at = below(damaged.len());
            match below(4) {
                0 => damaged.replace_range(at..(at + 1 + below(12)).min(damaged.len()), ""),
                1 => damaged.truncate(at),
                2 => damaged.insert_str(
                    at,
                    [".", ",", ";", "{", "}", "-", "[", "]", "9", "@", "%p1", "|"][below(12)],
                ),
                _ => {
                    let (from, length) = (below(damaged.len()), below(30));
                    let piece = damaged[from..(from + length).min(damaged.len())].to_string();
                    damaged.insert_str(at, &piece);
                }
            }
        }
        let _ = Module::parse(&damaged);
    }
}
