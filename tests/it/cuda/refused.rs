//! What the driver layer refuses, against the stand-in for libcuda and NVRTC: GPUs and libraries that it cannot use, and calls
//! that make no sense.

use std::path::Path;
use std::process::Command;

use ::emulation::COMPILER;
use centerpoint::cuda::{self, CudaError, DevicePtr};
use centerpoint::internals::cuda::{Buffer, CopyEnd, Launch};

use super::driver::{StandIn, Variable, child, command};
use crate::common::repository;

/// A library without functions.
fn empty_library(path: &Path) {
    let done = Command::new(&COMPILER.0)
        .args(["-shared", "-x", "c++", "/dev/null", "-o"])
        .arg(path)
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn what_cannot_be_used_is_an_error_with_advice() {
    let out = tempfile::tempdir().unwrap();
    let (old, log) = (out.path().join("old"), out.path().join("log"));
    std::fs::create_dir(&old).unwrap();
    empty_library(&old.join("libcuda.so.1"));
    let old_nvrtc = out.path().join("libnvrtc.so");
    empty_library(&old_nvrtc);
    let refused = |variable: Variable<'_>, status: i32, words: &str| {
        let done = command(env!("CARGO_BIN_EXE_cp-infer"), &log)
            .arg("--engine")
            .arg(repository().join("engines/demo/int8.plan"))
            .arg("--pcd")
            .arg(repository().join("calib/demo/frames/000000.bin"))
            .args(["--device", "cuda"])
            .env(variable.0, variable.1)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(status), "{variable:?}: {said}");
        assert!(said.contains(words), "{variable:?}: {said}");
    };
    let fail = "CENTERPOINT_STANDIN_FAIL";
    let paths = [&old, &old_nvrtc].map(|path| path.to_str().unwrap());
    for (variable, words) in [
        (
            ("LD_LIBRARY_PATH", paths[0]),
            "driver is too old, it lacks cu",
        ),
        (
            ("CENTERPOINT_STANDIN_CUDA", "11030"),
            "driver is for CUDA 11.3;",
        ),
        (("CENTERPOINT_STANDIN_GPUS", "0"), "no NVIDIA GPU was found"),
        ((fail, "cuInit:1:100"), "no visible NVIDIA GPU"),
        // The stand-in has no name for these two.
        (
            (fail, "cuInit:1:34"),
            "CUDA error 34: the libcuda that was found is the toolkit's stub",
        ),
        (
            (fail, "cuInit:1:803"),
            "CUDA error 803: libcuda and the kernel module",
        ),
        ((fail, "cuInit:1:999"), "check that `nvidia-smi` works"),
        (
            ("CENTERPOINT_NVRTC", "/nowhere/libnvrtc.so"),
            "NVRTC, which compiles them, was not found (/nowhere",
        ),
        (
            ("CENTERPOINT_NVRTC", paths[1]),
            "NVRTC: it is too old, it lacks nvrtcCreateProgram",
        ),
        (
            ("CENTERPOINT_STANDIN_ARCH", "70"),
            "cannot compile for this GPU (sm_70)",
        ),
    ] {
        refused(variable, 5, words);
    }
}

#[test]
fn calls_that_make_no_sense_are_errors() {
    child("cuda::refused::senseless_calls");
}

/// An error with these words.
fn refused<T>(result: Result<T, CudaError>, words: &str) {
    let error = result.err().expect(words).to_string();
    assert!(error.contains(words), "{words}: {error}");
}

#[test]
#[ignore = "started by `calls_that_make_no_sense_are_errors`"]
#[allow(unsafe_code)]
fn senseless_calls() {
    let standin = StandIn::open();
    standin.reset(None);
    survived();
    lost();
    // Of all of them only this comes to the driver.
    let (_, others) = standin.report();
    let [fault] = &others[..] else {
        panic!("{others:?}");
    };
    assert!(
        fault.contains("`nms_step`: 0 bytes of parameters"),
        "{fault}"
    );
}

/// Calls after which the device goes on.
#[allow(unsafe_code)]
fn survived() {
    let gpu = centerpoint::internals::cuda::gpu().unwrap();
    assert_eq!(
        (&*gpu.name, gpu.architecture, gpu.cuda),
        ("stand-in", 87, 12060)
    );
    let device = cuda::open().unwrap();
    let before = device.memory_used().unwrap();
    let memory = Buffer::<u8>::zeroed(&device, "memory", 256).unwrap();
    let on_device = CopyEnd::Device(memory.ptr());
    assert_eq!(device.memory_used(), Some(before + 256));
    let address = memory.ptr().address();
    assert!(!memory.is_empty() && memory.ptr() != DevicePtr::NULL);
    assert_eq!(
        format!("{memory:?}"),
        format!("Buffer(memory: 256 bytes at {address:#x})")
    );
    // Nothing to free.
    // SAFETY: the device knows no such memory, and frees nothing.
    unsafe { device.free(DevicePtr::NULL) };
    device.free_host(0);
    device.free_host(9);
    device.free_graph(0);
    device.free_graph(9);
    // SAFETY: nothing is copied.
    unsafe {
        device.upload("nothing", memory.ptr(), &[]).unwrap();
        device.download("nothing", memory.ptr(), &mut []).unwrap();
        device.copy("nothing", on_device, on_device, 0).unwrap();
    }

    let pinned = device.alloc_host("pinned", 4).unwrap();
    for (memory, at) in [(pinned, 1), (pinned, usize::MAX), (0, 0), (9, 0)] {
        let words = "not within its pinned memory";
        refused(device.write_host(memory, at, &[0; 4]), words);
        refused(device.read_host(memory, at, &mut [0; 4]), words);
        let host = CopyEnd::Host { memory, at };
        // SAFETY: nothing is copied from or to memory outside.
        unsafe {
            refused(device.copy("to", host, on_device, 4), words);
            refused(device.copy("from", on_device, host, 4), words);
            refused(
                device.copy("both", host, host, 4),
                "one end must be on the device",
            );
        }
    }
    device.free_host(pinned);

    refused(device.end(), "nothing was recorded");
    for graph in [0, 9] {
        // SAFETY: there is no graph that could use memory.
        refused(unsafe { device.replay(graph) }, "there is no such graph");
    }
    device.begin().unwrap();
    let words = "cannot be recorded";
    refused(device.begin(), words);
    refused(device.wait(), words);
    refused(device.alloc("memory", 1), words);
    refused(device.alloc_host("memory", 1), words);
    refused(device.create_mark(), words);
    refused(device.elapsed(0, 0), words);
    let graph = device.end().unwrap();
    device.free_graph(graph);
    assert_eq!(memory.download(256).unwrap(), [0; 256]);
}

/// Calls that lose the device.
#[allow(unsafe_code)]
fn lost() {
    let launch = |kernel, shared| Launch {
        kernel,
        grid: [1; 3],
        block: 32,
        shared,
    };
    for (launch, words) in [
        (launch("other_kernel", 0), "there is no `kernels/other.cu`"),
        (launch("nms_other", 0), "CUDA_ERROR_NOT_FOUND"),
        (
            launch("nms_step", 300 << 10),
            "307200 bytes of shared memory: ",
        ),
        // More than without asking, but not too much: then the parameters are wrong.
        (
            launch("nms_step", 64 << 10),
            "65536 bytes of shared memory, 0 of parameters: ",
        ),
    ] {
        let device = cuda::open().unwrap();
        // SAFETY: nothing is launched.
        refused(unsafe { device.launch(&launch, &[]) }, words);
        refused(device.wait(), "an earlier call lost the GPU");
        assert_eq!(device.memory_used(), None);
    }
    // While it records, only the recording is lost.
    let device = cuda::open().unwrap();
    device.begin().unwrap();
    let fails = |_: &_| Err(CudaError::HostStages);
    let work: centerpoint::internals::cuda::StreamWork = std::sync::Arc::new(fails);
    let words = "the detector runs on the CPU";
    refused(device.enqueue("work", &work), words);
    refused(device.end(), words);
    refused(device.end(), "nothing was recorded");
    device.wait().unwrap();
}
