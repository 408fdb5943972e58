//! The layers of a state dict, with their BatchNormalization and their ranges.

use super::Report;
use super::scales::{Scales, Source};
use super::state::State;
use crate::build::Result;
use crate::build::onnx::tensor::Tensor;

/// A convolution or a deconvolution with what belongs to it.
#[derive(Debug)]
pub(super) struct Layer {
    /// Its key, without `.weight`.
    pub(super) key: String,
    pub(super) weight: Tensor<f32>,
    /// The axis of the output channels.
    pub(super) axis: usize,
    pub(super) bias: Option<Vec<f32>>,
    /// The BatchNormalization after it; `None` if it was fused.
    pub(super) norm: Option<Norm>,
    /// Its ranges; `None` if it stays in float.
    pub(super) scales: Option<Scales>,
}

impl Layer {
    /// Number of output channels.
    pub(super) fn outputs(&self) -> usize {
        self.weight.dims.get(self.axis).copied().unwrap_or_default()
    }

    /// Rows and columns of the kernel, which is square.
    pub(super) fn kernel(&self) -> usize {
        self.weight.dims.last().copied().unwrap_or_default()
    }
}

/// A BatchNormalization in inference.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) mean: Vec<f32>,
    pub(super) var: Vec<f32>,
    pub(super) eps: f64,
}

/// How a weight must be shaped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    /// The axis of the output channels: 0 for a convolution, 1 for a deconvolution.
    pub(super) axis: usize,
    pub(super) inputs: usize,
    /// Kernels of the family; only square ones.
    pub(super) kernels: &'a [usize],
}

impl Shape<'_> {
    fn fits(&self, dims: &[usize]) -> bool {
        let &[a, b, rows, columns] = dims else {
            return false;
        };
        let (inputs, outputs) = if self.axis == 0 { (b, a) } else { (a, b) };
        inputs == self.inputs && outputs > 0 && rows == columns && self.kernels.contains(&rows)
    }

    fn text(&self) -> String {
        let channels = if self.axis == 0 {
            format!("O, {}", self.inputs)
        } else {
            format!("{}, O", self.inputs)
        };
        let kernels = self.kernels.iter();
        let kernels: Vec<String> = kernels.map(|k| format!("[{channels}, {k}, {k}]")).collect();
        kernels.join(" or ")
    }
}

/// Reads layers of a state dict.
pub(super) struct Reader<'a> {
    pub(super) state: &'a mut State,
    /// The ranges; `None` for a float network.
    pub(super) scales: Option<Source>,
    /// Whether a layer stays in float.
    pub(super) skips: &'a dyn Fn(&str) -> bool,
    /// What became of the layers.
    pub(super) report: &'a mut Report,
}

impl Reader<'_> {
    /// The layer `key`, with the BatchNormalization `norm` if there is one.
    ///
    /// # Errors
    /// [`CheckpointError`](super::CheckpointError) for what is missing and does not fit.
    pub(super) fn layer(
        &mut self,
        key: &str,
        norm: Option<&str>,
        eps: f64,
        shape: Shape<'_>,
    ) -> Result<Layer> {
        let weight_key = format!("{key}.weight");
        let weight = self.state.need(&weight_key, || shape.text())?;
        if !shape.fits(&weight.dims) {
            return Err(self
                .state
                .misfit(&weight_key, &weight.dims, shape.text())
                .into());
        }
        let outputs = weight.dims.get(shape.axis).copied().unwrap_or_default();
        let norm = match norm {
            Some(norm) => self.norm(norm, outputs, eps)?,
            None => None,
        };
        let bias_key = format!("{key}.bias");
        let bias = match (&norm, self.state.has(&bias_key)) {
            (Some(_), false) => None,
            _ => Some(self.state.need_row(&bias_key, outputs)?),
        };
        let scales = self.scales(key, &weight, shape.axis)?;
        Ok(Layer {
            key: key.to_owned(),
            weight,
            axis: shape.axis,
            bias,
            norm,
            scales,
        })
    }

    /// The ranges of the layer `key`; `None` for a layer in float.
    fn scales(&mut self, key: &str, weight: &Tensor<f32>, axis: usize) -> Result<Option<Scales>> {
        let Some(scales) = &mut self.scales else {
            return Ok(None);
        };
        if (self.skips)(key) {
            scales.leave(self.state, key);
            self.report.skipped.push(key.to_owned());
            return Ok(None);
        }
        let scales = scales.take(self.state, key, weight, axis)?;
        if let Some(scales) = &scales {
            let mut keys = scales.keys.clone().map(|key| self.state.full(&key));
            if scales.requantized {
                let [_, weight] = &mut keys;
                *weight = "the float weight".into();
                self.report.steps.push(format!(
                    "{key}: its weight has a scale for each input channel; quantised again, with one for each output channel"
                ));
            }
            self.report.scales.insert(self.state.full(key), keys);
        }
        Ok(scales)
    }

    /// The BatchNormalization `key`; `None` if it was fused.
    ///
    /// # Errors
    /// As [`Reader::layer`].
    pub(super) fn norm(&mut self, key: &str, channels: usize, eps: f64) -> Result<Option<Norm>> {
        if !self.state.has_any(&format!("{key}.")) {
            return Ok(None);
        }
        let mut row = |name: &str| self.state.need_row(&format!("{key}.{name}"), channels);
        let norm = Norm {
            weight: row("weight")?,
            bias: row("bias")?,
            mean: row("running_mean")?,
            var: row("running_var")?,
            eps,
        };
        if let Some(var) = norm.var.iter().find(|var| **var < 0.0) {
            let found = format!("has the value {var}");
            let key = format!("{key}.running_var");
            return Err(self.state.error(&key, found, "0 or more".into()).into());
        }
        Ok(Some(norm))
    }
}
