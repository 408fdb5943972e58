//! The frame's input on the device: the kernels read the points of `select`, of one sweep and after
//! `accumulate`.

use bytemuck::NoUninit;
use centerpoint::cuda::{Device, DevicePtr};
use centerpoint::internals::cuda::input::FrameHeader;
use centerpoint::internals::cuda::{Buffer, Input, Launch};
use centerpoint::points::{Pose, SweepBuffer};
use centerpoint::{Column, Layout, Model, PointCloud};

use crate::emulation;
use crate::stages::{Random, model};

/// Random columns for a model, and a layout that contains them among others.
fn random_columns(random: &mut Random) -> (Vec<Column>, Layout) {
    use Column::{Elongation, Intensity, Ring, Skip, T, X, Y, Z};
    let mut shuffled = |mut columns: Vec<Column>| {
        for i in (1..columns.len()).rev() {
            columns.swap(i, random.below(i + 1));
        }
        columns
    };
    let mut wanted = shuffled(vec![Intensity, T, Ring, Elongation, Skip, Skip]);
    let mut held = shuffled(vec![
        X, Y, Z, Intensity, T, Ring, Elongation, Skip, Skip, Skip, Skip, Skip, Skip, Skip, Skip,
    ]);
    wanted.truncate(random.below(wanted.len() + 1));
    wanted.splice(0..0, [X, Y, Z]);
    // Columns that a cloud may lack, and those that this model ignores.
    let lacks_intensity = random.below(8) == 0;
    let lacks_time = random.below(2) == 0;
    let shorter = random.below(3) > 0;
    held.retain(|column| match column {
        X | Y | Z => true,
        Intensity => !lacks_intensity && (!shorter || wanted.contains(column)),
        T => !lacks_time && (!shorter || wanted.contains(column)),
        Skip => !shorter,
        column => !shorter || wanted.contains(column),
    });
    let layout = Layout::new(&held).unwrap();
    (wanted, layout)
}

/// A cloud in and around the grid: anywhere, in some spots, or in runs; some values are not finite.
pub(super) fn random_cloud(random: &mut Random, layout: Layout) -> PointCloud {
    let n = match random.below(8) {
        0 => 0,
        1 => 512 * random.below(3) + random.below(3),
        _ => random.below(2000),
    };
    let stride = layout.stride();
    let at = [Column::X, Column::Y, Column::Z].map(|column| layout.position(column).unwrap());
    let spread = [4.4, 3.3, 2.1];
    let (spots, run) = (1 + random.below(20), 1 + random.below(60));
    let kind = random.below(4);
    let mut spot = [0.0; 3];
    let mut data = vec![0.0; n * stride];
    for (i, row) in data.chunks_exact_mut(stride).enumerate() {
        row.fill_with(|| random.uniform(-2.0, 300.0));
        let anywhere = spread.map(|most| random.uniform(-most, most));
        let place = match kind {
            0 => anywhere,
            1 => [0, 1, 2].map(|a| 0.2 * spread[a] * (random.below(spots) as f32 - 2.0)),
            2 => {
                if i % run == 0 {
                    spot = anywhere;
                }
                spot
            }
            _ => [anywhere[0] * 0.3, anywhere[1] * 0.3, anywhere[2]],
        };
        (0..3).for_each(|a| row[at[a]] = place[a]);
    }
    for _ in 0..n / 40 * random.below(2) {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)];
        data[random.below(n * stride)] = bad;
    }
    PointCloud::new(layout, data).unwrap()
}

fn random_pose(random: &mut Random) -> Option<Pose> {
    let rotation: [f64; 4] = std::array::from_fn(|i| {
        let part = f64::from(random.uniform(-0.2, 0.2));
        if i == 0 { 1.0 + part } else { part }
    });
    let norm = rotation.iter().map(|v| v * v).sum::<f64>().sqrt();
    let place = std::array::from_fn(|_| 1000.0 + f64::from(random.uniform(-1.0, 1.0)));
    (random.below(10) > 0).then(|| Pose::new(place, rotation.map(|v| v / norm)).unwrap())
}

/// Several sweeps, some without a pose, and a capacity that may cut them.
pub(super) fn random_sweeps(random: &mut Random, layout: Layout) -> SweepBuffer {
    let capacity = random.below(4000);
    let mut sweeps = SweepBuffer::new(random.below(6), capacity);
    let mut stamp = 0;
    for _ in 0..random.below(7) + 1 {
        let pose = random_pose(random);
        sweeps
            .push(&random_cloud(random, layout), stamp, pose)
            .unwrap();
        stamp += random.below(200_000_000) as i64;
    }
    sweeps
}

/// The small model with other columns, intensity, capacity and caps; and a layout of its clouds.
pub(super) fn random_model(random: &mut Random) -> (Model, Layout) {
    let mut model = model();
    let (columns, layout) = random_columns(random);
    model.points.columns = columns;
    model.points.intensity_scale = [1.0, 1.0 / 255.0, 0.3][random.below(3)];
    model.points.capacity = 1 + random.below(2500);
    model.grid.max_points_per_pillar = [1, 2, 5, 20, 33, 100][random.below(6)];
    model.grid.max_pillars = [1 + random.below(16), 40, 192][random.below(3)];
    (model, layout)
}

/// The mirror of `PointRows` in `tests/emulation/common.cu`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct PointRows {
    frame: DevicePtr<FrameHeader>,
    rows: DevicePtr<f32>,
    columns: u32,
    reserved: u32,
}

#[test]
fn points_are_read_as_selected_and_accumulated() {
    for case in 0..emulation::cases(200) as u64 {
        // A GPU's fatbin lacks the tests' kernels.
        let device = emulation::emulated(0, false);
        let device: std::sync::Arc<dyn Device> = device;
        let random = &mut Random(case);
        let (model, layout) = random_model(random);
        let mut input = Input::new(&model, &device).unwrap();
        let mut cloud = PointCloud::empty(Layout::KITTI);
        if case % 2 == 0 {
            cloud = random_cloud(random, layout);
            input.set(cloud.data(), layout).unwrap();
        } else {
            let sweeps = random_sweeps(random, layout);
            sweeps.accumulate(&mut cloud);
            input.set_sweeps(&sweeps).unwrap();
        }
        let (columns, capacity) = (&model.points.columns, model.points.capacity);
        let mut scratch = Vec::new();
        let selected = cloud.select(columns, model.points.intensity_scale, &mut scratch);
        let taken = cloud.len().min(capacity) * columns.len();

        let rows = Buffer::<f32>::zeroed(&device, "rows", capacity * columns.len()).unwrap();
        let params = PointRows {
            frame: input.header(),
            rows: rows.ptr(),
            columns: columns.len() as u32,
            reserved: 0,
        };
        let launch = Launch::for_threads("point_rows", capacity, 128);
        emulation::launch(&*device, &launch, &params).unwrap();
        let bits = |values: &[f32]| -> Vec<u32> {
            // The sign of a computed NaN is undefined.
            let bits = |v: &f32| if v.is_nan() { u32::MAX } else { v.to_bits() };
            values.iter().map(bits).collect()
        };
        let found = rows.download(taken).unwrap();
        let expected = &selected.unwrap().points[..taken];
        assert_eq!(bits(&found), bits(expected), "case {case}");
    }
}
