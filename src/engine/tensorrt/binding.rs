//! Checks an engine's inputs and outputs against the model description, and computes their memory layout.
//!
//! | format | memory layout of C × H × W values | channels are padded to |
//! |---|---|---|
//! | LINEAR | `[C][H][W]` | |
//! | CHW2, CHW4, CHW16, CHW32 | `[C / n][H][W][n]` | a multiple of n |
//! | HWC | `[H][W][C]` | |
//! | HWC8, HWC16 | `[H][W][C]` | a multiple of 8, 16 |
//!
//! An input's padding is 0 and stays 0: the memory is allocated zeroed, and the scatter kernel writes no padding channel.

use std::path::Path;

use super::TensorRtError;
use crate::map::{Element, MapDesc, MapFormat, MapLayout};
use crate::model::Model;

/// An input or output, as the engine describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    /// Its name.
    pub name: String,
    /// Whether it is an input.
    pub input: bool,
    /// TensorRT's `DataType`, as a number.
    pub data_type: i32,
    /// TensorRT's `TensorFormat`, as a number.
    pub format: i32,
    /// Its shape; -1 for a dynamic size.
    pub dims: Vec<i64>,
    /// Number of adjacent values along `vector_axis`.
    pub vector: i32,
    /// The vectorised axis; -1 for none.
    pub vector_axis: i32,
}

/// A map of the model, and the memory that it needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Binding {
    /// Name and size.
    pub desc: MapDesc,
    /// Element type and layout.
    pub map: MapFormat,
    /// Size of the memory, in bytes.
    pub bytes: usize,
}

/// All inputs and outputs of an engine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bindings {
    /// The BEV map.
    pub input: Binding,
    /// The head's maps, task by task.
    pub outputs: Vec<Binding>,
    /// Outputs that the model does not name but the engine writes: name, and bytes that surely suffice.
    pub others: Vec<(String, usize)>,
}

/// TensorRT's `DataType` names, by number.
const TYPES: [&str; 12] = [
    "FP32", "FP16", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4", "FP4", "E8M0",
];

/// TensorRT's `TensorFormat` names, by number.
const FORMATS: [&str; 13] = [
    "LINEAR",
    "CHW2",
    "HWC8",
    "CHW4",
    "CHW16",
    "CHW32",
    "DHWC8",
    "CDHW32",
    "HWC",
    "DLA_LINEAR",
    "DLA_HWC4",
    "HWC16",
    "DHWC",
];

/// The memory order of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Blocks of this many adjacent channels, one block after the other.
    Blocks(usize),
    /// All channels of a cell adjacent, padded to a multiple of this number.
    Last(usize),
}

impl Format {
    fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Blocks(1),
            1 => Self::Blocks(2),
            2 => Self::Last(8),
            3 => Self::Blocks(4),
            4 => Self::Blocks(16),
            5 => Self::Blocks(32),
            8 => Self::Last(1),
            11 => Self::Last(16),
            _ => return None,
        })
    }

    /// Channels in one TensorRT vector.
    fn vector(self) -> usize {
        match self {
            Self::Blocks(channels) | Self::Last(channels) => channels,
        }
    }

    /// A map's layout, its [`MapFormat::vector`], and the number of values in its memory.
    fn layout(self, [channels, height, width]: [usize; 3]) -> (MapLayout, u32, usize) {
        let padded = channels.next_multiple_of(self.vector());
        let mut layout = MapLayout::nchw(channels, height, width);
        let side_by_side = match self {
            Self::Blocks(n) => {
                layout.stride_x = n;
                layout.stride_y = width * n;
                layout.stride_c = height * width * n;
                n
            }
            Self::Last(_) => {
                layout.stride_x = padded;
                layout.stride_y = width * padded;
                layout.stride_c = 1;
                1
            }
        };
        (layout, side_by_side as u32, padded * height * width)
    }
}

/// Checks an engine's inputs and outputs against the model and computes their memory layout. `scale` is the value of
/// code 1 of an INT8 input; `path` names the plan in errors.
///
/// # Errors
/// [`TensorRtError::Binding`] if there is not exactly one input, an output that the model names is missing, a shape
/// differs or is not fixed, the kernels cannot handle a type or format, or an INT8 input has no scale.
pub(crate) fn bind(
    path: &Path,
    tensors: &[Tensor],
    model: &Model,
    scale: Option<f32>,
) -> Result<Bindings, TensorRtError> {
    let refuse = |tensor: &str, problem: String| TensorRtError::Binding {
        path: path.into(),
        tensor: tensor.into(),
        problem,
    };
    let (inputs, outputs): (Vec<&Tensor>, Vec<&Tensor>) = tensors.iter().partition(|t| t.input);
    let size = [model.bev_channels(), model.grid.ny, model.grid.nx];
    let input = match inputs[..] {
        [input] => binding(input, size, scale).map_err(|problem| refuse(&input.name, problem))?,
        _ => {
            let problem = format!(
                "the engine has {} inputs ({}), expected one, the BEV map of {}; export the backbone, neck and head \
                only",
                inputs.len(),
                names(&inputs),
                shape(&size)
            );
            let name = inputs.get(1).map_or("(input)", |second| &second.name);
            return Err(refuse(name, problem));
        }
    };
    let mut named = Vec::new();
    let (height, width) = model.head_size();
    for task in &model.head.tasks {
        let wanted = task.outputs.each_ref().zip(model.head_channels(task));
        for (name, channels) in wanted.into_array() {
            let Some(output) = outputs.iter().find(|output| output.name == *name) else {
                let problem = format!(
                    "the engine has no such output; it has {}; name them in the model description (`outputs` of the task)",
                    names(&outputs)
                );
                return Err(refuse(name, problem));
            };
            let size = [channels, height, width];
            let output = binding(output, size, None).map_err(|problem| refuse(name, problem))?;
            named.push(output);
        }
    }
    let mut others = Vec::new();
    for output in outputs {
        if named.iter().all(|binding| binding.desc.name != output.name) {
            let bytes = room(output).map_err(|problem| refuse(&output.name, problem))?;
            others.push((output.name.clone(), bytes));
        }
    }
    Ok(Bindings {
        input,
        outputs: named,
        others,
    })
}

/// Checks that a tensor is a map of `size` (C, H, W). Returns its binding, or what is wrong.
fn binding(tensor: &Tensor, size: [usize; 3], scale: Option<f32>) -> Result<Binding, String> {
    check_fixed(tensor)?;
    let [channels, height, width] = size;
    let expected = [1, channels, height, width];
    if tensor.dims.len() != 4
        || tensor
            .dims
            .iter()
            .zip(expected)
            .any(|(d, e)| *d != e as i64)
    {
        return Err(format!(
            "its shape is {}, but the model description says {}; compile the network that belongs to it",
            shape(&tensor.dims),
            shape(&expected)
        ));
    }
    let element = match (tensor.data_type, tensor.input) {
        (0, _) => Element::F32,
        (1, _) => Element::F16,
        (2, true) => Element::I8,
        (other, input) => {
            let (supported, option) = if input {
                ("FP32, FP16 or INT8", "--inputIOFormats")
            } else {
                ("FP32 or FP16", "--outputIOFormats")
            };
            return Err(format!(
                "its type is {}, expected {supported}; build the engine with another type, with trtexec by \
                `{option}=fp16:chw`",
                name_of(&TYPES, other),
            ));
        }
    };
    let scale = match (element, scale) {
        (Element::I8, Some(scale)) if scale.is_finite() && scale > 0.0 => scale,
        (Element::I8, Some(scale)) => {
            return Err(format!(
                "the plan says that code 1 stands for {scale}, which must be above 0; build the plan again with \
                `cp-build compile`"
            ));
        }
        (Element::I8, None) => {
            return Err(
                "it takes INT8 codes, but the plan does not say what value code 1 has; build the plan with `cp-build \
                compile`, which records it, or give the engine an FP16 input"
                    .into(),
            );
        }
        _ => 1.0,
    };
    let format = Format::from_number(tensor.format).ok_or_else(|| {
        let supported: Vec<&str> = (0..).zip(FORMATS).filter(|(i, _)| Format::from_number(*i).is_some()).map(|(_, name)| name).collect();
        format!(
            "its format is {}, expected one of {}; build the engine with one of these, with trtexec by \
            `--inputIOFormats` and `--outputIOFormats`",
            name_of(&FORMATS, tensor.format),
            supported.join(", ")
        )
    })?;
    check_vector(tensor, format)?;
    let (layout, vector, values) = format.layout(size);
    let size_of_value = match element {
        Element::F32 => 4,
        Element::F16 => 2,
        Element::I8 => 1,
    };
    Ok(Binding {
        desc: MapDesc {
            name: tensor.name.clone(),
            channels,
            height,
            width,
        },
        map: MapFormat {
            element,
            scale,
            vector,
            layout,
        },
        bytes: values * size_of_value,
    })
}

/// Refuses dynamic shapes.
fn check_fixed(tensor: &Tensor) -> Result<(), String> {
    if tensor.dims.iter().all(|dim| *dim >= 0) {
        return Ok(());
    }
    Err(format!(
        "its shape {} is not fixed; export the network with a batch of 1 and fixed sizes, and build the engine \
again",
        shape(&tensor.dims)
    ))
}

/// Refuses an engine whose vectorised axis contradicts its format, because its layout is then unknown.
fn check_vector(tensor: &Tensor, format: Format) -> Result<(), String> {
    // Linear formats report a vector of one value, along no axis or any axis.
    let (found, expected) = (tensor.vector.max(1) as usize, format.vector());
    if found == expected && (tensor.vector_axis == 1 || expected == 1) {
        return Ok(());
    }
    Err(format!(
        "its format is {}, with {expected} values along axis 1, but the engine reports {found} along axis {}; build \
        the engine with a linear format",
        name_of(&FORMATS, tensor.format),
        tensor.vector_axis
    ))
}

/// Bytes that suffice for an output of any type and format: no type exceeds 8 bytes, and formats pad the vectorised axis
/// or, for the DLA, rows to 64 bytes.
fn room(tensor: &Tensor) -> Result<usize, String> {
    check_fixed(tensor)?;
    let last = tensor.dims.len().saturating_sub(1);
    let mut bytes = Some(8usize);
    for (axis, dim) in tensor.dims.iter().enumerate() {
        let pad = if i32::try_from(axis) == Ok(tensor.vector_axis) {
            tensor.vector.max(1) as usize
        } else if axis == last {
            64
        } else {
            1
        };
        let dim = usize::try_from(*dim).ok();
        let dim = dim.and_then(|dim| dim.checked_next_multiple_of(pad));
        bytes = bytes
            .zip(dim)
            .and_then(|(bytes, dim)| bytes.checked_mul(dim));
    }
    bytes.ok_or_else(|| {
        let shape = shape(&tensor.dims);
        format!("its shape {shape} exceeds any memory; build the engine without this output")
    })
}

/// The names of tensors, as a list for users.
fn names(tensors: &[&Tensor]) -> String {
    match tensors {
        [] => "none".into(),
        tensors => {
            let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
            names.join(", ")
        }
    }
}

/// A shape as TensorRT's tools write it, such as 1x64x128x128.
fn shape<T: ToString>(dims: &[T]) -> String {
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    dims.join("x")
}

/// TensorRT's name for a number, or the number.
fn name_of(names: &[&str], number: i32) -> String {
    let name = usize::try_from(number).ok().and_then(|i| names.get(i));
    name.map_or_else(|| number.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests;
