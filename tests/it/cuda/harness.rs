//! The emulation itself: correct kernels run, schedules differ, invalid calls are refused.
//! Kernels with bugs are in `plants.rs`.

use std::sync::Arc;

use bytemuck::NoUninit;
use centerpoint::cuda::{CudaError, Device, DeviceMap, DevicePtr};
use centerpoint::internals::cuda::{Buffer, Launch};
use centerpoint::map::{MapFormat, MapLayout};

use crate::emulation::{self, sanitizers};

/// The mirror of `Plant` in `tests/emulation/plants.cu`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct Plant {
    input: DevicePtr<u32>,
    output: DevicePtr<u32>,
    count: u32,
    planted: u32,
}

/// A launch of a kernel of `tests/emulation/plants.cu`.
pub(super) struct Run {
    pub(super) launch: Launch,
    pub(super) planted: bool,
    /// Values of the output and of the input, which is 0, 1, 2, … .
    pub(super) count: usize,
}

impl Run {
    pub(super) fn new(kernel: &'static str, blocks: u32, block: u32) -> Self {
        Self {
            launch: Launch {
                kernel,
                grid: [blocks, 1, 1],
                block,
                shared: 0,
            },
            planted: false,
            count: (blocks * block) as usize,
        }
    }

    pub(super) fn planted(self) -> Self {
        Self {
            planted: true,
            ..self
        }
    }

    pub(super) fn on(&self, device: &Arc<dyn Device>) -> Result<Vec<u32>, CudaError> {
        let values: Vec<u32> = (0..self.count as u32).collect();
        let input = Buffer::new(device, "input", &values)?;
        let output = Buffer::<u32>::zeroed(device, "output", self.count)?;
        let plant = Plant {
            input: input.ptr(),
            output: output.ptr(),
            count: self.count as u32,
            planted: self.planted.into(),
        };
        emulation::launch(&**device, &self.launch, &plant)?;
        output.download(self.count)
    }

    /// Runs on a new device in the schedules of `seed`.
    pub(super) fn seeded(&self, seed: u64) -> Result<Vec<u32>, CudaError> {
        self.on(&emulation::emulated(seed, false))
    }

    /// As [`Run::seeded`], two blocks at a time.
    pub(super) fn side_by_side(&self, seed: u64) -> Result<Vec<u32>, CudaError> {
        self.on(&emulation::emulated(seed, true))
    }
}

#[test]
fn threads_that_never_wait_run() {
    for seed in 0..8 {
        let run = Run {
            count: 10_000,
            ..Run::new("plant_index", 7, 1000)
        };
        let result = run.seeded(seed);
        assert_eq!(result.unwrap(), (0..10_000).collect::<Vec<u32>>());
    }
}

/// What `plant_operations` writes, for values 0 to 31.
fn warp_operations() -> Vec<u32> {
    let every = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    let bits = |f: &dyn Fn(u32) -> bool| (0..32).filter(|&l| f(l)).map(|l| 1 << l).sum::<u32>();
    [
        every(&|_| 5),
        every(&|l| l / 8 * 8 + 3),
        every(&|l| if l < 3 { l } else { l - 3 }),
        every(&|l| if l % 16 + 3 < 16 { l + 3 } else { l }),
        every(&|l| l ^ 9),
        every(&|_| bits(&|l| l % 3 == 0)),
        every(&|l| bits(&|other| other % 5 == l % 5)),
        every(&|_| 31 * 16),
        every(&|_| (-1000i32) as u32),
        every(&|_| 31),
        every(&|l| if l < 16 { 15 } else { 32 }),
        every(&|l| if l < 16 { 3 } else { 0 }),
        every(&|l| l ^ 1),
        every(&|_| 16),
    ]
    .concat()
}

#[test]
fn warp_operations_match_cudas_definition() {
    let expected = warp_operations();
    for seed in 0..16 {
        let run = Run {
            count: expected.len(),
            ..Run::new("plant_operations", 1, 32)
        };
        let result = run.seeded(seed);
        let result = result.unwrap();
        for (row, (got, want)) in result.chunks(32).zip(expected.chunks(32)).enumerate() {
            assert_eq!(got, want, "operation {row}, seed {seed}");
        }
    }
}

#[test]
fn schedules_differ_and_are_reproducible() {
    let order = |seed| Run::new("plant_order", 4, 64).seeded(seed);
    let natural = order(0);
    // The input's first value, 0, is the counter.
    let natural = natural.unwrap();
    assert_eq!(natural, (0..256).collect::<Vec<u32>>());
    let mut seen = vec![natural];
    for seed in 1..32 {
        let this = order(seed).unwrap();
        assert_eq!(order(seed).unwrap(), this);
        let mut sorted = this.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, seen[0], "every thread arrives once");
        assert!(!seen.contains(&this), "seed {seed}");
        seen.push(this);
    }
    assert_eq!(seen[1], (0..256).rev().collect::<Vec<u32>>());
    // Blocks of 64 threads run one after another; most of the 24 orders occur.
    let mut blocks: Vec<Vec<u32>> = seen
        .iter()
        .map(|order| order.chunks(64).map(|block| block[0] / 64).collect())
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    assert!(blocks.len() >= 12, "{blocks:?}");

    // Each launch of a device has its own schedule.
    let device = emulation::emulated(5, false);
    let run = Run::new("plant_order", 4, 64);
    assert_ne!(run.on(&device).unwrap(), run.on(&device).unwrap());
}

#[test]
fn devices_of_several_threads_run_at_once() {
    std::thread::scope(|scope| {
        for seed in 0..8 {
            scope.spawn(move || {
                for _ in 0..50 {
                    let reversed = Run::new("plant_reverse", 4, 256).seeded(seed);
                    assert_eq!(reversed.unwrap()[..2], [255, 254]);
                }
            });
        }
    });
}

/// The reason of a launch's error, which must name its kernel.
pub(super) fn reason(result: Result<Vec<u32>, CudaError>, launch: &Launch) -> String {
    match result {
        Err(CudaError::Kernel { kernel, reason }) => {
            assert_eq!(kernel, launch.kernel);
            reason
        }
        other => panic!("{}: {other:?}", launch.kernel),
    }
}

#[test]
fn invalid_launches_are_refused() {
    let base = Launch::for_threads("plant_index", 64, 64);
    fn launch<P: NoUninit>(launch: Launch, params: P) -> String {
        let device = emulation::emulated(0, false);
        let result = emulation::launch(&*device, &launch, &params);
        reason(result.map(|()| Vec::new()), &launch)
    }
    let text = launch(base, [0u64; 2]);
    assert_eq!(text, "its parameter has 24 bytes, the launch passes 16");
    for (changed, words) in [
        (
            Launch {
                kernel: "plant_none",
                ..base
            },
            "no such kernel",
        ),
        (Launch { block: 0, ..base }, "1 to 1024 threads, not 0"),
        (
            Launch {
                block: 1025,
                ..base
            },
            "1 to 1024 threads, not 1025",
        ),
        (
            Launch {
                shared: 232_449,
                ..base
            },
            "at most 232448 bytes",
        ),
        (
            Launch {
                grid: [1, 0, 1],
                ..base
            },
            "1 x 0 x 1 blocks",
        ),
        (
            Launch {
                grid: [1, 65_536, 1],
                ..base
            },
            "1 x 65536 x 1 blocks",
        ),
    ] {
        let text = launch(changed, [0u64; 3]);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn copies_outside_of_an_allocation_are_refused() {
    let device = emulation::emulated(0, false);
    let buffer = Buffer::<u32>::zeroed(&device, "numbers", 3).unwrap();
    let mut bytes = [0; 12];
    #[allow(unsafe_code)]
    let mut download = |len: usize| {
        // SAFETY: the buffer has more than one value, and the emulation checks the range.
        unsafe {
            let second = buffer.ptr().add(1).cast();
            device.download("numbers", second, &mut bytes[..len])
        }
    };
    download(8).unwrap();
    let error = download(12).unwrap_err();
    assert!(matches!(error, CudaError::Copy { .. }), "{error}");
    // As on a GPU, the device is lost then.
    let error = buffer.upload(&[1]).unwrap_err();
    assert!(matches!(error, CudaError::Lost { .. }), "{error}");
}

#[test]
fn maps_outside_of_their_buffer_are_refused() {
    let device = emulation::emulated(0, false);
    let layout = MapLayout {
        offset: 4,
        ..MapLayout::nchw(2, 3, 4)
    };
    let map = |values: usize| {
        let buffer = Buffer::<f32>::zeroed(&device, "map", values).unwrap();
        DeviceMap::new(&buffer, MapFormat::f32(layout))
    };
    map(28).unwrap();
    let error = map(27).unwrap_err().to_string();
    assert!(
        error.contains("it needs 112 bytes; its memory has 108"),
        "{error}"
    );
}

/// Runs every emulated test again, with kernels built with AddressSanitizer and UBSan.
#[test]
#[ignore = "needs libasan, libubsan"]
fn kernels_are_clean_under_sanitizers() {
    let output = sanitizers::run(&["cuda::"], &[]);
    let tail = sanitizers::tail(&output, 60);
    assert!(
        output.status.success() && tail.contains("test result: ok"),
        "{tail}"
    );
    assert!(!tail.contains(" 0 passed"), "{tail}");
}
