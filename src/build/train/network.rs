//! A network to train: the operators of [`crate::build::lower`] with their gradients, and its parameters.
//!
//! It is read from the same graphs that are compiled to plans. A graph with Q/DQ pairs trains what its plan computes: a
//! pair is a fake quantisation, and a weight of codes is a float weight that is rounded before each use. The float values
//! come from the float graph, which also takes the trained ones back ([`Network::write`]).
//!
//! All frames of a batch go through one operator after the other. The maps and the gradients of a batch are in memory
//! until its gradients are done ([`Network::bytes`]); the sums of several batches add up.

mod features;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(crate) use features::Features;

use super::conv::{Conv, Geometry, WeightOrder};
use super::kernels::{self, FakeQuant, FakeQuantGradient, Grid, ReluGradient, Sum, vectorised};
use super::map::{Maps, Shape};
use super::norm::Norm;
use super::optimizer::{Optimizer, StepOptions};
use super::params::{Param, Params, Role};
use crate::build::calibrate::{MAX_CODE, scale_of};
use crate::build::lower::{NetworkNode, NodeKind, ProgramBuilder, Weight, readers};
use crate::build::onnx::{Graph, tensor};
use crate::build::quantize::WeightFormats;
use crate::build::{BuildError, Result, compile};
use crate::cpu::Pool;
use crate::engine::cpu::Isa;
use crate::plan::config::WeightScales;
use crate::program::layout::LANES;
use crate::program::{DepthToSpaceMode, greatest_code};
use crate::synth::Rng;

/// Rows of a map in one task of an operator that works pixel by pixel.
const ROWS: usize = 8;

/// The quantisation of a convolution's weights.
#[derive(Clone, Debug)]
struct WeightQuant {
    /// Whether the scales are those of the greatest weights; those of 4 bits and those that were set stay.
    follows: bool,
    /// Value of code 1 by output channel.
    scales: Vec<f32>,
    /// Greatest code, and the least with the other sign.
    most: f32,
    /// Whether each weight is within the codes.
    inside: Vec<bool>,
    /// The gradient of the weights in one pass.
    gradient: Vec<f32>,
}

/// One operator. Inputs and outputs are numbers of values.
#[derive(Clone, Debug)]
enum Kind {
    Conv {
        input: usize,
        conv: Box<Conv>,
        weight: usize,
        quant: Option<WeightQuant>,
        bias: Option<usize>,
        relu: bool,
    },
    Norm {
        input: usize,
        norm: Box<Norm>,
        relu: bool,
    },
    Relu {
        input: usize,
    },
    Add {
        a: usize,
        b: usize,
        relu: bool,
    },
    Concat {
        inputs: Vec<usize>,
    },
    DepthToSpace {
        input: usize,
        block: usize,
        mode: DepthToSpaceMode,
    },
    /// A pair: rounds to codes and back.
    FakeQuant {
        input: usize,
        scale: usize,
        /// Code of the value 0.
        zero: i8,
    },
}

impl Kind {
    /// The values that it reads.
    fn inputs(&self) -> impl Iterator<Item = usize> {
        let (first, second, more): (_, _, &[usize]) = match self {
            Self::Conv { input, .. }
            | Self::Norm { input, .. }
            | Self::Relu { input }
            | Self::DepthToSpace { input, .. }
            | Self::FakeQuant { input, .. } => (Some(*input), None, &[]),
            Self::Add { a, b, .. } => (Some(*a), Some(*b), &[]),
            Self::Concat { inputs } => (None, None, inputs),
        };
        first.into_iter().chain(second).chain(more.iter().copied())
    }
}

#[derive(Clone, Debug)]
struct Op {
    output: usize,
    kind: Kind,
}

/// A quantiser of activations. Pairs that move codes into each other have one in common.
#[derive(Clone, Debug)]
struct Scale {
    /// The tensors that it quantises.
    tensors: Vec<String>,
    /// Value of code 1 at the start.
    start: f32,
    /// Parameter: the logarithm of the scale relative to `start`.
    param: usize,
}

/// A network, its maps and gradients.
pub(crate) struct Network {
    pool: Arc<Pool>,
    isa: Isa,
    ops: Vec<Op>,
    /// Name and shape of each value.
    values: Vec<(String, Shape)>,
    input: usize,
    outputs: Vec<(String, usize)>,
    scales: Vec<Scale>,
    border: usize,
    maps: Vec<Maps>,
    gradients: Vec<Option<Maps>>,
    /// Gradient maps that are free, by shape.
    spare: HashMap<Shape, Vec<Maps>>,
    frames: usize,
    /// Its own parameters, and then those of what comes before it.
    pub(crate) params: Params,
    /// Number of its own parameters.
    own: usize,
}

impl Network {
    /// Reads a graph with pairs or without. Quantised weights take their float values from `float` if it has them.
    /// `formats` are those of the quantised weights; ranges that they set stay.
    ///
    /// # Errors
    /// [`BuildError`] as for compiling it; [`BuildError::Graph`] for an operator that cannot be trained.
    pub(crate) fn new(
        graph: &Graph,
        float: Option<&Graph>,
        weight_scales: WeightScales,
        formats: &WeightFormats,
        pool: Arc<Pool>,
    ) -> Result<Self> {
        let builder = compile::network(graph)?;
        let isa = Isa::best()?;
        let mut reader = Reader {
            graph,
            float,
            builder: &builder,
            uses: readers(&builder),
            params: Params::new(graph.path()),
            ops: Vec::new(),
            alias: HashMap::new(),
            scales: Vec::new(),
            weight_scales,
            formats,
        };
        for node in builder.nodes() {
            reader.node(node)?;
        }
        let Reader {
            params,
            ops,
            alias,
            scales,
            ..
        } = reader;
        let find = |v: usize| alias.get(&v).copied().unwrap_or(v);
        let values = builder.values().map(|(name, [channels, height, width])| {
            let shape = Shape {
                height,
                width,
                channels,
            };
            (name.to_owned(), shape)
        });
        let values: Vec<_> = values.collect();
        let Some(input) = builder.input_value() else {
            return Err(BuildError::graph(graph.path(), "the network has no input"));
        };
        let outputs = builder
            .output_values()
            .map(|(name, v)| (name.to_owned(), find(v)));
        let outputs: Vec<_> = outputs.collect();
        let mut border = 0;
        for op in &ops {
            if let Kind::Conv { input, conv, .. } = &op.kind {
                let size = |v: usize| [values[v].1.height, values[v].1.width];
                border = border.max(conv.border(size(*input), size(op.output)));
            }
        }
        let mut network = Self {
            pool,
            isa,
            ops,
            input,
            outputs,
            scales,
            border,
            maps: Vec::new(),
            gradients: Vec::new(),
            spare: HashMap::new(),
            frames: 0,
            own: params.iter().count(),
            params,
            values,
        };
        network.prepare()?;
        Ok(network)
    }

    /// The threads that it computes with.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// One step of the optimiser, and the new weights. Returns the norm of the gradients.
    ///
    /// # Errors
    /// As [`Optimizer::step`] and [`Network::prepare`].
    pub(crate) fn update(
        &mut self,
        optimizer: &mut Optimizer,
        options: &StepOptions,
    ) -> Result<f64> {
        let norm = optimizer.step(&self.pool, self.isa, &mut self.params, options)?;
        self.prepare()?;
        Ok(norm)
    }

    /// Names and shapes of the outputs.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (&str, Shape)> {
        let outputs = self.outputs.iter();
        outputs.map(|(name, value)| (name.as_str(), self.values[*value].1))
    }

    /// Bytes of maps and gradients of the batches so far.
    pub(crate) fn bytes(&self) -> usize {
        let gradients = self.gradients.iter().flatten();
        let spare = self.spare.values().flatten();
        let all = self.maps.iter().chain(gradients).chain(spare);
        all.map(Maps::bytes).sum()
    }

    /// Makes room for a batch and returns its input, to be filled; pixels have the values of the last batch.
    pub(crate) fn batch(&mut self, frames: usize) -> &mut Maps {
        if self.frames != frames {
            self.frames = frames;
            self.spare.clear();
            self.gradients = vec![None; self.values.len()];
            self.maps = vec![Maps::new(0, self.values[self.input].1, 0); self.values.len()];
            let outputs = self.ops.iter().map(|op| op.output).chain([self.input]);
            for value in outputs {
                self.maps[value] = Maps::new(frames, self.values[value].1, self.border);
            }
        }
        &mut self.maps[self.input]
    }

    /// Takes over the parameters: rounds the weights and packs them.
    ///
    /// # Errors
    /// [`BuildError::Graph`] for a parameter that is not finite.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        let params = &self.params;
        self.pool.for_each_chunk_mut(&mut self.ops, 1, |_, ops| {
            for op in ops {
                let Kind::Conv {
                    conv,
                    weight,
                    quant,
                    bias,
                    ..
                } = &mut op.kind
                else {
                    continue;
                };
                let values = params.values(*weight);
                let bias = bias.map(|bias| params.values(bias));
                match quant {
                    None => conv.pack(values, bias),
                    Some(quant) => {
                        if quant.follows {
                            quant.follow(values, conv.order);
                        }
                        conv.pack(&quant.round(values, conv.order), bias);
                    }
                }
            }
        });
        if let Some(name) = self.params.not_finite() {
            let what = format!("the training diverged: \"{name}\" is not finite; lower the rate");
            return Err(BuildError::graph(self.params.origin(), what));
        }
        Ok(())
    }

    /// The value of code 1 of a quantiser.
    fn scale(&self, index: usize) -> f32 {
        let scale = &self.scales[index];
        let log = self.params.values(scale.param)[0];
        scale.start * log.exp()
    }

    /// Computes the outputs of the batch in the input.
    pub(crate) fn forward(&mut self) {
        for at in 0..self.ops.len() {
            let output = self.ops[at].output;
            let empty = Maps::new(0, self.values[output].1, 0);
            let mut out = std::mem::replace(&mut self.maps[output], empty);
            if let Kind::Norm { input, norm, .. } = &mut self.ops[at].kind {
                norm.measure(&self.pool, self.isa, &self.maps[*input], &mut self.params);
            }
            self.step(&self.ops[at].kind, &mut out);
            self.maps[output] = out;
        }
    }

    fn step(&self, kind: &Kind, out: &mut Maps) {
        let (pool, isa) = (&*self.pool, self.isa);
        match kind {
            Kind::Conv {
                input, conv, relu, ..
            } => conv.forward(pool, isa, &self.maps[*input], *relu, out),
            Kind::Norm { input, norm, relu } => {
                let input = &self.maps[*input];
                each_row(pool, out, |frame, y, out| {
                    norm.normalise(isa, input.pixels(frame, y), *relu, out);
                });
            }
            Kind::Relu { input } => {
                let input = &self.maps[*input];
                each_row(pool, out, |frame, y, out| {
                    for (out, &v) in out.iter_mut().zip(input.pixels(frame, y)) {
                        *out = if v > 0.0 { v } else { 0.0 };
                    }
                });
            }
            Kind::Add { a, b, relu } => {
                let (a, b) = (&self.maps[*a], &self.maps[*b]);
                each_row(pool, out, |frame, y, out| {
                    let (a, b) = (a.pixels(frame, y), b.pixels(frame, y));
                    let relu = *relu;
                    vectorised(isa, kernels::Add { a, b, relu, out });
                });
            }
            Kind::Concat { inputs } => {
                let channels = out.shape.channels;
                each_row(pool, out, |frame, y, out| {
                    let mut first = 0;
                    for &input in inputs {
                        let input = &self.maps[input];
                        let count = input.shape.channels;
                        let pixels = input.pixels(frame, y).chunks_exact(count);
                        for (out, values) in out.chunks_exact_mut(channels).zip(pixels) {
                            out[first..first + count].copy_from_slice(values);
                        }
                        first += count;
                    }
                });
            }
            Kind::DepthToSpace { input, block, mode } => {
                let input = &self.maps[*input];
                let channels = out.shape.channels;
                each_row(pool, out, |frame, y, out| {
                    let pixels = input.pixels(frame, y / block);
                    for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                        let from = &pixels[x / block * input.shape.channels..];
                        let place = [y % block, x % block];
                        for (c, out) in out.iter_mut().enumerate() {
                            *out = from[shuffled(*mode, *block, channels, place, c)];
                        }
                    }
                });
            }
            Kind::FakeQuant { input, scale, zero } => {
                let input = &self.maps[*input];
                let grid = activations(self.scale(*scale), *zero);
                each_row(pool, out, |frame, y, out| {
                    let values = input.pixels(frame, y);
                    vectorised(isa, FakeQuant { values, grid, out });
                });
            }
        }
    }

    /// The maps of an output.
    #[cfg(test)]
    pub(crate) fn output(&self, index: usize) -> &Maps {
        &self.maps[self.outputs[index].1]
    }

    /// The gradient of the loss for an output, zeros at first, to be filled before [`Network::backward`].
    pub(crate) fn output_gradient(&mut self, index: usize) -> (&Maps, &mut Maps) {
        self.value_gradient(self.outputs[index].1)
    }

    /// Maps of the shape of a value, with any pixels and a border of zeros.
    fn take(&mut self, value: usize) -> Maps {
        let shape = self.values[value].1;
        let spare = self.spare.get_mut(&shape).and_then(Vec::pop);
        spare.unwrap_or_else(|| Maps::new(self.frames, shape, self.border))
    }

    /// Takes back maps that are no longer needed.
    pub(crate) fn give(&mut self, maps: Maps) {
        self.spare.entry(maps.shape).or_default().push(maps);
    }

    /// Adds the gradients of the parameters for the batch. If `input` is set, returns the gradient of the input, too.
    pub(crate) fn backward(&mut self, input: bool) -> Option<Maps> {
        let mut ops = std::mem::take(&mut self.ops);
        for op in ops.iter_mut().rev() {
            let Some(gradient) = self.gradients[op.output].take() else {
                // Nothing that the loss sees depends on it.
                continue;
            };
            self.gradient(op, gradient, input);
        }
        self.ops = ops;
        let gradient = self.gradients[self.input].take();
        if !input && let Some(gradient) = gradient {
            self.give(gradient);
            return None;
        }
        gradient
    }

    /// Adds `gradient` to the gradient of a value, or makes it the gradient.
    fn add_gradient(&mut self, value: usize, gradient: Maps) {
        let isa = self.isa;
        match self.gradients[value].take() {
            None => self.gradients[value] = Some(gradient),
            Some(mut sum) => {
                each_row(&self.pool, &mut sum, |frame, y, sums| {
                    let values = gradient.pixels(frame, y);
                    vectorised(isa, Sum { sums, values });
                });
                self.gradients[value] = Some(sum);
                self.give(gradient);
            }
        }
    }

    fn gradient(&mut self, op: &mut Op, mut gradient: Maps, want_input: bool) {
        let pool = self.pool.clone();
        let (pool, isa) = (&*pool, self.isa);
        match &mut op.kind {
            Kind::Conv {
                input,
                conv,
                weight,
                quant,
                bias,
                relu,
            } => {
                if *relu {
                    relu_gradient(pool, isa, &self.maps[op.output], &mut gradient);
                }
                if self.params.is_trained(*weight)
                    || bias.is_some_and(|b| self.params.is_trained(b))
                {
                    let (weights, biases) = self.params.gradients_mut(*weight, *bias);
                    match quant {
                        None => conv.weight_gradient(
                            pool,
                            isa,
                            &self.maps[*input],
                            &gradient,
                            weights,
                            biases,
                        ),
                        Some(quant) => {
                            quant.gradient.clear();
                            quant.gradient.resize(weights.len(), 0.0);
                            conv.weight_gradient(
                                pool,
                                isa,
                                &self.maps[*input],
                                &gradient,
                                &mut quant.gradient,
                                biases,
                            );
                            for ((sum, own), inside) in
                                weights.iter_mut().zip(&quant.gradient).zip(&quant.inside)
                            {
                                if *inside {
                                    *sum += own;
                                }
                            }
                        }
                    }
                }
                if *input != self.input || want_input {
                    let add = self.gradients[*input].is_some();
                    let mut to = match self.gradients[*input].take() {
                        Some(there) => there,
                        None => self.take(*input),
                    };
                    conv.backward(pool, isa, &gradient, add, &mut to);
                    self.gradients[*input] = Some(to);
                }
                self.give(gradient);
            }
            Kind::Norm { input, norm, relu } => {
                if *relu {
                    relu_gradient(pool, isa, &self.maps[op.output], &mut gradient);
                }
                let values = &self.maps[*input];
                let correction = norm.gradients(pool, isa, values, &gradient, &mut self.params);
                each_row(pool, &mut gradient, |frame, y, gradient| {
                    correction.apply(isa, values.pixels(frame, y), gradient);
                });
                self.add_gradient(*input, gradient);
            }
            Kind::Relu { input } => {
                relu_gradient(pool, isa, &self.maps[op.output], &mut gradient);
                self.add_gradient(*input, gradient);
            }
            Kind::Add { a, b, relu } => {
                if *relu {
                    relu_gradient(pool, isa, &self.maps[op.output], &mut gradient);
                }
                let mut copy = self.take(op.output);
                copy.data_mut().copy_from_slice(gradient.data());
                self.add_gradient(*a, copy);
                self.add_gradient(*b, gradient);
            }
            Kind::Concat { inputs } => {
                let channels = gradient.shape.channels;
                let mut first = 0;
                for &input in &*inputs {
                    let mut part = self.take(input);
                    let count = part.shape.channels;
                    each_row(pool, &mut part, |frame, y, out| {
                        let from = gradient.pixels(frame, y).chunks_exact(channels);
                        for (out, from) in out.chunks_exact_mut(count).zip(from) {
                            out.copy_from_slice(&from[first..first + count]);
                        }
                    });
                    self.add_gradient(input, part);
                    first += count;
                }
                self.give(gradient);
            }
            Kind::DepthToSpace { input, block, mode } => {
                let (block, mode) = (*block, *mode);
                let mut part = self.take(*input);
                let (from, to) = (gradient.shape.channels, part.shape.channels);
                each_row(pool, &mut part, |frame, y, out| {
                    for a in 0..block {
                        let pixels = gradient.pixels(frame, y * block + a);
                        for (x, pixel) in pixels.chunks_exact(from).enumerate() {
                            let out = &mut out[x / block * to..][..to];
                            for (c, &value) in pixel.iter().enumerate() {
                                out[shuffled(mode, block, from, [a, x % block], c)] = value;
                            }
                        }
                    }
                });
                self.add_gradient(*input, part);
                self.give(gradient);
            }
            Kind::FakeQuant { input, scale, zero } => {
                let value = self.scale(*scale);
                let grid = activations(value, *zero);
                let values = &self.maps[*input];
                let mut sums = vec![[0.0f32; LANES]; gradient.frames * gradient.shape.height];
                let rows = gradient.shape.height;
                {
                    let mut tasks: Vec<(&mut [f32; LANES], &mut [f32])> = Vec::new();
                    let width = gradient.shape.width * gradient.shape.channels;
                    let (row, start) = (gradient.row(), gradient.index(0, 0, 0));
                    let (frame_len, frames) = (gradient.frame_len(), gradient.frames);
                    let all = gradient.data_mut().chunks_mut(frame_len).take(frames);
                    let mut sums = sums.iter_mut();
                    for frame in all {
                        for line in frame[start..].chunks_mut(row).take(rows) {
                            if let Some(sum) = sums.next() {
                                tasks.push((sum, &mut line[..width]));
                            }
                        }
                    }
                    pool.for_each_chunk_mut(&mut tasks, ROWS, |chunk, tasks| {
                        for (i, (scale, gradient)) in tasks.iter_mut().enumerate() {
                            let at = chunk * ROWS + i;
                            let values = values.pixels(at / rows, at % rows);
                            let work = FakeQuantGradient {
                                values,
                                grid,
                                gradient,
                                scale,
                            };
                            vectorised(isa, work);
                        }
                    });
                }
                // d loss / d log(scale).
                let sum: f64 = sums.iter().flatten().map(|&v| f64::from(v)).sum();
                let (own, _) = self.params.gradients_mut(self.scales[*scale].param, None);
                own[0] += (sum * f64::from(value)) as f32;
                if *input == self.input && !want_input {
                    self.give(gradient);
                } else {
                    self.add_gradient(*input, gradient);
                }
            }
        }
    }

    /// Draws random weights: a normal distribution that keeps the variance through a ReLU (<https://arxiv.org/abs/1502.01852>),
    /// and a narrow one for convolutions that make an output, whose bias is `prior` of its number.
    pub(crate) fn start_anew(&mut self, rng: &mut Rng, prior: &dyn Fn(usize) -> f32) {
        /// Standard deviation of an output's weights.
        const OUTPUT: f64 = 0.01;
        for op in &self.ops {
            match &op.kind {
                Kind::Conv {
                    conv, weight, bias, ..
                } => {
                    let output = self.outputs.iter().position(|(_, v)| *v == op.output);
                    let order = conv.order;
                    let taps = if order.transposed {
                        1
                    } else {
                        order.kernel[0] * order.kernel[1]
                    };
                    let deviation = match output {
                        Some(_) => OUTPUT,
                        None => (2.0 / (order.inputs * taps) as f64).sqrt(),
                    };
                    for value in self.params.values_mut(*weight) {
                        *value = rng.normal(deviation) as f32;
                    }
                    if let Some(bias) = bias {
                        let value = output.map_or(0.0, prior);
                        self.params.values_mut(*bias).fill(value);
                    }
                }
                Kind::Norm { norm, .. } => norm.start_anew(&mut self.params),
                _ => {}
            }
        }
    }

    /// Sets the rates of the parameters: `rate` by the name of a layer, for its weight and bias, and `scales` for the scales
    /// of activations that a trained layer reads.
    pub(crate) fn set_rates(&mut self, rate: &dyn Fn(&str) -> f32, scales: f32) {
        let mut rates = vec![0.0f32; self.params.iter().count()];
        let readers = |value: usize| {
            self.ops.iter().find_map(|op| match &op.kind {
                Kind::FakeQuant { scale, .. } if op.output == value => {
                    Some(self.scales[*scale].param)
                }
                _ => None,
            })
        };
        for op in &self.ops {
            if let Kind::Conv {
                input,
                weight,
                bias,
                ..
            } = &op.kind
            {
                let rate = rate(layer_of(self.params.name(*weight)));
                rates[*weight] = rates[*weight].max(rate);
                if let Some(bias) = bias {
                    rates[*bias] = rates[*bias].max(rate);
                }
                if let Some(scale) = readers(*input) {
                    rates[scale] = rates[scale].max(rate * scales);
                }
            }
            if let Kind::Norm { norm, .. } = &op.kind {
                let rate = rate(layer_of(self.params.name(norm.gamma)));
                for param in [norm.gamma, norm.beta] {
                    rates[param] = rates[param].max(rate);
                }
            }
        }
        for param in self.params.iter_mut() {
            param.rate = rates[param.index];
        }
    }

    /// Names of the layers, in order.
    pub(crate) fn layers(&self) -> Vec<String> {
        let main = |op: &Op| match &op.kind {
            Kind::Conv { weight, .. } => Some(*weight),
            Kind::Norm { norm, .. } => Some(norm.gamma),
            _ => None,
        };
        let tensors = self.ops.iter().filter_map(main);
        tensors
            .map(|tensor| layer_of(self.params.name(tensor)).to_owned())
            .collect()
    }

    /// Names of the layers with a rate.
    pub(crate) fn trained_layers(&self) -> Vec<String> {
        let trained = self.weights().filter(|p| p.rate > 0.0);
        trained.map(|p| layer_of(&p.name).to_owned()).collect()
    }

    fn weights(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|p| p.role == Role::Weight)
    }

    /// The range of each tensor whose scale has changed: 127 times its scale.
    pub(crate) fn trained_amax(&self) -> BTreeMap<String, f32> {
        let mut amax = BTreeMap::new();
        for (index, scale) in self.scales.iter().enumerate() {
            if self.params.values(scale.param) != [0.0] {
                let value = self.scale(index) * MAX_CODE;
                amax.extend(scale.tensors.iter().map(|t| (t.clone(), value)));
            }
        }
        amax
    }

    /// The ranges of the weights that keep theirs, by name.
    pub(crate) fn fixed_amax(&self) -> BTreeMap<String, Vec<f32>> {
        let mut amax = BTreeMap::new();
        for op in &self.ops {
            if let Kind::Conv {
                weight,
                quant: Some(quant),
                ..
            } = &op.kind
                && !quant.follows
            {
                let name = self.params.name(*weight).to_owned();
                let ranges = quant.scales.iter().map(|scale| scale * quant.most);
                amax.insert(name, ranges.collect());
            }
        }
        amax
    }

    /// Writes all parameters but scales into a float graph with the same names.
    ///
    /// # Errors
    /// [`BuildError::Graph`] for a parameter whose tensor the graph lacks.
    pub(crate) fn write(&self, graph: &mut Graph) -> Result<()> {
        let own = self.params.iter().take(self.own);
        let written = own.filter(|p| p.role != Role::Scale);
        let tensors = written.map(|p| (p.name.clone(), self.params.values(p.index).to_vec()));
        write_tensors(graph, tensors.collect())
    }
}

/// Replaces the values of initializers, by name.
///
/// # Errors
/// [`BuildError::Graph`] for a name that the graph lacks, and for another number of values.
pub(super) fn write_tensors(
    graph: &mut Graph,
    mut tensors: BTreeMap<String, Vec<f32>>,
) -> Result<()> {
    let mut wrong = None;
    graph.edit(|proto| {
        for tensor in &mut proto.initializer {
            if let Some(values) = tensors.remove(tensor.name()) {
                let dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
                if dims.iter().product::<usize>() != values.len() {
                    wrong = Some(format!(
                        "tensor \"{}\" has the shape {dims:?}, and {} trained values",
                        tensor.name(),
                        values.len()
                    ));
                }
                *tensor = tensor::from_floats(tensor.name(), &dims, &values);
            }
        }
    })?;
    if let Some(name) = tensors.keys().next() {
        let missing = format!("the graph has no tensor \"{name}\" for the trained values");
        wrong = wrong.or(Some(missing));
    }
    match wrong {
        Some(what) => Err(BuildError::graph(graph.path(), what)),
        None => Ok(()),
    }
}

/// The name of a layer by that of its weight.
fn layer_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// The codes of activations, counted from that of 0.
fn activations(scale: f32, zero: i8) -> Grid {
    let zero = f32::from(zero);
    Grid {
        scale,
        codes: [-128.0 - zero, 127.0 - zero],
    }
}

impl WeightQuant {
    /// Sets the scales to the greatest absolute weights.
    fn follow(&mut self, values: &[f32], order: WeightOrder) {
        let mut amax = vec![0.0f32; self.scales.len()];
        for (i, value) in values.iter().enumerate() {
            let most = &mut amax[order.channel(i)];
            *most = most.max(value.abs());
        }
        for (scale, amax) in self.scales.iter_mut().zip(amax) {
            *scale = scale_of(amax, self.most);
        }
    }

    /// The weights as their codes have them.
    fn round(&mut self, values: &[f32], order: WeightOrder) -> Vec<f32> {
        self.inside.clear();
        let mut rounded = Vec::with_capacity(values.len());
        for (i, &value) in values.iter().enumerate() {
            let scale = self.scales[order.channel(i)];
            let code = (value / scale).round_ties_even();
            self.inside.push(code.abs() <= self.most);
            rounded.push(code.clamp(-self.most, self.most) * scale);
        }
        rounded
    }
}

/// The channel before DepthToSpace of channel `c` at `place` inside a block; `channels` are those after it.
fn shuffled(
    mode: DepthToSpaceMode,
    block: usize,
    channels: usize,
    [a, b]: [usize; 2],
    c: usize,
) -> usize {
    match mode {
        DepthToSpaceMode::Dcr => (a * block + b) * channels + c,
        DepthToSpaceMode::Crd => (c * block + a) * block + b,
    }
}

fn relu_gradient(pool: &Pool, isa: Isa, output: &Maps, gradient: &mut Maps) {
    each_row(pool, gradient, |frame, y, gradient| {
        let output = output.pixels(frame, y);
        vectorised(isa, ReluGradient { output, gradient });
    });
}

/// Calls `f(frame, y, pixels)` for each row of the maps.
fn each_row(pool: &Pool, maps: &mut Maps, f: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let shape = maps.shape;
    let (row, border, frame_len) = (maps.row(), maps.border, maps.frame_len());
    let rows = shape.height + 2 * border;
    let inset = border * shape.channels;
    let len = frame_len * maps.frames;
    pool.for_each_chunk_mut(&mut maps.data_mut()[..len], ROWS * row, |chunk, lines| {
        for (i, line) in lines.chunks_mut(row).enumerate() {
            let at = chunk * ROWS + i;
            let y = (at % rows)
                .checked_sub(border)
                .filter(|y| *y < shape.height);
            if let Some(y) = y {
                let pixels = &mut line[inset..inset + shape.width * shape.channels];
                f(at / rows, y, pixels);
            }
        }
    });
}

/// Reads the nodes of a compiled network.
struct Reader<'a> {
    graph: &'a Graph,
    float: Option<&'a Graph>,
    builder: &'a ProgramBuilder,
    /// Readers of each value.
    uses: Vec<usize>,
    params: Params,
    ops: Vec<Op>,
    /// Values that are others: codes of a pair, and the results of a ReLU within another operator.
    alias: HashMap<usize, usize>,
    scales: Vec<Scale>,
    weight_scales: WeightScales,
    formats: &'a WeightFormats,
}

impl Reader<'_> {
    fn value(&self, value: usize) -> usize {
        self.alias.get(&value).copied().unwrap_or(value)
    }

    fn push(&mut self, node: &NetworkNode, kind: Kind) {
        self.ops.push(Op {
            output: node.output,
            kind,
        });
    }

    fn node(&mut self, node: &NetworkNode) -> Result<()> {
        match &node.kind {
            NodeKind::Conv(_) => self.conv(node)?,
            &NodeKind::Relu { input } => {
                let value = self.value(input);
                let alone = self.uses.get(input) == Some(&1);
                let before = self.ops.iter_mut().rfind(|op| op.output == value);
                match before.map(|op| &mut op.kind) {
                    Some(
                        Kind::Conv { relu, .. } | Kind::Add { relu, .. } | Kind::Norm { relu, .. },
                    ) if alone => {
                        *relu = true;
                        self.alias.insert(node.output, value);
                    }
                    _ => self.push(node, Kind::Relu { input: value }),
                }
            }
            &NodeKind::Add { a, b, relu } => {
                let (a, b) = (self.value(a), self.value(b));
                self.push(node, Kind::Add { a, b, relu });
            }
            NodeKind::Concat { inputs } => {
                let inputs = inputs.iter().map(|&v| self.value(v)).collect();
                self.push(node, Kind::Concat { inputs });
            }
            &NodeKind::DepthToSpace { input, block, mode } => {
                let input = self.value(input);
                self.push(node, Kind::DepthToSpace { input, block, mode });
            }
            &NodeKind::Quantize { input } => {
                let Some(codes) = self.builder.codes(node.output) else {
                    return Ok(());
                };
                // The pair has the name of what it reads, also behind a ReLU that became part of another operator.
                let name = self.builder.name(input).to_owned();
                let input = self.value(input);
                let scale = self.scale(name, input, codes.scale);
                let zero = codes.zero;
                self.push(node, Kind::FakeQuant { input, scale, zero });
            }
            &NodeKind::Dequantize { input } => {
                let value = self.value(input);
                self.alias.insert(node.output, value);
            }
            &NodeKind::Affine { input, relu, .. } => self.norm(node, input, relu)?,
            NodeKind::Sigmoid { .. } | NodeKind::MaxPool { .. } => {
                return Err(self.no_gradient(node));
            }
        }
        Ok(())
    }

    fn no_gradient(&self, node: &NetworkNode) -> BuildError {
        let what = format!(
            "node \"{}\": training has no gradient for it; supported are Conv, ConvTranspose, \
             BatchNormalization, Relu, Add, Concat, DepthToSpace and Q/DQ pairs",
            node.name
        );
        BuildError::graph(self.graph.path(), what)
    }

    /// A BatchNormalization. Other factors by channel are not trained.
    fn norm(&mut self, node: &NetworkNode, input: usize, relu: bool) -> Result<()> {
        let producer = self.graph.producer(self.builder.name(node.output));
        let Some(batch) = producer.filter(|n| n.op() == "BatchNormalization") else {
            return Err(self.no_gradient(node));
        };
        let mut tensors = [0; 4];
        let roles = [Role::Bias, Role::Bias, Role::Statistic, Role::Statistic];
        for (i, role) in roles.into_iter().enumerate() {
            let name = batch.need_input(i + 1)?;
            let values = self.graph.floats(name)?.map(|t| t.data);
            let Some(values) = values else {
                return Err(batch.error(format!("\"{name}\" is not a constant")));
            };
            tensors[i] = self.params.push(name, role, &values);
        }
        let epsilon = batch.float("epsilon", 1e-5)?;
        let momentum = batch.float("momentum", 0.9)?;
        let input = self.value(input);
        let norm = Box::new(Norm::new(tensors, epsilon, momentum));
        self.push(node, Kind::Norm { input, norm, relu });
        Ok(())
    }

    /// The quantiser of a value. Codes that only move keep the quantiser that made them.
    fn scale(&mut self, name: String, input: usize, start: f32) -> usize {
        let mut sources = vec![input];
        let mut found = None;
        while let Some(value) = sources.pop() {
            let Some(op) = self.ops.iter().rfind(|op| op.output == value) else {
                continue;
            };
            match &op.kind {
                Kind::Concat { inputs } => sources.extend(inputs),
                Kind::DepthToSpace { input, .. } => sources.push(*input),
                Kind::FakeQuant { scale, .. } if self.scales[*scale].start == start => {
                    found = Some(found.map_or(*scale, |other: usize| other.min(*scale)));
                }
                _ => {}
            }
        }
        if let Some(found) = found {
            self.scales[found].tensors.push(name);
            return found;
        }
        let param = self
            .params
            .push(&format!("{name}.scale"), Role::Scale, &[0.0]);
        self.scales.push(Scale {
            tensors: vec![name],
            start,
            param,
        });
        self.scales.len() - 1
    }

    fn conv(&mut self, node: &NetworkNode) -> Result<()> {
        let NodeKind::Conv(conv) = &node.kind else {
            return Ok(());
        };
        let [channels, height, width] = self.builder.size(conv.input);
        let [_, out_height, out_width] = self.builder.size(node.output);
        let whole = conv.kernel == conv.stride
            && conv.pad == [0; 2]
            && [out_height, out_width] == [height * conv.stride[0], width * conv.stride[1]];
        if conv.transposed && !whole {
            let what = format!(
                "node \"{}\": training supports ConvTranspose with kernel = stride and no padding, \
                 found kernel {:?}, stride {:?}",
                node.name, conv.kernel, conv.stride
            );
            return Err(BuildError::graph(self.graph.path(), what));
        }
        let order = WeightOrder {
            kernel: conv.kernel,
            groups: conv.groups,
            inputs: channels / conv.groups,
            outputs: conv.out_channels / conv.groups,
            transposed: conv.transposed,
        };
        let geometry = if conv.transposed {
            Geometry::deconvolution(conv.stride)
        } else {
            Geometry::conv(conv.kernel, conv.stride, conv.pad, conv.dilation)
        };
        let (weight, bias) = self.constants(node);
        let float = |name: &str| -> Result<Option<Vec<f32>>> {
            let Some(graph) = self.float else {
                return Ok(None);
            };
            let found = graph.floats(name)?.map(|t| t.data);
            Ok(found.filter(|data| data.len() == order.len()))
        };
        let (values, quant) = match &conv.weight {
            Weight::F32(values) => (values.clone(), None),
            Weight::I8 { codes, scales } => {
                let values = match float(&weight)? {
                    Some(values) => values,
                    None => {
                        let each = codes.iter().enumerate();
                        each.map(|(i, &code)| f32::from(code) * scales[order.channel(i)])
                            .collect()
                    }
                };
                let format = self.formats.get(&weight);
                let bits = format.map_or(8, |format| format.bits);
                let given = format.is_some_and(|format| format.amax.is_some());
                let quant = WeightQuant {
                    scales: scales.clone(),
                    most: f32::from(greatest_code(bits)),
                    follows: self.weight_scales == WeightScales::Max && bits == 8 && !given,
                    inside: Vec::new(),
                    gradient: Vec::new(),
                };
                (values, Some(quant))
            }
        };
        let weight = self.params.push(&weight, Role::Weight, &values);
        let bias = bias.map(|name| self.params.push(&name, Role::Bias, &conv.bias));
        let input = self.value(conv.input);
        self.push(
            node,
            Kind::Conv {
                input,
                conv: Box::new(Conv::new(order, geometry)),
                weight,
                quant,
                bias,
                relu: conv.relu,
            },
        );
        Ok(())
    }

    /// The names of a convolution's weight, without its quantiser, and of its bias.
    fn constants(&self, node: &NetworkNode) -> (String, Option<String>) {
        let output = self.builder.name(node.output);
        let Some(node) = self.graph.producer(output) else {
            return (format!("{}.weight", node.name), None);
        };
        let mut name = node.input(1).unwrap_or_default();
        while let Some(pair) = self.graph.producer(name) {
            name = pair.input(0).unwrap_or_default();
        }
        let in_float = |name: &str| {
            let float = self.float.unwrap_or(self.graph);
            float.initializer(name).is_some()
        };
        let base = name.strip_suffix("_quantized");
        let weight = base.filter(|base| in_float(base)).unwrap_or(name);
        (weight.to_owned(), node.input(2).map(str::to_owned))
    }
}
