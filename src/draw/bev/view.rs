//! The mapping from metres to pixels.

use std::ops::RangeInclusive;

use super::BevOptions;
use crate::boxes::Box3d;
use crate::draw::DrawError;
use crate::draw::canvas::Rect;

/// The picture width in pixels to which line widths and text sizes refer.
const NOMINAL_WIDTH: f32 = 1200.0;
/// The title bar's share of the width.
const TITLE_BAR: f32 = 52.0 / NOMINAL_WIDTH;
/// Smallest and largest side of a picture in pixels.
const SIDES: RangeInclusive<f32> = 64.0..=4096.0;
/// Largest coordinate of a range in metres; f32 pixels lose their fraction beyond it.
const MAX_COORDINATE: f32 = 100_000.0;
/// Smallest side of a range in metres.
const MIN_SPAN: f32 = 0.1;

/// The mapping from metres to pixels.
#[derive(Clone, Copy)]
pub(super) struct View {
    /// Width of the picture in pixels.
    pub(super) width: f32,
    /// Height of the picture in pixels, title bar included.
    pub(super) height: f32,
    /// Height of the title bar in pixels.
    pub(super) bar: f32,
    /// `[min_x, min_y, max_x, max_y]` in metres.
    pub(super) range: [f32; 4],
    /// Pixels per metre.
    pub(super) scale: f32,
    /// A pixel of a picture of [`NOMINAL_WIDTH`], in pixels of this one.
    pub(super) unit: f32,
}

impl View {
    /// Checks the range and the picture's size.
    pub(super) fn new(options: &BevOptions<'_>) -> Result<Self, DrawError> {
        let range = options.range;
        let [min_x, min_y, max_x, max_y] = range;
        if range.iter().any(|v| v.is_nan() || v.abs() > MAX_COORDINATE)
            || max_x - min_x < MIN_SPAN
            || max_y - min_y < MIN_SPAN
        {
            return Err(DrawError::View {
                reason: format!(
                    "range {range:?} is not [min_x, min_y, max_x, max_y] in metres within \
                     ±{MAX_COORDINATE}, at least {MIN_SPAN} to each side"
                ),
            });
        }
        let width = options.size_px as f32;
        let scale = width / (max_y - min_y);
        let bar = (width * TITLE_BAR).round();
        let height = bar + ((max_x - min_x) * scale).round();
        if !SIDES.contains(&width) || !SIDES.contains(&height) {
            return Err(DrawError::View {
                reason: format!(
                    "size_px {width} and range {range:?} make {width} × {height} pixels, \
                     allowed are {} to {} for each side",
                    SIDES.start(),
                    SIDES.end()
                ),
            });
        }
        Ok(Self {
            width,
            height,
            bar,
            range,
            scale,
            unit: width / NOMINAL_WIDTH,
        })
    }

    /// The part below the title bar.
    pub(super) fn map(&self) -> Rect {
        [0.0, self.bar, self.width, self.height]
    }

    /// Converts a position in metres to pixels.
    pub(super) fn pixel(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [_, _, max_x, max_y] = self.range;
        [
            (max_y - y) * self.scale,
            self.bar + (max_x - x) * self.scale,
        ]
    }

    /// Whether the box is finite, no larger than the view, and may be partly inside it.
    pub(super) fn can_show(&self, b: &Box3d) -> bool {
        let [min_x, min_y, max_x, max_y] = self.range;
        let size = b.size[0].max(b.size[1]);
        let (x, y) = (b.center[0], b.center[1]);
        b.yaw.is_finite()
            && b.size[0] >= 0.0
            && b.size[1] >= 0.0
            && size <= (max_x - min_x).max(max_y - min_y)
            && (min_x - size..=max_x + size).contains(&x)
            && (min_y - size..=max_y + size).contains(&y)
    }

    /// The radii of the range rings in metres: multiples of 1, 2 or 5 times a power of ten, at most six along the
    /// longest axis, continued to the corners.
    pub(super) fn rings(&self) -> impl Iterator<Item = f32> + use<> {
        let farthest = self.range.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let least = farthest / 6.0;
        let decade = 10.0_f32.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0]
            .map(|m| m * decade)
            .into_iter()
            .find(|&s| s >= least)
            .unwrap_or(10.0 * decade);
        let count = (farthest * std::f32::consts::SQRT_2 / step) as usize;
        (1..=count).map(move |i| i as f32 * step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_round_numbers_and_reach_the_corners() {
        let rings = |half: f32| -> Vec<f32> {
            let options = BevOptions {
                range: [-half, -half, half, half],
                ..BevOptions::default()
            };
            View::new(&options).unwrap().rings().collect()
        };
        assert_eq!(rings(51.2), [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]);
        assert_eq!(rings(122.4), [50.0, 100.0, 150.0]);
        assert_eq!(rings(76.8), [20.0, 40.0, 60.0, 80.0, 100.0]);
    }
}
