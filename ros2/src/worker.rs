//! Detects boxes in a cloud, accumulating sweeps by their poses from TF.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use centerpoint::internals::bag::messages::{Header, TFMessage};
use centerpoint::internals::bag::tf::{TfBuffer, TfError};
use centerpoint::internals::chain::Chain;
use centerpoint::model::WithoutPose;
use centerpoint::points::{FrameWarning, Pose, SweepBuffer};
use centerpoint::{Detection, Detector, DetectorError, Layout, PointCloud};

use crate::throttle::Throttle;

/// How long a cloud waits for its transform, which often arrives slightly later.
const TF_TIMEOUT: Duration = Duration::from_millis(50);

/// A cloud with the header of its message.
#[derive(Debug)]
pub(crate) struct StampedCloud {
    pub(crate) header: Header,
    pub(crate) points: PointCloud,
}

impl StampedCloud {
    pub(crate) fn empty() -> Self {
        Self {
            header: Header::default(),
            points: PointCloud::empty(Layout::XYZIT),
        }
    }
}

/// Transforms written by one thread and read by another.
#[derive(Debug, Default)]
pub(crate) struct Transforms {
    buffer: Mutex<TfBuffer>,
    arrived: Condvar,
}

impl Transforms {
    fn lock(&self) -> MutexGuard<'_, TfBuffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inserts a message from `/tf`, or from `/tf_static` if `is_static`.
    pub(crate) fn extend(&self, message: &TFMessage, is_static: bool) -> Result<(), TfError> {
        let done = self.lock().extend(message, is_static);
        self.arrived.notify_all();
        done
    }

    /// Like [`TfBuffer::lookup`], but waits up to [`TF_TIMEOUT`] for a transform that may still arrive.
    fn lookup(&self, target: &str, source: &str, stamp_ns: i64) -> Result<Pose, TfError> {
        let end = Instant::now() + TF_TIMEOUT;
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

/// The detector and its past sweeps.
pub(crate) struct Worker {
    detector: Detector,
    /// `None` if the model's input is a single cloud.
    sweeps: Option<SweepBuffer>,
    world_frame: String,
    without_pose: WithoutPose,
    no_pose: Throttle,
    restarted: Throttle,
}

impl Worker {
    pub(crate) fn new(
        detector: Detector,
        past: usize,
        world_frame: String,
        without_pose: WithoutPose,
    ) -> Self {
        let capacity = detector.model().points.capacity;
        Self {
            sweeps: (past > 0).then(|| SweepBuffer::new(past, capacity)),
            detector,
            world_frame,
            without_pose,
            no_pose: Throttle::default(),
            restarted: Throttle::default(),
        }
    }

    /// What is probably wrong with a cloud.
    pub(crate) fn check(&self, cloud: &PointCloud) -> Vec<String> {
        let found = self.detector.check(cloud).into_iter();
        // Past sweeps are added here.
        let found = found.filter(|warning| !matches!(warning, FrameWarning::Sweeps { .. }));
        found.map(|warning| warning.to_string()).collect()
    }

    /// Detects boxes in a cloud and its past sweeps; `None` if the cloud has no pose and therefore makes no frame.
    pub(crate) fn detect(
        &mut self,
        cloud: &StampedCloud,
        transforms: &Transforms,
    ) -> Result<Option<Detection<'_>>, DetectorError> {
        let Some(sweeps) = &mut self.sweeps else {
            return self.detector.detect(&cloud.points).map(Some);
        };
        let stamp_ns = cloud.header.stamp.nanoseconds();
        let pose = transforms
            .lookup(&self.world_frame, &cloud.header.frame_id, stamp_ns)
            .map_err(|error| {
                let result = match self.without_pose {
                    WithoutPose::Alone => "past sweeps are left out",
                    WithoutPose::Drop => "no boxes are published",
                };
                self.no_pose
                    .warn(|| format!("no pose for the cloud, so {result}: {}", Chain(&error)));
            })
            .ok();
        if pose.is_none() && self.without_pose == WithoutPose::Drop {
            return Ok(None);
        }
        match sweeps.push_or_restart(&cloud.points, stamp_ns, pose) {
            Ok(None) => {}
            Ok(Some(reason)) => self
                .restarted
                .warn(|| format!("{}; restarting the sweeps", Chain(&reason))),
            Err(error) => {
                self.restarted
                    .warn(|| format!("{}; detecting in this cloud alone", Chain(&error)));
                return self.detector.detect(&cloud.points).map(Some);
            }
        }
        self.detector.detect_sweeps(sweeps).map(Some)
    }
}
