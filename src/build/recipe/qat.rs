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
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::rounding;
use super::workbench::{Trial, Workbench, placement};
use super::{BuildError, TrainingFiles};
use crate::boxes::Box3d;
use crate::build::calibrate::CalibrationError;
use crate::build::config::ConfigError;
use crate::build::folder::Network as PlanNetwork;
use crate::build::quantize::{self, QuantizerKind};
use crate::build::runner::{Bev, Runner};
use crate::build::sqnr::{self, Reference};
use crate::build::train::loss::{Goal, Heads, Teacher};
use crate::build::train::network::Network;
use crate::build::train::optimizer::{Optimizer, StepOptions};
use crate::build::train::state::State;
use crate::build::train::target::FrameTarget;
use crate::build::{Result, compile};
use crate::detector::{Detector, Options};
use crate::engine::Engine;
use crate::eval::{frames, nuscenes};
use crate::files::{FileError, OutputFile};
use crate::model::Model;
use crate::plan::Training;
use crate::plan::config::{QatConfig, QatFigure, QatLoss};
use crate::results::nuscenes::{Results, SampleBox, sample_token};
use crate::synth::Rng;

/// Most bytes of inputs and goals to keep in memory.
const KEPT_BYTES: usize = 2 << 30;
/// Random stream of the order of frames, separate from other uses of a seed.
const ORDER_STREAM: u64 = 0x006f_7264_6572;

/// A frame to train on.
struct Example {
    bev: Bev,
    teacher: Option<Teacher>,
    target: Option<FrameTarget>,
}

impl Example {
    fn bytes(&self) -> usize {
        let teacher = self.teacher.as_ref().map_or(0, Teacher::bytes);
        self.bev.bytes() + teacher + self.target.as_ref().map_or(0, FrameTarget::bytes)
    }
}

/// The frames to train on, read when they are needed.
struct Examples<'a> {
    frames: &'a [PathBuf],
    model: &'a Model,
    /// Only its encoder is used.
    student: Runner,
    /// The float network, and the place of each of the student's outputs among its own.
    teacher: Option<(Runner, Vec<usize>)>,
    labels: Option<&'a Results>,
    kept: Vec<Option<Rc<Example>>>,
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
                Some(Teacher(outputs.collect()))
            }
        };
        let target = match self.labels {
            None => None,
            Some(labels) => {
                let boxes = boxes(labels, frame, self.model, &self.student)?;
                Some(FrameTarget::new(self.model, &boxes))
            }
        };
        let example = Rc::new(Example {
            bev: self.student.bev(),
            teacher,
            target,
        });
        self.bytes += example.bytes();
        if self.bytes <= KEPT_BYTES {
            self.kept[index] = Some(example.clone());
        }
        Ok(example)
    }
}

/// The labels of a frame.
fn samples<'a>(labels: &'a Results, frame: &Path) -> Result<&'a [SampleBox]> {
    let token = sample_token(frame);
    let found = labels.results.get(&token);
    found.map(Vec::as_slice).ok_or_else(|| {
        BuildError::from(CalibrationError::NoLabels {
            path: frame.into(),
            sample: token,
        })
    })
}

/// The labelled boxes of the frame that `runner` read last, in the model's coordinates. Objects without a point are left out.
fn boxes(labels: &Results, frame: &Path, model: &Model, runner: &Runner) -> Result<Vec<Box3d>> {
    let samples = samples(labels, frame)?;
    let back = runner.place().map(|place| place.inverse());
    let boxes = samples
        .iter()
        .filter(|s| s.num_pts != 0)
        .filter_map(|sample| {
            let class = model
                .classes
                .iter()
                .position(|c| *c == sample.detection_name)?;
            let found = sample.to_box3d(class as u32);
            Some(back.map_or(found, |back| back.place(&found)))
        });
    Ok(boxes.collect())
}

/// Measures networks on the held-out frames.
struct Judge<'a> {
    reference: &'a Reference<'a>,
    figure: QatFigure,
    labels: Option<&'a Results>,
}

impl Judge<'_> {
    /// Measures a network; its ratios are always measured.
    fn measure(&self, bench: &Workbench<'_>, trial: &mut Trial) -> Result<f64> {
        let sqnr = match trial.sqnr.take() {
            Some(known) => known,
            None => bench.measure(trial, self.reference)?,
        };
        let figure = sqnr.figure;
        trial.sqnr = Some(sqnr);
        match (self.figure, self.labels) {
            (QatFigure::Map, Some(labels)) => average_precision(bench, trial, labels),
            _ => Ok(figure),
        }
    }
}

/// The mean average precision on the held-out frames, of a plan that is written, run, and removed.
fn average_precision(bench: &Workbench<'_>, trial: &Trial, labels: &Results) -> Result<f64> {
    let folder = bench.job.folder;
    let io = |source| BuildError::Io {
        path: std::env::temp_dir(),
        source,
    };
    let dir = tempfile::tempdir().map_err(io)?;
    let plan = dir.path().join("candidate.plan");
    let network = PlanNetwork {
        payload: &compile::cpu(&trial.quantized.graph)?,
        pfn: &trial.pfn,
        steps: Vec::new(),
        quantization: None,
    };
    folder.write_cpu(&plan, network, None)?;
    let options = Options {
        threads: bench.job.threads,
        // As metrics are taken.
        score: Some(0.1),
        ..Options::default()
    };
    let mut detector = Detector::load(&plan, &options)?;
    let paths = bench.held_out();
    let layout = bench.job.layout;
    let run = frames::run(&mut detector, paths, layout, nuscenes::MAX_BOXES, || {})?;
    let mut truth = Results::default();
    for path in paths {
        let token = sample_token(path);
        let boxes = labels.results.get(&token).cloned().unwrap_or_default();
        truth.results.insert(token, boxes);
    }
    let classes = folder.model.classes.iter().map(String::as_str);
    let config = nuscenes::Config::for_classes(classes);
    Ok(nuscenes::evaluate(&truth, &run.results, &config)?.mean_ap)
}

impl Workbench<'_> {
    /// Trains the network of `trial`, and returns it, or `trial` if it is as good.
    ///
    /// # Errors
    /// [`ConfigError`] for options that do not fit, [`BuildError`] for the network, the frames and the labels.
    pub(super) fn train(
        &mut self,
        mut start: Trial,
        reference: Option<&Reference<'_>>,
        options: &QatConfig,
        files: &TrainingFiles<'_>,
    ) -> Result<Trial> {
        let need = |key: &'static str, found: &str, expected: &'static str| {
            BuildError::from(ConfigError::Value {
                origin: "qat".to_owned(),
                key,
                found: found.to_owned(),
                expected,
            })
        };
        let Some(reference) = reference else {
            let expected = "at least 2: the training measures on held-out frames";
            return Err(need("frames.held_out", "0", expected));
        };
        let labelled = options.loss != QatLoss::Distil || options.select == QatFigure::Map;
        let labels = match files.labels {
            Some(path) => Some(Results::read(path)?),
            None if labelled => {
                let expected = "\"distil\" and \"sqnr\", or --labels";
                return Err(need("qat.loss", "labels without a file", expected));
            }
            None => None,
        };
        let labels = labels.as_ref();
        if let Some(labels) = labels {
            // Before the work, not in the middle of it.
            let frames = self.split.calibration.iter().chain(&self.split.held_out);
            for frame in frames {
                samples(labels, frame)?;
            }
        }
        let folder = self.job.folder;
        let mut network = self.network_to_train(&start, options)?;
        let Some(heads) = Heads::new(&folder.model, &network) else {
            let what = "the network lacks an output that model.toml names";
            return Err(BuildError::graph(folder.rpn.graph.path(), what));
        };
        let layers = trained(&network);
        if layers.is_empty() {
            let expected = "globs that leave a layer to train";
            return Err(need("qat.train_layers", "none", expected));
        }
        let train_frames = self.split.calibration.clone();
        let mut examples = Examples {
            frames: &train_frames,
            model: &folder.model,
            student: self.runner(&start.pfn, compile::cpu(&start.quantized.graph)?)?,
            teacher: match options.loss {
                QatLoss::Labels => None,
                QatLoss::Distil | QatLoss::Both => {
                    let runner = self.runner(&folder.pfe.pfn, folder.cpu_payload()?)?;
                    let order = order(&network, runner.engine());
                    Some((runner, order))
                }
            },
            labels: labels.filter(|_| options.loss != QatLoss::Distil),
            kept: vec![None; train_frames.len()],
            bytes: 0,
        };
        let judge = Judge {
            reference,
            figure: options.select,
            labels,
        };
        let before = judge.measure(self, &mut start)?;
        let mut optimizer = Optimizer::new(&network.params);
        let mut state = State::new(options, &start.key, before);
        if let Some(path) = files.state {
            state.read(path, &mut network.params, &mut optimizer)?;
            network.prepare()?;
        }
        let name = match options.select {
            QatFigure::Sqnr => "SQNR",
            QatFigure::Map => "mAP",
        };
        self.progress.begin("train", options.steps);
        for _ in 0..state.step {
            self.progress.advance();
        }
        while state.step < options.steps {
            let (factor, beta1) = options.schedule.at(state.step, options.steps);
            let mut loss = 0.0;
            for frame in frames_of(state.step, options, train_frames.len()) {
                let example = examples.get(frame)?;
                let maps = network.batch(1);
                maps.clear();
                for (cell, features) in example.bev.pillars() {
                    let (width, channels) = (maps.shape.width, maps.shape.channels);
                    let at = cell % width * channels;
                    maps.pixels_mut(0, cell / width)[at..at + channels].copy_from_slice(features);
                }
                network.forward();
                let goal = Goal {
                    teacher: example.teacher.as_ref(),
                    target: example.target.as_ref(),
                };
                loss += heads.loss(&mut network, &[goal], 1.0 / options.batch as f64);
                network.backward(false);
            }
            let step = StepOptions {
                rate: options.rate * factor,
                beta1,
                beta2: options.beta2,
                weight_decay: options.weight_decay,
                clip: options.clip,
                ema: options.ema,
            };
            let norm = network.update(&mut optimizer, &step)?;
            state.step += 1;
            let mut figure = None;
            let last = state.step == options.steps;
            if last || state.step.is_multiple_of(options.check.max(1)) {
                let mut trial = self.trial_of(&start, &mut network, &mut optimizer)?;
                let found = judge.measure(self, &mut trial)?;
                figure = Some(found);
                state.measured(found, optimizer.average());
                self.progress.begin("train", options.steps);
                for _ in 1..state.step {
                    self.progress.advance();
                }
            }
            state.log.push([
                state.step as f64,
                step.rate,
                loss,
                norm,
                figure.unwrap_or(f64::NAN),
            ]);
            self.progress.advance();
            self.progress.note(&format!(
                "train: loss {loss:.4}, {name} {:.3} (before {before:.3})",
                state.best
            ));
            if let (Some(path), Some(_)) = (files.state, figure) {
                state.write(path, &network.params, &optimizer)?;
            }
            let stale = state.since_best;
            if figure.is_some() && options.patience > 0 && stale >= options.patience {
                break;
            }
        }
        log::info!(
            "training: {:.0} MB of maps, {:.0} MB of frames",
            network.bytes() as f64 / 1e6,
            examples.bytes.min(KEPT_BYTES) as f64 / 1e6
        );
        if let Some(path) = files.log {
            write_log(path, name, &state.log)?;
        }
        let training = Training {
            frames: train_frames.len(),
            steps: state.step,
            layers,
            figure: name.to_owned(),
            before,
            best: state.best,
            best_step: state.best_step,
            kept: state.best > before,
        };
        let mut result = if training.kept {
            optimizer.average_mut().copy_from_slice(&state.best_values);
            let mut trial = self.trial_of(&start, &mut network, &mut optimizer)?;
            judge.measure(self, &mut trial)?;
            trial
        } else {
            log::warn!(
                "the training did not help: {name} {before:.4} before it, at best {:.4} after a step; \
                 the plan keeps the network before the training",
                state.best_figure()
            );
            start
        };
        result.training = Some(training);
        if let Some(path) = files.state.filter(|path| path.exists()) {
            std::fs::remove_file(path).map_err(FileError::new(path, "remove"))?;
        }
        Ok(result)
    }

    /// The trainable form of a trial's network, with the rates of its parameters.
    fn network_to_train(&self, trial: &Trial, options: &QatConfig) -> Result<Network> {
        let bits = rounding::bits(&trial.quantized.quantizers);
        let mut network = Network::new(
            &trial.quantized.graph,
            Some(&trial.graph),
            options.weight_scales,
            &|weight| bits.get(weight).copied().unwrap_or(8),
            self.pool.clone(),
        )?;
        let matches = |globs: &[String], name: &str| {
            globs
                .iter()
                .any(|glob| wildmatch::WildMatch::new(glob).matches(name))
        };
        let scale_rate = options.scale_rate as f32;
        network.set_rates(
            &|layer| {
                let chosen =
                    options.train_layers.is_empty() || matches(&options.train_layers, layer);
                if chosen && !matches(&options.freeze, layer) {
                    1.0
                } else {
                    0.0
                }
            },
            scale_rate,
        );
        Ok(network)
    }

    /// The INT8 network of the moving average.
    fn trial_of(
        &self,
        start: &Trial,
        network: &mut Network,
        optimizer: &mut Optimizer,
    ) -> Result<Trial> {
        network.params.exchange(optimizer.average_mut());
        let made = self.trial_now(start, network);
        network.params.exchange(optimizer.average_mut());
        made
    }

    fn trial_now(&self, start: &Trial, network: &Network) -> Result<Trial> {
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
        let mut quantized =
            quantize::insert_qdq_with(&graph, &amax, &weights, &placement(&start.config))?;
        quantized.warnings.clone_from(&start.quantized.warnings);
        Ok(Trial {
            config: start.config.clone(),
            network: start.network,
            pfn: start.pfn.clone(),
            graph,
            quantized,
            key: start.key.clone(),
            sqnr: None,
            training: None,
        })
    }
}

/// Names of the layers with a rate.
fn trained(network: &Network) -> Vec<String> {
    let weights = network.params.iter().filter(|p| p.rate > 0.0);
    let weights = weights.filter(|p| p.role == crate::build::train::params::Role::Weight);
    weights
        .map(|p| p.name.strip_suffix(".weight").unwrap_or(&p.name).to_owned())
        .collect()
}

/// The place of each output of `network` among those of `engine`.
fn order(network: &Network, engine: &impl Engine) -> Vec<usize> {
    let all = engine.outputs();
    let place = |name: &str| all.iter().position(|o| o.name == name).unwrap_or(0);
    network.outputs().map(|(name, _)| place(name)).collect()
}

/// The frames of a step. Each pass over all frames has an order of its own.
fn frames_of(step: usize, options: &QatConfig, count: usize) -> Vec<usize> {
    let mut frames = Vec::with_capacity(options.batch);
    let mut epoch_order: Option<(usize, Vec<usize>)> = None;
    for place in step * options.batch..(step + 1) * options.batch {
        let epoch = place / count;
        let order = match &mut epoch_order {
            Some((known, order)) if *known == epoch => order,
            other => {
                let mut order: Vec<usize> = (0..count).collect();
                let mut rng = Rng::new(options.seed, epoch as u64, ORDER_STREAM);
                for i in (1..count).rev() {
                    order.swap(i, (rng.uniform() * (i + 1) as f64) as usize);
                }
                &mut other.insert((epoch, order)).1
            }
        };
        frames.push(order[place % count]);
    }
    frames
}

/// Writes the table of a training.
fn write_log(path: &Path, figure: &str, rows: &[[f64; 5]]) -> Result<()> {
    let failed = |e| FileError::new(path, "write")(e);
    let mut file = OutputFile::create(path)?;
    writeln!(file, "step,rate,loss,gradient_norm,{figure}").map_err(failed)?;
    for [step, rate, loss, norm, value] in rows {
        let value = if value.is_nan() {
            String::new()
        } else {
            value.to_string()
        };
        writeln!(file, "{step},{rate:e},{loss},{norm},{value}")
            .map_err(|e| FileError::new(path, "write")(e))?;
    }
    Ok(file.finish()?)
}
