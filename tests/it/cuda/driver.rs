//! The CUDA driver layer, against the stand-in for libcuda and NVRTC (`tests/standin/`): the programs run unchanged, and
//! every call fails once.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ::standin::setup::faults;
use centerpoint::cuda::CudaError;
use centerpoint::internals::cuda::{CopyEnd, Launch};
use centerpoint::{Detector, Device, Options, PointCloud, cuda};

use crate::common::{repository, write_int8_plan, write_plan};

/// A command that finds the stand-in.
pub(super) fn command(program: impl AsRef<std::ffi::OsStr>, log: &Path) -> Command {
    ::standin::setup::command(program, Path::new(env!("CARGO_TARGET_TMPDIR")), log)
}

/// What a command prints, which must succeed.
pub(super) fn printed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{said}");
    String::from_utf8(stdout).unwrap()
}

/// `cp-infer` with a demo plan, which prints the boxes of `frames` as JSON.
fn cp_infer(plan: &str, device: &str, frames: &[PathBuf], log: &Path) -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_cp-infer"), log);
    command
        .arg("--engine")
        .arg(repository().join(format!("engines/demo/{plan}.plan")))
        .args(["--device", device, "--format", "json", "--pcd"])
        .args(frames);
    command
}

/// Compares the boxes of the first `count` demo frames on the stand-in, under each of `seeds`, with the CPU's.
fn cp_infer_gives_the_cpus_boxes(plan: &str, count: usize, seeds: &[u64]) {
    let out = tempfile::tempdir().unwrap();
    let frames = &super::frame::demo_frames()[..count];
    let log = out.path().join("cpu.log");
    let expected = printed(&mut cp_infer(plan, "cpu", frames, &log));
    assert_eq!(expected.matches("\"boxes\"").count(), count);
    for seed in seeds {
        let log = out.path().join(format!("{plan}{seed}.log"));
        let mut command = cp_infer(plan, "cuda", frames, &log);
        command.env("CENTERPOINT_STANDIN_SEED", seed.to_string());
        assert!(printed(&mut command) == expected, "{plan}, seed {seed}");
        assert_eq!(faults(&log), [""; 0]);
    }
}

#[test]
fn cp_infer_gives_the_cpus_bytes() {
    // The network of a plan in INT8 runs on the device, and that of the other one on the host.
    cp_infer_gives_the_cpus_boxes("int8", 4, &[0, 1]);
    cp_infer_gives_the_cpus_boxes("fp32", 16, &[0, 9]);
}

#[test]
#[ignore = "nightly: whole networks in the emulation"]
fn cp_infer_gives_the_cpus_bytes_of_all_frames() {
    cp_infer_gives_the_cpus_boxes("int8", 16, &[0, 1, 2]);
}

#[test]
fn auto_takes_a_gpu_for_a_plan_in_int8() {
    let out = tempfile::tempdir().unwrap();
    let frames = &super::frame::demo_frames()[3..4];
    let run = |plan: &str, device: &str, variables: &[Variable<'_>]| {
        let log = out.path().join("log");
        let mut command = cp_infer(plan, device, frames, &log);
        let done = command.envs(variables.iter().copied()).output().unwrap();
        assert!(done.status.success());
        (done.stdout, String::from_utf8(done.stderr).unwrap())
    };
    for (plan, takes) in [("int8", true), ("fp32", false)] {
        let ((expected, quiet), (found, said)) = (run(plan, "cpu", &[]), run(plan, "auto", &[]));
        assert!(found == expected, "{plan}");
        assert_eq!(
            said.contains("the network runs on stand-in"),
            takes,
            "{said}"
        );
        assert_eq!(quiet, "");
        // A GPU that cannot be used.
        let fails = [("CENTERPOINT_STANDIN_FAIL", "cuStreamCreate:1:999")];
        let (found, said) = run(plan, "auto", &fails);
        assert!(found == expected, "{plan}");
        assert_eq!(
            said.contains("the network runs on the CPU"),
            takes,
            "{said}"
        );
    }
}

/// A variable of the environment and its value.
pub(super) type Variable<'a> = (&'a str, &'a str);

/// The boxes of frames by `cp-infer`, and its report with the stand-in's settings `variables`.
fn boxes(
    plan: &str,
    frames: &[&str],
    device: &str,
    variables: &[Variable<'_>],
) -> (String, PathBuf, tempfile::TempDir) {
    let out = tempfile::tempdir().unwrap();
    let log = out.path().join("log");
    let folder = repository().join("calib/demo/frames");
    let frames: Vec<PathBuf> = frames.iter().map(|frame| folder.join(frame)).collect();
    let mut command = cp_infer(plan, device, &frames, &log);
    command.envs(variables.iter().copied());
    (printed(&mut command), log, out)
}

/// NVRTC has no code for a GPU that is newer, but PTX.
#[test]
fn a_gpu_newer_than_nvrtc_gives_the_cpus_bytes() {
    let (expected, ..) = boxes("int8", &["000003.bin"], "cpu", &[]);
    let arch = [("CENTERPOINT_STANDIN_ARCH", "129")];
    let (found, log, _out) = boxes("int8", &["000003.bin"], "cuda", &arch);
    assert!(found == expected);
    assert_eq!(faults(&log), [""; 0]);
}

/// Runs two frames with what a compiler makes of the kernels.
fn compiled_kernels_give_the_cpus_bytes(plan: &str, variables: &[Variable<'_>]) {
    let frames = ["000000.bin", "000003.bin"];
    let (expected, ..) = boxes(plan, &frames, "cpu", &[]);
    let (found, log, _out) = boxes(plan, &frames, "cuda", variables);
    assert!(found == expected, "{plan}, {variables:?}");
    let lines = faults(&log);
    let (executed, others): (Vec<_>, Vec<_>) = lines
        .iter()
        .partition(|line| line.starts_with("executed: "));
    assert!(others.is_empty(), "{others:?}");
    for kernel in [
        "decode_cells",
        "features_pfn_own",
        "nms_masks",
        "nms_resolve",
        "pillars_number",
    ] {
        let kernel = format!("executed: {kernel} ");
        assert!(
            executed.iter().any(|line| line.starts_with(&kernel)),
            "{executed:?}"
        );
    }
    println!(
        "{plan} {variables:?}\n{}",
        executed
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    );
}

/// What nvcc makes for the oldest architecture, and for one with other instructions; in several schedules.
#[test]
#[ignore = "needs CENTERPOINT_NVCC"]
fn nvccs_ptx_gives_the_cpus_bytes() {
    crate::common::variable("CENTERPOINT_NVCC");
    let ptx = "CENTERPOINT_STANDIN_PTX";
    for (plan, variables) in [
        // With the network: tensor cores, loads of matrices, asynchronous copies.
        ("int8", &[(ptx, "80")][..]),
        ("fp32", &[(ptx, "75"), ("CENTERPOINT_STANDIN_RACES", "1")]),
        ("fp32", &[(ptx, "80"), ("CENTERPOINT_STANDIN_SEED", "3")]),
        (
            "fp32",
            &[
                (ptx, "75"),
                ("CENTERPOINT_STANDIN_SEED", "4"),
                ("CENTERPOINT_STANDIN_INDEPENDENT", "1"),
            ],
        ),
    ] {
        compiled_kernels_give_the_cpus_bytes(plan, variables);
    }
}

/// A GPU newer than NVRTC gets PTX from it.
#[test]
#[ignore = "needs CENTERPOINT_NVRTC"]
fn nvrtcs_ptx_gives_the_cpus_bytes() {
    let nvrtc = crate::common::variable("CENTERPOINT_NVRTC");
    let variables = [
        ("CENTERPOINT_NVRTC", &*nvrtc),
        ("CENTERPOINT_STANDIN_ARCH", "129"),
    ];
    compiled_kernels_give_the_cpus_bytes("fp32", &variables);
}

/// The lines of a PTX text with one changed: `change` returns what replaces a line, for the first line that it changes.
fn changed(text: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let mut done = false;
    let lines = text
        .lines()
        .map(|line| match change(line).filter(|_| !done) {
            Some(other) => {
                done = true;
                other
            }
            None => line.to_owned(),
        });
    let lines: Vec<String> = lines.collect();
    assert!(done, "nothing to change");
    lines.join("\n")
}

/// As [`changed`], from `start` on.
fn changed_after(text: &str, start: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let (before, after) = text.split_at(text.find(start).unwrap());
    before.to_owned() + &changed(after, change)
}

/// What breaks the compiled kernels must be seen: as a fault, or by other boxes.
#[test]
#[ignore = "needs CENTERPOINT_NVCC"]
fn planted_faults_in_ptx_are_seen() {
    let nvcc = super::elementary::nvcc();
    let out = tempfile::tempdir().unwrap();
    let cache = out.path().join("kernels");
    let frames = [repository().join("calib/demo/frames/000000.bin")];
    let run = |name: &str, variables: &[Variable<'_>]| {
        let mut command = cp_infer("fp32", "cuda", &frames, &out.path().join("log"));
        command
            .env("CENTERPOINT_STANDIN_CACHE", &cache)
            .env("CENTERPOINT_STANDIN_PTX", "75")
            // The program's own cache has the code, too.
            .env("XDG_CACHE_HOME", out.path().join(name))
            .envs(variables.iter().copied());
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
        done.status.success().then_some(stdout).ok_or(said)
    };
    let expected = run("expected", &[]).unwrap();
    let file = |stage: &str| {
        let folders = std::fs::read_dir(&cache).unwrap();
        let mut files = folders.map(|folder| {
            let folder = folder.unwrap().path();
            folder.join(format!("{stage}.compute_75.ptx"))
        });
        files.find(|file| file.exists()).unwrap()
    };
    let without =
        |what: &'static str| move |line: &str| line.trim().starts_with(what).then(String::new);
    // The first operand is the result.
    let swapped = |line: &str| {
        let rest = line.trim().strip_prefix("sub.rn.f32 ")?;
        let operands: Vec<&str> = rest.trim().trim_end_matches(';').split(", ").collect();
        let [to, a, b] = operands[..] else {
            return None;
        };
        Some(format!("sub.rn.f32 {to}, {b}, {a};"))
    };
    let races = ("CENTERPOINT_STANDIN_RACES", "1");
    let independent = [
        ("CENTERPOINT_STANDIN_INDEPENDENT", "1"),
        ("CENTERPOINT_STANDIN_SEED", "5"),
        races,
    ];
    let fused = |stage: &str| {
        let to = out.path().join("fused.ptx");
        let done = Command::new(&nvcc)
            .args([
                "-std=c++17",
                "-O3",
                "-fmad=true",
                "-ptx",
                "-arch=compute_75",
                "-o",
            ])
            .arg(&to)
            .arg(repository().join(format!("kernels/{stage}.cu")))
            .status()
            .unwrap();
        assert!(done.success());
        std::fs::read_to_string(to).unwrap()
    };
    let text = |stage: &str| std::fs::read_to_string(file(stage)).unwrap();
    let (none, racing): (&[Variable], &[Variable]) = (&[], &[races]);
    let plants = [
        (
            "barrier",
            "nms",
            changed(&text("nms"), without("bar.sync")),
            racing,
        ),
        (
            "warp",
            "features",
            changed_after(
                &text("features"),
                ".entry features_pfn_own",
                without("bar.warp.sync"),
            ),
            &independent,
        ),
        (
            "operands",
            "pillars",
            changed(&text("pillars"), swapped),
            none,
        ),
        ("fused", "features", fused("features"), none),
    ];
    for (name, stage, planted, variables) in plants {
        let path = file(stage);
        let original = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, planted).unwrap();
        match run(name, variables) {
            Ok(found) => assert!(found != expected, "{name}: not seen"),
            Err(said) => println!("{name}: {said}"),
        }
        std::fs::write(&path, original).unwrap();
    }
    // The other way round: what is not planted is no fault.
    assert!(run("again", &independent).unwrap() == expected);
}

#[test]
fn cp_bench_runs() {
    let out = tempfile::tempdir().unwrap();
    let log = out.path().join("log");
    let mut command = command(env!("CARGO_BIN_EXE_cp-bench"), &log);
    command
        .arg("--engine")
        .arg(repository().join("engines/demo/int8.plan"))
        .arg("--pcd")
        .arg(repository().join("calib/demo/frames/000000.bin"))
        .args(["--device", "cuda", "--duration", "0"]);
    let text = printed(&mut command);
    assert!(text.contains("stand-in"), "{text}");
    assert_eq!(faults(&log), [""; 0]);
}

/// The stand-in that this process has loaded.
pub(super) struct StandIn(pub(super) libloading::Library);

impl StandIn {
    #[allow(unsafe_code)]
    pub(super) fn open() -> Self {
        // SAFETY: its initialisers do nothing.
        Self(unsafe { libloading::Library::new("libcuda.so.1") }.unwrap())
    }

    /// Forgets what was called, and sets the call that is to fail.
    #[allow(unsafe_code)]
    pub(super) fn reset(&self, failure: Option<&str>) {
        let text = failure.map(|failure| CString::new(failure).unwrap());
        let pointer = text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        // SAFETY: the function has this type (`tests/standin/src/driver.rs`).
        unsafe {
            let reset: libloading::Symbol<'_, unsafe extern "C" fn(*const c_char)> =
                self.0.get(b"standin_reset\0").unwrap();
            reset(pointer);
        }
    }

    /// The report: counts by function, and the other lines.
    #[allow(unsafe_code)]
    pub(super) fn report(&self) -> (BTreeMap<String, u64>, Vec<String>) {
        let mut text = vec![0u8; 1 << 16];
        // SAFETY: as above; the text has that size.
        let bytes = unsafe {
            type Report = unsafe extern "C" fn(*mut c_char, usize) -> usize;
            let report: libloading::Symbol<'_, Report> = self.0.get(b"standin_report\0").unwrap();
            report(text.as_mut_ptr().cast(), text.len())
        };
        text.truncate(bytes);
        let text = String::from_utf8(text).unwrap();
        let mut counts = BTreeMap::new();
        let mut others = Vec::new();
        for line in text.lines() {
            match line
                .strip_prefix("calls: ")
                .and_then(|call| call.split_once(' '))
            {
                Some((function, count)) => {
                    counts.insert(function.to_owned(), count.parse().unwrap());
                }
                None => others.push(line.to_owned()),
            }
        }
        (counts, others)
    }

    /// Whether this thread's context was released.
    #[allow(unsafe_code)]
    fn is_stale(&self) -> bool {
        // SAFETY: as above.
        unsafe {
            let stale: libloading::Symbol<'_, unsafe extern "C" fn() -> bool> =
                self.0.get(b"standin_stale\0").unwrap();
            stale()
        }
    }
}

/// Runs a test that is ignored in a process that finds the stand-in.
pub(super) fn child(name: &str) {
    let out = tempfile::tempdir().unwrap();
    let mut command = command(std::env::current_exe().unwrap(), &out.path().join("log"));
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    let said = printed(&mut command);
    assert!(said.contains("1 passed"), "{said}");
    println!("{said}");
}

#[test]
fn every_call_fails_once() {
    child("cuda::driver::failing_calls");
}

/// CUDA's errors.
const OUT_OF_MEMORY: u32 = 2;
const UNKNOWN: u32 = 999;

/// Functions that free something. Their errors change nothing, but what they were to free stays.
const FREES: [&str; 9] = [
    "cuDevicePrimaryCtxRelease_v2",
    "cuEventDestroy_v2",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuModuleUnload",
    "cuStreamDestroy_v2",
    "nvrtcDestroyProgram",
];

/// An error with all its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// The boxes of two frames on the GPU, as text, or the first error; and what the next frame gave after one.
fn detect(plan: &Path, cloud: &PointCloud) -> (Result<String, String>, Option<String>) {
    let options = Options {
        device: Device::Cuda,
        threads: 1,
        ..Options::default()
    };
    let mut detector = match Detector::load(plan, &options) {
        Ok(detector) => detector,
        Err(error) => return (Err(causes(&error)), None),
    };
    let mut text = String::new();
    for _ in 0..2 {
        match detector.detect(cloud) {
            Ok(found) => text += &format!("{:?}\n", found.boxes),
            Err(error) => {
                let first = causes(&error);
                let next = detector
                    .detect(cloud)
                    .map(|found| format!("{:?}\n", found.boxes));
                return (
                    Err(first),
                    Some(next.unwrap_or_else(|error| causes(&error))),
                );
            }
        }
    }
    (Ok(text), None)
}

#[test]
#[ignore = "started by `every_call_fails_once`"]
fn failing_calls() {
    // With the network on the host, and on the device.
    for write in [write_plan, write_int8_plan] {
        let out = tempfile::tempdir().unwrap();
        each_call_fails_once(&write(out.path(), crate::common::MODEL));
    }
}

fn each_call_fails_once(plan: &Path) {
    let point = |i: usize| {
        let at = i as f32 / 8.0;
        [at - 4.0, 3.0 - at, (i % 7) as f32 / 2.0]
    };
    let points = (0..60).flat_map(point).collect();
    let cloud = PointCloud::new("x,y,z".parse().unwrap(), points).unwrap();
    let standin = StandIn::open();
    standin.reset(None);
    let expected = detect(plan, &cloud).0.unwrap();
    assert!(expected.contains("Box3d"), "{expected}");
    let (counts, others) = standin.report();
    assert_eq!(others, [""; 0]);
    let (mut tried, mut wrong) = (0, Vec::new());
    for (function, count) in &counts {
        for number in 1..=*count {
            for code in [OUT_OF_MEMORY, UNKNOWN] {
                standin.reset(Some(&format!("{function}:{number}:{code}")));
                let (result, next) = detect(plan, &cloud);
                let (_, others) = standin.report();
                let frees = FREES.contains(&function.as_str());
                let fits = match &result {
                    Ok(found) => *found == expected,
                    Err(_) => !frees,
                };
                // A lost detector says so. One that only lacked memory may go on.
                let lost = next.as_ref().is_none_or(|next| {
                    next.contains("lost") || (code == OUT_OF_MEMORY && function.contains("Alloc"))
                });
                let stays = ["left in a context", "a graph still has kernels"];
                let stays = |other: &String| frees && stays.iter().any(|stay| other.contains(stay));
                let leaks = !others.iter().all(stays);
                if !fits || !lost || leaks {
                    wrong.push(format!(
                        "{function} {number}, {code}: {result:?}, {next:?}, {others:?}"
                    ));
                }
                tried += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{tried} calls failed");
    assert!(tried > 500, "{tried}");
    standin.reset(None);
    assert_eq!(detect(plan, &cloud).0.unwrap(), expected);
    assert!(
        !standin.is_stale(),
        "a released context is still current to this thread"
    );
}

#[test]
fn planted_faults_of_the_host_are_seen() {
    child("cuda::driver::plants");
}

#[test]
#[ignore = "started by `planted_faults_of_the_host_are_seen`"]
#[allow(unsafe_code)]
fn plants() {
    let standin = StandIn::open();
    let seen = |what: &str, error: Result<(), CudaError>, report: &str| {
        let error = error.expect_err(what);
        let (_, others) = standin.report();
        assert!(
            others.iter().any(|other| other.contains(report)),
            "{what}: {error}, {others:?}"
        );
        println!("{what}: {error}");
        standin.reset(None);
    };
    standin.reset(None);

    let device = cuda::open().unwrap();
    let launch = Launch {
        kernel: "nms_step",
        grid: [1, 1, 1],
        block: 32,
        shared: 0,
    };
    // SAFETY: the driver refuses the launch.
    let launched = unsafe { device.launch(&launch, &[0; 12]) };
    drop(device);
    seen(
        "a parameter of another size",
        launched,
        "12 bytes of parameters, expected",
    );

    let device = cuda::open().unwrap();
    let [from, to] = ["one", "two"].map(|what| device.alloc(what, 256).unwrap());
    device.begin().unwrap();
    // SAFETY: both are alive while this is recorded.
    unsafe { device.copy("a copy", CopyEnd::Device(from), CopyEnd::Device(to), 256) }.unwrap();
    let graph = device.end().unwrap();
    // SAFETY: none: the graph still uses it, which is what the stand-in must see.
    unsafe { device.free(from) };
    // SAFETY: as above; the stand-in checks before it copies.
    let replayed = unsafe { device.replay(graph) }.and_then(|()| device.wait());
    drop(device);
    seen(
        "memory that was freed too early",
        replayed,
        "reaches freed memory",
    );

    let device = cuda::open().unwrap();
    // SAFETY: the function has this type.
    unsafe {
        let release: libloading::Symbol<'_, unsafe extern "C" fn(i32) -> u32> =
            standin.0.get(b"cuDevicePrimaryCtxRelease_v2\0").unwrap();
        assert_eq!(release(0), 0);
    }
    let waited = device.wait();
    drop(device);
    seen("a context that was released", waited, "is no context");
}

#[test]
fn a_thread_waits_while_another_one_records() {
    child("cuda::driver::recording_threads");
}

#[test]
#[ignore = "started by `a_thread_waits_while_another_one_records`"]
fn recording_threads() {
    let standin = StandIn::open();
    standin.reset(None);
    let device = cuda::open().unwrap();
    device.begin().unwrap();
    let other = std::thread::spawn({
        let device = device.clone();
        move || {
            let memory = device.alloc("memory of another thread", 64).unwrap();
            device.wait().unwrap();
            memory.address()
        }
    });
    // Long enough for the other thread to come to its first call.
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!other.is_finished());
    let graph = device.end().unwrap();
    assert_ne!(other.join().unwrap(), 0);
    device.free_graph(graph);
    let (_, others) = standin.report();
    assert!(
        others.iter().all(|other| other.starts_with("leak: ")),
        "{others:?}"
    );
}
