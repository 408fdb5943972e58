//! The calibration pass over frames: its statistics, their determinism, its errors and its cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::build::Result;
use crate::build::calibrate::{
    AmaxMethod, Calibration, CalibrationKey, Counted, Histogram, Options, TensorStats, calibrate,
    load_or_run,
};
use crate::build::folder::Folder;
use crate::build::onnx::Graph;
use crate::build::onnx::proto::{AttributeProto, GraphProto};
use crate::build::onnx::tensor::from_floats;
use crate::chain::Chain;
use crate::model::{Model, Pfn};
use crate::points::{Layout, list_frames};
use crate::testing::nets::{ints, model as onnx, node, value};
use crate::testing::{TINY as MODEL, tiny_pfn as pfn};

fn repository() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn write_kitti(path: &Path, points: &[[f32; 4]]) {
    std::fs::write(path, bytemuck::cast_slice(points)).unwrap();
}

/// Rows and columns of the tiny model's BEV map; the feature maps have half as many.
const SIZE: usize = 16;

/// Outputs, inputs, rows and columns of the kernels of `a` and `b`. With a stride of 2, each output cell sees a block
/// of 2 × 2.
const A: [usize; 4] = [3, 2, 2, 2];
const B: [usize; 4] = [2, 2, 2, 2];

/// Small binary fractions, so every product and sum is exact in f32, in any order.
fn weights([o, i, h, w]: [usize; 4], factor: f32) -> Vec<f32> {
    let value = |k: usize| ((k * 5 + 3) % 11) as f32 / 4.0 - 1.0;
    (0..o * i * h * w).map(|k| value(k) * factor).collect()
}

/// `c` = Concat(`a` = Relu(Conv(input)), `b` = Conv(input)).
fn graph(factor: f32) -> Graph {
    let conv = |weight: &str, output: &str| {
        let mut conv = node("Conv", &["input", weight], &[output]);
        conv.attribute = vec![ints("strides", &[2, 2]), ints("kernel_shape", &[2, 2])];
        conv
    };
    let mut concat = node("Concat", &["a", "b"], &["c"]);
    concat.attribute = vec![AttributeProto {
        name: Some("axis".to_owned()),
        r#type: Some(2),
        i: Some(1),
        ..Default::default()
    }];
    let network = onnx(GraphProto {
        node: vec![
            conv("wa", "raw"),
            node("Relu", &["raw"], &["a"]),
            conv("wb", "b"),
            concat,
        ],
        initializer: vec![
            from_floats("wa", &A, &weights(A, 1.0)),
            from_floats("wb", &B, &weights(B, factor)),
        ],
        input: vec![value("input", &[1, 2, 16, 16])],
        output: vec![value("c", &[1, 5, 8, 8])],
        ..Default::default()
    });
    Graph::new(Path::new("tiny.onnx"), network).unwrap()
}

fn model() -> Model {
    Model::parse(MODEL, Path::new("model.toml")).unwrap()
}

/// KITTI frames with increasingly high points; the last frame has no points in range.
struct Frames {
    folder: tempfile::TempDir,
    points: Vec<Vec<[f32; 4]>>,
}

impl Frames {
    fn new() -> Self {
        let point = |frame: usize, i: usize| {
            let k = i * 37 + frame * 11;
            let (x, y) = (k % 15, k / 4 % 14);
            let z = ((k % 7 + 1) * (frame + 1)) as f32 / 16.0;
            [x as f32 - 7.5, y as f32 - 7.5, z, 0.0]
        };
        let mut points: Vec<Vec<[f32; 4]>> = (0..7)
            .map(|frame| (0..9 + frame).map(|i| point(frame, i)).collect())
            .collect();
        points.push(vec![[100.0, 0.0, 0.0, 0.0]]);
        let folder = tempfile::tempdir().unwrap();
        for (i, points) in points.iter().enumerate() {
            write_kitti(&folder.path().join(format!("{i}.bin")), points);
        }
        Self { folder, points }
    }

    fn paths(&self) -> Vec<PathBuf> {
        list_frames(&[self.folder.path().into()], false)
    }
}

fn options(threads: usize) -> Options {
    Options {
        layout: Some(Layout::KITTI),
        threads,
        ..Options::default()
    }
}

fn run(frames: &[PathBuf], graph: &Graph, threads: usize) -> Result<Calibration> {
    let (model, pfn) = (model(), pfn());
    calibrate(&model, &pfn, graph, frames, &options(threads), &|_| {})
}

/// A map by cell and channel.
type Cells = Vec<Vec<f32>>;

/// The maps of one frame by name, and the grid cells with a pillar.
fn maps(points: &[[f32; 4]]) -> (BTreeMap<&'static str, Cells>, Vec<bool>) {
    let mut input = vec![vec![0.0_f32; 2]; SIZE * SIZE];
    let mut pillars = vec![false; SIZE * SIZE];
    for &[x, y, z, _] in points.iter().filter(|p| p[0] < 8.0) {
        let cell = (y + 8.0) as usize * SIZE + (x + 8.0) as usize;
        input[cell] = vec![input[cell][0].max(z), 1.0];
        pillars[cell] = true;
    }
    let conv = |[outputs, inputs, ..]: [usize; 4], weight: &[f32]| -> Cells {
        let cells = (0..SIZE / 2).flat_map(|y| (0..SIZE / 2).map(move |x| (y, x)));
        let output = |y: usize, x: usize, o: usize| -> f32 {
            (0..inputs * 4)
                .map(|k| {
                    let (i, dy, dx) = (k / 4, k / 2 % 2, k % 2);
                    weight[o * inputs * 4 + k] * input[(2 * y + dy) * SIZE + 2 * x + dx][i]
                })
                .sum()
        };
        cells
            .map(|(y, x)| (0..outputs).map(|o| output(y, x, o)).collect())
            .collect()
    };
    let mut a = conv(A, &weights(A, 1.0));
    a.iter_mut().flatten().for_each(|v| *v = v.max(0.0));
    let b = conv(B, &weights(B, 1.0));
    let c = a
        .iter()
        .zip(&b)
        .map(|(a, b)| [&a[..], b].concat())
        .collect();
    let maps = [("input", input), ("a", a), ("b", b), ("c", c)];
    (maps.into_iter().collect(), pillars)
}

/// The expected statistics, computed value by value.
fn expected(frames: &[Vec<[f32; 4]>]) -> BTreeMap<String, TensorStats> {
    let maps: Vec<_> = frames.iter().map(|points| maps(points)).collect();
    let tensor = |name: &str| {
        let empty = Histogram::new(2048).unwrap();
        let (mut all, mut occupied) = (empty.clone(), empty);
        let mut chosen: [Cells; 2] = [vec![], vec![]];
        for (maps, pillars) in &maps {
            let cells = &maps[name];
            let over = |cell: usize| {
                if cells.len() == SIZE * SIZE {
                    return pillars[cell];
                }
                let (y, x) = (cell / 8 * 2, cell % 8 * 2);
                [0, 1, 16, 17].iter().any(|k| pillars[y * 16 + x + k])
            };
            let full = cells.iter().enumerate().filter(|(cell, _)| over(*cell));
            let full: Cells = full.map(|(_, cell)| cell.clone()).collect();
            all.add(&cells.concat()).unwrap();
            occupied.add(&full.concat()).unwrap();
            chosen[0].extend(cells.iter().cloned());
            chosen[1].extend(full);
        }
        let channels = chosen[0][0].len();
        let each = |set: usize, f: &dyn Fn(&[f32]) -> f32| -> Vec<f32> {
            let channel = |c: usize| chosen[set].iter().map(|cell| cell[c]).collect::<Vec<_>>();
            (0..channels).map(|c| f(&channel(c))).collect()
        };
        let max = |values: &[f32]| values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let mean = |values: &[f32]| {
            let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
            (sum / values.len() as f64) as f32
        };
        TensorStats {
            min: chosen[0].iter().flatten().copied().fold(0.0, f32::min),
            channel_max: each(0, &max),
            occupied_channel_max: each(1, &max),
            channel_mean: each(0, &mean),
            occupied_channel_mean: each(1, &mean),
            all,
            occupied,
        }
    };
    let names = ["input", "a", "b", "c"];
    names.map(|name| (name.to_owned(), tensor(name))).into()
}

#[test]
fn statistics_do_not_depend_on_the_number_of_threads() {
    let frames = Frames::new();
    let expected = expected(&frames.points);
    assert!(expected["b"].min < 0.0 && expected["a"].min == 0.0);
    assert!(expected["a"].occupied.total() < expected["a"].all.total() / 2);
    // Ranges grow from frame to frame.
    assert!(expected["a"].all.bins().len() > 4000);
    let graph = graph(1.0);
    for threads in [1, 2, 3, 8, 20] {
        for _ in 0..3 {
            let found = run(&frames.paths(), &graph, threads).unwrap();
            for (name, stats) in &expected {
                // Not `assert_eq`, which would print thousands of bins.
                assert!(&found.tensors[name] == stats, "{name}, {threads} threads");
            }
            assert_eq!(found.tensors.len(), expected.len());
        }
    }
}

#[test]
fn progress_counts_every_frame() {
    let frames = Frames::new();
    let (sum, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = |done| {
        sum.fetch_add(done, Ordering::Relaxed);
        calls.fetch_add(1, Ordering::Relaxed);
    };
    let (model, pfn, graph) = (model(), pfn(), graph(1.0));
    calibrate(
        &model,
        &pfn,
        &graph,
        &frames.paths(),
        &options(3),
        &progress,
    )
    .unwrap();
    assert_eq!(
        (calls.into_inner(), sum.into_inner()),
        (8, (1..=8).sum::<usize>())
    );
}

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    let frames = Frames::new();
    // `b` overflows above high points, in some frame after the first and in later ones.
    let graph = graph(2e38);
    let first = run(&frames.paths(), &graph, 1).unwrap_err().to_string();
    // `c` contains `b` and is complete at the same time.
    for part in ["tensor \"c\"", "channel 4, row 1, column 1"] {
        assert!(first.contains(part), "{first}: {part}");
    }
    let bad = frames.paths().into_iter().position(|path| {
        let named = first.contains(path.to_str().unwrap());
        assert_eq!(run(&[path], &graph, 1).is_err(), named);
        named
    });
    assert!(bad.is_some_and(|bad| bad > 0), "{first}");
    for threads in [2, 3, 8] {
        for _ in 0..5 {
            let error = run(&frames.paths(), &graph, threads).unwrap_err();
            assert_eq!(error.to_string(), first, "{threads} threads");
        }
    }
}

#[test]
fn errors_name_unusable_frames() {
    let frames = Frames::new();
    let (model, pfn, graph) = (model(), pfn(), graph(1.0));
    let fail = |model: &Model, pfn: &Pfn, paths: &[PathBuf], options: &Options| {
        let done = calibrate(model, pfn, &graph, paths, options, &|_| {});
        Chain(&done.unwrap_err()).to_string()
    };
    let text = fail(&model, &pfn, &[], &options(2));
    assert!(text.contains("no frames"), "{text}");

    // Four columns; the model's own layout has three.
    let bare = Options {
        layout: None,
        ..options(2)
    };
    let text = fail(&model, &pfn, &frames.paths(), &bare);
    assert!(text.contains("1.bin") && text.contains("x,y,z"), "{text}");

    // A column that no layout provides.
    let ring = MODEL.replace(r#""x", "y", "z""#, r#""x", "y", "z", "ring""#);
    let ring = Model::parse(&ring, Path::new("model.toml")).unwrap();
    let mut wide = pfn.clone();
    wide.layers[0].in_features = 4;
    wide.layers[0].weight = vec![0.0; 8];
    let text = fail(&ring, &wide, &frames.paths(), &options(2));
    for part in ["0.bin", "ring", "x,y,z,intensity"] {
        assert!(text.contains(part), "{text}: {part}");
    }

    let mut paths = frames.paths();
    paths.insert(2, frames.folder.path().join("missing.bin"));
    let text = fail(&model, &pfn, &paths, &options(2));
    assert!(text.contains("missing.bin"), "{text}");

    let text = fail(
        &model,
        &pfn,
        &frames.paths(),
        &Options {
            bins: 10,
            ..options(2)
        },
    );
    assert!(text.contains("10 bins"), "{text}");

    let small = MODEL.replace("-8.0, -8.0, 0.0, 8.0, 8.0", "-4.0, -4.0, 0.0, 4.0, 4.0");
    let small = Model::parse(&small, Path::new("model.toml")).unwrap();
    let text = fail(&small, &pfn, &frames.paths(), &options(2));
    assert!(
        text.contains("tiny.onnx") && text.contains("[2, 16, 16]") && text.contains("[2, 8, 8]"),
        "{text}"
    );
}

#[test]
fn the_cache_is_reused_until_an_input_changes() {
    let frames = Frames::new();
    let cache = frames.folder.path().join("tiny.calib.json");
    let (model, pfn) = (model(), pfn());
    let calls = AtomicUsize::new(0);
    let load = |model: &Model, graph: &Graph, paths: &[PathBuf], options: &Options| {
        load_or_run(&cache, model, &pfn, graph, paths, options, &|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        })
    };
    let (paths, same) = (frames.paths(), graph(1.0));
    let first = load(&model, &same, &paths, &options(2)).unwrap();
    let bytes = std::fs::read(&cache).unwrap();
    let again = load(&model, &same, &paths, &options(1)).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), paths.len());
    assert_eq!(again, first);
    // Reading and writing preserves the bytes.
    again.write(&cache).unwrap();
    assert!(std::fs::read(&cache).unwrap() == bytes);

    // Neither thresholds nor the folder of the frames affect activations.
    let other = MODEL.replace("score = 0.05", "score = 0.5");
    let other = Model::parse(&other, Path::new("model.toml")).unwrap();
    load(&other, &same, &paths, &options(2)).unwrap();
    let moved = tempfile::tempdir().unwrap();
    let copies = paths.iter().map(|path| {
        let copy = moved.path().join(path.file_name().unwrap());
        std::fs::copy(path, &copy).unwrap();
        copy
    });
    load(&model, &same, &copies.collect::<Vec<_>>(), &options(2)).unwrap();

    let stale = |model: &Model, graph: &Graph, paths: &[PathBuf], options: &Options| {
        let text = load(model, graph, paths, options).unwrap_err().to_string();
        assert!(
            text.contains("tiny.calib.json") && text.contains("delete"),
            "{text}"
        );
        text
    };
    let text = stale(&model, &graph(0.5), &paths, &options(2));
    assert!(text.contains("made from another model;"), "{text}");
    let wider = MODEL.replace("max_points_per_pillar = 4", "max_points_per_pillar = 5");
    let wider = Model::parse(&wider, Path::new("model.toml")).unwrap();
    let text = stale(&wider, &same, &paths, &options(2));
    assert!(text.contains("made from another model;"), "{text}");
    let text = stale(&model, &same, &paths[1..], &options(2));
    assert!(text.contains("made from other frames;"), "{text}");
    let bins = Options {
        bins: 1024,
        ..options(2)
    };
    let text = stale(&model, &same, &paths[1..], &bins);
    assert!(
        text.contains("made from other frames and with other options;"),
        "{text}"
    );
    write_kitti(&paths[3], &[[1.0, 1.0, 1.0, 0.0]]);
    let text = stale(&model, &same, &paths, &options(2));
    assert!(text.contains("made from other frames;"), "{text}");
    assert!(
        std::fs::read(&cache).unwrap() == bytes,
        "a stale file was overwritten"
    );
}

#[test]
fn broken_caches_are_refused() {
    let frames = Frames::new();
    let path = frames.folder.path().join("tiny.calib.json");
    let good = run(&frames.paths(), &graph(1.0), 2).unwrap();
    good.write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let refused = |text: &str, parts: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let error = Calibration::read(&path).unwrap_err().to_string();
        assert!(error.contains("tiny.calib.json"), "{error}");
        for part in parts {
            assert!(error.contains(part), "{error}: {part}");
        }
    };
    let edit = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    for cut in [0, 1, 50, text.len() / 2, text.len() - 3] {
        refused(&text[..cut], &["EOF"]);
    }
    refused(&(text.clone() + "1"), &["trailing"]);
    refused(
        &edit("\"version\":2", "\"version\":1"),
        &["version 1", "reads version 2"],
    );
    refused(
        &edit("\"min\":", "\"more\":[],\"min\":"),
        &["unknown field"],
    );
    refused(&edit("\"min\":", "\"min\":1e999,\"x\":"), &["range"]);
    refused(&edit("\"counts\":[", "\"counts\":[-1,"), &["-1"]);
    refused(&edit("\"counts\":[", "\"counts\":[0.5,"), &["0.5"]);
    let many = format!("\"counts\":[{}", "0,".repeat(8200));
    refused(&edit("\"counts\":[", &many), &["8192"]);
    let most = format!("\"counts\":[{0},{0},", u64::MAX);
    refused(&edit("\"counts\":[", &most), &["invalid histogram"]);
    refused(
        &edit("\"range\":", "\"range\":1e39,\"width\":1,\"range\":"),
        &[],
    );
    refused(
        &edit("\"channel_max\":[", "\"channel_max\":[1e39,"),
        &["number out of range"],
    );
    refused(
        &edit("\"channel_mean\":[", "\"channel_mean\":[0.0,"),
        &["channel_mean"],
    );
    refused(
        &edit("\"channel_max\":[", "\"channel_max\":[1e9,"),
        &["channel_m"],
    );
    std::fs::write(&path, &text).unwrap();
    assert_eq!(Calibration::read(&path).unwrap(), good);
}

#[test]
fn ranges_of_unknown_tensors_are_errors() {
    let frames = Frames::new();
    let paths = frames.paths();
    let found = run(&paths[..3], &graph(1.0), 2).unwrap();
    let values = |occupied| Counted {
        occupied,
        ..Counted::default()
    };
    let amax =
        |tensor: &str, occupied| found.amax(tensor, AmaxMethod::Percentile(90.0), values(occupied));
    // Nine out of ten values are background.
    assert!(amax("a", true).unwrap().amax > amax("a", false).unwrap().amax);
    let text = amax("raw", false).unwrap_err().to_string();
    assert!(
        text.contains("\"raw\"") && text.contains("4 tensors"),
        "{text}"
    );
    // Without a pillar in any frame, the range is over all cells.
    let empty = run(&paths[7..], &graph(1.0), 2).unwrap();
    assert_eq!(
        empty.amax("a", AmaxMethod::Max, values(true)).unwrap().amax,
        0.0
    );
    assert_eq!(empty.tensors["a"].occupied.total(), 0);
}

/// In the demo model, every quantisable value has statistics.
#[test]
fn every_input_of_the_demos_convolutions_has_statistics() {
    let folder = Folder::read(&repository().join("engines/demo")).unwrap();
    let frames = list_frames(&[repository().join("calib/demo/frames")], false);
    let run = |threads| {
        let (model, pfn) = (&folder.model, &folder.pfe.pfn);
        let options = Options {
            threads,
            ..Options::default()
        };
        let graph = &folder.rpn.graph;
        calibrate(model, pfn, graph, &frames[..3], &options, &|_| {}).unwrap()
    };
    let found = run(1);
    assert!(run(2) == found);
    let convolutions = folder.rpn.graph.nodes().filter(|node| node.op() == "Conv");
    let mut compared = 0;
    for node in convolutions {
        let stats = &found.tensors[&node.proto.input[0]];
        assert!(stats.all.max() > 0.0 && stats.occupied.total() > 0);
        compared += 1;
    }
    assert!(compared > 20, "{compared} convolutions");
    let key = |frames: &[PathBuf]| {
        let (model, pfn, graph) = (&folder.model, &folder.pfe.pfn, &folder.rpn.graph);
        CalibrationKey::new(model, pfn, graph, frames, &Options::default()).unwrap()
    };
    assert_eq!(key(&frames[..3]), found.key);
    assert_ne!(key(&frames[1..3]).frames, found.key.frames);
}
