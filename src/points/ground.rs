//! The height of the ground around the vehicle, found in one sweep.
//!
//! A network sees heights relative to the ground of its training data, so a sensor that is mounted elsewhere must be
//! lowered or lifted by the right amount: 0.3 m are enough to lose most pedestrians. The estimate uses one frame alone,
//! so a frame always gives the same result.
//!
//! 1. Cells of 1 m around the vehicle, without the vehicle itself; the low end of each cell's points is a sample of the
//!    ground, or of whatever hides it.
//! 2. The height that most near samples share. Roofs, walls and the vehicle's own bonnet are at many heights; the ground
//!    is at one.
//! 3. A plane through the samples near that height, refitted while samples far from it lose their weight: slopes do not
//!    move the height at the vehicle, and kerbs and cars do not either.
//! 4. The mean of the points near the plane, cell by cell, without the bias of the low end.
//!
//! Metres. Deterministic: sums run in the order of the cells.

use serde::Serialize;

use super::Layout;

/// Cells of 1 m along each axis; the vehicle is in the middle.
const SIDE: usize = 50;
/// Points nearer than this may be on the vehicle itself, and farther ones say little about the ground below it.
const RANGE: [f64; 2] = [2.5, 25.0];
/// Lowest points that each cell keeps. The highest of them is the sample: lower ones may be echoes below the ground.
const LOWEST: usize = 3;
/// Samples within this distance vote for the height.
const NEAR: f64 = 12.0;
/// Heights that are possible, relative to the input's origin, and the width of a vote.
const HEIGHTS: [f64; 2] = [-6.0, 2.0];
const BIN: f64 = 0.1;
const BINS: usize = 80;
/// Refits of the plane, and the distance at which a sample's weight has fallen to a half, first and last.
const FITS: usize = 12;
const SCALE: [f64; 2] = [0.4, 0.05];
/// Points this near the plane are on the ground.
const THICKNESS: f64 = 0.1;
/// Steepest ground, as height over distance.
const MAX_SLOPE: f64 = 0.25;
/// Fewest cells of ground.
const MIN_CELLS: usize = 12;

/// The ground as a frame shows it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ground {
    /// Height below the vehicle, in metres.
    pub height: f32,
    /// Cells of 1 m that show it.
    pub cells: usize,
    /// How far the cells' heights scatter around the fitted plane: the root of their mean square, in metres.
    pub spread: f32,
}

/// Finds the ground. Allocated once.
#[derive(Clone, Debug)]
pub(crate) struct GroundFinder {
    /// The lowest heights of each cell, ascending; infinite where the cell has fewer points.
    lowest: Vec<[f32; LOWEST]>,
    samples: Vec<Sample>,
    /// Sum and number of the points near the plane, by cell.
    near: Vec<(f64, u32)>,
}

/// A height at a place.
#[derive(Clone, Copy, Debug)]
struct Sample {
    x: f64,
    y: f64,
    z: f64,
}

/// `z = height + slope · (x, y)`.
#[derive(Clone, Copy, Debug)]
struct Plane {
    height: f64,
    slope: [f64; 2],
}

impl Plane {
    fn at(&self, x: f64, y: f64) -> f64 {
        self.height + self.slope[0] * x + self.slope[1] * y
    }
}

impl GroundFinder {
    pub(crate) fn new() -> Self {
        Self {
            lowest: vec![[f32::INFINITY; LOWEST]; SIDE * SIDE],
            samples: Vec::with_capacity(SIDE * SIDE),
            near: vec![(0.0, 0); SIDE * SIDE],
        }
    }

    /// The ground below the origin of `points`, rows of `layout` whose z axis points up; `None` if too little of it is
    /// visible.
    pub(crate) fn find(&mut self, points: &[f32], layout: Layout) -> Option<Ground> {
        let stride = layout.stride();
        let places = layout.coordinates();
        let rows = || {
            let rows = points.chunks_exact(stride);
            rows.map(|row| places.map(|place| row[place]))
        };
        self.collect_lowest(rows());
        self.samples.clear();
        let cells = self.lowest.iter().enumerate();
        self.samples.extend(cells.filter_map(|(cell, lowest)| {
            let z = f64::from(lowest[LOWEST - 1]);
            let [x, y] = center(cell);
            z.is_finite().then_some(Sample { x, y, z })
        }));
        let plane = fit(&self.samples, common_height(&self.samples)?)?;
        self.collect_near(rows(), &plane);
        self.refined(&plane)
    }

    fn collect_lowest(&mut self, rows: impl Iterator<Item = [f32; 3]>) {
        self.lowest.fill([f32::INFINITY; LOWEST]);
        for [x, y, z] in rows {
            let Some(cell) = cell_of(x, y) else { continue };
            let possible = HEIGHTS[0] as f32..HEIGHTS[1] as f32;
            if !possible.contains(&z) {
                continue;
            }
            let lowest = &mut self.lowest[cell];
            let mut value = z;
            for slot in lowest {
                if value < *slot {
                    std::mem::swap(&mut value, slot);
                }
            }
        }
    }

    fn collect_near(&mut self, rows: impl Iterator<Item = [f32; 3]>, plane: &Plane) {
        self.near.fill((0.0, 0));
        for [x, y, z] in rows {
            let Some(cell) = cell_of(x, y) else { continue };
            let above = f64::from(z) - plane.at(x.into(), y.into());
            if above.abs() <= THICKNESS {
                let (sum, count) = &mut self.near[cell];
                *sum += above;
                *count += 1;
            }
        }
    }

    /// The plane's height, moved to the mean of the points near it.
    fn refined(&self, plane: &Plane) -> Option<Ground> {
        let (mut cells, mut weights, mut sum, mut squares) = (0, 0.0, 0.0, 0.0);
        for (cell, &(above, count)) in self.near.iter().enumerate() {
            if count < LOWEST as u32 {
                continue;
            }
            let above = above / f64::from(count);
            let weight = nearness(center(cell));
            cells += 1;
            weights += weight;
            sum += weight * above;
            squares += weight * above * above;
        }
        (cells >= MIN_CELLS).then(|| Ground {
            height: (plane.height + sum / weights) as f32,
            cells,
            spread: (squares / weights).sqrt() as f32,
        })
    }
}

/// The cell of a point, unless it is too near or too far; NaN is in no cell.
fn cell_of(x: f32, y: f32) -> Option<usize> {
    let distance = f64::from(x).hypot(y.into());
    if !(RANGE[0]..RANGE[1]).contains(&distance) {
        return None;
    }
    let along = |value: f32| (f64::from(value) + SIDE as f64 / 2.0) as usize;
    let (column, row) = (along(x), along(y));
    (column < SIDE && row < SIDE).then_some(row * SIDE + column)
}

fn center(cell: usize) -> [f64; 2] {
    [cell % SIDE, cell / SIDE].map(|index| index as f64 + 0.5 - SIDE as f64 / 2.0)
}

/// The weight of a place: the ground below the vehicle is most like that beside it. Falls so steeply that a road 7 m wide
/// outweighs the pavements beside it.
fn nearness([x, y]: [f64; 2]) -> f64 {
    (1.0 + (x * x + y * y) / (4.0 * 4.0)).powi(-3)
}

/// The height that the most samples near the vehicle share, by weight.
fn common_height(samples: &[Sample]) -> Option<f64> {
    let mut votes = [0.0; BINS];
    for sample in samples.iter().filter(|s| s.x.hypot(s.y) <= NEAR) {
        let bin = ((sample.z - HEIGHTS[0]) / BIN) as usize;
        votes[bin.min(BINS - 1)] += nearness([sample.x, sample.y]);
    }
    // Three bins: a height on the border of two keeps its votes together.
    let sum = |bin: usize| {
        votes[bin.saturating_sub(1)..(bin + 2).min(BINS)]
            .iter()
            .sum::<f64>()
    };
    let best = (0..BINS).max_by(|&a, &b| sum(a).total_cmp(&sum(b)).then(b.cmp(&a)))?;
    (sum(best) > 0.0).then(|| HEIGHTS[0] + (best as f64 + 0.5) * BIN)
}

/// The plane through the samples near `height`, by weighted least squares with weights that depend on the last plane.
fn fit(samples: &[Sample], height: f64) -> Option<Plane> {
    let mut plane = Plane {
        height,
        slope: [0.0; 2],
    };
    for step in 0..FITS {
        let progress = step as f64 / (FITS - 1) as f64;
        let scale = SCALE[0] * (SCALE[1] / SCALE[0]).powf(progress);
        let mut normal = nalgebra::Matrix3::<f64>::zeros();
        let mut right = nalgebra::Vector3::<f64>::zeros();
        for &Sample { x, y, z } in samples {
            let residual = (z - plane.at(x, y)) / scale;
            // Cauchy's weight, squared to forget far samples.
            let weight = nearness([x, y]) / (1.0 + residual * residual).powi(2);
            let row = nalgebra::Vector3::new(1.0, x, y);
            normal += weight * row * row.transpose();
            right += weight * z * row;
        }
        // Ground on one line, as of a single ring, leaves a slope open: hold it near 0.
        normal[(1, 1)] += 0.1;
        normal[(2, 2)] += 0.1;
        let found = normal.cholesky()?.solve(&right);
        plane = Plane {
            height: found[0],
            slope: [found[1], found[2]],
        };
    }
    (plane.slope[0].hypot(plane.slope[1]) <= MAX_SLOPE).then_some(plane)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// A flat square of ground at `height(x, y)`, 3 points a cell, with noise.
    fn ground(height: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        let mut random = Random(7);
        let mut points = Vec::new();
        for _ in 0..30_000 {
            let (x, y) = (25.0 * random.signed(), 25.0 * random.signed());
            points.extend([x, y, height(x, y) + 0.02 * random.signed(), 0.0]);
        }
        points
    }

    fn find(points: &[f32]) -> Option<Ground> {
        GroundFinder::new().find(points, Layout::KITTI)
    }

    #[track_caller]
    fn assert_height(points: &[f32], height: f32) {
        let found = find(points).unwrap();
        assert!(
            (found.height - height).abs() < 0.03,
            "{found:?}, not {height}"
        );
    }

    #[test]
    fn flat_ground_at_any_height_is_found_and_again_the_same() {
        for height in [-3.5, -1.73, -0.3, 0.0, 0.4] {
            let points = ground(|_, _| height);
            assert_height(&points, height);
            let found = find(&points).unwrap();
            assert!(found.cells > 1000 && found.spread < 0.02, "{found:?}");
            assert_eq!(find(&points), Some(found));
        }
    }

    #[test]
    fn slopes_kerbs_walls_and_the_own_roof_do_not_move_it() {
        assert_height(&ground(|x, y| -1.8 + 0.06 * x - 0.03 * y), -1.8);
        // A road 7 m wide with pavements 0.15 m higher.
        assert_height(
            &ground(|_, y| if y.abs() < 3.5 { -1.8 } else { -1.65 }),
            -1.8,
        );
        // Cars hide a third of the road, and their roofs are flat.
        let parked = |x: f32, y: f32| match (y.abs() as i32, (x.abs() / 5.0).fract() < 0.8) {
            (4..7, true) => -0.3,
            _ => -1.8,
        };
        assert_height(&ground(parked), -1.8);
        let roof = |x: f32, y: f32| if x.hypot(y) < 2.4 { -0.4 } else { -1.8 };
        assert_height(&ground(roof), -1.8);
        // A fifth of the points are echoes below the ground.
        let mut random = Random(3);
        let mut points = ground(|_, _| -1.8);
        for point in points.chunks_exact_mut(4) {
            if random.next() < 0.01 {
                point[2] -= 3.0 * random.next();
            }
        }
        assert_height(&points, -1.8);
    }

    #[test]
    fn too_little_ground_is_none() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[f32::NAN; 400]), None);
        let far: Vec<f32> = ground(|_, _| -1.8)
            .chunks_exact(4)
            .filter(|p| p[0].hypot(p[1]) > 26.0)
            .flatten()
            .copied()
            .collect();
        assert_eq!(find(&far), None);
        // A wall is no ground.
        let wall: Vec<f32> = (0..4000)
            .flat_map(|i| {
                [
                    8.0,
                    (i % 40) as f32 * 0.25 - 5.0,
                    (i / 40) as f32 * 0.03 - 1.5,
                    0.0,
                ]
            })
            .collect();
        assert_eq!(find(&wall), None);
    }
}
