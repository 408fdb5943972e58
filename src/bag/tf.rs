//! Transform buffer: stores transforms from `/tf` and `/tf_static` and looks them up by time.
//!
//! The rules are those of tf2: a child has one parent at a time, lookups between two samples interpolate (lerp and
//! slerp), and lookups outside the samples fail instead of extrapolating. If two neighbouring samples have different
//! parents, the older one holds until the newer one. Frames may move in the tree, because each sample stores its own
//! parent. A cycle is an error.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

use super::messages::{TFMessage, TransformStamped};
use crate::points::{Pose, PoseError};

/// How long samples are kept; the default of tf2.
pub(crate) const HISTORY: Duration = Duration::from_secs(10);

/// Maximum number of frames.
const MAX_FRAMES: usize = 10_000;

/// Maximum number of samples per frame: 10 s at 1 kHz.
const MAX_SAMPLES: usize = 10_000;

/// Transforms by child frame.
#[derive(Clone, Debug)]
pub struct TfBuffer {
    links: BTreeMap<String, Link>,
    history_ns: i64,
}

/// The transforms of a child.
#[derive(Clone, Debug)]
enum Link {
    /// Valid at all times.
    Static(Sample),
    /// Oldest first, unique stamps, never empty.
    Timed(VecDeque<Sample>),
}

#[derive(Clone, Debug)]
struct Sample {
    stamp_ns: i64,
    parent: String,
    /// Child to parent.
    pose: Isometry3<f64>,
}

impl Default for TfBuffer {
    /// A buffer that keeps tf2's [`HISTORY`].
    fn default() -> Self {
        Self::new(HISTORY)
    }
}

impl TfBuffer {
    /// An empty buffer that keeps each frame's samples for `history` before its newest.
    pub fn new(history: Duration) -> Self {
        Self {
            links: BTreeMap::new(),
            history_ns: i64::try_from(history.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// Inserts all transforms of a message from `/tf`, or from `/tf_static` if `is_static`. Skips invalid ones.
    ///
    /// # Errors
    /// The first error of [`TfBuffer::insert`].
    pub fn extend(&mut self, message: &TFMessage, is_static: bool) -> Result<(), TfError> {
        let mut first = Ok(());
        for transform in &message.transforms {
            first = first.and(self.insert(transform, is_static));
        }
        first
    }

    /// Inserts a transform. Static transforms hold at all times; a child is static if its last transform was. If two
    /// samples have the same stamp, the first is kept. A sample older than the history means that time jumped back (a
    /// bag was restarted) and replaces all samples of its frame.
    ///
    /// # Errors
    /// [`TfError::Invalid`], [`TfError::Names`], [`TfError::Full`]; the buffer is then unchanged.
    pub fn insert(&mut self, transform: &TransformStamped, is_static: bool) -> Result<(), TfError> {
        let child = frame(&transform.child_frame_id);
        let parent = frame(&transform.header.frame_id);
        if child.is_empty() || parent.is_empty() || child == parent {
            return Err(TfError::Names {
                parent: parent.into(),
                child: child.into(),
            });
        }
        let sample = Sample {
            stamp_ns: transform.header.stamp.nanoseconds(),
            parent: parent.into(),
            pose: isometry(transform).map_err(|reason| TfError::Invalid {
                parent: parent.into(),
                child: child.into(),
                reason,
            })?,
        };
        let full = self.links.len() >= MAX_FRAMES;
        match self.links.get_mut(child) {
            Some(Link::Timed(samples)) if !is_static => add(samples, sample, self.history_ns),
            Some(link) => *link = Link::new(sample, is_static),
            None if full => {
                return Err(TfError::Full {
                    child: child.into(),
                });
            }
            None => {
                self.links
                    .insert(child.into(), Link::new(sample, is_static));
            }
        }
        Ok(())
    }

    /// Removes all transforms.
    pub fn clear(&mut self) {
        self.links.clear();
    }

    /// The pose of the frame `source` in the frame `target` (say of the vehicle in the map) at `stamp_ns`.
    ///
    /// # Errors
    /// [`TfError::Unknown`], [`TfError::TooOld`], [`TfError::TooNew`], [`TfError::Cycle`] or [`TfError::NoPath`].
    pub fn lookup(&self, target: &str, source: &str, stamp_ns: i64) -> Result<Pose, TfError> {
        let (target, source) = (frame(target), frame(source));
        if target == source {
            return pose(&Isometry3::identity(), target, source);
        }
        for name in [target, source] {
            if !self.knows(name) {
                return Err(TfError::Unknown { frame: name.into() });
            }
        }
        let from = self.ascend(source, stamp_ns, |frame| frame == target);
        let source_in = |frame: &str| from.poses.iter().find(|(other, _)| *other == frame);
        let to = self.ascend(target, stamp_ns, |frame| source_in(frame).is_some());
        // An ascent may be blocked above the common ancestor, where it does not matter.
        let (ancestor, target_pose) = to.top();
        match source_in(ancestor) {
            Some((_, source_pose)) => pose(&target_pose.inv_mul(source_pose), target, source),
            None => Err(from.blocked.or(to.blocked).unwrap_or(TfError::NoPath {
                target: target.into(),
                source_frame: source.into(),
            })),
        }
    }

    /// The root of the tree that contains `frame`, following the newest transform of each frame; `frame` itself if it
    /// has no parent.
    pub fn root<'a>(&'a self, frame: &'a str) -> &'a str {
        let mut at = self::frame(frame);
        // Bounded by the number of links, because frames may form a cycle.
        for _ in 0..self.links.len() {
            match self.links.get(at).and_then(|link| link.samples().last()) {
                Some(sample) => at = &sample.parent,
                None => break,
            }
        }
        at
    }

    /// Whether any transform mentions the frame.
    fn knows(&self, frame: &str) -> bool {
        self.links.contains_key(frame)
            || self
                .links
                .values()
                .any(|link| link.samples().any(|sample| sample.parent == frame))
    }

    /// Climbs from `frame` at `stamp_ns` to the first frame that is `done`, or to the root.
    fn ascend<'a>(
        &'a self,
        frame: &'a str,
        stamp_ns: i64,
        done: impl Fn(&str) -> bool,
    ) -> Ascent<'a> {
        let mut ascent = Ascent {
            start: (frame, Isometry3::identity()),
            poses: vec![(frame, Isometry3::identity())],
            blocked: None,
        };
        let (mut at, mut pose) = ascent.start;
        while !done(at)
            && let Some(link) = self.links.get(at)
        {
            match link.at(stamp_ns, at) {
                Ok((parent, step)) => {
                    pose = step * pose;
                    at = parent;
                    if ascent.poses.iter().any(|(frame, _)| *frame == at) {
                        ascent.blocked = Some(TfError::Cycle { frame: at.into() });
                        break;
                    }
                    ascent.poses.push((at, pose));
                }
                Err(error) => {
                    ascent.blocked = Some(error);
                    break;
                }
            }
        }
        ascent
    }
}

/// A path from a frame up the tree.
struct Ascent<'a> {
    start: (&'a str, Isometry3<f64>),
    /// The frames on the path, and the pose of the start in each.
    poses: Vec<(&'a str, Isometry3<f64>)>,
    /// Why it stopped before the root.
    blocked: Option<TfError>,
}

impl<'a> Ascent<'a> {
    /// The last frame, and the pose of the start in it.
    fn top(&self) -> (&'a str, Isometry3<f64>) {
        self.poses.last().copied().unwrap_or(self.start)
    }
}

impl Link {
    fn new(sample: Sample, is_static: bool) -> Self {
        if is_static {
            Link::Static(sample)
        } else {
            Link::Timed(VecDeque::from([sample]))
        }
    }

    fn samples(&self) -> impl Iterator<Item = &Sample> {
        let (one, many) = match self {
            Link::Static(sample) => (Some(sample), None),
            Link::Timed(samples) => (None, Some(samples)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// The parent of `child` at a time, and the pose of `child` in it.
    fn at(&self, stamp_ns: i64, child: &str) -> Result<(&str, Isometry3<f64>), TfError> {
        let samples = match self {
            Link::Static(sample) => return Ok((&sample.parent, sample.pose)),
            Link::Timed(samples) => samples,
        };
        let after = samples.partition_point(|sample| sample.stamp_ns <= stamp_ns);
        let newer = samples.get(after);
        let Some(older) = after.checked_sub(1).and_then(|index| samples.get(index)) else {
            return Err(TfError::TooOld {
                child: child.into(),
                stamp_ns,
                oldest_ns: newer.map_or(stamp_ns, |sample| sample.stamp_ns),
            });
        };
        match newer {
            _ if older.stamp_ns == stamp_ns => Ok((&older.parent, older.pose)),
            Some(newer) if newer.parent == older.parent => {
                Ok((&older.parent, between(older, newer, stamp_ns)))
            }
            Some(_) => Ok((&older.parent, older.pose)),
            None => Err(TfError::TooNew {
                child: child.into(),
                stamp_ns,
                newest_ns: older.stamp_ns,
            }),
        }
    }
}

/// Inserts a sample in order and drops those older than the history.
fn add(samples: &mut VecDeque<Sample>, sample: Sample, history_ns: i64) {
    let newest = |samples: &VecDeque<Sample>| samples.back().map_or(i64::MIN, |last| last.stamp_ns);
    if sample.stamp_ns < newest(samples).saturating_sub(history_ns) {
        samples.clear();
    }
    let index = samples.partition_point(|other| other.stamp_ns < sample.stamp_ns);
    if samples
        .get(index)
        .is_some_and(|other| other.stamp_ns == sample.stamp_ns)
    {
        return;
    }
    samples.insert(index, sample);
    let oldest = newest(samples).saturating_sub(history_ns);
    while samples.len() > MAX_SAMPLES || samples.front().is_some_and(|s| s.stamp_ns < oldest) {
        samples.pop_front();
    }
}

/// Interpolates between two samples with the same parent.
fn between(older: &Sample, newer: &Sample, stamp_ns: i64) -> Isometry3<f64> {
    // Subtracted as integers: nanoseconds since 1970 do not fit an f64.
    let ns = |to: i64| (i128::from(to) - i128::from(older.stamp_ns)) as f64;
    let part = ns(stamp_ns) / ns(newer.stamp_ns);
    let (a, b) = (&older.pose, &newer.pose);
    let translation = a.translation.vector.lerp(&b.translation.vector, part);
    // Half a turn has no shortest path; the older sample holds.
    let rotation = a.rotation.try_slerp(&b.rotation, part, 1e-9);
    Isometry3::from_parts(translation.into(), rotation.unwrap_or(a.rotation))
}

/// A frame's name without the leading slash of ROS 1.
fn frame(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

/// Validates a transform, child to parent.
fn isometry(transform: &TransformStamped) -> Result<Isometry3<f64>, PoseError> {
    let (t, q) = (
        &transform.transform.translation,
        &transform.transform.rotation,
    );
    Pose::new([t.x, t.y, t.z], [q.w, q.x, q.y, q.z])?;
    Ok(Isometry3::from_parts(
        Translation3::new(t.x, t.y, t.z),
        UnitQuaternion::from_quaternion(Quaternion::new(q.w, q.x, q.y, q.z)),
    ))
}

fn pose(isometry: &Isometry3<f64>, parent: &str, child: &str) -> Result<Pose, TfError> {
    let t = &isometry.translation;
    let q = &isometry.rotation;
    Pose::new([t.x, t.y, t.z], [q.w, q.i, q.j, q.k]).map_err(|reason| TfError::Invalid {
        parent: parent.into(),
        child: child.into(),
        reason,
    })
}

/// Why a transform cannot be inserted or looked up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TfError {
    /// No transform mentions the frame.
    #[error("no transform mentions the frame \"{frame}\"")]
    Unknown {
        /// The frame.
        frame: String,
    },
    /// The time is before the oldest sample.
    #[error(
        "the transform of \"{child}\" at {stamp_ns} ns is unknown: {} ms before the oldest sample",
        ms(*stamp_ns, *oldest_ns)
    )]
    TooOld {
        /// The frame whose samples do not reach the time.
        child: String,
        /// The requested time.
        stamp_ns: i64,
        /// Its oldest sample.
        oldest_ns: i64,
    },
    /// The time is after the newest sample.
    #[error(
        "the transform of \"{child}\" at {stamp_ns} ns is unknown: {} ms after the newest sample",
        ms(*newest_ns, *stamp_ns)
    )]
    TooNew {
        /// The frame whose samples do not reach the time.
        child: String,
        /// The requested time.
        stamp_ns: i64,
        /// Its newest sample.
        newest_ns: i64,
    },
    /// The frames are in different trees.
    #[error("no transforms lead from \"{source_frame}\" to \"{target}\"")]
    NoPath {
        /// The target frame.
        target: String,
        /// The source frame.
        source_frame: String,
    },
    /// The frames form a cycle.
    #[error("the frame \"{frame}\" is its own ancestor")]
    Cycle {
        /// One of the frames.
        frame: String,
    },
    /// A frame without a name, or within itself.
    #[error("a transform of \"{child}\" in \"{parent}\": names must differ and must not be empty")]
    Names {
        /// The parent.
        parent: String,
        /// The child.
        child: String,
    },
    /// Numbers that are not a transform.
    #[error("the transform of \"{child}\" in \"{parent}\": {reason}")]
    Invalid {
        /// The parent.
        parent: String,
        /// The child.
        child: String,
        /// What is wrong with it.
        reason: PoseError,
    },
    /// The buffer is full.
    #[error("no room for the frame \"{child}\": the buffer has {MAX_FRAMES} frames")]
    Full {
        /// The frame.
        child: String,
    },
}

/// Milliseconds from one time to another, for error messages.
fn ms(from: i64, to: i64) -> f64 {
    (i128::from(to) - i128::from(from)) as f64 / 1e6
}

#[cfg(test)]
mod tests;
