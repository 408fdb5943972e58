//! A small antialiased rasteriser: what the BEV picture needs, and no more.
//!
//! Every shape is a signed distance in pixels (negative inside), and a pixel's coverage is how far
//! its centre lies within: `0.5 − distance`, clamped to 0..=1. Pixel (0, 0) is the top left one, its
//! centre at (0.5, 0.5), y down. Colours are blended as sRGB values.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::color::Rgb;
use super::font;
use super::DrawError;

/// A finished picture: 8-bit sRGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Image {
    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Red, green and blue of the pixel in column `x` and row `y` from the top; `None` outside.
    pub fn pixel(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        if x >= self.width {
            return None;
        }
        let index = y as usize * self.width as usize + x as usize;
        self.rgb.as_chunks::<3>().0.get(index).copied()
    }

    /// Writes the picture as a PNG file.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub fn write_png(&self, path: &Path) -> Result<(), DrawError> {
        let file = File::create(path).map_err(DrawError::io(path, "create"))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Balanced);
        encoder
            .write_header()
            .and_then(|mut writer| {
                writer.write_image_data(&self.rgb)?;
                writer.finish()
            })
            .map_err(|e| DrawError::io(path, "write")(e.into()))
    }
}

/// A colour and how much of it covers what is below.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) rgb: Rgb,
    pub(super) alpha: f32,
}

/// A [`Paint`] from its parts.
pub(super) const fn paint(rgb: Rgb, alpha: f32) -> Paint {
    Paint { rgb, alpha }
}

/// Left, top, right, bottom in pixels.
pub(super) type Rect = [f32; 4];

/// The picture while it is drawn.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    clip: Rect,
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// A canvas of `width × height` pixels in one colour.
    pub(super) fn new(width: usize, height: usize, background: Rgb) -> Self {
        Self {
            width,
            height,
            clip: [0.0, 0.0, width as f32, height as f32],
            pixels: vec![background; width * height],
        }
    }

    /// From now on nothing outside of `clip` changes.
    pub(super) fn set_clip(&mut self, clip: Rect) {
        self.clip = clip;
    }

    /// Rounds to 8 bits.
    pub(super) fn finish(self) -> Image {
        Image {
            // Both fit: `new` got them from a checked size.
            width: self.width as u32,
            height: self.height as u32,
            rgb: self
                .pixels
                .iter()
                .flatten()
                .map(|v| (v * 255.0 + 0.5) as u8)
                .collect(),
        }
    }

    /// Paints every pixel near `bounds` by the coverage that `distance` (of the pixel's centre)
    /// gives. Bounds that are not finite paint nothing.
    pub(super) fn shade(&mut self, bounds: Rect, paint: Paint, distance: impl Fn([f32; 2]) -> f32) {
        if bounds.iter().any(|v| !v.is_finite()) {
            return;
        }
        // Saturating casts: what lies off the canvas becomes an empty range.
        let low = |v: f32, clip: f32| (v - 0.5).floor().max(clip) as usize;
        let high =
            |v: f32, clip: f32, limit: usize| ((v + 0.5).ceil().min(clip) as usize).min(limit);
        let columns = low(bounds[0], self.clip[0])..high(bounds[2], self.clip[2], self.width);
        let rows = low(bounds[1], self.clip[1])..high(bounds[3], self.clip[3], self.height);
        if columns.is_empty() {
            return;
        }
        for y in rows {
            let row = &mut self.pixels[y * self.width..(y + 1) * self.width];
            for (x, pixel) in columns.clone().zip(&mut row[columns.clone()]) {
                let d = distance([x as f32 + 0.5, y as f32 + 0.5]);
                let coverage = (0.5 - d).clamp(0.0, 1.0) * paint.alpha;
                // Also skips NaN.
                if coverage > 0.0 {
                    for (under, over) in pixel.iter_mut().zip(paint.rgb) {
                        *under += (over - *under) * coverage;
                    }
                }
            }
        }
    }

    /// A filled circle.
    pub(super) fn disc(&mut self, center: [f32; 2], radius: f32, paint: Paint) {
        self.shade(around(center, radius), paint, |p| {
            length(sub(p, center)) - radius
        });
    }

    /// A circle's outline, `width` pixels wide.
    pub(super) fn ring(&mut self, center: [f32; 2], radius: f32, width: f32, paint: Paint) {
        let half = width * 0.5;
        self.shade(around(center, radius + half), paint, |p| {
            (length(sub(p, center)) - radius).abs() - half
        });
    }

    /// A filled rectangle with rounded corners.
    pub(super) fn panel(&mut self, rect: Rect, radius: f32, paint: Paint) {
        let center = [(rect[0] + rect[2]) * 0.5, (rect[1] + rect[3]) * 0.5];
        let half = [
            (rect[2] - rect[0]) * 0.5 - radius,
            (rect[3] - rect[1]) * 0.5 - radius,
        ];
        self.shade(rect, paint, |p| {
            let q = [0, 1].map(|k| (p[k] - center[k]).abs() - half[k]);
            length(q.map(|v| v.max(0.0))) + q[0].max(q[1]).min(0.0) - radius
        });
    }

    /// A filled convex polygon, its corners in either order.
    pub(super) fn polygon(&mut self, corners: &[[f32; 2]], paint: Paint) {
        let edges: Vec<([f32; 2], [f32; 2])> = edges(corners, true)
            .filter_map(|(a, b)| {
                let along = sub(b, a);
                let size = length(along);
                (size > 0.0).then(|| (a, [along[1] / size, -along[0] / size]))
            })
            .collect();
        let area: f32 = edges_area(corners);
        let side = if area < 0.0 { -1.0 } else { 1.0 };
        self.shade(bounds(corners, 0.0), paint, |p| {
            edges.iter().fold(f32::NEG_INFINITY, |d, &(a, normal)| {
                d.max(side * dot(sub(p, a), normal))
            })
        });
    }

    /// A line through `points`, `width` pixels wide, with round ends and joins. A single point is a
    /// dot. It is one shape: where it crosses itself it is not darker.
    pub(super) fn stroke(&mut self, points: &[[f32; 2]], closed: bool, width: f32, paint: Paint) {
        let half = width * 0.5;
        self.shade(bounds(points, half), paint, |p| {
            distance_to_line(p, points, closed) - half
        });
    }

    /// The same as dashes, `dash` pixels on and `dash` pixels off.
    pub(super) fn dashed(&mut self, points: &[[f32; 2]], width: f32, dash: f32, paint: Paint) {
        // Longer outlines than this are not drawn by the BEV picture; the cap keeps any input safe.
        const MAX_DASHES: f32 = 4096.0;
        for (a, b) in edges(points, true) {
            // An odd number of halves, so that an edge begins and ends with a dash.
            let steps = (length(sub(b, a)) / dash).clamp(1.0, MAX_DASHES) as usize | 1;
            let at = |i: usize| {
                let t = i as f32 / steps as f32;
                [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t]
            };
            for i in (0..steps).step_by(2) {
                self.stroke(&[at(i), at(i + 1)], false, width, paint);
            }
        }
    }

    /// Text whose baseline begins at `at`, with capitals `size` pixels high and lines `weight` wide.
    pub(super) fn text(&mut self, at: [f32; 2], size: f32, weight: f32, paint: Paint, text: &str) {
        for (x, strokes) in font::layout(text) {
            let strokes: font::Strokes = strokes
                .into_iter()
                .map(|stroke| {
                    stroke
                        .into_iter()
                        .map(|[px, py]| [at[0] + (x + px) * size, at[1] + py * size])
                        .collect()
                })
                .collect();
            let all: Vec<[f32; 2]> = strokes.iter().flatten().copied().collect();
            let half = weight * 0.5;
            self.shade(bounds(&all, half * 1.4), paint, |p| {
                strokes.iter().fold(f32::INFINITY, |d, stroke| {
                    // As wide as a line, a dot would look smaller than it.
                    let dot = stroke.first() == stroke.last() && stroke.len() == 2;
                    let half = if dot { half * 1.4 } else { half };
                    d.min(distance_to_line(p, stroke, false) - half)
                })
            });
        }
    }
}

fn sub(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    [a[0] - b[0], a[1] - b[1]]
}

fn dot(a: [f32; 2], b: [f32; 2]) -> f32 {
    a[0] * b[0] + a[1] * b[1]
}

fn length(v: [f32; 2]) -> f32 {
    dot(v, v).sqrt()
}

fn around(center: [f32; 2], radius: f32) -> Rect {
    [
        center[0] - radius,
        center[1] - radius,
        center[0] + radius,
        center[1] + radius,
    ]
}

/// The smallest rectangle around `points`, grown by `margin`; not finite for no points.
pub(super) fn bounds(points: &[[f32; 2]], margin: f32) -> Rect {
    let empty = [
        f32::INFINITY,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NEG_INFINITY,
    ];
    let r = points.iter().fold(empty, |r, p| {
        [
            r[0].min(p[0]),
            r[1].min(p[1]),
            r[2].max(p[0]),
            r[3].max(p[1]),
        ]
    });
    [r[0] - margin, r[1] - margin, r[2] + margin, r[3] + margin]
}

/// Each point with the next one, and the last with the first if `closed`.
fn edges(points: &[[f32; 2]], closed: bool) -> impl Iterator<Item = ([f32; 2], [f32; 2])> {
    let closing = match points {
        [first, .., last] if closed => Some((*last, *first)),
        _ => None,
    };
    points.windows(2).map(|w| (w[0], w[1])).chain(closing)
}

/// Twice the signed area.
fn edges_area(corners: &[[f32; 2]]) -> f32 {
    edges(corners, true)
        .map(|(a, b)| a[0] * b[1] - b[0] * a[1])
        .sum()
}

fn distance_to_line(p: [f32; 2], points: &[[f32; 2]], closed: bool) -> f32 {
    let to_first = points
        .first()
        .map_or(f32::INFINITY, |&first| length(sub(p, first)));
    edges(points, closed).fold(to_first, |d, (a, b)| {
        let (along, from) = (sub(b, a), sub(p, a));
        let squared = dot(along, along);
        let t = if squared > 0.0 {
            (dot(from, along) / squared).clamp(0.0, 1.0)
        } else {
            0.0
        };
        d.min(length([from[0] - along[0] * t, from[1] - along[1] * t]))
    })
}
