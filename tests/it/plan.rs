//! The plan file: a round trip, and the refusal of damaged files.

use std::path::Path;

use crate::common::{self, MODEL, pfn, write_plan};
use centerpoint::{Detector, DetectorError, Options, Plan};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn valid() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::read(write_plan(folder.path(), MODEL)).unwrap()
}

/// Corrects the checksum, so that a test reaches the checks behind it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= 64 {
        let checksum = Sha256::digest(&bytes[64..]);
        bytes[24..56].copy_from_slice(&checksum);
    }
    bytes
}

/// Loads a plan of these bytes. An error's text must name the file.
fn load(bytes: &[u8]) -> Result<Detector, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.plan");
    std::fs::write(&path, bytes).unwrap();
    Detector::load(
        &path,
        &Options {
            threads: 1,
            ..Options::default()
        },
    )
    .map_err(|error: DetectorError| {
        let text = error.to_string();
        assert!(text.contains("some.plan"), "the file is not named: {text}");
        text
    })
}

#[track_caller]
fn assert_refused(bytes: &[u8], words: &str) {
    let text = load(bytes).err().expect("a broken plan was accepted");
    assert!(text.contains(words), "no `{words}` in: {text}");
}

#[test]
fn a_written_plan_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_plan(folder.path(), MODEL);
    let plan = Plan::open(&path).unwrap();
    assert_eq!(plan.pfn(), &pfn());
    assert_eq!(plan.model().name, "tiny");
    assert_eq!(plan.manifest().target.engine, "cpu");
    assert_eq!(plan.manifest().pfn[0].in_features, 3);
    let names: Vec<&str> = plan.sections().map(|(name, _)| name).collect();
    assert_eq!(names, ["manifest", "model", "pfn", "program", "weights"]);
    let weights = plan.section("weights").unwrap();
    assert_eq!(
        weights.as_ref().as_ptr().align_offset(64),
        0,
        "sections are aligned"
    );
    assert_eq!(weights.as_ref(), common::network().weights);
    assert!(plan.section("nothing").is_err());
}

#[test]
fn the_same_inputs_make_the_same_bytes() {
    assert_eq!(valid(), valid());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = valid();
    for i in 0..64 {
        assert!(
            load(&bytes[..bytes.len() * i / 64]).is_err(),
            "{i}/64 of a plan was accepted"
        );
    }
}

#[test]
fn every_kind_of_damage_has_its_message() {
    let bytes = valid();
    assert!(load(&bytes).is_ok());
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    assert_refused(b"", "not a centerpoint plan");
    assert_refused(
        b"ftrt\0\0\0\0 a bare TensorRT engine, long enough to have a header of its own",
        "bare TensorRT",
    );
    assert_refused(
        &with(8, &2u32.to_le_bytes()),
        "plan format 2, this program reads 1",
    );
    assert_refused(&with(16, &7u64.to_le_bytes()), "the header says 7");
    assert_refused(
        &with(bytes.len() - 1, &[bytes[bytes.len() - 1] ^ 1]),
        "checksum",
    );
    assert_refused(&with(12, &65u32.to_le_bytes()), "65 sections");
    assert_refused(&with(12, &u32::MAX.to_le_bytes()), "4294967295 sections");
    assert_refused(
        &sealed(with(64 + 8, &u64::MAX.to_le_bytes())),
        "outside the file",
    );
    assert_refused(
        &sealed(with(64 + 16, &u64::MAX.to_le_bytes())),
        "outside the file",
    );
    assert_refused(&sealed(with(64 + 8, &65u64.to_le_bytes())), "unaligned");
    assert_refused(&sealed(with(64, b"other\0\0\0")), "no section `manifest`");
    assert_refused(&sealed(with(64, b"model\0\0\0")), "exists twice");
}

#[test]
fn a_missing_file_is_named() {
    let error = Plan::open(Path::new("no/such.plan"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no/such.plan"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Damage behind a valid checksum yields an error or a plan, never a panic.
    #[test]
    fn damaged_plans_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = valid();
        for (at, value) in &edits {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        let _ = load(&sealed(bytes));
    }

    /// Digits in the program's JSON are its sizes and offsets.
    #[test]
    fn damaged_programs_never_panic(at in any::<prop::sample::Index>(), digit in b'0'..=b'9', insert in any::<bool>()) {
        let bytes = valid();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let start = text.find("\"tensors\"").unwrap();
        let digits: Vec<usize> = (start..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
        let at = digits[at.index(digits.len())];
        let mut bytes = bytes;
        bytes[at] = digit;
        if insert && at > 0 && bytes[at - 1] == b':' {
            bytes[at] = b'9';
        }
        let _ = load(&sealed(bytes));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(load(&bytes).is_err());
    }
}

/// A file that is mapped would end the process when it is cut, and change the weights when it is overwritten.
#[test]
fn a_plan_that_changes_on_disk_does_not_concern_a_running_detector() {
    let folder = tempfile::tempdir().unwrap();
    let demo = common::repository().join("engines/demo");
    let frame = common::repository().join("calib/demo/frames/000003.bin");
    let options = centerpoint::points::ReadOptions {
        layout: None,
        default_layout: centerpoint::Layout::XYZIT,
    };
    let cloud = centerpoint::points::read(&frame, &options).unwrap();
    let path = folder.path().join("used.plan");
    let bytes = std::fs::read(demo.join("int8.plan")).unwrap();
    type Change = fn(&Path, usize);
    let changes: [(&str, Change); 4] = [
        ("cut", |path, _| {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(100).unwrap();
        }),
        ("overwritten", |path, len| {
            let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            std::io::Write::write_all(&mut file, &vec![0x55; len]).unwrap();
        }),
        ("replaced", |path, _| {
            let other = path.with_extension("other");
            std::fs::write(&other, "another file").unwrap();
            std::fs::rename(other, path).unwrap();
        }),
        ("removed", |path, _| std::fs::remove_file(path).unwrap()),
    ];
    for (what, change) in changes {
        std::fs::write(&path, &bytes).unwrap();
        let mut detector = Detector::load(&path, &Options::default()).unwrap();
        let plan = Plan::open(&path).unwrap();
        let before = detector.detect(&cloud).unwrap().boxes.to_vec();
        assert!(!before.is_empty());
        change(&path, bytes.len());
        assert_eq!(detector.detect(&cloud).unwrap().boxes, before, "{what}");
        let mut again = Detector::new(&plan, &Options::default()).unwrap();
        assert_eq!(again.detect(&cloud).unwrap().boxes, before, "{what}");
        assert!(
            Detector::load(&path, &Options::default()).is_err(),
            "{what}"
        );
    }
}
