//! The nodes and constants of a pair.

use crate::build::calibrate::{scale, scale_of};
use crate::build::onnx::make;
use crate::build::onnx::proto::{NodeProto, TensorProto};
use crate::build::onnx::tensor::{from_codes, from_floats};
use crate::map::quantize;
use crate::program::greatest_code;

/// Ends of the names of a pair's values: scale, zero point, codes, and for a map the values of the codes.
pub(crate) const ENDS: [&str; 4] = ["_scale", "_zero_point", "_quantized", "_dequantized"];

/// A weight to store as codes.
pub(crate) struct WeightValues<'a> {
    pub(crate) dims: &'a [usize],
    /// In the order of `dims`.
    pub(crate) values: &'a [f32],
    /// The axis of the output channels.
    pub(crate) axis: usize,
    /// The range of each channel, or one for all.
    pub(crate) amax: &'a [f32],
    /// Bits of a code, 8 or 4.
    pub(crate) bits: u8,
}

impl WeightValues<'_> {
    /// The value of code 1 in each channel.
    pub(crate) fn scales(&self) -> Vec<f32> {
        let most = f32::from(greatest_code(self.bits));
        self.amax.iter().map(|&a| scale_of(a, most)).collect()
    }

    /// The codes. Weights beyond their range saturate at both ends alike.
    pub(crate) fn codes(&self) -> Vec<i8> {
        let most = greatest_code(self.bits);
        let scales = self.scales();
        let codes = quantized(self.values, self.dims, self.axis, &scales);
        codes.map(|code| code.clamp(-most, most)).collect()
    }
}

/// The codes of values with one scale for each index of `axis`, or one for all, as QuantizeLinear makes them.
pub(crate) fn quantized<'a>(
    values: &'a [f32],
    dims: &[usize],
    axis: usize,
    scales: &'a [f32],
) -> impl Iterator<Item = i8> + 'a {
    let inner: usize = dims.iter().skip(axis + 1).product();
    values.iter().enumerate().map(move |(i, &value)| {
        let channel = i / inner.max(1) % scales.len().max(1);
        quantize(value, scales.get(channel).copied().unwrap_or(1.0))
    })
}

/// The DequantizeLinear of the weight `name` and its constants. `names` are those of scale, zero point and codes; `output`
/// is the value that layers read.
pub(crate) fn of_weight(
    name: &str,
    weight: &WeightValues<'_>,
    [scale_name, zero, codes_name]: [&str; 3],
    output: &str,
) -> (NodeProto, [TensorProto; 3]) {
    let scales = weight.scales();
    let count = scales.len();
    let tensors = [
        from_codes(codes_name, weight.dims, &weight.codes()),
        from_floats(scale_name, &[count], &scales),
        from_codes(zero, &[count], &vec![0; count]),
    ];
    let inputs = [codes_name, scale_name, zero];
    let node_name = format!("{name}_DequantizeLinear");
    let mut node = make::node("DequantizeLinear", &node_name, &inputs, output);
    node.attribute = vec![make::int("axis", weight.axis as i64)];
    (node, tensors)
}

/// The pair of the map `value` and its constants. `names` are those of scale, zero point, codes, and the value after the
/// pair; names of nodes end with `end`.
pub(crate) fn of_map(
    value: &str,
    amax: f32,
    [scale_name, zero, codes, output]: [&str; 4],
    end: &str,
) -> ([NodeProto; 2], [TensorProto; 2]) {
    let tensors = [
        from_floats(scale_name, &[], &[scale(amax)]),
        from_codes(zero, &[], &[0]),
    ];
    let nodes = [
        ("QuantizeLinear", value, codes),
        ("DequantizeLinear", codes, output),
    ];
    let nodes = nodes.map(|(op, from, to)| {
        let name = format!("{value}_{op}{end}");
        make::node(op, &name, &[from, scale_name, zero], to)
    });
    (nodes, tensors)
}
