//! Several sweeps as one cloud: past points are moved into the newest sweep's vehicle frame.
//!
//! A pose places the vehicle in a fixed world. A past point moves by `world→now · past→world`,
//! composed in f64 and applied in f32: composed in f32, poses far from the map's origin would lose centimetres.
//! Each point gets its age in the column `t`, in seconds, 0 for the newest sweep.
//!
//! A running vehicle feeds a [`SweepBuffer`] sweep by sweep; [`super::read_sweeps`] fills one from a list of
//! files.

use crate::chain::Chain;
use std::collections::VecDeque;
use std::path::PathBuf;

use super::{Column, Layout, LayoutError, PointCloud, Transform};
use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

/// Most sweeps in a list that [`super::read_sweeps`] reads.
pub(super) const MAX_SWEEPS: usize = 256;

/// Tolerated distance of a rotation's norm from 1; lets quaternions rounded to four decimals pass.
const NORM_TOLERANCE: f64 = 1e-3;

/// The vehicle's pose, vehicle→world, in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose(Isometry3<f64>);

impl Pose {
    /// Creates a pose from a translation in metres and a unit quaternion w x y z, which is normalised.
    ///
    /// # Errors
    /// A number is not finite, or the quaternion's norm differs from 1 by more than 1e-3.
    pub fn new(translation: [f64; 3], rotation: [f64; 4]) -> Result<Pose, PoseError> {
        if !translation.iter().chain(&rotation).all(|v| v.is_finite()) {
            return Err(PoseError::NotFinite);
        }
        let [w, x, y, z] = rotation;
        let rotation = Quaternion::new(w, x, y, z);
        let norm = rotation.norm();
        if (norm - 1.0).abs() > NORM_TOLERANCE {
            return Err(PoseError::Norm(norm));
        }
        Ok(Pose(Isometry3::from_parts(
            Translation3::from(translation),
            UnitQuaternion::from_quaternion(rotation),
        )))
    }

    /// The transform from this pose's vehicle frame to that of `now`: the rows of `[R | t]`, composed in f64
    /// and rounded once.
    pub fn transform_to(&self, now: &Pose) -> [[f32; 4]; 3] {
        rows(&self.motion_to(now))
    }

    fn motion_to(&self, now: &Pose) -> Isometry3<f64> {
        now.0.inv_mul(&self.0)
    }
}

/// The rows of `[R | t]`, rounded once.
pub(super) fn rows(isometry: &Isometry3<f64>) -> [[f32; 4]; 3] {
    let matrix = isometry.to_homogeneous();
    std::array::from_fn(|row| std::array::from_fn(|column| matrix[(row, column)] as f32))
}

/// The latest sweeps, accumulated into a cloud frame by frame; allocates nothing once warm.
#[derive(Debug)]
pub struct SweepBuffer {
    /// Newest first.
    sweeps: VecDeque<Sweep>,
    /// Columns of the sweeps held.
    layout: Layout,
    max_past: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Sweep {
    /// Rows in the buffer's layout.
    data: Vec<f32>,
    stamp_ns: i64,
    pose: Option<Pose>,
}

/// Counts of the points and sweeps that [`SweepBuffer::accumulate`] used and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepCounts {
    /// Points in the result.
    pub points: usize,
    /// Sweeps in the result.
    pub sweeps: usize,
    /// Past sweeps left out because they or the newest sweep have no pose.
    pub sweeps_without_pose: usize,
    /// Points left out because the capacity was reached; the oldest are dropped first.
    pub points_over_capacity: usize,
}

/// One sweep of an accumulated cloud, before its points are moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SweepPart<'a> {
    /// The points: rows of [`SweepBuffer::layout`].
    pub rows: &'a [f32],
    /// Rows of `[R | t]`, from the sweep's vehicle frame to the newest one's; `None` if the points stay as they are,
    /// as those of the newest sweep do.
    pub motion: Option<[[f32; 4]; 3]>,
    /// Added to the points' `t`, in seconds; `None` for the newest sweep.
    pub age: Option<f32>,
}

impl SweepBuffer {
    /// Creates a buffer for the newest and `max_past` past sweeps whose accumulated clouds have at most
    /// `capacity` points.
    pub fn new(max_past: usize, capacity: usize) -> Self {
        Self {
            sweeps: VecDeque::new(),
            layout: Layout::XYZIT,
            max_past,
            capacity,
        }
    }

    /// Adds the newest sweep and drops the oldest if there are too many. `pose` is the vehicle's pose at
    /// `stamp_ns` (nanoseconds since any epoch), if known.
    ///
    /// # Errors
    /// The sweep is older than the newest one held, has other columns, or has no room for a column `t`. The
    /// buffer is unchanged; see [`push_or_restart`](Self::push_or_restart).
    pub fn push(
        &mut self,
        cloud: &PointCloud,
        stamp_ns: i64,
        pose: Option<Pose>,
    ) -> Result<(), SweepError> {
        if let Some(newest) = self.sweeps.front() {
            if stamp_ns < newest.stamp_ns {
                return Err(SweepError::Backwards {
                    newest: newest.stamp_ns,
                    stamp: stamp_ns,
                });
            }
            if cloud.layout() != self.layout {
                return Err(SweepError::LayoutChanged {
                    held: self.layout,
                    found: cloud.layout(),
                });
            }
        }
        cloud.layout().with_t()?;
        self.layout = cloud.layout();
        let full = self.sweeps.len() > self.max_past;
        let oldest = if full { self.sweeps.pop_back() } else { None };
        let mut data = oldest.map(|sweep| sweep.data).unwrap_or_default();
        data.clear();
        data.extend_from_slice(cloud.data());
        self.sweeps.push_front(Sweep {
            data,
            stamp_ns,
            pose,
        });
        Ok(())
    }

    /// Adds the newest sweep like [`push`](Self::push), but restarts with this sweep alone if it does not follow
    /// the ones held: its time jumps back, as when a bag is played again, or its columns differ. Returns the
    /// reason for a restart, which the caller should report.
    ///
    /// # Errors
    /// The columns leave no room for `t`: the sweep cannot be accumulated at all.
    pub fn push_or_restart(
        &mut self,
        cloud: &PointCloud,
        stamp_ns: i64,
        pose: Option<Pose>,
    ) -> Result<Option<SweepError>, SweepError> {
        match self.push(cloud, stamp_ns, pose) {
            Ok(()) => Ok(None),
            Err(reason @ (SweepError::Backwards { .. } | SweepError::LayoutChanged { .. })) => {
                self.clear();
                self.push(cloud, stamp_ns, pose)?;
                Ok(Some(reason))
            }
            Err(error) => Err(error),
        }
    }

    /// The points of the newest sweep.
    pub(crate) fn newest(&self) -> &[f32] {
        self.sweeps.front().map_or(&[], |sweep| &sweep.data)
    }

    /// Removes all sweeps.
    pub fn clear(&mut self) {
        self.sweeps.clear();
    }

    /// Columns of the sweeps held.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The parts of an accumulated cloud, newest first: the sweeps with a pose, up to the capacity. Updates
    /// `done` while iterating; its counts are complete after the last part.
    pub fn parts<'a>(&'a self, done: &'a mut SweepCounts) -> impl Iterator<Item = SweepPart<'a>> {
        self.placed_parts(None, done)
    }

    /// Like [`parts`](Self::parts), with `place` after each motion.
    pub(crate) fn placed_parts<'a>(
        &'a self,
        place: Option<&'a Transform>,
        done: &'a mut SweepCounts,
    ) -> impl Iterator<Item = SweepPart<'a>> {
        *done = SweepCounts::default();
        let stride = self.layout.stride();
        let mut room = self.capacity;
        self.sweeps
            .iter()
            .enumerate()
            .filter_map(move |(past, sweep)| {
                let newest = self.sweeps.front()?;
                let motion = match (past, &sweep.pose, &newest.pose) {
                    (0, ..) => None,
                    (_, Some(pose), Some(now)) => Some(pose.motion_to(now)),
                    _ => {
                        done.sweeps_without_pose += 1;
                        return None;
                    }
                };
                let points = sweep.data.len() / stride;
                let kept = points.min(room);
                room -= kept;
                done.points += kept;
                done.points_over_capacity += points - kept;
                done.sweeps += 1;
                Some(SweepPart {
                    rows: &sweep.data[..kept * stride],
                    motion: match place {
                        None => motion.as_ref().map(rows),
                        Some(place) => Some(place.after(motion.as_ref())),
                    },
                    age: (past > 0).then(|| seconds(newest.stamp_ns, sweep.stamp_ns)),
                })
            })
    }

    /// The counts that [`accumulate`](Self::accumulate) would return, and that
    /// [`Detector::detect_sweeps`](crate::Detector::detect_sweeps) works with, without copying a point.
    pub fn counts(&self) -> SweepCounts {
        let mut done = SweepCounts::default();
        self.parts(&mut done).for_each(drop);
        done
    }

    /// Writes all sweeps to `out`, newest first, in the newest sweep's vehicle frame.
    ///
    /// The columns are those of the sweeps, plus `t` at the end unless they have one; a sweep's age is added to
    /// its `t`. The newest sweep's points are copied bit for bit.
    pub fn accumulate(&self, out: &mut PointCloud) -> SweepCounts {
        self.accumulate_placed(None, out)
    }

    /// Like [`accumulate`](Self::accumulate), then moved by `place`.
    pub(crate) fn accumulate_placed(
        &self,
        place: Option<&Transform>,
        out: &mut PointCloud,
    ) -> SweepCounts {
        out.data.clear();
        out.notes.clear();
        let mut done = SweepCounts::default();
        let (false, Ok(layout)) = (self.sweeps.is_empty(), self.layout.with_t()) else {
            return done;
        };
        out.layout = layout;
        for part in self.placed_parts(place, &mut done) {
            append(&part, self.layout, out);
        }
        done
    }
}

/// `now − past` in seconds, subtracted as integers because nanoseconds since 1970 do not fit an f64.
fn seconds(now: i64, past: i64) -> f32 {
    ((i128::from(now) - i128::from(past)) as f64 / 1e9) as f32
}

/// Appends the rows of `part`, which have the columns `layout`, to `out`, whose layout is `layout` with a `t`.
fn append(part: &SweepPart<'_>, layout: Layout, out: &mut PointCloud) {
    let rows = part.rows;
    let (stride, out_stride) = (layout.stride(), out.layout.stride());
    let places = out.layout.coordinates();
    // `out` has t: the 0 is never used.
    let t = out.layout.position(Column::T).unwrap_or(0);
    let begin = out.data.len();
    if stride == out_stride {
        out.data.extend_from_slice(rows);
    } else {
        out.data.reserve(rows.len() / stride * out_stride);
        for row in rows.chunks_exact(stride) {
            out.data.extend_from_slice(row);
            out.data.push(0.0);
        }
    }
    if part.motion.is_none() && part.age.is_none() {
        return;
    }
    for row in out.data[begin..].chunks_exact_mut(out_stride) {
        if let Some(motion) = &part.motion {
            move_row(row, places, motion);
        }
        if let Some(age) = part.age {
            row[t] += age;
        }
    }
}

/// Moves the point whose coordinates are at `places` of `row`.
pub(crate) fn move_row(row: &mut [f32], places: [usize; 3], motion: &[[f32; 4]; 3]) {
    let point = places.map(|place| row[place]);
    for (place, motion) in places.into_iter().zip(motion) {
        row[place] = moved(*motion, point);
    }
}

/// One coordinate of a moved point, from one row of `[R | t]`.
pub(super) fn moved([a, b, c, d]: [f32; 4], [x, y, z]: [f32; 3]) -> f32 {
    a * x + b * y + c * z + d
}

/// The numbers do not form a pose.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PoseError {
    /// A number is NaN or infinite.
    #[error("the pose contains a number that is not finite")]
    NotFinite,
    /// The quaternion is not a rotation.
    #[error("the rotation (w x y z) has norm {0}, expected 1")]
    Norm(f64),
}

/// Sweeps cannot be accumulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The file is not a JSON list of sweeps.
    #[error("not a list of sweeps: {0}")]
    Json(String),
    /// The list is empty or too long.
    #[error("the list has {0} sweeps; 1 to {MAX_SWEEPS} are supported")]
    Count(usize),
    /// The list is not sorted newest first.
    #[error(
        "{file}: its stamp {stamp} is newer than {before}, the stamp of the sweep listed before it; \
         list the newest sweep first"
    )]
    Order {
        /// The sweep, as listed.
        file: PathBuf,
        /// Its time in nanoseconds.
        stamp: i64,
        /// Time of the sweep listed before it.
        before: i64,
    },
    /// A listed pose is invalid.
    #[error("{file}: {}", Chain(.reason))]
    Pose {
        /// The sweep, as listed.
        file: PathBuf,
        /// The problem.
        reason: PoseError,
    },
    /// A sweep is older than the newest one held.
    #[error("time runs backwards: a sweep at {stamp} ns follows one at {newest} ns")]
    Backwards {
        /// Time of the newest sweep held.
        newest: i64,
        /// Time of the rejected sweep.
        stamp: i64,
    },
    /// A sweep has other columns than those held.
    #[error("a sweep with the columns `{found}` follows sweeps with `{held}`")]
    LayoutChanged {
        /// Columns of the sweeps held.
        held: Layout,
        /// Columns of the rejected sweep.
        found: Layout,
    },
    /// The columns do not form a layout, or leave no room for `t`.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(layout: &str, data: &[f32]) -> PointCloud {
        PointCloud::new(layout.parse().unwrap(), data.to_vec()).unwrap()
    }

    /// A vehicle at (x, 0, 0) that looks along +y.
    fn left(x: f64) -> Option<Pose> {
        let half = std::f64::consts::FRAC_1_SQRT_2;
        Some(Pose::new([x, 0.0, 0.0], [half, 0.0, 0.0, half]).unwrap())
    }

    fn ahead(x: f64) -> Option<Pose> {
        Some(Pose::new([x, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]).unwrap())
    }

    #[test]
    fn past_points_are_moved_to_the_newest_pose_and_aged() {
        let mut buffer = SweepBuffer::new(1, 10);
        let mut out = PointCloud::empty(Layout::KITTI);
        assert_eq!(buffer.accumulate(&mut out), SweepCounts::default());
        // World (10, 0, 1): 10 ahead of the vehicle at 0; then to the right of one at 6 that
        // looks along +y.
        buffer
            .push(&cloud("xyzi", &[10., 0., 1., 9.]), 100, ahead(0.0))
            .unwrap();
        buffer
            .push(&cloud("xyzi", &[10., 0., 1., 8.]), 200, ahead(0.0))
            .unwrap();
        buffer
            .push(&cloud("xyzi", &[1., 2., 3., 7.]), 500_000_200, left(6.0))
            .unwrap();
        let done = buffer.accumulate(&mut out);
        assert_eq!((done.sweeps, done.points_over_capacity), (2, 0));
        assert_eq!(out.layout(), Layout::XYZIT);
        assert_eq!(out.len(), 2);
        assert_eq!(out.data()[..5], [1., 2., 3., 7., 0.]);
        for (found, expected) in out.data()[5..].iter().zip([0., -4., 1., 8., 0.5]) {
            assert!((found - expected).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn a_sweeps_age_is_added_to_an_existing_t() {
        let mut buffer = SweepBuffer::new(2, 10);
        for stamp in [0, 250_000_000] {
            let sweep = cloud("t,x,y,z", &[0.25, 1., 0., 0.]);
            buffer.push(&sweep, stamp, ahead(0.0)).unwrap();
        }
        let mut out = PointCloud::empty(Layout::KITTI);
        buffer.accumulate(&mut out);
        assert_eq!(out, cloud("t,x,y,z", &[0.25, 1., 0., 0., 0.5, 1., 0., 0.]));
    }

    #[test]
    fn without_poses_only_the_newest_sweep_is_used() {
        let mut out = PointCloud::empty(Layout::KITTI);
        for (past, now, used) in [
            (None, ahead(1.0), 1),
            (ahead(0.0), None, 1),
            (None, None, 1),
            (ahead(0.0), ahead(1.0), 2),
        ] {
            let mut buffer = SweepBuffer::new(4, 10);
            buffer.push(&cloud("xyzi", &[1.; 4]), 0, past).unwrap();
            buffer.push(&cloud("xyzi", &[2.; 4]), 1, now).unwrap();
            let done = buffer.accumulate(&mut out);
            assert_eq!(buffer.counts(), done);
            assert_eq!((done.sweeps, done.sweeps_without_pose), (used, 2 - used));
            assert_eq!(out.len(), used);
        }
    }

    #[test]
    fn capacity_drops_the_oldest_points_and_counts_them() {
        for (capacity, left, lost) in [(0, 0, 4), (1, 1, 3), (2, 2, 2), (3, 3, 1), (4, 4, 0)] {
            let mut buffer = SweepBuffer::new(1, capacity);
            buffer
                .push(&cloud("xyzi", &[1.; 8]), 0, ahead(0.0))
                .unwrap();
            buffer
                .push(&cloud("xyzi", &[2.; 8]), 0, ahead(0.0))
                .unwrap();
            let mut out = PointCloud::empty(Layout::KITTI);
            let done = buffer.accumulate(&mut out);
            assert_eq!((out.len(), done.points_over_capacity), (left, lost));
            assert_eq!(done.points, left);
            assert_eq!(buffer.counts(), done);
            let newest = out.rows().filter(|row| row[0] == 2.0).count();
            assert_eq!(newest, left.min(2));
        }
    }

    #[test]
    fn a_rejected_sweep_leaves_the_buffer_unchanged() {
        let mut buffer = SweepBuffer::new(1, 10);
        buffer.push(&cloud("xyzi", &[1.; 4]), 50, None).unwrap();
        let older = buffer.push(&cloud("xyzi", &[2.; 4]), 49, None);
        assert!(matches!(older, Err(SweepError::Backwards { .. })));
        let other = buffer.push(&cloud("xyzir", &[2.; 5]), 51, None);
        assert!(matches!(other, Err(SweepError::LayoutChanged { .. })));
        let mut out = PointCloud::empty(Layout::KITTI);
        buffer.accumulate(&mut out);
        assert_eq!(out.data(), [1., 1., 1., 1., 0.]);
        buffer.clear();
        buffer.push(&cloud("xyzir", &[2.; 5]), 49, None).unwrap();
        let full = cloud("x,y,z,_,_,_,_,_,_,_,_,_,_,_,_,_", &[0.; 16]);
        buffer.clear();
        assert!(matches!(
            buffer.push(&full, 0, None),
            Err(SweepError::Layout(_))
        ));
    }

    #[test]
    fn a_sweep_that_does_not_follow_restarts_the_buffer() {
        let mut buffer = SweepBuffer::new(4, 10);
        let mut push = |layout: &str, data: &[f32], stamp| {
            let done = buffer.push_or_restart(&cloud(layout, data), stamp, ahead(0.0));
            (done, buffer.counts().sweeps)
        };
        assert!(matches!(push("xyzi", &[1.; 4], 50), (Ok(None), 1)));
        assert!(matches!(push("xyzi", &[1.; 4], 60), (Ok(None), 2)));
        assert!(matches!(
            push("xyzi", &[1.; 4], 59),
            (Ok(Some(SweepError::Backwards { .. })), 1)
        ));
        assert!(matches!(push("xyzi", &[1.; 4], 60), (Ok(None), 2)));
        assert!(matches!(
            push("xyzir", &[1.; 5], 70),
            (Ok(Some(SweepError::LayoutChanged { .. })), 1)
        ));
        let full = "x,y,z,_,_,_,_,_,_,_,_,_,_,_,_,_";
        assert!(matches!(
            push(full, &[1.; 16], 80),
            (Err(SweepError::Layout(_)), 0)
        ));
    }

    #[test]
    fn ages_are_exact_far_from_the_epoch() {
        assert_eq!(seconds(i64::MAX, i64::MAX - 1_000_000), 0.001);
        assert_eq!(seconds(315966265360032000, 315966265259836000), 0.100196);
        assert_eq!(seconds(i64::MAX, i64::MIN), 18446744073.709551615);
    }

    #[test]
    fn rotations_are_checked() {
        let pose = |rotation| Pose::new([0.0; 3], rotation);
        assert!(pose([0.0; 4]).is_err());
        assert_eq!(pose([2.0, 0.0, 0.0, 0.0]), Err(PoseError::Norm(2.0)));
        assert_eq!(pose([f64::NAN, 0., 0., 1.]), Err(PoseError::NotFinite));
        assert_eq!(pose([0.9999, 0.0, 0.0, 0.0]), pose([1.0, 0.0, 0.0, 0.0]));
    }
}
