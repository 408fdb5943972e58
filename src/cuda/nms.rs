//! Non-maximum suppression on the device: [`crate::cpu::nms`] by the kernels of `kernels/nms.cu`, with the same
//! boxes.
//!
//! The result is one block of device memory, for one copy to the host: [`Totals`], the counters of the frame's pillars,
//! then room for the remaining boxes, best first, and then for their variances, if the head has them. [`split`] separates
//! such a copy.

use std::sync::Arc;

use bytemuck::{NoUninit, Pod, Zeroable};

use super::decode::{CandidateList, Totals};
use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, Memory, launch};
use super::input::Sizes;
use super::pillars;
use crate::boxes::{Box3d, Variances};
use crate::model::{Model, NmsKind, NmsStep, Suppressors};

/// Threads of a block of each kernel, as in the kernels.
const PREPARE_BLOCK: u32 = 128;
const STEP_BLOCK: u32 = 256;
const OUTPUT_BLOCK: u32 = 1024;

/// Bits of a word of a mask, as in the kernels.
const TILE: usize = 64;
/// Most boxes for which masks are made, of 8 MiB; as in the kernels.
const MASKED: usize = 128 * TILE;

/// 32-bit words of [`Totals`] and of those of the pillars, of a [`Box3d`] and of its [`Variances`].
const OWN_WORDS: usize = size_of::<Totals>() / size_of::<u32>();
const TOTALS_WORDS: usize = OWN_WORDS + size_of::<pillars::Totals>() / size_of::<u32>();
const BOX_WORDS: usize = size_of::<Box3d>() / size_of::<u32>();
const VARIANCE_WORDS: usize = size_of::<Variances>() / size_of::<u32>();

/// The mirror of `NmsRemap` in `kernels/nms.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Remap {
    from: u32,
    to: u32,
    min_area: f32,
    max_area: f32,
}

/// The mirror of `NmsParams` in `kernels/nms.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    totals: DevicePtr<Totals>,
    boxes: DevicePtr<Box3d>,
    rects: DevicePtr<Rect>,
    classes: DevicePtr<u32>,
    left: DevicePtr<u32>,
    members: DevicePtr<u32>,
    suppressors: DevicePtr<Rect>,
    spans: DevicePtr<[u32; 2]>,
    ends: DevicePtr<u32>,
    masks: DevicePtr<u64>,
    groups: DevicePtr<u32>,
    limits: DevicePtr<f32>,
    remap: DevicePtr<Remap>,
    pillars: DevicePtr<pillars::Totals>,
    out: DevicePtr<u32>,
    variances: DevicePtr<Variances>,
    out_variances: DevicePtr<Variances>,
    capacity: u32,
    circle: u32,
    threshold: f32,
    search: f32,
    max_boxes: u32,
    remap_count: u32,
    all_suppress: u32,
    words: u32,
}

/// `Rect` of the kernels, which the host never reads.
type Rect = [f32; 8];

const _: () = assert!(size_of::<Remap>() == 16 && size_of::<Params>() == 168);

// SAFETY: the addresses are those of the buffers of an `Nms`, which `Nms::new` allocates for the numbers beside them,
// and of a `CandidateList` that `suppress` borrows and that was made for the same model. A candidate's class is one of
// the model's, whether the decode kernels or `CandidateList::upload` wrote it.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] = &[
        "nms_prepare",
        "nms_list",
        "nms_masks",
        "nms_resolve",
        "nms_step",
        "nms_output",
    ];
}

/// The stage's tables and buffers, and the boxes of the frame, on the device. Allocated once.
#[derive(Debug)]
pub struct Nms {
    steps: Vec<Step>,
    /// The boxes of each group, their classes, and which remain.
    indices: [Buffer<u32>; 3],
    // The memory that the parameters point to.
    _rects: [Buffer<Rect>; 2],
    _remap: Buffer<Remap>,
    /// `None` for more boxes than [`MASKED`].
    masks: Option<Masks>,
    _pillars: Option<Arc<Memory>>,
    /// [`Totals`], then boxes and variances.
    result: Buffer<u32>,
    /// Everything but a step's own parameters and the addresses of the candidates.
    params: Params,
    has_variances: bool,
    sizes: Sizes,
}

/// Memory for the masks of a step: for each listed box, which later ones of its group it overlaps.
#[derive(Debug)]
struct Masks {
    spans: Buffer<[u32; 2]>,
    ends: Buffer<u32>,
    bits: Buffer<u64>,
    /// Words of a mask.
    words: usize,
}

impl Masks {
    fn new(
        capacity: usize,
        groups: usize,
        device: &Arc<dyn Device>,
    ) -> Result<Option<Self>, CudaError> {
        if capacity > MASKED {
            return Ok(None);
        }
        let words = capacity.div_ceil(TILE);
        Ok(Some(Self {
            spans: Buffer::zeroed(device, "spans of groups", groups)?,
            ends: Buffer::zeroed(device, "ends of groups", capacity)?,
            bits: Buffer::zeroed(device, "masks of boxes", capacity * words)?,
            words,
        }))
    }

    /// Tiles on and above the diagonal.
    fn tiles(&self) -> usize {
        self.words * (self.words + 1) / 2
    }
}

/// One suppression step.
#[derive(Debug)]
struct Step {
    /// Group of each class, without gaps.
    groups: Buffer<u32>,
    group_count: usize,
    /// Squared radius of each class; empty for IoU.
    limits: Buffer<f32>,
    circle: bool,
    all_suppress: bool,
    threshold: f32,
    /// Square of the search distance.
    search: f32,
    max_boxes: u32,
}

impl Nms {
    /// Tables and buffers for `model`.
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let capacity = model.max_boxes();
        let steps = model.nms.iter().map(|step| Step::new(step, device));
        let steps: Vec<Step> = steps.collect::<Result<_, _>>()?;
        let most = steps.iter().fold(capacity, |most, step| {
            most.min(step.group_count.saturating_mul(step.max_boxes as usize))
        });
        let rules: Vec<Remap> = model
            .remap
            .iter()
            .map(|rule| Remap {
                from: rule.from as u32,
                to: rule.to as u32,
                min_area: rule.min_area,
                max_area: rule.max_area,
            })
            .collect();
        let rects = [
            Buffer::<Rect>::zeroed(device, "rectangles of boxes", capacity)?,
            Buffer::<Rect>::zeroed(device, "rectangles of suppressing boxes", capacity)?,
        ];
        let indices = [
            Buffer::<u32>::zeroed(device, "boxes of groups", capacity)?,
            Buffer::<u32>::zeroed(device, "classes of boxes", capacity)?,
            Buffer::<u32>::zeroed(device, "remaining boxes", capacity)?,
        ];
        let remap = Buffer::new(device, "class changes", &rules)?;
        let groups = steps.iter().map(|step| step.group_count).max();
        let masks = Masks::new(capacity, groups.unwrap_or(0), device)?;
        let has_variances = model.head.variance;
        let words = TOTALS_WORDS + most * (BOX_WORDS + variance_words(has_variances));
        let result: Buffer<u32> = Buffer::zeroed(device, "boxes", words)?;
        let out_variances = if has_variances {
            // SAFETY: the result has that many words, and more.
            #[allow(unsafe_code)]
            unsafe { result.ptr().add(TOTALS_WORDS + most * BOX_WORDS) }.cast()
        } else {
            DevicePtr::NULL
        };
        let mut params = Params {
            rects: rects[0].ptr(),
            suppressors: rects[1].ptr(),
            members: indices[0].ptr(),
            classes: indices[1].ptr(),
            left: indices[2].ptr(),
            remap: remap.ptr(),
            out: result.ptr(),
            out_variances,
            capacity: capacity as u32,
            remap_count: rules.len() as u32,
            ..Params::zeroed()
        };
        if let Some(masks) = &masks {
            params.spans = masks.spans.ptr();
            params.ends = masks.ends.ptr();
            params.masks = masks.bits.ptr();
            params.words = masks.words as u32;
        }
        Ok(Self {
            params,
            steps,
            _rects: rects,
            indices,
            _remap: remap,
            masks,
            _pillars: None,
            result,
            has_variances,
            sizes: Sizes::new(model),
        })
    }

    /// Appends the counters of the frame's pillars to the result. Without this they are 0 there.
    pub(super) fn append(&mut self, totals: &Buffer<pillars::Totals>) {
        self.params.pillars = totals.ptr();
        self._pillars = Some(totals.memory().clone());
    }

    /// The result, with room for the most boxes that the model allows: [`Totals`], whose count is that of the boxes,
    /// the counters of the pillars, then the boxes, best first, and their variances; see [`split`].
    pub fn result(&self) -> &Buffer<u32> {
        &self.result
    }

    /// Reads back the first `len` indices that the last step listed: its input boxes, group by group. For tests:
    /// blocks of different groups must not overlap there.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download_members(&self, len: usize) -> Result<Vec<u32>, CudaError> {
        self.indices[0].download(len)
    }

    /// Reads the result back, and waits for it.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self) -> Result<(Totals, Vec<Box3d>, Vec<Variances>), CudaError> {
        let words = self.result.download(self.result.len())?;
        let split = split(&words, self.has_variances);
        Ok((split.totals, split.boxes.to_vec(), split.variances.to_vec()))
    }
}

/// A copy of [`Nms::result`] on the host.
pub(crate) struct Split<'a> {
    pub(crate) totals: Totals,
    pub(super) pillars: pillars::Totals,
    /// Best first.
    pub(crate) boxes: &'a [Box3d],
    /// Of each box, if the head has them.
    pub(crate) variances: &'a [Variances],
}

/// Words of a box's variances.
fn variance_words(has_variances: bool) -> usize {
    if has_variances { VARIANCE_WORDS } else { 0 }
}

/// Separates a copy of [`Nms::result`]. A count that a failing device garbled yields what there is room for.
pub(crate) fn split(words: &[u32], has_variances: bool) -> Split<'_> {
    let Some((totals, rest)) = words.split_at_checked(TOTALS_WORDS) else {
        return Split {
            totals: Totals::default(),
            pillars: pillars::Totals::zeroed(),
            boxes: &[],
            variances: &[],
        };
    };
    let (totals, pillars) = totals.split_at(OWN_WORDS);
    let totals: Totals = bytemuck::pod_read_unaligned(bytemuck::cast_slice(totals));
    let of_variances = variance_words(has_variances);
    let room = rest.len() / (BOX_WORDS + of_variances);
    let count = (totals.count as usize).min(room);
    let (boxes, variances) = rest.split_at(room * BOX_WORDS);
    Split {
        totals,
        pillars: bytemuck::pod_read_unaligned(bytemuck::cast_slice(pillars)),
        boxes: bytemuck::cast_slice(&boxes[..count * BOX_WORDS]),
        variances: bytemuck::cast_slice(&variances[..count * of_variances]),
    }
}

impl Step {
    fn new(step: &NmsStep, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let mut distinct: Vec<usize> = step.group.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let groups: Vec<u32> = step
            .group
            .iter()
            .map(|&group| distinct.partition_point(|&other| other < group) as u32)
            .collect();
        let limits: Vec<f32> = match &step.kind {
            NmsKind::Circle { radius } => radius.iter().map(|radius| radius * radius).collect(),
            NmsKind::Iou { .. } => Vec::new(),
        };
        let (circle, threshold, search) = match step.kind {
            NmsKind::Circle { .. } => (true, 0.0, 0.0),
            NmsKind::Iou {
                threshold,
                search_distance,
            } => (false, threshold, search_distance * search_distance),
        };
        Ok(Self {
            groups: Buffer::new(device, "groups of classes", &groups)?,
            group_count: distinct.len(),
            limits: Buffer::new(device, "radii of classes", &limits)?,
            circle,
            all_suppress: step.suppressors == Suppressors::All,
            threshold,
            search,
            max_boxes: u32::try_from(step.max_boxes).unwrap_or(u32::MAX),
        })
    }
}

/// Suppresses the candidates of a frame, then changes classes by area. The launches depend only on the model.
///
/// # Errors
/// [`CudaError::Kernel`], also if `decoder` and `out` were made for different models.
pub fn suppress(decoder: &CandidateList, out: &mut Nms) -> Result<(), CudaError> {
    out.sizes.check(decoder.sizes(), "nms_prepare")?;
    let device = &**out.result.device();
    let candidates = Params {
        totals: decoder.totals(),
        boxes: decoder.boxes(),
        variances: decoder.variances(),
        ..out.params
    };
    let prepare = Launch::for_threads("nms_prepare", decoder.capacity(), PREPARE_BLOCK);
    launch(device, &prepare, &candidates)?;
    for step in &out.steps {
        let params = Params {
            groups: step.groups.ptr(),
            limits: step.limits.ptr(),
            circle: step.circle.into(),
            all_suppress: step.all_suppress.into(),
            threshold: step.threshold,
            search: step.search,
            max_boxes: step.max_boxes,
            ..candidates
        };
        let run = |kernel, blocks: usize| {
            let threads = blocks * STEP_BLOCK as usize;
            launch(
                device,
                &Launch::for_threads(kernel, threads, STEP_BLOCK),
                &params,
            )
        };
        match &out.masks {
            Some(masks) => {
                run("nms_list", step.group_count)?;
                run("nms_masks", masks.tiles())?;
                run("nms_resolve", step.group_count)?;
            }
            None => run("nms_step", step.group_count)?,
        }
    }
    let output = Launch::for_threads("nms_output", OUTPUT_BLOCK as usize, OUTPUT_BLOCK);
    launch(device, &output, &candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_split_where_it_ends() {
        let bbox = Box3d {
            center: [1.0, 2.0, 0.0],
            size: [4.0, 2.0, 1.5],
            yaw: 0.5,
            velocity: [0.0; 2],
            score: 0.9,
            class: 1,
        };
        let mut words = vec![2, 3, 4, 0, 5, 0, 0, 0, 6, 0, 0, 0];
        for _ in 0..2 {
            words.extend_from_slice(bytemuck::cast_slice::<Box3d, u32>(&[bbox]));
        }
        let Split {
            totals,
            pillars,
            boxes,
            ..
        } = split(&words, false);
        assert_eq!((pillars.pillars(), pillars.dropped().pillars), (5, 6));
        assert_eq!((totals.count, totals.surplus, totals.non_finite), (2, 3, 4));
        assert_eq!(boxes, [bbox; 2]);
        assert_eq!(split(&words[..33], false).boxes, [bbox]);
        assert_eq!(split(&words[..11], true).boxes, []);
        // Room for two boxes, of which there is one.
        words[0] = 1;
        let variances = [1.0, 2.0].map(|yaw| Variances {
            yaw,
            ..Variances::default()
        });
        words.extend_from_slice(bytemuck::cast_slice::<Variances, u32>(&variances));
        let split = split(&words, true);
        assert_eq!(
            (split.boxes, split.variances),
            (&[bbox][..], &variances[..1])
        );
    }
}
