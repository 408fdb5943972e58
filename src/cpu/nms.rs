//! Non-maximum suppression: of overlapping candidates, the best one stays.
//!
//! Greedy, in the order of the candidates (best first): a box goes when a box that was kept before it,
//! of the same group, overlaps it, or when its group is full. Boxes that went suppress nothing. The
//! steps of the model run one after the other, and the order never changes.
//!
//! - Circle: squared BEV centre distance < squared radius of the kept box's class, in f32, strict as
//!   in Autoware (mmdetection3d's `circle_nms` takes `≤`, and its `min_radius` is already squared).
//! - IoU: rotated BEV intersection over union > threshold ([`BevRect::iou`] of the kept box with the
//!   other), for centres at most `search_distance` apart.
//!
//! Autoware's IoU step also lets boxes that went suppress others; greedy, as here, is what its own
//! circle step, mmdetection3d and the literature do.
//!
//! [`remap`] comes last, as in Autoware's node (decode, circle, IoU, then
//! `DetectionClassRemapper::mapClasses`): suppression sees the classes that the network gave.

use crate::boxes::{BevRect, Box3d};
use crate::cpu::decode::Candidate;
use crate::model::{Model, NmsKind, NmsStep, Remap};

/// The stage's buffers, and the boxes of the frame. Allocated once.
#[derive(Clone, Debug)]
pub struct Nms {
    boxes: Vec<Box3d>,
    /// What the step at hand kept.
    kept: Vec<Kept>,
    /// Boxes that the step at hand kept, by group.
    in_group: Vec<usize>,
}

/// A box that a step kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    rect: BevRect,
    class: usize,
}

impl Nms {
    /// Buffers for `model`; nothing is allocated afterwards.
    pub fn new(model: &Model) -> Self {
        let groups = model.nms.iter().flat_map(|step| &step.group).max();
        Self {
            boxes: Vec::with_capacity(model.max_boxes()),
            kept: Vec::with_capacity(model.max_boxes()),
            in_group: Vec::with_capacity(groups.map_or(0, |last| last + 1)),
        }
    }

    /// The boxes that are left, best first.
    pub fn boxes(&self) -> &[Box3d] {
        &self.boxes
    }
}

/// Suppresses `candidates` (best first), then changes classes by area. The result is
/// [`Nms::boxes`].
pub fn suppress(model: &Model, candidates: &[Candidate], out: &mut Nms) {
    out.boxes.clear();
    out.boxes
        .extend(candidates.iter().map(|candidate| candidate.bbox));
    for step in &model.nms {
        run(step, out);
    }
    remap(&model.remap, &mut out.boxes);
}

/// Runs one step on `out.boxes` in place.
fn run(step: &NmsStep, out: &mut Nms) {
    let Nms {
        boxes,
        kept,
        in_group,
    } = out;
    let groups = step.group.iter().max().map_or(0, |last| last + 1);
    in_group.clear();
    in_group.resize(groups, 0);
    kept.clear();
    boxes.retain(|bbox| {
        let class = bbox.class as usize;
        let group = step.group[class];
        if in_group[group] == step.max_boxes {
            return false;
        }
        let rect = BevRect::new(bbox);
        let mut rivals = kept.iter().filter(|kept| step.group[kept.class] == group);
        let suppressed = match &step.kind {
            NmsKind::Circle { radius } => rivals.any(|kept| {
                let radius = radius[kept.class];
                kept.rect.distance_squared(&rect) < radius * radius
            }),
            NmsKind::Iou {
                threshold,
                search_distance,
            } => rivals.any(|kept| {
                kept.rect.distance_squared(&rect) <= search_distance * search_distance
                    && kept.rect.iou(&rect) > *threshold
            }),
        };
        if !suppressed {
            in_group[group] += 1;
            kept.push(Kept { rect, class });
        }
        !suppressed
    });
}

/// Gives each box the class of the first rule for its class whose range holds its BEV area (length ×
/// width, both bounds inclusive). A box changes once.
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
