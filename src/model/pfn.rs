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
    /// Changes the weights of a network that was trained on `legacy` columns, whose coordinates were replaced by the
    /// offsets from the pillar's centre, so that they expect the coordinates: an offset's weight becomes the sum of
    /// both, a coordinate's 0. Does nothing for other networks, and nothing the second time.
    ///
    /// Source: mmdetection3d's `PillarFeatureNet(legacy=True)`, which subtracts the centre in place.
    #[cfg(feature = "build")]
    pub(crate) fn fold_legacy(&mut self, model: &Model) {
        let (true, Some(first)) = (model.pfn.legacy, self.layers.first_mut()) else {
            return;
        };
        let inputs = model.pfn_in_features();
        let offsets = inputs - model.pfn.center_axes;
        for row in first.weight.chunks_exact_mut(inputs) {
            for axis in 0..model.pfn.center_axes {
                row[offsets + axis] += std::mem::take(&mut row[axis]);
            }
        }
    }

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

#[cfg(all(test, feature = "build"))]
mod tests {
    use super::*;
    use crate::testing::{Random, TINY};
    use std::path::Path;

    /// A linear layer of the columns that mmdetection3d makes with `legacy=True`, and the folded one of the ordinary
    /// columns.
    #[test]
    fn legacy_columns_are_folded_into_the_weights() {
        for axes in [2, 3] {
            let pfn = format!("mean_offset = true\ncenter_offset_axes = {axes}\nlegacy = true");
            let text = TINY
                .replace(r#"["x", "y", "z"]"#, r#"["x", "y", "z", "intensity"]"#)
                .replace("mean_offset = false\ncenter_offset_axes = 0", &pfn);
            let model = Model::parse(&text, Path::new("model.toml")).unwrap();
            let inputs = model.pfn_in_features();
            let mut random = Random(axes as u64);
            let mut values =
                |count: usize| -> Vec<f32> { (0..count).map(|_| random.signed()).collect() };
            let mut pfn = Pfn {
                layers: vec![PfnLayer {
                    in_features: inputs,
                    out_features: 2,
                    weight: values(2 * inputs),
                    bias: values(2),
                }],
            };
            let linear = |pfn: &Pfn, row: &[f32]| -> Vec<f64> {
                let rows = pfn.layers[0].weight.chunks_exact(inputs);
                rows.map(|weights| {
                    let products = weights.iter().zip(row).map(|(&w, &x)| f64::from(w * x));
                    products.sum()
                })
                .collect()
            };
            let (mut row, center, mean) = (values(4), values(3), values(3));
            let offsets: Vec<f32> = (0..axes).map(|axis| row[axis] - center[axis]).collect();
            row.extend_from_slice(&mean);
            row.extend_from_slice(&offsets);
            // The view of the coordinates is subtracted in place.
            let mut legacy = row.clone();
            legacy[..axes].copy_from_slice(&offsets);
            let expected = linear(&pfn, &legacy);
            pfn.fold_legacy(&model);
            for (found, expected) in linear(&pfn, &row).into_iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{axes}: {found} {expected}"
                );
            }
            // Reading the folder of a quantised model folds again.
            let once = pfn.clone();
            pfn.fold_legacy(&model);
            assert_eq!(pfn, once);
        }
    }
}
