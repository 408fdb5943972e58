//! The BEV picture: one frame seen from above, x (forward) up, y (left) to the left.
//!
//! It shows points coloured by height; boxes coloured by class, with a thick front edge, a heading triangle and an
//! arrow to the object's position in one second; labels as dashed outlines; range rings around the vehicle; a
//! legend with counts and a height scale. Equal inputs make equal bytes. Points and boxes with values that are not
//! finite are skipped, and so are boxes larger than the view.

mod panels;
mod scene;
mod view;

use super::DrawError;
use super::canvas::{Canvas, Image, Rect, paint};
use super::color::{Rgb, rgb8};
use crate::boxes::Box3d;
use crate::points::PointCloud;
use view::View;

const BACKGROUND: Rgb = rgb8(13, 16, 24);
const TITLE_BACKGROUND: Rgb = rgb8(20, 24, 35);
const TEXT: Rgb = rgb8(232, 236, 244);
const FAINT_TEXT: Rgb = rgb8(140, 150, 172);
const GRID: Rgb = rgb8(120, 140, 180);

/// Options of the picture.
#[derive(Clone, Debug)]
pub(crate) struct BevOptions<'a> {
    /// Width in pixels; the height follows from the range, with a title bar above.
    pub size_px: u32,
    /// `[min_x, min_y, max_x, max_y]` in metres.
    pub range: [f32; 4],
    /// Class names, for the legend and beside the boxes.
    pub classes: &'a [String],
    /// Left part of the title bar: the frame's name.
    pub title: &'a str,
    /// Time of the frame in milliseconds, shown in the title bar.
    pub total_ms: Option<f64>,
    /// Boxes with a lower score are skipped.
    pub min_score: f32,
    /// Ends of the height scale in metres; by default those of the points in view.
    pub heights: Option<[f32; 2]>,
}

impl Default for BevOptions<'_> {
    /// 1200 pixels, 50 m to each side.
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

/// Draws one frame. `labels` are ground-truth boxes, drawn as thin dashed outlines.
///
/// # Errors
/// [`DrawError::View`] if the range is empty or not finite, or a side is not 64 to 4096 pixels long.
pub(crate) fn render(
    points: &PointCloud,
    boxes: &[Box3d],
    labels: Option<&[Box3d]>,
    options: &BevOptions<'_>,
) -> Result<Image, DrawError> {
    let view = View::new(options)?;
    let mut picture = Picture {
        canvas: Canvas::new(view.width as u32, view.height as u32, BACKGROUND)?,
        view,
    };
    let boxes: Vec<&Box3d> = boxes
        .iter()
        .filter(|b| b.score >= options.min_score && picture.view.can_show(b))
        .collect();
    let labels: Option<Vec<&Box3d>> =
        labels.map(|l| l.iter().filter(|b| picture.view.can_show(b)).collect());

    picture.grid();
    let heights = picture.points(points, options.heights);
    // Names avoid these and the boxes.
    let mut obstacles: Vec<Rect> = boxes.iter().map(|b| picture.hull(b)).collect();
    obstacles.extend(picture.ring_labels(&obstacles));
    obstacles.push(picture.ego());
    for label in labels.iter().flatten() {
        picture.label_box(label);
    }
    // The best box is drawn last, on top.
    for b in boxes.iter().rev() {
        picture.detected_box(b);
    }
    obstacles.push(picture.legend(&boxes, labels.as_deref(), options.classes));
    obstacles.push(picture.height_scale(heights));
    picture.names(&boxes, options.classes, obstacles);
    // Last, because it covers what extends beyond the map.
    picture.title(points.len(), boxes.len(), options);
    Ok(picture.canvas.finish())
}

/// A picture being drawn: a canvas and its scale.
struct Picture {
    canvas: Canvas,
    view: View,
}

impl Picture {
    fn text(&mut self, at: [f32; 2], size: f32, rgb: Rgb, text: &str) {
        self.canvas.text(at, size, paint(rgb, 1.0), text);
    }

    /// Text with a dark halo, readable on top of points.
    fn haloed_text(&mut self, at: [f32; 2], size: f32, rgb: Rgb, text: &str) {
        let halo = paint(BACKGROUND, 0.7);
        self.canvas.halo(at, size, size * 0.25, halo, text);
        self.text(at, size, rgb, text);
    }
}

#[cfg(test)]
mod tests;
