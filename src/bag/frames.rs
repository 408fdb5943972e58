//! The clouds of a bag as frames: a name, a stamp, and past sweeps placed by the bag's transforms.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use super::messages::{PointCloud2, TFMessage};
use super::reader::{Message, TopicReader};
use super::tf::{TfBuffer, TfError};
use super::{Bag, BagError, FOXGLOVE_CLOUD, TRANSFORMS, Topic, cdr, cloud, foxglove};
use crate::chain::Chain;
use crate::model::WithoutPose;
use crate::points::{Layout, PointCloud, Pose, SweepBuffer};

/// How far past a cloud transforms are read, in ns of log time: a transform may be recorded after the cloud that
/// needs it.
const LOOKAHEAD: u64 = 1_000_000_000;

/// How frames are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameOptions {
    /// Clouds per frame, including the newest.
    pub sweeps: usize,
    /// Maximum number of points in a frame of several clouds.
    pub capacity: usize,
    /// The world frame in which past sweeps are placed; `None` uses the root of the clouds' transform tree.
    pub fixed_frame: Option<String>,
    /// What becomes of a cloud that no transform places, if frames have several sweeps.
    pub without_pose: WithoutPose,
}

/// Iterates over a topic's frames in log time order.
pub struct Frames {
    bag: Arc<Bag>,
    topic: String,
    clouds: TopicReader,
    /// Whether messages are `foxglove.PointCloud`.
    whole: bool,
    /// `None` for frames of one sweep.
    transforms: Option<Transforms>,
    /// Whether clouds without a pose make no frame.
    drops: bool,
    /// Clouds so far that made none.
    dropped: u64,
    buffer: SweepBuffer,
    message: PointCloud,
    accumulated: PointCloud,
    /// How often each stamp has occurred.
    stamps: BTreeMap<i64, u32>,
    /// Whether a warning about past sweeps was logged. Only the first is, because its cause often affects all frames.
    warned: bool,
}

/// A frame, borrowed from [`Frames`] until the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct BagFrame<'a> {
    /// `TOPIC@STAMP`, with the stamp in ns; frames that repeat a stamp end in `-2`, `-3`, ….
    pub name: String,
    /// The cloud's stamp in ns since its clock's epoch.
    pub stamp_ns: i64,
    /// The coordinate frame of the points.
    pub frame_id: String,
    /// The points of all sweeps, in the cloud's columns; several sweeps also have `t`.
    pub cloud: &'a PointCloud,
    /// Points of past sweeps that exceeded the capacity.
    pub points_over_capacity: usize,
}

/// What a frame is besides its points.
struct Read {
    name: String,
    stamp_ns: i64,
    frame_id: String,
    points_over_capacity: usize,
}

/// The points of a frame.
enum Accumulated {
    /// The cloud alone.
    Alone,
    /// The cloud and its past sweeps, without this many points.
    Several(usize),
    /// None: the cloud has no pose.
    Dropped,
}

impl Frames {
    /// The frames of `topic`, one of [`Bag::topics`]. Warns if past sweeps are requested but the bag has no
    /// transforms.
    pub fn new(bag: Bag, topic: &Topic, options: &FrameOptions) -> Self {
        let bag = Arc::new(bag);
        let clouds = TopicReader::new(Arc::clone(&bag), &topic.name, &topic.type_name);
        // Our own clouds hold all sweeps of their frame.
        let whole = topic.type_name == FOXGLOVE_CLOUD;
        let several = options.sweeps > 1 && !whole;
        let has_transforms = bag.has("/tf", TRANSFORMS) || bag.has("/tf_static", TRANSFORMS);
        let drops = several && options.without_pose == WithoutPose::Drop;
        if several && !has_transforms {
            let result = if drops {
                "no cloud makes a frame, because the model's `points.without_pose` is \"drop\""
            } else {
                "each frame has one sweep"
            };
            log::warn!(
                "{}: no transforms (/tf): {result}, but the model was trained on {}",
                bag.path.display(),
                options.sweeps
            );
        }
        let transforms =
            (several && has_transforms).then(|| Transforms::new(&bag, options.fixed_frame.clone()));
        Self {
            topic: topic.name.clone(),
            clouds,
            whole,
            transforms,
            drops,
            dropped: 0,
            buffer: SweepBuffer::new(options.sweeps.saturating_sub(1), options.capacity),
            message: PointCloud::empty(Layout::XYZIT),
            accumulated: PointCloud::empty(Layout::XYZIT),
            stamps: BTreeMap::new(),
            warned: false,
            bag,
        }
    }

    /// The next frame. An error concerns one damaged chunk or message; later frames can still be read.
    pub fn next_frame(&mut self) -> Option<Result<BagFrame<'_>, BagError>> {
        let read = loop {
            let read = match self.clouds.next() {
                Some(Ok(message)) => self.read(&message),
                Some(Err(error)) => Err(error),
                None => {
                    self.report_dropped();
                    return None;
                }
            };
            match read {
                Ok(Some(read)) => break read,
                Ok(None) => self.dropped += 1,
                Err(error) => return Some(Err(error)),
            }
        };
        Some(Ok(BagFrame {
            name: read.name,
            stamp_ns: read.stamp_ns,
            frame_id: read.frame_id,
            cloud: &self.accumulated,
            points_over_capacity: read.points_over_capacity,
        }))
    }

    /// Reads a frame's points into `accumulated`; `None` if there is no frame.
    fn read(&mut self, message: &Message) -> Result<Option<Read>, BagError> {
        let path = || match self.bag.files.get(message.file) {
            Some((file, _)) => file.path.clone(),
            None => self.bag.path.clone(),
        };
        let (topic, log_time) = (|| self.topic.clone(), message.log_time);
        let decoded: PointCloud2 = if self.whole {
            foxglove::decode(&message.data).map_err(|reason| BagError::Foxglove {
                path: path(),
                topic: topic(),
                log_time,
                reason,
            })?
        } else {
            cdr::decode(&message.data).map_err(|reason| BagError::Message {
                path: path(),
                topic: topic(),
                log_time,
                reason,
            })?
        };
        let stamp_ns = decoded.header.stamp.nanoseconds();
        let count = self.stamps.entry(stamp_ns).or_insert(0);
        *count += 1;
        let name = match *count {
            1 => format!("{}@{stamp_ns}", self.topic),
            count => format!("{}@{stamp_ns}-{count}", self.topic),
        };
        cloud::read(&decoded, &mut self.message).map_err(|reason| BagError::Cloud {
            path: path(),
            frame: name.clone(),
            reason,
        })?;
        let frame_id = decoded.header.frame_id;
        let points_over_capacity = match self.accumulate(&frame_id, stamp_ns, message.log_time) {
            Accumulated::Several(points) => points,
            Accumulated::Alone => {
                std::mem::swap(&mut self.accumulated, &mut self.message);
                0
            }
            Accumulated::Dropped => return Ok(None),
        };
        Ok(Some(Read {
            name,
            stamp_ns,
            frame_id,
            points_over_capacity,
        }))
    }

    /// Writes the cloud and its past sweeps to `accumulated`, if the frame has several.
    fn accumulate(&mut self, frame_id: &str, stamp_ns: i64, log_time: u64) -> Accumulated {
        let drops = self.drops;
        let Some(transforms) = self.transforms.as_mut() else {
            return if drops {
                Accumulated::Dropped
            } else {
                Accumulated::Alone
            };
        };
        transforms.advance(log_time.saturating_add(LOOKAHEAD));
        if transforms.choose_fixed_frame(frame_id) {
            // Poses in different worlds cannot be compared.
            self.buffer.clear();
        }
        let pose = transforms.pose(frame_id, stamp_ns);
        if let Err(error) = &pose {
            self.warn(stamp_ns, error);
            if drops {
                return Accumulated::Dropped;
            }
        }
        let pushed = self
            .buffer
            .push_or_restart(&self.message, stamp_ns, pose.ok());
        if let Ok(Some(error)) | Err(error) = &pushed {
            self.warn(stamp_ns, error);
        }
        if pushed.is_err() {
            return Accumulated::Alone;
        }
        let counts = self.buffer.accumulate(&mut self.accumulated);
        Accumulated::Several(counts.points_over_capacity)
    }

    /// Reports the clouds that made no frame, once.
    fn report_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            log::warn!(
                "{}: {}: {dropped} clouds without a pose made no frame (`points.without_pose` is \"drop\")",
                self.bag.path.display(),
                self.topic
            );
        }
    }

    fn warn(&mut self, stamp_ns: i64, error: &(dyn Error + 'static)) {
        if !self.warned {
            let result = if self.drops {
                "no frame, or no past sweeps"
            } else {
                "past sweeps are left out"
            };
            log::warn!(
                "{}: {}@{stamp_ns}: {result}: {} (only the first case is reported)",
                self.bag.path.display(),
                self.topic,
                Chain(error)
            );
            self.warned = true;
        }
    }
}

/// The bag's transforms up to some log time.
struct Transforms {
    messages: TopicReader,
    /// A message read too early.
    next: Option<Message>,
    buffer: TfBuffer,
    /// [`FrameOptions::fixed_frame`].
    requested: Option<String>,
    /// The world frame in use.
    fixed: String,
    /// Whether a warning was logged. Only the first is, because an error in one message is often in all.
    warned: bool,
}

impl Transforms {
    /// Reads the static transforms, which hold at all times no matter when they were recorded.
    fn new(bag: &Arc<Bag>, fixed_frame: Option<String>) -> Self {
        let messages = |topic| TopicReader::new(Arc::clone(bag), topic, TRANSFORMS);
        let mut new = Self {
            messages: messages("/tf_static"),
            next: None,
            buffer: TfBuffer::default(),
            requested: fixed_frame,
            fixed: String::new(),
            warned: false,
        };
        while let Some(message) = new.next() {
            new.insert(&message, true);
        }
        new.messages = messages("/tf");
        new
    }

    /// Reads what was recorded up to a log time.
    fn advance(&mut self, until: u64) {
        while let Some(message) = self.next.take().or_else(|| self.next()) {
            if message.log_time > until {
                self.next = Some(message);
                return;
            }
            self.insert(&message, false);
        }
    }

    /// The next message; skips damaged chunks.
    fn next(&mut self) -> Option<Message> {
        loop {
            match self.messages.next()? {
                Ok(message) => return Some(message),
                Err(error) => self.warn(&error),
            }
        }
    }

    fn insert(&mut self, message: &Message, fixed: bool) {
        match cdr::decode::<TFMessage>(&message.data) {
            Ok(decoded) => {
                if let Err(error) = self.buffer.extend(&decoded, fixed) {
                    self.warn(&error);
                }
            }
            Err(error) => self.warn(&error),
        }
    }

    fn warn(&mut self, error: &(dyn Error + 'static)) {
        if !self.warned {
            log::warn!(
                "transforms: {} (only the first error is reported)",
                Chain(error)
            );
            self.warned = true;
        }
    }

    /// Chooses the world frame for clouds in `frame_id`; returns whether it changed.
    fn choose_fixed_frame(&mut self, frame_id: &str) -> bool {
        let fixed = match &self.requested {
            Some(requested) => requested.as_str(),
            None => self.buffer.root(frame_id),
        };
        let changed = fixed != self.fixed;
        if changed {
            log::info!("sweeps of \"{frame_id}\" are placed in \"{fixed}\"");
            self.fixed = fixed.into();
        }
        changed
    }

    fn pose(&self, frame_id: &str, stamp_ns: i64) -> Result<Pose, TfError> {
        self.buffer.lookup(&self.fixed, frame_id, stamp_ns)
    }
}
