//! Decode on the device: [`crate::cpu::decode`] by the kernels of `kernels/decode.cu`, with the same candidates in
//! the same order, and the same counters.
//!
//! One launch decodes all tasks of the head. The maps may be f32 or f16, in any layout that a [`DeviceMap`]
//! describes; a half-precision map yields what the CPU yields for its values as f32.

use std::sync::Arc;

use bytemuck::{NoUninit, Pod, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::input::Sizes;
use super::map::{DeviceMap, MapParams};
use crate::boxes::{Box3d, Variances};
use crate::cpu::decode::{Candidate, least_logits};
use crate::map::{Element, HeadMaps};
use crate::model::{Candidates, HEAD_VALUES, Model, Rotation, SizeOrder};

/// Most tasks of a launch that takes maps; `TASKS_PER_LAUNCH` in the kernels.
const TASKS_PER_LAUNCH: usize = 8;
/// Threads of a block of each kernel and of a warp, as in the kernels.
const CELLS_BLOCK: u32 = 128;
const SELECT_BLOCK: u32 = 1024;
const SORT_BLOCK: u32 = 512;
const BOXES_BLOCK: u32 = 128;
const WARP: u32 = 32;
/// Cells that a warp scans; `REGION_CELLS` in the kernels.
const REGION_CELLS: usize = 256;
/// Keys that a block sorts; `TILE` in the kernels.
const TILE: usize = 1024;

/// Most candidates of a frame, as the model check has it: suppression numbers pairs of them with 32 bits.
const MAX_BOXES: usize = 1 << 24;
/// Most slots (task, cell, class) of candidates: 32-bit numbers without the last one, which marks none.
const MAX_SLOTS: usize = u32::MAX as usize;

/// Head maps of a task.
const HEAD_MAPS: usize = 6;

/// The mirror of `DecodeTask` in `kernels/decode.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct TaskParams {
    classes: u32,
    channel: u32,
}

/// The mirror of `DecodeChannel` in `kernels/decode.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct ChannelParams {
    class: u32,
    rank: u32,
    by_rank: u32,
    least: f32,
    yaw_norm: f32,
}

/// The mirror of `DecodeTaskCounts` in `kernels/decode.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct TaskCounts {
    count: u32,
    surplus: u32,
    non_finite: u32,
}

/// The mirror of `BoxTotals` in `kernels/common.cuh`: the candidates of a frame, kept and dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Totals {
    /// Candidates, or boxes after suppression.
    pub count: u32,
    /// `candidates` of [`crate::Dropped`].
    pub surplus: u32,
    /// `non_finite_candidates` of [`crate::Dropped`].
    pub non_finite: u32,
    reserved: u32,
}

/// The mirror of `DecodeMaps` in `kernels/decode.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct MapsParams {
    tasks: DevicePtr<TaskParams>,
    channels: DevicePtr<ChannelParams>,
    bands: DevicePtr<f32>,
    logits: DevicePtr<f32>,
    keys: DevicePtr<u64>,
    found: DevicePtr<u32>,
    non_finite: DevicePtr<u32>,
    sorted: DevicePtr<u64>,
    counts: DevicePtr<TaskCounts>,
    boxes: DevicePtr<Box3d>,
    slots: DevicePtr<u32>,
    variances: DevicePtr<Variances>,
    first_task: u32,
    task_count: u32,
    width: u32,
    height: u32,
    regions: u32,
    class_cell: u32,
    band_count: u32,
    channel_count: u32,
    cell: [f32; 2],
    min: [f32; 2],
    center_range: [[f32; 3]; 2],
    wlh: u32,
    neg_cos_neg_sin: u32,
    maps: TaskMaps,
}

/// The maps of the tasks of one launch.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(transparent)]
struct TaskMaps([[MapParams; HEAD_MAPS]; TASKS_PER_LAUNCH]);

// SAFETY: an array of a type without padding has none. bytemuck implements this only for arrays of `Pod` types.
#[allow(unsafe_code)]
unsafe impl NoUninit for TaskMaps {}

/// The mirror of `DecodeLists` in `kernels/decode.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct ListsParams {
    tasks: DevicePtr<TaskParams>,
    keys: DevicePtr<u64>,
    found: DevicePtr<u32>,
    non_finite: DevicePtr<u32>,
    selected: DevicePtr<u64>,
    counts: DevicePtr<TaskCounts>,
    sorted: DevicePtr<u64>,
    totals: DevicePtr<Totals>,
    task_count: u32,
    regions: u32,
    class_cell: u32,
    max_candidates: u32,
}

const _: () = assert!(
    size_of::<TaskParams>() == 8
        && size_of::<ChannelParams>() == 20
        && size_of::<TaskCounts>() == 12
        && size_of::<Totals>() == 16
        && size_of::<MapsParams>() == 176 + TASKS_PER_LAUNCH * HEAD_MAPS * 48
        && size_of::<ListsParams>() == 80
);

// SAFETY: the addresses are those of the buffers of a `CandidateList`, which `CandidateList::new` allocates for the numbers
// beside them, and of maps that `decode` borrows and checks against the head's sizes.
#[allow(unsafe_code)]
unsafe impl KernelParams for MapsParams {
    const KERNELS: &'static [&'static str] = &["decode_cells", "decode_boxes"];
}

// SAFETY: as above, without maps.
#[allow(unsafe_code)]
unsafe impl KernelParams for ListsParams {
    const KERNELS: &'static [&'static str] = &["decode_select", "decode_sort"];
}

/// The stage's tables and buffers, and the candidates of the frame, on the device. Allocated once.
#[derive(Debug)]
pub struct CandidateList {
    head: Head,
    // The memory that the parameters point to.
    _tables: Tables,
    _scratch: Scratch,
    boxes: Buffer<Box3d>,
    slots: Buffer<u32>,
    /// Of each box, if the head has them.
    variances: Option<Buffer<Variances>>,
    totals: Buffer<Totals>,
    /// Everything but the maps and their first task.
    maps: MapsParams,
    lists: ListsParams,
    sizes: Sizes,
}

/// The head's description, on the host.
#[derive(Debug)]
struct Head {
    /// Rows and columns of every map.
    size: (usize, usize),
    /// Classes of each task, ascending, and its first channel among those of all tasks.
    tasks: Vec<(Vec<usize>, usize)>,
    /// Whether the maps have variances, as channels after the values.
    variance: bool,
    /// Names of the maps, for errors.
    names: Vec<HeadMaps<String>>,
}

#[derive(Debug)]
struct Tables {
    tasks: Buffer<TaskParams>,
    channels: Buffer<ChannelParams>,
    bands: Buffer<f32>,
    logits: Buffer<f32>,
}

#[derive(Debug)]
struct Scratch {
    keys: Buffer<u64>,
    found: Buffer<u32>,
    non_finite: Buffer<u32>,
    selected: Buffer<u64>,
    counts: Buffer<TaskCounts>,
    sorted: Buffer<u64>,
}

/// The candidates of one frame on the host: for tests.
#[derive(Clone, Debug, PartialEq)]
pub struct DownloadedCandidates {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// Candidates past their task's `max_candidates`.
    pub surplus: u64,
    /// Candidates lost to a NaN or an infinity.
    pub non_finite: u64,
}

impl CandidateList {
    /// Tables and buffers for `model`, with room for a candidate in every cell ([`Candidates::ClassCell`]: for
    /// every class in every cell).
    ///
    /// # Errors
    /// [`CudaError::Limit`] if the model is too large; [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let head = Head::new(model)?;
        let tables = Tables::new(model, device)?;
        let cells = head.size.0 * head.size.1;
        let (tasks, regions) = (head.tasks.len(), cells.div_ceil(REGION_CELLS));
        let class_cell = model.decode.candidates == Candidates::ClassCell;
        let lists = if class_cell {
            tables.channels.len()
        } else {
            tasks
        };
        let scratch = Scratch {
            keys: Buffer::zeroed(device, "candidates' keys", lists * regions * REGION_CELLS)?,
            found: Buffer::zeroed(device, "candidates of regions", tasks * regions)?,
            non_finite: Buffer::zeroed(device, "lost candidates of regions", tasks * regions)?,
            selected: Buffer::zeroed(device, "selected keys", model.max_boxes())?,
            counts: Buffer::zeroed(device, "candidates of tasks", tasks)?,
            sorted: Buffer::zeroed(device, "sorted keys", model.max_boxes())?,
        };
        let boxes = Buffer::zeroed(device, "candidates", model.max_boxes())?;
        let slots = Buffer::zeroed(device, "slots of candidates", model.max_boxes())?;
        let variances = || Buffer::zeroed(device, "variances of candidates", model.max_boxes());
        let variances = model.head.variance.then(variances).transpose()?;
        let totals = Buffer::zeroed(device, "totals of candidates", 1)?;
        let meters = |axis: usize| model.head.downsample as f32 * model.grid.voxel[axis];
        Ok(Self {
            maps: MapsParams {
                tasks: tables.tasks.ptr(),
                channels: tables.channels.ptr(),
                bands: tables.bands.ptr(),
                logits: tables.logits.ptr(),
                keys: scratch.keys.ptr(),
                found: scratch.found.ptr(),
                non_finite: scratch.non_finite.ptr(),
                sorted: scratch.sorted.ptr(),
                counts: scratch.counts.ptr(),
                boxes: boxes.ptr(),
                slots: slots.ptr(),
                variances: address(&variances),
                task_count: tasks as u32,
                width: head.size.1 as u32,
                height: head.size.0 as u32,
                regions: regions as u32,
                class_cell: class_cell.into(),
                band_count: tables.bands.len() as u32,
                channel_count: tables.channels.len() as u32,
                cell: [meters(0), meters(1)],
                min: [model.grid.min[0], model.grid.min[1]],
                center_range: model.decode.center_range,
                wlh: (model.head.size_order == SizeOrder::Wlh).into(),
                neg_cos_neg_sin: (model.head.rotation == Rotation::NegCosNegSin).into(),
                ..MapsParams::zeroed()
            },
            lists: ListsParams {
                tasks: tables.tasks.ptr(),
                keys: scratch.keys.ptr(),
                found: scratch.found.ptr(),
                non_finite: scratch.non_finite.ptr(),
                selected: scratch.selected.ptr(),
                counts: scratch.counts.ptr(),
                sorted: scratch.sorted.ptr(),
                totals: totals.ptr(),
                task_count: tasks as u32,
                regions: regions as u32,
                class_cell: class_cell.into(),
                max_candidates: model.decode.max_candidates as u32,
            },
            head,
            _tables: tables,
            _scratch: scratch,
            boxes,
            slots,
            variances,
            totals,
            sizes: Sizes::new(model),
        })
    }

    /// Address of the frame's totals.
    pub(super) fn totals(&self) -> DevicePtr<Totals> {
        self.totals.ptr()
    }

    /// Address of the candidates' boxes, best first (`[max_boxes]`); undefined past their count.
    pub(super) fn boxes(&self) -> DevicePtr<Box3d> {
        self.boxes.ptr()
    }

    /// Address of the boxes' variances; `NULL` if the head has none.
    pub(super) fn variances(&self) -> DevicePtr<Variances> {
        address(&self.variances)
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Most candidates of a frame.
    pub fn capacity(&self) -> usize {
        self.boxes.len()
    }

    /// Reads the candidates back, and waits for them.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self) -> Result<DownloadedCandidates, CudaError> {
        let totals = self.totals.download(1)?.first().copied();
        let totals = totals.unwrap_or_default();
        let boxes = self.boxes.download(totals.count as usize)?;
        let slots = self.slots.download(totals.count as usize)?;
        let variances = match &self.variances {
            Some(variances) => variances.download(totals.count as usize)?,
            None => vec![Variances::default(); boxes.len()],
        };
        let candidate = |((bbox, slot), variances)| {
            let (task, cell) = self.head.task_and_cell(slot);
            Candidate {
                bbox,
                task,
                cell,
                variances,
            }
        };
        let candidates = boxes.into_iter().zip(slots).zip(variances);
        Ok(DownloadedCandidates {
            candidates: candidates.map(candidate).collect(),
            surplus: totals.surplus.into(),
            non_finite: totals.non_finite.into(),
        })
    }

    /// Replaces the frame's candidates by others, best first: for tests, and for candidates that were decoded
    /// elsewhere. Ignores those past the capacity.
    ///
    /// # Errors
    /// [`CudaError::Copy`], also for a candidate of a task or class that the model lacks.
    pub fn upload(&mut self, candidates: &[Candidate]) -> Result<(), CudaError> {
        let candidates = &candidates[..candidates.len().min(self.capacity())];
        let foreign = |c: &&Candidate| {
            let task = self.head.tasks.get(c.task as usize);
            task.is_none_or(|(classes, _)| !classes.contains(&(c.bbox.class as usize)))
        };
        if let Some(candidate) = candidates.iter().find(foreign) {
            return Err(CudaError::Copy {
                what: "candidates",
                bytes: size_of_val(candidates),
                reason: format!(
                    "the model has no class {} in task {}",
                    candidate.bbox.class, candidate.task
                ),
            });
        }
        let boxes: Vec<Box3d> = candidates.iter().map(|c| c.bbox).collect();
        let slots: Vec<u32> = candidates.iter().map(|c| self.head.slot(c)).collect();
        self.boxes.upload(&boxes)?;
        self.slots.upload(&slots)?;
        if let Some(variances) = &mut self.variances {
            let values: Vec<Variances> = candidates.iter().map(|c| c.variances).collect();
            variances.upload(&values)?;
        }
        self.totals.upload(&[Totals {
            count: candidates.len() as u32,
            ..Totals::default()
        }])
    }

    /// Launches a kernel that reads maps once for every [`TASKS_PER_LAUNCH`] tasks; `shape` takes their number.
    fn launch_with_maps(
        &self,
        maps: &[HeadMaps<DeviceMap>],
        shape: impl Fn(u32) -> Launch,
    ) -> Result<(), CudaError> {
        let mut params = self.maps;
        for (i, maps) in maps.chunks(TASKS_PER_LAUNCH).enumerate() {
            params.first_task = (i * TASKS_PER_LAUNCH) as u32;
            for (to, maps) in params.maps.0.iter_mut().zip(maps) {
                *to = maps.each_ref().map(DeviceMap::params).into_array();
            }
            launch(&**self.totals.device(), &shape(maps.len() as u32), &params)?;
        }
        Ok(())
    }
}

/// The address of variances, `NULL` if there are none.
fn address(variances: &Option<Buffer<Variances>>) -> DevicePtr<Variances> {
    variances.as_ref().map_or(DevicePtr::NULL, Buffer::ptr)
}

impl Head {
    fn new(model: &Model) -> Result<Self, CudaError> {
        let size = model.head_size();
        let mut channels = 0;
        let mut tasks = Vec::with_capacity(model.head.tasks.len());
        for task in &model.head.tasks {
            let mut classes = task.classes.clone();
            classes.sort_unstable();
            tasks.push((classes, channels));
            channels += task.classes.len();
        }
        let limit = |what, count, limit, advice| {
            let error = CudaError::Limit {
                what,
                count,
                limit,
                advice,
            };
            if count > limit { Err(error) } else { Ok(()) }
        };
        limit(
            "head cells times classes",
            size.0 * size.1 * channels,
            MAX_SLOTS,
            "use a coarser `grid.voxel_size` or a larger `head.downsample`",
        )?;
        limit(
            "candidates of all tasks",
            model.max_boxes(),
            MAX_BOXES,
            "lower `decode.max_candidates`",
        )?;
        let names = model.head.tasks.iter().map(|task| task.outputs.clone());
        Ok(Self {
            size,
            tasks,
            variance: model.head.variance,
            names: names.collect(),
        })
    }

    /// The task and the cell of a slot: slots count tasks, then cells, then classes.
    fn task_and_cell(&self, slot: u32) -> (u32, u32) {
        let (slot, cells) = (slot as usize, self.size.0 * self.size.1);
        let next = self
            .tasks
            .partition_point(|(_, channel)| channel * cells <= slot);
        let task = next.saturating_sub(1);
        let (classes, channel) = &self.tasks[task];
        (
            task as u32,
            ((slot - channel * cells) / classes.len()) as u32,
        )
    }

    /// The slot of a candidate.
    fn slot(&self, candidate: &Candidate) -> u32 {
        let (classes, channel) = &self.tasks[candidate.task as usize];
        let rank = classes.partition_point(|&class| class < candidate.bbox.class as usize);
        let cells = self.size.0 * self.size.1;
        (channel * cells + candidate.cell as usize * classes.len() + rank) as u32
    }

    /// Checks that a head map has at least `channels`, the head's size, and a type that the kernels read.
    fn check(&self, name: &str, channels: usize, map: &DeviceMap) -> Result<(), CudaError> {
        let layout = &map.format().layout;
        let (height, width) = self.size;
        let problem = if layout.channels < channels
            || (layout.height, layout.width) != (height, width)
        {
            let found = [layout.channels, layout.height, layout.width];
            Some(format!(
                "its size is {found:?} (C, H, W), the model description gives [{channels}, {height}, {width}]"
            ))
        } else {
            (map.format().element == Element::I8)
                .then(|| "it has 8-bit codes; f32 and f16 are supported".into())
        };
        problem.map_or(Ok(()), |problem| {
            Err(CudaError::Map {
                map: name.to_owned(),
                problem,
            })
        })
    }
}

impl Tables {
    fn new(model: &Model, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        let (logits, least) = least_logits(model);
        let (mut tasks, mut channels) = (Vec::new(), Vec::new());
        for task in &model.head.tasks {
            tasks.push(TaskParams {
                classes: task.classes.len() as u32,
                channel: channels.len() as u32,
            });
            let mut by_rank: Vec<usize> = (0..task.classes.len()).collect();
            by_rank.sort_unstable_by_key(|&channel| task.classes[channel]);
            for (channel, &class) in task.classes.iter().enumerate() {
                channels.push(ChannelParams {
                    class: class as u32,
                    rank: task.classes.iter().filter(|&&other| other < class).count() as u32,
                    by_rank: by_rank[channel] as u32,
                    least: least[class],
                    yaw_norm: model.decode.yaw_norm[class],
                });
            }
        }
        let logits: Vec<f32> = logits
            .iter()
            .flat_map(|band| channels.iter().map(|channel| band[channel.class as usize]))
            .collect();
        Ok(Self {
            tasks: Buffer::new(device, "the head's tasks", &tasks)?,
            channels: Buffer::new(device, "the head's channels", &channels)?,
            bands: Buffer::new(device, "distance bands", &model.decode.bands)?,
            logits: Buffer::new(device, "least logits", &logits)?,
        })
    }
}

/// Finds the candidates of a frame and replaces those of the last one.
///
/// `maps` are the outputs of every task, each `H × W` as [`Model::head_size`]. Logarithms of variances follow the values.
/// The launches depend only on the model.
///
/// # Errors
/// [`CudaError::Map`] for a map that is missing, of another size or of an unsupported type;
/// [`CudaError::Kernel`].
pub fn decode(maps: &[HeadMaps<DeviceMap>], out: &mut CandidateList) -> Result<(), CudaError> {
    let tasks = out.head.tasks.len();
    if maps.len() != tasks {
        return Err(CudaError::Map {
            map: out.head.names[maps.len().min(tasks - 1)].heatmap.clone(),
            problem: format!("maps of {} tasks for {tasks} tasks", maps.len()),
        });
    }
    for (task, maps) in maps.iter().enumerate() {
        let factor = if out.head.variance { 2 } else { 1 };
        let channels = HeadMaps {
            heatmap: out.head.tasks[task].0.len(),
            ..HEAD_VALUES.map(|values| values * factor)
        };
        let names = out.head.names[task].each_ref();
        for (map, (name, channels)) in maps.each_ref().zip(names.zip(channels)).into_array() {
            out.head.check(name, channels, map)?;
        }
    }
    out.launch_with_maps(maps, |tasks| Launch {
        grid: [out.maps.regions.div_ceil(CELLS_BLOCK / WARP), tasks, 1],
        ..Launch::for_threads("decode_cells", 0, CELLS_BLOCK)
    })?;
    let device = &**out.totals.device();
    let tiles = out.capacity().div_ceil(TILE);
    for (kernel, blocks, block) in [
        ("decode_select", tasks, SELECT_BLOCK),
        ("decode_sort", tiles, SORT_BLOCK),
    ] {
        let shape = Launch::for_threads(kernel, blocks * block as usize, block);
        launch(device, &shape, &out.lists)?;
    }
    out.launch_with_maps(maps, |_| {
        Launch::for_threads("decode_boxes", out.capacity(), BOXES_BLOCK)
    })
}
