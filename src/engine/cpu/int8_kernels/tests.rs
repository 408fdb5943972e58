//! Compares every instruction set of this machine with plain loops, byte for byte.

use super::*;
use crate::engine::cpu::marks::GROUP;
use crate::engine::cpu::reference::Builder;

/// Pseudo-random numbers from a linear congruential generator, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Codes from `least` to 127; both limits are frequent.
    fn codes(&mut self, len: usize, least: i8) -> Vec<i8> {
        let count = (127 - i32::from(least) + 1) as usize;
        let code = |random: &mut Self| match random.below(8) {
            0 => least,
            1 => 127,
            _ => (i32::from(least) + random.below(count) as i32) as i8,
        };
        (0..len).map(|_| code(self)).collect()
    }

    /// Often 0 or a limit.
    fn zero_point(&mut self) -> i8 {
        let other = self.below(256) as i32 - 128;
        self.pick(&[0, 0, -128, -128, 127, other as i8])
    }

    /// Values between about -`size` and `size`.
    fn values(&mut self, len: usize, size: f32) -> Vec<f32> {
        let value = |random: &mut Self| (random.below(20_001) as f32 / 10_000.0 - 1.0) * size;
        (0..len).map(|_| value(self)).collect()
    }
}

/// A row, with its weights in the order `[output channel][tap][input channel]`.
struct Case {
    narrow: bool,
    /// The quads to multiply, and the sums of the others: by step and output channel in whole blocks. `None` multiplies all.
    slices: Option<(Vec<Range<usize>>, Vec<i32>)>,
    input: Vec<i8>,
    start: usize,
    taps: Vec<isize>,
    step: usize,
    channels: usize,
    signed: bool,
    /// The input's zero point.
    zero: i8,
    weights: Vec<i8>,
    multiplier: Vec<f32>,
    bias: Vec<f32>,
    /// Values and codes; at most one of them is used.
    residual: (Option<Vec<f32>>, Option<Vec<i8>>),
    residual_scale: f32,
    residual_step: usize,
    /// Scale of an output of codes, and its zero point.
    scale: Option<f32>,
    output_zero: i8,
    output_step: usize,
    width: usize,
    output_channels: usize,
    relu: bool,
}

/// An output, as values or as codes.
#[derive(Clone, Debug, PartialEq)]
struct Output {
    values: Vec<f32>,
    codes: Vec<i8>,
}

impl Case {
    fn new(random: &mut Random, narrow: bool, most: usize) -> Self {
        let channels = 1 + random.below(130);
        let output_channels = match (narrow, random.below(2)) {
            (true, _) => 1 + random.below(8),
            (false, 0) => most,
            (false, _) => 1 + random.below(most),
        };
        let width = 1 + random.below(40);
        let pixel = channels + random.below(3) * 5;
        let step = pixel * (1 + random.below(2));
        let row = (width * 2 + 4) * pixel;
        let start = row + 2 * pixel;
        let mut taps = Vec::new();
        for _ in 0..random.pick(&[1, 2, 4, 9]) {
            let (dy, dx) = (random.below(3) as isize - 1, random.below(3) as isize - 1);
            taps.push(dy * row as isize + dx * pixel as isize);
        }
        let signed = random.below(2) == 0;
        let residual = if narrow { 0 } else { random.below(3) };
        let residual_step = output_channels + random.below(4);
        let padded = output_channels.next_multiple_of(LANES);
        let sums = (channels * taps.len()) as f32;
        Self {
            narrow,
            slices: None,
            input: random.codes(3 * row + 64, if signed { -128 } else { 0 }),
            start,
            step,
            channels,
            signed,
            zero: if signed { random.zero_point() } else { 0 },
            weights: random.codes(output_channels * taps.len() * channels, -128),
            multiplier: random.values(padded, 0.05 / sums.sqrt()),
            bias: random.values(padded, 3.0),
            residual: (
                (residual == 1).then(|| random.values(width * residual_step, 20.0)),
                (residual == 2).then(|| random.codes(width * residual_step, -128)),
            ),
            residual_scale: 0.37,
            residual_step,
            scale: (random.below(2) == 0).then_some(0.71),
            output_zero: random.zero_point(),
            output_step: output_channels + random.below(4),
            width,
            output_channels,
            relu: random.below(2) == 0,
            taps,
        }
    }

    fn empty_output(&self) -> Output {
        let len = self.width * self.output_step;
        Output {
            values: vec![-77.0; if self.scale.is_none() { len } else { 0 }],
            codes: vec![-77; if self.scale.is_some() { len } else { 0 }],
        }
    }

    /// The specification, in plain loops.
    fn reference(&self) -> Output {
        let mut output = self.empty_output();
        for step in 0..self.width {
            for c in 0..self.output_channels {
                let mut sum = 0i64;
                for (t, tap) in self.taps.iter().enumerate() {
                    for i in 0..self.channels {
                        if !self.multiplies(i) {
                            continue;
                        }
                        let at = (self.start + step * self.step + i).strict_add_signed(*tap);
                        let w = self.weights[(c * self.taps.len() + t) * self.channels + i];
                        sum += (i64::from(self.input[at]) - i64::from(self.zero)) * i64::from(w);
                    }
                }
                if let Some((_, sums)) = &self.slices {
                    let padded = self.output_channels.next_multiple_of(LANES);
                    sum += i64::from(sums[step * padded + c]);
                }
                let mut y = i32::try_from(sum).unwrap() as f32 * self.multiplier[c];
                y += self.bias[c];
                let at = step * self.residual_step + c;
                if let Some(values) = &self.residual.0 {
                    y += values[at];
                }
                if let Some(codes) = &self.residual.1 {
                    y += f32::from(codes[at]) * self.residual_scale;
                }
                // Like `positive`: 0 also for NaN and -0.
                let above = y > 0.0;
                if self.relu && !above {
                    y = 0.0;
                }
                let at = step * self.output_step + c;
                match self.scale {
                    None => output.values[at] = y,
                    Some(scale) => {
                        let q = (y / scale).round_ties_even() + f32::from(self.output_zero);
                        let q = if q.is_nan() {
                            0.0
                        } else {
                            q.clamp(-128.0, 127.0)
                        };
                        output.codes[at] = q as i8;
                    }
                }
            }
        }
        output
    }

    /// Whether an input channel is multiplied.
    fn multiplies(&self, channel: usize) -> bool {
        let has = |range: &Range<usize>| range.contains(&(channel / QUAD));
        let slices = self.slices.as_ref();
        slices.is_none_or(|(quads, _)| quads.iter().any(has))
    }

    /// Multiplies random quads only, and adds random sums.
    fn slice(&mut self, random: &mut Random) {
        let mut quads = Vec::new();
        let mut at = 0;
        while at < self.channels.div_ceil(QUAD) {
            let end = (at + 1 + random.below(12)).min(self.channels.div_ceil(QUAD));
            if random.below(2) == 0 {
                quads.push(at..end);
            }
            at = end + random.below(2);
        }
        let padded = self.output_channels.next_multiple_of(LANES);
        let sums = self.width.next_multiple_of(GROUP) * padded;
        let sums = (0..sums).map(|_| random.below(2_000_001) as i32 - 1_000_000);
        self.slices = Some((quads, sums.collect()));
    }

    /// The weights in the kernels' order.
    fn packed(&self) -> Vec<i8> {
        let (channels, taps) = (self.channels, self.taps.len());
        let weight = |c: usize, t: usize, i: usize| {
            let inside = c < self.output_channels && i < channels;
            if inside {
                self.weights[(c * taps + t) * channels + i]
            } else {
                0
            }
        };
        let mut packed = Vec::new();
        if self.narrow {
            for c in 0..self.output_channels {
                for t in 0..taps {
                    packed.extend((0..channels.next_multiple_of(32)).map(|i| weight(c, t, i)));
                }
            }
            return packed;
        }
        for block in 0..self.output_channels.div_ceil(16) {
            for t in 0..taps {
                for quad in 0..channels.div_ceil(4) {
                    for at in 0..64 {
                        packed.push(weight(block * 16 + at / 4, t, quad * 4 + at % 4));
                    }
                }
            }
        }
        packed
    }

    /// Runs a kernel on the case.
    fn run(&self, isa: Isa) -> Output {
        let weights = self.packed();
        let all = 0..self.channels.div_ceil(QUAD);
        let padded = self.output_channels.next_multiple_of(LANES);
        let sums = self.slices.as_ref().map(|(_, sums)| {
            let groups = self.width.div_ceil(GROUP);
            let bytes = GROUP * padded * size_of::<i32>();
            let mut builder = Builder::new([1, groups], bytes, usize::MAX);
            for group in sums.chunks_exact(GROUP * padded) {
                builder.push(bytemuck::cast_slice(group)).unwrap();
            }
            builder.finish()
        });
        let mut output = self.empty_output();
        let residual = match &self.residual {
            (Some(values), _) => Some(Int8Residual::F32 {
                values,
                step: self.residual_step,
            }),
            (_, Some(codes)) => Some(Int8Residual::I8 {
                codes,
                scale: self.residual_scale,
                step: self.residual_step,
            }),
            _ => None,
        };
        let row = Int8Row {
            input: &self.input,
            start: self.start,
            taps: &self.taps,
            step: self.step,
            channels: self.channels,
            quads: self
                .slices
                .as_ref()
                .map_or(std::slice::from_ref(&all), |(quads, _)| quads),
            background: sums.as_ref().map(|sums| Background {
                sums,
                y: 0,
                x: 0,
                channel: 0,
                channels: padded,
            }),
            signed: self.signed,
            zero: self.zero,
            weights: &weights,
            multiplier: &self.multiplier,
            bias: &self.bias,
            residual,
            output: match self.scale {
                None => Int8Output::F32(&mut output.values),
                Some(scale) => Int8Output::I8 {
                    codes: &mut output.codes,
                    meaning: Codes {
                        scale,
                        zero: self.output_zero,
                    },
                },
            },
            output_step: self.output_step,
            width: self.width,
            output_channels: self.output_channels,
            relu: self.relu,
        };
        if self.narrow {
            int8_narrow_row(isa, row)
        } else {
            int8_wide_row(isa, row)
        }
        output
    }

    /// Compares a kernel with the specification; all NaN count as equal.
    fn compare(&self, isa: Isa) {
        let (found, expected) = (self.run(isa), self.reference());
        let bits = |output: &Output| -> Vec<u32> {
            let bits = |v: &f32| if v.is_nan() { u32::MAX } else { v.to_bits() };
            output.values.iter().map(bits).collect()
        };
        let what = format!(
            "{isa:?}, narrow {}, {} to {} channels, {} taps, width {}, signed {}, zero points {} and {}",
            self.narrow,
            self.channels,
            self.output_channels,
            self.taps.len(),
            self.width,
            self.signed,
            self.zero,
            self.output_zero
        );
        assert!(found.codes == expected.codes, "codes: {what}");
        assert!(bits(&found) == bits(&expected), "values: {what}");
    }
}

/// The instruction sets of this machine.
fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

#[test]
fn kernels_produce_the_bytes_of_the_specification() {
    for isa in available() {
        let mut random = Random(1);
        for _ in 0..150 {
            Case::new(&mut random, false, int8_wide_channels(isa)).compare(isa);
            Case::new(&mut random, true, 8).compare(isa);
        }
    }
}

#[test]
fn some_channels_and_the_sums_of_the_others_make_the_whole() {
    for isa in available() {
        let mut random = Random(6);
        for _ in 0..150 {
            let mut case = Case::new(&mut random, false, int8_wide_channels(isa));
            case.slice(&mut random);
            case.compare(isa);
        }
    }
}

#[test]
fn halves_round_to_even_and_limits_hold() {
    // All weights are 0, so y is exactly the bias; the scale is 2.
    for isa in available() {
        for narrow in [false, true] {
            let mut case = Case::new(&mut Random(2), narrow, 16);
            case.weights.fill(0);
            case.residual = (None, None);
            (case.relu, case.scale, case.output_zero) = (false, Some(2.0), 0);
            (case.output_channels, case.output_step) = (8, 8);
            case.weights.resize(8 * case.taps.len() * case.channels, 0);
            case.multiplier = vec![1.0; 16];
            case.bias = [1.0, 3.0, -1.0, -3.0, 253.0, 1e9, -257.0, -1e30].repeat(2);
            let codes = case.run(isa).codes;
            let expected = [0, 2, 0, -2, 126, 127, -128, -128];
            assert_eq!(
                codes,
                expected.repeat(case.width),
                "{isa:?}, narrow {narrow}"
            );
            case.compare(isa);
            // Halves are rounded before the zero point is added, so an odd one does not turn them.
            case.output_zero = -3;
            let expected = [-3, -1, -3, -5, 123, 127, -128, -128];
            assert_eq!(
                case.run(isa).codes,
                expected.repeat(case.width),
                "{isa:?}, narrow {narrow}"
            );
        }
    }
}

#[test]
fn extreme_values_have_defined_results() {
    let odd = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        -f32::MAX,
        1e-45,
        0.0,
        -0.0,
    ];
    for isa in available() {
        let mut random = Random(3);
        for round in 0..40 {
            let mut case = Case::new(&mut random, round % 2 == 0, int8_wide_channels(isa));
            case.multiplier
                .iter_mut()
                .for_each(|v| *v = random.pick(&odd));
            case.bias.iter_mut().for_each(|v| *v = random.pick(&odd));
            case.residual_scale = random.pick(&odd);
            case.scale = case.scale.map(|_| random.pick(&odd));
            case.compare(isa);
        }
    }
}

#[test]
fn the_largest_sums_are_exact() {
    for isa in available() {
        for (narrow, signed, weight) in [
            (false, true, -128),
            (true, true, -128),
            (false, true, 127),
            (false, false, -128),
            (true, false, -128),
            (true, false, 127),
        ] {
            let mut case = Case::new(&mut Random(4), narrow, 16);
            case.signed = signed;
            case.zero = 0;
            case.input.fill(if signed { -128 } else { 127 });
            case.weights.fill(weight);
            case.compare(isa);
            if signed {
                case.zero = 127;
                case.compare(isa);
            }
        }
    }
}

/// Whether a kernel refuses a case after `shrink` has changed it.
fn refuses(isa: Isa, narrow: bool, shrink: impl Fn(&mut Case)) -> bool {
    let mut case = Case::new(&mut Random(5), narrow, 16);
    shrink(&mut case);
    std::panic::catch_unwind(|| case.run(isa)).is_err()
}

#[test]
fn rows_beyond_their_slices_are_refused() {
    for isa in available() {
        // A kernel reads whole fragments of a pixel's 5 channels.
        for (narrow, read) in [(false, 8), (true, 32)] {
            let end = |len: usize| {
                refuses(isa, narrow, |case| {
                    (case.channels, case.taps, case.start) = (5, vec![0], 0);
                    case.input.truncate((case.width - 1) * case.step + len);
                })
            };
            assert!(!end(read) && end(read - 1));
            assert!(!refuses(isa, narrow, |_| ()));
            assert!(refuses(isa, narrow, |case| case
                .taps
                .push(-(case.start as isize) - 1)));
            let few = |values: &mut Vec<f32>, case: usize| values.truncate(case - 1);
            assert!(refuses(isa, narrow, |case| few(
                &mut case.bias,
                case.output_channels
            )));
            assert!(refuses(isa, narrow, |case| few(
                &mut case.multiplier,
                case.output_channels
            )));
        }
        assert!(refuses(isa, false, |case| {
            let beyond = case.channels.div_ceil(QUAD) + 1;
            let quads = std::iter::once(0..beyond).collect();
            case.slices = Some((quads, vec![0; 1 << 12]));
        }));
        assert!(refuses(isa, true, |case| {
            case.residual.0 = Some(vec![0.0; case.width * case.residual_step]);
        }));
    }
}
