//! Several sweeps as one cloud: past points are moved to where the newest sweep sees them.
//!
//! A pose places the vehicle in a fixed world. A past point moves by `world→now · past→world`,
//! composed in f64 and applied in f32: poses far from the map's origin composed in f32 lose
//! centimetres. Each point gets its age in the column `t`, in seconds, 0 for the newest sweep.
//!
//! [`SweepBuffer`] is fed sweep by sweep while driving; [`super::read_sweeps`] fills
//! one from a list of files.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::sweep_list::MAX_SWEEPS;
use super::{Column, Layout, LayoutError, PointCloud};
use nalgebra::{Isometry3, Quaternion, Translation3, UnitQuaternion};

/// How far from 1 the norm of a rotation may be: rounded to four decimals it still passes.
const NORM_TOLERANCE: f64 = 1e-3;

/// Where the vehicle is: vehicle→world, in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose(Isometry3<f64>);

impl Pose {
    /// A pose from metres and a unit quaternion w x y z, which is normalised.
    ///
    /// # Errors
    /// A number that is not finite, or a quaternion whose norm is not 1 within 1e-3.
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

    /// What moves points seen from this pose to where `now` sees them: the rows of `[R | t]`,
    /// composed in f64 and only then rounded.
    pub fn seen_from(&self, now: &Pose) -> [[f32; 4]; 3] {
        let relative = now.0.inv_mul(&self.0).to_homogeneous();
        std::array::from_fn(|row| std::array::from_fn(|column| relative[(row, column)] as f32))
    }
}

/// The last sweeps, for accumulation frame after frame without allocation once it is warm.
#[derive(Debug)]
pub struct SweepBuffer {
    /// Newest first.
    sweeps: VecDeque<Sweep>,
    /// Of the sweeps held.
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

/// What [`SweepBuffer::accumulate`] used and what it had to leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accumulated {
    /// Sweeps in the result.
    pub sweeps: usize,
    /// Past sweeps left out because they, or the newest one, have no pose.
    pub sweeps_without_pose: usize,
    /// Points left out because the capacity was reached; the oldest go first.
    pub points_over_capacity: usize,
}

/// One sweep of an accumulated cloud, before it is moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SweepPart<'a> {
    /// Its points: rows of [`SweepBuffer::layout`].
    pub rows: &'a [f32],
    /// Rows of `[R | t]` that move its points to where the newest sweep sees them; `None` for the
    /// newest, whose points stay as they are.
    pub motion: Option<[[f32; 4]; 3]>,
    /// What is added to the points' `t`, in seconds.
    pub age: f32,
}

impl SweepBuffer {
    /// A buffer of the newest and `max_past` past sweeps, whose results have at most `capacity`
    /// points.
    pub fn new(max_past: usize, capacity: usize) -> Self {
        Self {
            sweeps: VecDeque::new(),
            layout: Layout::XYZIT,
            max_past,
            capacity,
        }
    }

    /// Adds the newest sweep; the oldest goes when there are too many. `pose` is where the vehicle
    /// was at `stamp_ns` (nanoseconds since any epoch), if that is known.
    ///
    /// # Errors
    /// The sweep is older than the last one, has other columns, or no room for a column `t`. The
    /// buffer is then unchanged; [`clear`](Self::clear) starts anew, say after a jump in time.
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

    /// Forgets all sweeps.
    pub fn clear(&mut self) {
        self.sweeps.clear();
    }

    /// Columns of the sweeps held.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What an accumulated cloud is made of, newest first: the sweeps that have a pose, as far as the
    /// capacity goes. `done` counts along, and is complete after the last one.
    pub fn parts<'a>(&'a self, done: &'a mut Accumulated) -> impl Iterator<Item = SweepPart<'a>> {
        *done = Accumulated::default();
        let stride = self.layout.stride();
        let mut room = self.capacity;
        self.sweeps
            .iter()
            .enumerate()
            .filter_map(move |(past, sweep)| {
                let newest = self.sweeps.front()?;
                let motion = match (past, &sweep.pose, &newest.pose) {
                    (0, ..) => None,
                    (_, Some(pose), Some(now)) => Some(pose.seen_from(now)),
                    _ => {
                        done.sweeps_without_pose += 1;
                        return None;
                    }
                };
                let points = sweep.data.len() / stride;
                let taken = points.min(room);
                room -= taken;
                done.points_over_capacity += points - taken;
                done.sweeps += 1;
                Some(SweepPart {
                    rows: &sweep.data[..taken * stride],
                    motion,
                    age: seconds(newest.stamp_ns, sweep.stamp_ns),
                })
            })
    }

    /// Writes all sweeps to `out`, newest first, in the frame of the newest.
    ///
    /// The columns are those of the sweeps, and `t` at the end unless they have one already: then
    /// the sweep's age is added to it. The newest sweep's points stay as they are, bit by bit.
    pub fn accumulate(&self, out: &mut PointCloud) -> Accumulated {
        out.data.clear();
        let mut done = Accumulated::default();
        let (false, Ok(layout)) = (self.sweeps.is_empty(), self.layout.with_t()) else {
            return done;
        };
        out.layout = layout;
        for part in self.parts(&mut done) {
            append(part.rows, self.layout, part.motion, part.age, out);
        }
        done
    }
}

/// `now − past` in seconds, subtracted as integers: nanoseconds since 1970 do not fit an f64.
fn seconds(now: i64, past: i64) -> f32 {
    ((i128::from(now) - i128::from(past)) as f64 / 1e9) as f32
}

/// Appends `rows` of `layout` to `out`, whose layout is the same with a `t`.
fn append(
    rows: &[f32],
    layout: Layout,
    motion: Option<[[f32; 4]; 3]>,
    age: f32,
    out: &mut PointCloud,
) {
    let (stride, out_stride) = (layout.stride(), out.layout.stride());
    // A layout has x, y and z, and `out` has t: 0 never stands for a missing one.
    let [x, y, z, t] = [Column::X, Column::Y, Column::Z, Column::T]
        .map(|column| out.layout.position(column).unwrap_or(0));
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
    let Some(motion) = motion else { return };
    for row in out.data[begin..].chunks_exact_mut(out_stride) {
        let point = [row[x], row[y], row[z]];
        let [rx, ry, rz] = motion;
        row[x] = moved(rx, point);
        row[y] = moved(ry, point);
        row[z] = moved(rz, point);
        row[t] += age;
    }
}

/// One coordinate of a moved point, by a row of `[R | t]`.
fn moved([a, b, c, d]: [f32; 4], [x, y, z]: [f32; 3]) -> f32 {
    a * x + b * y + c * z + d
}

/// Why numbers are no pose.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PoseError {
    /// NaN or an infinity.
    #[error("the pose has a number that is not finite")]
    NotFinite,
    /// The quaternion is no rotation.
    #[error("the rotation (w x y z) has the norm {0}, not 1")]
    Norm(f64),
}

/// Why sweeps cannot be accumulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The list is no JSON of this form.
    #[error("not a list of sweeps: {0}")]
    Json(String),
    /// An empty list, or a very long one.
    #[error("a list of {0} sweeps; 1 to {MAX_SWEEPS} are read")]
    Count(usize),
    /// The list is not newest first.
    #[error(
        "{file}: its stamp {stamp} is newer than {before} of the sweep listed before it; list the \
         newest sweep first"
    )]
    Order {
        /// The sweep, as listed.
        file: PathBuf,
        /// Its time in nanoseconds.
        stamp: i64,
        /// That of the sweep before it in the list.
        before: i64,
    },
    /// A listed pose is none.
    #[error("{file}: {reason}")]
    Pose {
        /// The sweep, as listed.
        file: PathBuf,
        /// What is wrong with its pose.
        reason: PoseError,
    },
    /// A sweep is older than the one before it.
    #[error("a sweep at {stamp} ns after one at {newest} ns: time runs backwards")]
    Backwards {
        /// Time of the newest sweep held.
        newest: i64,
        /// Time of the sweep refused.
        stamp: i64,
    },
    /// A sweep has other columns than those before it.
    #[error("a sweep of the columns `{found}` among sweeps of `{held}`")]
    LayoutChanged {
        /// Columns of the sweeps held.
        held: Layout,
        /// Columns of the sweep refused.
        found: Layout,
    },
    /// The columns make no layout, or leave no room for `t`.
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
    fn past_points_are_seen_from_now_and_get_their_age() {
        let mut buffer = SweepBuffer::new(1, 10);
        let mut out = PointCloud::empty(Layout::KITTI);
        assert_eq!(buffer.accumulate(&mut out), Accumulated::default());
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
    fn an_age_that_is_there_already_grows() {
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
    fn without_a_pose_there_is_only_the_newest() {
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
            assert_eq!((done.sweeps, done.sweeps_without_pose), (used, 2 - used));
            assert_eq!(out.len(), used);
        }
    }

    #[test]
    fn capacity_cuts_the_oldest_points_and_tells() {
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
            let newest = out.rows().filter(|row| row[0] == 2.0).count();
            assert_eq!(newest, left.min(2));
        }
    }

    #[test]
    fn a_sweep_that_does_not_fit_leaves_the_buffer_as_it_was() {
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
