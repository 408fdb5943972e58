//! After its first frame, `Detector::detect` allocates nothing on any thread.

use centerpoint::points::{ReadOptions, list_frames, read};
use centerpoint::{Detector, Device, Layout, Options, PointCloud};

use super::{alone, measure};
use crate::common;

/// A cloud of `n` points all over the tiny grid and beyond it.
fn scattered(n: u32) -> PointCloud {
    let mut state = n.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32
    };
    let rows = (0..n).flat_map(|_| [next() * 18.0 - 9.0, next() * 18.0 - 9.0, next() * 4.0]);
    PointCloud::new("x,y,z".parse::<Layout>().unwrap(), rows.collect()).unwrap()
}

fn assert_no_allocation(detector: &mut Detector, clouds: &[PointCloud], what: &str) {
    detector.detect(&clouds[0]).unwrap();
    for (i, cloud) in clouds.iter().enumerate() {
        let (boxes, usage) = measure(|| detector.detect(cloud).unwrap().boxes.len());
        let points = cloud.len();
        assert_eq!(
            usage.count, 0,
            "{what}, frame {i}: {points} points, {boxes} boxes"
        );
    }
}

#[test]
fn no_frame_but_the_first_allocates() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let plan = common::write_plan(folder.path(), common::MODEL);
        for threads in [1, 2, 3] {
            let options = Options {
                threads,
                ..Options::default()
            };
            let mut detector = Detector::load(&plan, &options).unwrap();
            let clouds: Vec<PointCloud> = [0, 1, 10, 300, 1200, 1000, 5].map(scattered).into();
            assert_no_allocation(
                &mut detector,
                &clouds,
                &format!("tiny plan, {threads} threads"),
            );
            // Columns in an order other than the model's are copied, still without allocating.
            let layout: Layout = "z,y,x,intensity".parse().unwrap();
            let swapped = PointCloud::new(layout, scattered(400).data().to_vec()).unwrap();
            assert_no_allocation(&mut detector, &[swapped], "other columns");
        }

        for plan in ["fp32.plan", "int8.plan"] {
            let demo = common::repository().join("engines/demo").join(plan);
            let mut detector = Detector::load(
                &demo,
                &Options {
                    device: Device::Cpu,
                    ..Options::default()
                },
            )
            .unwrap();
            let default_layout = Layout::new(&detector.model().points.columns).unwrap();
            let options = ReadOptions {
                layout: None,
                default_layout,
            };
            let frames = list_frames(&[common::repository().join("calib/demo/frames")], false);
            let clouds: Vec<PointCloud> = frames
                .iter()
                .map(|path| read(path, &options).unwrap())
                .collect();
            assert_eq!(clouds.len(), 16);
            assert_no_allocation(&mut detector, &clouds, plan);
        }
    });
}
