//! Builds a [`Payload`] node by node. Infers shapes and checks every attribute here, so errors name the node.
//! [`ProgramBuilder::finish`] fuses and packs (see [`crate::build::lower`]).

use crate::build::lower::spec::{
    ConvSpec, ConvWeight, Direction, MaxPoolSpec, bad, bias, check_groups, check_len, check_pads,
    check_scale, check_sizes, check_weight, windows,
};
use crate::program::ProgramError;
use crate::program::layout::{MAX_DIM, MAX_MAP};
use crate::program::{Codes, DepthToSpaceMode, Payload};

/// A feature map of the network being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(super) usize);

/// Name, size and codes of a tensor in the network being built.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// Channels, rows, columns.
    pub(super) shape: [usize; 3],
    /// What its codes mean, if the tensor holds 8-bit codes.
    pub(super) codes: Option<Codes>,
}

/// A node of the network.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) output: usize,
    pub(crate) kind: NodeKind,
}

/// A node's computation; inputs are tensor numbers.
#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Conv(ConvNode),
    Affine {
        input: usize,
        scale: Vec<f32>,
        shift: Vec<f32>,
        relu: bool,
    },
    Relu {
        input: usize,
    },
    Sigmoid {
        input: usize,
    },
    Add {
        a: usize,
        b: usize,
        relu: bool,
    },
    Concat {
        inputs: Vec<usize>,
    },
    DepthToSpace {
        input: usize,
        block: usize,
        mode: DepthToSpaceMode,
    },
    MaxPool {
        input: usize,
        spec: MaxPoolSpec,
    },
    /// The output's [`TensorInfo`] holds scale and zero point.
    Quantize {
        input: usize,
    },
    Dequantize {
        input: usize,
    },
}

/// A convolution of either direction, with the nodes fused into it.
#[derive(Clone, Debug)]
pub(crate) struct ConvNode {
    pub(crate) input: usize,
    pub(crate) residual: Option<usize>,
    pub(crate) transposed: bool,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    /// Top and left.
    pub(crate) pad: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) groups: usize,
    pub(crate) out_channels: usize,
    pub(crate) weight: Weight,
    pub(crate) bias: Vec<f32>,
    pub(crate) relu: bool,
    /// DepthToSpace after the convolution: block and mode.
    pub(crate) shuffle: Option<(usize, DepthToSpaceMode)>,
}

/// The weights of a [`ConvNode`]; see [`ConvWeight`].
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    F32(Vec<f32>),
    I8 { codes: Vec<i8>, scales: Vec<f32> },
}

impl From<ConvWeight<'_>> for Weight {
    fn from(weight: ConvWeight<'_>) -> Self {
        match weight {
            ConvWeight::F32(values) => Self::F32(values.to_vec()),
            ConvWeight::I8 { codes, scales } => Self::I8 {
                codes: codes.to_vec(),
                scales: scales.to_vec(),
            },
        }
    }
}

impl Weight {
    /// Weight `at`, which belongs to output channel `channel`.
    pub(super) fn value(&self, at: usize, channel: usize) -> f32 {
        match self {
            Self::F32(values) => values[at],
            Self::I8 { codes, scales } => f32::from(codes[at]) * scales[channel],
        }
    }
}

/// Builds the payload of a CPU plan; see the module documentation.
#[derive(Clone, Debug, Default)]
pub struct ProgramBuilder {
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) nodes: Vec<Node>,
    pub(super) input: Option<usize>,
    pub(super) outputs: Vec<(usize, String)>,
}

impl ProgramBuilder {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Channels, rows and columns of a tensor; zeros if it belongs to another builder.
    pub fn shape(&self, x: TensorId) -> [usize; 3] {
        self.tensors.get(x.0).map_or([0; 3], |map| map.shape)
    }

    /// The nodes in order of execution, as they were added.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// Name and shape `[C, H, W]` of each value.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, [usize; 3])> {
        self.tensors
            .iter()
            .map(|map| (map.name.as_str(), map.shape))
    }

    /// The number of the input's value.
    pub(crate) fn input_value(&self) -> Option<usize> {
        self.input
    }

    /// Name and value of each output.
    pub(crate) fn output_values(&self) -> impl Iterator<Item = (&str, usize)> {
        self.outputs
            .iter()
            .map(|(value, name)| (name.as_str(), *value))
    }

    /// The name of a value.
    pub(crate) fn name(&self, value: usize) -> &str {
        self.tensors.get(value).map_or("", |map| &map.name)
    }

    /// The shape `[C, H, W]` of a value.
    pub(crate) fn size(&self, value: usize) -> [usize; 3] {
        self.tensors.get(value).map_or([0; 3], |map| map.shape)
    }

    /// The meaning of a value's codes, if it holds codes.
    pub(crate) fn codes(&self, value: usize) -> Option<Codes> {
        self.tensors.get(value).and_then(|map| map.codes)
    }

    /// Adds the network's only input, [1, C, H, W].
    pub fn input(
        &mut self,
        name: &str,
        channels: usize,
        height: usize,
        width: usize,
    ) -> Result<TensorId, ProgramError> {
        if self.input.is_some() {
            return Err(bad(name, "number of network inputs", 1, 2));
        }
        let id = self.tensor(name, [channels, height, width])?;
        self.input = Some(id);
        Ok(TensorId(id))
    }

    /// Adds a convolution (ONNX Conv) or a transposed one (ONNX ConvTranspose).
    pub fn conv(
        &mut self,
        name: &str,
        x: TensorId,
        spec: &ConvSpec<'_>,
    ) -> Result<TensorId, ProgramError> {
        let [channels, height, width] = self.check(name, x)?;
        check_sizes(name, "kernel", &spec.kernel)?;
        check_sizes(name, "stride", &spec.stride)?;
        check_sizes(name, "dilation", &spec.dilation)?;
        check_pads(name, "pads", &spec.pad)?;
        if let Direction::Transposed { output_padding } = &spec.direction {
            check_pads(name, "output_padding", output_padding)?;
        }
        check_groups(name, spec.groups, channels, spec.out_channels)?;
        let taps = spec.kernel[0] * spec.kernel[1];
        let len = (channels / spec.groups * taps).checked_mul(spec.out_channels);
        check_weight(name, spec.weight, spec.out_channels, len)?;
        let [top, left, bottom, right] = spec.pad;
        let size = |axis: usize, len: usize, pad: usize| {
            let (kernel, stride) = (spec.kernel[axis], spec.stride[axis]);
            let dilation = spec.dilation[axis];
            match spec.direction {
                Direction::Forward => windows(len, pad, kernel, dilation, stride),
                Direction::Transposed { output_padding } => {
                    let full = (len - 1) * stride + (kernel - 1) * dilation + 1;
                    (full + output_padding[axis]).saturating_sub(pad)
                }
            }
        };
        let shape = [
            spec.out_channels,
            size(0, height, top + bottom),
            size(1, width, left + right),
        ];
        let node = ConvNode {
            input: x.0,
            residual: None,
            transposed: spec.direction != Direction::Forward,
            kernel: spec.kernel,
            stride: spec.stride,
            pad: [top, left],
            dilation: spec.dilation,
            groups: spec.groups,
            out_channels: spec.out_channels,
            weight: spec.weight.into(),
            bias: bias(name, spec.bias, spec.out_channels)?,
            relu: spec.relu,
            shuffle: None,
        };
        self.node(name, shape, NodeKind::Conv(node))
    }

    /// Adds `x · scale[c] + shift[c]`: a BatchNormalization that cannot be folded into a convolution.
    pub fn affine(
        &mut self,
        name: &str,
        x: TensorId,
        scale: &[f32],
        shift: &[f32],
        relu: bool,
    ) -> Result<TensorId, ProgramError> {
        let shape = self.check(name, x)?;
        check_len(name, "scale", scale, Some(shape[0]))?;
        check_len(name, "shift", shift, Some(shape[0]))?;
        let (scale, shift) = (scale.to_vec(), shift.to_vec());
        self.node(
            name,
            shape,
            NodeKind::Affine {
                input: x.0,
                scale,
                shift,
                relu,
            },
        )
    }

    /// Adds `max(x, 0)` (ONNX Relu).
    pub fn relu(&mut self, name: &str, x: TensorId) -> Result<TensorId, ProgramError> {
        let shape = self.check(name, x)?;
        self.node(name, shape, NodeKind::Relu { input: x.0 })
    }

    /// Adds `1 / (1 + exp(-x))` (ONNX Sigmoid).
    pub fn sigmoid(&mut self, name: &str, x: TensorId) -> Result<TensorId, ProgramError> {
        let shape = self.check(name, x)?;
        self.node(name, shape, NodeKind::Sigmoid { input: x.0 })
    }

    /// Adds `a + b` of equal shapes (ONNX Add).
    pub fn add(
        &mut self,
        name: &str,
        a: TensorId,
        b: TensorId,
        relu: bool,
    ) -> Result<TensorId, ProgramError> {
        let shape = self.check(name, a)?;
        let other = self.check(name, b)?;
        if other != shape {
            return Err(bad(
                name,
                "shape of the second input",
                format!("{shape:?}"),
                other,
            ));
        }
        self.node(
            name,
            shape,
            NodeKind::Add {
                a: a.0,
                b: b.0,
                relu,
            },
        )
    }

    /// Concatenates the channels of `inputs` (ONNX Concat, axis 1).
    pub fn concat(&mut self, name: &str, inputs: &[TensorId]) -> Result<TensorId, ProgramError> {
        let Some((&first, rest)) = inputs.split_first() else {
            return Err(bad(name, "number of inputs", "at least 1", 0));
        };
        let mut shape = self.check(name, first)?;
        for &x in rest {
            let other = self.check(name, x)?;
            if other[1..] != shape[1..] {
                let expected = format!("{:?}", &shape[1..]);
                return Err(bad(
                    name,
                    "rows and columns of the inputs",
                    expected,
                    &other[1..],
                ));
            }
            shape[0] = shape[0].saturating_add(other[0]);
        }
        let inputs = inputs.iter().map(|x| x.0).collect();
        self.node(name, shape, NodeKind::Concat { inputs })
    }

    /// Rearranges channels into pixels (ONNX DepthToSpace).
    pub fn depth_to_space(
        &mut self,
        name: &str,
        x: TensorId,
        block: usize,
        mode: DepthToSpaceMode,
    ) -> Result<TensorId, ProgramError> {
        let [channels, height, width] = self.check(name, x)?;
        check_sizes(name, "blocksize", &[block])?;
        let area = block * block;
        if !channels.is_multiple_of(area) {
            return Err(bad(
                name,
                "number of channels",
                format!("a multiple of {area}"),
                channels,
            ));
        }
        let shape = [channels / area, height * block, width * block];
        self.node(
            name,
            shape,
            NodeKind::DepthToSpace {
                input: x.0,
                block,
                mode,
            },
        )
    }

    /// Adds a maximum over windows (ONNX MaxPool).
    pub fn max_pool(
        &mut self,
        name: &str,
        x: TensorId,
        spec: &MaxPoolSpec,
    ) -> Result<TensorId, ProgramError> {
        let [channels, height, width] = self.check(name, x)?;
        check_sizes(name, "kernel", &spec.kernel)?;
        check_sizes(name, "stride", &spec.stride)?;
        let [top, left, bottom, right] = spec.pad;
        let [rows, columns] = spec.kernel;
        if top >= rows || bottom >= rows || left >= columns || right >= columns {
            return Err(bad(name, "pads", "less than the kernel", spec.pad));
        }
        let size =
            |axis: usize, len, pad| windows(len, pad, spec.kernel[axis], 1, spec.stride[axis]);
        let shape = [
            channels,
            size(0, height, top + bottom),
            size(1, width, left + right),
        ];
        self.node(
            name,
            shape,
            NodeKind::MaxPool {
                input: x.0,
                spec: *spec,
            },
        )
    }

    /// Converts `x` to 8-bit codes: `x / scale` rounded half to even, plus the zero point, in -128..=127 (ONNX QuantizeLinear
    /// to int8). Only [`ProgramBuilder::dequantize`] accepts the result.
    pub fn quantize(
        &mut self,
        name: &str,
        x: TensorId,
        scale: f32,
        zero_point: i8,
    ) -> Result<TensorId, ProgramError> {
        let shape = self.check(name, x)?;
        check_scale(name, scale)?;
        let id = self.node(name, shape, NodeKind::Quantize { input: x.0 })?;
        self.tensors[id.0].codes = Some(Codes {
            scale,
            zero: zero_point,
        });
        Ok(id)
    }

    /// Converts codes to values: `(code - zero point) · scale` (ONNX DequantizeLinear).
    pub fn dequantize(&mut self, name: &str, x: TensorId) -> Result<TensorId, ProgramError> {
        let map = self.tensors.get(x.0).filter(|map| map.codes.is_some());
        let shape = map
            .map(|map| map.shape)
            .ok_or_else(|| bad(name, "input", "codes from `quantize`", x))?;
        self.node(name, shape, NodeKind::Dequantize { input: x.0 })
    }

    /// Sets the name under which observers see a tensor. The default is its node's name.
    pub fn name_tensor(&mut self, x: TensorId, name: &str) {
        if let Some(map) = self.tensors.get_mut(x.0) {
            name.clone_into(&mut map.name);
        }
    }

    /// Makes `x` the network output `name`.
    pub fn output(&mut self, x: TensorId, name: &str) -> Result<(), ProgramError> {
        self.check(name, x)?;
        self.outputs.push((x.0, name.to_owned()));
        Ok(())
    }

    /// Fuses nodes, packs the weights and returns the payload.
    pub fn finish(self) -> Result<Payload, ProgramError> {
        crate::build::lower::lower(self)
    }

    /// The shape of `x`, or an error that `node` has an invalid input.
    fn check(&self, node: &str, x: TensorId) -> Result<[usize; 3], ProgramError> {
        let map = self.tensors.get(x.0);
        map.filter(|map| map.codes.is_none())
            .map(|map| map.shape)
            .ok_or_else(|| bad(node, "input", "an f32 tensor of this builder", x))
    }

    /// Adds a tensor.
    fn tensor(&mut self, name: &str, shape: [usize; 3]) -> Result<usize, ProgramError> {
        let [channels, height, width] = shape;
        // Checking each size first keeps the product within 64 bits.
        let fits = shape.iter().all(|&d| (1..=MAX_DIM).contains(&d))
            && (channels as u64) * (height as u64) * (width as u64) <= MAX_MAP as u64;
        if !fits {
            let expected = format!("sizes of 1 to {MAX_DIM} with a product of at most {MAX_MAP}");
            return Err(bad(name, "shape of the output", expected, shape));
        }
        self.tensors.push(TensorInfo {
            name: name.to_owned(),
            shape,
            codes: None,
        });
        Ok(self.tensors.len() - 1)
    }

    /// Adds a node and its output tensor.
    fn node(
        &mut self,
        name: &str,
        shape: [usize; 3],
        kind: NodeKind,
    ) -> Result<TensorId, ProgramError> {
        let output = self.tensor(name, shape)?;
        self.nodes.push(Node {
            name: name.to_owned(),
            output,
            kind,
        });
        Ok(TensorId(output))
    }
}
