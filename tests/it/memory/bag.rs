//! Memory use of reading a bag: a few messages, no matter how long the bag is or what lengths it claims.

use std::path::Path;

use centerpoint::internals::bag::{Bag, FrameOptions, Frames};
use centerpoint::model::WithoutPose;
use mcap::Compression;

use super::{alone, measure};
use crate::common::bag::{bag, clouds, options};

/// Points per cloud, 16 bytes each.
const POINTS: u32 = 20_000;
/// Bytes per message.
const MESSAGE: usize = 16 * POINTS as usize;

/// Reads a bag; returns its numbers of frames and errors.
fn read(path: &Path) -> (usize, usize) {
    let Ok(bag) = Bag::open(path) else {
        return (0, 1);
    };
    let Ok(topic) = bag.cloud_topic(None).cloned() else {
        return (0, 1);
    };
    let options = FrameOptions {
        sweeps: 1,
        capacity: 1 << 20,
        fixed_frame: None,
        without_pose: WithoutPose::Alone,
    };
    let mut frames = Frames::new(bag, &topic, &options);
    let (mut found, mut errors) = (0, 0);
    while let Some(frame) = frames.next_frame() {
        match frame {
            Ok(_) => found += 1,
            Err(_) => errors += 1,
        }
    }
    (found, errors)
}

#[test]
fn memory_is_bounded_by_a_few_messages() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drive.mcap");
        for compression in [None, Some(Compression::Zstd), Some(Compression::Lz4)] {
            for (chunks, cut) in [(true, false), (true, true), (false, false)] {
                let options = options(compression, 1).use_chunks(chunks);
                let mut peaks = [4, 60].map(|frames| {
                    let mut bytes = bag(&clouds(frames, POINTS), options.clone());
                    if cut {
                        bytes.truncate(bytes.len() - 100);
                    }
                    std::fs::write(&path, &bytes).unwrap();
                    let ((found, errors), usage) = measure(|| read(&path));
                    assert_eq!((found as u64, errors), (frames, 0));
                    usage.peak
                });
                println!("{compression:?}, chunks {chunks}, cut {cut}: peaks of {peaks:?} bytes");
                // A chunk, its message, the decoded message and the cloud, plus 200 bytes of index per frame. Blocks
                // outside chunks are 4 MiB.
                let limit = if chunks {
                    8 * MESSAGE
                } else {
                    8 * MESSAGE + (5 << 20)
                };
                assert!(peaks[1] < limit, "{peaks:?}");
                peaks.sort_unstable();
                assert!(!chunks || peaks[1] - peaks[0] < 100_000, "{peaks:?}");
            }
        }
    });
}

/// Replaces every 4 and 8 bytes, which may be a length, with a length larger than any memory.
#[test]
fn claimed_lengths_allocate_nothing() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = &folder.path().join("drive.mcap");
        for compression in [None, Some(Compression::Zstd), Some(Compression::Lz4)] {
            let good = bag(&clouds(2, 4), options(compression, 1));
            for at in 0..good.len() - 8 {
                for claim in [&(1u64 << 40).to_le_bytes()[..], &u32::MAX.to_le_bytes()[..]] {
                    let mut bytes = good.clone();
                    bytes[at..at + claim.len()].copy_from_slice(claim);
                    let _ = std::fs::remove_file(path);
                    std::fs::write(path, &bytes).unwrap();
                    let (_, usage) = measure(|| read(path));
                    assert!(
                        usage.peak < 4 << 20,
                        "{compression:?}, byte {at}: {usage:?}"
                    );
                }
            }
        }
    });
}
