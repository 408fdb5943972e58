//! The clouds of a bag as frames: with a name, a stamp, and past sweeps where transforms say where they were.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::messages::{Message, Messages};
use super::{Bag, BagError, POINT_CLOUD, TRANSFORMS, Topic, cdr};
use crate::points::{Layout, PointCloud, Pose, SweepBuffer, SweepError};
use crate::ros::cloud;
use crate::ros::messages::sensor::PointCloud2;
use crate::ros::messages::tf::TFMessage;
use crate::ros::tf::{TfBuffer, TfError};

/// How far ahead of a cloud transforms are read, in ns of log time: those of its moment are recorded before or
/// after it.
const AHEAD: u64 = 1_000_000_000;

/// What frames are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameOptions {
    /// Clouds of a frame, the newest included.
    pub sweeps: usize,
    /// Most points of a frame of several clouds.
    pub capacity: usize,
    /// The frame of the world in which vehicle and past sweeps are placed; `None`: the root of the tree that
    /// the clouds' frame hangs in.
    pub fixed_frame: Option<String>,
}

/// One frame after the other, in the order of the log times.
pub struct Frames {
    bag: Arc<Bag>,
    topic: String,
    clouds: Messages,
    /// Where several sweeps are wanted and the bag has transforms.
    transforms: Option<Transforms>,
    buffer: SweepBuffer,
    message: PointCloud,
    accumulated: PointCloud,
    /// How often a stamp was there.
    stamps: BTreeMap<i64, u32>,
    warned: bool,
}

/// A frame; borrowed from [`Frames`] until the next one.
#[derive(Clone, Debug, PartialEq)]
pub struct BagFrame<'a> {
    /// `TOPIC@STAMP`, with the stamp in ns; a further one of the same stamp has `-2`, `-3`, … at its end.
    pub name: String,
    /// The cloud's stamp in ns since its clock's epoch.
    pub stamp_ns: i64,
    /// The frame that the points are in.
    pub frame_id: String,
    /// The points; of all sweeps, if there are several, in the columns of the cloud and `t`.
    pub cloud: &'a PointCloud,
    /// Points of older sweeps past the capacity.
    pub points_over_capacity: usize,
}

impl Frames {
    /// The frames of `topic`, one of [`Bag::topics`]. Warns where past sweeps are wanted, but the bag has no
    /// transforms.
    pub fn new(bag: Bag, topic: &Topic, options: &FrameOptions) -> Self {
        let bag = Arc::new(bag);
        let clouds = Messages::new(Arc::clone(&bag), &topic.name, POINT_CLOUD);
        let several = options.sweeps > 1;
        let has_transforms = bag.has("/tf", TRANSFORMS) || bag.has("/tf_static", TRANSFORMS);
        if several && !has_transforms {
            log::warn!(
                "{}: no transforms (/tf): frames of one sweep, though the model was trained on {}",
                bag.path.display(),
                options.sweeps
            );
        }
        let transforms =
            (several && has_transforms).then(|| Transforms::new(&bag, options.fixed_frame.clone()));
        Self {
            topic: topic.name.clone(),
            clouds,
            transforms,
            buffer: SweepBuffer::new(options.sweeps.saturating_sub(1), options.capacity),
            message: PointCloud::empty(Layout::XYZIT),
            accumulated: PointCloud::empty(Layout::XYZIT),
            stamps: BTreeMap::new(),
            warned: false,
            bag,
        }
    }

    /// The next frame. An error is that of one damaged chunk or message; the others follow.
    pub fn next_frame(&mut self) -> Option<Result<BagFrame<'_>, BagError>> {
        let message = match self.clouds.next()? {
            Ok(message) => message,
            Err(error) => return Some(Err(error)),
        };
        Some(self.frame(&message))
    }

    fn frame(&mut self, message: &Message) -> Result<BagFrame<'_>, BagError> {
        let path = || match self.bag.files.get(message.file) {
            Some((source, _)) => source.path.clone(),
            None => self.bag.path.clone(),
        };
        let decoded: PointCloud2 =
            cdr::decode(&message.data).map_err(|reason| BagError::Message {
                path: path(),
                topic: self.topic.clone(),
                log_time: message.log_time,
                reason,
            })?;
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
            Some(points) => points,
            None => {
                std::mem::swap(&mut self.accumulated, &mut self.message);
                0
            }
        };
        Ok(BagFrame {
            name,
            stamp_ns,
            frame_id,
            cloud: &self.accumulated,
            points_over_capacity,
        })
    }

    /// Writes the cloud with its past sweeps to `accumulated`; gives the points past the capacity. `None` where
    /// there is but one sweep.
    fn accumulate(&mut self, frame_id: &str, stamp_ns: i64, log_time: u64) -> Option<usize> {
        let transforms = self.transforms.as_mut()?;
        transforms.advance(log_time.saturating_add(AHEAD));
        if transforms.choose_fixed_frame(frame_id) {
            // Poses in another world say nothing of each other.
            self.buffer.clear();
        }
        let pose = transforms.pose(frame_id, stamp_ns);
        if let Err(error) = &pose
            && !self.warned
        {
            self.warned = true;
            log::warn!(
                "{}: {}@{stamp_ns}: no pose, past sweeps are left out: {error} (further ones are not reported)",
                self.bag.path.display(),
                self.topic
            );
        }
        let pose = pose.ok();
        let mut pushed = self.buffer.push(&self.message, stamp_ns, pose);
        if let Err(SweepError::Backwards { .. } | SweepError::LayoutChanged { .. }) = pushed {
            self.buffer.clear();
            pushed = self.buffer.push(&self.message, stamp_ns, pose);
        }
        // No room for a column t.
        pushed.ok()?;
        Some(
            self.buffer
                .accumulate(&mut self.accumulated)
                .points_over_capacity,
        )
    }
}

/// The bag's transforms up to a moment.
struct Transforms {
    messages: Messages,
    next: Option<Message>,
    buffer: TfBuffer,
    /// As asked for.
    asked: Option<String>,
    /// As used.
    fixed: String,
    /// Whether there was something to warn of: what is wrong with one message is often wrong with all.
    warned: bool,
}

impl Transforms {
    /// Reads the static ones: they hold at all times, whenever they were recorded.
    fn new(bag: &Arc<Bag>, fixed_frame: Option<String>) -> Self {
        let messages = |topic| Messages::new(Arc::clone(bag), topic, TRANSFORMS);
        let mut new = Self {
            messages: messages("/tf_static"),
            next: None,
            buffer: TfBuffer::default(),
            asked: fixed_frame,
            fixed: String::new(),
            warned: false,
        };
        while let Some(message) = new.next() {
            new.insert(&message, true);
        }
        new.messages = messages("/tf");
        new
    }

    /// Takes what was recorded until a log time.
    fn advance(&mut self, until: u64) {
        while let Some(message) = self.next.take().or_else(|| self.next()) {
            if message.log_time > until {
                self.next = Some(message);
                return;
            }
            self.insert(&message, false);
        }
    }

    /// The next message; damaged chunks are passed over.
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

    fn warn(&mut self, error: &dyn std::error::Error) {
        if !self.warned {
            log::warn!("transforms: {error} (further errors are not reported)");
            self.warned = true;
        }
    }

    /// Whether the frame that serves as the world is another than before.
    fn choose_fixed_frame(&mut self, frame_id: &str) -> bool {
        let fixed = match &self.asked {
            Some(asked) => asked.as_str(),
            None => self.buffer.root(frame_id),
        };
        let other = fixed != self.fixed;
        if other {
            log::info!("sweeps of \"{frame_id}\" are placed in \"{fixed}\"");
            self.fixed = fixed.into();
        }
        other
    }

    fn pose(&self, frame_id: &str, stamp_ns: i64) -> Result<Pose, TfError> {
        self.buffer.lookup(&self.fixed, frame_id, stamp_ns)
    }
}
