//! Lazy heads change no byte that is read: random networks with several tasks, with lazy heads and without, on a sequence
//! of frames. Heatmaps and all other outputs are compared whole, lazy maps at the cells that pass.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::quantized::Draft;
use super::skip::frames;
use super::{engine, set_input};
use crate::common::MODEL;
use crate::engine_net::{Conv, Net, Op, Random, demo, dense};
use centerpoint::Model;
use centerpoint::engine::Engine;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{CpuEngine, Isa, Options};
use centerpoint::internals::engine::lazy::{LazyHeads, LazyTask};
use centerpoint::internals::program::Payload;

fn lazy(payload: &Payload, options: Options, threads: usize) -> CpuEngine {
    let weights = Arc::new(payload.weights.clone());
    let pool = Arc::new(Pool::new(threads));
    CpuEngine::new(payload.program.clone(), weights, pool, &options).unwrap()
}

/// Draws networks with heads, in float or with codes.
struct Heads {
    draft: Draft,
    random: Random,
    int8: bool,
}

impl Heads {
    fn conv(&mut self, x: &str, out: usize, k: usize) -> String {
        let x = if self.int8 {
            self.draft.codes(x)
        } else {
            x.to_owned()
        };
        if self.int8 {
            return self.draft.conv_to(&x, out, k);
        }
        let channels = self.draft.shape(&x)[0];
        let net = &mut self.draft.net;
        let scale = (6.0 / (channels * k * k) as f32).sqrt();
        let op = Op::Conv(Conv {
            out,
            kernel: [k; 2],
            stride: [1; 2],
            pad: [k / 2; 4],
            output_padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            scales: None,
            weight: net.constant(&mut self.random, out * channels * k * k, scale),
            bias: Some(net.constant(&mut self.random, out, 0.1)),
        });
        self.draft.node(&[&x], op)
    }

    /// Layers before a map: none, one or two, with operators of other kinds between them.
    fn hidden(&mut self, x: &str) -> String {
        let mut x = x.to_owned();
        for _ in 0..self.random.below(3) {
            let out = [8, 16, 32, 32, 64][self.random.below(5)];
            let before = x.clone();
            let kernel = [1, 3, 3][self.random.below(3)];
            x = self.conv(&x, out, kernel);
            x = match self.random.below(6) {
                0 if self.draft.shape(&before) == self.draft.shape(&x) => {
                    self.draft.node(&[&x, &before], Op::Add)
                }
                1 => self.draft.node(&[&x], Op::Sigmoid),
                2 => {
                    let op = Op::MaxPool {
                        kernel: [3; 2],
                        stride: [1; 2],
                        pad: [1; 4],
                    };
                    self.draft.node(&[&x], op)
                }
                _ => self.draft.node(&[&x], Op::Relu),
            };
        }
        x
    }

    /// A map, twice as fine as `x` if `fine`.
    fn map(&mut self, x: &str, channels: usize, fine: bool) -> String {
        let x = self.hidden(x);
        if !fine {
            let kernel = [1, 3][self.random.below(2)];
            return self.conv(&x, channels, kernel);
        }
        let y = self.conv(&x, 4 * channels, 3);
        let crd = self.random.below(2) == 0;
        self.draft.node(&[&y], Op::DepthToSpace { block: 2, crd })
    }
}

/// A network with maps `larger` times as large as the smallest ones, and by task its heatmap and its other maps.
pub(crate) fn random_heads(seed: u64, larger: usize) -> (Net, Vec<(String, Vec<String>)>) {
    let mut random = Random(seed);
    random.next();
    let int8 = seed.is_multiple_of(2);
    let mut side = |most: usize| larger * random.range(6, most);
    let (height, width) = (side(16), side(34));
    let shape = [random.range(2, 8), height, width];
    let draft = Draft::new(shape, seed, seed % 4 == 2, 127);
    let mut net = Heads {
        draft,
        random,
        int8,
    };
    let x = net.conv("input", 32, 3);
    let x = net.draft.node(&[&x], Op::Relu);
    let (mut tasks, mut outputs) = (Vec::new(), Vec::new());
    for _ in 0..net.random.range(1, 3) {
        let fine = net.random.below(4) == 0;
        // Sometimes a task's branches share a layer, which then serves the heatmap too.
        let shared = match net.random.below(3) {
            0 => net.hidden(&x),
            _ => x.clone(),
        };
        let classes = net.random.range(1, 3);
        let heatmap = net.map(&shared, classes, fine);
        let mut maps = Vec::new();
        // The last is a heavy operator, which computes whole groups.
        let wide = [3, 32][net.random.below(2)];
        for channels in [2, 1, wide] {
            let from = [&shared, &x][net.random.below(2)].clone();
            maps.push(net.map(&from, channels, fine));
        }
        if !fine {
            match net.random.below(5) {
                // A map that holds two others, which are slices of it.
                0 => maps.push(net.draft.node(&[&maps[0], &maps[1]], Op::Concat)),
                // A slice of it is the heatmap, so the whole must be complete.
                1 => maps.push(net.draft.node(&[&maps[0], &heatmap], Op::Concat)),
                // A map made of another one.
                2 => {
                    let y = net.conv(&maps[2].clone(), 2, 3);
                    maps.push(y);
                }
                // Someone else reads a map whole.
                3 => {
                    let y = net.conv(&maps[1].clone(), 2, 3);
                    outputs.push(y);
                }
                _ => {}
            }
        }
        outputs.push(heatmap.clone());
        outputs.extend(maps.clone());
        tasks.push((heatmap, maps));
    }
    // A task whose heatmap is another one's map.
    if tasks.len() == 2 && net.random.below(4) == 0 {
        tasks[1].0 = tasks[0].1[0].clone();
    }
    let mut net = net.draft.net;
    net.outputs = outputs;
    (net, tasks)
}

/// What lazy heads read: by task a threshold for each channel of the heatmap, some of which pass often, never or always.
pub(crate) fn lazy_heads(
    net: &Net,
    tasks: &[(String, Vec<String>)],
    maps: &[Vec<f32>],
    engine: &CpuEngine,
    random: &mut Random,
) -> LazyHeads {
    let task = |(heatmap, others): &(String, Vec<String>)| {
        let index = net.outputs.iter().position(|o| o == heatmap).unwrap();
        let channels = engine.outputs()[index].channels;
        let cells = maps[index].len() / channels;
        let least = |channel: usize| {
            let mut logits = maps[index][channel * cells..][..cells].to_vec();
            logits.sort_by(f32::total_cmp);
            let rank = |of: usize| logits[cells - 1 - cells / of];
            match random.below(12) {
                0 => f32::NEG_INFINITY,
                1 => f32::INFINITY,
                2 => rank(2),
                3..6 => rank(10),
                _ => rank(50),
            }
        };
        LazyTask {
            heatmap: heatmap.clone(),
            least: (0..channels).map(least).collect(),
            maps: others.clone(),
        }
    };
    LazyHeads {
        tasks: tasks.iter().map(task).collect(),
    }
}

fn outputs(engine: &CpuEngine) -> Vec<Vec<f32>> {
    (0..engine.outputs().len())
        .map(|i| dense(engine.output(i).unwrap()))
        .collect()
}

/// Compares what is read of the outputs. Returns how many cells pass, of all.
pub(crate) fn compare(
    net: &Net,
    heads: &LazyHeads,
    whole: &[Vec<f32>],
    found: &[Vec<f32>],
    what: &str,
) -> [usize; 2] {
    let index = |name: &String| net.outputs.iter().position(|o| o == name).unwrap();
    let of_tasks: HashSet<&String> = heads.tasks.iter().flat_map(|task| &task.maps).collect();
    let heatmaps: HashSet<&String> = heads.tasks.iter().map(|task| &task.heatmap).collect();
    for (name, (whole, found)) in net.outputs.iter().zip(whole.iter().zip(found)) {
        if heatmaps.contains(name) || !of_tasks.contains(name) {
            let same = whole
                .iter()
                .zip(found)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what}: {name} differs\n{:?}", net.nodes);
        }
    }
    let mut count = [0; 2];
    for task in &heads.tasks {
        let heatmap = &whole[index(&task.heatmap)];
        let cells = heatmap.len() / task.least.len();
        let passes = |cell: usize| {
            let mut channels = task.least.iter().enumerate();
            channels.any(|(channel, least)| {
                let logit = heatmap[channel * cells + cell];
                logit >= *least || logit.is_nan()
            })
        };
        let passing: Vec<usize> = (0..cells).filter(|&cell| passes(cell)).collect();
        count = [count[0] + passing.len(), count[1] + cells];
        for name in &task.maps {
            let (whole, found) = (&whole[index(name)], &found[index(name)]);
            for channel in 0..whole.len() / cells {
                for cell in &passing {
                    let at = channel * cells + cell;
                    assert_eq!(
                        whole[at].to_bits(),
                        found[at].to_bits(),
                        "{what}: {name}, channel {channel}, cell {cell}\n{:?}",
                        net.nodes
                    );
                }
            }
        }
    }
    count
}

#[test]
fn lazy_heads_change_no_value_that_is_read() {
    let (mut saved, mut passing, mut all) = (0, 0, 0);
    for seed in 0..60 {
        let (net, tasks) = random_heads(seed, 1);
        let payload = net.payload().unwrap();
        let mut plain = engine(&payload, None, 1);
        let frames = frames(net.input, seed);
        set_input(&mut plain, &frames[5]);
        plain.run().unwrap();
        let mut random = Random(seed);
        random.next();
        let heads = lazy_heads(&net, &tasks, &outputs(&plain), &plain, &mut random);
        let options = |skip: bool, isa: Option<Isa>| Options {
            lazy_heads: Some(heads.clone()),
            skip_empty: Some(skip),
            skip_channels: None,
            isa,
        };
        let mut lazies = [
            lazy(&payload, options(true, None), 1 + seed as usize % 3),
            lazy(&payload, options(false, Some(Isa::Portable)), 1),
        ];
        let mut empty = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            set_input(&mut plain, frame);
            plain.run().unwrap();
            let whole = outputs(&plain);
            if i == 0 {
                empty = whole.clone();
            }
            for (engine, name) in lazies.iter_mut().zip(["skipping", "not skipping"]) {
                set_input(engine, frame);
                engine.run().unwrap();
                let found = outputs(engine);
                let what = format!("seed {seed}, frame {i}, {name}");
                let [some, of] = compare(&net, &heads, &whole, &found, &what);
                (passing, all) = (passing + some, all + of);
                // Elsewhere: also computed, or as for an input of zeros, or 0.
                for ((found, whole), empty) in found.iter().zip(&whole).zip(&empty) {
                    for ((found, whole), empty) in found.iter().zip(whole).zip(empty) {
                        assert!(found == whole || found == empty || *found == 0.0, "{what}");
                    }
                }
            }
            let shares = lazies[1].layer_shares();
            saved += usize::from(shares.iter().any(|&share| share < 0.5));
        }
        // An observer sees whole maps.
        let whole = outputs(&plain);
        for engine in &mut lazies {
            engine.run_with(&mut |_, _| {}).unwrap();
            assert_eq!(outputs(engine), whole, "seed {seed}, observed");
        }
    }
    println!(
        "{passing} of {all} cells pass; heads were lazy in {saved} of {} frames",
        60 * 7
    );
    assert!(passing > all / 20 && passing < all / 2);
    assert!(saved > 200, "lazy in only {saved} frames");
}

#[test]
fn cells_of_nan_and_infinite_logits_are_computed() {
    let mut random = Random(3);
    let mut net = Net::new([4, 12, 20]);
    let x = net.conv(&mut random, "x", "input", 4, 32, 3, 1, false);
    net.conv(&mut random, "heatmap", &x, 32, 2, 1, 1, false);
    let y = net.conv(&mut random, "hidden", &x, 32, 32, 3, 1, true);
    net.conv(&mut random, "reg", &y, 32, 2, 3, 1, false);
    net.outputs = vec!["heatmap".to_owned(), "reg".to_owned()];
    let heads = LazyHeads {
        tasks: vec![LazyTask {
            heatmap: "heatmap".to_owned(),
            least: vec![1e9; 2],
            maps: vec!["reg".to_owned()],
        }],
    };
    let payload = net.payload().unwrap();
    let options = Options {
        lazy_heads: Some(heads.clone()),
        ..Options::default()
    };
    let mut lazy = lazy(&payload, options, 2);
    let mut plain = engine(&payload, None, 1);
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut frame = vec![0.25; 4 * 12 * 20];
        frame[5 * 20 + 7] = special;
        for engine in [&mut plain, &mut lazy] {
            set_input(engine, &frame);
            engine.run().unwrap();
        }
        let [passing, _] = compare(&net, &heads, &outputs(&plain), &outputs(&lazy), "special");
        assert!((3..=9).contains(&passing), "{special}: {passing} cells");
        assert!(lazy.layer_shares()[3] < 0.2, "{:?}", lazy.layer_shares());
    }
}

#[test]
fn only_what_passing_cells_need_is_computed() {
    let net = demo(64);
    let payload = net.payload().unwrap();
    let [heatmap, maps @ ..] = ["heatmap", "reg", "height", "dim", "rot", "vel"].map(str::to_owned);
    let heads = |least: f32| LazyHeads {
        tasks: vec![LazyTask {
            heatmap: heatmap.clone(),
            least: vec![least; 5],
            maps: maps.to_vec(),
        }],
    };
    let frame = Random(5).values(net.input.iter().product());
    let shares = |least: f32| {
        let options = Options {
            lazy_heads: Some(heads(least)),
            ..Options::default()
        };
        let mut engine = lazy(&payload, options, 1);
        set_input(&mut engine, &frame);
        engine.run().unwrap();
        (engine.layer_shares(), outputs(&engine).swap_remove(0))
    };
    // 12 + 3 + 1 convolutions and the two of the heatmap, then ten lazy ones.
    let (none, logits) = shares(f32::INFINITY);
    assert!(none[..18].iter().all(|&share| share == 1.0), "{none:?}");
    assert!(none[18..].iter().all(|&share| share == 0.0), "{none:?}");
    let (all, _) = shares(f32::NEG_INFINITY);
    assert!(all.iter().all(|&share| share == 1.0), "{all:?}");
    // One cell: its group, and the rows and groups around it.
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (one, _) = shares(best);
    let groups = 32.0 * 8.0;
    for pair in one[18..].chunks(2) {
        assert!((2.0..=6.0).contains(&(pair[0] * groups)), "{one:?}");
        assert_eq!(pair[1] * groups, 1.0, "{one:?}");
    }
}

#[test]
fn heads_that_do_not_fit_are_computed_whole() {
    let net = demo(32);
    let payload = net.payload().unwrap();
    let task = |heatmap: &str, channels: usize| LazyTask {
        heatmap: heatmap.to_owned(),
        least: vec![f32::INFINITY; channels],
        maps: vec!["reg".to_owned(), "no such output".to_owned()],
    };
    // An unknown heatmap, other channels than thresholds, and a second task with such a heatmap.
    let cases = [
        vec![task("no such output", 5)],
        vec![task("heatmap", 4)],
        vec![task("heatmap", 5), task("heatmap", 6)],
        vec![],
    ];
    let frame = Random(5).values(net.input.iter().product());
    let mut plain = engine(&payload, None, 1);
    set_input(&mut plain, &frame);
    plain.run().unwrap();
    for tasks in cases {
        let options = Options {
            lazy_heads: Some(LazyHeads { tasks }),
            ..Options::default()
        };
        let mut engine = lazy(&payload, options, 1);
        set_input(&mut engine, &frame);
        engine.run().unwrap();
        assert_eq!(outputs(&engine), outputs(&plain));
    }
}

#[test]
fn a_model_says_what_is_read() {
    let text = MODEL
        .replace(
            "score = 0.05",
            "bands = { upper_bounds = [5.0, 9.0], tall = [0.5, 0.2], low = [0.05, 0.6] }",
        )
        .replace(
            "rotation =",
            "tasks = [{ classes = [\"low\"] }, { classes = [\"tall\"] }]\nrotation =",
        );
    let model = Model::parse(&text, Path::new("model.toml")).unwrap();
    let heads = LazyHeads::new(&model);
    // Task by task its own classes, and the lowest threshold of all bands.
    for (i, (task, score)) in heads.tasks.iter().zip([0.05f32, 0.2]).enumerate() {
        let logit = (score / (1.0 - score)).ln();
        assert!(
            (task.least[0] - logit).abs() < 1e-5 && task.least.len() == 1,
            "{task:?}"
        );
        assert_eq!(task.heatmap, format!("heatmap_{i}"));
        let maps = ["reg", "height", "dim", "rot", "vel"].map(|name| format!("{name}_{i}"));
        assert_eq!(task.maps, maps);
    }
    assert_eq!(heads.tasks.len(), 2);
}
