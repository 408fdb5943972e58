//! Chooses the codes of weights by the error of a layer's output, not of the weights alone.
//!
//! A layer computes `W·x` over columns x: the values that its taps read for one output cell. If δ is the error of a row of
//! W, the squared error of its output over many columns is `δᵀHδ` with the Gram matrix `H = Σ x·xᵀ` ([`gram`]). So the
//! columns need not be kept. Two methods minimise it over codes:
//! - [`gptq`]: one code after the other; those that follow make up for the errors so far (Frantar et al., "Optimal Brain
//!   Compression", arXiv 2208.11580, and "GPTQ", arXiv 2210.17323);
//! - [`adaround`]: each weight goes to the code below or above it, found by gradient descent on a soft rounding (Nagel et
//!   al., "Up or Down?", arXiv 2004.10568).
//!
//! The inputs are codes, so the sums of their products are exact integers: the same bytes for any number of threads.
//!
//! With 4 bits the greatest weight of a channel makes a poor range, because a few large weights cost all others their
//! precision. The range is the greatest weight times the factor of a fixed grid that has the least error. Without a Gram
//! matrix, that is the squared error of the weights ([`searched`]). Ranges of 8 bits stay as they are.
//!
//! A result is a float weight whose nearest code is the one that was chosen: the weight itself, moved into the interval of
//! that code. So whatever quantises it again finds the same codes, and a training starts close to the float weight.

mod adaround;
mod gptq;
pub(crate) mod gram;

use std::collections::HashMap;

use super::Result;
use super::calibrate::scale_of;
use super::onnx::{Graph, Node, Shapes, Window};
use super::quantize::{Quantizer, QuantizerKind, layer_name};
use crate::cpu::Pool;
use crate::map::quantize;
use crate::plan::config::Rounding;
use crate::program::greatest_code;

use gram::Hessian;

/// The steps of the search for a range without a Gram matrix, from the greatest weight down by 1 % of it each.
const FINE: usize = 61;
/// The steps of the search by the layer's error, down by 2.5 % each.
const COARSE: usize = 25;
/// How far a weight may be from its code, in steps. At a half, the next code would be as near.
const REACH: f32 = 0.45;

/// The factors of a search: from 1 down to 0.4; one step is 1 alone.
fn factors(steps: usize) -> impl Iterator<Item = f32> {
    let last = steps.saturating_sub(1).max(1) as f32;
    (0..steps).map(move |i| 1.0 - 0.6 * i as f32 / last)
}

/// A convolution whose codes are to be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    /// The name of its weight.
    pub(crate) weight: String,
    /// The map that it reads.
    pub(crate) input: String,
    /// The value that it makes.
    pub(crate) output: String,
    /// Layers of equal depth do not depend on each other.
    pub(crate) depth: usize,
    pub(crate) geometry: Geometry,
    /// Value of code 1 of the input.
    pub(crate) input_scale: f32,
    pub(crate) bits: u8,
    /// The range of each channel.
    amax: Vec<f32>,
}

/// Which input values a convolution reads for each of its cells, and which weights belong to them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Geometry {
    pub(crate) window: Window,
    pub(crate) transposed: bool,
    /// Rows and columns of the cells: output pixels, or the input pixels of a ConvTranspose.
    pub(crate) cells: [usize; 2],
    /// Input and output channels.
    pub(crate) channels: [usize; 2],
}

impl Geometry {
    /// Input channels of a group.
    pub(crate) fn inputs(&self) -> usize {
        self.channels[0] / self.window.groups
    }

    /// Taps of a cell.
    pub(crate) fn taps(&self) -> usize {
        if self.transposed {
            1
        } else {
            self.window.kernel[0] * self.window.kernel[1]
        }
    }

    /// Values in a column of one group, in the order `[tap][input channel]`.
    pub(crate) fn column(&self) -> usize {
        self.taps() * self.inputs()
    }

    /// The rows of the weight matrix: group, output channel, and the first weight.
    fn rows(&self) -> Vec<Row> {
        let outputs = self.channels[1] / self.window.groups;
        let area = self.window.kernel[0] * self.window.kernel[1];
        let row = |o: usize| {
            let group = o / outputs;
            let phases = if self.transposed { area } else { 1 };
            let first = if self.transposed {
                (group * self.inputs() * outputs + o % outputs) * area
            } else {
                o * self.column()
            };
            (0..phases).map(move |phase| Row {
                group,
                output: o,
                first: first + phase,
            })
        };
        (0..self.channels[1]).flat_map(row).collect()
    }

    /// Index of value `k` of a column among the weights of a row, from the row's first.
    fn offset(&self, k: usize) -> usize {
        let (tap, input) = (k / self.inputs(), k % self.inputs());
        if self.transposed {
            let outputs = self.channels[1] / self.window.groups;
            input * outputs * self.window.kernel[0] * self.window.kernel[1]
        } else {
            input * self.taps() + tap
        }
    }

    /// The channel of the range of output channel `output`.
    fn range(&self, output: usize) -> usize {
        if self.transposed {
            // The axis of the weight has the channels of one group.
            output % (self.channels[1] / self.window.groups)
        } else {
            output
        }
    }
}

/// A row of the weight matrix.
#[derive(Clone, Copy, Debug)]
struct Row {
    group: usize,
    output: usize,
    first: usize,
}

/// The convolutions of `graph` whose weight and input `quantizers` quantise, in order of execution; each weight once.
/// Other layers, and ConvTranspose whose kernel is not its stride, are left out: they keep their nearest codes.
///
/// # Errors
/// [`super::BuildError`] for malformed nodes.
pub(crate) fn layers(graph: &Graph, quantizers: &[Quantizer]) -> Result<Vec<Layer>> {
    let shapes = Shapes::infer(graph, &[])?;
    let find = |kind: QuantizerKind, tensor: &str| {
        let mut all = quantizers.iter();
        all.find(|q| q.kind == kind && q.tensor == tensor)
    };
    let mut depths: HashMap<&str, usize> = HashMap::new();
    let mut layers: Vec<Layer> = Vec::new();
    for node in graph.nodes() {
        let inputs = node.proto.input.iter();
        let known = inputs.filter_map(|value| depths.get(value.as_str()));
        let mut depth = known.copied().max().unwrap_or(0);
        let convolution = matches!(node.op(), "Conv" | "ConvTranspose");
        if convolution
            && let (Some(activation), Some(weight)) = (
                find(QuantizerKind::Activation, node.need_input(0)?),
                find(QuantizerKind::Weight, node.need_input(1)?),
            )
            && let Some(geometry) = geometry(node, &shapes)?
            && layers.iter().all(|layer| layer.weight != weight.tensor)
        {
            layers.push(Layer {
                name: layer_name(graph, node),
                weight: weight.tensor.clone(),
                input: activation.tensor.clone(),
                output: node.need_output()?.to_owned(),
                depth,
                geometry,
                input_scale: scale_of(
                    activation.amax.first().copied().unwrap_or(0.0),
                    f32::from(greatest_code(8)),
                ),
                bits: weight.bits,
                amax: weight.amax.clone(),
            });
            depth += 1;
        }
        for output in &node.proto.output {
            depths.insert(output, depth);
        }
    }
    // Of equal depth: the order of execution.
    layers.sort_by_key(|layer| layer.depth);
    Ok(layers)
}

/// The geometry of a convolution; `None` for a ConvTranspose whose kernel is not its stride.
fn geometry(node: Node<'_>, shapes: &Shapes) -> Result<Option<Geometry>> {
    let transposed = node.op() == "ConvTranspose";
    let (Some(&[_, input, h, w]), Some(&[_, output, rows, columns]), Some(&[.., kh, kw])) = (
        shapes.get(node.need_input(0)?),
        shapes.get(node.need_output()?),
        shapes.get(node.need_input(1)?),
    ) else {
        return Err(node.error("its shapes are unknown"));
    };
    let window = Window::new(node, [h, w], Some([kh, kw]))?;
    let whole = window.kernel == window.stride && [rows, columns] == [h * kh, w * kw];
    Ok((!transposed || whole).then_some(Geometry {
        window,
        transposed,
        cells: if transposed { [h, w] } else { [rows, columns] },
        channels: [input, output],
    }))
}

/// A weight with chosen codes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rounded {
    /// The float weights, moved to where their nearest codes are the chosen ones.
    pub(crate) values: Vec<f32>,
    /// The range of each channel.
    pub(crate) amax: Vec<f32>,
    /// Mean error of each output channel over the columns that the Gram matrix is centred on.
    pub(crate) shift: Vec<f64>,
    /// The output's squared error `δᵀHδ` over all rows, with nearest codes and with the chosen ones.
    pub(crate) errors: [f64; 2],
}

/// How the codes of a layer are chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) method: Rounding,
    /// Whether to search the ranges of 4 bits; otherwise they are those of the layer.
    pub(crate) search: bool,
}

/// Chooses the codes of a layer. `weights` are its float weights, `hessians` the centred Gram matrices of its groups.
pub(crate) fn round(
    layer: &Layer,
    weights: &[f32],
    hessians: &[Hessian],
    options: Options,
    pool: &Pool,
) -> Rounded {
    let geometry = &layer.geometry;
    let rows = geometry.rows();
    let column = geometry.column();
    let values = |row: &Row| -> Vec<f32> {
        let each = (0..column).map(|k| weights.get(row.first + geometry.offset(k)));
        each.map(|w| w.copied().unwrap_or(0.0)).collect()
    };
    let mut channels: Vec<Channel> = vec![Channel::default(); layer.amax.len()];
    for row in &rows {
        if let Some(channel) = channels.get_mut(geometry.range(row.output)) {
            channel.rows.push((*row, values(row)));
        }
    }
    for (channel, &amax) in channels.iter_mut().zip(&layer.amax) {
        let all = channel.rows.iter().flat_map(|(_, values)| values);
        let greatest = all.fold(0.0_f32, |most, v| most.max(v.abs()));
        // A given range of 8 bits is the greatest weight, too.
        channel.amax = if options.search && layer.bits == 4 {
            greatest
        } else {
            amax
        };
    }
    let search = options.search && layer.bits == 4;
    let most = greatest_code(layer.bits);
    match options.method {
        Rounding::Adaround => adaround::choose(&mut channels, hessians, most, search, pool),
        _ => gptq::choose(&mut channels, hessians, most, search, pool),
    }
    finish(layer, weights, hessians, &channels, most)
}

/// The rows that share a range.
#[derive(Clone, Debug, Default)]
struct Channel {
    rows: Vec<(Row, Vec<f32>)>,
    amax: f32,
    /// The chosen codes of each row.
    codes: Vec<Vec<i8>>,
}

impl Channel {
    fn scale(&self, most: i8) -> f32 {
        scale_of(self.amax, f32::from(most))
    }
}

/// The nearest codes of a row.
fn nearest(values: &[f32], scale: f32, most: i8) -> Vec<i8> {
    let code = |&value| quantize(value, scale).clamp(-most, most);
    values.iter().map(code).collect()
}

/// The errors of a row's weights.
fn errors(values: &[f32], codes: &[i8], scale: f32) -> Vec<f64> {
    let scale = f64::from(scale);
    let pairs = values.iter().zip(codes);
    let each = pairs.map(|(&value, &code)| f64::from(code) * scale - f64::from(value));
    each.collect()
}

fn finish(
    layer: &Layer,
    weights: &[f32],
    hessians: &[Hessian],
    channels: &[Channel],
    most: i8,
) -> Rounded {
    let geometry = &layer.geometry;
    let mut rounded = Rounded {
        values: weights.to_vec(),
        amax: channels.iter().map(|channel| channel.amax).collect(),
        shift: vec![0.0; geometry.channels[1]],
        errors: [0.0; 2],
    };
    // A ConvTranspose has several rows of an output channel, one for each phase.
    let phases = geometry.rows().len() / geometry.channels[1].max(1);
    for channel in channels {
        let scale = channel.scale(most);
        for ((row, values), codes) in channel.rows.iter().zip(&channel.codes) {
            for (k, (&value, &code)) in values.iter().zip(codes).enumerate() {
                let at = row.first + geometry.offset(k);
                if let Some(to) = rounded.values.get_mut(at) {
                    *to = moved(value, code, scale, most);
                }
            }
            let Some(hessian) = hessians.get(row.group) else {
                continue;
            };
            let chosen = errors(values, codes, scale);
            let before = errors(values, &nearest(values, scale, most), scale);
            rounded.errors[0] += hessian.error(&before);
            rounded.errors[1] += hessian.error(&chosen);
            let mean = chosen.iter().zip(&hessian.centre);
            let mean: f64 = mean.map(|(error, centre)| error * centre).sum();
            let shift = mean * f64::from(layer.input_scale) / phases.max(1) as f64;
            if let Some(sum) = rounded.shift.get_mut(row.output) {
                *sum += shift;
            }
        }
    }
    rounded
}

/// The weight nearest to `value` whose nearest code is `code`.
fn moved(value: f32, code: i8, scale: f32, most: i8) -> f32 {
    let centre = f32::from(code);
    let least = if code == -most {
        f32::MIN
    } else {
        (centre - REACH) * scale
    };
    let greatest = if code == most {
        f32::MAX
    } else {
        (centre + REACH) * scale
    };
    value.clamp(least, greatest)
}

/// The range of each channel with the least squared error of nearest codes. `values` has `dims`, with the channels on
/// `axis`.
pub(crate) fn searched(values: &[f32], dims: &[usize], axis: usize, bits: u8) -> Vec<f32> {
    let most = greatest_code(bits);
    let count = dims.get(axis).copied().unwrap_or(1).max(1);
    let inner: usize = dims.iter().skip(axis + 1).product();
    let mut channels = vec![Vec::new(); count];
    for (i, &value) in values.iter().enumerate() {
        channels[i / inner.max(1) % count].push(value);
    }
    let range = |values: &Vec<f32>| {
        let greatest = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        let error = |amax: f32| {
            let scale = scale_of(amax, f32::from(most));
            let errors = errors(values, &nearest(values, scale, most), scale);
            errors.iter().map(|e| e * e).sum::<f64>()
        };
        least(factors(FINE).map(|factor| factor * greatest), error)
    };
    channels.iter().map(range).collect()
}

/// The first of the candidates with the least error; 0 if there are none.
fn least(candidates: impl Iterator<Item = f32>, mut error: impl FnMut(f32) -> f64) -> f32 {
    let mut best: Option<(f64, f32)> = None;
    for candidate in candidates {
        let found = error(candidate);
        if best.is_none_or(|(least, _)| found < least) {
            best = Some((found, candidate));
        }
    }
    best.map_or(0.0, |(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
