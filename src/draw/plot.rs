//! Charts of measured times: a histogram with percentiles marked, and curves over a number.
//!
//! Both are drawn on the same axes: a title, ticks at round numbers, a grid. The same values give the same bytes.

mod curves;
mod histogram;

pub use curves::{Curve, Curves, curves};
pub use histogram::{Histogram, Mark, histogram};

use super::color::{Rgb, rgb8};
use super::font;
use super::raster::{Canvas, Paint, Rect, paint};

const BACKGROUND: Rgb = rgb8(255, 255, 255);
const TEXT: Rgb = rgb8(32, 36, 48);
const FAINT_TEXT: Rgb = rgb8(96, 104, 124);
const GRID: Rgb = rgb8(226, 230, 238);
const AXIS: Rgb = rgb8(110, 118, 136);

/// Size of a chart in pixels.
const SIZE: [usize; 2] = [1200, 640];
/// Height of capitals.
const TITLE: f32 = 15.0;
const LABEL: f32 = 10.5;
/// Margin left of the axes, which holds the numbers.
const LEFT: f32 = 92.0;
const RIGHT: f32 = 44.0;
const BOTTOM: f32 = 74.0;

/// A linear scale from values to pixels.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Values at both ends.
    values: [f64; 2],
    /// Pixels at both ends.
    pixels: [f32; 2],
}

impl Scale {
    fn pixel(&self, value: f64) -> f32 {
        let [low, high] = self.values;
        let share = ((value - low) / (high - low)) as f32;
        self.pixels[0] + (self.pixels[1] - self.pixels[0]) * share
    }

    /// About `count` round numbers within the scale, and the decimals that they need.
    fn ticks(&self, count: usize) -> (Vec<f64>, usize) {
        let [low, high] = self.values;
        let step = round_step((high - low) / count as f64);
        let first = (low / step).ceil();
        let last = ((high / step) + 1e-9).floor();
        // A step is at least a `count`-th of five times the range: no more ticks than this.
        let steps = (last - first).clamp(0.0, 10.0 * count as f64) as usize;
        let ticks = (0..=steps).map(|i| (first + i as f64) * step);
        let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
        (ticks.collect(), decimals)
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    if !(step > 0.0 && step.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0];
    let found = times
        .iter()
        .find(|times| *times * power >= step * 0.999_999);
    found.map_or(10.0 * power, |times| times * power)
}

/// What the axes are called.
struct Names<'a> {
    title: &'a str,
    /// Under the title, fainter.
    subtitle: &'a str,
    x: &'a str,
    y: &'a str,
}

/// A canvas with axes.
struct Axes {
    canvas: Canvas,
    x: Scale,
    y: Scale,
}

impl Axes {
    /// Draws them for values `x` and `y` from the lowest to the highest, the plot's top at pixel `top`.
    fn new(names: &Names<'_>, x: [f64; 2], y: [f64; 2], top: f32) -> Self {
        let [width, height] = SIZE;
        let (right, bottom) = (width as f32 - RIGHT, height as f32 - BOTTOM);
        let mut axes = Self {
            canvas: Canvas::new(width, height, BACKGROUND),
            x: Scale {
                values: x,
                pixels: [LEFT, right],
            },
            y: Scale {
                values: y,
                pixels: [bottom, top],
            },
        };
        axes.text([LEFT, 38.0], TITLE, TEXT, names.title);
        axes.text([LEFT, 62.0], LABEL, FAINT_TEXT, names.subtitle);
        let (ticks, decimals) = axes.x.ticks(12);
        for tick in ticks {
            let at = axes.x.pixel(tick);
            axes.line([at, top], [at, bottom], 1.0, paint(GRID, 1.0));
            let label = format!("{tick:.decimals$}");
            let left = at - font::width(&label) * LABEL * 0.5;
            axes.text([left, bottom + 22.0], LABEL, FAINT_TEXT, &label);
        }
        let (ticks, decimals) = axes.y.ticks(8);
        for tick in ticks {
            let at = axes.y.pixel(tick);
            axes.line([LEFT, at], [right, at], 1.0, paint(GRID, 1.0));
            let label = format!("{tick:.decimals$}");
            let left = LEFT - 10.0 - font::width(&label) * LABEL;
            axes.text([left, at + LABEL * 0.5], LABEL, FAINT_TEXT, &label);
        }
        axes.line([LEFT, bottom], [right, bottom], 1.5, paint(AXIS, 1.0));
        let left = right - font::width(names.x) * LABEL;
        axes.text([left, bottom + 50.0], LABEL, TEXT, names.x);
        let left = LEFT - 10.0 - font::width(names.y) * LABEL;
        axes.text([left.max(4.0), top - 12.0], LABEL, TEXT, names.y);
        axes
    }

    fn text(&mut self, at: [f32; 2], size: f32, rgb: Rgb, text: &str) {
        let weight = (size * 0.12).max(1.2);
        self.canvas.text(at, size, weight, paint(rgb, 1.0), text);
    }

    fn line(&mut self, from: [f32; 2], to: [f32; 2], width: f32, paint: Paint) {
        self.canvas.stroke(&[from, to], false, width, paint);
    }

    /// The plot's left, top, right, bottom.
    fn inside(&self) -> Rect {
        let ([left, right], [bottom, top]) = (self.x.pixels, self.y.pixels);
        [left, top, right, bottom]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_scale() {
        let ticks = |low, high, count| {
            let scale = Scale {
                values: [low, high],
                pixels: [0.0, 1.0],
            };
            scale.ticks(count)
        };
        assert_eq!(ticks(0.0, 100.0, 10).0.len(), 11);
        assert_eq!(ticks(0.3, 1.7, 5), (vec![0.5, 1.0, 1.5], 1));
        assert_eq!(ticks(0.0, 0.04, 4), (vec![0.0, 0.01, 0.02, 0.03, 0.04], 2));
        assert_eq!(
            ticks(9_000.0, 31_000.0, 4).0,
            [10_000.0, 20_000.0, 30_000.0]
        );
        assert!(ticks(5.0, 5.0, 4).0.len() < 3);
    }

    #[test]
    fn scales_are_linear_and_may_fall() {
        let scale = Scale {
            values: [2.0, 4.0],
            pixels: [500.0, 100.0],
        };
        assert_eq!(
            [2.0, 3.0, 4.0].map(|v| scale.pixel(v)),
            [500.0, 300.0, 100.0]
        );
    }
}
