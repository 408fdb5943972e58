//! The project's kernels on random input: the same results in every schedule, without races.

use std::path::Path;

use ptx::{Launch, Module, Options};

use super::nvcc::compile;
use super::support::{Heap, launch};

/// Uniform from 0 to 1.
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }
}

fn module(stage: &str) -> Module {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    Module::parse(&compile(&folder.join(format!("{stage}.cu")), 75)).expect("a module")
}

/// A parameter block.
#[derive(Default)]
struct Params(Vec<u8>);

impl Params {
    fn address(mut self, address: u64) -> Self {
        self.0.extend(address.to_le_bytes());
        self
    }

    fn numbers(mut self, numbers: &[u32]) -> Self {
        self.0.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        self
    }

    fn reals(self, reals: &[f32]) -> Self {
        let bits: Vec<u32> = reals.iter().map(|v| v.to_bits()).collect();
        self.numbers(&bits)
    }
}

fn schedules() -> Vec<Options> {
    let mut all = vec![Options {
        races: true,
        architecture: 75,
        ..Options::default()
    }];
    for seed in 1..5 {
        all.push(Options {
            seed,
            independent: seed % 2 == 0,
            ..all[0].clone()
        });
    }
    all
}

fn run(
    module: &Module,
    kernel: &str,
    grid: u32,
    block: u32,
    params: &Params,
    heap: &Heap,
    options: &Options,
) {
    let launched = Launch {
        kernel,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        shared: 0,
        params: &params.0,
    };
    launch(module, &launched, heap, options)
        .unwrap_or_else(|fault| panic!("{fault} ({options:?})"));
}

#[test]
#[ignore = "needs nvcc"]
fn pillars_are_those_of_a_plain_loop() {
    const COUNT: usize = 3000;
    const CAPACITY: u32 = 4096;
    const MOST_POINTS: usize = 4;
    const MOST_PILLARS: usize = 250;
    let module = module("pillars");
    let mut random = Uniform(7);
    let points: Vec<f32> = (0..COUNT * 3).map(|_| random.next() * 22.0 - 1.0).collect();
    // The same by hand: cells in the order of their first points.
    let (mut cells, mut kept): (Vec<u32>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
    let (mut outside, mut dropped, mut past) = (0, 0, 0);
    let mut all: Vec<u32> = Vec::new();
    for (i, point) in points.chunks_exact(3).enumerate() {
        if point.iter().any(|&v| !(0.0..20.0).contains(&v)) {
            outside += 1;
            continue;
        }
        let cell = point[1] as u32 * 20 + point[0] as u32;
        if !all.contains(&cell) {
            all.push(cell);
            if cells.len() < MOST_PILLARS {
                cells.push(cell);
                kept.push(Vec::new());
            }
        }
        match cells.iter().position(|&c| c == cell) {
            None => past += 1,
            Some(pillar) if kept[pillar].len() < MOST_POINTS => kept[pillar].push(i as u32),
            Some(_) => dropped += 1,
        }
    }
    for options in schedules() {
        let heap = Heap::default();
        let bytes: Vec<u8> = points.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut frame = Params::default()
            .address(heap.buffer(&bytes))
            .numbers(&[COUNT as u32, 3, 3, 0, 1, 2])
            .numbers(&[0; 13])
            .reals(&[1.0; 16])
            .numbers(&[u32::MAX, 1, 0, 0, 0])
            .reals(&[0.0; 12]);
        frame.0.resize(160 + 56 * 256, 0);
        let words = |count: usize, value: u32| heap.words(&vec![value; count]);
        let (slots, counts) = (
            heap.blank(4 * MOST_PILLARS * MOST_POINTS),
            heap.blank(4 * MOST_PILLARS),
        );
        let (cells_at, totals) = (heap.blank(4 * MOST_PILLARS), words(8, 0));
        let (first, tile_firsts) = (words(400, u32::MAX), words(8, 0));
        let params = Params::default()
            .address(heap.buffer(&frame.0))
            .address(first)
            .address(heap.blank(4 * CAPACITY as usize))
            .address(heap.blank(4 * 400))
            .address(tile_firsts)
            .address(slots)
            .address(counts)
            .address(cells_at)
            .address(totals)
            .reals(&[0.0, 0.0, 0.0, 20.0, 20.0, 20.0])
            .reals(&[0.0; 6])
            .reals(&[1.0, 1.0])
            .numbers(&[20, 20, MOST_POINTS as u32, MOST_PILLARS as u32, CAPACITY, 0]);
        for kernel in ["pillars_cells", "pillars_number", "pillars_fill"] {
            run(
                &module,
                kernel,
                CAPACITY / 512,
                512,
                &params,
                &heap,
                &options,
            );
        }
        assert_eq!(
            heap.read_words(totals),
            [cells.len() as u32, 0, outside, dropped, past, 0, 0, 0]
        );
        assert_eq!(heap.read_words(cells_at), cells);
        let (slots, counts) = (heap.read_words(slots), heap.read_words(counts));
        for (pillar, kept) in kept.iter().enumerate() {
            assert_eq!(counts[pillar] as usize, kept.len());
            assert_eq!(
                slots[pillar * MOST_POINTS..][..kept.len()],
                kept[..],
                "pillar {pillar}"
            );
        }
        assert_eq!(heap.read_words(first), [u32::MAX; 400]);
        assert_eq!(heap.read_words(tile_firsts), [0; 8]);
    }
}

#[test]
#[ignore = "needs nvcc"]
fn boxes_are_suppressed_alike_in_every_schedule() {
    const COUNT: usize = 300;
    let module = module("nms");
    let mut random = Uniform(3);
    let boxes: Vec<u8> = (0..COUNT)
        .flat_map(|i| {
            let (x, y) = (random.next() * 20.0, random.next() * 20.0);
            let (length, width) = (1.0 + 4.0 * random.next(), 1.0 + random.next());
            // Some angles are so large that sine and cosine reduce them slowly.
            let yaw = random.next() * if i % 50 == 0 { 1e12 } else { 7.0 };
            let score = 1.0 - i as f32 / COUNT as f32;
            let values = [x, y, 0.0, length, width, 1.5, yaw, 0.0, 0.0, score];
            Params::default().reals(&values).numbers(&[i as u32 % 3]).0
        })
        .collect();
    for (circle, all_suppress) in [(0, 0), (0, 1), (1, 0)] {
        let mut expected: Option<Vec<u8>> = None;
        for options in schedules() {
            let heap = Heap::default();
            let out = heap.blank(16 + 44 * COUNT);
            let params = Params::default()
                .address(heap.words(&[COUNT as u32, 5, 6, 0]))
                .address(heap.buffer(&boxes))
                .address(heap.blank(32 * COUNT))
                .address(heap.blank(4 * COUNT))
                .address(heap.blank(4 * COUNT))
                .address(heap.blank(4 * COUNT))
                .address(heap.blank(32 * COUNT))
                .address(heap.words(&[0, 1, 0]))
                .address(heap.words(&[4f32.to_bits(); 3]))
                .address(heap.words(&[0; 4]))
                .address(out)
                .address(0)
                .address(0)
                .numbers(&[COUNT as u32, circle])
                .reals(&[0.1, 400.0])
                .numbers(&[83, 0, all_suppress, 0]);
            run(&module, "nms_prepare", 2, 256, &params, &heap, &options);
            run(&module, "nms_step", 2, 256, &params, &heap, &options);
            run(&module, "nms_output", 1, 1024, &params, &heap, &options);
            let found = heap.read(out);
            let count = u32::from_le_bytes([found[0], found[1], found[2], found[3]]);
            assert!((20..=166).contains(&count), "{count} boxes");
            let found = found[..16 + 44 * count as usize].to_vec();
            assert_eq!(
                *expected.get_or_insert_with(|| found.clone()),
                found,
                "{options:?}"
            );
        }
    }
}
