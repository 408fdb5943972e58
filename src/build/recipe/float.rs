//! Training in float: of a model folder's two networks, BatchNormalization included, on labelled frames.
//!
//! ```text
//! frame ─ random move ─ pillars ─ PfnNetwork ─ features ─ train::Network ─ outputs ─ loss with the labels' targets
//!                                    └─ gradients ──────────┘
//! ```
//!
//! A step goes through its frames in micro-batches, over which BatchNormalization takes its statistics and which bound the
//! memory. The gradients of a step add up, then the optimiser moves all weights. Every [`FloatConfig::check`] steps the moving
//! average is written to graphs, folded and compiled as any model folder is, and its mean average precision on the held-out
//! frames is measured. The best network is what is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Progress;
use super::split::Split;
use super::training::{
    Choice, Course, Labels, Learner, Site, Task, mean_ap, need, remove_state, write_log,
};
use crate::build::config::FramesConfig;
use crate::build::folder::{Folder, fitted_pfe};
use crate::build::import::{pfe_of, rpn_of, unfused_pfe, unfused_rpn};
use crate::build::onnx::Graph;
use crate::build::quantize::WeightFormats;
use crate::build::train::input::{FrameInput, Move};
use crate::build::train::loss::{Goal, Heads};
use crate::build::train::network::Network;
use crate::build::train::optimizer::StepOptions;
use crate::build::train::pfn::{PfnNetwork, PillarRows};
use crate::build::train::state::State;
use crate::build::train::target::FrameTarget;
use crate::build::{BuildError, Result, compile, hash};
use crate::cpu::Pool;
use crate::plan::Training;
use crate::plan::config::{Curve, WeightScales};
use crate::points::Layout;
use crate::synth::Rng;

/// Where messages say that an option comes from.
const ORIGIN: &str = "cp-build train";
/// Random streams, separate from other uses of a seed.
const MOVE_STREAM: u64 = 0x6d6f_7665;
const START_STREAM: u64 = 0x0073_7461_7274;

/// Options of a training in float.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FloatConfig {
    /// Start with random weights instead of those of the folder.
    pub(crate) from_nothing: bool,
    /// Number of steps.
    pub(crate) steps: usize,
    /// Frames of a step.
    pub(crate) batch: usize,
    /// Frames that share the statistics of BatchNormalization, and the memory.
    pub(crate) micro_batch: usize,
    /// Greatest learning rate.
    pub(crate) rate: f64,
    /// How the rate changes over the steps.
    pub(crate) curve: Curve,
    /// Decoupled weight decay.
    pub(crate) weight_decay: f64,
    /// Whether scenes are flipped, turned, scaled and shifted at random.
    pub(crate) augment: bool,
    /// Globs of layer names to train; empty trains all.
    pub(crate) train_layers: Vec<String>,
    /// Globs of layer names to leave as they are.
    pub(crate) freeze: Vec<String>,
    /// Steps between two measurements on the held-out frames.
    pub(crate) check: usize,
    /// Measurements without a better one after which the training stops; 0 never stops it.
    pub(crate) patience: usize,
    /// Seed of the order of frames, of their moves and of random weights.
    pub(crate) seed: u64,
    /// Which frames to train and to measure on.
    pub(crate) frames: FramesConfig,
}

impl FloatConfig {
    /// Those of mmdetection3d's CenterPoint, as far as they are options.
    pub(crate) fn new(from_nothing: bool) -> Self {
        Self {
            from_nothing,
            steps: 1000,
            batch: 8,
            micro_batch: 2,
            rate: if from_nothing { 3e-3 } else { 1e-4 },
            curve: Curve::OneCycle,
            weight_decay: 0.01,
            augment: true,
            train_layers: Vec::new(),
            freeze: Vec::new(),
            check: 100,
            patience: 0,
            seed: 0,
            frames: FramesConfig::default(),
        }
    }

    /// The optimiser's options at a step.
    fn at(&self, step: usize) -> StepOptions {
        /// Greatest share that the moving average keeps; it keeps less in the first steps, which are far from the last.
        const EMA: f64 = 0.998;
        let (factor, beta1) = self.curve.at(step, self.steps);
        let done = step as f64;
        StepOptions {
            rate: self.rate * factor,
            beta1,
            beta2: 0.99,
            weight_decay: self.weight_decay,
            clip: 35.0,
            ema: EMA.min((1.0 + done) / (10.0 + done)),
        }
    }
}

/// A model to train, with frames and options.
pub(crate) struct FloatJob<'a> {
    pub(crate) folder: &'a Folder,
    /// Frames to train and to measure on, in order.
    pub(crate) frames: &'a [PathBuf],
    /// Columns of the frames whose files do not name them; `None` uses the model's.
    pub(crate) layout: Option<Layout>,
    pub(crate) labels: &'a Path,
    pub(crate) config: &'a FloatConfig,
    /// State of an interrupted training: read if the file exists, written at every measurement, removed at the end.
    pub(crate) state: Option<&'a Path>,
    /// Table of steps, rates, losses and figures to write, as CSV.
    pub(crate) log: Option<&'a Path>,
    /// CPU threads; 0 is one per core.
    pub(crate) threads: usize,
}

/// The trained networks, to be written into a folder.
pub(crate) struct FloatOutcome {
    pub(crate) pfe: Graph,
    pub(crate) rpn: Graph,
    pub(crate) record: FloatTraining,
}

/// The record of a training in float, for the folder's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FloatTraining {
    pub(crate) config: FloatConfig,
    pub(crate) result: Training,
}

/// The two networks as their files have them, BatchNormalization included.
#[derive(Clone)]
struct Graphs {
    pfe: Graph,
    rpn: Graph,
}

/// Trains on the frames of a job.
struct FloatTask<'a> {
    job: &'a FloatJob<'a>,
    split: &'a Split,
    labels: &'a Labels,
    heads: Heads,
    input: FrameInput,
    pfn: PfnNetwork,
    /// What the trained values are written into.
    graphs: Graphs,
    /// Frames that were trained on, as the number of the next random move.
    moves: u64,
}

impl FloatTask<'_> {
    /// Adds the gradients of a micro-batch.
    fn micro_batch(&mut self, network: &mut Network, frames: &[usize], weight: f64) -> Result<f64> {
        let mut pillars = Vec::with_capacity(frames.len());
        let mut targets = Vec::with_capacity(frames.len());
        let model = &self.job.folder.model;
        for &frame in frames {
            let path = &self.split.calibration[frame];
            let mut scene = Move::default();
            if self.job.config.augment {
                scene = Move::random(&mut Rng::new(self.job.config.seed, self.moves, MOVE_STREAM));
            }
            self.moves += 1;
            pillars.push(self.input.read(path, &scene)?);
            let boxes = self.labels.boxes(path, model, self.input.place())?;
            let boxes: Vec<_> = boxes.iter().map(|found| scene.place(found)).collect();
            targets.push(FrameTarget::new(model, &boxes));
        }
        let refs: Vec<&PillarRows> = pillars.iter().collect();
        self.pfn.fill(&refs, network);
        network.forward();
        let goals: Vec<Goal<'_>> = targets
            .iter()
            .map(|target| Goal {
                teacher: None,
                target: Some(target),
            })
            .collect();
        let loss = self.heads.loss(network, &goals, weight);
        self.pfn.learn(&refs, network);
        Ok(loss)
    }

    /// The graphs with the parameters of `network`.
    fn written(&self, network: &Network) -> Result<Graphs> {
        let mut graphs = self.graphs.clone();
        network.write(&mut graphs.rpn)?;
        self.pfn.write(&network.params, &mut graphs.pfe)?;
        Ok(graphs)
    }

    /// The mean average precision of networks on the held-out frames.
    fn precision(&self, graphs: &Graphs) -> Result<f64> {
        let job = self.job;
        let model = &job.folder.model;
        let pfe = fitted_pfe(pfe_of(graphs.pfe.clone())?, graphs.pfe.path(), model)?;
        let rpn = rpn_of(graphs.rpn.clone(), model)?;
        let site = Site {
            folder: job.folder,
            layout: job.layout,
            threads: job.threads,
        };
        let payload = compile::cpu(&rpn.graph)?;
        mean_ap(&site, &payload, &pfe.pfn, &self.split.held_out, self.labels)
    }
}

impl Task for FloatTask<'_> {
    fn gradients(&mut self, network: &mut Network, frames: &[usize]) -> Result<f64> {
        let weight = 1.0 / frames.len() as f64;
        let mut loss = 0.0;
        for frames in frames.chunks(self.job.config.micro_batch.max(1)) {
            loss += self.micro_batch(network, frames, weight)?;
        }
        Ok(loss)
    }

    fn measure(&mut self, learner: &mut Learner, _best: f64) -> Result<f64> {
        let graphs = learner.averaged(|network| self.written(network))?;
        self.precision(&graphs)
    }
}

/// Trains the networks of a job.
///
/// # Errors
/// [`BuildError`] for networks that cannot be trained, for the frames and the labels, and for a training that diverges.
pub(crate) fn train(job: &FloatJob<'_>, progress: &dyn Progress) -> Result<FloatOutcome> {
    let (folder, config) = (job.folder, job.config);
    let [pfe_path, rpn_path] = folder.network_files();
    if folder.is_quantized() {
        let what = "the network is quantised, and its codes cannot be trained in float; use the float network, or cp-build qat";
        return Err(BuildError::graph(rpn_path, what));
    }
    let split = Split::new(job.frames, &config.frames)?;
    if split.held_out.is_empty() {
        let found = format!("{} for {} frames", config.frames.held_out, job.frames.len());
        let expected = "at most the number of frames: the training measures on held-out frames";
        return Err(need(ORIGIN, "held_out", &found, expected));
    }
    let all: [&[PathBuf]; 2] = [&split.calibration, &split.held_out];
    let labels = Labels::read(job.labels, &all, &folder.model)?;

    let mut pfe = Graph::read(pfe_path)?;
    let layers = unfused_pfe(&mut pfe)?;
    let rpn = unfused_rpn(Graph::read(rpn_path)?, &folder.model)?;
    let pool = Arc::new(Pool::new(job.threads));
    let mut network = Network::new(
        &rpn,
        None,
        WeightScales::Max,
        &WeightFormats::new(),
        pool.clone(),
    )?;
    let mut input = FrameInput::new(&folder.model, job.layout, rpn_path)?;
    let scale = input.column_scale(&split.calibration)?;
    let pfn = PfnNetwork::new(layers, scale, &mut network.params, pool)?;
    let heads = Heads::new(&folder.model, &network, true)?;
    if config.from_nothing {
        let mut rng = Rng::new(config.seed, 0, START_STREAM);
        pfn.start_anew(&mut network.params, &mut rng);
        network.start_anew(&mut rng, &|output| heads.prior(output));
    }
    let layers = [pfn.layer_names(), network.layers()].concat();
    let choice = Choice::new(&config.train_layers, &config.freeze, &layers);
    network.set_rates(&|layer| choice.rate(layer), 0.0);
    pfn.set_rates(&mut network.params, &|layer| choice.rate(layer));
    network.prepare()?;
    let trained_layers = network.trained_layers();
    if trained_layers.is_empty() {
        let expected = "globs that leave a layer to train";
        return Err(need(ORIGIN, "train_layers", "none", expected));
    }

    let graphs = Graphs { pfe, rpn };
    let mut task = FloatTask {
        job,
        split: &split,
        labels: &labels,
        heads,
        input,
        pfn,
        graphs,
        moves: 0,
    };
    let mut learner = Learner::new(network);
    let start = task.written(&learner.network)?;
    let before = if config.from_nothing {
        0.0
    } else {
        task.precision(&start)?
    };
    let names: Vec<String> = job.frames.iter().map(|p| p.display().to_string()).collect();
    let key = (
        config,
        folder.hashes()?,
        hash::sha256(names.join("\n").as_bytes()),
        labels.hash(),
    );
    let mut state = State::new(&key, config.steps, before);
    learner.resume(&mut state, job.state)?;
    task.moves = (state.step * config.batch) as u64;
    let course = Course {
        figure: "mAP",
        steps: config.steps,
        batch: config.batch,
        frames: split.calibration.len(),
        seed: config.seed,
        check: config.check,
        patience: config.patience,
        options: &|step| config.at(step),
        state: job.state,
        progress,
    };
    course.run(&mut learner, &mut state, &mut task)?;
    log::info!(
        "training: {:.0} MB of maps",
        learner.network.bytes() as f64 / 1e6
    );
    if let Some(path) = job.log {
        write_log(path, course.figure, &state.log)?;
    }
    let result = course.record(&state, trained_layers);
    let graphs = if result.kept {
        let average = learner.optimizer.average_mut();
        average.copy_from_slice(&state.best_values);
        learner.averaged(|network| task.written(network))?
    } else {
        start
    };
    remove_state(job.state)?;
    Ok(FloatOutcome {
        pfe: graphs.pfe,
        rpn: graphs.rpn,
        record: FloatTraining {
            config: config.clone(),
            result,
        },
    })
}
