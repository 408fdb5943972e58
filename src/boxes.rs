//! The detected box, and the geometry that several stages share.
//!
//! Metres and radians in the frame of the input cloud: x forward, y left, z up, yaw 0 along +x and
//! counter-clockwise seen from above.

use bytemuck::{Pod, Zeroable};

/// One detected object. Plain data: 11 32-bit words, the same on the host and on the device.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Box3d {
    /// Gravity centre x, y, z in metres.
    pub center: [f32; 3],
    /// Length (along yaw), width, height in metres.
    pub size: [f32; 3],
    /// Heading in radians, counter-clockwise from +x, in (−π, π].
    pub yaw: f32,
    /// Velocity over ground along x and y in m/s.
    pub velocity: [f32; 2],
    /// Confidence, 0..=1.
    pub score: f32,
    /// Index into the model's class names.
    pub class: u32,
}

impl Box3d {
    /// The four BEV corners, counter-clockwise, beginning front-left.
    pub fn corners(&self) -> [[f32; 2]; 4] {
        let (s, c) = self.yaw.sin_cos();
        let (hl, hw) = (self.size[0] * 0.5, self.size[1] * 0.5);
        [[hl, hw], [-hl, hw], [-hl, -hw], [hl, -hw]].map(|[x, y]| {
            [
                self.center[0] + c * x - s * y,
                self.center[1] + s * x + c * y,
            ]
        })
    }
}
