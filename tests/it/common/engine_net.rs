//! Networks for the engine's tests. One description becomes a program of the engine, a naive reference in f64, and,
//! through `onnx_reference.py`, an ONNX file.

use std::collections::HashMap;

use centerpoint::internals::build::lower::{
    ConvSpec, ConvWeight, Direction, MaxPoolSpec, ProgramBuilder,
};
use centerpoint::internals::program::{DepthToSpaceMode, Payload, ProgramError};
use centerpoint::map::MapView;

/// A network with one input, whose constants form one block.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Net {
    /// C, H, W of the input, which is called `input`.
    pub(crate) input: [usize; 3],
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<String>,
    #[serde(skip)]
    pub(crate) constants: Vec<f32>,
}

/// A node, and its output of the same name.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) op: Op,
}

/// First index and number of values in [`Net::constants`].
type Constant = (usize, usize);

/// A convolution of either direction.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Conv {
    pub(crate) out: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) pad: [usize; 4],
    /// 0 unless the convolution is transposed.
    pub(crate) output_padding: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) groups: usize,
    pub(crate) weight: Constant,
    /// The scale of each output channel where weights are 8-bit codes.
    pub(crate) scales: Option<Constant>,
    pub(crate) bias: Option<Constant>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub(crate) enum Op {
    Conv(Conv),
    ConvTranspose(Conv),
    BatchNormalization {
        scale: Constant,
        shift: Constant,
    },
    Relu,
    Sigmoid,
    Add,
    Quantize {
        scale: f32,
        zero_point: i8,
    },
    Dequantize,
    Concat,
    DepthToSpace {
        block: usize,
        crd: bool,
    },
    MaxPool {
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 4],
    },
}

/// A linear congruential generator: the tests need variety, not quality.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// The next number in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// The next number in `from..=to`.
    pub(crate) fn range(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    /// The next number in -1..1.
    pub(crate) fn value(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

impl Net {
    pub(crate) fn new(input: [usize; 3]) -> Self {
        Self {
            input,
            ..Self::default()
        }
    }

    pub(crate) fn node(&mut self, name: &str, inputs: &[&str], op: Op) -> String {
        self.nodes.push(Node {
            name: name.to_owned(),
            inputs: inputs.iter().map(|&s| s.to_owned()).collect(),
            op,
        });
        name.to_owned()
    }

    /// Adds `n` random constants between -`scale` and `scale`.
    pub(crate) fn constant(&mut self, random: &mut Random, n: usize, scale: f32) -> Constant {
        let first = self.constants.len();
        self.constants
            .extend((0..n).map(|_| random.value() * scale));
        (first, n)
    }

    /// Adds a convolution with bias, and a Relu if `relu`. The scale of the weights preserves the variance.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn conv(
        &mut self,
        random: &mut Random,
        name: &str,
        x: &str,
        channels: usize,
        out: usize,
        k: usize,
        stride: usize,
        relu: bool,
    ) -> String {
        let scale = (6.0 / (channels * k * k) as f32).sqrt();
        let op = Op::Conv(Conv {
            out,
            kernel: [k; 2],
            stride: [stride; 2],
            pad: [k / 2; 4],
            output_padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            scales: None,
            weight: self.constant(random, out * channels * k * k, scale),
            bias: Some(self.constant(random, out, 0.1)),
        });
        let y = self.node(name, &[x], op);
        if relu {
            self.node(&format!("{name}_relu"), &[&y], Op::Relu)
        } else {
            y
        }
    }

    /// Adds a transposed convolution whose kernel equals its stride, and a Relu.
    pub(crate) fn deconv(
        &mut self,
        random: &mut Random,
        name: &str,
        x: &str,
        channels: usize,
        out: usize,
        s: usize,
    ) -> String {
        let scale = (6.0 / channels as f32).sqrt();
        let op = Op::ConvTranspose(Conv {
            out,
            kernel: [s; 2],
            stride: [s; 2],
            pad: [0; 4],
            output_padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            scales: None,
            weight: self.constant(random, out * channels * s * s, scale),
            bias: Some(self.constant(random, out, 0.1)),
        });
        let y = self.node(name, &[x], op);
        self.node(&format!("{name}_relu"), &[&y], Op::Relu)
    }

    pub(crate) fn values(&self, (first, n): Constant) -> &[f32] {
        &self.constants[first..first + n]
    }

    /// The weights of a convolution as codes. Meaningless where they are floats.
    fn codes(&self, op: &Op) -> Vec<i8> {
        match op {
            Op::Conv(conv) | Op::ConvTranspose(conv) => {
                self.values(conv.weight).iter().map(|&v| v as i8).collect()
            }
            _ => Vec::new(),
        }
    }

    fn spec<'a>(&'a self, conv: &Conv, codes: &'a [i8], direction: Direction) -> ConvSpec<'a> {
        ConvSpec {
            direction,
            out_channels: conv.out,
            kernel: conv.kernel,
            stride: conv.stride,
            pad: conv.pad,
            dilation: conv.dilation,
            groups: conv.groups,
            weight: match conv.scales {
                None => ConvWeight::F32(self.values(conv.weight)),
                Some(scales) => ConvWeight::I8 {
                    codes,
                    scales: self.values(scales),
                },
            },
            bias: conv.bias.map(|bias| self.values(bias)),
            relu: false,
        }
    }

    /// Builds the engine's payload.
    pub(crate) fn payload(&self) -> Result<Payload, ProgramError> {
        let mut builder = ProgramBuilder::new();
        let [c, h, w] = self.input;
        let mut tensors = HashMap::from([("input", builder.input("input", c, h, w)?)]);
        for node in &self.nodes {
            let name = node.name.as_str();
            let inputs: Vec<_> = node
                .inputs
                .iter()
                .map(|name| tensors[name.as_str()])
                .collect();
            let x = inputs[0];
            let codes = self.codes(&node.op);
            let y = match &node.op {
                Op::Conv(conv) => {
                    builder.conv(name, x, &self.spec(conv, &codes, Direction::Forward))?
                }
                Op::ConvTranspose(conv) => {
                    let output_padding = conv.output_padding;
                    let direction = Direction::Transposed { output_padding };
                    builder.conv(name, x, &self.spec(conv, &codes, direction))?
                }
                Op::BatchNormalization { scale, shift } => {
                    builder.affine(name, x, self.values(*scale), self.values(*shift), false)?
                }
                Op::Relu => builder.relu(name, x)?,
                Op::Sigmoid => builder.sigmoid(name, x)?,
                Op::Add => builder.add(name, x, inputs[1], false)?,
                Op::Quantize { scale, zero_point } => {
                    builder.quantize(name, x, *scale, *zero_point)?
                }
                Op::Dequantize => builder.dequantize(name, x)?,
                Op::Concat => builder.concat(name, &inputs)?,
                Op::DepthToSpace { block, crd } => {
                    let mode = if *crd {
                        DepthToSpaceMode::Crd
                    } else {
                        DepthToSpaceMode::Dcr
                    };
                    builder.depth_to_space(name, x, *block, mode)?
                }
                Op::MaxPool {
                    kernel,
                    stride,
                    pad,
                } => {
                    let spec = MaxPoolSpec {
                        kernel: *kernel,
                        stride: *stride,
                        pad: *pad,
                    };
                    builder.max_pool(name, x, &spec)?
                }
            };
            tensors.insert(name, y);
        }
        for output in &self.outputs {
            builder.output(tensors[output.as_str()], output)?;
        }
        builder.finish()
    }
}

/// The demo model's backbone, neck and heads on a map of `side` × `side` pixels: SECOND [32, 64, 128] with strides
/// of 2, SECONDFPN 3 × 32, a shared convolution, six heads.
pub(crate) fn demo(side: usize) -> Net {
    let mut random = Random(1);
    let mut net = Net::new([32, side, side]);
    let (mut x, mut channels) = ("input".to_owned(), 32);
    let mut ups = Vec::new();
    for (block, (out, up)) in [(32, 1), (64, 2), (128, 4)].into_iter().enumerate() {
        for layer in 0..4 {
            let stride = if layer == 0 { 2 } else { 1 };
            let name = format!("block{block}_{layer}");
            x = net.conv(&mut random, &name, &x, channels, out, 3, stride, true);
            channels = out;
        }
        ups.push(net.deconv(&mut random, &format!("up{block}"), &x, out, 32, up));
    }
    let ups: Vec<&str> = ups.iter().map(String::as_str).collect();
    let x = net.node("neck", &ups, Op::Concat);
    let x = net.conv(&mut random, "shared", &x, 96, 32, 3, 1, true);
    let heads = [
        ("heatmap", 5),
        ("reg", 2),
        ("height", 1),
        ("dim", 3),
        ("rot", 2),
        ("vel", 2),
    ];
    for (head, out) in heads {
        let y = net.conv(&mut random, &format!("{head}_0"), &x, 32, 32, 3, 1, true);
        net.conv(&mut random, head, &y, 32, out, 3, 1, false);
        net.outputs.push(head.to_owned());
    }
    net
}

/// Copies the values of a map in NCHW order.
pub(crate) fn dense(view: MapView<'_>) -> Vec<f32> {
    let layout = view.layout;
    let mut values = Vec::new();
    for c in 0..layout.channels {
        for y in 0..layout.height {
            values.extend((0..layout.width).map(|x| view.data[layout.index(c, y, x)]));
        }
    }
    values
}
