//! Non-maximum suppression: keeps the best of overlapping candidates.
//!
//! In the order of the candidates (best first), a box is dropped if it overlaps a better box of its group, or if its
//! group is full. By default only kept boxes count as better ones (greedy, as Autoware's circle step, mmdetection3d and
//! the literature); with [`Suppressors::All`], as in Autoware's IoU step, boxes that the step dropped count, too. The
//! model's steps run one after the other, and the order of the boxes never changes.
//!
//! - Circle: squared BEV centre distance < squared radius of the better box's class, in f32, strict as in
//!   Autoware (mmdetection3d's `circle_nms` uses `≤`, and its `min_radius` is already squared).
//! - IoU: rotated BEV intersection over union > threshold ([`BevRect::iou`] of the better box with the
//!   other), for centres at most `search_distance` apart.
//!
//! [`remap`] comes last, as in Autoware's node (decode, circle, IoU, then
//! `DetectionClassRemapper::mapClasses`): suppression uses the classes predicted by the network.

use crate::boxes::{BevRect, Box3d, Variances};
use crate::cpu::decode::Candidate;
use crate::model::{Model, NmsKind, NmsStep, Remap, Suppressors};

/// Buffers of the stage, and the boxes of the frame. Allocated once.
#[derive(Clone, Debug)]
pub struct Nms {
    boxes: Vec<Box3d>,
    /// The candidate of each box.
    candidates: Vec<usize>,
    /// The variances of each box, if the head has them.
    variances: Vec<Variances>,
    /// Boxes that suppress others in the current step.
    suppressors: Vec<Suppressor>,
    /// Number of boxes kept by the current step, by group.
    in_group: Vec<usize>,
}

/// A box that suppresses others.
#[derive(Clone, Copy, Debug)]
struct Suppressor {
    rect: BevRect,
    class: usize,
}

impl Nms {
    /// Creates buffers for `model`; nothing is allocated later.
    pub fn new(model: &Model) -> Self {
        let groups = model.nms.iter().flat_map(|step| &step.group).max();
        Self {
            boxes: Vec::with_capacity(model.max_boxes()),
            candidates: Vec::with_capacity(model.max_boxes()),
            variances: Vec::with_capacity(if model.head.variance {
                model.max_boxes()
            } else {
                0
            }),
            suppressors: Vec::with_capacity(model.max_boxes()),
            in_group: Vec::with_capacity(groups.map_or(0, |last| last + 1)),
        }
    }

    /// The remaining boxes, best first.
    pub fn boxes(&self) -> &[Box3d] {
        &self.boxes
    }

    /// The variances of the remaining boxes; empty if the head has none.
    pub fn variances(&self) -> &[Variances] {
        &self.variances
    }
}

/// Suppresses `candidates` (best first), then changes classes by area. The result is
/// [`Nms::boxes`].
pub fn suppress(model: &Model, candidates: &[Candidate], out: &mut Nms) {
    out.boxes.clear();
    out.boxes
        .extend(candidates.iter().map(|candidate| candidate.bbox));
    out.candidates.clear();
    out.candidates.extend(0..candidates.len());
    for step in &model.nms {
        run(step, out);
    }
    remap(&model.remap, &mut out.boxes);
    out.variances.clear();
    if model.head.variance {
        let kept = out.candidates.iter();
        out.variances.extend(kept.map(|&i| candidates[i].variances));
    }
}

/// Runs one step on `out.boxes` in place.
fn run(step: &NmsStep, out: &mut Nms) {
    let Nms {
        boxes,
        candidates,
        suppressors,
        in_group,
        ..
    } = out;
    let groups = step.group.iter().max().map_or(0, |last| last + 1);
    in_group.clear();
    in_group.resize(groups, 0);
    suppressors.clear();
    let mut is_kept = |bbox: &Box3d| {
        let class = bbox.class as usize;
        let group = step.group[class];
        if in_group[group] == step.max_boxes {
            return false;
        }
        let rect = BevRect::new(bbox);
        let mut better = suppressors
            .iter()
            .filter(|better| step.group[better.class] == group);
        let suppressed = match &step.kind {
            NmsKind::Circle { radius } => better.any(|better| {
                let radius = radius[better.class];
                better.rect.distance_squared(&rect) < radius * radius
            }),
            NmsKind::Iou {
                threshold,
                search_distance,
            } => better.any(|better| {
                better.rect.distance_squared(&rect) <= search_distance * search_distance
                    && better.rect.iou(&rect) > *threshold
            }),
        };
        if !suppressed {
            in_group[group] += 1;
        }
        if !suppressed || step.suppressors == Suppressors::All {
            suppressors.push(Suppressor { rect, class });
        }
        !suppressed
    };
    let mut kept = 0;
    for i in 0..boxes.len() {
        if is_kept(&boxes[i]) {
            (boxes[kept], candidates[kept]) = (boxes[i], candidates[i]);
            kept += 1;
        }
    }
    boxes.truncate(kept);
    candidates.truncate(kept);
}

/// Changes the class of each box by the first rule for its class whose range contains its BEV area (length ×
/// width, both bounds inclusive). A box changes at most once.
pub fn remap(rules: &[Remap], boxes: &mut [Box3d]) {
    for bbox in boxes {
        let area = bbox.size[0] * bbox.size[1];
        let applies = |rule: &&Remap| {
            rule.from == bbox.class as usize && rule.min_area <= area && area <= rule.max_area
        };
        if let Some(rule) = rules.iter().find(applies) {
            bbox.class = rule.to as u32;
        }
    }
}
