//! Bias correction: subtracts the mean error that quantisation causes in an output channel from its bias.
//!
//! The rounding errors of weights and inputs do not cancel on average. They shift each channel of a
//! convolution's output by a constant, which the bias can absorb at no cost ("empirical bias
//! correction", Nagel et al., ICCV 2019). For a convolution `y = W·x + b` with input codes Q(x) and
//! rounded weights W_q, the mean error over a set of output cells follows without running it:
//!
//! ```text
//! Δ[o] = Σ over taps t, input channels i:  W_q[o,i,t] · E[Q(x_i(t))] − W[o,i,t] · E[x_i(t)]
//! ```
//!
//! where x_i(t) is the value that tap t reads for each of those cells, including the zeros of the
//! padding. One float pass over the frames yields the means for any number of candidates. The formula
//! ignores the errors of earlier layers in x: each layer corrects its own error.
//!
//! The cells may be all cells, those above a pillar, or those that nothing in a frame reaches. In the
//! last set all cells have the same value, so the correction makes each layer exact there (see
//! [`super::equalize`] on the background).

use std::collections::{BTreeMap, HashMap};

use ndarray::{Array3, Array4, Axis, Ix4, s};

use super::Result;
use super::calibrate;
use super::fuse::constant_name;
use super::onnx::make::put_initializers;
use super::onnx::proto::TensorProto;
use super::onnx::{Graph, Shapes, Window, tensor};
use super::quantize::{Quantizer, QuantizerKind};
use crate::build::quantize::pairs::WeightValues;
use crate::map::{MapView, quantize};

/// Sums the inputs of the INT8 convolutions of one network.
pub(crate) struct Collector {
    convs: Vec<ConvSums>,
    /// Indices of the convolutions by the value that they read.
    readers: HashMap<String, Vec<usize>>,
}

/// An INT8 convolution and the sums of its inputs.
struct ConvSums {
    /// Name of its output.
    output: String,
    /// Float and rounded weights, `[O, I/groups, kh, kw]`.
    weight: Array4<f32>,
    rounded: Array4<f32>,
    /// Scale of the input's codes.
    scale: f32,
    window: Window,
    /// Rows and columns of the output.
    size: [usize; 2],
    /// Number of output cells so far.
    cells: u64,
    /// Sums of x and of Q(x) − x, `[kh, kw, I]`.
    sums: Array3<[f64; 2]>,
}

impl Collector {
    /// Observes the convolutions of `graph` that `quantizers` make INT8: those whose weight and input
    /// are both quantised. `coded` is the same network with the weights that codes come from, which rounding may have
    /// moved.
    ///
    /// # Errors
    /// [`super::BuildError`] for malformed nodes and tensors.
    pub(crate) fn new(graph: &Graph, coded: &Graph, quantizers: &[Quantizer]) -> Result<Self> {
        let shapes = Shapes::infer(graph, &[])?;
        let quantizer = |kind: QuantizerKind, tensor: &str| {
            let mut all = quantizers.iter();
            all.find(|q| q.kind == kind && q.tensor == tensor)
        };
        let mut convs = Vec::new();
        let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
        for node in graph.nodes().filter(|n| n.op() == "Conv") {
            let (input, weight_name) = (node.need_input(0)?, node.need_input(1)?);
            let output = node.need_output()?;
            let (Some(activation), Some(weights)) = (
                quantizer(QuantizerKind::Activation, input),
                quantizer(QuantizerKind::Weight, weight_name),
            ) else {
                continue;
            };
            let (Some(&[amax]), Some(weight), Some(moved)) = (
                activation.amax.get(..),
                graph.array(weight_name)?,
                coded.array(weight_name)?,
            ) else {
                continue;
            };
            let (Ok(weight), Ok(moved), Some(&[_, channels, h, w]), Some(&[_, _, rows, columns])) = (
                weight.into_dimensionality::<Ix4>(),
                moved.into_dimensionality::<Ix4>(),
                shapes.get(input),
                shapes.get(output),
            ) else {
                return Err(node.error("its shapes are unknown"));
            };
            let (_, _, kh, kw) = weight.dim();
            let window = Window::new(node, [h, w], Some([kh, kw]))?;
            readers
                .entry(input.to_owned())
                .or_default()
                .push(convs.len());
            convs.push(ConvSums {
                output: output.to_owned(),
                rounded: rounded(&moved, weights),
                weight,
                scale: calibrate::scale(amax),
                window,
                size: [rows, columns],
                cells: 0,
                sums: Array3::from_elem((kh, kw, channels), [0.0; 2]),
            });
        }
        Ok(Self { convs, readers })
    }

    /// Adds the map `view` of the value `name` in the float network. For an output map of the given
    /// rows and columns, `cells` selects the cells that count.
    pub(crate) fn observe(
        &mut self,
        name: &str,
        view: MapView<'_>,
        cells: &mut dyn FnMut([usize; 2]) -> Vec<bool>,
    ) {
        for &reader in self.readers.get(name).map_or(&[][..], |r| r) {
            if let Some(conv) = self.convs.get_mut(reader) {
                conv.add(&view, &cells(conv.size));
            }
        }
    }

    /// The mean error of each output channel, by the name of the convolution's output.
    pub(crate) fn errors(&self) -> BTreeMap<String, Vec<f64>> {
        let observed = self.convs.iter().filter(|conv| conv.cells > 0);
        let each = observed.map(|conv| (conv.output.clone(), conv.errors()));
        each.collect()
    }
}

impl ConvSums {
    fn add(&mut self, view: &MapView<'_>, cells: &[bool]) {
        let layout = view.layout;
        let channels = self.sums.len_of(Axis(2));
        let values = Array3::from_shape_fn((layout.height, layout.width, channels), |(y, x, c)| {
            view.data.get(layout.index(c, y, x)).copied().unwrap_or(0.0)
        });
        let errors = values.mapv(|v| f32::from(quantize(v, self.scale)) * self.scale - v);

        let [top, left, ..] = self.window.pad;
        let ([stride_y, stride_x], [dilation_y, dilation_x]) =
            (self.window.stride, self.window.dilation);
        // Sums over a row are f32, which is faster and exact enough; sums over rows are f64.
        let mut row = vec![[0.0_f32; 2]; channels];
        for (out_y, cells) in cells.chunks_exact(self.size[1].max(1)).enumerate() {
            self.cells += cells.iter().filter(|counts| **counts).count() as u64;
            for (tap_y, mut taps) in self.sums.outer_iter_mut().enumerate() {
                let y = out_y * stride_y + tap_y * dilation_y;
                let Some(y) = y.checked_sub(top).filter(|&y| y < layout.height) else {
                    continue;
                };
                let (values, errors) =
                    (values.index_axis(Axis(0), y), errors.index_axis(Axis(0), y));
                for (tap_x, sums) in taps.outer_iter_mut().enumerate() {
                    row.fill([0.0; 2]);
                    for (out_x, _) in cells.iter().enumerate().filter(|(_, counts)| **counts) {
                        let x = out_x * stride_x + tap_x * dilation_x;
                        let Some(x) = x.checked_sub(left).filter(|&x| x < layout.width) else {
                            continue;
                        };
                        // Slices, because the compiler does not vectorise iterators over arrays.
                        let (values, errors) = (values.row(x), errors.row(x));
                        let pixel = (values.to_slice().unwrap_or_default().iter())
                            .zip(errors.to_slice().unwrap_or_default());
                        for (sum, (value, error)) in row.iter_mut().zip(pixel) {
                            sum[0] += value;
                            sum[1] += error;
                        }
                    }
                    for (sum, row) in sums.into_iter().zip(&row) {
                        sum[0] += f64::from(row[0]);
                        sum[1] += f64::from(row[1]);
                    }
                }
            }
        }
    }

    fn errors(&self) -> Vec<f64> {
        let (outputs, inputs, ..) = self.weight.dim();
        let per_group = (outputs / self.window.groups).max(1);
        let weights = self.weight.outer_iter().zip(self.rounded.outer_iter());
        let each = weights.enumerate().map(|(o, (weight, rounded))| {
            let first = o / per_group * inputs;
            let sums = self.sums.slice(s![.., .., first..first + inputs]);
            // From [kh, kw, I] to the order of the weights, [I, kh, kw].
            let sums = sums.permuted_axes([2, 0, 1]);
            let terms = weight.iter().zip(&rounded).zip(&sums);
            let terms = terms.map(|((&w, &w_q), &[value, error])| {
                let (w, w_q) = (f64::from(w), f64::from(w_q));
                w_q * error + (w_q - w) * value
            });
            terms.sum::<f64>() / self.cells as f64
        });
        each.collect()
    }
}

/// The weights of a Conv as their codes have them.
fn rounded(weight: &Array4<f32>, quantizer: &Quantizer) -> Array4<f32> {
    let values: Vec<f32> = weight.iter().copied().collect();
    let coded = WeightValues {
        dims: weight.shape(),
        values: &values,
        axis: 0,
        amax: &quantizer.amax,
        bits: quantizer.bits,
    };
    let (codes, scales) = (coded.codes(), coded.scales());
    let mut rounded = weight.clone();
    let inner = (codes.len() / rounded.dim().0.max(1)).max(1);
    for (i, (value, code)) in rounded.iter_mut().zip(codes).enumerate() {
        *value = f32::from(code) * scales[i / inner % scales.len().max(1)];
    }
    rounded
}

/// Subtracts mean errors, by the name of a convolution's output, from its bias.
///
/// # Errors
/// [`super::BuildError`] for malformed nodes and tensors.
pub(crate) fn correct(graph: &mut Graph, errors: &BTreeMap<String, Vec<f64>>) -> Result<()> {
    let mut inputs: HashMap<String, String> = HashMap::new();
    let mut tensors: BTreeMap<String, TensorProto> = BTreeMap::new();
    for node in graph.nodes().filter(|n| n.op() == "Conv") {
        let Some(errors) = errors.get(node.need_output()?) else {
            continue;
        };
        let bias = match node.input(2) {
            Some(name) => graph.floats(name)?.map(|t| t.data),
            None => None,
        };
        let bias = bias.unwrap_or_else(|| vec![0.0; errors.len()]);
        let each = bias
            .iter()
            .zip(errors)
            .map(|(b, e)| (f64::from(*b) - e) as f32);
        let data: Vec<f32> = each.collect();
        let name = constant_name(graph, node, 2, "bias")?;
        tensors.insert(
            name.clone(),
            tensor::from_floats(&name, &[data.len()], &data),
        );
        inputs.insert(node.need_output()?.to_owned(), name);
    }
    graph.edit(|proto| {
        for node in &mut proto.node {
            let output = node.output.first().map_or("", String::as_str);
            if let Some(name) = inputs.remove(output) {
                node.input.truncate(2);
                node.input.push(name);
            }
        }
        put_initializers(proto, tensors.into_values());
    })
}

#[cfg(test)]
mod tests;
