//! The BEV picture: one frame seen from above, x forward **up**, y left **left**.
//!
//! Points coloured by height, boxes by class with a thick front edge, a heading triangle and an arrow
//! to where the object is in one second, dashed outlines for labelled boxes, range rings around the
//! vehicle, a legend with counts, and a height scale. The same input gives the same bytes. Points
//! and boxes with values that are not finite are left out, and so are boxes larger than the view.

mod panels;
mod scene;
mod view;

use super::DrawError;
use super::color::{Rgb, rgb8};
use super::raster::{Canvas, Image, paint};
use crate::boxes::Box3d;
use crate::points::PointCloud;
use view::View;

const BACKGROUND: Rgb = rgb8(13, 16, 24);
const TITLE_BACKGROUND: Rgb = rgb8(20, 24, 35);
const TEXT: Rgb = rgb8(232, 236, 244);
const FAINT_TEXT: Rgb = rgb8(140, 150, 172);
const GRID: Rgb = rgb8(120, 140, 180);

/// What the picture shows.
#[derive(Clone, Debug)]
pub struct BevOptions<'a> {
    /// Width in pixels; the height follows from the range, with a title bar above.
    pub size_px: u32,
    /// `[min_x, min_y, max_x, max_y]` in metres.
    pub range: [f32; 4],
    /// Class names, for the legend and beside the boxes.
    pub classes: &'a [String],
    /// Left part of the title line: the frame's name.
    pub title: &'a str,
    /// Time of the frame in milliseconds, shown in the title line.
    pub total_ms: Option<f64>,
    /// Boxes with a lower score are left out.
    pub min_score: f32,
    /// Ends of the height scale in metres; `None` takes them from the points in view.
    pub heights: Option<[f32; 2]>,
}

impl Default for BevOptions<'_> {
    /// 1200 pixels for 50 m to each side.
    fn default() -> Self {
        Self {
            size_px: 1200,
            range: [-50.0, -50.0, 50.0, 50.0],
            classes: &[],
            title: "",
            total_ms: None,
            min_score: 0.0,
            heights: None,
        }
    }
}

/// Draws one frame. `labels` are boxes known to be true, drawn as thin dashed outlines.
///
/// # Errors
/// [`DrawError::View`] for a range that is empty or not finite, or a picture with a side outside
/// of 64 to 4096 pixels.
pub fn render(
    points: &PointCloud,
    boxes: &[Box3d],
    labels: Option<&[Box3d]>,
    options: &BevOptions<'_>,
) -> Result<Image, DrawError> {
    let view = View::new(options)?;
    let mut picture = Picture {
        canvas: Canvas::new(view.width as usize, view.height as usize, BACKGROUND),
        view,
    };
    let boxes: Vec<&Box3d> = boxes
        .iter()
        .filter(|b| b.score >= options.min_score && picture.view.can_show(b))
        .collect();
    let labels: Option<Vec<&Box3d>> =
        labels.map(|l| l.iter().filter(|b| picture.view.can_show(b)).collect());

    picture.canvas.set_clip(picture.view.map());
    picture.grid();
    let heights = picture.points(points, options.heights);
    let mut taken = picture.ring_labels();
    taken.push(picture.ego());
    for label in labels.iter().flatten() {
        picture.label_box(label);
    }
    // The best last, so that it lies on top.
    for b in boxes.iter().rev() {
        picture.detected_box(b);
    }
    taken.push(picture.legend(&boxes, labels.as_deref(), options.classes));
    taken.push(picture.height_scale(heights));
    picture.names(&boxes, options.classes, &taken);
    picture.canvas.set_clip([0.0, 0.0, view.width, view.height]);
    picture.title(points.len(), boxes.len(), options);
    Ok(picture.canvas.finish())
}

/// The picture while it is drawn: a canvas and where metres lie on it.
struct Picture {
    canvas: Canvas,
    view: View,
}

impl Picture {
    fn text(&mut self, at: [f32; 2], size: f32, rgb: Rgb, text: &str) {
        let weight = (size * 0.15).max(1.1);
        self.canvas.text(at, size, weight, paint(rgb, 1.0), text);
    }

    /// Text that stays readable on points: with a dark rim.
    fn rimmed_text(&mut self, at: [f32; 2], size: f32, rgb: Rgb, text: &str) {
        let rim = paint(BACKGROUND, 0.7);
        self.canvas.text(at, size, size * 0.55, rim, text);
        self.text(at, size, rgb, text);
    }
}
