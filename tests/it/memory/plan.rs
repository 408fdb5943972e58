//! Memory for reading a plan or a model description, including files made to exhaust it.
//!
//! A file's own text is capped (64 KiB of description, 256 KiB of manifest), which also bounds what the parsers
//! allocate; weights are mapped and cost nothing.

use std::path::Path;

use centerpoint::internals::plan::{self, Contents, Manifest};
use centerpoint::{Model, Plan};

use super::{alone, measure};
use crate::common;

/// Bytes that parsers may allocate for the capped texts, beyond 4 times the file.
const SLACK: usize = 8 << 20;

fn assert_small<T, E>(path: &Path, what: &str, read: impl FnOnce(&Path) -> Result<T, E>) -> bool {
    let bytes = std::fs::metadata(path).unwrap().len() as usize;
    let (result, usage) = measure(|| read(path));
    println!("{what}: {bytes} bytes, {} at most", usage.peak);
    assert!(
        usage.peak <= 4 * bytes + SLACK,
        "{what}: {bytes} bytes took {}",
        usage.peak
    );
    result.is_ok()
}

#[test]
fn hostile_descriptions_take_little_memory() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.toml");
        let mut cases = vec![
            (
                "strings",
                format!("classes = [{}]", "\"a\",".repeat(15_000)),
            ),
            ("tables", "[[nms]]\n".repeat(8_000)),
            ("keys", (0..6_000).map(|i| format!("k{i} = 1\n")).collect()),
            (
                "depth",
                format!("a = {}1{}", "[".repeat(30_000), "]".repeat(30_000)),
            ),
            ("dots", format!("{} = 1", vec!["a"; 30_000].join("."))),
        ];
        for (what, text) in cases.drain(..) {
            std::fs::write(&path, text).unwrap();
            assert!(
                !assert_small(&path, what, Model::read),
                "{what} was accepted"
            );
        }
    });
}

#[test]
fn plans_take_little_memory() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let valid = common::write_plan(folder.path(), common::MODEL);
        assert!(assert_small(&valid, "valid plan", Plan::open));

        let path = folder.path().join("large.plan");
        let weights = vec![0u8; 64 << 20];
        let contents = |steps: usize| Contents {
            manifest: Manifest {
                steps: vec![String::new(); steps],
                ..Manifest::default()
            },
            model_text: common::MODEL,
            pfn: Box::leak(Box::new(common::pfn())),
            engine: vec![("weights", &weights)],
        };
        plan::write(&path, contents(0)).unwrap();
        let (opened, usage) = measure(|| Plan::open(&path).is_ok());
        assert!(
            opened && usage.peak < 1 << 20,
            "64 MiB of weights took {}",
            usage.peak
        );

        plan::write(&path, contents(30_000)).unwrap();
        assert!(assert_small(&path, "many steps", Plan::open));
        plan::write(&path, contents(300_000)).unwrap();
        assert!(!assert_small(&path, "too many steps", Plan::open));
    });
}
