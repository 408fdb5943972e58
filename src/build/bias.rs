//! Bias correction: the mean error that quantisation gives an output channel is taken off its bias.
//!
//! Rounding errors of weights and inputs do not cancel in the mean: a convolution's output moves by
//! a constant per channel, which its bias can take back for free (Nagel et al., ICCV 2019; "empirical
//! bias correction"). Of a convolution `y = W·x + b` with input codes Q(x) and rounded weights W_q the
//! mean error over a set of output cells is known without running it:
//!
//! ```text
//! Δ[o] = Σ over taps t, input channels i:  W_q[o,i,t] · E[Q(x_i(t))] − W[o,i,t] · E[x_i(t)]
//! ```
//!
//! where x_i(t) is what tap t sees from each of those cells, zeros of the padding included. The means
//! come from one float pass over the frames for any number of candidates. What the layers before do to
//! x is not in it: each takes back its own error.
//!
//! The cells may be all, those over a pillar, or those that nothing in a frame reaches: in the last all
//! values are one, and the correction makes each layer exact there (see [`super::equalize`] on the
//! background).

use std::collections::{BTreeMap, HashMap};

use super::Result;
use super::calibrate;
use super::fuse::constant_name;
use super::onnx::proto::TensorProto;
use super::onnx::tensor::{self, Tensor};
use super::onnx::{Graph, Shapes, Window};
use super::quantize::{Kind, Quantizer};
use crate::map::MapView;

/// Sums what the convolutions of one quantised network read.
pub(crate) struct Collector {
    layers: Vec<Layer>,
    /// Layers by the value that they read.
    readers: HashMap<String, Vec<usize>>,
}

/// A convolution in INT8.
struct Layer {
    /// Its output.
    output: String,
    /// Float and rounded weights, `[O, I/groups, kh, kw]`.
    weight: Tensor<f32>,
    rounded: Vec<f32>,
    /// Scale of the input's codes.
    scale: f32,
    window: Window,
    /// Rows and columns of the output.
    size: [usize; 2],
    /// Cells so far.
    cells: u64,
    /// By tap, then input channel: sum of x and of Q(x) − x.
    sums: Vec<[f64; 2]>,
    channels: usize,
}

impl Collector {
    /// For the convolutions of `graph` that `quantizers` make INT8: those with a quantised weight and
    /// a quantised input.
    ///
    /// # Errors
    /// [`super::BuildError`] for malformed nodes and tensors.
    pub(crate) fn new(graph: &Graph, quantizers: &[Quantizer]) -> Result<Self> {
        let shapes = Shapes::infer(graph, &[])?;
        let of = |kind: Kind, tensor: &str| {
            let mut all = quantizers.iter();
            all.find(|q| q.kind == kind && q.tensor == tensor)
        };
        let mut layers = Vec::new();
        let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
        for node in graph.nodes().filter(|n| n.op() == "Conv") {
            let (input, weight_name) = (node.need_input(0)?, node.need_input(1)?);
            let output = node.need_output()?;
            let (Some(activation), Some(weights)) =
                (of(Kind::Activation, input), of(Kind::Weight, weight_name))
            else {
                continue;
            };
            let (Some(&[amax]), Some(weight)) =
                (activation.amax.get(..), graph.floats(weight_name)?)
            else {
                continue;
            };
            let (&[_, _, kh, kw], Some(&[_, channels, h, w]), Some(&[_, _, rows, columns])) =
                (&weight.dims[..], shapes.get(input), shapes.get(output))
            else {
                return Err(node.error("its shapes are not known"));
            };
            let window = Window::new(node, [h, w], Some([kh, kw]))?;
            readers
                .entry(input.to_owned())
                .or_default()
                .push(layers.len());
            layers.push(Layer {
                output: output.to_owned(),
                rounded: rounded(&weight, &weights.amax),
                weight,
                scale: calibrate::scale(amax),
                window,
                size: [rows, columns],
                cells: 0,
                sums: vec![[0.0; 2]; kh * kw * channels],
                channels,
            });
        }
        Ok(Self { layers, readers })
    }

    /// Counts the map `view` of the value `name` of the float network. `cells` tells of an output map
    /// of so many rows and columns which cells count.
    pub(crate) fn observe(
        &mut self,
        name: &str,
        view: MapView<'_>,
        cells: &mut dyn FnMut([usize; 2]) -> Vec<bool>,
    ) {
        for &reader in self.readers.get(name).map_or(&[][..], |r| r) {
            if let Some(layer) = self.layers.get_mut(reader) {
                layer.count(&view, &cells(layer.size));
            }
        }
    }

    /// The mean error of each output channel, by the output of the convolution.
    pub(crate) fn errors(&self) -> BTreeMap<String, Vec<f64>> {
        let counted = self.layers.iter().filter(|layer| layer.cells > 0);
        let each = counted.map(|layer| (layer.output.clone(), layer.errors()));
        each.collect()
    }
}

impl Layer {
    fn count(&mut self, view: &MapView<'_>, cells: &[bool]) {
        let layout = view.layout;
        let pixels = (0..layout.height).flat_map(|y| (0..layout.width).map(move |x| (y, x)));
        let mut values = Vec::with_capacity(layout.height * layout.width * self.channels);
        for (y, x) in pixels {
            let start = layout.index(0, y, x);
            let pixel = view.data.get(start..).unwrap_or_default().iter();
            values.extend(pixel.step_by(layout.stride_c.max(1)).take(self.channels));
        }
        let error = |&v: &f32| f32::from(crate::map::quantize(v, self.scale)) * self.scale - v;
        let errors: Vec<f32> = values.iter().map(error).collect();

        let [kh, kw] = self.window.kernel;
        let [top, left, ..] = self.window.pad;
        // Of a row in f32, which is faster and exact enough; of all rows in f64.
        let mut row = vec![[0.0_f32; 2]; self.channels];
        for (out_y, cells) in cells.chunks_exact(self.size[1].max(1)).enumerate() {
            self.cells += cells.iter().filter(|counts| **counts).count() as u64;
            for tap in 0..kh * kw {
                let y = out_y * self.window.stride[0] + tap / kw * self.window.dilation[0];
                let Some(y) = y.checked_sub(top).filter(|&y| y < layout.height) else {
                    continue;
                };
                row.fill([0.0; 2]);
                for (out_x, _) in cells.iter().enumerate().filter(|(_, counts)| **counts) {
                    let x = out_x * self.window.stride[1] + tap % kw * self.window.dilation[1];
                    let Some(x) = x.checked_sub(left).filter(|&x| x < layout.width) else {
                        continue;
                    };
                    let pixel = (y * layout.width + x) * self.channels;
                    let pixel = pixel..pixel + self.channels;
                    let (values, errors) = (&values[pixel.clone()], &errors[pixel]);
                    for ((sum, value), error) in row.iter_mut().zip(values).zip(errors) {
                        sum[0] += value;
                        sum[1] += error;
                    }
                }
                let sums = self.sums.iter_mut().skip(tap * self.channels);
                for (sum, row) in sums.zip(&row) {
                    sum[0] += f64::from(row[0]);
                    sum[1] += f64::from(row[1]);
                }
            }
        }
    }

    fn errors(&self) -> Vec<f64> {
        let &[outputs, inputs, kh, kw] = &self.weight.dims[..] else {
            return Vec::new();
        };
        let taps = kh * kw;
        let per_group = (outputs / self.window.groups).max(1);
        let row = |o: usize| {
            let first = o / per_group * inputs;
            let terms = (0..inputs * taps).map(|at| {
                let (i, tap) = (at / taps, at % taps);
                let index = o * inputs * taps + at;
                let (w, w_q) = (
                    f64::from(self.weight.data[index]),
                    f64::from(self.rounded[index]),
                );
                let [value, error] = self.sums[tap * self.channels + first + i];
                w_q * error + (w_q - w) * value
            });
            terms.sum::<f64>() / self.cells as f64
        };
        (0..outputs).map(row).collect()
    }
}

/// Weights of a Conv as their codes stand for them, by the amax of each output channel.
fn rounded(weight: &Tensor<f32>, amax: &[f32]) -> Vec<f32> {
    let per_channel = weight.dims.iter().skip(1).product::<usize>().max(1);
    let rows = weight.data.chunks(per_channel).enumerate();
    let each = rows.flat_map(|(row, values)| {
        let amax = amax.get(row).or(amax.first()).copied().unwrap_or(0.0);
        let scale = calibrate::scale(amax);
        values
            .iter()
            .map(move |&w| f32::from(crate::map::quantize(w, scale)) * scale)
    });
    each.collect()
}

/// Takes mean errors, by the output of a convolution, off its bias.
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
        for tensor in &mut proto.initializer {
            if let Some(changed) = tensors.remove(tensor.name()) {
                *tensor = changed;
            }
        }
        proto.initializer.extend(tensors.into_values());
    })
}

#[cfg(test)]
mod tests;
