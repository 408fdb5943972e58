//! The PFN's trained weights, and the check that they match a model description.

use crate::model::Model;

/// A layer of the PFN, BatchNorm folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct PfnLayer {
    /// Input columns.
    pub in_features: usize,
    /// Outputs of the Linear itself; every layer but the last passes on twice as many (its rows and their max).
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

/// A PFN does not match its model description.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PfnError {
    /// The number of layers differs.
    #[error(
        "the PFN has {found} layers, but the model description has {expected} widths in \
         `pfn.layers`; import the matching PFN, or correct the description"
    )]
    Layers {
        /// Layers of the weights.
        found: usize,
        /// Layers of the description.
        expected: usize,
    },
    /// A number of input or output columns, or an array's length, differs.
    #[error(
        "layer {layer} of the PFN: {what} is {found}, but the model description requires {expected}; \
         import the matching PFN, or correct `points.columns`, `pfn.mean_offset`, \
         `pfn.center_offset_axes` or `pfn.layers`"
    )]
    Size {
        /// The layer, from 0.
        layer: usize,
        /// `in_features`, `out_features`, `length of weight` or `length of bias`.
        what: &'static str,
        /// Size in the weights.
        found: usize,
        /// Size according to the description.
        expected: usize,
    },
    /// A weight is NaN or infinite.
    #[error(
        "layer {layer} of the PFN: {tensor}[{index}] is {value}; the file is damaged or the training diverged"
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
    /// Checks that the weights match `model` and are finite.
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
