//! Warps: divergence, operations between lanes, barriers, schedules, calls.

use ptx::{Fault, FaultKind, Launch, Module, Options};

use super::support::{Heap, fault_with, launch, parse, run_with, warp};

fn independent(seed: u64) -> Options {
    Options {
        seed,
        independent: true,
        races: true,
        ..Options::default()
    }
}

/// The result in lockstep; independent threads give the same.
fn lanes(body: &str) -> Vec<u32> {
    let input: Vec<u32> = (0..32).map(|i| i * i).collect();
    let options = Options {
        races: true,
        ..Options::default()
    };
    let expected = warp(body, &input, &options).unwrap_or_else(|f| panic!("{f}"));
    for seed in 1..20 {
        let found = warp(body, &input, &independent(seed)).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(found, expected, "seed {seed}");
        let seeded = Options {
            seed,
            ..options.clone()
        };
        assert_eq!(
            warp(body, &input, &seeded).expect("no fault"),
            expected,
            "seed {seed}"
        );
    }
    expected
}

fn of(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn lanes_diverge_and_meet_again() {
    let body = "and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 0; mov.u32 %r2, 0;
        @%p1 bra EVEN;
        mov.u32 %r4, 0;
        LOOP: add.u32 %r2, %r2, 3; add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, %r0; @%p2 bra LOOP;
        bra JOIN;
        EVEN: add.u32 %r2, %r0, 100;
        JOIN: activemask.b32 %r5; add.u32 %r2, %r2, 1;";
    assert_eq!(
        lanes(body),
        of(|i| if i % 2 == 0 { i + 101 } else { 3 * i + 1 })
    );
    // In lockstep all lanes are together after the join, whatever the order of the blocks in the text.
    let met = format!("{body}\nmov.u32 %r2, %r5;");
    assert_eq!(
        warp(&met, &[0; 32], &Options::default()).expect("no fault"),
        of(|_| u32::MAX)
    );
    let moved = "setp.lt.u32 %p1, %r0, 7; bra START;
        JOIN: activemask.b32 %r2; bra END;
        LEFT: mov.u32 %r3, 1; bra JOIN;
        START: @%p1 bra LEFT;
        mov.u32 %r3, 2; bra JOIN;
        END: add.u32 %r2, %r2, 0;";
    assert_eq!(
        warp(moved, &[0; 32], &Options::default()).expect("no fault"),
        of(|_| u32::MAX)
    );
}

#[test]
fn loops_of_different_length_end_together() {
    let body = "mov.u32 %r3, 0;
        OUTER: mov.u32 %r4, 0;
        INNER: add.u32 %r4, %r4, 1; setp.le.u32 %p1, %r4, %r3; @%p1 bra INNER;
        add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, %r0; @%p2 bra OUTER;
        activemask.b32 %r2;";
    assert_eq!(
        warp(body, &[0; 32], &Options::default()).expect("no fault"),
        of(|_| u32::MAX)
    );
}

#[test]
fn indexed_branches_choose_by_lane() {
    let body = "rem.u32 %r3, %r0, 3; T: .branchtargets A, B, C;
        brx.idx %r3, T;
        A: mov.u32 %r2, 10; bra END;
        B: mov.u32 %r2, 20; bra END;
        C: mov.u32 %r2, 30;
        END: add.u32 %r2, %r2, %r0;";
    assert_eq!(lanes(body), of(|i| (i % 3 + 1) * 10 + i));
}

#[test]
fn shuffles_keep_to_their_segments() {
    let square = |i: u32| i * i;
    let up = lanes("shfl.sync.up.b32 %r2|%p1, %r10, 3, 0, -1; @!%p1 add.u32 %r2, %r2, 1000;");
    assert_eq!(
        up,
        of(|i| if i >= 3 {
            square(i - 3)
        } else {
            square(i) + 1000
        })
    );
    let down = lanes("shfl.sync.down.b32 %r2, %r10, 3, 31, -1;");
    assert_eq!(down, of(|i| square(if i + 3 < 32 { i + 3 } else { i })));
    let butterfly = lanes("shfl.sync.bfly.b32 %r2, %r10, 16, 31, -1;");
    assert_eq!(butterfly, of(|i| square(i ^ 16)));
    // Segments of 8: c = (32 - 8) << 8, and its lowest 5 bits for all but `up`.
    let up = lanes("shfl.sync.up.b32 %r2|%p1, %r10, 1, 0x1800, -1; @!%p1 add.u32 %r2, %r2, 1000;");
    assert_eq!(
        up,
        of(|i| if i % 8 >= 1 {
            square(i - 1)
        } else {
            square(i) + 1000
        })
    );
    let down =
        lanes("shfl.sync.down.b32 %r2|%p1, %r10, 2, 0x181f, -1; @!%p1 add.u32 %r2, %r2, 1000;");
    assert_eq!(
        down,
        of(|i| if i % 8 < 6 {
            square(i + 2)
        } else {
            square(i) + 1000
        })
    );
    let index =
        lanes("shfl.sync.idx.b32 %r2|%p1, %r10, 11, 0x181f, -1; @!%p1 add.u32 %r2, %r2, 1000;");
    assert_eq!(index, of(|i| square(i / 8 * 8 + 3)));
    let clamped =
        lanes("shfl.sync.idx.b32 %r2|%p1, %r10, 11, 0x1802, -1; @!%p1 add.u32 %r2, %r2, 1000;");
    assert_eq!(clamped, of(|i| square(i) + 1000));
}

#[test]
fn votes_and_matches() {
    let ballot = "setp.gt.u32 %p1, %r10, 100; vote.sync.ballot.b32 %r2, %p1, -1;";
    assert_eq!(lanes(ballot), of(|_| !0 << 11));
    let votes = "setp.gt.u32 %p1, %r10, 100; vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1;
        vote.sync.uni.pred %p4, %p1, -1; vote.sync.all.pred %p5, !%p3, -1; selp.u32 %r2, 1, 0, %p2; \
        @%p3 add.u32 %r2, %r2, 2;
        @%p4 add.u32 %r2, %r2, 4; @%p5 add.u32 %r2, %r2, 8;";
    assert_eq!(lanes(votes), of(|_| 9));
    let any = "shr.u32 %r3, %r0, 3; match.any.sync.b32 %r2, %r3, -1;";
    assert_eq!(lanes(any), of(|i| 0xff << (i / 8 * 8)));
    let all = "mov.u32 %r3, 5; match.all.sync.b32 %r2|%p1, %r3, -1; @!%p1 mov.u32 %r2, 1;";
    assert_eq!(lanes(all), of(|_| u32::MAX));
    let all = "match.all.sync.b32 %r2|%p1, %r10, -1; @!%p1 add.u32 %r2, %r2, 1;";
    assert_eq!(lanes(all), of(|_| 1));
    assert_eq!(
        lanes("redux.sync.add.s32 %r2, %r10, -1;"),
        of(|_| (0..32).map(|i| i * i).sum())
    );
    assert_eq!(
        lanes("neg.s32 %r3, %r10; redux.sync.min.s32 %r2, %r3, -1;"),
        of(|_| -961i32 as u32)
    );
    assert_eq!(
        lanes("neg.s32 %r3, %r10; redux.sync.max.u32 %r2, %r3, -1;"),
        of(|_| u32::MAX)
    );
    assert_eq!(
        lanes("redux.sync.or.b32 %r2, %r10, -1;"),
        of(|_| (0..32).fold(0, |a, i| a | (i * i)))
    );
}

#[test]
fn sync_instructions_wait_for_other_paths() {
    // Both sides of a branch execute a shuffle of the same kind: they meet.
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW;
        add.u32 %r3, %r0, 100;
        shfl.sync.bfly.b32 %r2, %r3, 16, 31, -1;
        bra JOIN;
        LOW: mov.u32 %r3, %r0;
        shfl.sync.bfly.b32 %r2, %r3, 16, 31, -1;
        JOIN: add.u32 %r2, %r2, 0;";
    assert_eq!(lanes(body), of(|i| if i < 16 { i + 116 } else { i - 16 }));
    // Masks of halves need no others.
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW;
        shfl.sync.idx.b32 %r2, %r10, 20, 31, 0xffff0000;
        bra JOIN;
        LOW: shfl.sync.idx.b32 %r2, %r10, 4, 31, 0xffff;
        JOIN: add.u32 %r2, %r2, 0;";
    assert_eq!(lanes(body), of(|i| if i < 16 { 16 } else { 400 }));
    // Lanes that exit are not waited for.
    let body = "st.global.u32 [%rd4], 7; setp.ge.u32 %p1, %r0, 8; @%p1 exit;
        bar.warp.sync -1; vote.sync.ballot.b32 %r2, %p1, -1; activemask.b32 %r2;";
    let lockstep = warp(body, &[0; 32], &Options::default()).expect("no fault");
    assert_eq!(lockstep, of(|i| if i < 8 { 0xff } else { 7 }));
}

#[test]
fn a_missing_warp_barrier_shows() {
    let body = |barrier: &str| {
        format!(
            ".shared .align 4 .b8 s[128]; mov.u32 %r3, s; shl.b32 %r4, %r0, 2; add.u32 %r4, %r3, %r4; \
            xor.b32 %r5, %r0, 1; \
             shl.b32 %r5, %r5, 2; add.u32 %r5, %r3, %r5;
             st.shared.u32 [%r4], %r10;
             {barrier}
             ld.shared.u32 %r2, [%r5];"
        )
    };
    let expected = of(|i| (i ^ 1) * (i ^ 1));
    assert_eq!(lanes(&body("bar.warp.sync -1;")), expected);
    // Without it, independent threads read what is not there yet.
    let found: Vec<Result<Vec<u32>, Fault>> = (1..10)
        .map(|seed| {
            let options = Options {
                seed,
                independent: true,
                ..Options::default()
            };
            warp(&body(""), &of(|i| i * i), &options)
        })
        .collect();
    let unset = |f: &Fault| matches!(f.kind, FaultKind::UninitialisedMemory { .. });
    assert!(found.iter().any(|result| result.as_ref().is_err_and(unset)));
    // In lockstep the race detector finds it.
    let options = Options {
        races: true,
        ..Options::default()
    };
    assert!(matches!(
        fault_with(&body(""), &options).kind,
        FaultKind::Race { .. }
    ));
}

/// Each thread puts its value into shared memory; after the barrier it reads another warp's.
const EXCHANGE: &str = ".shared .align 4 .b8 s[512]; mov.u32 %r3, s; shl.b32 %r4, %r0, 2; add.u32 %r4, %r3, %r4;
    st.shared.u32 [%r4], %r0;
    bar.sync 0;
    xor.b32 %r5, %r0, 127; shl.b32 %r5, %r5, 2; add.u32 %r5, %r3, %r5; ld.shared.u32 %r2, [%r5];
    mad.lo.u32 %r6, %r1, 128, %r0; mul.wide.u32 %rd2, %r6, 4; add.u64 %rd4, %rd1, %rd2; st.global.u32 [%rd4], %r2;";

#[test]
fn barriers_join_warps_and_blocks_end_in_any_order() {
    for seed in 0..20 {
        for independent in [false, true] {
            let heap = Heap::default();
            let out = heap.blank(4 * 128 * 10);
            let options = Options {
                seed,
                independent,
                races: true,
                ..Options::default()
            };
            run_with(EXCHANGE, (10, 128), (out, out), &heap, &options)
                .unwrap_or_else(|f| panic!("{f}"));
            let expected: Vec<u32> = (0..1280).map(|i| (i % 128) ^ 127).collect();
            assert_eq!(heap.read_words(out), expected);
        }
    }
}

#[test]
fn barriers_reduce() {
    let body =
        "setp.lt.u32 %p1, %r0, 40; bar.red.popc.u32 %r2, 0, %p1; bar.red.and.pred %p2, 0, %p1;
        bar.red.or.pred %p3, 0, !%p1; @%p2 add.u32 %r2, %r2, 1000; @%p3 add.u32 %r2, %r2, 100;
        bar.red.popc.u32 %r3, 1, 64, %p1; add.u32 %r2, %r2, %r3;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd4, %rd1, %rd2; st.global.u32 [%rd4], %r2;";
    let heap = Heap::default();
    let out = heap.blank(4 * 64);
    run_with(body, (1, 64), (out, out), &heap, &Options::default()).expect("no fault");
    assert_eq!(heap.read_words(out), [180; 64]);
}

#[test]
fn exited_threads_count_at_no_barrier() {
    let body = "setp.ge.u32 %p1, %r0, 50; @%p1 exit;
        bar.sync 0;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd4, %rd1, %rd2; st.global.u32 [%rd4], %r0;";
    let heap = Heap::default();
    let out = heap.words(&[9; 128]);
    run_with(body, (1, 128), (out, out), &heap, &Options::default()).expect("no fault");
    let expected: Vec<u32> = (0..128).map(|i| if i < 50 { i } else { 9 }).collect();
    assert_eq!(heap.read_words(out), expected);
}

#[test]
fn named_barriers_pass_data_on() {
    // Warp 0 produces and only arrives; warp 1 waits.
    let body = ".shared .align 4 .b8 s[128]; mov.u32 %r3, s; and.b32 %r4, %r0, 31; shl.b32 %r4, %r4, 2; \
        add.u32 %r4, %r3, %r4;
        setp.ge.u32 %p1, %r0, 32; @%p1 bra CONSUMER;
        st.shared.u32 [%r4], %r0; bar.arrive 3, 64; exit;
        CONSUMER: bar.sync 3, 64; ld.shared.u32 %r2, [%r4];
        sub.u32 %r5, %r0, 32; mul.wide.u32 %rd2, %r5, 4; add.u64 %rd4, %rd1, %rd2; st.global.u32 [%rd4], %r2;";
    for seed in 0..20 {
        let heap = Heap::default();
        let out = heap.blank(128);
        let options = Options {
            seed,
            races: true,
            ..Options::default()
        };
        run_with(body, (1, 64), (out, out), &heap, &options).unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(heap.read_words(out), of(|i| i));
    }
}

#[test]
fn spinning_ends_once_the_other_side_runs() {
    // Lane 0 waits for lane 31 of its warp, warp 0 for warp 1, and block 0 for block 1.
    let inside = "setp.eq.u32 %p1, %r0, 0; mov.u32 %r2, 1; @%p1 bra WAIT;
        setp.eq.u32 %p2, %r0, 31; @%p2 st.volatile.global.u32 [%rd1+4], 5; bra END;
        WAIT: ld.volatile.global.u32 %r2, [%rd1+4]; setp.ne.u32 %p2, %r2, 5; @%p2 bra WAIT;
        END: add.u32 %r2, %r2, 0;";
    let between = |who: &str| {
        format!(
            "setp.ne.u32 %p1, {who}, 0; @%p1 bra SET;
             WAIT: atom.global.add.u32 %r2, [%rd1], 0; setp.ne.u32 %p2, %r2, 5; @%p2 bra WAIT;
             exit;
             SET: atom.global.exch.b32 %r2, [%rd1], 5;"
        )
    };
    for seed in 0..6 {
        let options = Options {
            seed,
            races: true,
            ..Options::default()
        };
        let heap = Heap::default();
        let out = heap.words(&[0; 8]);
        run_with(inside, (1, 32), (out, out), &heap, &options).unwrap_or_else(|f| panic!("{f}"));
        let warp_index = between("%r3");
        let body = format!("shr.u32 %r3, %r0, 5; {warp_index}");
        run_with(&body, (1, 64), (out, out), &heap, &options).unwrap_or_else(|f| panic!("{f}"));
        let out = heap.words(&[0; 8]);
        run_with(&between("%r1"), (2, 32), (out, out), &heap, &options)
            .unwrap_or_else(|f| panic!("{f}"));
    }
}

#[test]
fn atomics_count_every_thread() {
    let body = "atom.global.add.u32 %r2, [%rd1], 1; red.global.max.s32 [%rd1+4], %r0; \
        atom.global.inc.u32 %r3, [%rd1+8], 9;
        atom.global.dec.u32 %r3, [%rd1+12], 9; atom.global.min.s32 %r3, [%rd1+16], -7; \
        atom.global.cas.b32 %r3, [%rd1+20], 0, %r0;
        atom.global.add.f32 %f2, [%rd1+24], 0f3F800000; atom.global.add.u64 %rd2, [%rd1+32], 3; \
        red.global.xor.b32 [%rd1+40], %r0;
        atom.global.and.b32 %r3, [%rd1+44], 0xf0; atom.global.or.b32 %r3, [%rd1+44], 1;";
    for seed in 0..5 {
        let options = Options {
            seed,
            races: true,
            ..Options::default()
        };
        let heap = Heap::default();
        let out = heap.words(&[0, 0, 0, 0, 5, 0, 0, 0, u32::MAX, 0, 0, 0xffff]);
        run_with(body, (3, 64), (out, out), &heap, &options).unwrap_or_else(|f| panic!("{f}"));
        let found = heap.read_words(out);
        assert_eq!(found[..5], [192, 63, 2, 8, -7i32 as u32]);
        assert_eq!(found[6..], [192f32.to_bits(), 0, 575, 1, 0, 0xf1]);
    }
}

#[test]
fn functions_return_to_their_callers() {
    let text = "
        .version 8.5
        .target sm_80
        .address_size 64
        .func (.param .b32 result) scaled(.param .b32 x, .param .b64 y);
        .func (.param .b32 result) scaled(.param .b32 x, .param .b64 y)
        {
            .local .align 8 .b8 depot[16];
            .reg .b64 %SP; .reg .b64 %SPL; .reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .pred %p<2>;
            mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL;
            ld.param.u32 %r1, [x]; ld.param.u64 %rd1, [y];
            setp.gt.u32 %p1, %r1, 20; @%p1 bra $L_big;
            st.u32 [%SP+8], %r1; ld.local.u32 %r2, [%SPL+8];
            cvt.u32.u64 %r3, %rd1; mul.lo.u32 %r2, %r2, %r3;
            st.param.b32 [result], %r2; ret;
        $L_big: mov.u32 %r2, 77; st.param.b32 [result+0], %r2; ret;
        }
        .visible .entry k(.param .u64 out)
        {
            .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<2>;
            mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 4; mov.u32 %r2, 5;
            @%p1 bra $L_end;
            {
                .reg .b32 temp_param_reg;
                .param .b32 param0; st.param.b32 [param0+0], %r1;
                .param .b64 param1; st.param.b64 [param1+0], 3;
                .param .b32 retval0;
                call.uni (retval0),
                scaled,
                (
                param0,
                param1
                );
                ld.param.b32 %r2, [retval0+0];
            }
        $L_end: ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
            st.global.u32 [%rd3], %r2; ret;
        }";
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    for seed in 0..5 {
        let heap = Heap::default();
        let out = heap.blank(128);
        let params = out.to_le_bytes();
        let launched = Launch {
            kernel: "k",
            grid: [1; 3],
            block: [32, 1, 1],
            shared: 0,
            params: &params,
        };
        let options = Options {
            seed,
            independent: seed > 0,
            races: true,
            ..Options::default()
        };
        launch(&module, &launched, &heap, &options).unwrap_or_else(|f| panic!("{f}"));
        let expected = of(|i| {
            if i < 4 {
                5
            } else if i > 20 {
                77
            } else {
                3 * i
            }
        });
        assert_eq!(heap.read_words(out), expected);
    }
}

#[test]
fn special_registers_number_threads() {
    let body = "mov.u32 %r3, %tid.y; mov.u32 %r4, %tid.z; mov.u32 %r5, %ntid.x; mov.u32 %r6, %ctaid.y; \
        mov.u32 %r7, %nctaid.y;
        mov.u32 %r8, %laneid; mov.u32 %r9, %warpid; mov.u32 %r11, %lanemask_lt; mov.u32 %r12, %lanemask_ge;
        mad.lo.u32 %r13, %r4, 4, %r3; mad.lo.u32 %r13, %r13, %r5, %r0; shl.b32 %r14, %r9, 5; add.u32 %r14, %r14, %r8;
        sub.u32 %r15, %r13, %r14; popc.b32 %r16, %r11; sub.u32 %r16, %r16, %r8; or.b32 %r15, %r15, %r16; \
        xor.b32 %r17, %r11, %r12;
        not.b32 %r17, %r17; or.b32 %r15, %r15, %r17; mad.lo.u32 %r18, %r6, 48, %r13; mul.wide.u32 %rd2, %r18, 4;
        add.u64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r15;";
    let module = parse(body);
    let heap = Heap::default();
    let out = heap.blank(4 * 48 * 2);
    let params: Vec<u8> = [out, out].iter().flat_map(|a| a.to_le_bytes()).collect();
    let launched = Launch {
        kernel: "k",
        grid: [1, 2, 1],
        block: [6, 4, 2],
        shared: 0,
        params: &params,
    };
    launch(&module, &launched, &heap, &Options::default()).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(heap.read_words(out), [0; 96]);
}
