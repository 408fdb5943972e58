//! Voxelisation: bounds, caps, order, and a naive reference.

use std::collections::HashMap;

use centerpoint::Dropped;
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::model::Grid;
use proptest::prelude::*;

use super::{Random, model};

const STRIDE: usize = 4;

/// Rows of x, y, z and a fourth column.
fn cloud(points: &[[f32; 3]]) -> Vec<f32> {
    points
        .iter()
        .flat_map(|&[x, y, z]| [x, y, z, 0.5])
        .collect()
}

fn pillars(points: &[f32], grid: &Grid) -> Pillars {
    let mut pillars = Pillars::new(grid);
    voxelize(points, STRIDE, grid, &mut pillars);
    pillars
}

#[test]
fn a_quotient_that_rounds_up_stays_in_the_last_cell() {
    let mut grid = model().grid;
    (grid.min, grid.max) = ([-76.8, -76.8, -3.0], [76.8, 76.8, 5.0]);
    (grid.voxel, grid.nx, grid.ny) = ([0.32, 0.32, 8.0], 480, 480);
    let edge = 76.799995f32;
    assert!(edge < grid.max[0]);
    assert!((edge - grid.min[0]) / grid.voxel[0] >= 480.0);
    let pillars = pillars(&cloud(&[[edge, 0.0, 0.0], [0.0, edge, 0.0]]), &grid);
    assert_eq!(pillars.cells(), [240 * 480 + 479, 479 * 480 + 240]);
    assert_eq!(*pillars.dropped(), Dropped::default());
}

#[test]
fn the_range_includes_its_minimum_but_not_its_maximum() {
    let grid = model().grid;
    for axis in 0..3 {
        let at = |value: f32| {
            let mut point = [0.0; 3];
            point[axis] = value;
            pillars(&cloud(&[point]), &grid).len()
        };
        assert_eq!(at(grid.min[axis]), 1);
        assert_eq!(at(grid.min[axis].next_down()), 0);
        assert_eq!(at(grid.max[axis].next_down()), 1);
        assert_eq!(at(grid.max[axis]), 0);
    }
    let corners = cloud(&[
        [-4.0, -3.0, 0.0],
        [3.9, -3.0, 0.0],
        [-4.0, 2.9, 0.0],
        [0.0, 0.0, 0.0],
    ]);
    assert_eq!(
        pillars(&corners, &grid).cells(),
        [0, 15, 11 * 16, 6 * 16 + 8]
    );
}

#[test]
fn empty_input_has_no_pillars() {
    let grid = model().grid;
    let none = pillars(&[], &grid);
    assert!(none.is_empty() && none.cells().is_empty());
    assert_eq!(*none.dropped(), Dropped::default());
    let outside = pillars(
        &cloud(&[[9.0, 0.0, 0.0], [0.0, -9.0, 0.0], [0.0, 0.0, 9.0]]),
        &grid,
    );
    assert!(outside.is_empty());
    let expected = Dropped {
        out_of_range: 3,
        ..Dropped::default()
    };
    assert_eq!(*outside.dropped(), expected);
}

#[test]
fn non_finite_rows_are_counted_in_any_column() {
    let grid = model().grid;
    for column in 0..STRIDE {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut points = cloud(&[[0.0; 3], [1.0; 3]]);
            points[column] = bad;
            let pillars = pillars(&points, &grid);
            assert_eq!((pillars.len(), pillars.points(0)), (1, &[1][..]));
            let expected = Dropped {
                non_finite: 1,
                ..Dropped::default()
            };
            assert_eq!(*pillars.dropped(), expected);
        }
    }
}

#[test]
fn a_pillar_keeps_its_first_points() {
    let grid = model().grid;
    let cap = grid.max_points_per_pillar;
    for n in [cap - 1, cap, cap + 1, 100_000] {
        let pillars = pillars(&cloud(&vec![[0.1; 3]; n]), &grid);
        let kept = n.min(cap);
        assert_eq!((pillars.len(), pillars.counts()), (1, &[kept as u32][..]));
        assert_eq!(pillars.points(0), (0..kept as u32).collect::<Vec<_>>());
        let expected = Dropped {
            pillar_points: (n - kept) as u64,
            ..Dropped::default()
        };
        assert_eq!(*pillars.dropped(), expected);
    }
}

#[test]
fn pillars_beyond_the_limit_are_counted_and_the_first_still_grow() {
    let mut grid = model().grid;
    let cell = |i: usize| {
        [
            -3.9 + 0.5 * (i % 16) as f32,
            -2.9 + 0.5 * (i / 16) as f32,
            0.0,
        ]
    };
    for cap in [9, 10, 11] {
        grid.max_pillars = cap;
        // Ten cells from the last to the first, then one more point in each.
        let order: Vec<usize> = (0..10).rev().chain(0..10).collect();
        let points: Vec<[f32; 3]> = order.iter().map(|&i| cell(i)).collect();
        let pillars = pillars(&cloud(&points), &grid);
        let kept = cap.min(10);
        assert_eq!(pillars.len(), kept);
        for i in 0..kept {
            assert_eq!(pillars.cells()[i] as usize, 9 - i);
            assert_eq!(pillars.points(i), [i as u32, 19 - i as u32]);
        }
        let expected = Dropped {
            pillars: 2 * (10 - kept) as u64,
            ..Dropped::default()
        };
        assert_eq!(*pillars.dropped(), expected);
    }
}

/// Pillars as (cell, points), and the counters.
type Reference = (Vec<(u32, Vec<u32>)>, Dropped);

/// Keeps everything, then applies the limits.
fn reference(points: &[f32], grid: &Grid) -> Reference {
    let mut dropped = Dropped::default();
    let mut order: Vec<u32> = Vec::new();
    let mut members: HashMap<u32, Vec<u32>> = HashMap::new();
    for (index, row) in points.chunks(STRIDE).enumerate() {
        if row
            .iter()
            .any(|value| value.is_nan() || value.is_infinite())
        {
            dropped.non_finite += 1;
        } else if (0..3).any(|a| row[a] < grid.min[a] || row[a] >= grid.max[a]) {
            dropped.out_of_range += 1;
        } else {
            let [x, y] = [0, 1].map(|a| ((row[a] - grid.min[a]) / grid.voxel[a]).floor() as u32);
            let cell = y.min(grid.ny as u32 - 1) * grid.nx as u32 + x.min(grid.nx as u32 - 1);
            if !members.contains_key(&cell) {
                order.push(cell);
            }
            members.entry(cell).or_default().push(index as u32);
        }
    }
    let mut kept = Vec::new();
    for (i, cell) in order.into_iter().enumerate() {
        let mut points = members.remove(&cell).unwrap();
        if i < grid.max_pillars {
            let beyond = points.len().saturating_sub(grid.max_points_per_pillar);
            dropped.pillar_points += beyond as u64;
            points.truncate(grid.max_points_per_pillar);
            kept.push((cell, points));
        } else {
            dropped.pillars += points.len() as u64;
        }
    }
    (kept, dropped)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One buffer for several frames: a frame leaves nothing for the next.
    #[test]
    fn frames_equal_the_reference(seed in any::<u64>()) {
        let grid = model().grid;
        let mut random = Random(seed);
        let mut pillars = Pillars::new(&grid);
        for _ in 0..4 {
            let n = random.below(600);
            let mut points: Vec<f32> = (0..n * STRIDE).map(|_| random.uniform(-3.5, 3.5)).collect();
            for _ in 0..n / 50 {
                points[random.below(n * STRIDE)] = f32::NAN;
            }
            voxelize(&points, STRIDE, &grid, &mut pillars);
            let found: Vec<_> = (0..pillars.len())
                .map(|i| (pillars.cells()[i], pillars.points(i).to_vec()))
                .collect();
            let (expected, dropped) = reference(&points, &grid);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(*pillars.dropped(), dropped);
        }
    }
}
