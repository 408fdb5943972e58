//! Every reader on files that were damaged at random: it returns a result or an error, and takes no more memory than the
//! file's length allows.
//!
//! A damaged file is a good one with some of: bits flipped, bytes set, a part removed, repeated or taken from another good
//! file, the end cut off, a number in text or in binary replaced by an extreme one.

use std::path::Path;

use centerpoint::internals::build::calibrate::Calibration;
use centerpoint::internals::build::import::{read_pfe, read_rpn};
use centerpoint::internals::model::autoware::{Autoware, Parameters};
use centerpoint::internals::results::nuscenes::Results;
use centerpoint::points::{Extrinsic, ReadOptions};
use centerpoint::{Layout, Model, Plan, build, points};

use super::{alone, measure};
use crate::common;
#[cfg(feature = "mcap")]
use crate::common::bag;
use crate::common::frames::{self, ENCODINGS, XYZI};
use crate::stages::Random;
use crate::toy::{self, Net};

const OPTIONS: ReadOptions = ReadOptions {
    layout: None,
    default_layout: Layout::KITTI,
};

/// Reads a file.
type Read = Box<dyn Fn(&Path) -> Result<(), String>>;

/// A reader: its name, the name of its file, good files, bytes that it may take besides four times the file, and itself.
struct Reader {
    name: &'static str,
    file: &'static str,
    good: Vec<Vec<u8>>,
    slack: usize,
    read: Read,
}

fn done<T, E: std::error::Error>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// All readers; `folder` has files that some of them need.
fn readers(folder: &Path) -> Vec<Reader> {
    let scan = frames::scan(200);
    let wide: Vec<f64> = scan.iter().map(|v| f64::from(*v)).collect();
    let text = |path: &Path| std::fs::read(path).unwrap();
    let cloud = |path: &Path| done(points::read(path, &OPTIONS));
    let mut all = Vec::new();
    let mut add = |name, file, good, slack, read: Read| {
        all.push(Reader {
            name,
            file,
            good,
            slack,
            read,
        });
    };
    let small = 160 << 10;
    add(
        "bin",
        "a.bin",
        vec![frames::bin(&scan)],
        small,
        Box::new(cloud),
    );
    let pcds = ENCODINGS.map(|encoding| frames::pcd(&XYZI, &wide, encoding));
    add("pcd", "a.pcd", pcds.into(), small, Box::new(cloud));
    add(
        "npy",
        "a.npy",
        vec![frames::npy(&scan, 4)],
        small,
        Box::new(cloud),
    );
    std::fs::write(folder.join("one.bin"), frames::bin(&scan)).unwrap();
    let sweep = |file: &str, stamp: u64| {
        serde_json::json!({"file": file, "stamp_ns": stamp,
            "pose": {"translation": [1.5, 0, 0], "rotation": [1, 0, 0, 0]}})
    };
    let list = serde_json::json!({"layout": "kitti", "sweeps": [sweep("one.bin", 200), sweep("one.bin", 100)]});
    add(
        "list of sweeps",
        "list.json",
        vec![list.to_string().into_bytes()],
        small,
        Box::new(|path| done(points::read_sweeps(path, &OPTIONS, 1000))),
    );
    #[cfg(feature = "mcap")]
    {
        use centerpoint::internals::bag::{Bag, FrameOptions, Frames};
        use centerpoint::model::WithoutPose;
        let compressions = [
            None,
            Some(mcap::Compression::Zstd),
            Some(mcap::Compression::Lz4),
        ];
        let bags = compressions
            .map(|compression| bag::bag(&bag::clouds(3, 40), bag::options(compression, 2000)));
        let read = |path: &Path| {
            let bag = Bag::open(path).map_err(|error| error.to_string())?;
            let topic = bag.cloud_topic(None).map_err(|error| error.to_string())?;
            let topic = topic.clone();
            let options = FrameOptions {
                sweeps: 2,
                capacity: 1000,
                fixed_frame: None,
                without_pose: WithoutPose::Alone,
            };
            let mut frames = Frames::new(bag, &topic, &options);
            let mut failed = Ok(());
            while let Some(frame) = frames.next_frame() {
                if let Err(error) = frame {
                    failed = Err(error.to_string());
                }
            }
            failed
        };
        add("bag", "a.mcap", bags.into(), 1 << 20, Box::new(read));
    }
    let networks = toy::write_model(folder, "networks", Net::new());
    let model = Model::read(&networks.join("model.toml")).unwrap();
    let pfe = text(&networks.join("pts_voxel_encoder.onnx"));
    let rpn = text(&networks.join("pts_backbone_neck_head.onnx"));
    let onnx = 1 << 20;
    add(
        "PFN",
        "p.onnx",
        vec![pfe],
        onnx,
        Box::new(|path| done(read_pfe(path))),
    );
    add(
        "network",
        "r.onnx",
        vec![rpn],
        onnx,
        Box::new(move |path| done(read_rpn(path, &model))),
    );
    let repository = common::repository();
    let demo = repository.join("engines/demo");
    add(
        "model.toml",
        "model.toml",
        vec![text(&demo.join("model.toml")), common::MODEL.into()],
        1 << 20,
        Box::new(|path| done(Model::read(path))),
    );
    let zeros = ["0"; 64].join(", ");
    let remapper = format!(
        "/**:\n  ros__parameters:\n    allow_remapping_by_area_matrix: [{zeros}]\n    min_area_matrix: [{zeros}]\n    \
         max_area_matrix: [{zeros}]\n"
    );
    let named = folder.join("detection_class_remapper.param.yaml");
    std::fs::write(named, &remapper).unwrap();
    let configuration =
        "recipe = \"custom\"\n[calibration]\nmethod = \"mse\"\npercentile = 99.9\nbins = 2048\n";
    add(
        "quantize.toml",
        "quantize.toml",
        vec![configuration.into()],
        1 << 20,
        Box::new(|path| done(build::ConfigOverrides::read(path))),
    );
    add(
        "parameters",
        "ml_package.param.yaml",
        vec![
            crate::autoware::MANIFEST.into(),
            crate::autoware::COMMON.into(),
            remapper.into(),
        ],
        1 << 20,
        Box::new(|path| {
            let mut parameters = Parameters::default();
            done(parameters.read(path, |_| true))?;
            done(Autoware::take(&mut parameters))
        }),
    );
    let plan = common::write_plan(folder, common::MODEL);
    add(
        "plan",
        "a.plan",
        vec![text(&plan)],
        1 << 20,
        Box::new(|path| done(Plan::open(path))),
    );
    let results = repository.join("calib/demo/labels.json");
    let boxes: serde_json::Value = serde_json::from_slice(&text(&results)).unwrap();
    let first = boxes["results"].as_object().unwrap().iter().next().unwrap();
    let first = serde_json::json!({"meta": boxes["meta"], "results": {first.0.as_str(): first.1}});
    add(
        "results",
        "results.json",
        vec![first.to_string().into_bytes()],
        1 << 20,
        Box::new(|path| done(Results::read(path))),
    );
    add(
        "calibration",
        "x.calib.json",
        vec![super::calibration::file(2, 300, 4).into_bytes()],
        1 << 20,
        Box::new(|path| done(Calibration::read(path))),
    );
    add(
        "extrinsic",
        "extrinsic.txt",
        vec![
            b"0.5, 0, 1.7, 0, 0, 90".into(),
            b"1 0 0 0.5\n0 1 0 0\n0 0 1 1.7 # m\n".into(),
        ],
        1 << 20,
        Box::new(|path| done(Extrinsic::parse_or_read(path.to_str().unwrap()))),
    );
    all
}

/// Damages a file.
fn damage(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = good[random.below(good.len())].clone();
    for _ in 0..1 + random.below(3) {
        let len = bytes.len();
        if len == 0 {
            return bytes;
        }
        let at = random.below(len);
        let part = at..len.min(at + 1 + random.below(32));
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[part].fill([0, 0x7f, 0x80, 0xff, b'9', b' '][random.below(6)]),
            2 => drop(bytes.drain(part)),
            3 => {
                let copy = bytes[part].to_vec();
                bytes.splice(at..at, copy.repeat(1 + random.below(4)));
            }
            4 => bytes.truncate(at),
            5 => {
                let other = &good[random.below(good.len())];
                let from = random.below(other.len());
                let copy = other[from..other.len().min(from + 64)].to_vec();
                bytes.splice(part, copy);
            }
            6 => {
                // A number in text.
                let digits = bytes[at..].iter().position(u8::is_ascii_digit);
                let Some(begin) = digits.map(|digits| at + digits) else {
                    continue;
                };
                let count = bytes[begin..].iter().take_while(|b| b.is_ascii_digit());
                let numbers = [
                    "0",
                    "-1",
                    "4294967296",
                    "99999999999999999999",
                    "1e308",
                    "nan",
                    "",
                ];
                let number = numbers[random.below(numbers.len())].as_bytes().to_vec();
                let end = begin + count.count();
                bytes.splice(begin..end, number);
            }
            7 => {
                let number =
                    [u64::MAX, 1 << 63, 1 << 32, 1 << 31, 0][random.below(5)].to_le_bytes();
                let end = len.min(at + [2, 4, 8][random.below(3)]);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            _ => {
                // Brackets in each other.
                let open = [b'[', b'{', b'(', b'<'][random.below(4)];
                bytes.splice(at..at, vec![open; 1 + random.below(200)]);
            }
        }
    }
    bytes
}

/// Runs every reader on this many damaged files.
fn run(cases: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut files = 0;
    for reader in readers(folder.path()) {
        let path = folder.path().join(reader.file);
        let (mut refused, mut most) = (0, 0.0_f64);
        for good in &reader.good {
            std::fs::write(&path, good).unwrap();
            (reader.read)(&path).unwrap_or_else(|error| panic!("{}: {error}", reader.name));
        }
        for case in 0..cases {
            let bytes = damage(&mut Random(case), &reader.good);
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, &bytes).unwrap();
            let (result, usage) = measure(|| (reader.read)(&path));
            refused += u64::from(result.is_err());
            let limit = 4 * bytes.len() + reader.slack;
            assert!(
                usage.peak <= limit,
                "{} {case}: {} bytes took {}: {result:?}",
                reader.name,
                bytes.len(),
                usage.peak
            );
            most = most.max(usage.peak as f64 / limit as f64);
        }
        files += cases;
        println!(
            "{}: {refused} of {cases} refused, at most {most:.2} of the memory",
            reader.name
        );
    }
    println!("{files} damaged files");
}

#[test]
fn damaged_files_are_errors_within_bounds() {
    alone(|| run(300));
}

#[test]
#[ignore = "nightly: 100 000 damaged files for each reader"]
fn very_many_damaged_files_are_errors_within_bounds() {
    alone(|| run(100_000));
}
