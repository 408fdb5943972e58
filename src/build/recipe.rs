//! Recipes: from a float network and frames to the INT8 network, with its accuracy measured.
//!
//! ```text
//! float network ─┬───────────────────── calibrate ─┐
//!                └─ equalize (by alpha) calibrate ─┴─ candidates: ranges ─ bias correction ─ quantize
//!                                                     ─ compile ─ SQNR on held-out frames
//! ```
//!
//! | recipe | |
//! |---|---|
//! | `nvidia` | [`nvidia`]: what pytorch-quantization and the detectors that use it do |
//! | `best` | of [`candidates`] the one with the highest [`Sqnr::figure`](super::sqnr::Sqnr::figure) |
//! | `custom` | the configuration as it is |
//!
//! Every k-th frame is held out of calibration and measured on. Network, frames and configuration
//! decide the result to the last byte, whatever the number of threads. A network is calibrated once for
//! each alpha, and once more for all of its candidates with bias correction together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bias::{self, Collector};
use super::calibrate::{self, Calibration, CalibrationError, Occupancy};
use super::config::{
    BiasCorrection, Cells, Config, Equalize, Given, Method, PfnPolicy, Placement, Recipe,
};
use super::folder::Folder;
use super::onnx::Graph;
use super::quantize::{self, Quantized};
use super::runner::Runner;
use super::sqnr::Reference;
use super::{BuildError, Result as BuildResult, compile, equalize};
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
        equalize: Equalize { alpha: 0.0 },
        placement: Placement {
            deconvolutions: false,
            ..Placement::default()
        },
        ..Config::default()
    }
}

/// What `best` chooses from, all with every convolution in INT8.
pub fn candidates() -> Vec<Config> {
    let mut all = Vec::new();
    for alpha in [0.0, 0.5] {
        for (method, percentile) in [
            (Method::Max, 99.999),
            (Method::Percentile, 99.999),
            (Method::Percentile, 99.99),
            (Method::Mse, 99.999),
        ] {
            for bias_correction in [BiasCorrection::Off, BiasCorrection::All] {
                all.push(Config {
                    recipe: Recipe::Best,
                    bias_correction,
                    calibration: super::config::Calibration {
                        method,
                        percentile,
                        ..Default::default()
                    },
                    equalize: Equalize { alpha },
                    ..Config::default()
                });
            }
        }
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
    let frames = configs.first().map(|c| c.frames.clone()).unwrap_or_default();
    let mut bench = Bench {
        job,
        split: Split::new(job.frames, &frames)?,
        pool: Arc::new(Pool::new(job.threads)),
        progress,
        networks: Vec::new(),
    };
    let mut trials = Vec::with_capacity(configs.len());
    for config in configs {
        trials.push(bench.trial(config)?);
    }
    bench.mean_errors(&mut trials)?;
    bench.measure(&mut trials)?;
    bench.finish(trials)
}

/// The configurations to try.
fn configs(given: &Given) -> BuildResult<Vec<Config>> {
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
    steps: Vec<String>,
}

/// A configuration on its way to an INT8 network.
struct Trial {
    config: Config,
    /// Index into [`Bench::networks`].
    network: usize,
    /// Range of each tensor.
    amax: BTreeMap<String, f32>,
    /// Mean errors by the output of a convolution; none without bias correction.
    errors: BTreeMap<String, Vec<f64>>,
    record: Candidate,
}

/// What all trials share.
struct Bench<'a> {
    job: &'a Job<'a>,
    split: Split,
    pool: Arc<Pool>,
    progress: &'a dyn Progress,
    networks: Vec<Network>,
}

impl Bench<'_> {
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
            let plain = Config {
                equalize: Equalize { alpha: 0.0 },
                placement: Placement {
                    pfn: PfnPolicy::Float,
                    ..config.placement.clone()
                },
                ..config.clone()
            };
            let plain = self.network(&plain)?;
            let tensors = &self.networks[plain].calibration.tensors;
            let maxima = tensors.iter().map(|(name, t)| (name.clone(), t.channel_max.clone()));
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
        let calibration = self.calibrate(&graph, &pfn, config, cache)?;
        self.networks.push(Network {
            alpha,
            policy,
            graph,
            pfn,
            calibration,
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
        self.progress.begin("calibrating", frames.len());
        let done = |_| self.progress.advance();
        match cache {
            Some(cache) => {
                calibrate::load_or_run(cache, model, pfn, graph, frames, &options, &done)
            }
            None => calibrate::calibrate(model, pfn, graph, frames, &options, &done),
        }
    }

    /// Finds the ranges of a configuration.
    fn trial(&mut self, config: Config) -> Result<Trial> {
        let at = self.network(&config)?;
        let network = &self.networks[at];
        let method = method(&config.calibration);
        let occupied = config.calibration.cells == Cells::Occupied;
        let mut amax = BTreeMap::new();
        for tensor in quantize::points(&network.graph, &placement(&config))? {
            let found = network.calibration.amax(&tensor, method, occupied)?;
            amax.insert(tensor, found.amax);
        }
        Ok(Trial {
            record: Candidate::new(&config),
            config,
            network: at,
            amax,
            errors: BTreeMap::new(),
        })
    }

    /// One float pass per network for the mean errors of its trials.
    fn mean_errors(&self, trials: &mut [Trial]) -> Result<()> {
        let frames = self.split.calibration.iter().take(BIAS_FRAMES);
        for (at, network) in self.networks.iter().enumerate() {
            let wants = |t: &&mut Trial| {
                t.network == at && t.config.bias_correction != BiasCorrection::Off
            };
            let mut trials: Vec<&mut Trial> = trials.iter_mut().filter(wants).collect();
            if trials.is_empty() {
                continue;
            }
            let mut collectors = Vec::with_capacity(trials.len());
            for trial in &trials {
                let quantized = quantize(&network.graph, trial)?;
                let occupied = trial.config.bias_correction == BiasCorrection::Occupied;
                collectors.push(Collector::new(&network.graph, &quantized.quantizers, occupied)?);
            }
            let mut runner = self.runner(&network.pfn, compile::cpu(&network.graph)?)?;
            let mut occupancy = Occupancy::new(&self.job.folder.model.grid);
            self.progress.begin("mean errors", frames.len());
            for frame in frames.clone() {
                runner.read(frame)?;
                occupancy.set(runner.cells());
                runner.run_read(Some(&mut |name, view| {
                    for collector in &mut collectors {
                        collector.observe(name, view, &mut occupancy);
                    }
                }))?;
                self.progress.advance();
            }
            for (trial, collector) in trials.iter_mut().zip(collectors) {
                trial.errors = collector.errors();
            }
        }
        Ok(())
    }

    /// Compares each trial with the float network on the held-out frames.
    fn measure(&self, trials: &mut [Trial]) -> Result<()> {
        let frames = &self.split.held_out;
        if frames.is_empty() {
            return Ok(());
        }
        let folder = self.job.folder;
        let mut float = self.runner(&folder.pfe.pfn, folder.cpu_payload()?)?;
        self.progress.begin("float outputs", frames.len());
        let advance = || self.progress.advance();
        let reference = Reference::new(&folder.model, &mut float, frames, advance)?;
        drop(float);
        self.progress.begin("measuring", trials.len() * reference.len());
        for trial in trials {
            let payload = compile::cpu(&self.quantized(trial)?.graph)?;
            let mut runner = self.runner(&self.networks[trial.network].pfn, payload)?;
            trial.record.sqnr = Some(reference.measure(&mut runner, advance)?);
        }
        Ok(())
    }

    /// The Q/DQ network of a trial.
    fn quantized(&self, trial: &Trial) -> BuildResult<Quantized> {
        let mut graph = self.networks[trial.network].graph.clone();
        bias::correct(&mut graph, &trial.errors)?;
        quantize(&graph, trial)
    }

    fn runner(&self, pfn: &Pfn, payload: Payload) -> BuildResult<Runner<'_>> {
        let folder = self.job.folder;
        let path = folder.rpn.graph.path();
        Runner::new(&folder.model, pfn, payload, self.pool.clone(), None, path)
    }

    /// Takes the best trial.
    fn finish(mut self, mut trials: Vec<Trial>) -> Result<Outcome> {
        let figure = |t: &Trial| t.record.sqnr.as_ref().map_or(f64::NEG_INFINITY, |s| s.figure);
        let mut best = 0;
        for at in 1..trials.len() {
            // The first of equals.
            if figure(&trials[at]) > figure(&trials[best]) {
                best = at;
            }
        }
        let candidates = match trials.len() {
            1 => Vec::new(),
            _ => trials.iter().map(|t| t.record.clone()).collect(),
        };
        let trial = trials.swap_remove(best);
        let quantized = self.quantized(&trial)?;
        let payload = compile::cpu(&quantized.graph)?;
        let network = self.networks.swap_remove(trial.network);
        let layers = quantize::layers(&network.graph)?;
        let weights = quantized.quantizers.iter().filter_map(|q| q.layer.as_ref());
        let int8: Vec<String> = weights.cloned().collect();
        let float = layers.into_iter().map(|l| l.name).filter(|l| !int8.contains(l));
        Ok(Outcome {
            record: Quantization {
                float: float.collect(),
                int8,
                calibrated: Calibrated::new(&network.calibration, &self.split.calibration),
                quantizers: quantized.quantizers.clone(),
                sqnr: trial.record.sqnr,
                config: trial.config,
                candidates,
            },
            steps: network.steps,
            pfn: network.pfn,
            payload,
            quantized,
        })
    }
}

fn quantize(graph: &Graph, trial: &Trial) -> BuildResult<Quantized> {
    quantize::quantize(graph, &trial.amax, &placement(&trial.config))
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
