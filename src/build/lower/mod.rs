//! Lowers a checked network to the payload: decides which convolutions compute with codes, fuses operators that are free
//! inside a convolution, decides which tensors are slices of a Concat, splits convolutions into phases and packs their
//! weights.
//!
//! A convolution absorbs a following Add (the other operand becomes its residual), Relu and DepthToSpace (which permutes
//! output channels at build time), and a convolution of codes also a following Quantize. The inputs of a Concat are
//! written in place. A convolution whose codes all fit into 4 bits is stored with two codes a byte. Sibling convolutions of equal geometry are *not* merged: one with 32 output channels already runs
//! near the processor's peak, and merged ones would keep all their outputs alive at once.

mod builder;
mod codes;
mod fuse;
mod pack;
mod spec;

pub use builder::ProgramBuilder;
pub(crate) use builder::{Node as NetworkNode, NodeKind, TensorId, Weight};
pub(crate) use fuse::readers;
pub use spec::{ConvSpec, ConvWeight, Direction, MaxPoolSpec};

use std::collections::HashMap;

use self::builder::{ConvNode, Node};
use crate::build::lower::pack::{Blob, Order};
use crate::program::ProgramError;
use crate::program::layout::LANES;
use crate::program::{
    Conv, DepthToSpaceMode, Op, OpKind, Output, Payload, Phase, Program, SliceOf, Tensor,
    WeightLayout, bits_of, pack,
};

/// Most output channels for which lanes over input channels are faster than padding the output channels to 16.
pub(in crate::build) const MAX_NARROW_CHANNELS: usize = 8;

/// Fuses, plans the slices and packs the weights.
pub(super) fn lower(mut network: ProgramBuilder) -> Result<Payload, ProgramError> {
    let Some(input) = network.input else {
        let what = "the network has no input".to_owned();
        return Err(ProgramError::Payload { what });
    };
    if network.outputs.is_empty() {
        let what = "the network has no output".to_owned();
        return Err(ProgramError::Payload { what });
    }
    codes::place(&mut network, input);
    fuse::fuse(&mut network);
    fuse::drop_unread(&mut network);
    let input = codes::input(&mut network, input);
    let slices = fuse::plan_slices(&network.nodes, &network.tensors, input);

    let mut lowering = Lowering {
        network_tensors: &network.tensors,
        slices: &slices,
        numbers: HashMap::new(),
        tensors: Vec::new(),
        ops: Vec::new(),
        blob: Blob::default(),
    };
    let input = lowering.tensor(input);
    for node in network.nodes {
        lowering.node(node);
    }
    let mut outputs = Vec::new();
    for (tensor, name) in &network.outputs {
        let tensor = lowering.tensor(*tensor);
        outputs.push(Output {
            name: name.clone(),
            tensor,
        });
    }
    let Lowering {
        tensors, ops, blob, ..
    } = lowering;
    Ok(Payload {
        program: Program {
            tensors,
            input,
            outputs,
            ops,
        },
        weights: blob.bytes,
    })
}

/// The payload under construction.
struct Lowering<'a> {
    network_tensors: &'a [crate::build::lower::builder::TensorInfo],
    slices: &'a HashMap<usize, SliceOf>,
    /// Maps the network's tensor numbers to the program's.
    numbers: HashMap<usize, usize>,
    tensors: Vec<Tensor>,
    ops: Vec<Op>,
    blob: Blob,
}

impl Lowering<'_> {
    /// The program's number of a network tensor. Adds the tensor on first use.
    fn tensor(&mut self, number: usize) -> usize {
        if let Some(&known) = self.numbers.get(&number) {
            return known;
        }
        let slice_of = self.slices.get(&number).map(|slice| SliceOf {
            tensor: self.tensor(slice.tensor),
            channel: slice.channel,
        });
        let map = &self.network_tensors[number];
        let [channels, height, width] = map.shape;
        self.tensors.push(Tensor {
            name: map.name.clone(),
            channels,
            height,
            width,
            slice_of,
            scale: map.codes.map(|codes| codes.scale),
            zero_point: map.codes.map_or(0, |codes| codes.zero),
        });
        self.numbers.insert(number, self.tensors.len() - 1);
        self.tensors.len() - 1
    }

    /// Adds the operators of a node.
    fn node(&mut self, node: Node) {
        let Node {
            name,
            output: number,
            kind,
        } = node;
        let output = self.tensor(number);
        let kind = match kind {
            NodeKind::Conv(conv) => OpKind::Conv(self.conv(&conv)),
            NodeKind::Affine {
                input,
                scale,
                shift,
                relu,
            } => OpKind::Affine {
                input: self.tensor(input),
                scale: self.blob.push(&scale),
                shift: self.blob.push(&shift),
                relu,
            },
            NodeKind::Relu { input } => OpKind::Relu {
                input: self.tensor(input),
            },
            NodeKind::Sigmoid { input } => OpKind::Sigmoid {
                input: self.tensor(input),
            },
            NodeKind::Add { a, b, relu } => OpKind::Add {
                a: self.tensor(a),
                b: self.tensor(b),
                relu,
            },
            NodeKind::DepthToSpace { input, block, mode } => OpKind::DepthToSpace {
                input: self.tensor(input),
                block,
                mode,
            },
            NodeKind::MaxPool { input, spec } => OpKind::MaxPool {
                input: self.tensor(input),
                kernel: spec.kernel,
                stride: spec.stride,
                pad: [spec.pad[0], spec.pad[1]],
            },
            NodeKind::Quantize { input } => OpKind::Quantize {
                input: self.tensor(input),
            },
            NodeKind::Dequantize { input } => OpKind::Dequantize {
                input: self.tensor(input),
            },
            NodeKind::Concat { inputs } => return self.concat(&name, number, &inputs),
        };
        self.ops.push(Op { name, output, kind });
    }

    /// Copies the inputs of a Concat that cannot be written in place.
    fn concat(&mut self, name: &str, number: usize, inputs: &[usize]) {
        let whole = self.tensor(number);
        let mut channel = 0;
        for &part in inputs {
            let slice = SliceOf {
                tensor: number,
                channel,
            };
            let input = self.tensor(part);
            let channels = self.tensors[input].channels;
            if self.slices.get(&part) != Some(&slice) {
                let copy = Tensor {
                    name: String::new(),
                    slice_of: Some(SliceOf {
                        tensor: whole,
                        channel,
                    }),
                    ..self.tensors[input].clone()
                };
                self.tensors.push(copy);
                self.ops.push(Op {
                    name: name.to_owned(),
                    output: self.tensors.len() - 1,
                    kind: OpKind::DepthToSpace {
                        input,
                        block: 1,
                        mode: DepthToSpaceMode::Dcr,
                    },
                });
            }
            channel += channels;
        }
    }

    /// Splits a convolution into phases and packs their weights.
    fn conv(&mut self, conv: &ConvNode) -> Conv {
        let input = self.tensor(conv.input);
        let residual = conv.residual.map(|tensor| self.tensor(tensor));
        let (stride, up) = match (conv.transposed, conv.shuffle) {
            (true, _) => ([1, 1], conv.stride),
            (false, Some((block, _))) => (conv.stride, [block, block]),
            (false, None) => (conv.stride, [1, 1]),
        };
        let channels = self.tensors[input].channels;
        let out_channels = match conv.shuffle {
            Some((block, _)) => conv.out_channels / (block * block),
            None => conv.out_channels,
        };
        let scale = self.tensors[input].scale;
        let narrow = out_channels <= MAX_NARROW_CHANNELS && conv.groups == 1 && residual.is_none();
        let layout = match (scale, narrow && channels.is_multiple_of(LANES)) {
            (None, true) => WeightLayout::Narrow,
            (None, false) => WeightLayout::Wide,
            (Some(_), true) => WeightLayout::NarrowQuad,
            (Some(_), false) => WeightLayout::Quad,
        };

        let weight_bits = match (&conv.weight, scale) {
            (Weight::I8 { codes, .. }, Some(_)) => bits_of(codes),
            _ => 8,
        };
        let mut phases = Vec::new();
        for a in 0..up[0] {
            for b in 0..up[1] {
                let taps = taps(conv, [a, b]);
                // The convolution's own channel for channel `c` of the shuffled output.
                let channel = |c: usize| match conv.shuffle {
                    None => c,
                    Some((block, DepthToSpaceMode::Dcr)) => (a * block + b) * out_channels + c,
                    Some((block, DepthToSpaceMode::Crd)) => (c * block + a) * block + b,
                };
                let order = Order {
                    conv,
                    layout,
                    channels,
                    out_channels,
                    taps: &taps,
                };
                let (weights, multiplier, bias) = match (&conv.weight, scale) {
                    (Weight::I8 { codes, scales }, Some(scale)) => {
                        let packed = order.pack_codes((codes, scales), scale, channel);
                        let weights = match weight_bits {
                            4 => pack(&packed.weights),
                            _ => packed.weights,
                        };
                        (
                            self.blob.push_codes(&weights),
                            Some(self.blob.push(&packed.multiplier)),
                            packed.bias,
                        )
                    }
                    _ => {
                        let (weights, bias) = order.pack(channel);
                        (self.blob.push(&weights), None, bias)
                    }
                };
                phases.push(Phase {
                    taps: taps.iter().map(|tap| tap.offset).collect(),
                    weights,
                    multiplier,
                    bias: self.blob.push(&bias),
                });
            }
        }
        Conv {
            input,
            residual,
            kernel: conv.kernel,
            stride,
            up,
            groups: conv.groups,
            relu: conv.relu,
            layout,
            weight_bits,
            phases,
        }
    }
}

/// One kernel element that contributes to a phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    /// Offset (dy, dx) of the input pixel.
    pub(super) offset: [i32; 2],
    /// Row and column in the node's kernel.
    pub(super) at: [usize; 2],
}

/// The taps of phase (a, b), in the order of the kernel's rows and columns.
fn taps(conv: &ConvNode, phase: [usize; 2]) -> Vec<Tap> {
    // Sizes are at most 64 and their products at most 4096, so i32 holds all of this.
    let offset = |axis: usize, k: usize| -> Option<i32> {
        let (reach, pad) = ((k * conv.dilation[axis]) as i32, conv.pad[axis] as i32);
        if !conv.transposed {
            return Some(reach - pad);
        }
        let stride = conv.stride[axis] as i32;
        let distance = phase[axis] as i32 + pad - reach;
        (distance.rem_euclid(stride) == 0).then(|| distance.div_euclid(stride))
    };
    let mut taps = Vec::new();
    for ky in 0..conv.kernel[0] {
        for kx in 0..conv.kernel[1] {
            if let (Some(dy), Some(dx)) = (offset(0, ky), offset(1, kx)) {
                taps.push(Tap {
                    offset: [dy, dx],
                    at: [ky, kx],
                });
            }
        }
    }
    taps
}
