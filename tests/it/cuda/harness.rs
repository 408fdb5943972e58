//! The emulation itself: that correct kernels run, that schedules differ, and that planted bugs are caught.

use bytemuck::{Pod, Zeroable};
use centerpoint::cuda::{Buffer, Launch};

use crate::emulation;

/// The mirror of `Plant` in `tests/emulation/plants.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Plant {
    input: u64,
    output: u64,
    count: u32,
    reserved: u32,
}

#[test]
fn a_kernel_runs() {
    let Some(device) = emulation::emulated(0) else {
        return;
    };
    let values: Vec<u32> = (0..1000).collect();
    let input = Buffer::new(&device, "input", &values).unwrap();
    let output = Buffer::<u32>::zeroed(&device, "output", 1000).unwrap();
    let plant = Plant {
        input: input.address(),
        output: output.address(),
        count: 1000,
        reserved: 0,
    };
    device
        .launch(
            &Launch::of("plant_double", 1000, 128),
            bytemuck::bytes_of(&plant),
        )
        .unwrap();
    let doubled: Vec<u32> = (0..1000).map(|v| 2 * v).collect();
    assert_eq!(output.download(1000).unwrap(), doubled);
}

#[test]
fn blocks_sum_under_all_schedules() {
    for seed in 0..20 {
        let Some(device) = emulation::emulated(seed) else {
            return;
        };
        let values: Vec<u32> = (0..1000).collect();
        let input = Buffer::new(&device, "input", &values).unwrap();
        let output = Buffer::<u32>::zeroed(&device, "output", 4).unwrap();
        let plant = Plant {
            input: input.address(),
            output: output.address(),
            count: 1000,
            reserved: 0,
        };
        device
            .launch(
                &Launch::of("plant_block_sum", 1000, 256),
                bytemuck::bytes_of(&plant),
            )
            .unwrap();
        let sums: Vec<u32> = values.chunks(256).map(|c| c.iter().sum()).collect();
        assert_eq!(output.download(4).unwrap(), sums);
    }
}
