//! Explicit INT8: QuantizeLinear/DequantizeLinear pairs (Q/DQ) in an ONNX graph.
//!
//! A pair rounds a tensor to signed 8-bit codes and back: `code = clamp(rint(x / scale))`,
//! `x' = code · scale`, with zero point 0 and ties to even. An engine runs a convolution in integers if
//! all of its inputs come from pairs. `placement.rs` decides where pairs go. Their scales come from
//! calibration: `scale = amax / 127`.
//!
//! ```text
//!  x ─ QuantizeLinear ─ DequantizeLinear ─┐           x: per tensor, one pair for all its readers
//!  w (INT8 initializer) DequantizeLinear ─┴ Conv      w: per output channel
//! ```
//!
//! New names are `<tensor>_scale`, `<tensor>_zero_point`, `<tensor>_quantized` and
//! `<tensor>_dequantized`. A weight that only quantised layers read keeps its name after its
//! DequantizeLinear, so layers keep their names, too. The result uses operator set 13 or later, which
//! has scales per channel.

mod insert;
pub(crate) mod pairs;
mod placement;
mod read;

use std::collections::BTreeMap;

pub use placement::Placement;
pub(crate) use placement::{QuantizableLayer, layer_name, layers};
pub(crate) use read::{read, read_pair};

pub(crate) use crate::plan::{Quantizer, QuantizerKind};

use super::onnx::{Graph, opset};
use super::{BuildError, Result};

/// Largest number of tensors that an error names.
const MAX_NAMED: usize = 4;

/// How a weight is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WeightFormat {
    /// Bits of its codes, 8 or 4.
    pub(crate) bits: u8,
    /// Ranges, one per output channel; weights beyond them saturate. `None` takes the greatest magnitudes. A training keeps
    /// ranges that are set.
    pub(crate) amax: Option<Vec<f32>>,
}

/// Formats by the name of the weight; the others have 8 bits and the ranges of their values.
pub(crate) type WeightFormats = BTreeMap<String, WeightFormat>;

/// A quantised graph.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The graph with its pairs; everything else is FP32.
    pub graph: Graph,
    /// The pairs: activations in order of execution, then weights.
    pub quantizers: Vec<Quantizer>,
    /// Options that had no effect.
    pub warnings: Vec<String>,
}

/// The values of `graph` that [`insert_qdq`] needs an amax for, in order of execution.
///
/// # Errors
/// [`BuildError::Node`] for a malformed node or an already quantised graph.
pub fn tensors_to_calibrate(graph: &Graph, placement: &Placement) -> Result<Vec<String>> {
    let plan = placement::plan(graph, placement)?;
    Ok(plan.maps.into_iter().map(|(value, _)| value).collect())
}

/// The planned maps that share their scale with others, and those others.
///
/// # Errors
/// As [`tensors_to_calibrate`].
pub(crate) fn shared(
    graph: &Graph,
    placement: &Placement,
) -> Result<BTreeMap<String, Vec<String>>> {
    let plan = placement::plan(graph, placement)?;
    let others = |(value, group): (&String, &usize)| {
        let same = plan
            .groups
            .iter()
            .filter(|(v, g)| *g == group && *v != value);
        (value.clone(), same.map(|(v, _)| v.clone()).collect())
    };
    Ok(plan.groups.iter().map(others).collect())
}

/// The constant weights of a layer: name, and axis of the output channels.
///
/// # Errors
/// [`BuildError::Node`] for a malformed node.
pub(crate) fn weights(graph: &Graph, layer: &QuantizableLayer) -> Result<Vec<(String, usize)>> {
    let Some(node) = graph.producer(&layer.output) else {
        return Ok(Vec::new());
    };
    let mut weights = Vec::new();
    for index in 0..2 {
        let name = node.need_input(index)?;
        if let Some(weight) = graph.array(name)? {
            let axis = insert::channel_axis(node, index, weight.ndim())?;
            weights.push((name.to_owned(), axis));
        }
    }
    Ok(weights)
}

/// Inserts Q/DQ pairs into a float graph. `amax` holds the calibrated range of each of
/// [`tensors_to_calibrate`]; other entries are ignored. The range of a weight is its largest magnitude
/// per output channel.
///
/// # Errors
/// - [`BuildError::NoRange`] if `amax` lacks tensors, as a calibration of another network does.
/// - [`BuildError::BadRange`] if a range is NaN, infinite or negative.
/// - [`BuildError::Tensor`] for a weight that is not finite.
/// - [`BuildError::Node`] for a node that is malformed, or whose meaning changes in operator set 13.
pub fn insert_qdq(
    graph: &Graph,
    amax: &BTreeMap<String, f32>,
    placement: &Placement,
) -> Result<Quantized> {
    insert_qdq_with(graph, amax, &BTreeMap::new(), placement)
}

/// As [`insert_qdq`], with the formats of weights.
///
/// # Errors
/// As [`insert_qdq`].
pub(crate) fn insert_qdq_with(
    graph: &Graph,
    amax: &BTreeMap<String, f32>,
    weights: &WeightFormats,
    placement: &Placement,
) -> Result<Quantized> {
    // Cheap, because the weights are shared.
    let mut graph = graph.clone();
    let mut plan = placement::plan(&graph, placement)?;
    let mut warnings = std::mem::take(&mut plan.warnings);
    if plan.maps.is_empty() && plan.weights.is_empty() {
        warnings.push("the options leave no layer to quantise".to_owned());
        return Ok(Quantized {
            graph,
            quantizers: Vec::new(),
            warnings,
        });
    }
    opset::raise(&mut graph, 13)?;
    let activations = activations(&graph, &plan, amax)?;
    let quantizers = insert::insert(&mut graph, &plan, activations, weights)?;
    Ok(Quantized {
        graph,
        quantizers,
        warnings,
    })
}

/// The quantisers of the planned maps. Maps that share a scale use the largest amax among them.
fn activations(
    graph: &Graph,
    plan: &placement::PairPlan,
    amax: &BTreeMap<String, f32>,
) -> Result<Vec<Quantizer>> {
    let missing = plan.maps.iter().filter(|(v, _)| !amax.contains_key(v));
    let missing: Vec<&str> = missing.map(|(value, _)| value.as_str()).collect();
    if !missing.is_empty() {
        let shown = missing.iter().take(MAX_NAMED).map(|v| format!("\"{v}\""));
        let shown: Vec<String> = shown.collect();
        let more = if missing.len() > MAX_NAMED {
            ", …"
        } else {
            ""
        };
        return Err(BuildError::NoRange {
            path: graph.path().to_path_buf(),
            missing: missing.len(),
            needed: plan.maps.len(),
            tensors: shown.join(", ") + more,
        });
    }
    let own = |value: &String| amax.get(value).copied().unwrap_or(0.0);
    let mut shared: BTreeMap<usize, f32> = BTreeMap::new();
    for (value, _) in &plan.maps {
        let amax = own(value);
        if !(amax.is_finite() && amax >= 0.0) {
            return Err(BuildError::BadRange {
                path: graph.path().to_path_buf(),
                tensor: value.clone(),
                amax,
            });
        }
        if let Some(&group) = plan.groups.get(value) {
            let largest = shared.entry(group).or_default();
            *largest = largest.max(amax);
        }
    }
    let quantizer = |(value, _): &(String, _)| {
        let own = own(value);
        let group = plan.groups.get(value);
        let amax = group.and_then(|g| shared.get(g)).copied().unwrap_or(own);
        Quantizer {
            tensor: value.clone(),
            layer: None,
            kind: QuantizerKind::Activation,
            bits: 8,
            axis: None,
            amax: vec![amax],
            own_amax: (amax != own).then_some(own),
            saturated: None,
            readers: plan.layers.get(value).cloned().unwrap_or_default(),
        }
    };
    Ok(plan.maps.iter().map(quantizer).collect())
}

#[cfg(test)]
mod tests;
