use super::*;
use crate::build::calibrate::Occupancy;
use crate::build::config::BiasCorrection;
use crate::engine::cpu::Isa;
use crate::map::MapLayout;
use crate::model::Grid;
use crate::synth::Rng;
use gram::Gram;

const METHODS: [Rounding; 2] = [Rounding::Gptq, Rounding::Adaround];

fn random(rng: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.normal(1.0) as f32).collect()
}

fn options(method: Rounding, search: bool) -> Options {
    Options { method, search }
}

/// A 1×1 convolution with one output.
fn dot(size: usize, amax: f32) -> Layer {
    Layer {
        name: "dot".into(),
        weight: "dot.weight".into(),
        input: "x".into(),
        output: "y".into(),
        depth: 0,
        geometry: Geometry {
            window: window(1, 1, 0, 1, 1),
            transposed: false,
            cells: [1, 1],
            channels: [size, 1],
        },
        input_scale: 1.0,
        bits: 4,
        amax: vec![amax],
    }
}

fn window(kernel: usize, stride: usize, pad: usize, dilation: usize, groups: usize) -> Window {
    Window {
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [dilation; 2],
        pad: [pad; 4],
        output_padding: [0; 2],
        groups,
    }
}

/// The Gram matrix of a few correlated columns.
fn hessian(rng: &mut Rng, size: usize) -> Hessian {
    let mut matrix = vec![0.0; size * size];
    for _ in 0..size + 2 {
        let common = 2.0 * rng.normal(1.0);
        let column: Vec<f64> = (0..size).map(|_| rng.normal(1.0) + common).collect();
        for i in 0..size {
            for j in 0..size {
                matrix[i * size + j] += column[i] * column[j];
            }
        }
    }
    Hessian {
        size,
        isa: Isa::best().unwrap(),
        matrix,
        centre: vec![0.0; size],
    }
}

/// `δᵀHδ`, term by term.
fn naive(hessian: &Hessian, weights: &[f32], codes: &[f64], scale: f64) -> f64 {
    let delta = |i: usize| codes[i] * scale - f64::from(weights[i]);
    let all = (0..hessian.size).flat_map(|i| (0..hessian.size).map(move |j| (i, j)));
    all.map(|(i, j)| delta(i) * hessian.matrix[i * hessian.size + j] * delta(j))
        .sum()
}

/// The least error over all 2ⁿ choices of the code below or above each weight.
fn best_of_all(hessian: &Hessian, weights: &[f32], scale: f64) -> f64 {
    let size = hessian.size;
    let choice = |bits: usize| {
        let code = |i: usize| {
            let below = (f64::from(weights[i]) / scale).floor();
            (below + f64::from(u8::from(bits >> i & 1 == 1))).clamp(-7.0, 7.0)
        };
        let codes: Vec<f64> = (0..size).map(code).collect();
        naive(hessian, weights, &codes, scale)
    };
    (0..1 << size).map(choice).fold(f64::INFINITY, f64::min)
}

#[test]
fn small_rows_come_close_to_the_best_of_all_roundings() {
    let pool = Pool::new(1);
    for (method, most_excess) in [(Rounding::Gptq, 1.3), (Rounding::Adaround, 1.3)] {
        let mut rng = Rng::new(7, 0, 1);
        let (mut best, mut found, mut near) = (0.0, 0.0, 0.0);
        for case in 0..60 {
            let hessian = hessian(&mut rng, 8);
            let weights = random(&mut rng, 8);
            let amax = weights.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
            let scale = f64::from(amax / 7.0);
            let layer = dot(8, amax);
            let hessians = [hessian];
            let rounded = round(&layer, &weights, &hessians, options(method, false), &pool);
            // The codes come back from the moved weights, and their error is the one that is reported.
            let codes: Vec<f64> = (nearest(&rounded.values, amax / 7.0, 7).iter())
                .map(|&code| f64::from(code))
                .collect();
            let error = naive(&hessians[0], &weights, &codes, scale);
            let [before, after] = rounded.errors;
            assert!(
                (error - after).abs() <= 1e-6 * error,
                "{method:?} {case}: {error} {after}"
            );
            assert!(after <= before, "{method:?} {case}: {after} > {before}");
            best += best_of_all(&hessians[0], &weights, scale);
            found += after;
            near += before;
        }
        // Rounding matters here, and GPTQ may go beyond the codes next to a weight.
        assert!(near > 3.0 * best, "{method:?}: {near} {best}");
        assert!(found <= most_excess * best, "{method:?}: {found} {best}");
    }
}

#[test]
fn a_searched_range_is_no_worse_than_the_greatest_weight() {
    let pool = Pool::new(1);
    let mut rng = Rng::new(3, 0, 1);
    for _ in 0..20 {
        let hessians = [hessian(&mut rng, 24)];
        let weights = random(&mut rng, 24);
        let amax = weights.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
        let layer = dot(24, amax);
        let error = |search| {
            let options = options(Rounding::Gptq, search);
            round(&layer, &weights, &hessians, options, &pool).errors[1]
        };
        // The search compares damped errors before single codes change, so it is not strictly better.
        assert!(error(true) <= 1.1 * error(false));
        let squares = |amax: f32| -> f64 {
            let scale = scale_of(amax, 7.0);
            let errors = errors(&weights, &nearest(&weights, scale, 7), scale);
            errors.iter().map(|e| e * e).sum()
        };
        let found = searched(&weights, &[1, 24], 0, 4);
        assert!(squares(found[0]) <= squares(amax) && found[0] <= amax);
    }
}

#[test]
fn the_nearest_code_of_a_moved_weight_is_the_chosen_one() {
    for most in [7, i8::MAX] {
        for scale in [1e-6_f32, 0.013, 0.7] {
            for code in -most..=most {
                for steps in [-300.0, -7.5, -0.5, 0.0, 0.2, 0.5, 3.3, 300.0] {
                    let value = steps * scale;
                    let found = moved(value, code, scale, most);
                    assert_eq!(nearest(&[found], scale, most), [code], "{value} {scale}");
                    if nearest(&[value], scale, most) == [code] {
                        assert!((found - value).abs() <= 0.06 * scale, "{value} {found}");
                    }
                }
            }
        }
    }
}

/// A layer over a small map, with its weights and the map's codes.
struct Case {
    layer: Layer,
    weights: Vec<f32>,
    codes: Vec<i8>,
    layout: MapLayout,
}

impl Case {
    fn new(rng: &mut Rng, window: Window, transposed: bool) -> Self {
        let (inputs, outputs, size) = (4, 6, 7);
        let [k, s] = [window.kernel[0], window.stride[0]];
        let reach = (k - 1) * window.dilation[0] + 1;
        let cells = if transposed {
            size
        } else {
            (size + 2 * window.pad[0] - reach) / s + 1
        };
        let count = inputs * outputs / window.groups * k * k;
        let layout = MapLayout::nchw(inputs, size, size);
        Self {
            layer: Layer {
                geometry: Geometry {
                    window,
                    transposed,
                    cells: [cells; 2],
                    channels: [inputs, outputs],
                },
                amax: vec![
                    1.5;
                    if transposed {
                        outputs / window.groups
                    } else {
                        outputs
                    }
                ],
                ..dot(1, 1.0)
            },
            weights: random(rng, count).iter().map(|w| 0.7 * w).collect(),
            codes: (0..inputs * size * size)
                .map(|_| (rng.uniform() * 255.0) as i32 as u8 as i8)
                .collect(),
            layout,
        }
    }

    fn hessians(&self, pool: &Pool) -> Vec<Hessian> {
        let geometry = &self.layer.geometry;
        let mut gram = Gram::new(geometry, Isa::best().unwrap());
        let mut occupancy = Occupancy::new(&grid(7));
        occupancy.set(&(0..49).collect::<Vec<u32>>());
        gram.add(&self.codes, self.layout, &mut occupancy, pool);
        gram.hessians(BiasCorrection::Off)
    }

    fn round(&self, method: Rounding, pool: &Pool) -> Rounded {
        let options = options(method, true);
        round(
            &self.layer,
            &self.weights,
            &self.hessians(pool),
            options,
            pool,
        )
    }

    /// The outputs by ONNX's definitions, for any weights.
    fn outputs(&self, weights: &[f64]) -> Vec<f64> {
        let Geometry {
            window,
            transposed,
            cells: [rows, columns],
            channels: [inputs, outputs],
        } = self.layer.geometry;
        let [k, s, d, p] = [
            window.kernel[0],
            window.stride[0],
            window.dilation[0],
            window.pad[0],
        ];
        let (group_in, group_out) = (inputs / window.groups, outputs / window.groups);
        let size = self.layout.height;
        let mut found = Vec::new();
        for o in 0..outputs {
            let group = o / group_out;
            for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                let mut sums = vec![0.0; if transposed { k * k } else { 1 }];
                for i in 0..group_in {
                    for (a, b) in (0..k).flat_map(|a| (0..k).map(move |b| (a, b))) {
                        let (row, column, weight, to) = if transposed {
                            let pair = (group * group_in + i) * group_out + o % group_out;
                            (y, x, (pair * k + a) * k + b, a * k + b)
                        } else {
                            let (row, column) = (y * s + a * d, x * s + b * d);
                            if row < p || column < p || row - p >= size || column - p >= size {
                                continue;
                            }
                            (row - p, column - p, ((o * group_in + i) * k + a) * k + b, 0)
                        };
                        let at = self.layout.index(group * group_in + i, row, column);
                        sums[to] += weights[weight] * f64::from(self.codes[at]);
                    }
                }
                found.extend(sums);
            }
        }
        found
    }
}

fn grid(size: usize) -> Grid {
    Grid {
        ignore_box: None,
        min: [0.0; 3],
        max: [size as f32, size as f32, 1.0],
        voxel: [1.0; 3],
        nx: size,
        ny: size,
        max_points_per_pillar: 1,
        max_pillars: size * size,
    }
}

fn cases(rng: &mut Rng) -> Vec<Case> {
    [
        (window(3, 1, 1, 1, 1), false),
        (window(3, 2, 1, 1, 2), false),
        (window(3, 1, 2, 2, 1), false),
        (window(1, 1, 0, 1, 1), false),
        (window(2, 2, 0, 1, 1), true),
        (window(2, 2, 0, 1, 2), true),
    ]
    .map(|(window, transposed)| Case::new(rng, window, transposed))
    .into()
}

/// The error from the Gram matrix is the error of the outputs, for every form of a convolution.
#[test]
fn errors_are_those_of_the_outputs() {
    let pool = Pool::new(1);
    let mut rng = Rng::new(11, 0, 1);
    for (number, case) in cases(&mut rng).iter().enumerate() {
        for method in METHODS {
            let rounded = case.round(method, &pool);
            let geometry = &case.layer.geometry;
            let float: Vec<f64> = case.weights.iter().map(|&w| f64::from(w)).collect();
            // Codes as an engine has them: by the ranges of the weight's channels.
            let axis = usize::from(geometry.transposed);
            let outputs = geometry.channels[1] / geometry.window.groups;
            let area = geometry.window.kernel[0] * geometry.window.kernel[1];
            let codes = rounded.values.iter().enumerate().map(|(i, &value)| {
                let channel = if axis == 1 {
                    i / area % outputs
                } else {
                    i / geometry.column()
                };
                let scale = rounded.amax[channel] / 7.0;
                f64::from(nearest(&[value], scale, 7)[0]) * f64::from(scale)
            });
            let coded: Vec<f64> = codes.collect();
            let pairs = case.outputs(&float).into_iter().zip(case.outputs(&coded));
            let squares: f64 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
            let cells = (geometry.cells[0] * geometry.cells[1]) as f64;
            let [before, after] = rounded.errors;
            let expected = squares / cells;
            assert!(
                (expected - after).abs() <= 1e-5 * expected,
                "{number} {method:?}: {expected} {after}"
            );
            assert!(after <= before, "{number} {method:?}: {after} > {before}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = Rng::new(5, 0, 1);
    for case in cases(&mut rng) {
        for method in METHODS {
            let [one, three] = [1, 3].map(|threads| case.round(method, &Pool::new(threads)));
            assert_eq!(one, three);
        }
    }
}

/// The mean error is what the bias takes off.
#[test]
fn shifts_are_mean_errors() {
    let pool = Pool::new(1);
    let mut rng = Rng::new(13, 0, 1);
    for case in cases(&mut rng) {
        let geometry = &case.layer.geometry;
        let mut gram = Gram::new(geometry, Isa::best().unwrap());
        let mut occupancy = Occupancy::new(&grid(7));
        occupancy.set(&(0..49).collect::<Vec<u32>>());
        gram.add(&case.codes, case.layout, &mut occupancy, &pool);
        let centred = gram.hessians(BiasCorrection::All);
        let options = options(Rounding::Gptq, false);
        let rounded = round(&case.layer, &case.weights, &centred, options, &pool);
        let values = |weights: &[f32], amax: Option<f32>| -> Vec<f64> {
            let value = |&w: &f32| match amax {
                None => f64::from(w),
                Some(amax) => f64::from(nearest(&[w], amax / 7.0, 7)[0]) * f64::from(amax / 7.0),
            };
            weights.iter().map(value).collect()
        };
        let float = case.outputs(&values(&case.weights, None));
        let coded = case.outputs(&values(&rounded.values, Some(1.5)));
        let each = float.len() / geometry.channels[1];
        for (output, shift) in rounded.shift.iter().enumerate() {
            let part = output * each..(output + 1) * each;
            let pairs = float[part.clone()].iter().zip(&coded[part]);
            let mean = pairs.map(|(a, b)| b - a).sum::<f64>() / each as f64;
            assert!((mean - shift).abs() < 1e-4, "{output}: {mean} {shift}");
        }
    }
}

/// A map that is always 0 leaves nothing to choose.
#[test]
fn inputs_that_are_always_0_have_nearest_codes() {
    let pool = Pool::new(2);
    let mut rng = Rng::new(2, 0, 1);
    for mut case in cases(&mut rng) {
        case.codes.fill(0);
        for method in METHODS {
            let rounded = case.round(method, &pool);
            assert_eq!(rounded.errors, [0.0; 2]);
            assert!(
                rounded
                    .amax
                    .iter()
                    .all(|amax| amax.is_finite() && *amax > 0.0)
            );
        }
    }
}
