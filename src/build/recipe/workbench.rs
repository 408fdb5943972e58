//! The workbench of a recipe: calibrated networks, and the INT8 networks built from them and measured.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::given::{Fitted, GivenScales};
use super::rounding::{self, Chooser, Start};
use super::split::Split;
use super::{Job, Outcome, Progress};
use crate::build::Result;
use crate::build::bias::{self, Collector};
use crate::build::calibrate::{self, AmaxMethod, Calibration, CalibrationKey, Counted, Occupancy};
use crate::build::config::{
    BiasCorrection, CalibrationConfig, CalibrationMethod, Cells, Config, FramesConfig, PfnPolicy,
    PlacementConfig, Rounding,
};
use crate::build::equalize::{self, Levels};
use crate::build::onnx::Graph;
use crate::build::quantize::{self, Quantized, Quantizer, QuantizerKind, WeightFormats};
use crate::build::runner::Runner;
use crate::build::sqnr::{Reference, Sqnr};
use crate::build::{BuildError, compile};
use crate::cpu::pool::Pool;
use crate::model::Pfn;
use crate::plan::{Calibrated, Candidate, Quantization, Training};
use crate::program::Payload;

/// Maximum number of frames for mean errors and for the codes of weights; more frames do not change the means.
const BIAS_FRAMES: usize = 32;

/// A network and its calibration, shared by all candidates with the same alpha and PFN policy.
pub(super) struct CalibratedNetwork {
    alpha: f64,
    policy: PfnPolicy,
    pub(super) graph: Graph,
    pub(super) pfn: Pfn,
    pub(super) calibration: Calibration,
    /// By tensor and channel: the values for an empty input, far from the borders.
    background: BTreeMap<String, Vec<Vec<f32>>>,
    steps: Vec<String>,
}

/// A configuration and its INT8 network.
pub(crate) struct Trial {
    pub(super) config: Config,
    /// Index into [`Workbench::networks`].
    pub(super) network: usize,
    pub(crate) pfn: Pfn,
    /// The float network that was quantised.
    pub(super) graph: Graph,
    pub(crate) quantized: Quantized,
    /// How its weights are stored.
    pub(super) formats: WeightFormats,
    /// Where its pairs are.
    pub(super) placement: quantize::Placement,
    /// CalibrationKey of the calibration that its ranges come from.
    pub(crate) key: CalibrationKey,
    /// `graph` before the biases were corrected, for a training that compares features.
    pub(super) uncorrected: Option<Graph>,
    pub(super) sqnr: Option<Sqnr>,
    pub(super) training: Option<Trained>,
}

/// What a training did.
pub(super) struct Trained {
    pub(super) record: Training,
    /// As [`Outcome::steps_trained`].
    pub(super) rows: Vec<[f64; 5]>,
}

/// State shared by all trials.
pub(crate) struct Workbench<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) split: Split,
    pub(super) pool: Arc<Pool>,
    pub(super) progress: &'a dyn Progress,
    pub(super) networks: Vec<CalibratedNetwork>,
    /// Those of [`Job::scales`].
    given: Option<GivenScales>,
}

impl<'a> Workbench<'a> {
    /// Creates a workbench for the frames of `job` selected by `frames`.
    ///
    /// # Errors
    /// [`calibrate::CalibrationError::NoFrames`].
    pub(crate) fn new(
        job: &'a Job<'a>,
        frames: &FramesConfig,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        if job.folder.is_quantized() {
            let what = "the network is already quantised; use the float network. To start from the scales of this one, import \
                        what it came from once more with `--scales none`, and give this folder as --scales";
            return Err(BuildError::graph(job.folder.rpn.graph.path(), what));
        }
        let given = job
            .scales
            .map(|scales| GivenScales::new(scales, job.folder));
        Ok(Self {
            job,
            given: given.transpose()?,
            split: Split::new(job.frames, frames)?,
            pool: Arc::new(Pool::new(job.threads)),
            progress,
            networks: Vec::new(),
        })
    }

    /// The frames held out of calibration.
    pub(crate) fn held_out(&self) -> &[PathBuf] {
        &self.split.held_out
    }

    /// The index of the calibrated network of a configuration. Builds it if necessary.
    pub(super) fn network(&mut self, config: &Config) -> Result<usize> {
        let (alpha, policy) = (config.equalize.alpha, config.placement.pfn);
        let same = |n: &CalibratedNetwork| n.alpha == alpha && n.policy == policy;
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
        let unmodified = alpha == 0.0 && policy == PfnPolicy::Float;
        let cache = self.job.calibration.filter(|_| unmodified);
        self.networks.push(CalibratedNetwork {
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
            layout: self.job.layout,
            threads: self.job.threads,
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

    /// The network's values for an empty frame.
    pub(super) fn background(
        &self,
        graph: &Graph,
        pfn: &Pfn,
    ) -> Result<BTreeMap<String, Vec<Vec<f32>>>> {
        let mut found = BTreeMap::new();
        // The input of a new engine is all zeros.
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

    /// Builds the INT8 network of a configuration.
    pub(crate) fn trial(&mut self, config: &Config) -> Result<Trial> {
        let at = self.network(config)?;
        let network = &self.networks[at];
        let (mut formats, mut warnings) = rounding::formats(&network.graph, &config.weights)?;
        let Fitted {
            amax: given,
            formats: given_formats,
            placement,
            warnings: notes,
        } = match &self.given {
            Some(given) => given.fit(&network.graph, &placement(config))?,
            None => Fitted::none(placement(config)),
        };
        formats.extend(given_formats);
        warnings.extend(notes);
        let method = method(&config.calibration);
        let values = Counted {
            occupied: config.calibration.cells == Cells::Occupied,
            skip_zeros: config.calibration.skip_zeros,
        };
        let mut amax = BTreeMap::new();
        for tensor in quantize::tensors_to_calibrate(&network.graph, &placement)? {
            if let Some(&given) = given.get(&tensor) {
                amax.insert(tensor, given);
                continue;
            }
            let found = network.calibration.amax(&tensor, method, values)?;
            if found.amax == 0.0 {
                warnings.push(format!(
                    "tensor \"{tensor}\" is 0 in every calibration frame and will be 0 in INT8; \
                     calibrate on frames that activate it"
                ));
            }
            if self.given.is_some() {
                warnings.push(format!(
                    "no scale was given for \"{tensor}\"; it was calibrated: {}",
                    calibrate::scale(found.amax)
                ));
            }
            amax.insert(tensor, found.amax);
        }
        let (mut graph, mut pfn) = (network.graph.clone(), network.pfn.clone());
        if config.equalize.background {
            let quantized = quantize::insert_qdq(&graph, &amax, &placement)?;
            let levels = levels(network, &quantized.quantizers);
            (graph, pfn) = equalize::align(&graph, &pfn, &levels)?;
        }
        // From here on the weights keep their ranges.
        let float = graph.clone();
        let compares = config.qat.as_ref().is_some_and(|q| q.feature_weight > 0.0);
        let uncorrected = compares.then(|| float.clone());
        if config.weights.rounding != Rounding::Nearest {
            let start = Start {
                graph: &float,
                pfn: &pfn,
                amax: &amax,
                placement: &placement,
            };
            let frames = &self.split.calibration;
            let chooser = Chooser {
                grid: &self.job.folder.model.grid,
                frames: &frames[..frames.len().min(BIAS_FRAMES)],
                pool: &self.pool,
                progress: self.progress,
                runner: &|pfn, payload| self.runner(pfn, payload),
            };
            (graph, formats) = chooser.choose(config, start, formats)?;
        }
        let mut quantized = quantize::insert_qdq_with(&graph, &amax, &formats, &placement)?;
        if config.bias_correction != BiasCorrection::Off {
            let networks = [&float, &graph];
            let errors = self.mean_errors(config, networks, &pfn, &quantized.quantizers)?;
            bias::correct(&mut graph, &errors)?;
            quantized = quantize::insert_qdq_with(&graph, &amax, &formats, &placement)?;
        }
        let network = &self.networks[at];
        quantized.warnings.extend(warnings);
        let activations = quantized.quantizers.iter_mut();
        for quantizer in activations.filter(|q| q.kind == QuantizerKind::Activation) {
            if let [amax] = quantizer.amax[..] {
                quantizer.saturated = network.calibration.saturated(&quantizer.tensor, amax);
            }
        }
        Ok(Trial {
            key: network.calibration.key.clone(),
            config: config.clone(),
            network: at,
            pfn,
            graph,
            quantized,
            formats,
            placement,
            uncorrected,
            sqnr: None,
            training: None,
        })
    }

    /// The mean error of each output channel, by the convolution's output, of the float network and the one that codes come
    /// from.
    fn mean_errors(
        &self,
        config: &Config,
        [graph, coded]: [&Graph; 2],
        pfn: &Pfn,
        quantizers: &[Quantizer],
    ) -> Result<BTreeMap<String, Vec<f64>>> {
        let mut collector = Collector::new(graph, coded, quantizers)?;
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
            let mut cells = |[rows, columns]: [usize; 2]| {
                if all {
                    vec![true; rows * columns]
                } else {
                    occupancy.of_size(rows, columns).to_vec()
                }
            };
            runner.run_read(Some(&mut |name, view| {
                collector.observe(name, view, &mut cells);
            }))?;
            self.progress.advance();
        }
        Ok(collector.errors())
    }

    /// The float network's outputs on the held-out frames; `None` if there are none.
    pub(super) fn reference(&self) -> Result<Option<Reference<'a>>> {
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

    pub(super) fn measure(&self, trial: &Trial, reference: &Reference<'_>) -> Result<Sqnr> {
        let payload = compile::cpu(&trial.quantized.graph)?;
        let mut runner = self.runner(&trial.pfn, payload)?;
        self.progress.begin(&trial.config.label(), reference.len());
        reference.measure(&mut runner, || self.progress.advance())
    }

    pub(super) fn runner(&self, pfn: &Pfn, payload: Payload) -> Result<Runner> {
        let folder = self.job.folder;
        let path = folder.rpn.graph.path();
        let runner = Runner::new(&folder.model, pfn, payload, self.pool.clone(), path)?;
        Ok(runner.with_layout(self.job.layout))
    }

    pub(super) fn finish(self, trial: Trial, candidates: Vec<Candidate>) -> Result<Outcome> {
        let folder = self.job.folder;
        let quantized = trial.quantized;
        let weights = quantized
            .quantizers
            .iter()
            .filter(|q| q.kind == QuantizerKind::Weight);
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
        steps.extend(rounding::line(&trial.config.weights));
        if trial.config.bias_correction != BiasCorrection::Off {
            steps.push("took mean errors off the biases".to_owned());
        }
        let (training, steps_trained) = match trial.training {
            Some(Trained { record, rows }) => (Some(record), rows),
            None => (None, Vec::new()),
        };
        Ok(Outcome {
            steps_trained,
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
                training,
                int8,
                float,
                quantizers: quantized.quantizers.clone(),
            },
            quantized,
        })
    }
}

/// Number of rows and columns in the middle of a map that represent its background: more than the block size of
/// any shuffle, and far from the borders, whose padding affects cells further in.
const CENTRE: usize = 16;

/// Marks the cells in the middle of a map.
pub(super) fn centre([rows, columns]: [usize; 2]) -> Vec<bool> {
    let near = |i: usize, n: usize| (i + CENTRE / 2 >= n / 2) && i < n / 2 + CENTRE / 2;
    let cells = (0..rows * columns).map(|i| (i / columns, i % columns));
    cells
        .map(|(y, x)| near(y, rows) && near(x, columns))
        .collect()
}

/// The background and the ranges of a network's quantised tensors.
pub(super) fn levels(
    network: &CalibratedNetwork,
    quantizers: &[Quantizer],
) -> BTreeMap<String, Levels> {
    let activations = quantizers
        .iter()
        .filter(|q| q.kind == QuantizerKind::Activation);
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

pub(super) fn placement(config: &Config) -> quantize::Placement {
    let PlacementConfig {
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

fn method(calibration: &CalibrationConfig) -> AmaxMethod {
    match calibration.method {
        CalibrationMethod::Max => AmaxMethod::Max,
        CalibrationMethod::Mse => AmaxMethod::Mse,
        CalibrationMethod::Entropy => AmaxMethod::Entropy,
        CalibrationMethod::Percentile => AmaxMethod::Percentile(calibration.percentile),
    }
}

/// Rounds the weights of each output to INT8 codes, scaled by the output's greatest absolute weight.
pub(super) fn round_pfn(pfn: &mut Pfn) {
    for layer in &mut pfn.layers {
        for row in layer.weight.chunks_exact_mut(layer.in_features.max(1)) {
            let amax = row.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
            let scale = calibrate::scale(amax);
            let rounded = |w: f32| f32::from(crate::map::quantize(w, scale)) * scale;
            row.iter_mut().for_each(|w| *w = rounded(*w));
        }
    }
}
