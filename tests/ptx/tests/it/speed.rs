//! Speed of full warps; prints it.

use std::time::Instant;

use ptx::Options;

use super::support::{Heap, run_with};

/// Goal: 100 million instructions of threads a second when optimised; asserted is a tenth, because machines differ.
#[test]
fn full_warps_are_quick() {
    let body = "mov.u32 %r3, 0; mov.f32 %f2, 0f3F800000; cvt.rn.f32.u32 %f3, %r0; mad.lo.u32 %r6, %r1, 256, %r0; \
        mul.wide.u32 %rd5, %r6, 4; add.u64 %rd5, %rd0, %rd5;
        LOOP: ld.global.f32 %f4, [%rd5]; mul.f32 %f5, %f4, %f3; add.f32 %f2, %f2, %f5; \
        setp.gt.f32 %p2, %f2, 0f7F000000;
        selp.f32 %f2, 0f3F800000, %f2, %p2; add.u32 %r3, %r3, 1; shl.b32 %r4, %r3, 2; xor.b32 %r5, %r4, %r3; \
        setp.lt.u32 %p1, %r3, 2000;
        @%p1 bra LOOP;
        cvt.u64.u32 %rd6, %r5; st.global.f32 [%rd5], %f2;";
    let heap = Heap::default();
    let data = heap.words(&[1f32.to_bits(); 1024]);
    let time = |options: &Options| {
        let begin = Instant::now();
        let counts = run_with(body, (4, 256), (data, data), &heap, options).expect("no fault");
        (
            counts.thread_instructions as f64 / begin.elapsed().as_secs_f64() / 1e6,
            counts,
        )
    };
    let (speed, counts) = time(&Options::default());
    let seeded = Options {
        seed: 1,
        ..Options::default()
    };
    let independent = Options {
        independent: true,
        ..seeded.clone()
    };
    let races = Options {
        races: true,
        ..Options::default()
    };
    for (name, options) in [
        ("seeded", seeded),
        ("independent", independent),
        ("races", races),
    ] {
        println!("{name}: {:.0} million a second", time(&options).0);
    }
    println!(
        "{} thread instructions, {speed:.0} million a second",
        counts.thread_instructions
    );
    assert_eq!(counts.instructions * 32, counts.thread_instructions);
    assert_eq!(counts.by_opcode["mul.f32"], 32 * 2000);
    assert_eq!(counts.global_bytes, 1024 * (2000 + 1) * 4);
    assert!(speed > 10.0, "{speed}");
}
