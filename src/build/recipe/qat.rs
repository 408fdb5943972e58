//! Quantisation-aware training of a recipe's network.
//!
//! ```text
//! frame ─ encoder of the INT8 network ─ pillars ─ train::Network ─ outputs ─ loss ─ gradients ─ weights, scales
//!   └──── float network ─ outputs ────────────────────────────────────┘
//!   └──── labels ─ targets ───────────────────────────────────────────┘
//! ```
//!
//! The training starts from the quantised network and leaves its pairs where they are. Every [`QatConfig::check`] steps
//! the moving average of the weights is compiled and measured on the held-out frames, exactly as a plan runs. The best
//! network wins, and the network before the training is one of them: where training does not help, it is kept.
//!
//! Inputs and goals of frames stay in memory up to [`KEPT_BYTES`], later frames are read again at each use. A step works
//! frame by frame, so its memory does not depend on the batch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::rounding;
use super::training::{
    self, Choice, Course, Labels, Learner, Site, Task, mean_ap, remove_state, write_log,
};
use super::workbench::{Trained, Trial, Workbench};
use super::{BuildError, TrainingFiles};
use crate::build::quantize::{self, QuantizerKind, WeightFormats};
use crate::build::runner::{Bev, Runner};
use crate::build::sqnr::{self, Reference};
use crate::build::train::input::{FrameInput, Move};
use crate::build::train::loss::{Goal, Heads, Teacher};
use crate::build::train::network::{Features, Network};
use crate::build::train::pfn::{PfnNetwork, PillarRows};
use crate::build::train::state::State;
use crate::build::train::target::FrameTarget;
use crate::build::train::{Shape, TrainingError};
use crate::build::{Result, compile};
use crate::engine::Engine;
use crate::model::Model;
use crate::plan::config::{PfnPolicy, QatConfig, QatFigure, QatLoss};

/// Most bytes of inputs and goals to keep in memory.
const KEPT_BYTES: usize = 2 << 30;

/// A frame to train on.
struct Example {
    bev: Bev,
    /// The points of its pillars, where the PFN is trained.
    rows: Option<PillarRows>,
    teacher: Option<Teacher>,
    features: Option<Features>,
    target: Option<FrameTarget>,
}

impl Example {
    fn bytes(&self) -> usize {
        let teacher = self.teacher.as_ref().map_or(0, Teacher::bytes);
        let features = self.features.as_ref().map_or(0, Features::bytes);
        let rows = self.rows.as_ref().map_or(0, PillarRows::bytes);
        self.bev.bytes()
            + rows
            + teacher
            + features
            + self.target.as_ref().map_or(0, FrameTarget::bytes)
    }
}

/// A float network with the scales of the student's channels, and what is compared.
struct FeatureTeacher {
    network: Network,
    /// The features among its values.
    value: usize,
    /// Those among the student's.
    student: usize,
    /// Rows and columns of the heads' maps.
    head: [usize; 2],
    weight: f64,
}

/// The frames to train on, read when they are needed.
struct Examples<'a> {
    frames: &'a [PathBuf],
    model: &'a Model,
    /// Only its encoder is used.
    student: Runner,
    /// Reads the points, where the PFN is trained.
    points: Option<FrameInput>,
    /// The float network, and the place of each of the student's outputs among its own.
    teacher: Option<(Runner, Vec<usize>)>,
    /// The network whose features are the goal.
    features: Option<FeatureTeacher>,
    labels: Option<&'a Labels>,
    heads: Heads,
    kept: Vec<Option<Rc<Example>>>,
    /// Bytes of those that are kept.
    bytes: usize,
}

impl Examples<'_> {
    fn get(&mut self, index: usize) -> Result<Rc<Example>> {
        if let Some(known) = &self.kept[index] {
            return Ok(known.clone());
        }
        let frame = &self.frames[index];
        self.student.read(frame)?;
        let teacher = match &mut self.teacher {
            None => None,
            Some((runner, order)) => {
                runner.run(frame, None)?;
                let mut all = sqnr::outputs(runner.engine())?;
                let outputs = order.iter().map(|&i| std::mem::take(&mut all[i]));
                Some(Teacher::new(&self.heads, outputs.collect()))
            }
        };
        let target = match self.labels {
            None => None,
            Some(labels) => {
                let boxes = labels.boxes(frame, self.model, self.student.place())?;
                Some(FrameTarget::new(self.model, &boxes))
            }
        };
        let bev = self.student.bev();
        let features = match (&mut self.features, &teacher) {
            (
                Some(FeatureTeacher {
                    network,
                    value,
                    head,
                    ..
                }),
                Some(teacher),
            ) => {
                network.batch(1).set_pillars(0, bev.pillars());
                Some(Features::new(network, *value, teacher, *head))
            }
            _ => None,
        };
        let rows = match &mut self.points {
            None => None,
            Some(points) => Some(points.read(frame, &Move::default())?),
        };
        let example = Rc::new(Example {
            bev,
            rows,
            teacher,
            features,
            target,
        });
        let bytes = self.bytes + example.bytes();
        if bytes <= KEPT_BYTES {
            self.bytes = bytes;
            self.kept[index] = Some(example.clone());
        }
        Ok(example)
    }
}

/// Measures networks on the held-out frames.
struct Judge<'a, 'b> {
    bench: &'b Workbench<'a>,
    reference: &'b Reference<'b>,
    /// The precision is measured if they are set, otherwise the ratio.
    labels: Option<&'b Labels>,
}

impl Judge<'_, '_> {
    /// Name of the figure.
    fn name(&self) -> &'static str {
        match self.labels {
            Some(_) => "mAP",
            None => "SQNR",
        }
    }

    /// Measures a network.
    fn measure(&self, trial: &mut Trial) -> Result<f64> {
        let bench = self.bench;
        if let Some(labels) = self.labels {
            let payload = compile::cpu(&trial.quantized.graph)?;
            let site = Site {
                folder: bench.job.folder,
                layout: bench.job.layout,
                threads: bench.job.threads,
            };
            return mean_ap(&site, &payload, &trial.pfn, bench.held_out(), labels);
        }
        self.record(trial)
    }

    /// The ratio of a network, which every record has.
    fn record(&self, trial: &mut Trial) -> Result<f64> {
        let sqnr = match trial.sqnr.take() {
            Some(known) => known,
            None => self.bench.measure(trial, self.reference)?,
        };
        let figure = sqnr.figure;
        trial.sqnr = Some(sqnr);
        Ok(figure)
    }

    /// The INT8 network of the parameters of `network` and `pfn`, which began at `start`.
    fn trained(&self, start: &Trial, network: &Network, pfn: Option<&PfnNetwork>) -> Result<Trial> {
        let pfn = match pfn {
            None => start.pfn.clone(),
            Some(pfn) => {
                let mut pfn = pfn.pfn(&network.params);
                pfn.fold_legacy(&self.bench.job.folder.model);
                pfn
            }
        };
        let mut graph = start.graph.clone();
        network.write(&mut graph)?;
        let activations = start.quantized.quantizers.iter();
        let activations = activations.filter(|q| q.kind == QuantizerKind::Activation);
        // A tensor's own range, where it shares that of another.
        let mut amax: BTreeMap<String, f32> = activations
            .filter_map(|q| Some((q.tensor.clone(), q.own_amax.or(q.amax.first().copied())?)))
            .collect();
        amax.extend(network.trained_amax());
        let weights = rounding::with_ranges(&start.quantized.quantizers, network.fixed_amax());
        let mut quantized = quantize::insert_qdq_with(&graph, &amax, &weights, &start.placement)?;
        quantized.warnings.clone_from(&start.quantized.warnings);
        Ok(Trial {
            config: start.config.clone(),
            network: start.network,
            pfn,
            graph,
            quantized,
            formats: start.formats.clone(),
            placement: start.placement.clone(),
            key: start.key.clone(),
            uncorrected: None,
            sqnr: None,
            training: None,
        })
    }

    /// The network of the training, or `None` if `start` is as good; with the ratio for the record. `best` is the best one that
    /// was measured: a training that was continued may have had it before.
    fn verdict(
        &self,
        start: &mut Trial,
        best: Option<Trial>,
        pfn: Option<&PfnNetwork>,
        state: &State,
        learner: &mut Learner,
    ) -> Result<Option<Trial>> {
        if state.best <= state.before() {
            self.record(start)?;
            return Ok(None);
        }
        let mut best = match best {
            Some(best) => best,
            None => {
                let average = learner.optimizer.average_mut();
                average.copy_from_slice(&state.best_values);
                learner.averaged(|network| self.trained(start, network, pfn))?
            }
        };
        self.record(&mut best)?;
        Ok(Some(best))
    }
}

/// Trains in INT8.
struct Qat<'a, 'b> {
    judge: &'b Judge<'a, 'b>,
    start: &'b Trial,
    /// The PFN, if it is trained.
    pfn: Option<PfnNetwork>,
    examples: Examples<'b>,
    /// The best network so far.
    best: Option<Trial>,
}

impl Task for Qat<'_, '_> {
    fn gradients(&mut self, network: &mut Network, frames: &[usize]) -> Result<f64> {
        let mut loss = 0.0;
        for &frame in frames {
            let example = self.examples.get(frame)?;
            let mut pfn = self.pfn.as_mut().zip(example.rows.as_ref());
            match &mut pfn {
                Some((pfn, rows)) => pfn.fill(&[*rows], network),
                None => network.batch(1).set_pillars(0, example.bev.pillars()),
            }
            network.forward();
            let goal = Goal {
                teacher: example.teacher.as_ref(),
                target: example.target.as_ref(),
            };
            let scale = 1.0 / frames.len() as f64;
            loss += self.examples.heads.loss(network, &[goal], scale);
            if let (Some(teacher), Some(goal)) = (&self.examples.features, &example.features) {
                loss += network.feature_loss(teacher.student, goal, scale * teacher.weight);
            }
            match pfn {
                Some((pfn, rows)) => pfn.learn(&[rows], network),
                None => {
                    network.backward(false);
                }
            }
        }
        Ok(loss)
    }

    fn measure(&mut self, learner: &mut Learner, best: f64) -> Result<f64> {
        let made = |network: &Network| self.judge.trained(self.start, network, self.pfn.as_ref());
        let mut trial = learner.averaged(made)?;
        let figure = self.judge.measure(&mut trial)?;
        if figure > best {
            self.best = Some(trial);
        }
        Ok(figure)
    }
}

impl Workbench<'_> {
    /// Trains the network of `trial`, and returns it, or `trial` if it is as good.
    ///
    /// # Errors
    /// [`ConfigError`] for options that do not fit, [`BuildError`] for the network, the frames and the labels.
    pub(super) fn train(
        &self,
        mut start: Trial,
        reference: Option<&Reference<'_>>,
        options: &QatConfig,
        files: &TrainingFiles<'_>,
    ) -> Result<Trial> {
        let Some(reference) = reference else {
            let expected = "at least 2: the training measures on held-out frames";
            return Err(need("frames.held_out", "0", expected));
        };
        let labels = self.labels(options, files)?;
        let mut network = self.network_to_train(&start, options)?;
        let (points, pfn) = self.pfn_to_train(&start, options, &mut network)?.unzip();
        let by_labels = options.loss != QatLoss::Distil;
        let heads = Heads::new(&self.job.folder.model, &network, by_labels)?;
        let layers = network.trained_layers();
        if layers.is_empty() {
            let expected = "globs that leave a layer to train";
            return Err(need("qat.train_layers", "none", expected));
        }
        let judge = Judge {
            bench: self,
            reference,
            labels: labels.as_ref().filter(|_| options.select == QatFigure::Map),
        };
        let name = judge.name();
        let before = judge.measure(&mut start)?;
        let inputs = (options, &start.key, labels.as_ref().map(Labels::hash));
        let mut state = State::new(&inputs, options.steps, before);
        let mut learner = Learner::new(network);
        learner.resume(&mut state, files.state)?;
        let mut task = Qat {
            judge: &judge,
            examples: Examples {
                points,
                ..self.examples(&start, &learner.network, heads, options, labels.as_ref())?
            },
            start: &start,
            pfn,
            best: None,
        };
        let course = Course {
            figure: name,
            steps: options.steps,
            batch: options.batch,
            frames: self.split.calibration.len(),
            seed: options.seed,
            check: options.check,
            patience: options.patience,
            options: &|step| options.at(step),
            state: files.state,
            progress: self.progress,
        };
        course.run(&mut learner, &mut state, &mut task)?;
        log::info!(
            "training: {:.0} MB of maps, {:.0} MB of frames",
            learner.network.bytes() as f64 / 1e6,
            task.examples.bytes as f64 / 1e6
        );
        if let Some(path) = files.log {
            write_log(path, name, &state.log)?;
        }
        let (found, pfn) = (task.best, task.pfn);
        let best = judge.verdict(&mut start, found, pfn.as_ref(), &state, &mut learner)?;
        let record = course.record(&state, layers);
        remove_state(files.state)?;
        let mut result = best.unwrap_or(start);
        result.training = Some(Trained {
            record,
            rows: state.log,
        });
        Ok(result)
    }

    /// The labels, checked before the work and not in the middle of it.
    fn labels(&self, options: &QatConfig, files: &TrainingFiles<'_>) -> Result<Option<Labels>> {
        let needed = options.loss != QatLoss::Distil || options.select == QatFigure::Map;
        match files.labels {
            Some(path) => {
                let frames: [&[PathBuf]; 2] = [&self.split.calibration, &self.split.held_out];
                let labels = Labels::read(path, &frames, &self.job.folder.model)?;
                Ok(Some(labels))
            }
            None if needed => {
                let expected = "\"distil\" and \"sqnr\", or --labels";
                Err(need("qat.loss", "labels without a file", expected))
            }
            None => Ok(None),
        }
    }

    /// The frames to train on.
    fn examples<'b>(
        &'b self,
        start: &Trial,
        network: &Network,
        heads: Heads,
        options: &QatConfig,
        labels: Option<&'b Labels>,
    ) -> Result<Examples<'b>> {
        let folder = self.job.folder;
        let frames = &self.split.calibration;
        Ok(Examples {
            frames,
            model: &folder.model,
            student: self.runner(&start.pfn, compile::cpu(&start.quantized.graph)?)?,
            points: None,
            teacher: match options.loss {
                QatLoss::Labels => None,
                QatLoss::Distil | QatLoss::Both => {
                    let runner = self.runner(&folder.pfe.pfn, folder.cpu_payload()?)?;
                    let order = order(network, runner.engine(), folder.rpn.graph.path())?;
                    Some((runner, order))
                }
            },
            features: self.features(start, network, options)?,
            labels: labels.filter(|_| options.loss != QatLoss::Distil),
            heads,
            kept: vec![None; frames.len()],
            bytes: 0,
        })
    }

    /// The network whose features are the goal, if its loss has a weight.
    fn features(
        &self,
        start: &Trial,
        network: &Network,
        options: &QatConfig,
    ) -> Result<Option<FeatureTeacher>> {
        if options.feature_weight == 0.0 {
            return Ok(None);
        }
        if options.loss == QatLoss::Labels {
            let expected = "\"distil\" or \"both\": the features of qat.feature_weight are those of the float network";
            return Err(need("qat.loss", "labels", expected));
        }
        let path = network.params.origin();
        let refuse = |what: String| {
            let path = path.into();
            BuildError::from(TrainingError::Features { path, what })
        };
        // Biases that are corrected make up for the noise of INT8, which the goal is without.
        let graph = start.uncorrected.as_ref().unwrap_or(&start.graph);
        let teacher = Network::new(
            graph,
            None,
            options.weight_scales,
            &WeightFormats::new(),
            self.pool.clone(),
        )?;
        match (network.features(), teacher.features()) {
            (Some((student, own)), Some((value, other))) if own == other => {
                let (width, height) = self.job.folder.model.head_size();
                Ok(Some(FeatureTeacher {
                    network: teacher,
                    value,
                    student,
                    head: [height, width],
                    weight: options.feature_weight,
                }))
            }
            (Some((_, own)), Some((_, other))) => Err(refuse(format!(
                "that of the quantised network has the shape {own:?}, that of the float one {other:?}"
            ))),
            _ => Err(refuse("their ways part at the input".to_owned())),
        }
    }

    /// The trainable form of a trial's network, with the rates of its parameters.
    fn network_to_train(&self, trial: &Trial, options: &QatConfig) -> Result<Network> {
        let mut network = Network::new(
            &trial.quantized.graph,
            Some(&trial.graph),
            options.weight_scales,
            &trial.formats,
            self.pool.clone(),
        )?;
        let choice = Choice::new(&options.train_layers, &options.freeze, &network.layers());
        network.set_rates(&|layer| choice.rate(layer), options.scale_rate as f32);
        Ok(network)
    }

    /// The PFN of a trial to train with `network`, and what reads its input, if the options say so.
    fn pfn_to_train(
        &self,
        trial: &Trial,
        options: &QatConfig,
        network: &mut Network,
    ) -> Result<Option<(FrameInput, PfnNetwork)>> {
        if !options.train_pfn {
            return Ok(None);
        }
        if trial.config.placement.pfn == PfnPolicy::Weights {
            let expected =
                "\"float\" with qat.train_pfn: weights that are rounded cannot be trained";
            return Err(need("placement.pfn", "weights", expected));
        }
        let folder = self.job.folder;
        let path = folder.rpn.graph.path();
        let mut input = FrameInput::new(&folder.model, self.job.layout, path)?;
        let scale = input.column_scale(&self.split.calibration)?;
        let pool = self.pool.clone();
        let pfn = PfnNetwork::folded(&trial.pfn, scale, &mut network.params, pool)?;
        pfn.set_rates(&mut network.params, &|_| 1.0);
        Ok(Some((input, pfn)))
    }
}

/// An error about an option.
fn need(key: &'static str, found: &str, expected: &'static str) -> BuildError {
    training::need("qat", key, found, expected)
}

/// The place of each output of `network` among those of the float network's engine. `path` is the float network.
fn order(network: &Network, engine: &impl Engine, path: &Path) -> Result<Vec<usize>> {
    let all = engine.outputs();
    let place = |(name, _): (&str, Shape)| {
        let found = all.iter().position(|o| o.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|o| o.name.as_str()).collect();
            BuildError::from(TrainingError::Output {
                path: path.into(),
                output: name.to_owned(),
                found: names.join(", "),
            })
        })
    };
    network.outputs().map(place).collect()
}
