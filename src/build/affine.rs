//! Per-channel factors and summands: BatchNormalization at inference, and Mul and Add with constants.

use super::Result;
use super::onnx::tensor::{self, Tensor, element};
use super::onnx::{Graph, Node};

/// `y = x·scale + shift`, per channel (axis 1), or one value for all.
pub(crate) struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
    /// Name of x.
    pub(super) input: String,
    /// Whether there is one value for all channels, however many those are.
    broadcast: bool,
}

impl Affine {
    /// What `node` computes, if it is a BatchNormalization at inference, or a Mul or Add with a
    /// constant along axis 1 of a map.
    pub(super) fn of(graph: &Graph, node: Node<'_>) -> Result<Option<Self>> {
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
                "its parameters give values that are not finite (a variance below 0, NaN?)",
            ));
        }
        Ok(Some(affine))
    }

    fn constant(graph: &Graph, node: Node<'_>) -> Result<Option<Self>> {
        let (a, b) = (node.need_input(0)?, node.need_input(1)?);
        for (input, constant) in [(a, b), (b, a)] {
            let Some(proto) = graph.constant(constant)? else {
                continue;
            };
            if proto.data_type() != element::FLOAT {
                continue;
            }
            let Tensor { dims, data } = tensor::floats(graph.path(), &proto)?;
            // [C, 1, 1] or [1, C, 1, 1], or a single value of at most four axes.
            let per_channel = matches!(dims[..], [_, 1, 1] | [1, _, 1, 1]);
            let single = data.len() == 1 && dims.len() <= 4;
            if !per_channel && !single {
                continue;
            }
            let values: Vec<f64> = data.iter().map(|&v| f64::from(v)).collect();
            let same = |v: f64| vec![v; values.len()];
            let (scale, shift) = match node.op() {
                "Mul" => (values.clone(), same(0.0)),
                _ => (same(1.0), values.clone()),
            };
            return Ok(Some(Self {
                scale,
                shift,
                input: input.to_owned(),
                broadcast: data.len() == 1,
            }));
        }
        Ok(None)
    }

    /// Number of channels that there are factors for; 1 if one serves all.
    pub(super) fn channels(&self) -> usize {
        self.scale.len()
    }

    /// Whether this can be applied to a map of so many channels.
    pub(super) fn fits(&self, channels: usize) -> bool {
        self.broadcast || self.scale.len() == channels
    }

    /// Scale and shift of channel `c`.
    pub(super) fn at(&self, c: usize) -> (f64, f64) {
        let i = if self.broadcast { 0 } else { c };
        let at = |v: &[f64]| v.get(i).copied().unwrap_or(0.0);
        (at(&self.scale), at(&self.shift))
    }
}
