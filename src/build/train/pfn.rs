//! The pillar feature network in training: Linear, BatchNormalization if the file has one, ReLU and the max over the points
//! of a pillar, with their gradients.
//!
//! ```text
//! rows of all pillars [row][column] ─ Linear ─ Norm ─ ReLU ─┬─ max by pillar ─ features [pillar][channel]
//!                                                           └─ next layer: each row and its pillar's max
//! ```
//!
//! A pillar that is not full has one row of zeros for all its padding: the max sees it, and BatchNormalization counts it
//! once. mmdetection3d counts each row of padding; statistics of points are closer to what the layer sees.
//!
//! The columns of a point differ by orders of magnitude (metres of position, hundredths of a second), but Adam moves all
//! weights at one speed. So the first layer is trained on columns that are scaled to one size, and its weights are scaled
//! back where they leave ([`PfnNetwork::write`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kernels::{Outer, outer};
use super::network::{Network, write_tensors};
use super::norm::{Norm, Rows};
use super::params::{Params, Role};
use crate::build::Result;
use crate::build::import::{LayerTensors, UnfusedLayer};
use crate::build::onnx::Graph;
use crate::cpu::Pool;
use crate::engine::cpu::Isa;
use crate::model::{Pfn, PfnLayer};
use crate::program::layout::LANES;
use crate::synth::Rng;

/// Rows in one task, and in one partial sum of the gradient of weights.
const CHUNK: usize = 1024;

/// The pillars of a frame: input rows, and how many each pillar has.
#[derive(Clone, Debug, Default)]
pub(crate) struct PillarRows {
    /// Cells of the pillars, `y · width + x`.
    pub(crate) cells: Vec<u32>,
    /// `[row][column]`.
    pub(crate) rows: Vec<f32>,
    /// Rows of each pillar.
    pub(crate) lengths: Vec<u32>,
}

impl PillarRows {
    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.cells[..]) + size_of_val(&self.rows[..]) + size_of_val(&self.lengths[..])
    }
}

/// A layer, its parameters as numbers of tensors, and its values on the last batch.
#[derive(Clone, Debug)]
struct Layer {
    inputs: usize,
    outputs: usize,
    /// `[output][input]`.
    weight: usize,
    bias: Option<usize>,
    norm: Option<Norm>,
    /// Input `[row][input]` with [`LANES`] values beyond.
    input: Vec<f32>,
    /// Before the normalisation, `[row][output]`.
    linear: Vec<f32>,
    /// After the ReLU.
    active: Vec<f32>,
    /// The row of each maximum, `[pillar][output]`.
    top: Vec<u32>,
}

/// The network. Its parameters belong to those of the network behind it.
#[derive(Clone, Debug)]
pub(crate) struct PfnNetwork {
    layers: Vec<Layer>,
    /// Names of each layer's tensors in the file.
    tensors: Vec<UnfusedLayer>,
    /// Factor of each column of the input.
    scale: Vec<f32>,
    /// First row of each pillar of the last batch, and the end.
    starts: Vec<usize>,
    isa: Isa,
    pool: Arc<Pool>,
}

impl PfnNetwork {
    /// Adds the parameters of a PFN whose BatchNormalization is folded. Otherwise as [`PfnNetwork::new`].
    ///
    /// # Errors
    /// As [`PfnNetwork::new`].
    pub(crate) fn folded(
        pfn: &Pfn,
        scale: Vec<f32>,
        params: &mut Params,
        pool: Arc<Pool>,
    ) -> Result<Self> {
        let layers = pfn.layers.iter().enumerate().map(|(number, layer)| {
            let tensors = LayerTensors {
                weight: parameter(number, "weight"),
                rows_are_outputs: true,
                bias: Some(parameter(number, "bias")),
                norm: None,
            };
            (layer.clone(), tensors)
        });
        Self::new(layers.collect(), scale, params, pool)
    }

    /// The PFN of the parameters, where no layer has a BatchNormalization.
    pub(crate) fn pfn(&self, params: &Params) -> Pfn {
        let layers = self.layers.iter().enumerate().map(|(number, layer)| {
            let bias = layer.bias.map(|bias| params.values(bias).to_vec());
            PfnLayer {
                in_features: layer.inputs,
                out_features: layer.outputs,
                weight: self.weight(number, params),
                bias: bias.unwrap_or_else(|| vec![0.0; layer.outputs]),
            }
        });
        Pfn {
            layers: layers.collect(),
        }
    }

    /// The weight of a layer for columns as they are, `[output][input]`.
    fn weight(&self, number: usize, params: &Params) -> Vec<f32> {
        let layer = &self.layers[number];
        let mut weight = params.values(layer.weight).to_vec();
        if number == 0 {
            for row in weight.chunks_exact_mut(layer.inputs) {
                row.iter_mut().zip(&self.scale).for_each(|(w, s)| *w *= s);
            }
        }
        weight
    }

    /// Adds the parameters of layers to `params`. `scale` are the factors of the input's columns.
    ///
    /// # Errors
    /// As [`Isa::best`].
    pub(crate) fn new(
        layers: Vec<UnfusedLayer>,
        scale: Vec<f32>,
        params: &mut Params,
        pool: Arc<Pool>,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for (number, (layer, tensors)) in layers.iter().enumerate() {
            let name = |part: &str| parameter(number, part);
            let mut weight = layer.weight.clone();
            if number == 0 {
                for row in weight.chunks_exact_mut(layer.in_features) {
                    row.iter_mut().zip(&scale).for_each(|(w, s)| *w /= s);
                }
            }
            let weight = params.push(&name("weight"), Role::Weight, &weight);
            let bias = tensors
                .bias
                .is_some()
                .then(|| params.push(&name("bias"), Role::Bias, &layer.bias));
            let norm = tensors.norm.as_ref().map(|norm| {
                let parts = NORM.into_iter().zip(&norm.tensors);
                let mut numbers = [0; 4];
                for (number, ((part, role), (_, values))) in numbers.iter_mut().zip(parts) {
                    *number = params.push(&name(part), role, values);
                }
                Norm::new(numbers, norm.epsilon, norm.momentum)
            });
            all.push(Layer {
                inputs: layer.in_features,
                outputs: layer.out_features,
                weight,
                bias,
                norm,
                input: Vec::new(),
                linear: Vec::new(),
                active: Vec::new(),
                top: Vec::new(),
            });
        }
        Ok(Self {
            layers: all,
            tensors: layers,
            scale,
            starts: Vec::new(),
            isa: Isa::best()?,
            pool,
        })
    }

    /// Writes the parameters into the graph that the layers were read from.
    ///
    /// # Errors
    /// As [`write_tensors`].
    pub(crate) fn write(&self, params: &Params, graph: &mut Graph) -> Result<()> {
        let mut changed = BTreeMap::new();
        for (number, (layer, (_, tensors))) in self.layers.iter().zip(&self.tensors).enumerate() {
            let mut weight = self.weight(number, params);
            if !tensors.rows_are_outputs {
                weight = transposed(&weight, layer.inputs);
            }
            changed.insert(tensors.weight.clone(), weight);
            if let (Some(name), Some(bias)) = (&tensors.bias, layer.bias) {
                changed.insert(name.clone(), params.values(bias).to_vec());
            }
            if let (Some(names), Some(norm)) = (&tensors.norm, &layer.norm) {
                let all = [norm.gamma, norm.beta, norm.mean, norm.variance];
                for ((name, _), tensor) in names.tensors.iter().zip(all) {
                    changed.insert(name.clone(), params.values(tensor).to_vec());
                }
            }
        }
        write_tensors(graph, changed)
    }

    /// Sets the rates of the parameters, by the name of a layer: `pfn_layers.0` and so on.
    pub(crate) fn set_rates(&self, params: &mut Params, rate: &dyn Fn(&str) -> f32) {
        for (name, layer) in self.layer_names().iter().zip(&self.layers) {
            let norm = layer.norm.iter().flat_map(|norm| [norm.gamma, norm.beta]);
            for index in [layer.weight].into_iter().chain(layer.bias).chain(norm) {
                params.set_rate(index, rate(name));
            }
        }
    }

    /// Names of the layers.
    pub(crate) fn layer_names(&self) -> Vec<String> {
        let numbers = 0..self.layers.len();
        numbers.map(|number| format!("{PREFIX}.{number}")).collect()
    }

    /// Draws random weights, as PyTorch's Linear does, and forgets the statistics.
    pub(crate) fn start_anew(&self, params: &mut Params, rng: &mut Rng) {
        for layer in &self.layers {
            let bound = 1.0 / (layer.inputs as f64).sqrt();
            for weight in params.values_mut(layer.weight) {
                *weight = rng.range(-bound, bound) as f32;
            }
            if let Some(bias) = layer.bias {
                params.values_mut(bias).fill(0.0);
            }
            if let Some(norm) = &layer.norm {
                norm.start_anew(params);
            }
        }
    }

    /// Computes the features of frames into the input of the network behind it, whose parameters are its own.
    pub(crate) fn fill(&mut self, frames: &[&PillarRows], network: &mut Network) {
        let features = self.forward(frames, &mut network.params);
        let channels = self.channels();
        let input = network.batch(frames.len());
        let mut rest = &features[..];
        for (number, frame) in frames.iter().enumerate() {
            let (own, others) = rest.split_at(frame.cells.len() * channels);
            rest = others;
            let cells = frame.cells.iter().map(|&cell| cell as usize);
            input.set_pillars(number, cells.zip(own.chunks_exact(channels)));
        }
    }

    /// The backward pass of that network and of this one, for the frames of [`PfnNetwork::fill`].
    pub(crate) fn learn(&mut self, frames: &[&PillarRows], network: &mut Network) {
        let Some(gradient) = network.backward(true) else {
            return;
        };
        let mut features = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            for &cell in &frame.cells {
                features.extend_from_slice(gradient.pixel(number, cell as usize));
            }
        }
        network.give(gradient);
        self.backward(&features, &mut network.params);
    }

    /// Channels of a pillar's features.
    fn channels(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Computes the features of all pillars of the frames, `[pillar][channel]`.
    fn forward(&mut self, frames: &[&PillarRows], params: &mut Params) -> Vec<f32> {
        self.starts.clear();
        self.starts.push(0);
        let mut end = 0;
        for &length in frames.iter().flat_map(|f| &f.lengths) {
            end += length as usize;
            self.starts.push(end);
        }
        let columns = self.scale.len();
        let mut input = Vec::with_capacity(end * columns + LANES);
        for frame in frames {
            for row in frame.rows.chunks_exact(columns.max(1)) {
                input.extend(row.iter().zip(&self.scale).map(|(v, s)| v * s));
            }
        }
        let last = self.layers.len().saturating_sub(1);
        for (number, layer) in self.layers.iter_mut().enumerate() {
            input.extend([0.0; LANES]);
            layer.input = input;
            layer.forward(&self.pool, self.isa, end, params);
            let maxima = layer.maxima(&self.starts);
            if number == last {
                return maxima;
            }
            input = Vec::with_capacity(end * 2 * layer.outputs + LANES);
            let pillars = self
                .starts
                .windows(2)
                .zip(maxima.chunks_exact(layer.outputs));
            for (rows, maxima) in pillars {
                for row in rows[0]..rows[1] {
                    input.extend_from_slice(layer.row(row));
                    input.extend_from_slice(maxima);
                }
            }
        }
        Vec::new()
    }

    /// Adds the gradients of the parameters; `gradient` is that of the features.
    fn backward(&mut self, gradient: &[f32], params: &mut Params) {
        let rows = self.starts.last().copied().unwrap_or(0);
        let mut pillar_gradient = gradient.to_vec();
        // Gradient of the rows of a layer, which the next one reads; none behind the last.
        let mut next: Vec<f32> = Vec::new();
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let outputs = layer.outputs;
            let mut own = vec![0.0f32; rows * outputs + LANES];
            for (pillar, range) in self.starts.windows(2).enumerate() {
                let maxima = &mut pillar_gradient[pillar * outputs..(pillar + 1) * outputs];
                if !next.is_empty() {
                    for row in range[0]..range[1] {
                        let from = &next[row * 2 * outputs..(row + 1) * 2 * outputs];
                        own[row * outputs..(row + 1) * outputs].copy_from_slice(&from[..outputs]);
                        for (sum, value) in maxima.iter_mut().zip(&from[outputs..]) {
                            *sum += value;
                        }
                    }
                }
                let tops = &layer.top[pillar * outputs..(pillar + 1) * outputs];
                for (channel, (&top, &value)) in tops.iter().zip(&*maxima).enumerate() {
                    own[top as usize * outputs + channel] += value;
                }
            }
            layer.backward(&self.pool, self.isa, &mut own[..], rows, params);
            if number > 0 {
                next = layer.input_gradient(&self.pool, &own, rows, params);
                let before = self.layers[number - 1].outputs;
                pillar_gradient = vec![0.0; (self.starts.len() - 1) * before];
            }
        }
    }
}

/// Beginning of the names of layers, as in mmdetection3d's checkpoints.
const PREFIX: &str = "pfn_layers";

/// The name of a layer's parameter.
fn parameter(layer: usize, part: &str) -> String {
    format!("{PREFIX}.{layer}.{part}")
}

/// The tensors of a BatchNormalization.
const NORM: [(&str, Role); 4] = [
    ("norm.weight", Role::Bias),
    ("norm.bias", Role::Bias),
    ("norm.running_mean", Role::Statistic),
    ("norm.running_var", Role::Statistic),
];

/// A matrix with rows of `columns` values, transposed.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    let at = |i: usize| values[i % rows * columns + i / rows];
    (0..values.len()).map(at).collect()
}

impl Layer {
    /// A row after the ReLU.
    fn row(&self, row: usize) -> &[f32] {
        &self.active[row * self.outputs..(row + 1) * self.outputs]
    }

    fn forward(&mut self, pool: &Pool, isa: Isa, rows: usize, params: &mut Params) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        // Inner loops run over outputs.
        let weight = transposed(params.values(self.weight), inputs);
        let bias = match self.bias {
            Some(bias) => params.values(bias).to_vec(),
            None => vec![0.0; outputs],
        };
        self.linear.resize(rows * outputs, 0.0);
        let input = &self.input;
        pool.for_each_chunk_mut(&mut self.linear, CHUNK * outputs, |chunk, out| {
            for (i, out) in out.chunks_exact_mut(outputs).enumerate() {
                let at = (chunk * CHUNK + i) * inputs;
                multiply(&input[at..at + inputs], &weight, &bias, out);
            }
        });
        let linear = Rows {
            data: &self.linear,
            line: LINE * outputs,
        };
        self.active.resize(rows * outputs, 0.0);
        match &mut self.norm {
            Some(norm) => {
                norm.measure(pool, isa, &linear, params);
                let (norm, linear) = (&*norm, &self.linear);
                pool.for_each_chunk_mut(&mut self.active, CHUNK * outputs, |chunk, out| {
                    let at = chunk * CHUNK * outputs;
                    norm.normalise(isa, &linear[at..at + out.len()], true, out);
                });
            }
            None => {
                for (out, &value) in self.active.iter_mut().zip(&self.linear) {
                    *out = if value > 0.0 { value } else { 0.0 };
                }
            }
        }
    }

    /// The greatest value of each pillar and output, and remembers its row, the first of equals.
    fn maxima(&mut self, starts: &[usize]) -> Vec<f32> {
        let outputs = self.outputs;
        let mut maxima = Vec::with_capacity((starts.len() - 1) * outputs);
        let mut top = std::mem::take(&mut self.top);
        top.clear();
        for range in starts.windows(2) {
            let first = maxima.len();
            maxima.extend_from_slice(self.row(range[0]));
            top.resize(first + outputs, range[0] as u32);
            for row in range[0] + 1..range[1] {
                let values = self.row(row).iter();
                let both = maxima[first..].iter_mut().zip(&mut top[first..]);
                for ((most, top), &value) in both.zip(values) {
                    if value > *most {
                        *most = value;
                        *top = row as u32;
                    }
                }
            }
        }
        self.top = top;
        maxima
    }

    /// Adds the gradients of the parameters; turns the gradient of the rows into that of the linear part.
    fn backward(
        &self,
        pool: &Pool,
        isa: Isa,
        gradient: &mut [f32],
        rows: usize,
        params: &mut Params,
    ) {
        let outputs = self.outputs;
        let len = rows * outputs;
        for (gradient, &active) in gradient.iter_mut().zip(&self.active) {
            *gradient = if active > 0.0 { *gradient } else { 0.0 };
        }
        if let Some(norm) = &self.norm {
            let lines = |data| Rows {
                data,
                line: LINE * outputs,
            };
            let (input, output) = (lines(&self.linear), lines(&gradient[..len]));
            let correction = norm.gradients(pool, isa, &input, &output, params);
            pool.for_each_chunk_mut(&mut gradient[..len], CHUNK * outputs, |chunk, gradient| {
                let at = chunk * CHUNK * outputs;
                correction.apply(isa, &self.linear[at..at + gradient.len()], gradient);
            });
        }
        let blocks = outputs.div_ceil(LANES);
        let tile = self.inputs * blocks * LANES;
        let tasks = rows.div_ceil(CHUNK);
        let mut partial = vec![0.0f32; tasks * tile];
        let mut bias = vec![0.0f32; tasks * outputs];
        let mut both: Vec<_> = partial
            .chunks_exact_mut(tile.max(1))
            .zip(bias.chunks_exact_mut(outputs.max(1)))
            .collect();
        let gradient = &*gradient;
        pool.for_each_chunk_mut(&mut both, 1, |task, pair| {
            let Some((sums, bias)) = pair.first_mut() else {
                return;
            };
            let first = task * CHUNK;
            let pixels = CHUNK.min(rows - first);
            let dy = &gradient[first * outputs..];
            outer(
                isa,
                Outer {
                    a: &self.input[first * self.inputs..],
                    a_step: self.inputs,
                    rows: self.inputs,
                    b: dy,
                    b_step: outputs,
                    blocks,
                    pixels,
                    sums,
                },
            );
            for row in dy.chunks_exact(outputs).take(pixels) {
                bias.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            }
        });
        let (weights, biases) = params.gradients_mut(self.weight, self.bias);
        for (i, weight) in weights.iter_mut().enumerate() {
            let (output, input) = (i / self.inputs, i % self.inputs);
            let at = input * blocks * LANES + output;
            *weight += partial
                .chunks_exact(tile)
                .fold(0.0, |sum, part| sum + part[at]);
        }
        for (output, sum) in biases.into_iter().flatten().enumerate() {
            *sum += bias
                .chunks_exact(outputs)
                .fold(0.0, |sum, part| sum + part[output]);
        }
    }

    /// The gradient of the layer's input, `[row][input]`.
    fn input_gradient(
        &self,
        pool: &Pool,
        gradient: &[f32],
        rows: usize,
        params: &Params,
    ) -> Vec<f32> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let weight = params.values(self.weight);
        let zeros = vec![0.0; inputs];
        let mut out = vec![0.0f32; rows * inputs];
        pool.for_each_chunk_mut(&mut out, CHUNK * inputs, |chunk, out| {
            for (i, out) in out.chunks_exact_mut(inputs).enumerate() {
                let at = (chunk * CHUNK + i) * outputs;
                multiply(&gradient[at..at + outputs], weight, &zeros, out);
            }
        });
        out
    }
}

/// Rows in a line of a sum.
const LINE: usize = 128;

/// `out = start + row · matrix`, with a row of the matrix for each value.
fn multiply(row: &[f32], matrix: &[f32], start: &[f32], out: &mut [f32]) {
    out.copy_from_slice(start);
    for (&value, weights) in row.iter().zip(matrix.chunks_exact(out.len())) {
        for (out, weight) in out.iter_mut().zip(weights) {
            *out += value * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::build::import::{pfe_of, unfused_pfe};
    use crate::build::train::input::{FrameInput, Move};
    use crate::cpu::Encoder;
    use crate::model::Model;
    use crate::points::{self, Layout, ReadOptions};

    const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/demo");
    const FRAME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/calib/demo/frames/000000.bin");

    /// The demo model's PFN, which has two layers with BatchNormalization; trained where `rate` is 1.
    fn demo(rate: f32, threads: usize) -> (Graph, PfnNetwork, Params) {
        let path = Path::new(DEMO).join("pts_voxel_encoder.onnx");
        let mut graph = Graph::read(&path).unwrap();
        let layers = unfused_pfe(&mut graph).unwrap();
        assert!(layers.iter().all(|(_, tensors)| tensors.norm.is_some()));
        let mut params = Params::new(&path);
        let scale = (1..12).map(|i| 1.0 / i as f32).collect();
        let pool = Arc::new(Pool::new(threads));
        let network = PfnNetwork::new(layers, scale, &mut params, pool).unwrap();
        network.set_rates(&mut params, &|_| rate);
        (graph, network, params)
    }

    fn model() -> Model {
        let path = Path::new(DEMO).join("model.toml");
        Model::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap()
    }

    /// With running statistics it computes what the stage on the CPU computes with folded weights.
    #[test]
    fn frozen_layers_are_the_stage_of_the_runtime() {
        let model = model();
        let (graph, mut network, mut params) = demo(0.0, 2);
        let frame = Path::new(FRAME);
        let mut input = FrameInput::new(&model, None, frame).unwrap();
        let pillars = input.read(frame, &Move::default()).unwrap();
        let found = network.forward(&[&pillars], &mut params);
        let pfn = pfe_of(graph).unwrap().pfn;
        let mut encoder = Encoder::new(&model, &pfn, &Arc::new(Pool::new(2))).unwrap();
        let options = ReadOptions {
            layout: None,
            default_layout: Layout::new(&model.points.columns).unwrap(),
        };
        let cloud = points::read(frame, &options).unwrap();
        encoder.load(&cloud, None).unwrap();
        assert_eq!(encoder.cells(), pillars.cells);
        let expected = encoder.features();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let allowed = 1e-4 * expected.abs().max(1.0);
            assert!((found - expected).abs() < allowed, "{found} {expected}");
        }
    }

    #[test]
    fn written_weights_are_those_that_were_read() {
        let (mut graph, network, params) = demo(1.0, 1);
        let before = pfe_of(graph.clone()).unwrap().pfn;
        network.write(&params, &mut graph).unwrap();
        let after = pfe_of(graph).unwrap().pfn;
        for (before, after) in before.layers.iter().zip(&after.layers) {
            for (a, b) in before.weight.iter().zip(&after.weight) {
                assert!((a - b).abs() <= 1e-6 * a.abs(), "{a} {b}");
            }
            assert_eq!(before.bias, after.bias);
        }
    }

    /// Some pillars of random rows, full and not.
    fn random(seed: u64) -> PillarRows {
        let mut rng = Rng::new(seed, 0, 0);
        let lengths: Vec<u32> = (0..40).map(|_| rng.int(1, 6)).collect();
        let rows: usize = lengths.iter().map(|l| *l as usize).sum();
        PillarRows {
            cells: (0..40).collect(),
            rows: (0..rows * 11).map(|_| rng.normal(2.0) as f32).collect(),
            lengths,
        }
    }

    /// The features by definition, in f64.
    fn exact(
        network: &PfnNetwork,
        params: &dyn Fn(&str) -> Vec<f64>,
        batch: &PillarRows,
    ) -> Vec<f64> {
        let columns = network.scale.len();
        let mut rows: Vec<Vec<f64>> = batch
            .rows
            .chunks_exact(columns)
            .map(|row| {
                let scaled = row.iter().zip(&network.scale);
                scaled.map(|(v, s)| f64::from(*v) * f64::from(*s)).collect()
            })
            .collect();
        for (number, layer) in network.layers.iter().enumerate() {
            let get = |part: &str| params(&parameter(number, part));
            let weight = get("weight");
            let mut out: Vec<Vec<f64>> = rows
                .iter()
                .map(|row| {
                    let outputs = weight.chunks_exact(layer.inputs);
                    outputs
                        .map(|w| w.iter().zip(row).map(|(w, v)| w * v).sum())
                        .collect()
                })
                .collect();
            let (gamma, beta) = (get("norm.weight"), get("norm.bias"));
            let epsilon = f64::from(layer.norm.as_ref().unwrap().epsilon);
            for c in 0..layer.outputs {
                let count = out.len() as f64;
                let mean = out.iter().map(|row| row[c]).sum::<f64>() / count;
                let squares = out.iter().map(|row| (row[c] - mean).powi(2));
                let variance = squares.sum::<f64>() / count;
                for row in &mut out {
                    let value = (row[c] - mean) / (variance + epsilon).sqrt() * gamma[c];
                    row[c] = (value + beta[c]).max(0.0);
                }
            }
            let mut start = 0;
            let mut maxima = Vec::new();
            for &length in &batch.lengths {
                let end = start + length as usize;
                let most: Vec<f64> = (0..layer.outputs)
                    .map(|c| {
                        out[start..end]
                            .iter()
                            .fold(0.0, |m: f64, row| m.max(row[c]))
                    })
                    .collect();
                for row in &mut out[start..end] {
                    row.extend(&most);
                }
                maxima.extend(most);
                start = end;
            }
            if number + 1 == network.layers.len() {
                return maxima;
            }
            rows = out;
        }
        Vec::new()
    }

    #[test]
    fn gradients_are_finite_differences() {
        let (_, mut network, mut params) = demo(1.0, 2);
        let start = params.clone();
        let batch = random(7);
        let features = network.forward(&[&batch], &mut params);
        let factor = |i: usize| ((i * 37 % 101) as f64 - 50.0) / 50.0;
        let gradient: Vec<f32> = (0..features.len()).map(|i| factor(i) as f32).collect();
        network.backward(&gradient, &mut params);
        let own = |name: &str| -> Vec<f64> {
            let param = start.iter().find(|p| p.name == name).unwrap();
            start
                .values(param.index)
                .iter()
                .map(|v| f64::from(*v))
                .collect()
        };
        let loss = |params: &dyn Fn(&str) -> Vec<f64>| -> f64 {
            let features = exact(&network, params, &batch);
            let factors = (0..).map(|i| f64::from(factor(i) as f32));
            features.iter().zip(factors).map(|(v, f)| v * f).sum()
        };
        for (found, expected) in features.iter().zip(exact(&network, &own, &batch)) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-4,
                "{found} {expected}"
            );
        }
        let step = 1e-6;
        let mut checked = 0;
        for param in params.iter().filter(|p| p.role != Role::Statistic) {
            let gradients = params.gradients(param.index);
            let largest = gradients.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            for at in (0..gradients.len()).step_by((gradients.len() / 24).max(1) | 1) {
                let moved = |delta: f64| {
                    loss(&|name: &str| {
                        let mut values = own(name);
                        if name == param.name {
                            values[at] += delta;
                        }
                        values
                    })
                };
                let difference = (moved(step) - moved(-step)) / (2.0 * step);
                let found = f64::from(gradients[at]);
                assert!(
                    (found - difference).abs() < 1e-3 * f64::from(largest.max(0.1)),
                    "{} [{at}]: {found}, expected {difference}",
                    param.name
                );
                checked += 1;
            }
        }
        assert!(checked > 60, "{checked}");
    }

    #[test]
    fn bytes_do_not_depend_on_threads() {
        let run = |threads| {
            let (_, mut network, mut params) = demo(1.0, threads);
            let batch = random(3);
            let features = network.forward(&[&batch, &batch], &mut params);
            network.backward(&features, &mut params);
            let gradients = params.iter().flat_map(|p| params.gradients(p.index));
            gradients.map(|v| v.to_bits()).collect::<Vec<u32>>()
        };
        assert_eq!(run(1), run(3));
    }
}
