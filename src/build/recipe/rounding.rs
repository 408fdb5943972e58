//! The codes of a recipe's weights: bits and ranges by layer, and codes chosen by the error of each layer's output.
//!
//! Layers are done in order of execution, those that do not depend on each other together. Their inputs come from the INT8
//! network in which all layers before them have their codes already, on the first calibration frames, as the engine computes
//! them. A layer that is done takes its mean error off its bias for the layers after it; the bias correction of the recipe
//! comes later and starts from the float biases.
//!
//! The Gram matrices in memory at once take [`GRAM_BYTES`] or those of one layer. The network runs once for each group of
//! layers and frame.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use super::Progress;
use super::training::need;
use crate::build::calibrate::Occupancy;
use crate::build::config::{Config, DeconvolutionScales, Rounding, WeightsConfig};
use crate::build::globs::Globs;
use crate::build::onnx::make::put_initializers;
use crate::build::onnx::proto::TensorProto;
use crate::build::onnx::{Graph, tensor};
use crate::build::quantize::{
    self, Placement, Quantizer, QuantizerKind, WeightFormat, WeightFormats,
};
use crate::build::rounding::gram::Gram;
use crate::build::rounding::{self, Layer, Options, Rounded};
use crate::build::runner::{Bev, Runner};
use crate::build::{Result, bias, compile};
use crate::cpu::Pool;
use crate::engine::cpu::Isa;
use crate::model::{Grid, Pfn};
use crate::program::Payload;

/// Most bytes of Gram matrices in memory, unless one layer needs more.
const GRAM_BYTES: usize = 1 << 30;

/// What it takes to choose codes.
pub(super) struct Chooser<'a> {
    pub(super) grid: &'a Grid,
    pub(super) frames: &'a [PathBuf],
    pub(super) pool: &'a Pool,
    pub(super) progress: &'a dyn Progress,
    /// Makes a network ready to run.
    pub(super) runner: &'a dyn Fn(&Pfn, Payload) -> Result<Runner>,
}

/// The float network to round, with the ranges of its maps.
pub(super) struct Start<'a> {
    pub(super) graph: &'a Graph,
    pub(super) pfn: &'a Pfn,
    pub(super) amax: &'a BTreeMap<String, f32>,
    pub(super) placement: &'a Placement,
}

/// The formats of the weights that have other bits than 8 or one range for all channels, and warnings about globs that match no
/// layer.
///
/// # Errors
/// [`crate::build::BuildError`] for malformed nodes and tensors.
pub(super) fn formats(
    graph: &Graph,
    config: &WeightsConfig,
) -> Result<(WeightFormats, Vec<String>)> {
    let layers = quantize::layers(graph)?;
    let (four_bits, eight_bits) = (
        Globs::new(&config.four_bits),
        Globs::new(&config.eight_bits),
    );
    let is_four =
        |layer: &str| (config.bits == 4 || four_bits.matches(layer)) && !eight_bits.matches(layer);
    let mut formats = WeightFormats::new();
    let one_scale = config.deconvolution_scales == DeconvolutionScales::Tensor;
    for layer in layers.iter().filter(|layer| is_four(&layer.name)) {
        if one_scale && layer.deconvolution {
            let expected = "\"channel\" with deconvolutions of 4 bits, or 8=GLOB for them";
            let found = format!("tensor, and 4 bits for {}", layer.name);
            return Err(need(
                "weights",
                "weights.deconvolution_scales",
                &found,
                expected,
            ));
        }
        for (name, axis) in quantize::weights(graph, layer)? {
            let Some(weight) = graph.array(&name)? else {
                continue;
            };
            let values: Vec<f32> = weight.iter().copied().collect();
            let search = || rounding::searched(&values, weight.shape(), axis, 4);
            let amax = config.search.then(search);
            formats.insert(name, WeightFormat { bits: 4, amax });
        }
    }
    // A weight that several layers share has the most bits among them.
    for layer in layers.iter().filter(|layer| !is_four(&layer.name)) {
        for (name, _) in quantize::weights(graph, layer)? {
            formats.remove(&name);
        }
    }
    for layer in layers
        .iter()
        .filter(|layer| one_scale && layer.deconvolution)
    {
        for (name, axis) in quantize::weights(graph, layer)? {
            let Some(weight) = graph.array(&name)? else {
                continue;
            };
            let most = weight.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
            let amax = Some(vec![most; weight.shape().get(axis).copied().unwrap_or(0)]);
            formats.insert(name, WeightFormat { bits: 8, amax });
        }
    }
    let names = || layers.iter().map(|layer| layer.name.as_str());
    let unmatched = four_bits.unused(names()).chain(eight_bits.unused(names()));
    let warnings =
        unmatched.map(|glob| format!("the pattern \"{glob}\" of weights matches no layer"));
    Ok((formats, warnings.collect()))
}

/// The step of a recipe in words, if there is one.
pub(super) fn line(config: &WeightsConfig) -> Option<String> {
    let by = match config.rounding {
        Rounding::Nearest => return None,
        Rounding::Gptq => "GPTQ",
        Rounding::Adaround => "AdaRound",
    };
    Some(format!(
        "chose the codes of weights by the error of each layer's output ({by})"
    ))
}

/// The bits of each weight.
pub(super) fn bits(quantizers: &[Quantizer]) -> BTreeMap<String, u8> {
    let weights = quantizers
        .iter()
        .filter(|q| q.kind == QuantizerKind::Weight);
    weights.map(|q| (q.tensor.clone(), q.bits)).collect()
}

/// The formats of the weights that are not of 8 bits or have given ranges.
pub(super) fn with_ranges(
    quantizers: &[Quantizer],
    mut ranges: BTreeMap<String, Vec<f32>>,
) -> WeightFormats {
    let formats = bits(quantizers).into_iter().map(|(name, bits)| {
        let amax = ranges.remove(&name);
        (name, WeightFormat { bits, amax })
    });
    formats.collect()
}

impl Chooser<'_> {
    /// The network with weights whose nearest codes are the chosen ones, and their formats.
    ///
    /// # Errors
    /// [`crate::build::BuildError`] for the network, [`crate::points::FrameError`] for the frames.
    pub(super) fn choose(
        &self,
        config: &Config,
        start: Start<'_>,
        mut formats: WeightFormats,
    ) -> Result<(Graph, WeightFormats)> {
        let Start {
            graph,
            pfn,
            amax,
            placement,
        } = start;
        let nearest = quantize::insert_qdq_with(graph, amax, &formats, placement)?;
        let layers = rounding::layers(graph, &nearest.quantizers)?;
        let frames = self.inputs(pfn, compile::cpu(&nearest.graph)?)?;
        let groups = groups(&layers);
        self.progress.begin("codes of weights", layers.len());
        let mut work = graph.clone();
        let mut tensors: BTreeMap<String, TensorProto> = BTreeMap::new();
        for group in groups {
            let quantized = quantize::insert_qdq_with(&work, amax, &formats, placement)?;
            let grams = self.grams(group, pfn, compile::cpu(&quantized.graph)?, &frames)?;
            let mut shifts = BTreeMap::new();
            for layer in group {
                let Some(weight) = graph.floats(&layer.weight)? else {
                    continue;
                };
                let Some(gram) = grams.get(&site(layer)) else {
                    continue;
                };
                let hessians = gram.hessians(config.bias_correction);
                let options = Options {
                    method: config.weights.rounding,
                    search: config.weights.search,
                };
                let Rounded {
                    values,
                    amax,
                    shift,
                    errors: [before, after],
                } = rounding::round(layer, &weight.data, &hessians, options, self.pool);
                log::info!(
                    "{}: squared error of the output {:.3} of that of nearest codes",
                    layer.name,
                    after / before.max(f64::MIN_POSITIVE)
                );
                let moved = tensor::from_floats(&layer.weight, &weight.dims, &values);
                tensors.insert(layer.weight.clone(), moved);
                let format = WeightFormat {
                    bits: layer.bits,
                    amax: Some(amax),
                };
                formats.insert(layer.weight.clone(), format);
                shifts.insert(layer.output.clone(), shift);
                self.progress.advance();
            }
            let done = tensors.clone();
            work.edit(|proto| put_initializers(proto, done.into_values()))?;
            bias::correct(&mut work, &shifts)?;
        }
        let mut rounded = graph.clone();
        rounded.edit(|proto| put_initializers(proto, tensors.into_values()))?;
        Ok((rounded, formats))
    }

    /// The pillars of the first calibration frames.
    fn inputs(&self, pfn: &Pfn, payload: Payload) -> Result<Vec<Bev>> {
        let mut runner = (self.runner)(pfn, payload)?;
        let each = self.frames.iter().map(|frame| {
            runner.read(frame)?;
            Ok(runner.bev())
        });
        each.collect()
    }

    /// The Gram matrices of the inputs of `layers`.
    fn grams(
        &self,
        layers: &[Layer],
        pfn: &Pfn,
        payload: Payload,
        frames: &[Bev],
    ) -> Result<BTreeMap<String, Gram>> {
        let isa = Isa::best()?;
        let mut grams: BTreeMap<String, Gram> = BTreeMap::new();
        let mut readers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for layer in layers {
            if let Entry::Vacant(place) = grams.entry(site(layer)) {
                let all = readers.entry(layer.input.as_str()).or_default();
                all.push(place.key().clone());
                place.insert(Gram::new(&layer.geometry, isa));
            }
        }
        let mut runner = (self.runner)(pfn, payload)?;
        let mut occupancy = Occupancy::new(self.grid);
        for frame in frames {
            runner.put(frame);
            let cells: Vec<u32> = frame.pillars().map(|(cell, _)| cell as u32).collect();
            occupancy.set(&cells);
            runner.run_codes(&mut |name, codes, layout| {
                for site in readers.get(name).map_or(&[][..], |sites| sites) {
                    if let Some(gram) = grams.get_mut(site) {
                        gram.add(codes, layout, &mut occupancy, self.pool);
                    }
                }
            })?;
        }
        Ok(grams)
    }
}

/// What layers that share a Gram matrix have in common.
fn site(layer: &Layer) -> String {
    let geometry = &layer.geometry;
    // The number of output channels does not matter.
    format!(
        "{} {:?} {} {:?}",
        layer.input, geometry.window, geometry.transposed, geometry.cells
    )
}

/// The layers in groups that do not depend on each other and whose Gram matrices fit into memory.
fn groups(layers: &[Layer]) -> Vec<&[Layer]> {
    let mut groups = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (i, layer) in layers.iter().enumerate() {
        let own = Gram::bytes(&layer.geometry);
        if i > first && (layers[first].depth != layer.depth || bytes + own > GRAM_BYTES) {
            groups.push(&layers[first..i]);
            (first, bytes) = (i, 0);
        }
        bytes += own;
    }
    if first < layers.len() {
        groups.push(&layers[first..]);
    }
    groups
}
