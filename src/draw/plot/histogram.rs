//! A histogram of times with vertical lines, such as at the median and at percentiles.

use super::{Align, Axes, END, LABEL, Names, Plot, TEXT};
use crate::draw::canvas::paint;
use crate::draw::color::{Rgb, rgb8};
use crate::draw::font;

const BAR: Rgb = rgb8(64, 128, 220);
/// Colours of the marks, calm to alarming.
const MARKS: [Rgb; 5] = [
    rgb8(20, 120, 70),
    rgb8(170, 130, 0),
    rgb8(214, 106, 0),
    rgb8(204, 40, 40),
    rgb8(140, 20, 90),
];
/// Top of the first mark's name, in pixels.
const MARKS_TOP: f32 = 92.0;
/// Distance between the names of two marks.
const MARK_STEP: f32 = 20.0;
/// Smallest and largest number of bars.
const BARS: [f64; 2] = [10.0, 150.0];
/// The axis ends a little beyond this percentile unless the longest time is close to it.
const TAIL: f64 = 99.5;

/// The contents of the plot.
#[derive(Clone, Debug)]
pub(crate) struct Histogram<'a> {
    /// Title of the plot.
    pub title: &'a str,
    /// Fainter line below the title.
    pub subtitle: &'a str,
    /// The times, in any order.
    pub values: &'a [f64],
    /// Their unit.
    pub unit: &'a str,
    /// Vertical lines, in ascending order.
    pub marks: &'a [Mark],
}

/// A named vertical line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mark {
    /// Its name, such as `99 %`.
    pub name: String,
    /// Its position, in the unit of the times.
    pub value: f64,
}

/// Plots a histogram. Rare long times would squeeze all others into a few pixels, so the axis ends before them and
/// a note counts them. Values that are not finite are skipped; without values the plot is empty.
pub(crate) fn histogram(histogram: &Histogram<'_>) -> Plot {
    let mut sorted: Vec<f64> = histogram.values.to_vec();
    sorted.retain(|v| v.is_finite());
    sorted.sort_by(f64::total_cmp);
    let range = range(&sorted, histogram.marks);
    let counts = counts(&sorted, range);
    let most = counts.iter().max().copied().unwrap_or(0).max(1) as f64;
    let names = Names {
        title: histogram.title,
        subtitle: histogram.subtitle,
        x: histogram.unit,
        y: "frames",
    };
    let top = MARKS_TOP + MARK_STEP * (histogram.marks.len() + 1) as f32;
    let mut axes = Axes::new(&names, range, [0.0, most * 1.05], [top, END]);
    let [left, _, right, bottom] = axes.inside();
    let width = (right - left) / counts.len() as f32;
    for (i, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let x = left + width * i as f32;
        // Keeps a count of one visible.
        let y = axes.y.pixel(count as f64).min(bottom - 1.5);
        let bar = [x + 0.5, y, x + width - 0.5, bottom];
        axes.rect(bar, paint(BAR, 0.9));
    }
    for (i, mark) in histogram.marks.iter().enumerate() {
        draw_mark(&mut axes, i, mark, histogram.unit);
    }
    let beyond = sorted.iter().filter(|v| **v > range[1]).count();
    if let (1.., Some(longest)) = (beyond, sorted.last()) {
        let plural = if beyond == 1 { "" } else { "s" };
        let text = format!(
            "{beyond} frame{plural} beyond, up to {longest:.2} {} »",
            histogram.unit
        );
        axes.label([right - 4.0, bottom - 14.0], Align::Right, TEXT, &text);
    }
    axes.plot
}

/// Draws a mark. Its name has a row of its own, so names of close marks do not overlap.
fn draw_mark(axes: &mut Axes, index: usize, mark: &Mark, unit: &str) {
    let [left, _, right, bottom] = axes.inside();
    let rgb = MARKS[index.min(MARKS.len() - 1)];
    let row = MARKS_TOP + MARK_STEP * index as f32;
    let text = format!("{}  {:.2} {unit}", mark.name, mark.value);
    let width = font::width(&text) * LABEL;
    let x = axes.x.pixel(mark.value);
    if x > right {
        axes.label(
            [right, row + LABEL],
            Align::Right,
            rgb,
            &format!("{text} »"),
        );
        return;
    }
    let x = x.max(left);
    axes.line(&[[x, row - 2.0], [x, bottom]], 1.6, paint(rgb, 1.0));
    let (x, align) = if x + 8.0 + width > right {
        (x - 8.0, Align::Right)
    } else {
        (x + 8.0, Align::Left)
    };
    axes.label([x, row + LABEL], align, rgb, &text);
}

/// The ends of the axis: the shortest time, and the longest or one a little beyond [`TAIL`].
fn range(sorted: &[f64], marks: &[Mark]) -> [f64; 2] {
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else {
        return [0.0, 1.0];
    };
    let at = ((sorted.len() - 1) as f64 * TAIL / 100.0) as usize;
    let tail = first + (sorted[at] - first) * 1.25;
    let near = first + (sorted[at] - first) * 2.0;
    let end = if last <= near { last } else { tail };
    // A mark just beyond the end extends the axis.
    let marks = marks.iter().map(|mark| mark.value);
    let end = marks.filter(|v| *v <= near).fold(end, f64::max);
    let margin = ((end - first) * 0.03).max(first.abs() * 1e-3).max(1e-9);
    [first - margin, end + margin]
}

/// The number of times in each bar. All bars have the width of Freedman and Diaconis's rule, within [`BARS`].
fn counts(sorted: &[f64], [low, high]: [f64; 2]) -> Vec<usize> {
    let n = sorted.len();
    let bars = if n < 2 {
        BARS[0]
    } else {
        let quartiles = sorted[3 * n / 4] - sorted[n / 4];
        let width = 2.0 * quartiles / (n as f64).cbrt();
        // `max` also handles a width of 0.
        ((high - low) / width.max((high - low) / BARS[1])).clamp(BARS[0], BARS[1])
    };
    let bars = bars.ceil() as usize;
    let mut counts = vec![0; bars];
    for value in sorted.iter().filter(|v| (low..=high).contains(*v)) {
        let bar = ((value - low) / (high - low) * bars as f64) as usize;
        counts[bar.min(bars - 1)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::canvas::Image;

    #[test]
    fn every_time_in_range_is_in_one_bar() {
        let values: Vec<f64> = (0..1000).map(|i| 5.0 + f64::from(i % 37) * 0.01).collect();
        let mut sorted = values;
        sorted.sort_by(f64::total_cmp);
        let found = counts(&sorted, range(&sorted, &[]));
        assert_eq!(found.iter().sum::<usize>(), 1000);
        assert!((10..=150).contains(&found.len()));
        // Equal times.
        let same = [2.0; 50];
        assert_eq!(counts(&same, range(&same, &[])).iter().sum::<usize>(), 50);
        assert_eq!(counts(&[], range(&[], &[])).iter().sum::<usize>(), 0);
    }

    #[test]
    fn a_rare_long_time_does_not_extend_the_axis() {
        let mut sorted: Vec<f64> = (0..999).map(|i| 5.0 + f64::from(i) * 0.001).collect();
        sorted.push(90.0);
        let [low, high] = range(&sorted, &[]);
        assert!(low < 5.0 && high > 5.99 && high < 6.5, "{low} {high}");
        // A close one does.
        sorted[999] = 6.5;
        assert!(range(&sorted, &[])[1] > 6.5);
    }

    #[test]
    fn bars_and_marks_are_drawn_for_any_values() {
        let values: Vec<f64> = (0..500).map(|i| 5.0 + f64::from(i % 23) * 0.02).collect();
        let mark = |value| Mark {
            name: "99 %".into(),
            value,
        };
        let draw = |values: &[f64], marks: &[Mark]| {
            histogram(&Histogram {
                title: "title",
                subtitle: "",
                values,
                unit: "ms",
                marks,
            })
            .image()
            .unwrap()
        };
        let count = |image: &Image, [r, g, b]: [u8; 3]| {
            let near = |p: [u8; 3]| {
                let differ = p.iter().zip([r, g, b]).map(|(a, b)| a.abs_diff(b));
                differ.max() <= Some(24)
            };
            let (width, height) = (image.width(), image.height());
            let all = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
            all.filter(|&(x, y)| image.pixel(x, y).is_some_and(near))
                .count()
        };
        let plain = draw(&values, &[]);
        assert!(count(&plain, [83, 141, 224]) > 50_000);
        let green = [20, 120, 70];
        assert_eq!(count(&plain, green), 0);
        assert!(count(&draw(&values, &[mark(5.2)]), green) > 300);
        for odd in [
            vec![],
            vec![1.0],
            vec![f64::NAN, f64::INFINITY],
            vec![0.0; 9],
        ] {
            draw(&odd, &[mark(f64::NAN), mark(1e300)]);
        }
    }
}
