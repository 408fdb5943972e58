//! The project's kernels on random input: the same results in every schedule, without races.

use std::path::{Path, PathBuf};

use ptx::{Fault, FaultKind, Launch, Module, Options};

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

fn kernel_source(stage: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../kernels/{stage}.cu"))
}

fn module(stage: &str) -> Module {
    Module::parse(&compile(&kernel_source(stage), 75)).expect("a module")
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

/// Boxes in a square of 20 m, best first, of three classes.
fn boxes(count: usize) -> Vec<u8> {
    let mut random = Uniform(3);
    (0..count)
        .flat_map(|i| {
            let (x, y) = (random.next() * 20.0, random.next() * 20.0);
            let (length, width) = (1.0 + 4.0 * random.next(), 1.0 + random.next());
            // Some angles are so large that sine and cosine reduce them slowly.
            let yaw = random.next() * if i % 50 == 0 { 1e12 } else { 7.0 };
            let score = 1.0 - i as f32 / count as f32;
            let values = [x, y, 0.0, length, width, 1.5, yaw, 0.0, 0.0, score];
            Params::default().reals(&values).numbers(&[i as u32 % 3]).0
        })
        .collect()
}

/// How `suppress` compares boxes: in circles, with removed boxes that suppress others, greatest IoU, most boxes.
type Step = (u32, u32, f32, u32);

/// Runs the kernels of suppression in two groups. Returns the remaining boxes after their totals.
fn suppress(
    module: &Module,
    count: usize,
    (circle, all_suppress, threshold, most): Step,
    options: &Options,
) -> Result<Vec<u8>, Fault> {
    let heap = Heap::default();
    let out = heap.blank(16 + 44 * count);
    let params = Params::default()
        .address(heap.words(&[count as u32, 5, 6, 0]))
        .address(heap.buffer(&boxes(count)))
        .address(heap.blank(32 * count))
        .address(heap.blank(4 * count))
        .address(heap.blank(4 * count))
        .address(heap.blank(4 * count))
        .address(heap.blank(32 * count))
        .address(heap.words(&[0, 1, 0]))
        .address(heap.words(&[4f32.to_bits(); 3]))
        .address(heap.words(&[0; 4]))
        .address(out)
        .address(0)
        .address(0)
        .numbers(&[count as u32, circle])
        .reals(&[threshold, 400.0])
        .numbers(&[most, 0, all_suppress, 0]);
    let prepare = count.div_ceil(256) as u32;
    for (kernel, grid, block) in [
        ("nms_prepare", prepare, 256),
        ("nms_step", 2, 256),
        ("nms_output", 1, 1024),
    ] {
        let (grid, block, params) = ([grid, 1, 1], [block, 1, 1], &params.0[..]);
        launch(
            module,
            &Launch {
                kernel,
                grid,
                block,
                shared: 0,
                params,
            },
            &heap,
            options,
        )?;
    }
    let found = heap.read(out);
    let kept = u32::from_le_bytes([found[0], found[1], found[2], found[3]]) as usize;
    Ok(found[..16 + 44 * kept].to_vec())
}

#[test]
#[ignore = "needs nvcc"]
fn boxes_are_suppressed_alike_in_every_schedule() {
    let module = module("nms");
    for step in [(0, 0, 0.1, 83), (0, 1, 0.1, 83), (1, 0, 0.1, 83)] {
        let mut expected: Option<Vec<u8>> = None;
        for options in schedules() {
            let found = suppress(&module, 300, step, &options)
                .unwrap_or_else(|fault| panic!("{fault} ({options:?})"));
            assert!(
                (20..=166).contains(&(found.len() / 44)),
                "{} bytes",
                found.len()
            );
            assert_eq!(
                *expected.get_or_insert_with(|| found.clone()),
                found,
                "{options:?}"
            );
        }
    }
}

/// Without any one of its barriers a kernel has a race, given enough boxes to use all of it.
#[test]
#[ignore = "needs nvcc"]
fn each_barrier_of_suppression_is_needed() {
    let text = compile(&kernel_source("nms"), 75);
    let lines: Vec<&str> = text.lines().collect();
    let steps = [(0, 0, 0.9, 2000), (0, 0, 0.1, 83), (1, 0, 0.1, 83)];
    let options = &schedules()[0];
    let whole = module("nms");
    for step in steps {
        suppress(&whole, 1100, step, options).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let mut removed = 0;
    for (at, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains("bar.sync"))
    {
        let mut changed = lines.clone();
        changed[at] = "";
        let module = Module::parse(&changed.join("\n")).expect("a module");
        let fault = steps
            .iter()
            .find_map(|&step| suppress(&module, 1100, step, options).err());
        match fault {
            Some(Fault {
                kind: FaultKind::Race { .. },
                ..
            }) => removed += 1,
            other => panic!("{line} in line {}: {other:?}", at + 1),
        }
    }
    assert!(removed >= 10, "{removed} barriers");
}

/// A PFN of layers of a width; see `kernels/features.cu`.
struct Pfn {
    widths: Vec<usize>,
    max_points: usize,
    chunk: usize,
}

const INPUTS: usize = 12;

impl Pfn {
    /// Columns of the row and of the appended maximum that a layer reads.
    fn reads(&self, layer: usize) -> (usize, usize) {
        if layer == 0 {
            (INPUTS, 0)
        } else {
            (self.widths[layer - 1], self.widths[layer - 1])
        }
    }

    fn starts(&self) -> Vec<usize> {
        let mut at = 0;
        let size = |layer: usize| {
            let (inputs, maxes) = self.reads(layer);
            (1 + inputs + maxes) * self.widths[layer]
        };
        (0..=self.widths.len())
            .map(|layer| {
                let start = at;
                at += if layer < self.widths.len() {
                    size(layer)
                } else {
                    0
                };
                start
            })
            .collect()
    }

    /// The features of a pillar, with the kernel's order of operations.
    fn features(&self, points: &[[f32; 4]], cell: usize, weights: &[f32]) -> Vec<f32> {
        let mut mean = [0f32; 3];
        for point in points {
            for axis in 0..3 {
                mean[axis] += point[axis];
            }
        }
        let mean = mean.map(|sum| sum / points.len() as f32);
        let center = |index: usize| 0.5f32 / 2.0 + index as f32 * 0.5 + 0.0;
        let mut rows: Vec<Vec<f32>> = points
            .iter()
            .map(|p| {
                let offsets = [p[0] - mean[0], p[1] - mean[1], p[2] - mean[2]];
                let places = [p[0] - center(cell % 10), p[1] - center(cell / 10)];
                let mut row = [&p[..], &offsets, &places].concat();
                row.resize(INPUTS, 0.0);
                row
            })
            .collect();
        if points.len() < self.max_points {
            rows.push(vec![0.0; INPUTS]);
        }
        let mut max = Vec::new();
        for (layer, &start) in self.starts()[..self.widths.len()].iter().enumerate() {
            let width = self.widths[layer];
            let (_, maxes) = self.reads(layer);
            let next: Vec<Vec<f32>> = rows
                .iter()
                .map(|row| {
                    (0..width)
                        .map(|c| {
                            let mut sum = weights[start + c];
                            for (k, x) in max[..maxes].iter().chain(row).enumerate() {
                                sum += x * weights[start + (1 + k) * width + c];
                            }
                            if sum > 0.0 { sum } else { 0.0 }
                        })
                        .collect()
                })
                .collect();
            max = (0..width)
                .map(|c| next.iter().map(|r| r[c]).fold(0.0, f32::max))
                .collect();
            rows = next;
        }
        max
    }

    fn check(&self, kernel: &str, module: &Module) {
        const PILLARS: usize = 20;
        let mut random = Uniform(11);
        let starts = self.starts();
        let count = starts[self.widths.len()];
        let weights: Vec<f32> = (0..count).map(|_| random.next() - 0.5).collect();
        let (mut points, mut slots, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        let cells: Vec<u32> = (0..PILLARS as u32).map(|i| i * 3).collect();
        for pillar in 0..PILLARS {
            let kept = if pillar == 0 {
                self.max_points
            } else {
                1 + pillar * 7 % self.max_points
            };
            for slot in 0..self.max_points {
                slots.push(if slot < kept {
                    points.len() as u32
                } else {
                    u32::MAX
                });
                if slot < kept {
                    points.push([0.0; 4].map(|_: f32| random.next() * 5.0));
                }
            }
            counts.push(kept as u32);
        }
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        let width = self.widths[self.widths.len() - 1];
        let warp_floats = self.chunk * (INPUTS + 64) + self.widths.iter().sum::<usize>();
        let mut expected = Vec::new();
        for pillar in 0..PILLARS {
            let first = slots[pillar * self.max_points] as usize;
            let own = &points[first..first + counts[pillar] as usize];
            expected.extend(bits(&self.features(own, cells[pillar] as usize, &weights)));
        }
        for options in schedules() {
            let heap = Heap::default();
            let aligned = |words: &[u32]| {
                (0..64)
                    .map(|_| heap.words(words))
                    .find(|a| a % 16 == 0)
                    .expect("an aligned buffer")
            };
            let mut frame = Params::default()
                .address(heap.words(&bits(points.as_flattened())))
                .numbers(&[points.len() as u32, 4, 4, 0, 1, 2, 3])
                .numbers(&[0; 12])
                .reals(&[1.0; 16])
                .numbers(&[u32::MAX, 1, 0, 0, 0])
                .reals(&[0.0; 12]);
            frame.0.resize(160 + 56 * 256, 0);
            let out = heap.blank(4 * PILLARS * width);
            let mut params = Params::default()
                .address(heap.buffer(&frame.0))
                .address(heap.words(&[PILLARS as u32]))
                .address(heap.words(&counts))
                .address(heap.words(&cells))
                .address(heap.words(&slots))
                .address(aligned(&bits(&weights)))
                .address(out)
                .numbers(&[
                    PILLARS as u32,
                    self.max_points as u32,
                    10,
                    1,
                    2,
                    width as u32,
                ])
                .numbers(&[
                    count as u32,
                    self.chunk as u32,
                    INPUTS as u32,
                    64,
                    warp_floats as u32,
                ])
                .numbers(&[
                    self.widths.iter().sum::<usize>() as u32,
                    self.widths.len() as u32,
                ])
                .reals(&[0.5, 0.5, 4.0, 0.0, 0.0, 0.0]);
            for layer in 0..3 {
                let mut numbers = [0; 4];
                if let (Some(&width), Some(&start)) = (self.widths.get(layer), starts.get(layer)) {
                    let (inputs, maxes) = self.reads(layer);
                    numbers = [inputs, maxes, width, start].map(|n| n as u32);
                }
                params = params.numbers(&numbers);
            }
            let params = params.numbers(&[0]);
            let held = if kernel == "features_pfn" { count } else { 0 };
            let launched = Launch {
                kernel,
                grid: [5, 1, 1],
                block: [64, 1, 1],
                shared: (4 * (held + 2 * warp_floats)) as u32,
                params: &params.0,
            };
            launch(module, &launched, &heap, &options)
                .unwrap_or_else(|fault| panic!("{fault} ({options:?})"));
            assert_eq!(heap.read_words(out), expected, "{options:?}");
        }
    }
}

#[test]
#[ignore = "needs nvcc"]
fn features_are_those_of_a_plain_loop() {
    let module = module("features");
    let wide = Pfn {
        widths: vec![64],
        max_points: 20,
        chunk: 20,
    };
    let deep = Pfn {
        widths: vec![32, 64],
        max_points: 30,
        chunk: 8,
    };
    for kernel in ["features_pfn", "features_pfn_large"] {
        wide.check(kernel, &module);
        deep.check(kernel, &module);
    }
}

#[test]
#[ignore = "needs nvcc"]
fn scattered_maps_hold_the_features() {
    const MOST: usize = 70;
    let module = module("scatter");
    let mut random = Uniform(5);
    for (element, vector) in [(0u32, 1u32), (1, 1), (2, 32), (0, 4)] {
        let features: Vec<f32> = (0..MOST * 32).map(|_| random.next() * 10.0 - 5.0).collect();
        let bits: Vec<u32> = features.iter().map(|v| v.to_bits()).collect();
        // Two frames: the second one has other pillars, so that cells are cleared.
        let frames: [Vec<u32>; 2] = [
            (0..60).map(|i| i * 3).collect(),
            (0..70).map(|i| i * 2 + 1).collect(),
        ];
        let size = [4, 2, 1][element as usize];
        for options in schedules() {
            let heap = Heap::default();
            let map = heap.buffer(&vec![0; 32 * 200 * size]);
            let written = heap.words(&[u32::MAX; MOST]);
            for cells in &frames {
                let mut pillar_of_cell = vec![0u32; 200];
                for (pillar, &cell) in cells.iter().enumerate() {
                    pillar_of_cell[cell as usize] = pillar as u32;
                }
                let mut padded = cells.clone();
                padded.resize(MOST, 0);
                let plane = 200 * vector;
                let params = Params::default()
                    .address(heap.words(&bits))
                    .address(heap.words(&padded))
                    .address(heap.words(&[cells.len() as u32]))
                    .address(heap.words(&pillar_of_cell))
                    .address(written)
                    .address(map)
                    .numbers(&[element, 32, 10, 20, plane, 20 * vector, vector, vector])
                    .reals(&[0.05])
                    .numbers(&[0, MOST as u32, 0]);
                run(&module, "scatter_write", 3, 256, &params, &heap, &options);
                let found = heap.read(map);
                for (cell, channel) in
                    (0..200usize).flat_map(|cell| (0..32).map(move |c| (cell, c)))
                {
                    let v = vector as usize;
                    let at = (channel / v * 200 * v + cell * v + channel % v) * size;
                    let pillar = cells.iter().position(|&c| c as usize == cell);
                    let value = pillar.map_or(0.0, |pillar| features[pillar * 32 + channel]);
                    let close = match element {
                        0 => found[at..at + 4] == value.to_le_bytes(),
                        1 => {
                            let half = u16::from_le_bytes([found[at], found[at + 1]]);
                            (value == 0.0) == (half == 0)
                        }
                        _ => {
                            let code = f32::from(found[at] as i8);
                            code == (value / 0.05).round_ties_even().clamp(-128.0, 127.0)
                        }
                    };
                    assert!(close, "{element} {vector}: cell {cell} channel {channel}");
                }
            }
        }
    }
}
