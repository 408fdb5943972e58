//! The PFN: columns by hand, padding, a naive dense reference in f64, threads, and mismatches.

use centerpoint::Model;
use centerpoint::internals::cpu::features::{Features, features};
use centerpoint::internals::cpu::pillars::{Pillars, voxelize};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::model::{Pfn, PfnError, PfnLayer};
use proptest::prelude::*;

use super::{Random, model};

fn run(model: &Model, pfn: &Pfn, points: &[f32], threads: usize) -> (Pillars, Features) {
    let stride = model.points.columns.len();
    let mut pillars = Pillars::new(&model.grid);
    voxelize(points, stride, &model.grid, &mut pillars);
    let mut out = Features::new(model, pfn, threads).unwrap();
    features(
        points,
        stride,
        &pillars,
        &model.grid,
        &Pool::new(threads),
        &mut out,
    );
    (pillars, out)
}

fn layer(in_features: usize, out_features: usize, weight: Vec<f32>, bias: Vec<f32>) -> PfnLayer {
    PfnLayer {
        in_features,
        out_features,
        weight,
        bias,
    }
}

/// A layer that outputs each column and its negative, which makes ReLU lossless.
fn both_signs(columns: usize) -> PfnLayer {
    let mut weight = vec![0.0; 2 * columns * columns];
    for k in 0..columns {
        weight[k * columns + k] = 1.0;
        weight[(columns + k) * columns + k] = -1.0;
    }
    layer(columns, 2 * columns, weight, vec![0.0; 2 * columns])
}

pub(crate) fn random_pfn(model: &Model, random: &mut Random) -> Pfn {
    let mut inputs = model.pfn_in_features();
    let layers = model
        .pfn_linear_widths()
        .map(|outputs| {
            let weight = (0..inputs * outputs)
                .map(|_| random.uniform(-0.5, 0.5))
                .collect();
            let bias = (0..outputs).map(|_| random.uniform(-0.5, 0.5)).collect();
            let layer = layer(inputs, outputs, weight, bias);
            inputs = 2 * outputs;
            layer
        })
        .collect();
    Pfn { layers }
}

fn random_cloud(model: &Model, random: &mut Random, n: usize) -> Vec<f32> {
    (0..n * model.points.columns.len())
        .map(|_| random.uniform(-3.0, 3.0))
        .collect()
}

#[test]
fn columns_are_point_mean_offset_center_offset() {
    let mut model = model();
    model.pfn.layers = vec![22];
    // One pillar: x 1.0..1.5, y 0.5..1.0, centre (1.25, 0.75, 0).
    let points = [[1.0, 0.5, 1.0, 0.25, 0.0], [1.25, 0.75, -1.0, 0.5, 0.125]];
    // Mean (1.125, 0.625, 0): rows point, point − mean, point − centre.
    let rows = [
        [
            1.0, 0.5, 1.0, 0.25, 0.0, -0.125, -0.125, 1.0, -0.25, -0.25, 1.0,
        ],
        [
            1.25, 0.75, -1.0, 0.5, 0.125, 0.125, 0.125, -1.0, 0.0, 0.0, -1.0,
        ],
    ];
    let offsets = [
        (true, 3),
        (true, 2),
        (true, 0),
        (false, 3),
        (false, 2),
        (false, 0),
    ];
    for (mean_offset, center_axes) in offsets {
        (model.pfn.mean_offset, model.pfn.center_axes) = (mean_offset, center_axes);
        let mut columns: Vec<usize> = (0..5).collect();
        columns.extend(5..if mean_offset { 8 } else { 5 });
        columns.extend(8..8 + center_axes);
        model.pfn.layers = vec![2 * columns.len()];
        let pfn = Pfn {
            layers: vec![both_signs(columns.len())],
        };
        let (pillars, out) = run(&model, &pfn, points.as_flattened(), 1);
        assert_eq!(pillars.len(), 1);
        let max = |sign: f32, k: usize| (sign * rows[0][k]).max(sign * rows[1][k]).max(0.0);
        let mut expected: Vec<f32> = columns.iter().map(|&k| max(1.0, k)).collect();
        expected.extend(columns.iter().map(|&k| max(-1.0, k)));
        assert_eq!(
            out.values(),
            expected,
            "mean {mean_offset}, centre {center_axes}"
        );
    }
}

#[test]
fn padding_rows_take_part_in_the_max() {
    let mut model = model();
    (model.pfn.mean_offset, model.pfn.center_axes) = (false, 0);
    let points = |n: usize| vec![[2.0, 1.0, 0.0, 0.0, 0.0]; n].concat();
    let cap = model.grid.max_points_per_pillar;

    // Layer 1: 3 − x is 1 in a real row, 3 in a padding row.
    let first = layer(5, 1, vec![-1.0, 0.0, 0.0, 0.0, 0.0], vec![3.0]);
    model.pfn.layers = vec![1];
    let pfn = Pfn {
        layers: vec![first.clone()],
    };
    assert_eq!(run(&model, &pfn, &points(cap), 1).1.values(), [1.0]);
    assert_eq!(run(&model, &pfn, &points(cap - 1), 1).1.values(), [3.0]);

    // Layer 2 of row and max: 10 − 2·row + max. Full pillar: 10 − 2 + 1. Otherwise the max is 3, and the real
    // row wins with 10 − 2 + 3 against the padding row's 10 − 6 + 3.
    let second = layer(2, 1, vec![-2.0, 1.0], vec![10.0]);
    model.pfn.layers = vec![2, 1];
    let mut pfn = Pfn {
        layers: vec![first, second],
    };
    assert_eq!(run(&model, &pfn, &points(cap), 1).1.values(), [9.0]);
    assert_eq!(run(&model, &pfn, &points(1), 1).1.values(), [11.0]);
    // With 10 + 2·row + max the padding row wins: 10 + 6 + 3.
    pfn.layers[1].weight[0] = 2.0;
    assert_eq!(run(&model, &pfn, &points(1), 1).1.values(), [19.0]);
}

#[test]
fn an_empty_frame_after_a_full_one_is_empty() {
    let model = model();
    let pfn = random_pfn(&model, &mut Random(3));
    let (_, mut out) = run(&model, &pfn, &random_cloud(&model, &mut Random(4), 100), 1);
    assert!(!out.values().is_empty());
    let empty = Pillars::new(&model.grid);
    features(&[], 5, &empty, &model.grid, &Pool::new(1), &mut out);
    assert!(out.values().is_empty());
}

/// The dense computation as it is trained: `[P, M, C]` with zero rows, in f64.
fn reference(model: &Model, pfn: &Pfn, points: &[f32], pillars: &Pillars) -> Vec<f64> {
    let (grid, stride) = (&model.grid, model.points.columns.len());
    let mut out = Vec::new();
    for p in 0..pillars.len() {
        let cell = pillars.cells()[p] as usize;
        let index = [cell % grid.nx, cell / grid.nx, 0];
        let kept: Vec<Vec<f64>> = pillars
            .points(p)
            .iter()
            .map(|&i| {
                points[i as usize * stride..][..stride]
                    .iter()
                    .map(|&v| v.into())
                    .collect()
            })
            .collect();
        let mean = |axis: usize| kept.iter().map(|r| r[axis]).sum::<f64>() / kept.len() as f64;
        let center = |axis: usize| {
            let size = f64::from(grid.voxel[axis]);
            size / 2.0 + index[axis] as f64 * size + f64::from(grid.min[axis])
        };
        let mut rows: Vec<Vec<f64>> = kept
            .iter()
            .map(|point| {
                let mut row = point.clone();
                if model.pfn.mean_offset {
                    row.extend((0..3).map(|axis| point[axis] - mean(axis)));
                }
                row.extend((0..model.pfn.center_axes).map(|axis| point[axis] - center(axis)));
                row
            })
            .collect();
        rows.resize(
            grid.max_points_per_pillar,
            vec![0.0; model.pfn_in_features()],
        );
        let mut max = Vec::new();
        for (l, layer) in pfn.layers.iter().enumerate() {
            if l > 0 {
                rows.iter_mut().for_each(|row| row.extend(&max));
            }
            rows = rows
                .iter()
                .map(|row| {
                    assert_eq!(row.len(), layer.in_features);
                    let linear = |o: usize| -> f64 {
                        let weights = &layer.weight[o * layer.in_features..];
                        let products = row.iter().zip(weights).map(|(x, &w)| x * f64::from(w));
                        products.sum::<f64>() + f64::from(layer.bias[o])
                    };
                    (0..layer.out_features)
                        .map(|o| linear(o).max(0.0))
                        .collect()
                })
                .collect();
            let column = |o: usize| rows.iter().map(|row| row[o]).fold(f64::MIN, f64::max);
            max = (0..layer.out_features).map(column).collect();
        }
        out.extend(max);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn features_equal_the_dense_reference(
        seed in any::<u64>(),
        mean_offset in any::<bool>(),
        center_axes in prop::sample::select(vec![0usize, 2, 3]),
        layers in prop::sample::select(vec![
            vec![1], vec![32], vec![17], vec![32, 32], vec![6, 64], vec![64, 5], vec![34, 20, 33],
        ]),
        n in 0usize..300,
    ) {
        let mut model = model();
        (model.pfn.mean_offset, model.pfn.center_axes) = (mean_offset, center_axes);
        model.pfn.layers = layers;
        let mut random = Random(seed);
        let pfn = random_pfn(&model, &mut random);
        let points = random_cloud(&model, &mut random, n);
        let (pillars, out) = run(&model, &pfn, &points, 1);
        let expected = reference(&model, &pfn, &points, &pillars);
        prop_assert_eq!(out.values().len(), expected.len());
        for (found, expected) in out.values().iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            prop_assert!(error <= 2e-5 * expected.abs().max(1.0), "{} {}", found, expected);
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let mut model = model();
    model.grid.max_pillars = 192;
    let mut random = Random(11);
    let pfn = random_pfn(&model, &mut random);
    let points = random_cloud(&model, &mut random, 2000);
    let (pillars, one) = run(&model, &pfn, &points, 1);
    assert!(pillars.len() > 130, "too few for several tasks");
    for threads in [2, 3, 7] {
        let (_, many) = run(&model, &pfn, &points, threads);
        let bits = |out: &Features| out.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&one), bits(&many), "{threads} threads");
    }
}

#[test]
fn a_mismatched_pfn_is_rejected_with_both_sizes() {
    let model = model();
    let good = random_pfn(&model, &mut Random(5));
    assert_eq!(good.check(&model), Ok(()));
    let broken = |change: &dyn Fn(&mut Pfn)| {
        let mut pfn = good.clone();
        change(&mut pfn);
        Features::new(&model, &pfn, 1).unwrap_err()
    };
    let size = |layer, what, found, expected| PfnError::Size {
        layer,
        what,
        found,
        expected,
    };
    let layers = PfnError::Layers {
        found: 1,
        expected: 2,
    };
    assert_eq!(broken(&|pfn| pfn.layers.truncate(1)), layers);
    let columns = broken(&|pfn| pfn.layers[0] = layer(10, 16, vec![0.0; 160], vec![0.0; 16]));
    assert_eq!(columns, size(0, "in_features", 10, 11));
    assert!(
        columns.to_string().contains("in_features is 10"),
        "{columns}"
    );
    let outputs = broken(&|pfn| pfn.layers[1] = layer(32, 64, vec![0.0; 2048], vec![0.0; 64]));
    assert_eq!(outputs, size(1, "out_features", 64, 32));
    let weight = broken(&|pfn| pfn.layers[1].weight.truncate(7));
    assert_eq!(weight, size(1, "length of weight", 7, 1024));
    let bias = broken(&|pfn| pfn.layers[0].bias.push(0.0));
    assert_eq!(bias, size(0, "length of bias", 17, 16));
    let nan = broken(&|pfn| pfn.layers[1].bias[3] = f32::INFINITY);
    let expected = PfnError::NonFinite {
        layer: 1,
        tensor: "bias",
        index: 3,
        value: f32::INFINITY,
    };
    assert_eq!(nan, expected);
}
