//! Colours of the BEV picture: the height scale and the class palette.
//!
//! Colours are sRGB, each channel 0..=1.

/// An sRGB colour.
pub(super) type Rgb = [f32; 3];

/// Steps of the height scale.
pub(super) const SCALE_STEPS: usize = 256;

/// A colour from 8-bit sRGB channels.
pub(super) const fn rgb8(r: u8, g: u8, b: u8) -> Rgb {
    [r as f32 / 255.0, g as f32 / 255.0, b as f32 / 255.0]
}

/// The class colours, warm or saturated to stand out from the cool height scale.
const CLASSES: [Rgb; 10] = [
    rgb8(255, 184, 28),
    rgb8(255, 104, 74),
    rgb8(240, 72, 164),
    rgb8(166, 226, 46),
    rgb8(196, 140, 255),
    rgb8(255, 240, 120),
    rgb8(255, 150, 110),
    rgb8(255, 150, 210),
    rgb8(120, 240, 170),
    rgb8(226, 232, 240),
];

/// The colour of class `index`; the palette repeats after ten.
pub(crate) fn class(index: u32) -> Rgb {
    CLASSES[index as usize % CLASSES.len()]
}

/// The height scale from low to high: indigo, blue, teal, pale yellow. Lightness rises evenly in OKLab (B. Ottosson,
/// 2020), which makes equal steps of height look alike.
pub(super) fn height_scale() -> [Rgb; SCALE_STEPS] {
    std::array::from_fn(|i| {
        let t = i as f32 / (SCALE_STEPS - 1) as f32;
        let lightness = 0.42 + 0.52 * t;
        // Highest in the middle: sRGB has neither a dark saturated indigo nor a pale saturated yellow.
        let chroma = 0.075 + 0.17 * t * (1.0 - t);
        let hue = (278.0 - 168.0 * t).to_radians();
        oklab_to_srgb([lightness, chroma * hue.cos(), chroma * hue.sin()])
    })
}

/// OKLab to sRGB, clipped to its gamut.
fn oklab_to_srgb([lightness, a, b]: [f32; 3]) -> Rgb {
    let l = (lightness + 0.396_337_78 * a + 0.215_803_76 * b).powi(3);
    let m = (lightness - 0.105_561_346 * a - 0.063_854_17 * b).powi(3);
    let s = (lightness - 0.089_484_18 * a - 1.291_485_5 * b).powi(3);
    [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_38 * s,
        -0.004_196_086_3 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ]
    .map(|linear| {
        let encoded = if linear <= 0.003_130_8 {
            12.92 * linear
        } else {
            1.055 * linear.powf(1.0 / 2.4) - 0.055
        };
        encoded.clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oklab_known_values() {
        // The white point, and pure red from the reference implementation.
        for (lab, srgb) in [
            ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
            ([0.627_955, 0.224_863, 0.125_846], [1.0, 0.0, 0.0]),
        ] {
            let found = oklab_to_srgb(lab);
            for (f, e) in found.iter().zip(srgb) {
                assert!((f - e).abs() < 2e-3, "{found:?} {srgb:?}");
            }
        }
    }

    #[test]
    fn the_height_scale_grows_lighter() {
        let luminance = |c: &Rgb| {
            let [r, g, b] = c.map(|v| v.powf(2.2));
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let light = height_scale().map(|c| luminance(&c));
        assert!(light.windows(2).all(|w| w[0] < w[1]));
        assert!(light[0] < 0.1 && light[SCALE_STEPS - 1] > 0.75, "{light:?}");
    }
}
