//! The payload of a CPU plan: a list of operators over feature maps, and one blob of packed weights.
//!
//! [`crate::build::lower::ProgramBuilder`] builds it and [`crate::engine::cpu::CpuEngine`] runs it. The program is stored
//! as JSON. The blob is used in place, so it holds the weights in the kernels' order (see [`layout`]), in
//! sections aligned to [`ALIGN`] bytes.

mod check;
mod codes;
mod error;
mod layers;
pub(crate) mod layout;
mod packed;

pub(crate) use codes::{Codes, greatest_code};
pub use error::ProgramError;
pub(crate) use layers::{ProgramLayer, ProgramTensor};
pub(crate) use packed::unpack;
#[cfg(feature = "build")]
pub(crate) use packed::{bits_of, pack};
use std::ops::Range;

use bytemuck::Pod;
use serde::{Deserialize, Serialize};

/// Alignment of every section of the weight blob, and of the blob itself, in bytes.
pub(crate) const ALIGN: usize = 64;

/// Bytes `range` of a weight blob as values.
///
/// # Errors
/// [`ProgramError::Payload`] if they are outside the blob or not aligned.
pub(crate) fn values<'a, T: Pod>(
    blob: &'a [u8],
    range: &Range<usize>,
) -> Result<&'a [T], ProgramError> {
    let bytes = blob.get(range.clone());
    let values = bytes.and_then(|bytes| bytemuck::try_cast_slice(bytes).ok());
    values.ok_or_else(|| {
        let what = format!("weights at {range:?} are outside the blob, or not aligned to 4 bytes");
        ProgramError::payload(what)
    })
}

/// A network in the engine's form, with its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload {
    /// The operators and tensors.
    pub program: Program,
    /// The bytes that `Section`s refer to. Keep them aligned to `ALIGN` bytes in a file.
    pub weights: Vec<u8>,
}

/// Operators in execution order, and the feature maps between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// All feature maps.
    pub tensors: Vec<Tensor>,
    /// Index of the network's input in `tensors`.
    pub input: usize,
    /// The network's outputs, in its order.
    pub outputs: Vec<Output>,
    /// The operators.
    pub ops: Vec<Op>,
}

impl Program {
    /// Whether a convolution multiplies codes.
    pub(crate) fn has_codes(&self) -> bool {
        let of_codes = |op: &Op| matches!(&op.kind, OpKind::Conv(conv) if conv.layout.is_integer());
        self.ops.iter().any(of_codes)
    }

    /// Reads a program's JSON without validating it; [`crate::engine::cpu::CpuEngine::new`] and [`Program::validate`] do.
    ///
    /// # Errors
    /// [`ProgramError::Payload`] with the position in the text.
    pub fn from_json(text: &[u8]) -> Result<Self, ProgramError> {
        serde_json::from_slice(text).map_err(|e| ProgramError::Payload {
            what: format!("the program: {e}"),
        })
    }
}

/// A feature map, [1, C, H, W], of f32 or signed 8-bit codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Name: that of the node that produces it, or of the last node fused into that. Empty for a copy of another tensor
    /// inside a Concat, which observers do not see.
    pub name: String,
    /// Channels C.
    pub channels: usize,
    /// Rows H.
    pub height: usize,
    /// Columns W.
    pub width: usize,
    /// Set if the tensor is a range of channels of another one, like the inputs of a Concat. The other one is not a slice
    /// itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice_of: Option<SliceOf>,
    /// Set if the tensor holds signed 8-bit codes. A value is `(code - zero_point) · scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// The code of the value 0. Others than 0 only come from networks that other tools quantised.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub zero_point: i8,
}

impl Tensor {
    /// What the tensor's codes mean; `None` if it holds f32.
    pub(crate) fn codes(&self) -> Option<Codes> {
        let zero = self.zero_point;
        self.scale.map(|scale| Codes { scale, zero })
    }
}

/// Whether a zero point is the default, which is not written.
fn is_zero(zero_point: &i8) -> bool {
    *zero_point == 0
}

fn eight_bits() -> u8 {
    8
}

/// Whether a number of bits is the default, which is not written.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_eight_bits(bits: &u8) -> bool {
    *bits == 8
}

/// The position of a tensor inside another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceOf {
    /// Index of the whole tensor in [`Program::tensors`].
    pub tensor: usize,
    /// The first channel.
    pub channel: usize,
}

/// An output of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Name of the output in the network, such as `heatmap`.
    pub name: String,
    /// Index in [`Program::tensors`].
    pub tensor: usize,
}

/// One operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Name of the node in the network.
    pub name: String,
    /// The tensor it writes.
    pub output: usize,
    /// What it computes.
    pub kind: OpKind,
}

/// An operator's computation. The fields `input`, `a`, `b` and `residual` are indices in [`Program::tensors`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OpKind {
    /// Convolution in all its forms.
    Conv(Conv),
    /// `input · scale[c] + shift[c]`: BatchNormalization at inference.
    Affine {
        /// Tensor read.
        input: usize,
        /// C factors, f32.
        scale: Section,
        /// C summands, f32.
        shift: Section,
        /// Clamp negative values to 0 afterwards.
        relu: bool,
    },
    /// `a + b`.
    Add {
        /// Tensor read.
        a: usize,
        /// Tensor read.
        b: usize,
        /// Clamp negative values to 0 afterwards.
        relu: bool,
    },
    /// `max(input, 0)`; NaN becomes 0.
    Relu {
        /// Tensor read.
        input: usize,
    },
    /// `1 / (1 + exp(-input))`.
    Sigmoid {
        /// Tensor read.
        input: usize,
    },
    /// Rearranges channels into pixels, like ONNX DepthToSpace. Block 1 is a copy.
    DepthToSpace {
        /// Tensor read.
        input: usize,
        /// Size of the block of pixels.
        block: usize,
        /// Order of the channels.
        mode: DepthToSpaceMode,
    },
    /// Maximum over windows, ignoring pixels outside the map.
    MaxPool {
        /// Tensor read.
        input: usize,
        /// Window's rows and columns.
        kernel: [usize; 2],
        /// Step in rows and columns.
        stride: [usize; 2],
        /// Rows above the map and columns left of it where the first window begins.
        pad: [usize; 2],
    },
    /// Converts values to codes: `input / scale` rounded half to even, plus the zero point, in -128..=127; 0 for NaN. Scale
    /// and zero point are the output's.
    Quantize {
        /// Tensor read, f32.
        input: usize,
    },
    /// Converts codes to values: `(code - zero_point) · scale`, with the input's scale and zero point.
    Dequantize {
        /// Tensor read, codes.
        input: usize,
    },
}

/// The order of channels within a block, like the attribute `mode` of ONNX DepthToSpace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepthToSpaceMode {
    /// Pixel (a, b), channel c comes from channel `(a · block + b) · C + c`. ONNX's default.
    Dcr,
    /// Pixel (a, b), channel c comes from channel `(c · block + a) · block + b`.
    Crd,
}

/// A convolution, a transposed convolution, or a convolution followed by DepthToSpace, with bias, residual and ReLU.
///
/// If the input holds codes, the differences from its zero point are multiplied by code weights in integers. These f32
/// operations follow, each rounded separately: `sum · multiplier[c] + bias[c]`, plus the residual (as values, whose codes
/// have zero point 0), then ReLU. If the output holds codes, the result is converted as by [`OpKind::Quantize`].
///
/// The output is `up` times finer than the steps of the convolution. Phase (a, b), number `a · up[1] + b`, computes the
/// output pixels `(i · up[0] + a, j · up[1] + b)` from the input pixels `(i · stride[0] + dy, j · stride[1] + dx)` for each
/// of its taps (dy, dx). Pixels outside the map are 0. A plain convolution has one phase. A transposed one with stride s
/// has s² phases and steps of 1. DepthToSpace after a convolution yields block² phases with the same taps and different
/// channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Tensor read.
    pub input: usize,
    /// Tensor of the output's shape, added before the ReLU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<usize>,
    /// The node's kernel size, for display only.
    pub kernel: [usize; 2],
    /// Input pixels per step, in rows and columns.
    pub stride: [usize; 2],
    /// Output pixels per step, in rows and columns.
    pub up: [usize; 2],
    /// Groups. Group g maps the g-th part of the input's channels to the g-th part of the output's.
    pub groups: usize,
    /// Clamp negative values to 0 afterwards.
    pub relu: bool,
    /// Order of the weights, which also selects the kernel.
    pub layout: WeightLayout,
    /// Bits of a stored weight of codes: 8, or 4, which are two codes a byte, the first in the low bits. The engine expands
    /// them to 8 when it loads the program.
    #[serde(default = "eight_bits", skip_serializing_if = "is_eight_bits")]
    pub weight_bits: u8,
    /// `up[0] · up[1]` phases.
    pub phases: Vec<Phase>,
}

/// Type and order of packed weights; see [`layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLayout {
    /// `[group][output channels / 16][tap][input channel][16]`: lanes are output channels.
    Wide,
    /// `[output channel][tap][input channel]`: lanes are input channels, a multiple of 16. For the last convolutions of
    /// heads, which have one to five output channels.
    Narrow,
    /// 8-bit codes, `[group][output channels / 16][tap][input channels / 4][16][4]`: [`WeightLayout::Wide`] for inputs of
    /// codes.
    Quad,
    /// 8-bit codes, `[output channel][tap][input channel]`, with input channels in whole fragments of 32:
    /// [`WeightLayout::Narrow`] for inputs of codes.
    NarrowQuad,
}

impl WeightLayout {
    /// Whether the weights are codes, for inputs of codes.
    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::Quad | Self::NarrowQuad)
    }

    /// Whether lanes are input channels.
    pub(crate) fn is_narrow(self) -> bool {
        matches!(self, Self::Narrow | Self::NarrowQuad)
    }
}

/// Taps and weights of one phase of a [`Conv`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Offsets (dy, dx) of the input pixels.
    pub taps: Vec<[i32; 2]>,
    /// Weights in the convolution's [`WeightLayout`].
    pub weights: Section,
    /// For code weights: the value of 1 in a sum of products of codes (input scale times weight scale), f32, in the order
    /// of the bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<Section>,
    /// Bias, f32. Wide: `[group][output channels rounded up to 16]`; narrow: `[output channel]`.
    pub bias: Section,
}

/// A part of the weight blob, in bytes; `offset` is a multiple of [`ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// First byte.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Section {
    /// The section's byte range.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}
