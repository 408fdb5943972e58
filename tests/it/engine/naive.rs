//! ONNX operators written from their definitions, in f64, with one loop per dimension.

use std::collections::HashMap;

use crate::engine_net::{Conv, Net, Op};

/// A map [C, H, W].
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub shape: [usize; 3],
    pub values: Vec<f64>,
}

impl Map {
    fn zeros(shape: [usize; 3]) -> Self {
        Self {
            shape,
            values: vec![0.0; shape.iter().product()],
        }
    }

    fn index(&self, c: usize, y: usize, x: usize) -> usize {
        (c * self.shape[1] + y) * self.shape[2] + x
    }

    /// The value, or `None` outside the map.
    fn get(&self, c: usize, y: isize, x: isize) -> Option<f64> {
        let [_, h, w] = self.shape;
        let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
        inside.then(|| self.values[self.index(c, y as usize, x as usize)])
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            shape: self.shape,
            values: self.values.iter().map(|&v| f(v)).collect(),
        }
    }
}

/// All tensors of the network, by name.
pub(super) fn run(net: &Net, input: &[f32]) -> HashMap<String, Map> {
    let values = input.iter().map(|&v| f64::from(v)).collect();
    let mut maps = HashMap::from([(
        "input".to_owned(),
        Map {
            shape: net.input,
            values,
        },
    )]);
    for node in &net.nodes {
        let inputs: Vec<&Map> = node.inputs.iter().map(|name| &maps[name]).collect();
        let y = compute(net, &node.op, &inputs);
        maps.insert(node.name.clone(), y);
    }
    maps
}

fn compute(net: &Net, op: &Op, inputs: &[&Map]) -> Map {
    let constant = |(first, n): (usize, usize)| &net.constants[first..first + n];
    let x = inputs[0];
    let [channels, h, w] = x.shape;
    match op {
        Op::Conv(Conv {
            out,
            kernel,
            stride,
            pad,
            dilation,
            groups,
            weight,
            bias,
            ..
        }) => {
            let size = |len: usize, axis: usize| {
                (len + pad[axis] + pad[axis + 2] - (kernel[axis] - 1) * dilation[axis] - 1)
                    / stride[axis]
                    + 1
            };
            let mut y = Map::zeros([*out, size(h, 0), size(w, 1)]);
            let (weight, per_in, per_out) = (constant(*weight), channels / groups, out / groups);
            for o in 0..*out {
                for i in 0..y.shape[1] {
                    for j in 0..y.shape[2] {
                        let mut sum = bias.map_or(0.0, |bias| f64::from(constant(bias)[o]));
                        for c in 0..per_in {
                            for ky in 0..kernel[0] {
                                for kx in 0..kernel[1] {
                                    let at = ((o * per_in + c) * kernel[0] + ky) * kernel[1] + kx;
                                    let row = (i * stride[0] + ky * dilation[0]) as isize;
                                    let column = (j * stride[1] + kx * dilation[1]) as isize;
                                    let (row, column) =
                                        (row - pad[0] as isize, column - pad[1] as isize);
                                    let v = x.get(o / per_out * per_in + c, row, column);
                                    sum += v.unwrap_or(0.0) * f64::from(weight[at]);
                                }
                            }
                        }
                        let at = y.index(o, i, j);
                        y.values[at] = sum;
                    }
                }
            }
            y
        }
        Op::ConvTranspose(Conv {
            out,
            kernel,
            stride,
            pad,
            output_padding,
            dilation,
            groups,
            weight,
            bias,
            ..
        }) => {
            let size = |len: usize, axis: usize| {
                (len - 1) * stride[axis]
                    + (kernel[axis] - 1) * dilation[axis]
                    + 1
                    + output_padding[axis]
                    - pad[axis]
                    - pad[axis + 2]
            };
            let mut y = Map::zeros([*out, size(h, 0), size(w, 1)]);
            let (weight, per_in, per_out) = (constant(*weight), channels / groups, out / groups);
            for o in 0..*out {
                let area = y.shape[1] * y.shape[2];
                let bias = bias.map_or(0.0, |bias| f64::from(constant(bias)[o]));
                y.values[o * area..][..area].fill(bias);
            }
            for c in 0..channels {
                for o in 0..per_out {
                    for i in 0..h * kernel[0] {
                        for j in 0..w * kernel[1] {
                            let (i, ky, j, kx) =
                                (i / kernel[0], i % kernel[0], j / kernel[1], j % kernel[1]);
                            let row = i * stride[0] + ky * dilation[0];
                            let column = j * stride[1] + kx * dilation[1];
                            if row < pad[0] || column < pad[1] {
                                continue;
                            }
                            let (row, column) = (row - pad[0], column - pad[1]);
                            if row >= y.shape[1] || column >= y.shape[2] {
                                continue;
                            }
                            let at = ((c * per_out + o) * kernel[0] + ky) * kernel[1] + kx;
                            let to = y.index(c / per_in * per_out + o, row, column);
                            y.values[to] += x.values[x.index(c, i, j)] * f64::from(weight[at]);
                        }
                    }
                }
            }
            y
        }
        Op::BatchNormalization { scale, shift } => {
            let (scale, shift) = (constant(*scale), constant(*shift));
            let mut y = x.clone();
            for (at, v) in y.values.iter_mut().enumerate() {
                let c = at / (h * w);
                *v = *v * f64::from(scale[c]) + f64::from(shift[c]);
            }
            y
        }
        Op::Relu => x.map(|v| v.max(0.0)),
        Op::Sigmoid => x.map(|v| 1.0 / (1.0 + (-v).exp())),
        Op::Add => {
            let pairs = x.values.iter().zip(&inputs[1].values);
            Map {
                shape: x.shape,
                values: pairs.map(|(a, b)| a + b).collect(),
            }
        }
        Op::Quantize { .. } | Op::Dequantize => unreachable!("see naive_int8.rs"),
        Op::Concat => Map {
            shape: [inputs.iter().map(|x| x.shape[0]).sum(), h, w],
            values: inputs
                .iter()
                .flat_map(|x| x.values.iter().copied())
                .collect(),
        },
        Op::DepthToSpace { block, crd } => {
            let out = channels / (block * block);
            let mut y = Map::zeros([out, h * block, w * block]);
            for c in 0..out {
                for i in 0..h * block {
                    for j in 0..w * block {
                        let (a, b) = (i % block, j % block);
                        let from = if *crd {
                            (c * block + a) * block + b
                        } else {
                            (a * block + b) * out + c
                        };
                        let to = y.index(c, i, j);
                        y.values[to] = x.values[x.index(from, i / block, j / block)];
                    }
                }
            }
            y
        }
        Op::MaxPool {
            kernel,
            stride,
            pad,
        } => {
            let size = |len: usize, axis: usize| {
                (len + pad[axis] + pad[axis + 2] - kernel[axis]) / stride[axis] + 1
            };
            let mut y = Map::zeros([channels, size(h, 0), size(w, 1)]);
            for c in 0..channels {
                for i in 0..y.shape[1] {
                    for j in 0..y.shape[2] {
                        let mut max = f64::NEG_INFINITY;
                        for ky in 0..kernel[0] {
                            for kx in 0..kernel[1] {
                                let row = (i * stride[0] + ky) as isize - pad[0] as isize;
                                let column = (j * stride[1] + kx) as isize - pad[1] as isize;
                                max = max.max(x.get(c, row, column).unwrap_or(max));
                            }
                        }
                        let to = y.index(c, i, j);
                        y.values[to] = max;
                    }
                }
            }
            y
        }
    }
}
