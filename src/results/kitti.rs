//! KITTI's label format: one line of 16 columns per box.
//!
//! ```text
//! type truncated occluded alpha left top right bottom height width length x y z rotation_y score
//! ```
//!
//! KITTI's boxes are in the frame of its left camera (x right, y down, z forward), and a cloud has no
//! calibration. This module assumes a camera at the cloud's origin that looks along +x and converts as
//! OpenPCDet's `boxes3d_lidar_to_kitti_camera` does, with this nominal rotation instead of a calibration file.
//!
//! | column | value |
//! |---|---|
//! | type | the model's class name, with `_` for white space |
//! | truncated, occluded | −1, unknown |
//! | alpha | rotation_y − atan2(x_cam, z_cam), in (−π, π] |
//! | left top right bottom | −1, unknown: there is no image |
//! | height width length | metres |
//! | x y z | **bottom** centre: x_cam = −y, y_cam = −(z − height / 2), z_cam = x, metres |
//! | rotation_y | −yaw − π/2, in (−π, π] |
//! | score | 0..=1 |
//!
//! Numbers have four decimals. KITTI's own evaluator needs image boxes; these files serve tools that read the
//! 3D columns. There is no column for velocity. CUDA-CenterPoint's text format has one but no class names
//! (`x y z w l h vx vy yaw class score`); JSON has both.

use std::f64::consts::{FRAC_PI_2, PI, TAU};
use std::fmt::Write;

use super::{FrameResult, ResultsError};

/// Formats the frame's boxes, one line each; empty if there are none.
///
/// # Errors
/// A number that is not finite, or a class without a name.
pub fn text(result: &FrameResult<'_>, classes: &[String]) -> Result<String, ResultsError> {
    let mut out = String::new();
    for (index, b) in result.boxes.iter().enumerate() {
        let class = result.checked_class(index, b, classes)?;
        let class: String = class
            .chars()
            .map(|c| if c.is_whitespace() { '_' } else { c })
            .collect();
        let [x, y, z] = b.center.map(f64::from);
        let [length, width, height] = b.size.map(f64::from);
        let (x_cam, y_cam, z_cam) = (-y, -(z - height / 2.0), x);
        let rotation_y = wrap(-f64::from(b.yaw) - FRAC_PI_2);
        let alpha = wrap(rotation_y - x_cam.atan2(z_cam));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{class} -1 -1 {alpha:.4} -1 -1 -1 -1 {height:.4} {width:.4} {length:.4} \
             {x_cam:.4} {y_cam:.4} {z_cam:.4} {rotation_y:.4} {:.4}",
            b.score
        );
    }
    Ok(out)
}

/// Wraps an angle into (−π, π].
fn wrap(angle: f64) -> f64 {
    PI - (PI - angle).rem_euclid(TAU)
}
