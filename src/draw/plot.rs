//! Plots: a histogram of times with marked percentiles, curves over a number, and panels over the same number.
//!
//! All use the same axes: a title, ticks at round numbers, a grid. A plot is a list of shapes, drawn as a PNG
//! picture or written as SVG. Equal values make equal bytes.

mod curves;
mod histogram;
mod panels;

use std::fmt::Write as _;
use std::path::Path;

pub(crate) use curves::{Curve, Curves, curves};
pub(crate) use histogram::{Histogram, Mark, histogram};
pub(crate) use panels::{Panel, Panels, panels};

use super::canvas::{Canvas, Image, Paint, Rect, paint};
use super::color::{Rgb, rgb8};
use super::{DrawError, font};
use crate::files;

const BACKGROUND: Rgb = rgb8(255, 255, 255);
const TEXT: Rgb = rgb8(32, 36, 48);
const FAINT_TEXT: Rgb = rgb8(96, 104, 124);
const GRID: Rgb = rgb8(226, 230, 238);
const AXIS: Rgb = rgb8(110, 118, 136);

/// Width and height of a plot in pixels.
const SIZE: [u32; 2] = [1200, 640];
/// Height of a capital letter in the title, in pixels.
const TITLE: f32 = 15.0;
/// Height of a capital letter elsewhere.
const LABEL: f32 = 10.5;
/// Margin left of the axes, for the numbers.
const LEFT: f32 = 92.0;
const RIGHT: f32 = 44.0;
const BOTTOM: f32 = 74.0;
/// Lower end of the axes.
const END: f32 = SIZE[1] as f32 - BOTTOM;

/// A finished plot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plot {
    shapes: Vec<Shape>,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Line {
        points: Vec<[f32; 2]>,
        width: f32,
        paint: Paint,
    },
    Rect {
        rect: Rect,
        paint: Paint,
    },
    Disc {
        center: [f32; 2],
        radius: f32,
        rgb: Rgb,
    },
    /// Text whose baseline starts at `at`.
    Text {
        at: [f32; 2],
        size: f32,
        rgb: Rgb,
        text: String,
    },
}

impl Plot {
    /// Writes SVG if the file's extension is `svg`, PNG otherwise.
    ///
    /// # Errors
    /// [`DrawError::File`].
    pub(crate) fn write(&self, path: &Path) -> Result<(), DrawError> {
        let svg = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
        if svg {
            Ok(files::write(path, self.svg().as_bytes())?)
        } else {
            self.image()?.write_png(path)
        }
    }

    /// Draws the plot.
    ///
    /// # Errors
    /// [`DrawError::Size`] if there is not enough memory.
    pub(crate) fn image(&self) -> Result<Image, DrawError> {
        let [width, height] = SIZE;
        let mut canvas = Canvas::new(width, height, BACKGROUND)?;
        for shape in &self.shapes {
            match shape {
                Shape::Line {
                    points,
                    width,
                    paint,
                } => canvas.line(points, *width, *paint),
                Shape::Rect { rect, paint } => canvas.rect(*rect, *paint),
                Shape::Disc {
                    center,
                    radius,
                    rgb,
                } => canvas.disc(*center, *radius, paint(*rgb, 1.0)),
                Shape::Text {
                    at,
                    size,
                    rgb,
                    text,
                } => canvas.text(*at, *size, paint(*rgb, 1.0), text),
            }
        }
        Ok(canvas.finish())
    }

    /// The plot as SVG. Texts stay text; `textLength` keeps their width where the viewer uses another font.
    pub(crate) fn svg(&self) -> String {
        let [width, height] = SIZE;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{}, Helvetica, Arial, sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"{}\"/>\n",
            font::FAMILY,
            hex(BACKGROUND)
        );
        for shape in &self.shapes {
            // Writing to a String cannot fail.
            let _ = match shape {
                Shape::Line {
                    points,
                    width,
                    paint,
                } => {
                    let points = points.iter().map(|&[x, y]| format!("{},{}", px(x), px(y)));
                    let points = points.collect::<Vec<_>>().join(" ");
                    let color = attributes("stroke", *paint);
                    writeln!(
                        out,
                        "<polyline points=\"{points}\" fill=\"none\" {color} stroke-width=\"{}\" \
                         stroke-linecap=\"round\" stroke-linejoin=\"round\"/>",
                        px(*width)
                    )
                }
                Shape::Rect { rect, paint } => {
                    let [left, top, right, bottom] = *rect;
                    writeln!(
                        out,
                        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {}/>",
                        px(left),
                        px(top),
                        px(right - left),
                        px(bottom - top),
                        attributes("fill", *paint)
                    )
                }
                Shape::Disc {
                    center: [x, y],
                    radius,
                    rgb,
                } => writeln!(
                    out,
                    "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{}\"/>",
                    px(*x),
                    px(*y),
                    px(*radius),
                    hex(*rgb)
                ),
                Shape::Text {
                    at: [x, y],
                    size,
                    rgb,
                    text,
                } => writeln!(
                    out,
                    "<text x=\"{}\" y=\"{}\" font-size=\"{}\" textLength=\"{}\" \
                     lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\" fill=\"{}\">{}</text>",
                    px(*x),
                    px(*y),
                    px(size * font::EM),
                    px(size * font::width(text)),
                    hex(*rgb),
                    escape(text)
                ),
            };
        }
        out.push_str("</svg>\n");
        out
    }
}

/// Rounds to hundredths of a pixel; 0 if not finite.
fn px(value: f32) -> f32 {
    if value.is_finite() {
        // Adding 0 turns −0 into 0.
        (value * 100.0).round() / 100.0 + 0.0
    } else {
        0.0
    }
}

fn hex(rgb: Rgb) -> String {
    let [r, g, b] = rgb.map(|v| (v * 255.0 + 0.5) as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The attributes of a fill or stroke.
fn attributes(name: &str, paint: Paint) -> String {
    let color = hex(paint.rgb);
    if paint.alpha < 1.0 {
        format!("{name}=\"{color}\" {name}-opacity=\"{}\"", paint.alpha)
    } else {
        format!("{name}=\"{color}\"")
    }
}

/// Escapes a text for XML, which has no control characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

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

    /// About `count` round numbers within the scale, and the number of decimals they need.
    fn ticks(&self, count: usize) -> (Vec<f64>, usize) {
        let [low, high] = self.values;
        let step = round_step((high - low) / count as f64);
        let first = (low / step).ceil();
        let last = ((high / step) + 1e-9).floor();
        // Bounds the work if the scale is degenerate; otherwise there are about `count` steps.
        let steps = (last - first).clamp(0.0, 10.0 * count as f64) as usize;
        let ticks = (0..=steps).map(|i| (first + i as f64) * step);
        let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
        (ticks.collect(), decimals)
    }
}

/// The smallest number that is 1, 2 or 5 times a power of ten and at least `step`.
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

/// The texts at the axes.
struct Names<'a> {
    title: &'a str,
    /// Below the title, fainter.
    subtitle: &'a str,
    x: &'a str,
    y: &'a str,
}

/// A plot being drawn, with axes.
struct Axes {
    plot: Plot,
    x: Scale,
    y: Scale,
}

/// Which part of a text its position refers to.
#[derive(Clone, Copy)]
enum Align {
    Left,
    Center,
    Right,
}

impl Axes {
    /// Draws axes for values from `x[0]` to `x[1]` and from `y[0]` to `y[1]`; `top` and `bottom` are their
    /// ends in pixels.
    fn new(names: &Names<'_>, x: [f64; 2], y: [f64; 2], [top, bottom]: [f32; 2]) -> Self {
        let right = SIZE[0] as f32 - RIGHT;
        let mut axes = Self {
            plot: Plot { shapes: vec![] },
            x: Scale {
                values: x,
                pixels: [LEFT, right],
            },
            y: Scale {
                values: y,
                pixels: [bottom, top],
            },
        };
        axes.text([LEFT, 38.0], Align::Left, TITLE, TEXT, names.title);
        axes.label([LEFT, 62.0], Align::Left, FAINT_TEXT, names.subtitle);
        let (ticks, decimals) = axes.x.ticks(12);
        for tick in ticks {
            let at = axes.x.pixel(tick);
            axes.line(&[[at, top], [at, bottom]], 1.0, paint(GRID, 1.0));
            let label = format!("{tick:.decimals$}");
            axes.label([at, bottom + 22.0], Align::Center, FAINT_TEXT, &label);
        }
        let (ticks, decimals) = axes.y.ticks(8);
        for tick in ticks {
            let at = axes.y.pixel(tick);
            axes.line(&[[LEFT, at], [right, at]], 1.0, paint(GRID, 1.0));
            let label = format!("{tick:.decimals$}");
            let baseline = at + LABEL * 0.5;
            axes.label([LEFT - 10.0, baseline], Align::Right, FAINT_TEXT, &label);
        }
        axes.line(&[[LEFT, bottom], [right, bottom]], 1.5, paint(AXIS, 1.0));
        axes.label([right, bottom + 50.0], Align::Right, TEXT, names.x);
        axes.label([LEFT - 10.0, top - 12.0], Align::Right, TEXT, names.y);
        axes
    }

    /// Writes a label; its baseline is at `at`.
    fn label(&mut self, at: [f32; 2], align: Align, rgb: Rgb, text: &str) {
        self.text(at, align, LABEL, rgb, text);
    }

    fn text(&mut self, [x, y]: [f32; 2], align: Align, size: f32, rgb: Rgb, text: &str) {
        let left = match align {
            Align::Left => x,
            Align::Center => x - font::width(text) * size * 0.5,
            Align::Right => x - font::width(text) * size,
        };
        if !text.is_empty() {
            self.plot.shapes.push(Shape::Text {
                at: [left, y],
                size,
                rgb,
                text: text.to_owned(),
            });
        }
    }

    fn line(&mut self, points: &[[f32; 2]], width: f32, paint: Paint) {
        self.plot.shapes.push(Shape::Line {
            points: points.to_vec(),
            width,
            paint,
        });
    }

    fn rect(&mut self, rect: Rect, paint: Paint) {
        self.plot.shapes.push(Shape::Rect { rect, paint });
    }

    fn disc(&mut self, center: [f32; 2], radius: f32, rgb: Rgb) {
        self.plot.shapes.push(Shape::Disc {
            center,
            radius,
            rgb,
        });
    }

    /// The rectangle between the axes.
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
    fn scales_are_linear_and_may_be_reversed() {
        let scale = Scale {
            values: [2.0, 4.0],
            pixels: [500.0, 100.0],
        };
        assert_eq!(
            [2.0, 3.0, 4.0].map(|v| scale.pixel(v)),
            [500.0, 300.0, 100.0]
        );
    }

    fn plot(title: &str) -> Plot {
        let mut axes = Axes::new(
            &Names {
                title,
                subtitle: "",
                x: "x",
                y: "ms",
            },
            [0.0, 1.0],
            [0.0, 1.0],
            [100.0, END],
        );
        axes.line(&[[100.0, 200.0], [300.0, 200.0]], 4.0, paint(AXIS, 0.5));
        axes.disc([400.0, 300.0], 5.0, AXIS);
        axes.rect([500.0, 400.0, 600.0, 500.0], paint(AXIS, 1.0));
        axes.plot
    }

    #[test]
    fn svg_has_the_shapes_and_texts_of_the_picture() {
        let plot = plot("a < b & \"c\"\u{1}");
        let svg = plot.svg();
        for part in [
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="640" viewBox="0 0 1200 640""##,
            r##"<polyline points="100,200 300,200" fill="none" stroke="#6e7688" stroke-opacity="0.5" stroke-width="4""##,
            r##"<circle cx="400" cy="300" r="5" fill="#6e7688"/>"##,
            r##"<rect x="500" y="400" width="100" height="100" fill="#6e7688"/>"##,
            "&gt;a &lt; b &amp; &quot;c&quot;\u{fffd}</text>".trim_start_matches("&gt;"),
        ] {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        let image = plot.image().unwrap();
        assert_eq!((image.width(), image.height()), (1200, 640));
        assert_eq!(image.pixel(550, 450), Some([110, 118, 136]));
        assert_eq!(image.pixel(400, 300), Some([110, 118, 136]));
        // Half of the line's colour on white.
        let [r, ..] = image.pixel(200, 200).unwrap();
        assert!(r.abs_diff(183) <= 2, "{r}");
    }

    #[test]
    fn the_extension_selects_the_format() {
        let dir = tempfile::tempdir().unwrap();
        let written = |name: &str| {
            let path = dir.path().join(name);
            plot("").write(&path).unwrap();
            std::fs::read(path).unwrap()
        };
        assert!(written("a.svg").starts_with(b"<svg "));
        assert!(written("a.SVG").starts_with(b"<svg "));
        for png in ["a.png", "a"] {
            assert!(written(png).starts_with(b"\x89PNG"));
        }
        let missing = dir.path().join("no/folder.svg");
        let error = plot("").write(&missing).unwrap_err().to_string();
        assert!(error.contains("folder.svg: cannot create"), "{error}");
    }
}
