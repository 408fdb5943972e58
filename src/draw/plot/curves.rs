//! Curves, such as latency over points, sweeps or cells.

use super::{Align, Axes, END, LABEL, Names, Plot};
use crate::draw::canvas::paint;
use crate::draw::color::{Rgb, rgb8};

const COLORS: [Rgb; 6] = [
    rgb8(48, 108, 208),
    rgb8(214, 96, 32),
    rgb8(40, 140, 80),
    rgb8(160, 60, 170),
    rgb8(150, 120, 0),
    rgb8(60, 150, 170),
];
const TOP: f32 = 110.0;

/// The contents of the plot.
#[derive(Clone, Debug)]
pub(crate) struct Curves<'a> {
    /// Title of the plot.
    pub title: &'a str,
    /// Fainter line below the title.
    pub subtitle: &'a str,
    /// Name and unit of the horizontal axis.
    pub x: &'a str,
    /// Name and unit of the vertical axis.
    pub y: &'a str,
    /// The curves.
    pub curves: &'a [Curve],
}

/// A curve and its bound, drawn as a fainter line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Horizontal value, vertical value and bound of each point, in ascending order.
    pub points: Vec<[f64; 3]>,
}

/// Plots curves on axes that start at zero. Points that are not finite are skipped.
pub(crate) fn curves(chart: &Curves<'_>) -> Plot {
    let finite = |p: &&[f64; 3]| p.iter().all(|v| v.is_finite());
    let all = chart
        .curves
        .iter()
        .flat_map(|c| c.points.iter().filter(finite));
    let [x, y] = all.fold([0.0f64; 2], |[x, y], p| {
        [x.max(p[0]), y.max(p[1]).max(p[2])]
    });
    let end = |most: f64| if most > 0.0 { most * 1.05 } else { 1.0 };
    let names = Names {
        title: chart.title,
        subtitle: chart.subtitle,
        x: chart.x,
        y: chart.y,
    };
    let mut axes = Axes::new(&names, [0.0, end(x)], [0.0, end(y)], [TOP, END]);
    let [left, ..] = axes.inside();
    for (i, curve) in chart.curves.iter().enumerate() {
        let rgb = COLORS[i % COLORS.len()];
        let pixels = |value: usize| -> Vec<[f32; 2]> {
            let points = curve.points.iter().filter(finite);
            let pixels = points.map(|p| [axes.x.pixel(p[0]), axes.y.pixel(p[value])]);
            pixels.collect()
        };
        let (line, bound) = (pixels(1), pixels(2));
        axes.line(&bound, 1.4, paint(rgb, 0.45));
        axes.line(&line, 2.6, paint(rgb, 1.0));
        for at in line {
            axes.disc(at, 5.0, rgb);
        }
        let row = TOP + 16.0 + 22.0 * i as f32;
        let legend = [[left + 18.0, row], [left + 48.0, row]];
        axes.line(&legend, 2.6, paint(rgb, 1.0));
        let baseline = row + LABEL * 0.5;
        axes.label([left + 58.0, baseline], Align::Left, rgb, &curve.name);
    }
    axes.plot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_reach_their_points_and_take_any_values() {
        let draw = |points: Vec<[f64; 3]>| {
            curves(&Curves {
                title: "",
                subtitle: "",
                x: "points",
                y: "ms",
                curves: &[Curve {
                    name: "int8".into(),
                    points,
                }],
            })
        };
        let drawn = draw(vec![[1e4, 2.0, 3.0], [2e5, 9.0, 11.0]])
            .image()
            .unwrap();
        // The axes are 1.05 times as long as the largest values.
        let x = 92.0 + (1200.0 - 92.0 - 44.0) / 1.05;
        let y = 566.0 - (566.0 - 110.0) * 9.0 / (11.0 * 1.05);
        assert_eq!(drawn.pixel(x as u32, y as u32), Some([48, 108, 208]));
        for odd in [vec![], vec![[0.0; 3]], vec![[f64::NAN, 1.0, f64::INFINITY]]] {
            draw(odd).image().unwrap();
        }
    }
}
