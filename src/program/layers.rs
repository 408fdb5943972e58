//! Lists a program's operators for users: names, kinds, shapes, arithmetic.

use crate::program::{Conv, OpKind, Program};

/// One operator of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramLayer {
    /// Name of the node in the network.
    pub name: String,
    /// Kind, including fused operators, such as `INT8 Conv 3x3 s2 + ReLU`.
    pub kind: String,
    /// The tensors read.
    pub inputs: Vec<ProgramTensor>,
    /// The tensor written.
    pub output: ProgramTensor,
    /// Multiply-adds of convolutions, excluding padding of channels.
    pub macs: u64,
    /// Bytes of constants, as stored.
    pub weight_bytes: u64,
    /// Bits of a weight of codes; `None` if there are none.
    pub weight_bits: Option<u8>,
}

/// A tensor that an operator reads or writes.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramTensor {
    /// Its name in the network.
    pub name: String,
    /// Channels, rows, columns.
    pub shape: [usize; 3],
    /// The value of a step of 1, if the tensor holds 8-bit codes.
    pub scale: Option<f32>,
    /// The code of the value 0; 0 if the tensor holds f32.
    pub zero_point: i8,
}

impl Program {
    /// The operators in execution order. The program must be valid ([`Program::validate`]); operators with indices out of
    /// range are omitted.
    pub fn layers(&self) -> Vec<ProgramLayer> {
        let describe = |index: usize| {
            let tensor = self.tensors.get(index)?;
            Some(ProgramTensor {
                name: tensor.name.clone(),
                shape: [tensor.channels, tensor.height, tensor.width],
                scale: tensor.scale,
                zero_point: tensor.zero_point,
            })
        };
        let layer = |op: &crate::program::Op| {
            let output = describe(op.output)?;
            let inputs = op.inputs().map(describe).collect::<Option<Vec<_>>>()?;
            let (macs, weight_bytes) = match &op.kind {
                OpKind::Conv(conv) => cost(conv, inputs.first()?.shape, output.shape),
                OpKind::Affine { scale, shift, .. } => (0, scale.len as u64 + shift.len as u64),
                _ => (0, 0),
            };
            let kind = kind(&op.kind);
            let weight_bits = match &op.kind {
                OpKind::Conv(conv) if conv.layout.is_integer() => Some(conv.weight_bits),
                _ => None,
            };
            Some(ProgramLayer {
                name: op.name.clone(),
                kind,
                inputs,
                output,
                macs,
                weight_bytes,
                weight_bits,
            })
        };
        self.ops.iter().filter_map(layer).collect()
    }
}

/// Multiply-adds, and bytes of weights, multipliers and biases.
fn cost(conv: &Conv, input: [usize; 3], output: [usize; 3]) -> (u64, u64) {
    let steps = |axis: usize| output[axis + 1].div_ceil(conv.up[axis].max(1)) as u64;
    let per_tap = steps(0)
        .saturating_mul(steps(1))
        .saturating_mul(output[0] as u64)
        .saturating_mul((input[0] / conv.groups.max(1)) as u64);
    let taps: u64 = conv
        .phases
        .iter()
        .map(|phase| phase.taps.len() as u64)
        .sum();
    let bytes = conv
        .phases
        .iter()
        .map(|phase| {
            let multiplier = phase.multiplier.map_or(0, |section| section.len);
            phase.weights.len as u64 + phase.bias.len as u64 + multiplier as u64
        })
        .sum();
    (per_tap.saturating_mul(taps), bytes)
}

/// The kind as text.
fn kind(kind: &OpKind) -> String {
    let with_relu = |text: String, relu: bool| if relu { text + " + ReLU" } else { text };
    match kind {
        OpKind::Conv(conv) => {
            let pair = |[a, b]: [usize; 2]| {
                if a == b {
                    a.to_string()
                } else {
                    format!("{a}x{b}")
                }
            };
            let precision = if conv.layout.is_integer() {
                "INT8 "
            } else {
                ""
            };
            let mut text = format!("{precision}Conv {}x{}", conv.kernel[0], conv.kernel[1]);
            if conv.stride != [1, 1] {
                text += &format!(" s{}", pair(conv.stride));
            }
            if conv.up != [1, 1] {
                text += &format!(" up{}", pair(conv.up));
            }
            if conv.groups != 1 {
                text += &format!(" g{}", conv.groups);
            }
            if conv.residual.is_some() {
                text += " + Add";
            }
            with_relu(text, conv.relu)
        }
        OpKind::Affine { relu, .. } => with_relu("Affine".to_owned(), *relu),
        OpKind::Add { relu, .. } => with_relu("Add".to_owned(), *relu),
        OpKind::Relu { .. } => "ReLU".to_owned(),
        OpKind::Sigmoid { .. } => "Sigmoid".to_owned(),
        OpKind::DepthToSpace { block: 1, .. } => "Copy".to_owned(),
        OpKind::DepthToSpace { block, .. } => format!("DepthToSpace {block}"),
        OpKind::Quantize { .. } => "Quantize".to_owned(),
        OpKind::Dequantize { .. } => "Dequantize".to_owned(),
        OpKind::MaxPool { kernel, .. } => format!("MaxPool {}x{}", kernel[0], kernel[1]),
    }
}
