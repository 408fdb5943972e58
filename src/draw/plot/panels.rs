//! Panels, one below the other over the same quantity, such as loss and accuracy over the steps of a training.

use super::{Axes, END, Names, Plot};
use crate::draw::canvas::paint;
use crate::draw::color::{Rgb, rgb8};

const COLORS: [Rgb; 2] = [rgb8(48, 108, 208), rgb8(214, 96, 32)];
const LEVEL: Rgb = rgb8(110, 118, 136);
/// Upper end of the first panel, and the space between two, in pixels.
const TOP: f32 = 110.0;
const GAP: f32 = 64.0;
/// Most points of a line; more are averaged.
const MOST_POINTS: usize = 500;
/// Share of the values' range that is left free above and below.
const MARGIN: f64 = 0.06;

/// The contents of the plot.
#[derive(Clone, Debug)]
pub(crate) struct Panels<'a> {
    /// Title of the plot.
    pub title: &'a str,
    /// Fainter line below the title.
    pub subtitle: &'a str,
    /// Name and unit of the horizontal axis.
    pub x: &'a str,
    /// From top to bottom.
    pub panels: &'a [Panel<'a>],
}

/// A line over axes of its own.
#[derive(Clone, Debug)]
pub(crate) struct Panel<'a> {
    /// Name and unit of the vertical axis.
    pub y: &'a str,
    /// Its points in ascending order; those that are not finite are skipped.
    pub points: &'a [[f64; 2]],
    /// Marks each point.
    pub dots: bool,
    /// A value to compare with, drawn as a fainter line.
    pub level: Option<f64>,
}

/// Draws panels. Their vertical axes cover their values.
pub(crate) fn panels(chart: &Panels<'_>) -> Plot {
    let all = chart.panels.iter().flat_map(|panel| panel.points);
    let last = all.filter(|p| p[0].is_finite()).map(|p| p[0]);
    let x = [0.0, last.fold(1.0f64, f64::max) * 1.02];
    let count = chart.panels.len().max(1) as f32;
    let height = (END - TOP - GAP * (count - 1.0)) / count;
    let mut plot = Plot { shapes: Vec::new() };
    for (i, panel) in chart.panels.iter().enumerate() {
        let first = i == 0;
        let names = Names {
            title: if first { chart.title } else { "" },
            subtitle: if first { chart.subtitle } else { "" },
            x: if i + 1 == chart.panels.len() {
                chart.x
            } else {
                ""
            },
            y: panel.y,
        };
        let top = TOP + i as f32 * (height + GAP);
        let points = thin(panel.points);
        let values = points.iter().map(|p| p[1]).chain(panel.level);
        let mut axes = Axes::new(&names, x, range(values), [top, top + height]);
        let [left, _, right, _] = axes.inside();
        if let Some(level) = panel.level.filter(|level| level.is_finite()) {
            let y = axes.y.pixel(level);
            axes.line(&[[left, y], [right, y]], 1.4, paint(LEVEL, 0.8));
        }
        let rgb = COLORS[i % COLORS.len()];
        let pixels = points.iter();
        let pixels: Vec<[f32; 2]> = pixels
            .map(|p| [axes.x.pixel(p[0]), axes.y.pixel(p[1])])
            .collect();
        axes.line(&pixels, 2.2, paint(rgb, 1.0));
        for at in pixels.into_iter().filter(|_| panel.dots) {
            axes.disc(at, 4.0, rgb);
        }
        plot.shapes.extend(axes.plot.shapes);
    }
    plot
}

/// The finite points, at most about [`MOST_POINTS`]: each is then the mean of several.
fn thin(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let finite = points.iter().filter(|p| p.iter().all(|v| v.is_finite()));
    let finite: Vec<[f64; 2]> = finite.copied().collect();
    let each = finite.len().div_ceil(MOST_POINTS).max(1);
    let mean = |part: &[[f64; 2]]| {
        [0, 1].map(|i| part.iter().map(|p| p[i]).sum::<f64>() / part.len() as f64)
    };
    finite.chunks(each).map(mean).collect()
}

/// The ends of an axis for `values`.
fn range(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let finite = values.filter(|v| v.is_finite());
    let [low, high] = finite.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| {
        [low.min(v), high.max(v)]
    });
    if low > high {
        return [0.0, 1.0];
    }
    let margin = if high > low {
        (high - low) * MARGIN
    } else {
        high.abs().max(1.0) * MARGIN
    };
    [low - margin, high + margin]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(points: &[[f64; 2]], level: Option<f64>) -> Plot {
        let panel = |dots| Panel {
            y: "loss",
            points,
            dots,
            level,
        };
        panels(&Panels {
            title: "Training",
            subtitle: "",
            x: "step",
            panels: &[panel(false), panel(true)],
        })
    }

    #[test]
    fn panels_lie_below_each_other_and_take_any_values() {
        let drawn = draw(&[[10.0, 1.0], [20.0, 3.0]], Some(2.0));
        let image = drawn.image().unwrap();
        let x = 92.0 + (1200.0 - 92.0 - 44.0) / 1.02;
        // Both panels are 196 pixels high; the highest point is 6 % of 2 below the end of an axis of 2.24.
        let below = 196.0 * 0.12 / 2.24;
        for (top, color) in [(110.0, [48, 108, 208]), (370.0, [214, 96, 32])] {
            let y = top + below;
            assert_eq!(image.pixel(x as u32 - 1, y as u32), Some(color), "{top}");
        }
        assert_eq!(drawn.svg().matches(">Training</text>").count(), 1);
        for odd in [&[][..], &[[0.0, 0.0]], &[[1.0, f64::NAN], [2.0, 5.0]]] {
            draw(odd, Some(f64::INFINITY)).image().unwrap();
        }
    }

    #[test]
    fn long_lines_are_averaged() {
        let points: Vec<[f64; 2]> = (0..2000).map(|i| [f64::from(i), 1.0]).collect();
        let found = thin(&points);
        assert_eq!((found.len(), found[0]), (500, [1.5, 1.0]));
    }
}
