//! QuantizeLinear and DequantizeLinear as far as the CPU engine supports them, and quantised weights.
//!
//! Codes are signed 8-bit. Maps have one scale and one zero point; weights have one scale, or one per output channel, and
//! zero point 0.
//! A weight is INT8 followed by a DequantizeLinear, or (as pytorch-quantization exports it) FLOAT followed by a
//! QuantizeLinear and a DequantizeLinear, which are evaluated here.

use super::MAX_SHARED;
use crate::build::Result;
use crate::build::lower::ConvWeight;
use crate::build::onnx::tensor::{self, Tensor, element};
use crate::build::onnx::{Graph, Node, shapes};
use crate::build::quantize::pairs::quantized;
use crate::program::Codes;

/// The weight of a convolution.
pub(super) struct Weight {
    /// Dimensions as in the ONNX operator.
    pub(super) dims: Vec<usize>,
    values: Values,
}

enum Values {
    F32(Vec<f32>),
    /// One scale per output channel.
    I8 {
        codes: Vec<i8>,
        scales: Vec<f32>,
    },
}

impl Weight {
    /// Reads the weight of a Conv or ConvTranspose.
    pub(super) fn read(graph: &Graph, node: Node<'_>) -> Result<Self> {
        let name = node.need_input(1)?;
        let not_constant = || node.error(format!("its weight \"{name}\" is not a constant"));
        let mut copies = graph.uses(name);
        let weight = match graph.producer(name) {
            Some(pair) if pair.op() == "DequantizeLinear" => {
                let source = pair.need_input(0)?;
                copies = copies.saturating_mul(graph.uses(source));
                Self::dequantized(graph, node, pair)?.ok_or_else(not_constant)?
            }
            _ => {
                let Tensor { dims, data } = graph.floats(name)?.ok_or_else(not_constant)?;
                let values = Values::F32(data);
                Self { dims, values }
            }
        };
        if copies > MAX_SHARED {
            return Err(node.error(format!(
                "its weight \"{name}\" is used {copies} times, expected at most {MAX_SHARED}"
            )));
        }
        Ok(weight)
    }

    /// The weight that the DequantizeLinear `pair` reads; `None` if it is not constant.
    fn dequantized(graph: &Graph, node: Node<'_>, pair: Node<'_>) -> Result<Option<Self>> {
        let source = pair.need_input(0)?;
        let quantize = graph
            .producer(source)
            .filter(|n| n.op() == "QuantizeLinear");
        let scales = Scales::read(graph, pair)?;
        scales.need_zero_point_0(pair)?;
        let (dims, codes) = match quantize {
            Some(quantize) => {
                let Some(weight) = graph.floats(quantize.need_input(0)?)? else {
                    return Ok(None);
                };
                let before = Scales::read(graph, quantize)?;
                before.check_same(quantize, &scales, weight.dims.len())?;
                let codes = scales.quantized(pair, &weight)?;
                (weight.dims, codes)
            }
            None => {
                let Some(constant) = graph.constant(source)? else {
                    return Ok(None);
                };
                check_element(pair, source, constant.data_type())?;
                let Tensor { dims, data } = tensor::integers(graph.path(), &constant)?;
                // The element type is INT8, so no value is truncated.
                (dims, data.into_iter().map(|v| v as i8).collect())
            }
        };
        let axis = usize::from(node.op() == "ConvTranspose");
        let groups = match node.op() {
            // Its weight contains only the channels of one group.
            "ConvTranspose" => usize::try_from(node.int("group", 1)?).unwrap_or(1),
            _ => 1,
        };
        let per_group = scales.per_channel(pair, &dims, axis)?;
        let channels = per_group.len().saturating_mul(groups);
        if channels > codes.len() {
            return Err(node.error(format!(
                "its weight of shape {dims:?} is too small for {groups} groups"
            )));
        }
        let scales = per_group.into_iter().cycle().take(channels).collect();
        let values = Values::I8 { codes, scales };
        Ok(Some(Self { dims, values }))
    }

    /// The weight for the engine's builder.
    pub(super) fn spec(&self) -> ConvWeight<'_> {
        match &self.values {
            Values::F32(values) => ConvWeight::F32(values),
            Values::I8 { codes, scales } => ConvWeight::I8 { codes, scales },
        }
    }
}

/// The scales and zero points of a QuantizeLinear or DequantizeLinear with INT8 codes.
pub(super) struct Scales {
    name: String,
    values: Vec<f32>,
    /// One for each scale; empty if the node has none, which means 0.
    zero_points: Vec<i8>,
    /// Whether there is one value per channel, on `axis`.
    per_axis: bool,
    axis: i64,
}

impl Scales {
    pub(super) fn read(graph: &Graph, node: Node<'_>) -> Result<Self> {
        let name = node.need_input(1)?;
        let scales = graph.floats(name)?;
        let scales =
            scales.ok_or_else(|| node.error(format!("its scale \"{name}\" is not a constant")))?;
        let usable = |s: &f32| s.is_finite() && *s > 0.0;
        if let Some(bad) = scales.data.iter().find(|s| !usable(s)) {
            return Err(node.error(format!(
                "its scale \"{name}\" has the value {bad}, expected a finite value above 0"
            )));
        }
        if scales.dims.len() > 1 || scales.data.is_empty() || node.int("block_size", 0)? != 0 {
            return Err(node.error(format!(
                "its scale \"{name}\" has shape {:?}, expected one value or one per channel",
                scales.dims
            )));
        }
        Ok(Self {
            name: name.to_owned(),
            zero_points: zero_points(graph, node, scales.data.len())?,
            per_axis: scales.dims.len() == 1 && scales.data.len() > 1,
            values: scales.data,
            axis: node.int("axis", 1)?,
        })
    }

    /// Scale and zero point of a map, which has one of each.
    pub(super) fn single(&self, node: Node<'_>) -> Result<Codes> {
        match self.values[..] {
            [scale] => Ok(Codes {
                scale,
                zero: self.zero_points.first().copied().unwrap_or(0),
            }),
            _ => Err(node.error(format!(
                "its scale \"{}\" has {} values, expected one for a map",
                self.name,
                self.values.len()
            ))),
        }
    }

    /// Checks that the zero points of a weight are 0; `node` has them.
    fn need_zero_point_0(&self, node: Node<'_>) -> Result<()> {
        let name = node.input(2).unwrap_or_default();
        match self.zero_points.iter().find(|zero| **zero != 0) {
            None => Ok(()),
            Some(bad) => Err(node.error(format!(
                "its zero point \"{name}\" has the value {bad}, only 0 is supported for weights; quantise them \
                 symmetrically (ONNX Runtime: WeightSymmetric, QuantType.QInt8)"
            ))),
        }
    }

    /// Checks that both nodes of a pair have the same scales; `self` belongs to `node`.
    fn check_same(&self, node: Node<'_>, other: &Self, rank: usize) -> Result<()> {
        let axis = |scales: &Self| {
            let axis = scales.per_axis.then_some(scales.axis);
            axis.map(|axis| shapes::axis(node, axis, rank)).transpose()
        };
        if self.values == other.values && axis(self)? == axis(other)? {
            return Ok(());
        }
        Err(node.error(format!(
            "its scale \"{}\" differs from \"{}\", the scale of the DequantizeLinear after it",
            self.name, other.name
        )))
    }

    /// One scale for each output channel of a weight of shape `dims`; the channels are on `axis`.
    fn per_channel(&self, node: Node<'_>, dims: &[usize], axis: usize) -> Result<Vec<f32>> {
        let channels = dims.get(axis).copied().unwrap_or(0);
        if let [scale] = self.values[..] {
            return Ok(vec![scale; channels]);
        }
        let found = shapes::axis(node, self.axis, dims.len())?;
        if found == axis && self.values.len() == channels {
            return Ok(self.values.clone());
        }
        Err(node.error(format!(
            "its scale \"{}\" has {} values on axis {found} of a weight of shape {dims:?}, expected one for \
             each of the {channels} output channels on axis {axis}; quantise the weight on that axis, or as a \
             whole",
            self.name,
            self.values.len()
        )))
    }

    /// Quantises a float weight as QuantizeLinear does.
    fn quantized(&self, node: Node<'_>, weight: &Tensor<f32>) -> Result<Vec<i8>> {
        let (axis, scales) = if self.per_axis {
            let axis = shapes::axis(node, self.axis, weight.dims.len())?;
            (axis, self.per_channel(node, &weight.dims, axis)?)
        } else {
            (0, self.values.clone())
        };
        Ok(quantized(&weight.data, &weight.dims, axis, &scales).collect())
    }
}

/// The zero points of a QuantizeLinear or DequantizeLinear, as many as it has `scales`; none if they are left out. Checks that
/// its codes are INT8.
fn zero_points(graph: &Graph, node: Node<'_>, scales: usize) -> Result<Vec<i8>> {
    let output = node.int("output_dtype", 0)?;
    let Some(name) = node.input(2) else {
        // DequantizeLinear has its input's type, which is checked elsewhere; otherwise the type is UINT8.
        return match (node.op(), i32::try_from(output)) {
            ("DequantizeLinear", _) | (_, Ok(element::INT8)) => Ok(Vec::new()),
            _ => Err(node.error(
                "it has no zero point, so its codes are UINT8; only INT8 is supported; quantise to signed codes \
                 (ONNX Runtime: QuantType.QInt8)",
            )),
        };
    };
    let Some(zero) = graph.constant(name)? else {
        return Err(node.error(format!("its zero point \"{name}\" is not a constant")));
    };
    check_element(node, name, zero.data_type())?;
    let zeros = tensor::integers(graph.path(), &zero)?.data;
    if zeros.len() == scales {
        // The element type is INT8, so no value is truncated.
        return Ok(zeros.into_iter().map(|zero| zero as i8).collect());
    }
    Err(node.error(format!(
        "its zero point \"{name}\" has {} values, but its scale has {scales}",
        zeros.len()
    )))
}

/// Checks that the elements of a value are INT8.
fn check_element(node: Node<'_>, value: &str, found: i32) -> Result<()> {
    if found == element::INT8 {
        return Ok(());
    }
    let found = element::name(found);
    Err(node.error(format!(
        "\"{value}\" has element type {found}, only INT8 is supported; quantise to signed codes (ONNX Runtime: \
         QuantType.QInt8)"
    )))
}

/// Whether a node is a QuantizeLinear or DequantizeLinear with constant input.
pub(super) fn is_constant(graph: &Graph, node: Node<'_>) -> Result<bool> {
    let Some(input) = node.input(0) else {
        return Ok(false);
    };
    Ok(match node.op() {
        "QuantizeLinear" => graph.constant(input)?.is_some(),
        "DequantizeLinear" => {
            let quantize = graph.producer(input).filter(|n| n.op() == "QuantizeLinear");
            let source = quantize.and_then(|n| n.input(0)).unwrap_or(input);
            graph.constant(source)?.is_some()
        }
        _ => false,
    })
}
