//! Per-channel scales and shifts: BatchNormalization at inference, and Mul and Add with constants.

use super::Result;
use super::onnx::{Graph, Node};

/// `y = x·scale + shift` per channel (axis 1), or with one scale and shift for all channels.
pub(crate) struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
    /// Name of x.
    pub(super) input: String,
    /// Whether one value applies to all channels, however many there are.
    broadcast: bool,
}

impl Affine {
    /// The function that `node` computes, if it is a BatchNormalization at inference, or a Mul or Add
    /// of a map and a constant along axis 1.
    pub(super) fn from_node(graph: &Graph, node: Node<'_>) -> Result<Option<Self>> {
        match node.op() {
            "BatchNormalization" => Self::batch_normalization(graph, node),
            "Mul" | "Add" => Self::constant(graph, node),
            _ => Ok(None),
        }
    }

    fn batch_normalization(graph: &Graph, node: Node<'_>) -> Result<Option<Self>> {
        let training = node.int("training_mode", 0)? != 0;
        let more_outputs = (1..node.proto.output.len()).any(|i| node.output(i).is_some());
        if training || more_outputs {
            return Err(node.error("it is in training mode; export the network in eval mode"));
        }
        let mut parameters = Vec::new();
        for index in 1..5 {
            match graph.floats(node.need_input(index)?)? {
                Some(tensor) => parameters.push(tensor.data),
                None => return Ok(None),
            }
        }
        let [scale, bias, mean, var] = &parameters[..] else {
            return Ok(None);
        };
        if [bias, mean, var].iter().any(|p| p.len() != scale.len()) {
            let lengths: Vec<usize> = parameters.iter().map(Vec::len).collect();
            return Err(node.error(format!(
                "scale, bias, mean and variance have {lengths:?} values"
            )));
        }
        let epsilon = f64::from(node.float("epsilon", 1e-5)?);
        let mut affine = Self {
            scale: Vec::with_capacity(scale.len()),
            shift: Vec::with_capacity(scale.len()),
            input: node.need_input(0)?.to_owned(),
            broadcast: false,
        };
        for (((&scale, &bias), &mean), &var) in scale.iter().zip(bias).zip(mean).zip(var) {
            let factor = f64::from(scale) / (f64::from(var) + epsilon).sqrt();
            affine.scale.push(factor);
            affine
                .shift
                .push(f64::from(bias) - f64::from(mean) * factor);
        }
        let finite = |v: &f64| v.is_finite();
        if !affine.scale.iter().chain(&affine.shift).all(finite) {
            return Err(node.error(
                "its scale or shift is not finite (is a variance negative or a parameter NaN?)",
            ));
        }
        Ok(Some(affine))
    }

    fn constant(graph: &Graph, node: Node<'_>) -> Result<Option<Self>> {
        let (a, b) = (node.need_input(0)?, node.need_input(1)?);
        for (input, constant) in [(a, b), (b, a)] {
            let Some(constant) = graph.f32_array(constant)? else {
                continue;
            };
            let per_channel = matches!(constant.shape(), [_, 1, 1] | [1, _, 1, 1]);
            let single = constant.len() == 1 && constant.ndim() <= 4;
            if !per_channel && !single {
                continue;
            }
            let values: Vec<f64> = constant.iter().map(|&v| f64::from(v)).collect();
            let same = |v: f64| vec![v; values.len()];
            let (scale, shift) = match node.op() {
                "Mul" => (values.clone(), same(0.0)),
                _ => (same(1.0), values.clone()),
            };
            return Ok(Some(Self {
                scale,
                shift,
                input: input.to_owned(),
                broadcast: constant.len() == 1,
            }));
        }
        Ok(None)
    }

    /// Number of scales; 1 if one applies to all channels.
    pub(super) fn channels(&self) -> usize {
        self.scale.len()
    }

    /// Whether this applies to a map of `channels` channels.
    pub(super) fn fits(&self, channels: usize) -> bool {
        self.broadcast || self.scale.len() == channels
    }

    /// Scale and shift of `channel`.
    pub(super) fn at(&self, channel: usize) -> (f64, f64) {
        let i = if self.broadcast { 0 } else { channel };
        let at = |v: &[f64]| v.get(i).copied().unwrap_or(0.0);
        (at(&self.scale), at(&self.shift))
    }
}
