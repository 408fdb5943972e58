//! The PFN's trained weights, and the check that they belong to a model description.

use crate::model::Model;

/// One layer of the PFN, BatchNorm folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct PfnLayer {
    /// Input columns.
    pub in_features: usize,
    /// Outputs of the Linear itself; a layer before the last passes twice as many on (its rows and
    /// their max).
    pub out_features: usize,
    /// Weights, row-major `[out_features][in_features]`.
    pub weight: Vec<f32>,
    /// Bias, `[out_features]`.
    pub bias: Vec<f32>,
}

/// The PFN's trained weights, first layer first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pfn {
    /// The layers.
    pub layers: Vec<PfnLayer>,
}

/// Why a PFN does not fit its model description.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PfnError {
    /// Another number of layers.
    #[error(
        "the PFN has {found} layers, but the model description has {expected} widths in \
         `pfn.layers`; import the PFN that belongs to it, or correct the description"
    )]
    Layers {
        /// Layers of the weights.
        found: usize,
        /// Layers of the description.
        expected: usize,
    },
    /// Another number of input or output columns, or an array of another length.
    #[error(
        "layer {layer} of the PFN: {what} is {found}, but the model description gives {expected}; \
         import the PFN that belongs to it, or correct `points.columns`, `pfn.mean_offset`, \
         `pfn.center_offset_axes` or `pfn.layers`"
    )]
    Size {
        /// The layer, from 0.
        layer: usize,
        /// `in_features`, `out_features`, `length of weight` or `length of bias`.
        what: &'static str,
        /// Size of the weights.
        found: usize,
        /// Size by the description.
        expected: usize,
    },
    /// A weight that is NaN or infinite.
    #[error(
        "layer {layer} of the PFN: {tensor}[{index}] is {value}; the file is damaged or its \
         training diverged"
    )]
    NonFinite {
        /// The layer, from 0.
        layer: usize,
        /// `weight` or `bias`.
        tensor: &'static str,
        /// Index into the tensor.
        index: usize,
        /// The value.
        value: f32,
    },
}

impl Pfn {
    /// Checks that the weights are the ones that `model` describes, and finite.
    ///
    /// # Errors
    /// [`PfnError`] with the layer and the sizes found and expected.
    pub fn check(&self, model: &Model) -> Result<(), PfnError> {
        if self.layers.len() != model.pfn.layers.len() {
            return Err(PfnError::Layers {
                found: self.layers.len(),
                expected: model.pfn.layers.len(),
            });
        }
        let mut inputs = model.pfn_in_features();
        let linears = self.layers.iter().zip(model.pfn_linear_widths());
        for (layer, (weights, outputs)) in linears.enumerate() {
            for (what, found, expected) in [
                ("in_features", weights.in_features, inputs),
                ("out_features", weights.out_features, outputs),
                ("length of weight", weights.weight.len(), inputs * outputs),
                ("length of bias", weights.bias.len(), outputs),
            ] {
                if found != expected {
                    return Err(PfnError::Size {
                        layer,
                        what,
                        found,
                        expected,
                    });
                }
            }
            for (tensor, values) in [("weight", &weights.weight), ("bias", &weights.bias)] {
                if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                    return Err(PfnError::NonFinite {
                        layer,
                        tensor,
                        index,
                        value: values[index],
                    });
                }
            }
            inputs = 2 * outputs;
        }
        Ok(())
    }
}
