//! After its first frame, a detector behind the C interface allocates nothing on any thread.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};

use centerpoint::internals::capi::*;

use super::{alone, measure};
use crate::common;

/// Describes a cloud of points of four floats.
fn cloud(data: &[f32], fields: &[cp_field]) -> cp_cloud {
    cp_cloud {
        struct_size: size_of::<cp_cloud>(),
        data: data.as_ptr().cast(),
        data_size: size_of_val(data),
        width: (data.len() / 4) as u32,
        height: 1,
        point_step: 16,
        row_step: 0,
        fields: fields.as_ptr(),
        field_count: fields.len(),
        is_bigendian: 0,
        reserved: 0,
    }
}

fn fields(names: &[&'static CStr]) -> Vec<cp_field> {
    let field = |(index, name): (usize, &&'static CStr)| cp_field {
        name: name.as_ptr().cast::<c_char>(),
        offset: 4 * index as u32,
        datatype: 7,
        count: 1,
    };
    names.iter().enumerate().map(field).collect()
}

/// `n` points all over the tiny grid and beyond it.
fn scattered(n: u32) -> Vec<f32> {
    let mut state = n.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32
    };
    (0..4 * n).map(|_| next() * 18.0 - 9.0).collect()
}

#[test]
fn no_frame_but_the_first_allocates() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let plan = common::write_plan(
            folder.path(),
            &common::MODEL.replace("capacity = 1000", "capacity = 1000\nsweeps = 3"),
        );
        let plan = CString::new(plan.to_str().unwrap()).unwrap();
        let named = fields(&[c"x", c"y", c"z", c"intensity"]);
        // 1200 exceeds the capacity of 1000: such a cloud may allocate once.
        let clouds: Vec<Vec<f32>> = [1200, 0, 1, 10, 300, 1000, 1200, 5].map(scattered).into();
        let mut boxes = vec![bytemuck::Zeroable::zeroed(); 200];
        let (mut detector, mut found) = (null_mut(), 0);
        // SAFETY: all pointees live until the end of the block and are what the header asks for.
        unsafe {
            assert_eq!(
                cp_load(plan.as_ptr(), null(), &mut detector),
                cp_status::CP_OK
            );
            for (frame, data) in clouds.iter().enumerate() {
                let cloud = cloud(data, &named);
                let (status, usage) = measure(|| {
                    let mut deadline: cp_deadline_info = std::mem::zeroed();
                    deadline.struct_size = size_of::<cp_deadline_info>();
                    let status = cp_detect(
                        detector,
                        &cloud,
                        boxes.as_mut_ptr(),
                        boxes.len(),
                        &mut found,
                    );
                    assert_eq!(cp_deadline(detector, &mut deadline), cp_status::CP_OK);
                    status
                });
                assert_eq!(status, cp_status::CP_OK);
                assert!(usage.count == 0 || frame == 0, "frame {frame}: {usage:?}");
            }
            // All slots for sweeps are allocated after four sweeps of the largest cloud.
            let pose = cp_pose {
                x: 0.0,
                y: 0.0,
                z: 0.0,
                qx: 0.0,
                qy: 0.0,
                qz: 0.0,
                qw: 1.0,
            };
            for sweep in 0..12 {
                let cloud = cloud(&clouds[if sweep < 5 { 0 } else { sweep % 8 }], &named);
                let (status, usage) = measure(|| {
                    let pushed = cp_push_sweep(detector, &cloud, sweep as i64, &pose);
                    assert_eq!(pushed, cp_status::CP_OK);
                    cp_detect_sweeps(detector, boxes.as_mut_ptr(), boxes.len(), &mut found)
                });
                assert_eq!(status, cp_status::CP_OK);
                assert!(usage.count == 0 || sweep < 5, "sweep {sweep}: {usage:?}");
            }
            // New fields are parsed once.
            let other = fields(&[c"z", c"y", c"x", c"reflectivity"]);
            let cloud = cloud(&clouds[5], &other);
            for frame in 0..3 {
                let (status, usage) = measure(|| {
                    cp_detect(
                        detector,
                        &cloud,
                        boxes.as_mut_ptr(),
                        boxes.len(),
                        &mut found,
                    )
                });
                assert_eq!(status, cp_status::CP_OK);
                assert_eq!(usage.count == 0, frame > 0, "frame {frame}: {usage:?}");
            }
            assert!(found > 3);
            cp_free(detector);
        }
    });
}
