//! A picture in memory and its shapes, drawn with antialiasing by tiny-skia.
//!
//! tiny-skia runs without its `simd` feature, whose approximate reciprocals differ between processors: pictures
//! have the same bytes everywhere. Coordinates are pixels, y down; (0, 0) is the top left corner of the top left
//! pixel. Shapes with coordinates that are not finite are skipped.

use std::path::Path as FilePath;

use tiny_skia::{
    Color, ColorU8, FillRule, LineCap, LineJoin, Path, PathBuilder, Pixmap, Shader, Stroke,
    Transform,
};

use super::color::Rgb;
use super::{DrawError, font};
use crate::files;

/// A finished picture: 8-bit sRGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

#[cfg(test)]
impl Image {
    /// Width in pixels.
    pub(crate) fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub(crate) fn height(&self) -> u32 {
        self.height
    }

    /// Red, green and blue of the pixel in column `x` and row `y` from the top; `None` outside.
    pub(crate) fn pixel(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        if x >= self.width {
            return None;
        }
        let index = y as usize * self.width as usize + x as usize;
        self.rgb.as_chunks::<3>().0.get(index).copied()
    }
}

impl Image {
    /// Writes the picture as a PNG file.
    ///
    /// # Errors
    /// [`DrawError::File`].
    pub(crate) fn write_png(&self, path: &FilePath) -> Result<(), DrawError> {
        files::write_with(path, |file| {
            let mut encoder = png::Encoder::new(file, self.width, self.height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            encoder.set_compression(png::Compression::Balanced);
            let mut writer = encoder.write_header()?;
            writer.write_image_data(&self.rgb)?;
            Ok(writer.finish()?)
        })?;
        Ok(())
    }
}

/// A colour and its opacity, 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Paint {
    pub(super) rgb: Rgb,
    pub(super) alpha: f32,
}

/// A [`Paint`] from its parts.
pub(super) const fn paint(rgb: Rgb, alpha: f32) -> Paint {
    Paint { rgb, alpha }
}

impl Paint {
    fn color(self) -> Color {
        let [r, g, b] = self.rgb;
        let [r, g, b, a] = [r, g, b, self.alpha].map(|v| (v * 255.0 + 0.5) as u8);
        Color::from_rgba8(r, g, b, a)
    }
}

impl From<Paint> for tiny_skia::Paint<'_> {
    fn from(paint: Paint) -> Self {
        Self {
            shader: Shader::SolidColor(paint.color()),
            ..Self::default()
        }
    }
}

/// Left, top, right, bottom in pixels.
pub(super) type Rect = [f32; 4];

/// A picture being drawn.
pub(super) struct Canvas {
    pixmap: Pixmap,
}

impl Canvas {
    /// A canvas of `width × height` pixels in one colour.
    ///
    /// # Errors
    /// [`DrawError::Size`] if a side is 0 or the picture too large for memory.
    pub(super) fn new(width: u32, height: u32, background: Rgb) -> Result<Self, DrawError> {
        let mut pixmap = Pixmap::new(width, height).ok_or(DrawError::Size { width, height })?;
        pixmap.fill(paint(background, 1.0).color());
        Ok(Self { pixmap })
    }

    /// The finished picture.
    pub(super) fn finish(self) -> Image {
        let pixels = self.pixmap.pixels().iter();
        Image {
            width: self.pixmap.width(),
            height: self.pixmap.height(),
            // The background is opaque, and so is every pixel.
            rgb: pixels
                .flat_map(|p| [p.red(), p.green(), p.blue()])
                .collect(),
        }
    }

    fn fill(&mut self, path: Option<Path>, paint: Paint) {
        // tiny-skia warns of paths without an area.
        let visible = |path: &Path| path.bounds().width() > 1e-3 && path.bounds().height() > 1e-3;
        if let Some(path) = path.filter(|path| self.is_near(path) && visible(path)) {
            let rule = FillRule::Winding;
            let identity = Transform::identity();
            self.pixmap
                .fill_path(&path, &paint.into(), rule, identity, None);
        }
    }

    /// Strokes a path with round ends and joins.
    fn stroke(&mut self, path: Option<Path>, width: f32, paint: Paint) {
        let stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        if let Some(path) = path.filter(|path| self.is_near(path)) {
            let identity = Transform::identity();
            self.pixmap
                .stroke_path(&path, &paint.into(), &stroke, identity, None);
        }
    }

    /// Whether the path may touch the canvas and is small enough for tiny-skia's fixed-point edges.
    fn is_near(&self, path: &Path) -> bool {
        const MARGIN: f32 = 100.0;
        const LARGEST: f32 = 1e6;
        let bounds = path.bounds();
        let (width, height) = (self.pixmap.width() as f32, self.pixmap.height() as f32);
        bounds.right() > -MARGIN
            && bounds.bottom() > -MARGIN
            && bounds.left() < width + MARGIN
            && bounds.top() < height + MARGIN
            && bounds.width() < LARGEST
            && bounds.height() < LARGEST
    }

    /// Fills a circle.
    pub(super) fn disc(&mut self, [x, y]: [f32; 2], radius: f32, paint: Paint) {
        self.fill(PathBuilder::from_circle(x, y, radius), paint);
    }

    /// Fills a circle of a few pixels. A frame has up to 300,000 points; tiny-skia builds a path and a pipeline for
    /// each, which takes 9 µs.
    pub(super) fn dot(&mut self, [x, y]: [f32; 2], radius: f32, paint: Paint) {
        let (width, height) = (self.pixmap.width() as usize, self.pixmap.height() as usize);
        // The casts saturate: a range outside of the canvas is empty.
        let range = |center: f32, limit: usize| {
            let low = (center - radius - 0.5).floor() as usize;
            low..((center + radius + 0.5).ceil() as usize).min(limit)
        };
        let columns = range(x, width);
        let pixels = self.pixmap.pixels_mut();
        for row in range(y, height) {
            for column in columns.clone() {
                let (dx, dy) = (column as f32 + 0.5 - x, row as f32 + 0.5 - y);
                let inside = radius + 0.5 - (dx * dx + dy * dy).sqrt();
                let coverage = inside.clamp(0.0, 1.0) * paint.alpha;
                let pixel = &mut pixels[row * width + column];
                let below = [pixel.red(), pixel.green(), pixel.blue()].map(f32::from);
                let [r, g, b] = [0, 1, 2].map(|k| {
                    let above = paint.rgb[k] * 255.0;
                    (below[k] + (above - below[k]) * coverage + 0.5) as u8
                });
                *pixel = ColorU8::from_rgba(r, g, b, u8::MAX).premultiply();
            }
        }
    }

    /// Draws a circle's outline, `width` pixels wide.
    pub(super) fn ring(&mut self, [x, y]: [f32; 2], radius: f32, width: f32, paint: Paint) {
        self.stroke(PathBuilder::from_circle(x, y, radius), width, paint);
    }

    /// Fills a rectangle.
    pub(super) fn rect(&mut self, rect: Rect, paint: Paint) {
        let [left, top, right, bottom] = rect;
        let rect = tiny_skia::Rect::from_ltrb(left, top, right, bottom);
        self.fill(rect.map(PathBuilder::from_rect), paint);
    }

    /// Fills a rectangle with rounded corners.
    pub(super) fn rounded_rect(&mut self, rect: Rect, radius: f32, paint: Paint) {
        let [left, top, right, bottom] = rect;
        // Distance of a corner's control points for a cubic that is nearly a circle.
        let control = radius * (1.0 - 0.552_285);
        let mut path = PathBuilder::new();
        path.move_to(left + radius, top);
        for [[x, y], [x1, y1], [x2, y2], [x3, y3]] in [
            [
                [right - radius, top],
                [right - control, top],
                [right, top + control],
                [right, top + radius],
            ],
            [
                [right, bottom - radius],
                [right, bottom - control],
                [right - control, bottom],
                [right - radius, bottom],
            ],
            [
                [left + radius, bottom],
                [left + control, bottom],
                [left, bottom - control],
                [left, bottom - radius],
            ],
            [
                [left, top + radius],
                [left, top + control],
                [left + control, top],
                [left + radius, top],
            ],
        ] {
            path.line_to(x, y);
            path.cubic_to(x1, y1, x2, y2, x3, y3);
        }
        path.close();
        self.fill(path.finish(), paint);
    }

    /// Fills a polygon.
    pub(super) fn polygon(&mut self, corners: &[[f32; 2]], paint: Paint) {
        self.fill(polyline(corners, true), paint);
    }

    /// Draws a line through `points`, `width` pixels wide, with round ends and joins.
    pub(super) fn line(&mut self, points: &[[f32; 2]], width: f32, paint: Paint) {
        self.stroke(polyline(points, false), width, paint);
    }

    /// Draws the outline of a polygon.
    pub(super) fn outline(&mut self, corners: &[[f32; 2]], width: f32, paint: Paint) {
        self.stroke(polyline(corners, true), width, paint);
    }

    /// Draws the outline of a polygon as dashes, about `dash` pixels on and off; each edge starts and ends with
    /// a dash.
    pub(super) fn dashed(&mut self, corners: &[[f32; 2]], width: f32, dash: f32, paint: Paint) {
        // Limits the work; a box that fits the view has fewer.
        const MAX_DASHES: f32 = 4096.0;
        let mut path = PathBuilder::new();
        for (i, &[ax, ay]) in corners.iter().enumerate() {
            let [bx, by] = corners[(i + 1) % corners.len()];
            let (dx, dy) = (bx - ax, by - ay);
            let steps = (dx.hypot(dy) / dash).clamp(1.0, MAX_DASHES) as usize | 1;
            for step in (0..steps).step_by(2) {
                let [from, to] = [step, step + 1].map(|i| i as f32 / steps as f32);
                path.move_to(ax + dx * from, ay + dy * from);
                path.line_to(ax + dx * to, ay + dy * to);
            }
        }
        self.stroke(path.finish(), width, paint);
    }

    /// Draws text with capital letters of `size` pixels; the baseline starts at `at`.
    pub(super) fn text(&mut self, at: [f32; 2], size: f32, paint: Paint, text: &str) {
        self.fill(font::outline(text, at, size), paint);
    }

    /// Draws the halo that keeps text readable on top of points, `width` pixels to each side.
    pub(super) fn halo(&mut self, at: [f32; 2], size: f32, width: f32, paint: Paint, text: &str) {
        self.stroke(font::outline(text, at, size), 2.0 * width, paint);
    }
}

/// A path through `points`; `None` if there are fewer than two or one is not finite.
fn polyline(points: &[[f32; 2]], closed: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (i, &[x, y]) in points.iter().enumerate() {
        if i == 0 {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    if closed {
        path.close();
    }
    path.finish()
}

/// The smallest rectangle around `points`; not finite for no points.
pub(super) fn bounds(points: &[[f32; 2]]) -> Rect {
    let empty = [
        f32::INFINITY,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NEG_INFINITY,
    ];
    points.iter().fold(empty, |r, p| {
        [
            r[0].min(p[0]),
            r[1].min(p[1]),
            r[2].max(p[0]),
            r[3].max(p[1]),
        ]
    })
}
