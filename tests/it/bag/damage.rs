//! Damaged, truncated and hostile bags: they cause errors and missing frames, but no crash and no huge allocation.

use std::fs;
use std::path::{Path, PathBuf};

use centerpoint::internals::bag::messages::{Header, TFMessage, TransformStamped};
use centerpoint::internals::bag::{Bag, BagError, FrameOptions, Frames};
use centerpoint::model::WithoutPose;
use mcap::Compression;
use proptest::prelude::*;

use super::made::{Entry, LOG_DELAY, STEP, bag, cdr, cloud, clouds, encoded, options};
use super::{infer, text};

/// All supported compressions.
const COMPRESSIONS: [Option<Compression>; 3] =
    [None, Some(Compression::Zstd), Some(Compression::Lz4)];
const OPTIONS: FrameOptions = FrameOptions {
    sweeps: 1,
    capacity: 1000,
    fixed_frame: None,
    without_pose: WithoutPose::Alone,
};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        // Truncating and rewriting a file would flush it to disk.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Stamp and first coordinate of each frame, and the number of errors.
fn read(path: &Path) -> Result<(Vec<(i64, f32)>, usize), BagError> {
    let bag = Bag::open(path)?;
    let topic = bag.cloud_topic(None)?.clone();
    let mut frames = Frames::new(bag, &topic, &OPTIONS);
    let (mut found, mut errors) = (Vec::new(), 0);
    while let Some(frame) = frames.next_frame() {
        match frame {
            Ok(frame) => {
                let x = frame.cloud.data().first().copied();
                found.push((frame.stamp_ns, x.unwrap_or(f32::NAN)));
            }
            Err(_) => errors += 1,
        }
    }
    Ok((found, errors))
}

/// Stamps and first coordinates of the first `frames` of [`clouds`].
fn first(frames: usize) -> Vec<(i64, f32)> {
    let indices = 0..frames as u64;
    indices.map(|i| ((i * STEP) as i64, i as f32)).collect()
}

#[test]
fn a_truncated_bag_is_read_up_to_the_last_whole_record() {
    let folder = Folder::new();
    for compression in COMPRESSIONS {
        // One chunk per frame, one chunk for all, and no chunks.
        for options in [
            options(compression, 1),
            options(compression, 1 << 20),
            options(compression, 1).use_chunks(false),
        ] {
            let whole = bag(&clouds(5, 20), options);
            let mut frames = 0;
            for length in 0..=whole.len() {
                let path = folder.write("a.mcap", &whole[..length]);
                match read(&path) {
                    Ok((found, errors)) => {
                        assert_eq!(errors, 0, "cut at {length}");
                        assert_eq!(found, first(found.len()), "cut at {length}");
                        assert!(found.len() >= frames, "cut at {length}");
                        frames = found.len();
                    }
                    Err(error) => {
                        assert_eq!(frames, 0, "cut at {length}: {error}");
                        assert!(error.to_string().contains("a.mcap"), "{error}");
                    }
                }
            }
            assert_eq!(frames, 5);
        }
    }
}

#[test]
fn damage_anywhere_only_loses_frames() {
    let folder = Folder::new();
    for (number, compression) in COMPRESSIONS.into_iter().enumerate() {
        for options in [
            options(compression, 1),
            options(compression, 1).use_chunks(false),
        ] {
            let whole = bag(&clouds(3, 8), options);
            for at in 0..whole.len() {
                for change in [0x01, 0x80, 0xFF] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= change;
                    let path = folder.write("a.mcap", &bytes);
                    // At most one error per message and one per chunk.
                    if let Ok((found, errors)) = read(&path) {
                        assert!(found.len() + errors <= 6, "{number}: byte {at}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Random bytes anywhere, including in lengths.
    #[test]
    fn random_bytes_never_crash_the_reader(
        compression in 0usize..3, at in 0.0f64..1.0, random in prop::collection::vec(any::<u8>(), 1..64),
        cut in any::<bool>(), chunk in prop::sample::select(vec![1u64, 4096]),
    ) {
        let mut bytes = bag(&clouds(4, 8), options(COMPRESSIONS[compression], chunk));
        let at = (at * bytes.len() as f64) as usize;
        for (to, from) in bytes[at..].iter_mut().zip(&random) {
            *to = *from;
        }
        if cut {
            bytes.truncate(at + random.len());
        }
        let folder = Folder::new();
        let path = folder.write("a.mcap", &bytes);
        let _ = read(&path);
    }
}

#[test]
fn a_damaged_chunk_is_reported_and_the_others_are_read() {
    let folder = Folder::new();
    for compression in COMPRESSIONS {
        let entries = clouds(3, 200);
        let mut bytes = bag(&entries, options(compression, 1));
        // In the points of the second frame, where only the checksum or the decompression can detect it.
        let second = bytes.len() / 2;
        bytes[second] ^= 0x10;
        let path = folder.write("drive.mcap", &bytes);
        let (found, errors) = read(&path).unwrap();
        assert_eq!(errors, 1);
        let all = first(3);
        assert_eq!(found, [all[0], all[2]]);
        let run = infer(&["--bag", path.to_str().unwrap()]);
        assert_eq!(run.status.code(), Some(3));
        let errors = text(&run.stderr);
        assert!(
            errors.contains("drive.mcap: the chunk at byte "),
            "{errors}"
        );
        assert!(
            errors.contains("1 frames could not be processed"),
            "{errors}"
        );
    }
}

#[test]
fn a_malformed_message_loses_one_frame() {
    let folder = Folder::new();
    let mut entries = clouds(5, 50);
    entries[1].3.truncate(100);
    entries[2].3[1] = 7;
    let mut flat = cloud(3, 50);
    flat.fields.remove(2);
    entries[3].3 = cdr(&flat);
    let path = folder.write("drive.mcap", &bag(&entries, options(None, 1 << 20)));
    let (found, errors) = read(&path).unwrap();
    assert_eq!((found.len(), errors), (2, 3));
    let run = infer(&["--bag", path.to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.status.code(), Some(3));
    assert_eq!(text(&run.stdout).lines().count(), 2);
    let errors = text(&run.stderr);
    for part in [
        format!(
            "drive.mcap: /points at {} ns: the message does not match its type",
            STEP + LOG_DELAY
        ),
        "unknown encoding [00, 07]".into(),
        format!("drive.mcap: /points@{}: fields of the points", 3 * STEP),
        "3 frames could not be processed".into(),
    ] {
        assert!(errors.contains(&part), "{part}: {errors}");
    }
}

#[test]
fn a_truncated_recording_is_read_with_a_warning() {
    let folder = Folder::new();
    let whole = bag(&clouds(5, 50), options(Some(Compression::Zstd), 1));
    let path = folder.write("drive.mcap", &whole[..whole.len() * 2 / 3]);
    let run = infer(&["--bag", path.to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.status.code(), Some(0));
    assert!(text(&run.stdout).lines().count() >= 2);
    let errors = text(&run.stderr);
    assert!(
        errors.contains("drive.mcap: the recording is truncated"),
        "{errors}"
    );

    let path = folder.write("drive.mcap", &whole[..60]);
    let run = infer(&["--bag", path.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(3));
    let errors = text(&run.stderr);
    assert!(errors.contains("drive.mcap: nothing to read"), "{errors}");
}

/// Recorders write messages as they arrive, and may split files at any time.
#[test]
fn frames_are_ordered_by_log_time() {
    let folder = Folder::new();
    let all = clouds(8, 10);
    let order = |indices: &[usize]| -> Vec<Entry> {
        indices.iter().map(|&index| all[index].clone()).collect()
    };
    // Overlapping chunks of two messages, then two overlapping files.
    let mixed = bag(&order(&[1, 0, 3, 5, 2, 4, 7, 6]), options(None, 400));
    let path = folder.write("mixed.mcap", &mixed);
    assert_eq!(read(&path).unwrap(), (first(8), 0));
    fs::remove_file(path).unwrap();
    folder.write("z.mcap", &bag(&order(&[0, 2, 4, 5]), options(None, 1)));
    folder.write("a.mcap", &bag(&order(&[7, 1, 3, 6]), options(None, 1)));
    assert_eq!(read(folder.0.path()).unwrap(), (first(8), 0));
}

/// Some drivers do not set stamps, and a bag may be recorded in a loop.
#[test]
fn frames_with_equal_stamps_have_unique_names() {
    let folder = Folder::new();
    let mut entries = clouds(3, 10);
    for entry in &mut entries {
        entry.3 = cdr(&cloud(0, 10));
    }
    let path = folder.write("drive.mcap", &bag(&entries, options(None, 1)));
    let out = folder.0.path().join("boxes");
    let args = [
        "--bag",
        path.to_str().unwrap(),
        "--format",
        "kitti",
        "--out",
    ];
    let run = infer(&[&args[..], &[out.to_str().unwrap()]].concat());
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let files = fs::read_dir(out)
        .unwrap()
        .map(|file| file.unwrap().file_name());
    let mut files: Vec<String> = files.map(|file| file.into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["points@0-2.txt", "points@0-3.txt", "points@0.txt"]);
}

#[test]
fn clouds_in_another_encoding_are_rejected() {
    let folder = Folder::new();
    let bytes = encoded(&clouds(1, 10), "ros1", options(None, 1));
    let path = folder.write("drive.mcap", &bytes);
    let path = path.to_str().unwrap();
    for args in [&["--bag", path][..], &["--bag", path, "--topic", "/points"]] {
        let run = infer(args);
        assert_eq!(run.status.code(), Some(2), "{args:?}");
    }
    let error = Bag::open(Path::new(path)).unwrap();
    let error = error.cloud_topic(Some("/points")).unwrap_err().to_string();
    assert!(error.contains("encoded as `ros1`, not `cdr`"), "{error}");
}

/// The option of models from Autoware: a cloud that no transform places makes no frame.
#[test]
fn clouds_without_a_transform_make_no_frame_where_the_model_says_so() {
    let folder = Folder::new();
    for (child, dropped) in [("lidar", 6), ("camera", 0), ("", 0)] {
        let mut entries = clouds(6, 10);
        let still = TransformStamped {
            header: Header {
                frame_id: "map".into(),
                ..Header::default()
            },
            child_frame_id: child.into(),
            ..TransformStamped::default()
        };
        if !child.is_empty() {
            let transforms = TFMessage {
                transforms: vec![still],
            };
            entries.push(("/tf_static", "tf2_msgs/msg/TFMessage", 0, cdr(&transforms)));
        }
        let path = folder.write("tf.mcap", &bag(&entries, options(None, 4096)));
        let frames = |without_pose| {
            let opened = Bag::open(&path).unwrap();
            let topic = opened.cloud_topic(None).unwrap().clone();
            let two = FrameOptions {
                sweeps: 2,
                fixed_frame: Some("map".into()),
                without_pose,
                ..OPTIONS
            };
            let mut frames = Frames::new(opened, &topic, &two);
            let mut count = 0;
            while let Some(frame) = frames.next_frame() {
                frame.unwrap();
                count += 1;
            }
            count
        };
        assert_eq!(frames(WithoutPose::Alone), 6, "{child}");
        assert_eq!(frames(WithoutPose::Drop), dropped, "{child}");
    }
}

/// Where the stamps jump back, the past sweeps do not belong to the frame: it starts anew, with a warning.
#[test]
fn a_jump_back_in_time_restarts_the_sweeps() {
    let folder = Folder::new();
    let mut entries = clouds(6, 10);
    for (index, entry) in entries.iter_mut().enumerate() {
        entry.3 = cdr(&cloud(index as u64 % 3, 10));
    }
    let still = TransformStamped {
        header: Header {
            frame_id: "map".into(),
            ..Header::default()
        },
        child_frame_id: "lidar".into(),
        ..TransformStamped::default()
    };
    let transforms = TFMessage {
        transforms: vec![still],
    };
    entries.push(("/tf_static", "tf2_msgs/msg/TFMessage", 0, cdr(&transforms)));
    let path = folder.write("loop.mcap", &bag(&entries, options(None, 4096)));

    let opened = Bag::open(&path).unwrap();
    let topic = opened.cloud_topic(None).unwrap().clone();
    let two = FrameOptions {
        sweeps: 2,
        ..OPTIONS
    };
    let mut frames = Frames::new(opened, &topic, &two);
    let mut points = Vec::new();
    while let Some(frame) = frames.next_frame() {
        points.push(frame.unwrap().cloud.len());
    }
    assert_eq!(points, [10, 20, 20, 10, 20, 20]);

    let run = infer(&["--bag", path.to_str().unwrap()]);
    let errors = text(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{errors}");
    let warning = "/points@0: past sweeps are left out: time runs backwards";
    assert_eq!(errors.matches(warning).count(), 1, "{errors}");
}
