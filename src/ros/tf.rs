//! Where frames were: a buffer of transforms, filled from `/tf` and `/tf_static`, asked by time.
//!
//! Rules are those of tf2: a child has one parent at a time, a transform between two samples is interpolated
//! (lerp and slerp), one outside the samples is an error, not a guess. Where two neighbouring samples have
//! different parents nothing is interpolated: the older one holds until the newer. Each sample knows its own
//! parent, and a walk that does not end is an error, so that frames which change their place in the tree, or
//! form a ring, cannot mislead.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

use super::messages::geometry::TransformStamped;
use super::messages::tf::TFMessage;
use crate::points::{Pose, PoseError};

/// For how long samples are kept, as tf2 does.
pub const HISTORY: Duration = Duration::from_secs(10);

/// Most frames of a buffer.
const MAX_FRAMES: usize = 10_000;

/// Most samples of a frame: 10 s at 1 kHz.
const MAX_SAMPLES: usize = 10_000;

/// Transforms by child frame.
#[derive(Clone, Debug)]
pub struct TfBuffer {
    links: BTreeMap<String, Link>,
    history_ns: i64,
}

/// How a child hangs on its parents.
#[derive(Clone, Debug)]
enum Link {
    /// At all times the same.
    Static(Sample),
    /// Oldest first, no two of one time, never empty.
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
    /// A buffer with the [`HISTORY`] of tf2.
    fn default() -> Self {
        Self::new(HISTORY)
    }
}

impl TfBuffer {
    /// An empty buffer that keeps what is at most `history` older than a frame's newest sample.
    pub fn new(history: Duration) -> Self {
        Self {
            links: BTreeMap::new(),
            history_ns: i64::try_from(history.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// Takes all transforms of a message of `/tf`, or of `/tf_static` if `fixed`. Those that are no transforms
    /// are left out; the error is the first one's.
    ///
    /// # Errors
    /// As [`TfBuffer::insert`].
    pub fn extend(&mut self, message: &TFMessage, fixed: bool) -> Result<(), TfError> {
        let mut first = Ok(());
        for transform in &message.transforms {
            first = first.and(self.insert(transform, fixed));
        }
        first
    }

    /// Takes one transform. `fixed` transforms hold at all times; a child is fixed or not as its last transform
    /// was. Of two samples of one time the first is kept. A sample that is older than the history is a jump
    /// back in time (a bag that begins anew): all that the frame had is forgotten.
    ///
    /// # Errors
    /// [`TfError::Invalid`], [`TfError::Names`], [`TfError::Full`]; the buffer is then unchanged.
    pub fn insert(&mut self, transform: &TransformStamped, fixed: bool) -> Result<(), TfError> {
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
            Some(Link::Timed(samples)) if !fixed => add(samples, sample, self.history_ns),
            Some(link) => *link = Link::new(sample, fixed),
            None if full => {
                return Err(TfError::Full {
                    child: child.into(),
                });
            }
            None => {
                self.links.insert(child.into(), Link::new(sample, fixed));
            }
        }
        Ok(())
    }

    /// Forgets all transforms.
    pub fn clear(&mut self) {
        self.links.clear();
    }

    /// Where the frame `source` is in the frame `target` (say the vehicle in the map) at `stamp_ns`.
    ///
    /// # Errors
    /// [`TfError::Unknown`], [`TfError::TooOld`], [`TfError::TooNew`], [`TfError::Ring`] or [`TfError::NoPath`].
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
        let meets = |frame: &str| from.poses.iter().find(|(other, _)| *other == frame);
        let to = self.ascend(target, stamp_ns, |frame| meets(frame).is_some());
        // The way may be blocked above the frame in which both ways meet, which does not matter then.
        let (meeting, target_pose) = to.top();
        match meets(meeting) {
            Some((_, source_pose)) => pose(&target_pose.inv_mul(source_pose), target, source),
            None => Err(from.blocked.or(to.blocked).unwrap_or(TfError::NoPath {
                target: target.into(),
                source_frame: source.into(),
            })),
        }
    }

    /// The frame at the top of the tree that `frame` hangs in, by the newest transform of each frame on the way;
    /// `frame` itself where it has no parent.
    pub fn root<'a>(&'a self, frame: &'a str) -> &'a str {
        let mut at = self::frame(frame);
        // No more steps than there are links: frames may form a ring.
        for _ in 0..self.links.len() {
            match self.links.get(at).and_then(|link| link.samples().last()) {
                Some(sample) => at = &sample.parent,
                None => break,
            }
        }
        at
    }

    /// Whether a transform names the frame.
    fn knows(&self, frame: &str) -> bool {
        self.links.contains_key(frame)
            || self
                .links
                .values()
                .any(|link| link.samples().any(|sample| sample.parent == frame))
    }

    /// The way from `frame` to its root at `stamp_ns`, or to where `done` says so.
    fn ascend<'a>(&'a self, frame: &'a str, stamp_ns: i64, done: impl Fn(&str) -> bool) -> Way<'a> {
        let mut way = Way {
            begin: (frame, Isometry3::identity()),
            poses: vec![(frame, Isometry3::identity())],
            blocked: None,
        };
        let (mut at, mut pose) = way.begin;
        while !done(at)
            && let Some(link) = self.links.get(at)
        {
            match link.at(stamp_ns, at) {
                Ok((parent, step)) => {
                    pose = step * pose;
                    at = parent;
                    if way.poses.iter().any(|(frame, _)| *frame == at) {
                        way.blocked = Some(TfError::Ring { frame: at.into() });
                        break;
                    }
                    way.poses.push((at, pose));
                }
                Err(error) => {
                    way.blocked = Some(error);
                    break;
                }
            }
        }
        way
    }
}

/// A way up the tree.
struct Way<'a> {
    begin: (&'a str, Isometry3<f64>),
    /// The frames on it, and where its begin is in each.
    poses: Vec<(&'a str, Isometry3<f64>)>,
    /// Why it ended before the root.
    blocked: Option<TfError>,
}

impl<'a> Way<'a> {
    /// The last frame, and where the begin is in it.
    fn top(&self) -> (&'a str, Isometry3<f64>) {
        self.poses.last().copied().unwrap_or(self.begin)
    }
}

impl Link {
    fn new(sample: Sample, fixed: bool) -> Self {
        match fixed {
            true => Link::Static(sample),
            false => Link::Timed(VecDeque::from([sample])),
        }
    }

    fn samples(&self) -> impl Iterator<Item = &Sample> {
        let (one, many) = match self {
            Link::Static(sample) => (Some(sample), None),
            Link::Timed(samples) => (None, Some(samples)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Parent of `child` at a time, and the way to it.
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

/// Puts a sample in its place, and forgets what is older than the history.
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

/// The transform at a time between two samples of one parent.
fn between(older: &Sample, newer: &Sample, stamp_ns: i64) -> Isometry3<f64> {
    // Subtracted as integers: nanoseconds since 1970 do not fit an f64.
    let ns = |to: i64| (i128::from(to) - i128::from(older.stamp_ns)) as f64;
    let part = ns(stamp_ns) / ns(newer.stamp_ns);
    let (a, b) = (&older.pose, &newer.pose);
    let translation = a.translation.vector.lerp(&b.translation.vector, part);
    // Half a turn has no shortest way: the older sample holds.
    let rotation = a.rotation.try_slerp(&b.rotation, part, 1e-9);
    Isometry3::from_parts(translation.into(), rotation.unwrap_or(a.rotation))
}

/// Names without the slash at their begin, which ROS 1 had.
fn frame(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

/// Child to parent, checked.
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

/// Why a transform cannot be taken or given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TfError {
    /// No transform names the frame.
    #[error("no transform names the frame \"{frame}\"")]
    Unknown {
        /// The frame.
        frame: String,
    },
    /// The time is before the oldest sample.
    #[error(
        "the transform of \"{child}\" at {stamp_ns} ns was asked for, {} ms before the oldest sample",
        ms(*stamp_ns, *oldest_ns)
    )]
    TooOld {
        /// The frame whose samples do not reach.
        child: String,
        /// The time asked for.
        stamp_ns: i64,
        /// Its oldest sample.
        oldest_ns: i64,
    },
    /// The time is after the newest sample.
    #[error(
        "the transform of \"{child}\" at {stamp_ns} ns was asked for, {} ms after the newest sample",
        ms(*newest_ns, *stamp_ns)
    )]
    TooNew {
        /// The frame whose samples do not reach.
        child: String,
        /// The time asked for.
        stamp_ns: i64,
        /// Its newest sample.
        newest_ns: i64,
    },
    /// Both frames are known, but in trees apart.
    #[error("no transforms lead from \"{source_frame}\" to \"{target}\"")]
    NoPath {
        /// The frame asked for.
        target: String,
        /// The frame from which.
        source_frame: String,
    },
    /// Frames are each other's parents.
    #[error("the frame \"{frame}\" is its own ancestor")]
    Ring {
        /// One of the frames.
        frame: String,
    },
    /// A frame without a name, or within itself.
    #[error("a transform of \"{child}\" in \"{parent}\"")]
    Names {
        /// The parent.
        parent: String,
        /// The child.
        child: String,
    },
    /// Numbers that are no transform.
    #[error("the transform of \"{child}\" in \"{parent}\": {reason}")]
    Invalid {
        /// The parent.
        parent: String,
        /// The child.
        child: String,
        /// What is wrong with it.
        reason: PoseError,
    },
    /// More frames than a vehicle has.
    #[error("no room for the frame \"{child}\": there are {MAX_FRAMES} already")]
    Full {
        /// The frame.
        child: String,
    },
}

/// Milliseconds from one time to another, for messages.
fn ms(from: i64, to: i64) -> f64 {
    (i128::from(to) - i128::from(from)) as f64 / 1e6
}

#[cfg(test)]
mod tests;
