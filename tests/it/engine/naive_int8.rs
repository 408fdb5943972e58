//! Networks with QuantizeLinear and DequantizeLinear, computed node by node without fusion as defined in
//! `spec`: the engine must return exactly these bytes.
//!
//! A convolution of codes with codes is an exact sum, then `sum · (s_x · s_w)` and `+ bias` in f32. A
//! convolution in f32 is one chain of fused multiply-adds that starts with the bias, tap by tap and channel by
//! channel, as documented for the engine with more than eight output channels.

use crate::engine_net::{Conv, Net, Op};

/// A map [C, H, W] of values or of codes.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub shape: [usize; 3],
    /// The values, or the codes.
    pub values: Vec<f32>,
    /// Scale of the codes that `values` are, or were before a Dequantize.
    pub scale: Option<f32>,
    /// Their zero point.
    pub zero_point: i8,
}

impl Map {
    pub(super) fn new(shape: [usize; 3], values: Vec<f32>) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        Self {
            shape,
            values,
            scale: None,
            zero_point: 0,
        }
    }

    /// Creates a map from a function of (c, y, x).
    fn from_fn(shape: [usize; 3], mut f: impl FnMut(usize, usize, usize) -> f32) -> Self {
        let [channels, h, w] = shape;
        let mut values = Vec::new();
        for c in 0..channels {
            for y in 0..h {
                values.extend((0..w).map(|x| f(c, y, x)));
            }
        }
        Self::new(shape, values)
    }

    /// The value at (c, y, x), or `None` outside the map.
    fn get(&self, c: usize, y: isize, x: isize) -> Option<f32> {
        let [_, h, w] = self.shape;
        let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
        inside.then(|| self.values[(c * h + y as usize) * w + x as usize])
    }

    fn map(&self, f: impl Fn(f32) -> f32) -> Self {
        Self::new(self.shape, self.values.iter().map(|&v| f(v)).collect())
    }
}

/// QuantizeLinear to int8.
fn code(value: f32, scale: f32, zero_point: i8) -> f32 {
    if value.is_nan() {
        return 0.0;
    }
    let ratio = f64::from(value / scale);
    let (floor, part) = (ratio.floor(), ratio - ratio.floor());
    let up = part > 0.5 || (part == 0.5 && floor % 2.0 != 0.0);
    let code = floor + if up { 1.0 } else { 0.0 } + f64::from(zero_point);
    code.clamp(-128.0, 127.0) as f32
}

/// The output of a node.
pub(super) fn compute(net: &Net, op: &Op, inputs: &[&Map]) -> Map {
    let x = inputs[0];
    let [channels, h, w] = x.shape;
    match op {
        Op::Conv(spec) => conv(net, spec, false, x),
        Op::ConvTranspose(spec) => conv(net, spec, true, x),
        Op::Quantize { scale, zero_point } => Map {
            scale: Some(*scale),
            zero_point: *zero_point,
            ..x.map(|v| code(v, *scale, *zero_point))
        },
        Op::Dequantize => Map {
            scale: x.scale,
            zero_point: x.zero_point,
            ..x.map(|code| (code - f32::from(x.zero_point)) * x.scale.unwrap())
        },
        Op::Relu => x.map(|v| if v > 0.0 { v } else { 0.0 }),
        Op::Sigmoid => x.map(|v| 1.0 / (1.0 + (-v).exp())),
        Op::Add => Map::new(
            x.shape,
            x.values
                .iter()
                .zip(&inputs[1].values)
                .map(|(a, b)| a + b)
                .collect(),
        ),
        Op::Concat => Map::new(
            [inputs.iter().map(|x| x.shape[0]).sum(), h, w],
            inputs
                .iter()
                .flat_map(|x| x.values.iter().copied())
                .collect(),
        ),
        Op::DepthToSpace { block, crd } => {
            let out = channels / (block * block);
            Map::from_fn([out, h * block, w * block], |c, y, x_| {
                let (a, b) = (y % block, x_ % block);
                let from = if *crd {
                    (c * block + a) * block + b
                } else {
                    (a * block + b) * out + c
                };
                x.get(from, (y / block) as isize, (x_ / block) as isize)
                    .unwrap()
            })
        }
        Op::MaxPool {
            kernel,
            stride,
            pad,
        } => {
            let size = |len: usize, axis: usize| {
                (len + pad[axis] + pad[axis + 2] - kernel[axis]) / stride[axis] + 1
            };
            Map::from_fn([channels, size(h, 0), size(w, 1)], |c, y, x_| {
                let mut max = f32::NEG_INFINITY;
                for ky in 0..kernel[0] {
                    for kx in 0..kernel[1] {
                        let row = (y * stride[0] + ky) as isize - pad[0] as isize;
                        let column = (x_ * stride[1] + kx) as isize - pad[1] as isize;
                        max = max.max(x.get(c, row, column).unwrap_or(max));
                    }
                }
                max
            })
        }
        Op::BatchNormalization { .. } => unreachable!("not in these networks"),
    }
}

/// A convolution, transposed or not; in integers if input and weights are codes.
fn conv(net: &Net, spec: &Conv, transposed: bool, x: &Map) -> Map {
    let Conv {
        out,
        kernel,
        stride,
        pad,
        output_padding: extra,
        dilation,
        groups,
        weight,
        scales,
        bias,
    } = spec.clone();
    let [channels, h, w] = x.shape;
    let (per_in, per_out) = (channels / groups, out / groups);
    let weight = net.values(weight);
    let size = |len: usize, axis: usize| {
        let reach = (kernel[axis] - 1) * dilation[axis] + 1;
        let pad = pad[axis] + pad[axis + 2];
        if transposed {
            (len - 1) * stride[axis] + reach + extra[axis] - pad
        } else {
            (len + pad - reach) / stride[axis] + 1
        }
    };
    // The input row or column under element k of the kernel.
    let source = |at: usize, k: usize, axis: usize| -> Option<isize> {
        let (at, reach) = (at as isize, (k * dilation[axis]) as isize);
        let (pad, stride) = (pad[axis] as isize, stride[axis] as isize);
        if !transposed {
            return Some(at * stride + reach - pad);
        }
        let distance = at + pad - reach;
        (distance.rem_euclid(stride) == 0).then(|| distance.div_euclid(stride))
    };
    let integer = match (x.scale, scales) {
        (Some(s), Some(scales)) => Some((s, net.values(scales))),
        _ => None,
    };
    Map::from_fn([out, size(h, 0), size(w, 1)], |o, i, j| {
        let bias = bias.map_or(0.0, |bias| net.values(bias)[o]);
        let (mut sum, mut value) = (0i64, bias);
        for ky in 0..kernel[0] {
            for kx in 0..kernel[1] {
                let (Some(row), Some(column)) = (source(i, ky, 0), source(j, kx, 1)) else {
                    continue;
                };
                for c in 0..per_in {
                    let input = o / per_out * per_in + c;
                    let at = if transposed {
                        input * per_out + o % per_out
                    } else {
                        o * per_in + c
                    };
                    let weight = weight[(at * kernel[0] + ky) * kernel[1] + kx];
                    let x_value = x.get(input, row, column).unwrap_or(0.0);
                    match (integer, scales) {
                        (Some((scale, _)), _) => {
                            sum += (x_value / scale).round() as i64 * weight as i64;
                        }
                        (None, Some(scales)) => {
                            value = x_value.mul_add(weight * net.values(scales)[o], value);
                        }
                        (None, None) => value = x_value.mul_add(weight, value),
                    }
                }
            }
        }
        match integer {
            Some((s_x, s_w)) => {
                let product = sum as f32 * (s_x * s_w[o]);
                product + bias
            }
            None => value,
        }
    })
}
