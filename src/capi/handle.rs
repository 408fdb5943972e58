//! The state of a `cp_detector`: the detector, its cloud and sweeps, and the record of its last frame.
#![allow(unsafe_code, non_camel_case_types)]

use std::ffi::{CStr, CString};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Instant;

use super::status::Failure;
use super::types::{cp_cloud, cp_field, cp_frame_info, cp_model_info, slice};
use crate::cuda::DevicePtr;
use crate::detection::Detection;
use crate::detector::Detector;
use crate::points::{Column, Extent, FieldType, Layout, PointCloud, Pose, Records, SweepBuffer};

/// Most fields of a point; real ones have a dozen.
const MAX_FIELDS: usize = 1024;

/// A loaded plan with its buffers, `cp_detector` of the header.
pub struct cp_detector {
    pub(super) classes: Vec<CString>,
    pub(super) columns: Vec<CString>,
    /// Poisoned by a panic, like any mutex.
    state: Mutex<State>,
}

/// The state changed by calls.
pub(super) struct State {
    pub(super) detector: Detector,
    fields: Option<KnownFields>,
    cloud: PointCloud,
    sweeps: SweepBuffer,
    /// Whether a sweep has been pushed.
    has_sweep: bool,
    /// Time of reading the last cloud from the caller's memory, in ms.
    read_ms: f64,
    /// The last frame; `None` before the first frame and after an error.
    last: Option<cp_frame_info>,
}

/// The caller's fields and their meaning, kept between frames.
struct KnownFields {
    fields: Vec<KnownField>,
    step: usize,
    big_endian: bool,
    records: Records,
}

struct KnownField {
    name: CString,
    offset: u32,
    datatype: u32,
    count: u32,
}

impl cp_detector {
    pub(super) fn new(detector: Detector) -> Self {
        // A NUL would end the name early.
        let text = |name: &str| CString::new(name.replace('\0', " ")).unwrap_or_default();
        let model = detector.model();
        Self {
            classes: model.classes.iter().map(|name| text(name)).collect(),
            columns: model
                .points
                .columns
                .iter()
                .map(|column| text(column.name()))
                .collect(),
            state: Mutex::new(State {
                sweeps: SweepBuffer::new(model.points.sweeps - 1, model.points.capacity),
                detector,
                fields: None,
                cloud: PointCloud::empty(Layout::KITTI),
                has_sweep: false,
                read_ms: 0.0,
                last: None,
            }),
        }
    }

    /// The state, unless another thread is using it or a panic left it inconsistent.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Failure::Busy,
            TryLockError::Poisoned(_) => Failure::Poisoned,
        })
    }
}

impl State {
    /// Reads the caller's cloud into `self.cloud`.
    ///
    /// # Safety
    /// Every pointer in `cloud` is NULL or valid as described in the header.
    pub(super) unsafe fn read(&mut self, cloud: &cp_cloud) -> Result<(), Failure> {
        let start = Instant::now();
        if cloud.reserved != 0 {
            return Err(Failure::Newer("cp_cloud"));
        }
        if cloud.field_count > MAX_FIELDS {
            return Err(Failure::Value {
                name: "field_count",
                found: cloud.field_count.to_string(),
                expected: "at most 1024",
            });
        }
        // SAFETY: the caller's contract.
        let (fields, bytes) = unsafe {
            (
                slice(cloud.fields, cloud.field_count, "fields")?,
                slice(cloud.data.cast::<u8>(), cloud.data_size, "data")?,
            )
        };
        if fields.iter().any(|field| field.name.is_null()) {
            return Err(Failure::Null("name"));
        }
        let step = cloud.point_step as usize;
        let big_endian = cloud.is_bigendian != 0;
        let known = self.fields.take().filter(|known| {
            // SAFETY: no name is NULL; the caller's contract.
            known.step == step && known.big_endian == big_endian && unsafe { known.same(fields) }
        });
        let fields = match known {
            Some(known) => known,
            None => {
                // SAFETY: as above.
                let known = unsafe { KnownFields::new(fields, step, big_endian) }?;
                // Reserve the detector's capacity: later clouds must not allocate.
                let layout = known.records.layout();
                let values = self.detector.model().points.capacity * layout.stride();
                self.cloud = PointCloud::new(layout, Vec::with_capacity(values))
                    .map_err(crate::Error::from)?;
                known
            }
        };
        let extent = Extent {
            width: cloud.width as usize,
            height: cloud.height as usize,
            row_step: cloud.row_step as usize,
        };
        let done = fields.records.read(bytes, extent, &mut self.cloud);
        self.fields = Some(fields);
        done.map_err(crate::Error::from)?;
        self.read_ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    /// What is probably wrong with the cloud that was read, a line for each problem.
    pub(super) fn check(&self) -> String {
        let found = self.detector.check(&self.cloud);
        let lines: Vec<String> = found.iter().map(|warning| warning.to_string()).collect();
        lines.join("\n")
    }

    /// Detects objects in the cloud that was read.
    pub(super) fn detect(&mut self) -> Result<(), Failure> {
        let (points, layout) = (self.cloud.len(), self.cloud.layout());
        let found = self.detector.detect(&self.cloud)?;
        let info = info(&found, points, self.read_ms);
        self.record(info, layout);
        Ok(())
    }

    /// Detects objects in points on the GPU.
    ///
    /// # Safety
    /// That of [`Detector::detect_device`].
    pub(super) unsafe fn detect_device(
        &mut self,
        points: DevicePtr<f32>,
        count: usize,
    ) -> Result<(), Failure> {
        // SAFETY: this function's contract.
        let found = unsafe { self.detector.detect_device(points, count) }?;
        self.last = Some(info(&found, count, 0.0));
        Ok(())
    }

    /// Adds the cloud that was read to the sweeps.
    pub(super) fn push(&mut self, stamp_ns: i64, pose: Option<Pose>) -> Result<(), Failure> {
        self.sweeps.push(&self.cloud, stamp_ns, pose)?;
        self.has_sweep = true;
        Ok(())
    }

    /// Removes all sweeps.
    pub(super) fn clear(&mut self) {
        self.sweeps.clear();
        self.has_sweep = false;
    }

    /// Detects objects in the sweeps.
    pub(super) fn detect_sweeps(&mut self) -> Result<(), Failure> {
        if !self.has_sweep {
            return Err(Failure::NoSweep);
        }
        let found = self.detector.detect_sweeps(&self.sweeps)?;
        let mut info = info(&found, 0, self.read_ms);
        let layout = self.sweeps.layout();
        let done = self.sweeps.counts();
        info.points = (done.points + done.points_over_capacity) as u64;
        info.sweeps = done.sweeps as u32;
        info.sweeps_without_pose = done.sweeps_without_pose as u32;
        self.record(info, layout);
        Ok(())
    }

    /// Starts a new frame: clears the record of the last one.
    pub(super) fn begin(&mut self) {
        self.last = None;
    }

    /// The record of the last frame.
    pub(super) fn last(&self) -> Option<&cp_frame_info> {
        self.last.as_ref()
    }

    /// The properties of the detector's model.
    pub(super) fn model(&self) -> cp_model_info {
        let model = self.detector.model();
        let (min, max) = (model.grid.min, model.grid.max);
        cp_model_info {
            struct_size: 0,
            class_count: model.classes.len(),
            column_count: model.points.columns.len(),
            sweeps: model.points.sweeps,
            capacity: model.points.capacity,
            max_boxes: model.max_boxes(),
            threads: self.detector.threads(),
            range: [min[0], min[1], min[2], max[0], max[1], max[2]].map(f64::from),
        }
    }

    /// Records a frame whose points have the columns `layout`.
    fn record(&mut self, mut info: cp_frame_info, layout: Layout) {
        let wanted = self
            .detector
            .model()
            .points
            .columns
            .contains(&Column::Intensity);
        info.missing_intensity = (wanted && layout.position(Column::Intensity).is_none()).into();
        self.last = Some(info);
    }
}

/// The record of a detection.
fn info(found: &Detection<'_>, points: usize, read_ms: f64) -> cp_frame_info {
    let (dropped, times) = (&found.dropped, &found.times);
    let ground = found.ground;
    cp_frame_info {
        ground_height: ground.map_or(0.0, |ground| ground.height),
        ground_spread: ground.map_or(0.0, |ground| ground.spread),
        ground_cells: ground.map_or(0, |ground| ground.cells as u32),
        points: points as u64,
        dropped_non_finite: dropped.non_finite,
        dropped_out_of_range: dropped.out_of_range,
        dropped_pillar_points: dropped.pillar_points,
        dropped_pillars: dropped.pillars,
        dropped_candidates: dropped.candidates,
        dropped_non_finite_candidates: dropped.non_finite_candidates,
        dropped_sweep_points: dropped.sweep_points,
        read_ms,
        pillars_ms: times.pillars,
        features_ms: times.features,
        scatter_ms: times.scatter,
        engine_ms: times.engine,
        decode_ms: times.decode,
        nms_ms: times.nms,
        total_ms: times.total + read_ms,
        sweeps: 1,
        ..cp_frame_info::default()
    }
}

impl KnownFields {
    /// Interprets the caller's fields.
    ///
    /// # Safety
    /// Each name is a C string.
    unsafe fn new(fields: &[cp_field], step: usize, big_endian: bool) -> Result<Self, Failure> {
        let fields: Vec<KnownField> = fields
            .iter()
            .map(|field| KnownField {
                // SAFETY: the caller's contract.
                name: unsafe { CStr::from_ptr(field.name) }.to_owned(),
                offset: field.offset,
                datatype: field.datatype,
                count: field.count,
            })
            .collect();
        let usable = fields
            .iter()
            .filter(|field| field.count == 1)
            .filter_map(|field| {
                let kind = FieldType::from_ros(u8::try_from(field.datatype).ok()?)?;
                Some((field.name.to_str().ok()?, kind, field.offset as usize))
            });
        let records = Records::new(&Records::select_fields(usable), step, big_endian)
            .map_err(crate::Error::from)?;
        Ok(Self {
            fields,
            step,
            big_endian,
            records,
        })
    }

    /// Whether `fields` are the known ones.
    ///
    /// # Safety
    /// Each name is a C string.
    unsafe fn same(&self, fields: &[cp_field]) -> bool {
        self.fields.len() == fields.len()
            && self.fields.iter().zip(fields).all(|(known, field)| {
                (known.offset, known.datatype, known.count) == (field.offset, field.datatype, field.count)
                    // SAFETY: the caller's contract.
                    && known.name.as_c_str() == unsafe { CStr::from_ptr(field.name) }
            })
    }
}
