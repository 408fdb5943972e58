//! Races: what is one, and what is not.

use ptx::{Fault, FaultKind, Options, Space};

use super::support::{Heap, line, other_line, run_with};

fn run(body: &str, size: (u32, u32)) -> Result<(), Fault> {
    let heap = Heap::default();
    let out = heap.words(&[0; 4096]);
    let options = Options {
        races: true,
        ..Options::default()
    };
    // As `warp`, a line before the body.
    let body = format!(
        "shl.b32 %r3, %r0, 2; mul.wide.u32 %rd2, %r0, 4; add.u64 %rd2, %rd1, %rd2; \
        .shared .align 4 .b8 s[4096];\n{body}"
    );
    run_with(&body, size, (out, out), &heap, &options).map(|_| ())
}

fn race(body: &str, size: (u32, u32)) -> Fault {
    match run(body, size) {
        Err(fault) if matches!(fault.kind, FaultKind::Race { .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_block_barrier_is_found() {
    let body = |barrier: &str| {
        format!(
            "st.shared.u32 [%r3], %r0;\n{barrier}\nxor.b32 %r4, %r3, 128; ld.shared.u32 %r5, [%r4];"
        )
    };
    assert_eq!(run(&body("bar.sync 0;"), (1, 64)), Ok(()));
    // A warp's barrier orders no other warps. Warp 0 reads what is not there, so each thread first writes both.
    let body =
        "st.shared.u32 [%r3], %r0;\nbar.sync 0;\nxor.b32 %r4, %r3, 128; ld.shared.u32 %r5, [%r4];
        st.shared.u32 [%r3], %r5;";
    let found = race(body, (1, 64));
    assert!(matches!(
        found.kind,
        FaultKind::Race {
            space: Space::Shared,
            ..
        }
    ));
    assert_eq!((line(&found), other_line(&found)), (3, 4));
    let place = found.place.expect("a place");
    let FaultKind::Race { other, .. } = found.kind else {
        panic!("no race")
    };
    assert_eq!(place.thread[0] ^ 32, other.thread[0]);
}

#[test]
fn lanes_of_a_warp_are_not_ordered() {
    let body = "st.shared.u32 [%r3], %r0;\nxor.b32 %r4, %r3, 4;\nld.shared.u32 %r5, [%r4];";
    let found = race(body, (1, 32));
    assert_eq!((line(&found), other_line(&found)), (3, 1));
    let body = "st.shared.u32 [%r3], %r0;\nbar.warp.sync -1;\nxor.b32 %r4, %r3, 4; ld.shared.u32 %r5, [%r4];";
    assert_eq!(run(body, (1, 32)), Ok(()));
    // Other instructions of a warp wait for its lanes, but do not order their accesses.
    let shuffled = "st.shared.u32 [%r3], %r0;\nshfl.sync.bfly.b32 %r6, %r0, 1, 31, -1;\nxor.b32 %r4, %r3, 4;\nld.shared.u32 %r5, [%r4];";
    let found = race(shuffled, (1, 32));
    assert_eq!((line(&found), other_line(&found)), (4, 1));
    // The mask counts: pairs are ordered, quads are not.
    let masked = |other: u32| {
        format!(
            "shr.u32 %r6, %r0, 1; shl.b32 %r6, %r6, 1; mov.u32 %r7, 3; shl.b32 %r7, %r7, %r6; \
            st.shared.u32 [%r3], %r0;
             bar.warp.sync %r7;
             xor.b32 %r4, %r3, {other}; ld.shared.u32 %r5, [%r4];"
        )
    };
    assert_eq!(run(&masked(4), (1, 32)), Ok(()));
    race(&masked(8), (1, 32));
    // One instruction, two values.
    let found = race(
        "shr.u32 %r4, %r3, 1; and.b32 %r4, %r4, -4;\nst.shared.u32 [%r4], %r0;",
        (1, 32),
    );
    assert_eq!((line(&found), other_line(&found)), (2, 2));
}

#[test]
fn equal_values_do_not_race() {
    assert_eq!(
        run("mov.u32 %r4, 0; st.shared.u32 [%r4], 7;", (1, 64)),
        Ok(())
    );
    assert_eq!(run("st.global.u32 [%rd1], 7;", (4, 64)), Ok(()));
    race("st.global.u32 [%rd1], %r0;", (1, 64));
    // A reader does.
    race(
        "st.global.u32 [%rd1], 7;\nld.global.u32 %r4, [%rd1];",
        (1, 64),
    );
}

#[test]
fn atomics_race_with_plain_accesses_only() {
    assert_eq!(
        run("atom.shared.add.u32 %r5, [s], 1;", (1, 1))
            .map_err(|f| matches!(f.kind, FaultKind::UninitialisedMemory { .. })),
        Err(true)
    );
    let start = "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [s], 0;\nbar.sync 0;\natom.shared.add.u32 %r5, [s], 1;";
    assert_eq!(run(start, (1, 64)), Ok(()));
    let found = race(&format!("{start}\nld.shared.u32 %r6, [s];"), (1, 64));
    assert_eq!((line(&found), other_line(&found)), (4, 3));
    assert_eq!(
        run(
            &format!("{start}\nld.volatile.shared.u32 %r6, [s];"),
            (1, 64)
        ),
        Ok(())
    );
    assert_eq!(
        run(
            "atom.global.min.u32 %r5, [%rd1], %r0; ld.volatile.global.u32 %r6, [%rd1];",
            (3, 64)
        ),
        Ok(())
    );
    race(
        "atom.global.min.u32 %r5, [%rd1], %r0; ld.global.u32 %r6, [%rd1];",
        (3, 64),
    );
}

#[test]
fn blocks_are_not_ordered() {
    let found = race(
        "ld.global.u32 %r4, [%rd2]; add.u32 %r4, %r4, 1;\nst.global.u32 [%rd2], %r4;",
        (2, 32),
    );
    assert_eq!((line(&found), other_line(&found)), (1, 2));
    assert_eq!(found.place.expect("a place").block, [1, 0, 0]);
    let own = "mad.lo.u32 %r4, %r1, 32, %r0; mul.wide.u32 %rd3, %r4, 4; add.u64 %rd3, %rd1, %rd3; \
        ld.global.u32 %r5, [%rd3];
        add.u32 %r5, %r5, 1; st.global.u32 [%rd3], %r5;";
    assert_eq!(run(own, (9, 32)), Ok(()));
}

#[test]
fn neighbouring_bytes_do_not_race() {
    let body = |step: u32| {
        format!(
            "mul.lo.u32 %r4, %r0, {step}; cvt.u64.u32 %rd3, %r4; add.u64 %rd3, %rd1, %rd3; st.global.u8 [%rd3], %r0;
             shr.u32 %r5, %r0, 1; setp.eq.u32 %p1, %r5, 40; @%p1 st.global.u32 [%rd1+400], 5;"
        )
    };
    assert_eq!(run(&body(1), (1, 64)), Ok(()));
    race(
        "shr.u32 %r4, %r0, 1; cvt.u64.u32 %rd3, %r4; add.u64 %rd3, %rd1, %rd3;\nst.global.u8 [%rd3], %r0;",
        (1, 64),
    );
    // A word over bytes that others wrote.
    race(
        "cvt.u64.u32 %rd3, %r0; add.u64 %rd3, %rd1, %rd3; st.global.u8 [%rd3], %r0;\nsetp.eq.u32 %p1, %r0, 0; \
        @%p1 ld.global.u32 %r4, [%rd1];",
        (1, 32),
    );
}
