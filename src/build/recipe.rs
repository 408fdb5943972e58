//! Recipes: from a float network and frames to the INT8 network, with its accuracy measured.
//!
//! ```text
//! float network ─┬───────────────────── calibrate ─┐
//!                └─ equalize (by alpha) calibrate ─┴─ for each candidate: ranges ─ align background
//!                       ─ mean errors ─ bias correction ─ quantize ─ compile ─ SQNR on held-out frames
//! ```
//!
//! | recipe | |
//! |---|---|
//! | `nvidia` | [`nvidia`]: what pytorch-quantization and the detectors that use it do |
//! | `best` | of [`candidates`] the one with the highest [`Sqnr::figure`] |
//! | `custom` | the configuration as it is |
//!
//! Every k-th frame is held out of calibration and measured on. Network, frames and configuration
//! decide the result to the last byte, whatever the number of threads. A network is calibrated once for
//! each alpha, whatever the number of candidates; one candidate at a time is in memory, beside the best.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bias::{self, Collector};
use super::calibrate::{self, Calibration, CalibrationError, Key, Occupancy};
use super::config::{
    BiasCorrection, Cells, Config, ConfigError, Equalize, Given, Method, PfnPolicy, Placement,
    Recipe,
};
use super::equalize::{self, Levels};
use super::folder::Folder;
use super::onnx::Graph;
use super::quantize::{self, Kind, Quantized, Quantizer};
use super::runner::Runner;
use super::sqnr::{Reference, Sqnr};
use super::{BuildError, Result as BuildResult, compile};
use crate::engine::cpu::Payload;
use crate::error::Result;
use crate::features::Pfn;
use crate::plan::{Calibrated, Candidate, Quantization};
use crate::synth::Rng;
use crate::threads::Pool;

/// Most frames that mean errors are taken from: more do not change a mean.
const BIAS_FRAMES: usize = 32;

/// The recipe of NVIDIA's pytorch-quantization and of the detectors that are quantised with it: a
/// histogram of 2048 bins over all cells and the least mean squared error for activations, the largest
/// weight per output channel, deconvolutions in float, and nothing else.
pub fn nvidia() -> Config {
    Config {
        recipe: Recipe::Nvidia,
        bias_correction: BiasCorrection::Off,
        calibration: super::config::Calibration {
            method: Method::Mse,
            cells: Cells::All,
            bins: calibrate::BINS,
            ..Default::default()
        },
        equalize: Equalize {
            alpha: 0.0,
            background: false,
        },
        placement: Placement {
            deconvolutions: false,
            ..Placement::default()
        },
        ..Config::default()
    }
}

/// What `best` chooses from, all with every convolution in INT8. The list is what measured well on the
/// demo model, at several exponents because networks differ in how uneven their channels are; the last
/// two are common recipes, for comparison.
pub fn candidates() -> Vec<Config> {
    let candidate = |alpha, method, cells| Config {
        recipe: Recipe::Best,
        calibration: super::config::Calibration {
            method,
            cells,
            ..Default::default()
        },
        equalize: Equalize {
            alpha,
            ..Equalize::default()
        },
        ..Config::default()
    };
    let mut all = Vec::new();
    for alpha in [0.5, 0.3, 0.75, 0.0] {
        for (method, cells) in [
            (Method::Percentile, Cells::Occupied),
            (Method::Max, Cells::All),
            (Method::Mse, Cells::Occupied),
        ] {
            all.push(candidate(alpha, method, cells));
        }
    }
    for (alpha, method) in [(0.5, Method::Max), (0.0, Method::Mse)] {
        let mut common = candidate(alpha, method, Cells::All);
        common.equalize.background = false;
        common.bias_correction = BiasCorrection::Off;
        all.push(common);
    }
    all
}

/// What is quantised, and how.
pub struct Job<'a> {
    /// The float model.
    pub folder: &'a Folder,
    /// Frames to calibrate and to measure on, in their order.
    pub frames: &'a [PathBuf],
    /// The options that were given.
    pub given: &'a Given,
    /// Calibration of the network as it is, to read, or to write if it is not there.
    pub calibration: Option<&'a Path>,
    /// CPU threads; 0 is one per core.
    pub threads: usize,
}

/// An INT8 network, ready for a plan.
pub struct Outcome {
    /// The Q/DQ network.
    pub quantized: Quantized,
    /// The pillar feature network that belongs to it.
    pub pfn: Pfn,
    /// The CPU engine's payload.
    pub payload: Payload,
    /// What was done and measured, for the plan's manifest.
    pub record: Quantization,
    /// What equalisation did, a line each.
    pub steps: Vec<String>,
}

/// Is told how far a long job is.
pub trait Progress: Sync {
    /// A step of `total` parts begins.
    fn begin(&self, step: &str, total: usize);
    /// One part is done.
    fn advance(&self);
}

/// Runs the recipe that was given.
///
/// # Errors
/// [`super::config::ConfigError`] for options that cannot be, [`CalibrationError`] and
/// [`crate::points::FrameError`] for frames, [`BuildError`] for the network.
pub fn run(job: &Job<'_>, progress: &dyn Progress) -> Result<Outcome> {
    let configs = configs(job.given)?;
    let frames = configs.first().map(|c| c.frames.clone());
    let mut bench = Bench::new(job, &frames.unwrap_or_default(), progress)?;
    let reference = bench.reference()?;
    if let (Some(first), None) = (configs.first(), &reference)
        && first.recipe == Recipe::Best
    {
        return Err(BuildError::from(ConfigError::Value {
            origin: format!("{} frames", job.frames.len()),
            key: "frames.held_out",
            found: first.frames.held_out.to_string(),
            expected: "at most the number of frames: the recipe `best` chooses by the error on \
                       held-out frames",
        })
        .into());
    }
    let mut best: Option<Trial> = None;
    let mut candidates = Vec::with_capacity(configs.len());
    for config in &configs {
        let mut trial = bench.trial(config)?;
        if let Some(reference) = &reference {
            let sqnr = bench.measure(&trial, reference)?;
            candidates.push(Candidate {
                name: config.label(),
                chosen: false,
                sqnr: sqnr.clone(),
            });
            trial.sqnr = Some(sqnr);
        }
        let figure = |t: &Trial| t.sqnr.as_ref().map_or(f64::NEG_INFINITY, |s| s.figure);
        // The first of equals.
        if best
            .as_ref()
            .is_none_or(|best| figure(&trial) > figure(best))
        {
            best = Some(trial);
        }
    }
    let Some(best) = best else {
        return Err(CalibrationError::NoFrames.into());
    };
    for candidate in &mut candidates {
        candidate.chosen = candidate.name == best.config.label();
    }
    if configs.len() == 1 {
        candidates.clear();
    }
    bench.finish(best, candidates)
}

/// The configurations to try.
pub(crate) fn configs(given: &Given) -> BuildResult<Vec<Config>> {
    let recipe = given.recipe()?;
    let mut configs: Vec<Config> = Vec::new();
    match recipe {
        Recipe::Nvidia => configs.push(given.over_fixed(&nvidia())?),
        Recipe::Custom => configs.push(given.over(&Config::default())?),
        Recipe::Best => {
            for candidate in candidates() {
                let config = given.over(&candidate)?;
                // A given key makes candidates alike.
                if !configs.contains(&config) {
                    configs.push(config);
                }
            }
        }
    }
    Ok(configs)
}

/// The frames to calibrate on and those to measure on.
#[derive(Debug, PartialEq, Eq)]
struct Split {
    calibration: Vec<PathBuf>,
    held_out: Vec<PathBuf>,
}

impl Split {
    fn new(frames: &[PathBuf], options: &super::config::Frames) -> Result<Self> {
        let mut chosen: Vec<usize> = (0..frames.len()).collect();
        if options.limit > 0 && options.limit < frames.len() {
            let mut rng = Rng::new(options.seed, 0, CHOICE_STREAM);
            for i in 0..options.limit {
                let span = (frames.len() - i) as f64;
                chosen.swap(i, i + (rng.uniform() * span) as usize);
            }
            chosen.truncate(options.limit);
            chosen.sort_unstable();
        }
        let every = options.held_out;
        let is_held_out = |place: usize| every > 0 && place % every == every - 1;
        let (mut calibration, mut held_out) = (Vec::new(), Vec::new());
        for (place, path) in chosen.iter().filter_map(|&i| frames.get(i)).enumerate() {
            match is_held_out(place) {
                true => held_out.push(path.clone()),
                false => calibration.push(path.clone()),
            }
        }
        if calibration.is_empty() {
            return Err(CalibrationError::NoFrames.into());
        }
        Ok(Self {
            calibration,
            held_out,
        })
    }
}

/// Keeps the choice of frames apart from other uses of a seed.
const CHOICE_STREAM: u64 = 0x6368_6f69_6365;

/// A network and its calibration: one for all candidates of an alpha and a PFN policy.
struct Network {
    alpha: f64,
    policy: PfnPolicy,
    graph: Graph,
    pfn: Pfn,
    calibration: Calibration,
    /// By tensor and channel: the values behind an empty input, far from the borders.
    background: BTreeMap<String, Vec<Vec<f32>>>,
    steps: Vec<String>,
}

/// A configuration and the INT8 network that it makes.
pub(crate) struct Trial {
    config: Config,
    /// Index into [`Bench::networks`].
    network: usize,
    pub(crate) pfn: Pfn,
    pub(crate) quantized: Quantized,
    /// What its ranges come from.
    pub(crate) key: Key,
    sqnr: Option<Sqnr>,
}

/// What all trials share.
pub(crate) struct Bench<'a> {
    job: &'a Job<'a>,
    split: Split,
    pool: Arc<Pool>,
    progress: &'a dyn Progress,
    networks: Vec<Network>,
}

impl<'a> Bench<'a> {
    /// For the frames of `job` that `frames` chooses.
    ///
    /// # Errors
    /// [`CalibrationError::NoFrames`].
    pub(crate) fn new(
        job: &'a Job<'a>,
        frames: &super::config::Frames,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        Ok(Self {
            job,
            split: Split::new(job.frames, frames)?,
            pool: Arc::new(Pool::new(job.threads)),
            progress,
            networks: Vec::new(),
        })
    }

    /// The frames that are not calibrated on.
    pub(crate) fn held_out(&self) -> &[PathBuf] {
        &self.split.held_out
    }

    /// The network of a configuration, calibrated.
    fn network(&mut self, config: &Config) -> Result<usize> {
        let (alpha, policy) = (config.equalize.alpha, config.placement.pfn);
        let same = |n: &Network| n.alpha == alpha && n.policy == policy;
        if let Some(found) = self.networks.iter().position(same) {
            return Ok(found);
        }
        let folder = self.job.folder;
        let (mut graph, mut pfn) = (folder.rpn.graph.clone(), folder.pfe.pfn.clone());
        let mut steps = Vec::new();
        if alpha > 0.0 {
            let mut plain = config.clone();
            plain.equalize.alpha = 0.0;
            plain.placement.pfn = PfnPolicy::Float;
            let plain = self.network(&plain)?;
            let tensors = &self.networks[plain].calibration.tensors;
            let maxima = tensors
                .iter()
                .map(|(name, t)| (name.clone(), t.channel_max.clone()));
            let equal = equalize::equalize(&graph, &pfn, &maxima.collect(), alpha)?;
            steps = equal.report.lines();
            (graph, pfn) = (equal.graph, equal.pfn);
        }
        if policy == PfnPolicy::Weights {
            round_pfn(&mut pfn);
            steps.push("rounded the weights of the PFN to INT8".to_owned());
        }
        let as_it_is = alpha == 0.0 && policy == PfnPolicy::Float;
        let cache = self.job.calibration.filter(|_| as_it_is);
        self.networks.push(Network {
            calibration: self.calibrate(&graph, &pfn, config, cache)?,
            background: self.background(&graph, &pfn)?,
            alpha,
            policy,
            graph,
            pfn,
            steps,
        });
        Ok(self.networks.len() - 1)
    }

    fn calibrate(
        &self,
        graph: &Graph,
        pfn: &Pfn,
        config: &Config,
        cache: Option<&Path>,
    ) -> Result<Calibration> {
        let model = &self.job.folder.model;
        let frames = &self.split.calibration;
        let options = calibrate::Options {
            bins: config.calibration.bins,
            threads: self.job.threads,
            ..Default::default()
        };
        self.progress.begin("calibrate", frames.len());
        let done = |_| self.progress.advance();
        match cache {
            Some(cache) => {
                calibrate::load_or_run(cache, model, pfn, graph, frames, &options, &done)
            }
            None => calibrate::calibrate(model, pfn, graph, frames, &options, &done),
        }
    }

    /// What a network makes of an empty frame.
    fn background(&self, graph: &Graph, pfn: &Pfn) -> Result<BTreeMap<String, Vec<Vec<f32>>>> {
        let mut found = BTreeMap::new();
        // The input of a new engine is empty.
        let mut runner = self.runner(pfn, compile::cpu(graph)?)?;
        runner.run_read(Some(&mut |name, view| {
            let layout = view.layout;
            let inside = centre([layout.height, layout.width]);
            let values = |c: usize| {
                let cells = inside.iter().enumerate().filter(|(_, inside)| **inside);
                let cells = cells.map(|(i, _)| (i / layout.width, i % layout.width));
                cells
                    .filter_map(|(y, x)| view.data.get(layout.index(c, y, x)).copied())
                    .collect()
            };
            found.insert(name.to_owned(), (0..layout.channels).map(values).collect());
        }))?;
        Ok(found)
    }

    /// Makes the INT8 network of a configuration.
    pub(crate) fn trial(&mut self, config: &Config) -> Result<Trial> {
        let at = self.network(config)?;
        let network = &self.networks[at];
        let placement = placement(config);
        let method = method(&config.calibration);
        let occupied = config.calibration.cells == Cells::Occupied;
        let mut amax = BTreeMap::new();
        let mut warnings = Vec::new();
        for tensor in quantize::points(&network.graph, &placement)? {
            let found = network.calibration.amax(&tensor, method, occupied)?;
            if found.amax == 0.0 {
                warnings.push(format!(
                    "tensor \"{tensor}\" is 0 in every frame that was calibrated on, and stays 0 in \
                     INT8; calibrate on frames that reach it"
                ));
            }
            amax.insert(tensor, found.amax);
        }
        let mut quantized = quantize::quantize(&network.graph, &amax, &placement)?;
        let (mut graph, mut pfn) = (network.graph.clone(), network.pfn.clone());
        if config.equalize.background {
            let levels = levels(network, &quantized.quantizers);
            (graph, pfn) = equalize::align(&graph, &pfn, &levels)?;
            // The weights have other ranges now.
            quantized = quantize::quantize(&graph, &amax, &placement)?;
        }
        if config.bias_correction != BiasCorrection::Off {
            let errors = self.mean_errors(config, &graph, &pfn, &quantized.quantizers)?;
            bias::correct(&mut graph, &errors)?;
            quantized = quantize::quantize(&graph, &amax, &placement)?;
        }
        let network = &self.networks[at];
        quantized.warnings.extend(warnings);
        let activations = quantized.quantizers.iter_mut();
        for quantizer in activations.filter(|q| q.kind == Kind::Activation) {
            if let [amax] = quantizer.amax[..] {
                quantizer.saturated = network.calibration.saturated(&quantizer.tensor, amax);
            }
        }
        Ok(Trial {
            key: network.calibration.key.clone(),
            config: config.clone(),
            network: at,
            pfn,
            quantized,
            sqnr: None,
        })
    }

    /// The mean error of each output channel, by the output of the convolution.
    fn mean_errors(
        &self,
        config: &Config,
        graph: &Graph,
        pfn: &Pfn,
        quantizers: &[Quantizer],
    ) -> Result<BTreeMap<String, Vec<f64>>> {
        let mut collector = Collector::new(graph, quantizers)?;
        let mut runner = self.runner(pfn, compile::cpu(graph)?)?;
        if config.bias_correction == BiasCorrection::Background {
            runner.run_read(Some(&mut |name, view| {
                collector.observe(name, view, &mut centre);
            }))?;
            return Ok(collector.errors());
        }
        let frames = self.split.calibration.iter().take(BIAS_FRAMES);
        let all = config.bias_correction == BiasCorrection::All;
        let mut occupancy = Occupancy::new(&self.job.folder.model.grid);
        self.progress.begin("mean errors", frames.len());
        for frame in frames {
            runner.read(frame)?;
            occupancy.set(runner.cells());
            let mut cells = |[rows, columns]: [usize; 2]| match all {
                true => vec![true; rows * columns],
                false => occupancy.of_size(rows, columns).to_vec(),
            };
            runner.run_read(Some(&mut |name, view| {
                collector.observe(name, view, &mut cells);
            }))?;
            self.progress.advance();
        }
        Ok(collector.errors())
    }

    /// The float network's outputs on the held-out frames; `None` if there are none.
    fn reference(&self) -> Result<Option<Reference<'a>>> {
        let frames = &self.split.held_out;
        if frames.is_empty() {
            return Ok(None);
        }
        let folder = self.job.folder;
        let mut runner = self.runner(&folder.pfe.pfn, folder.cpu_payload()?)?;
        self.progress.begin("float outputs", frames.len());
        let advance = || self.progress.advance();
        Reference::new(&folder.model, &mut runner, frames, advance).map(Some)
    }

    fn measure(&self, trial: &Trial, reference: &Reference<'_>) -> Result<Sqnr> {
        let payload = compile::cpu(&trial.quantized.graph)?;
        let mut runner = self.runner(&trial.pfn, payload)?;
        self.progress.begin(&trial.config.label(), reference.len());
        reference.measure(&mut runner, || self.progress.advance())
    }

    fn runner(&self, pfn: &Pfn, payload: Payload) -> BuildResult<Runner<'a>> {
        let folder = self.job.folder;
        let path = folder.rpn.graph.path();
        Runner::new(&folder.model, pfn, payload, self.pool.clone(), path)
    }

    fn finish(self, trial: Trial, candidates: Vec<Candidate>) -> Result<Outcome> {
        let folder = self.job.folder;
        let quantized = trial.quantized;
        let weights = quantized
            .quantizers
            .iter()
            .filter(|q| q.kind == Kind::Weight);
        let readers: HashSet<&String> = weights.flat_map(|q| &q.readers).collect();
        let layers = quantize::layers(&folder.rpn.graph)?
            .into_iter()
            .map(|l| l.name);
        let (int8, float) = layers.partition(|layer| readers.contains(layer));
        let network = &self.networks[trial.network];
        let mut steps = network.steps.clone();
        if trial.config.equalize.background {
            steps.push("aligned the background of each channel with the codes".to_owned());
        }
        if trial.config.bias_correction != BiasCorrection::Off {
            steps.push("took mean errors off the biases".to_owned());
        }
        let mut quantizers = quantized.quantizers.clone();
        for quantizer in &mut quantizers {
            if let (Kind::Activation, &[amax]) = (quantizer.kind, &quantizer.amax[..]) {
                quantizer.saturated = network.calibration.saturated(&quantizer.tensor, amax);
            }
        }
        Ok(Outcome {
            payload: compile::cpu(&quantized.graph)?,
            pfn: trial.pfn,
            steps,
            record: Quantization {
                config: trial.config,
                calibration: Calibrated {
                    frames: self.split.calibration.len(),
                    key: network.calibration.key.clone(),
                },
                sqnr: trial.sqnr,
                candidates,
                int8,
                float,
                quantizers,
            },
            quantized,
        })
    }
}

/// Rows and columns in the middle of a map that stand for its background: more than any shuffle's
/// block, and far from the borders, whose zeros reach inwards.
const CENTRE: usize = 16;

/// The cells in the middle of a map of so many rows and columns.
fn centre([rows, columns]: [usize; 2]) -> Vec<bool> {
    let near = |i: usize, n: usize| (i + CENTRE / 2 >= n / 2) && i < n / 2 + CENTRE / 2;
    let cells = (0..rows * columns).map(|i| (i / columns, i % columns));
    cells
        .map(|(y, x)| near(y, rows) && near(x, columns))
        .collect()
}

/// The background and the ranges of a network's quantised tensors.
fn levels(network: &Network, quantizers: &[Quantizer]) -> BTreeMap<String, Levels> {
    let activations = quantizers.iter().filter(|q| q.kind == Kind::Activation);
    let each = activations.filter_map(|quantizer| {
        let levels = Levels {
            background: network.background.get(&quantizer.tensor)?.clone(),
            channel_amax: network
                .calibration
                .tensors
                .get(&quantizer.tensor)?
                .channel_max
                .clone(),
            scale: calibrate::scale(*quantizer.amax.first()?),
        };
        Some((quantizer.tensor.clone(), levels))
    });
    each.collect()
}

fn placement(config: &Config) -> quantize::Placement {
    let Placement {
        skip,
        first_layer,
        heads,
        deconvolutions,
        pfn: _,
    } = config.placement.clone();
    quantize::Placement {
        skip,
        only: None,
        first_layer,
        heads,
        deconvolutions,
    }
}

fn method(calibration: &super::config::Calibration) -> calibrate::Method {
    match calibration.method {
        Method::Max => calibrate::Method::Max,
        Method::Mse => calibrate::Method::Mse,
        Method::Entropy => calibrate::Method::Entropy,
        Method::Percentile => calibrate::Method::Percentile(calibration.percentile),
    }
}

/// Rounds each output's weights to the codes of their largest magnitude.
fn round_pfn(pfn: &mut Pfn) {
    for layer in &mut pfn.layers {
        for row in layer.weight.chunks_exact_mut(layer.in_features.max(1)) {
            let amax = row.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
            let scale = calibrate::scale(amax);
            let rounded = |w: f32| f32::from(calibrate::quantize(w, scale)) * scale;
            row.iter_mut().for_each(|w| *w = rounded(*w));
        }
    }
}

#[cfg(test)]
mod tests;
