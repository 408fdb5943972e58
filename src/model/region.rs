//! Boxes of space that a description gives as six numbers: the least x, y, z, then the greatest, in metres.

/// Whether the numbers are the least x, y, z of a box and the greatest.
pub fn is_box([x0, y0, z0, x1, y1, z1]: &[f64; 6]) -> bool {
    x0 < x1 && y0 < y1 && z0 < z1 && [x0, y0, z0, x1, y1, z1].iter().all(|v| v.is_finite())
}

/// The two corners of a box.
pub fn corners([x0, y0, z0, x1, y1, z1]: [f64; 6]) -> [[f32; 3]; 2] {
    [[x0, y0, z0], [x1, y1, z1]].map(|corner| corner.map(|v| v as f32))
}
