//! From a cloud to its boxes: sweeps with poses from TF, and the detector.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::throttle::Throttle;
use crate::detector::{Detection, Detector};
use crate::error::Result;
use crate::points::{Layout, PointCloud, Pose, SweepBuffer};
use crate::ros::messages::header::Header;
use crate::ros::messages::tf::TFMessage;
use crate::ros::tf::{TfBuffer, TfError};

/// How long a cloud waits for the transform of its time, which often comes a little later.
const TF_PATIENCE: Duration = Duration::from_millis(50);

/// A cloud and what its message said of it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) cloud: PointCloud,
}

impl Frame {
    pub(super) fn empty() -> Self {
        Self {
            header: Header::default(),
            cloud: PointCloud::empty(Layout::XYZIT),
        }
    }
}

/// Transforms that one thread fills and another asks.
#[derive(Debug, Default)]
pub(super) struct Transforms {
    buffer: Mutex<TfBuffer>,
    arrived: Condvar,
}

impl Transforms {
    fn lock(&self) -> MutexGuard<'_, TfBuffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message of `/tf`, or of `/tf_static` if `fixed`.
    pub(super) fn extend(&self, message: &TFMessage, fixed: bool) -> Result<(), TfError> {
        let done = self.lock().extend(message, fixed);
        self.arrived.notify_all();
        done
    }

    /// As [`TfBuffer::lookup`]; waits a little where the transform may be on its way.
    fn lookup(&self, target: &str, source: &str, stamp_ns: i64) -> Result<Pose, TfError> {
        let end = Instant::now() + TF_PATIENCE;
        let mut buffer = self.lock();
        loop {
            let found = buffer.lookup(target, source, stamp_ns);
            let left = end.saturating_duration_since(Instant::now());
            if !matches!(found, Err(TfError::TooNew { .. })) || left.is_zero() {
                return found;
            }
            let waited = self.arrived.wait_timeout(buffer, left);
            buffer = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The detector and its sweeps.
pub(super) struct Worker {
    detector: Detector,
    /// `None` where a cloud is all that the model is given.
    sweeps: Option<SweepBuffer>,
    world_frame: String,
    no_pose: Throttle,
    restarted: Throttle,
}

impl Worker {
    pub(super) fn new(detector: Detector, past: usize, world_frame: String) -> Self {
        let capacity = detector.model().points.capacity;
        Self {
            sweeps: (past > 0).then(|| SweepBuffer::new(past, capacity)),
            detector,
            world_frame,
            no_pose: Throttle::default(),
            restarted: Throttle::default(),
        }
    }

    /// The boxes of a cloud and of those before it.
    pub(super) fn detect(
        &mut self,
        frame: &Frame,
        transforms: &Transforms,
    ) -> Result<Detection<'_>> {
        let Some(sweeps) = &mut self.sweeps else {
            return self.detector.detect(&frame.cloud);
        };
        let stamp_ns = frame.header.stamp.nanoseconds();
        let pose = transforms
            .lookup(&self.world_frame, &frame.header.frame_id, stamp_ns)
            .map_err(|error| {
                self.no_pose.warn(|| {
                    format!("no pose for the cloud, so that it goes without others: {error}")
                });
            })
            .ok();
        if let Err(error) = sweeps.push(&frame.cloud, stamp_ns, pose) {
            self.restarted
                .warn(|| format!("{error}; the sweeps begin anew"));
            sweeps.clear();
            if sweeps.push(&frame.cloud, stamp_ns, pose).is_err() {
                return self.detector.detect(&frame.cloud);
            }
        }
        self.detector.detect_sweeps(sweeps)
    }
}
