//! QuantizeLinear and DequantizeLinear: what of them the CPU engine has, and weights behind them.
//!
//! Codes are signed 8-bit with zero point 0. Maps have one scale; weights have one, or one per output
//! channel. A weight is INT8 behind a DequantizeLinear, or (as pytorch-quantization exports it) FLOAT
//! behind a QuantizeLinear and a DequantizeLinear, which are carried out here.

use super::MAX_SHARED;
use crate::build::Result;
use crate::build::lower::ConvWeight;
use crate::build::onnx::tensor::{self, Tensor, element};
use crate::build::onnx::{Graph, Node, shapes};

/// The weight of a convolution.
pub(super) struct Weight {
    /// As the ONNX operator has it.
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
    /// The weight of a Conv or ConvTranspose.
    pub(super) fn of(graph: &Graph, node: Node<'_>) -> Result<Self> {
        let name = node.need_input(1)?;
        let no_constant = || node.error(format!("its weight \"{name}\" is no constant"));
        let mut copies = graph.uses(name);
        let weight = match graph.producer(name) {
            Some(pair) if pair.op() == "DequantizeLinear" => {
                let source = pair.need_input(0)?;
                copies = copies.saturating_mul(graph.uses(source));
                Self::dequantized(graph, node, pair)?.ok_or_else(no_constant)?
            }
            _ => {
                let Tensor { dims, data } = graph.floats(name)?.ok_or_else(no_constant)?;
                let values = Values::F32(data);
                Self { dims, values }
            }
        };
        if copies > MAX_SHARED {
            return Err(node.error(format!(
                "its weight \"{name}\" is used {copies} times, at most {MAX_SHARED}"
            )));
        }
        Ok(weight)
    }

    /// The weight behind the DequantizeLinear `pair`; `None` if it is not made of constants.
    fn dequantized(graph: &Graph, node: Node<'_>, pair: Node<'_>) -> Result<Option<Self>> {
        let source = pair.need_input(0)?;
        let quantize = graph
            .producer(source)
            .filter(|n| n.op() == "QuantizeLinear");
        let scales = Scales::of(graph, pair)?;
        let (dims, codes) = match quantize {
            Some(quantize) => {
                let Some(weight) = graph.floats(quantize.need_input(0)?)? else {
                    return Ok(None);
                };
                let before = Scales::of(graph, quantize)?;
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
                // The element type is INT8: nothing is cut.
                (dims, data.into_iter().map(|v| v as i8).collect())
            }
        };
        let axis = usize::from(node.op() == "ConvTranspose");
        let groups = match node.op() {
            // Its weight has the channels of one group.
            "ConvTranspose" => usize::try_from(node.int("group", 1)?).unwrap_or(1),
            _ => 1,
        };
        let per_group = scales.per_channel(pair, &dims, axis)?;
        let channels = per_group.len().saturating_mul(groups);
        if channels > codes.len() {
            return Err(node.error(format!("{groups} groups of a weight of shape {dims:?}")));
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

/// The scale or scales of a QuantizeLinear or DequantizeLinear, whose zero points are 0 and whose codes
/// are INT8.
pub(super) struct Scales {
    name: String,
    values: Vec<f32>,
    /// Whether there is one value per channel, on `axis`.
    per_axis: bool,
    axis: i64,
}

impl Scales {
    pub(super) fn of(graph: &Graph, node: Node<'_>) -> Result<Self> {
        let name = node.need_input(1)?;
        let scales = graph.floats(name)?;
        let scales =
            scales.ok_or_else(|| node.error(format!("its scale \"{name}\" is no constant")))?;
        let usable = |s: &f32| s.is_finite() && *s > 0.0;
        if let Some(bad) = scales.data.iter().find(|s| !usable(s)) {
            return Err(node.error(format!(
                "its scale \"{name}\" has the value {bad}, expected finite ones above 0"
            )));
        }
        if scales.dims.len() > 1 || scales.data.is_empty() || node.int("block_size", 0)? != 0 {
            return Err(node.error(format!(
                "its scale \"{name}\" has shape {:?}, expected one value or one per channel",
                scales.dims
            )));
        }
        check_zero_point(graph, node, scales.data.len())?;
        Ok(Self {
            name: name.to_owned(),
            per_axis: scales.dims.len() == 1 && scales.data.len() > 1,
            values: scales.data,
            axis: node.int("axis", 1)?,
        })
    }

    /// The scale of a map, which has one.
    pub(super) fn single(&self, node: Node<'_>) -> Result<f32> {
        match self.values[..] {
            [scale] => Ok(scale),
            _ => Err(node.error(format!(
                "its scale \"{}\" has {} values, supported is one for a map",
                self.name,
                self.values.len()
            ))),
        }
    }

    /// Checks that a pair's two nodes have the same scales; `self` is that of `node`.
    fn check_same(&self, node: Node<'_>, other: &Self, rank: usize) -> Result<()> {
        let axis = |scales: &Self| match scales.per_axis {
            true => shapes::axis(node, scales.axis, rank).map(Some),
            false => Ok(None),
        };
        if self.values == other.values && axis(self)? == axis(other)? {
            return Ok(());
        }
        Err(node.error(format!(
            "its scale \"{}\" is not that of the DequantizeLinear behind it, \"{}\"",
            self.name, other.name
        )))
    }

    /// One scale for each channel of a weight of shape `dims`, whose output channels are on `axis`.
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
            "its scale \"{}\" has {} values on axis {found} of a weight of shape {dims:?}; the output \
             channels are the {channels} of axis {axis}",
            self.name,
            self.values.len()
        )))
    }

    /// The codes of a float weight, as QuantizeLinear makes them.
    fn quantized(&self, node: Node<'_>, weight: &Tensor<f32>) -> Result<Vec<i8>> {
        let axis = match self.per_axis {
            true => shapes::axis(node, self.axis, weight.dims.len())?,
            false => 0,
        };
        let scales = match self.per_axis {
            true => self.per_channel(node, &weight.dims, axis)?,
            false => self.values.clone(),
        };
        let inner: usize = weight.dims.iter().skip(axis + 1).product();
        let code = |(i, value): (usize, &f32)| {
            let channel = (i / inner.max(1)) % scales.len().max(1);
            let scale = scales.get(channel).copied().unwrap_or(1.0);
            crate::map::quantize(*value, scale)
        };
        Ok(weight.data.iter().enumerate().map(code).collect())
    }
}

/// Checks that the codes of a QuantizeLinear or DequantizeLinear are INT8 with zero point 0.
fn check_zero_point(graph: &Graph, node: Node<'_>, scales: usize) -> Result<()> {
    let output = node.int("output_dtype", 0)?;
    let Some(name) = node.input(2) else {
        // The type is the input's for DequantizeLinear (checked there), otherwise UINT8.
        return match (node.op(), i32::try_from(output)) {
            ("DequantizeLinear", _) | (_, Ok(element::INT8)) => Ok(()),
            _ => Err(node.error(
                "it has no zero point, which makes its codes UINT8; supported is INT8 with zero \
                 point 0",
            )),
        };
    };
    let Some(zero) = graph.constant(name)? else {
        return Err(node.error(format!("its zero point \"{name}\" is no constant")));
    };
    check_element(node, name, zero.data_type())?;
    let zeros = tensor::integers(graph.path(), &zero)?.data;
    if let Some(bad) = zeros.iter().find(|&&z| z != 0) {
        return Err(node.error(format!(
            "its zero point \"{name}\" has the value {bad}, supported is 0"
        )));
    }
    match zeros.len() == scales {
        true => Ok(()),
        false => Err(node.error(format!(
            "its zero point \"{name}\" has {} values, its scale has {scales}",
            zeros.len()
        ))),
    }
}

/// Checks that the elements of a value are INT8.
fn check_element(node: Node<'_>, value: &str, found: i32) -> Result<()> {
    if found == element::INT8 {
        return Ok(());
    }
    let found = element::name(found);
    Err(node.error(format!(
        "\"{value}\" has elements of {found}, supported is INT8"
    )))
}

/// Whether a node is a QuantizeLinear or DequantizeLinear of constants.
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
