//! What a program consists of, for people: names, kinds, shapes, arithmetic.

use super::program::{Conv, OpKind, Program, Tensor};

/// One operator of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Name of the node in the network.
    pub name: String,
    /// Kind with what was fused into it, such as `Conv 3x3 s2 + ReLU`.
    pub kind: String,
    /// Name and shape [C, H, W] of each tensor read.
    pub inputs: Vec<(String, [usize; 3])>,
    /// Name and shape [C, H, W] of the tensor written.
    pub output: (String, [usize; 3]),
    /// Multiply-adds of convolutions; padding of channels is not counted.
    pub macs: u64,
    /// Bytes of constants, as stored.
    pub weight_bytes: u64,
}

impl Program {
    /// The operators in the order of execution. The program must be valid ([`Program::validate`]);
    /// operators with indices out of range are left out.
    pub fn layers(&self) -> Vec<Layer> {
        let describe = |index: usize| {
            let tensor = self.tensors.get(index)?;
            Some((tensor.name.clone(), shape(tensor)))
        };
        let layer = |op: &super::program::Op| {
            let output = describe(op.output)?;
            let inputs = op.inputs().map(describe).collect::<Option<Vec<_>>>()?;
            let (macs, weight_bytes) = match &op.kind {
                OpKind::Conv(conv) => cost(conv, inputs.first()?.1, output.1),
                OpKind::Affine { scale, shift, .. } => (0, scale.len as u64 + shift.len as u64),
                _ => (0, 0),
            };
            let kind = kind(&op.kind);
            Some(Layer {
                name: op.name.clone(),
                kind,
                inputs,
                output,
                macs,
                weight_bytes,
            })
        };
        self.ops.iter().filter_map(layer).collect()
    }
}

fn shape(tensor: &Tensor) -> [usize; 3] {
    [tensor.channels, tensor.height, tensor.width]
}

/// Multiply-adds and bytes of weights and bias.
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
        .map(|phase| (phase.weights.len + phase.bias.len) as u64)
        .sum();
    (per_tap.saturating_mul(taps), bytes)
}

/// The kind in words.
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
            let mut text = format!("Conv {}x{}", conv.kernel[0], conv.kernel[1]);
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
