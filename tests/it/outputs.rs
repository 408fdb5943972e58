//! Outputs and inputs of the programs: what is refused, what stays intact, and what an interrupt leaves.
#![allow(clippy::unwrap_used)] // Also in test helpers.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{MODEL, repository, write_kitti, write_plan};

fn program(name: &str, folder: &Path, args: &str) -> Command {
    let path = match name {
        "cp-infer" => env!("CARGO_BIN_EXE_cp-infer"),
        "cp-bench" => env!("CARGO_BIN_EXE_cp-bench"),
        _ => env!("CARGO_BIN_EXE_cp-build"),
    };
    let mut command = Command::new(path);
    command
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .args(args.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(name: &str, folder: &Path, args: &str) -> Output {
    program(name, folder, args).output().unwrap()
}

#[track_caller]
fn assert_fails(run: &Output, code: i32, parts: &[&str]) {
    let errors = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(code), "{errors}");
    for part in parts {
        assert!(errors.contains(part), "{errors}: no {part}");
    }
}

/// A folder with the tiny plan and a frame.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_plan(folder.path(), MODEL);
    write_kitti(&folder.path().join("a.bin"), &[[2.2, -3.7, 2.0, 0.0]]);
    folder
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    #[cfg(unix)]
    std::os::unix::fs::symlink("a.bin", at("link")).unwrap();
    fs::write(at("q.toml"), "").unwrap();
    fs::create_dir(at("m")).unwrap();
    for name in [
        "model.toml",
        "pts_backbone_neck_head.onnx",
        "pts_voxel_encoder.onnx",
    ] {
        let shipped = repository().join("engines/demo").join(name);
        fs::copy(shipped, at("m").join(name)).unwrap();
    }
    let infer = "--engine tiny.plan --layout kitti --pcd a.bin";
    let bench =
        "--engine tiny.plan --layout kitti --pcd a.bin --duration 0 --warm-up 0 --iterations 1";
    for (name, args, file) in [
        ("cp-infer", format!("{infer} --out a.bin"), "a.bin"),
        (
            "cp-infer",
            format!("{infer} --out ./tiny.plan"),
            "tiny.plan",
        ),
        ("cp-infer", format!("{infer} --bev link"), "link"),
        ("cp-infer", format!("{infer} --out x --bev x"), "x"),
        ("cp-bench", format!("{bench} --json tiny.plan"), "tiny.plan"),
        (
            "cp-bench",
            format!("{bench} --json r --export-times ./r"),
            "r",
        ),
        (
            "cp-build",
            "quantize --model m --pcd a.bin --out a.bin".into(),
            "a.bin",
        ),
        (
            "cp-build",
            "quantize --model m --pcd a.bin --config q.toml --out q.toml".into(),
            "q.toml",
        ),
        (
            "cp-build",
            "quantize --model m --pcd a.bin --out m.plan --onnx m --force".into(),
            "m",
        ),
        (
            "cp-build",
            "compile --model . --out model.toml".into(),
            "model.toml",
        ),
        (
            "cp-build",
            "pack --engine tiny.plan --model . --out tiny.plan".into(),
            "tiny.plan",
        ),
    ] {
        if cfg!(not(unix)) && file == "link" {
            continue;
        }
        let before = [
            fs::read(at("a.bin")).unwrap(),
            fs::read(at("tiny.plan")).unwrap(),
        ];
        let done = run(name, folder.path(), &args);
        assert_fails(&done, 2, &[file]);
        let after = [
            fs::read(at("a.bin")).unwrap(),
            fs::read(at("tiny.plan")).unwrap(),
        ];
        assert!(before == after, "{args}");
        assert!(!at("x").exists() && !at("r").exists(), "{args}");
    }
    // A device may be named twice.
    let twice = format!("{infer} --out /dev/null --bev /dev/null");
    let done = run("cp-infer", folder.path(), &twice);
    assert_eq!(
        done.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_the_device_stays() {
    let folder = folder();
    let args = "--engine tiny.plan --layout kitti --pcd a.bin --format json --out /dev/full";
    let done = run("cp-infer", folder.path(), args);
    assert_fails(&done, 1, &["/dev/full", "No space left on device"]);
    assert!(!fs::metadata("/dev/full").unwrap().is_file());
    let args = "--engine tiny.plan --duration 0 --warm-up 0 --iterations 1 --json /dev/full";
    let done = run("cp-bench", folder.path(), args);
    assert_fails(&done, 1, &["/dev/full", "No space left on device"]);

    fs::write(folder.path().join("old"), "old").unwrap();
    let missing = run(
        "cp-infer",
        folder.path(),
        "--engine tiny.plan --pcd a.bin --out none/x",
    );
    assert_fails(&missing, 1, &["none/x", "cannot create"]);
    // The frame does not fit the layout: nothing is written.
    let broken = run(
        "cp-infer",
        folder.path(),
        "--engine tiny.plan --pcd a.bin --out old --format json",
    );
    assert_fails(&broken, 3, &["a.bin"]);
}

/// Sends a signal, as a terminal does.
#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Waits until something is done.
#[cfg(unix)]
fn wait_for(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The hidden temporary files in a folder.
#[cfg(unix)]
fn temporary(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with(".centerpoint-"))
        .count()
}

#[cfg(unix)]
#[test]
fn an_interrupted_measurement_writes_what_it_has() {
    let folder = folder();
    let args = "--engine tiny.plan --duration 3600 --warm-up 0 --json report.json";
    let child = program("cp-bench", folder.path(), args).spawn().unwrap();
    // The file is opened after the handler is in place.
    wait_for(|| temporary(folder.path()) == 1);
    signal(&child, "INT");
    let done = child.wait_with_output().unwrap();
    assert_fails(&done, 130, &["interrupted"]);
    let text = fs::read_to_string(folder.path().join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["interrupted"], true);
    let frames = report["runs"][0]["frames"].as_u64().unwrap();
    assert!(frames >= 1, "{frames}");
    assert_eq!(temporary(folder.path()), 0);

    let whole = "--engine tiny.plan --duration 0 --warm-up 0 --iterations 1 --json report.json";
    assert!(run("cp-bench", folder.path(), whole).status.success());
    let text = fs::read_to_string(folder.path().join("report.json")).unwrap();
    assert!(!text.contains("interrupted"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_the_old_file_and_no_other() {
    let folder = folder();
    let demo = repository();
    let frames = demo.join("calib/demo/frames");
    let plan = demo.join("engines/demo/fp32.plan");
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        fs::write(folder.path().join("boxes.json"), "old").unwrap();
        // The same frames many times: some minutes of work.
        let mut command = program("cp-infer", folder.path(), "--format json --out boxes.json");
        command.arg("--engine").arg(&plan).arg("--pcd");
        command.args(std::iter::repeat_n(&frames, 100));
        let child = command.spawn().unwrap();
        wait_for(|| temporary(folder.path()) == 1);
        signal(&child, name);
        let done = child.wait_with_output().unwrap();
        assert_fails(&done, code, &["cp-infer: interrupted"]);
        assert_eq!(fs::read(folder.path().join("boxes.json")).unwrap(), b"old");
        assert_eq!(temporary(folder.path()), 0);
    }
}

#[test]
fn an_improbable_frame_is_a_warning_and_with_strict_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let plan = repository().join("engines/demo/int8.plan");
    let points: Vec<[f32; 4]> = (0..1000)
        .map(|i| [(i % 40) as f32 - 20.0, (i / 40) as f32 - 12.0, 900.0, 0.5])
        .collect();
    write_kitti(&folder.path().join("a.bin"), &points);
    let plan = plan.display();
    let args = format!("--engine {plan} --layout kitti --pcd a.bin");
    let warned = run("cp-infer", folder.path(), &args);
    let errors = String::from_utf8_lossy(&warned.stderr);
    assert_eq!(warned.status.code(), Some(0), "{errors}");
    assert!(
        errors.contains("within the model's range") && errors.contains("--extrinsic"),
        "{errors}"
    );
    let strict = run("cp-infer", folder.path(), &format!("{args} --strict"));
    assert_fails(&strict, 3, &["a.bin: only 0.0 % of the points"]);
}

#[test]
fn numbers_below_zero_are_values_and_options_that_do_nothing_are_errors() {
    let folder = folder();
    let infer = "--engine tiny.plan --layout kitti";
    for (args, parts) in [
        ("--pcd a.bin --score -1", &["'-1'", "not within 0 to 1"][..]),
        ("--pcd a.bin --intensity-scale -2", &["'-2'", "not above 0"]),
        ("--pcd a.bin --ground low", &["'low'", "auto"]),
        (
            "--pcd a.bin --extrinsic 1,2",
            &["1,2", "x,y,z,roll,pitch,yaw"],
        ),
        ("--pcd a.bin --ignore-box 1,1,1,0,2,2", &["least x,y,z"]),
        ("--pcd a.bin --sweeps s.json", &["--pcd", "--sweeps"]),
        ("--pcd a.bin --bev a.jpg", &["a.jpg", "png"]),
        ("--recursive --sweeps s.json", &["--pcd"]),
        ("--topic /points --pcd a.bin", &["--bag"]),
        ("", &["--layout needs --pcd or --sweeps"]),
    ] {
        assert_fails(
            &run("cp-infer", folder.path(), &format!("{infer} {args}")),
            2,
            parts,
        );
    }
    for (program, args, part) in [
        (
            "cp-bench",
            "--engine tiny.plan --strict",
            "--strict needs --pcd, --sweeps or --bag",
        ),
        (
            "cp-build",
            "eval --pred p.json --gt g.json --ground auto",
            "--ground",
        ),
        (
            "cp-build",
            "eval --pred p.json --gt g.json --threads 2",
            "--threads",
        ),
        (
            "cp-build",
            "eval --pred p.json --gt g.json --labels l.json",
            "--labels",
        ),
    ] {
        assert_fails(&run(program, folder.path(), args), 2, &[part]);
    }
    // A negative height and the old name of --engine.
    let args = "--plan tiny.plan --layout kitti --pcd a.bin --ground -0.25 --format json";
    let done = run("cp-infer", folder.path(), args);
    assert_eq!(
        done.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn a_folder_without_frames_does_not_stop_the_others() {
    let folder = folder();
    fs::create_dir(folder.path().join("none")).unwrap();
    fs::create_dir_all(folder.path().join("deep/er")).unwrap();
    fs::copy(
        folder.path().join("a.bin"),
        folder.path().join("deep/er/b.bin"),
    )
    .unwrap();
    let infer = "--engine tiny.plan --layout kitti --format json";
    let done = run(
        "cp-infer",
        folder.path(),
        &format!("{infer} --pcd none a.bin"),
    );
    assert_fails(
        &done,
        3,
        &[
            "none: no frames in this folder",
            "1 frames could not be processed",
        ],
    );
    assert_eq!(String::from_utf8_lossy(&done.stdout).lines().count(), 1);
    assert_fails(
        &run("cp-infer", folder.path(), &format!("{infer} --pcd deep")),
        3,
        &["deep"],
    );
    let deep = run(
        "cp-infer",
        folder.path(),
        &format!("{infer} --pcd deep --recursive"),
    );
    assert_eq!(deep.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&deep.stdout).contains("deep/er/b.bin"));
}
