//! Measures mixes of a real network on frames.
//!
//! The network of a mix is the one that `cp-build quantize` builds with the same options and the float layers in
//! its skip list (see [`crate::build::recipe`]). Work that is the same for all mixes is done once: calibration,
//! the float network's outputs and boxes, and the BEV map of each frame. Only the occupied cells of a map are kept;
//! beyond 512 MiB, frames are read again. Each mix is compiled once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::report::QuantizableLayer;
use super::{Evaluate, Measurement, Mix, SensitivityError};
use crate::build::Result;
use crate::build::calibrate::CalibrationKey;
use crate::build::compile;
use crate::build::config::Config;
use crate::build::onnx::Graph;
use crate::build::quantize::{QuantizerKind, layers};
use crate::build::recipe::{self, Job, Progress, Workbench};
use crate::build::runner::{Bev, Runner};
use crate::build::sqnr::{OutputSqnr, Reference, Sqnr};
use crate::cpu::{self, Pool};
use crate::engine::{Engine, Heads};
use crate::eval::nuscenes::{self, MAX_BOXES};
use crate::eval::report::median;
use crate::model::Model;
use crate::model::Pfn;
use crate::points::Transform;
use crate::program::{Payload, Program};
use crate::results::nuscenes::{Results, SampleBox, sample_token};
use crate::stages::Decoder;

/// Maximum bytes of BEV maps to keep.
const MAX_MAPS: usize = 512 << 20;
/// Number of frames to time layers on.
const TIMED: usize = 20;

/// The network to measure, with frames and labels.
pub(crate) struct Subject<'a> {
    /// The network, the frames to calibrate on and the options.
    pub job: &'a Job<'a>,
    /// The frames to measure on; `None` uses those held out of calibration.
    pub frames: Option<Vec<PathBuf>>,
    /// Maximum number of frames to measure on, evenly spaced; 0 is all.
    pub limit: usize,
    /// Labels of the frames, for mAP. Labels of other frames are ignored.
    pub labels: Option<Results>,
    /// Receives the progress.
    pub progress: &'a dyn Progress,
}

/// A network whose mixes are measured.
pub(crate) struct Network<'a> {
    job: &'a Job<'a>,
    bench: Workbench<'a>,
    config: Config,
    key: CalibrationKey,
    frames: Vec<PathBuf>,
    labels: Option<Results>,
    warnings: Vec<String>,
    layers: Vec<QuantizableLayer>,
    /// Node names of each layer.
    nodes: Vec<Vec<String>>,
    pool: Arc<Pool>,
    maps: Maps,
    /// The way from each frame's input to the model, by the float run; nothing if labels are absent.
    places: Vec<Option<Transform>>,
    /// The float network's outputs and its measurement.
    float: Option<(Reference<'a>, Measurement)>,
    progress: &'a dyn Progress,
}

/// A runnable network.
struct Built {
    pfn: Pfn,
    payload: Payload,
}

impl<'a> Network<'a> {
    /// Calibrates the network and determines the layers that the options quantise. With the recipe `best`, chooses
    /// the candidate first.
    ///
    /// # Errors
    /// [`SensitivityError::NoLayers`], [`SensitivityError::NoFrames`], and the errors of [`recipe::quantize`].
    pub(crate) fn new(subject: Subject<'a>) -> Result<Self> {
        let Subject {
            job,
            frames,
            limit,
            labels,
            progress,
        } = subject;
        let config = match &recipe::configs(job.overrides, job.scales.is_some())?[..] {
            [one] => one.clone(),
            _ => recipe::quantize(job, progress)?.record.config,
        };
        let mut bench = Workbench::new(job, &config.frames, progress)?;
        let trial = bench.trial(&config)?;
        let graph = &job.folder.rpn.graph;
        let weights = trial.quantized.quantizers.iter();
        let weights = weights.filter(|q| q.kind == QuantizerKind::Weight);
        let int8 = weights.flat_map(|q| q.readers.iter().map(String::as_str));
        let int8: Vec<&str> = int8.collect();
        let program = compile::cpu(graph)?.program;
        let (layers, nodes) = describe(graph, &program, &int8)?;
        if layers.is_empty() {
            let path = graph.path().to_path_buf();
            return Err(SensitivityError::NoLayers { path }.into());
        }
        let frames = frames.unwrap_or_else(|| bench.held_out().to_vec());
        let frames = spread(&frames, limit);
        if frames.is_empty() {
            return Err(SensitivityError::NoFrames.into());
        }
        if frames.len() < 2 {
            job.accept(SensitivityError::OneFrame)?;
        }
        let tokens: Vec<String> = frames.iter().map(|f| sample_token(f)).collect();
        let labels = labels.map(|mut labels| {
            labels.results.retain(|token, _| tokens.contains(token));
            labels
        });
        Ok(Self {
            job,
            bench,
            config,
            key: trial.key,
            frames,
            labels,
            warnings: trial.quantized.warnings,
            layers,
            nodes,
            pool: Arc::new(Pool::new(job.threads)),
            maps: Maps::default(),
            places: Vec::new(),
            float: None,
            progress,
        })
    }

    /// The quantisable layers, in order of execution.
    pub(crate) fn layers(&self) -> &[QuantizableLayer] {
        &self.layers
    }

    /// The options; with the recipe `best`, those of the chosen candidate.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Hashes of the calibration's inputs.
    pub(crate) fn key(&self) -> &CalibrationKey {
        &self.key
    }

    /// Warnings, for example about options without effect.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The frames measured on.
    pub(crate) fn frames(&self) -> &[PathBuf] {
        &self.frames
    }

    /// Measures the time of each layer in the float network and with all layers in INT8, in ms. The result is the
    /// median over frames; the two networks alternate.
    ///
    /// # Errors
    /// If a network cannot be built or run.
    pub(crate) fn times(&mut self) -> Result<Vec<[f64; 2]>> {
        let count = self.layers.len();
        let mut networks = Vec::new();
        for mix in [Mix::float(count), Mix::int8(count)] {
            let built = self.build(&mix)?;
            let operators = built.payload.program.layers().into_iter().map(|l| l.name);
            let operators: Vec<String> = operators.collect();
            let mut runner = self.runner(built)?;
            runner.engine_mut().set_timing(true);
            networks.push((operators, runner));
        }
        // By layer, network and frame.
        let mut times: Vec<[Vec<f64>; 2]> = vec![Default::default(); count];
        let frames = spread(&self.frames, TIMED);
        self.progress.begin("layer times", frames.len());
        for frame in &frames {
            for (which, (operators, runner)) in networks.iter_mut().enumerate() {
                runner.read(frame)?;
                // Twice, so the timed run has warm caches.
                for _ in 0..2 {
                    runner.run_read(None)?;
                }
                let measured = runner.engine().layer_times();
                for (nodes, times) in self.nodes.iter().zip(&mut times) {
                    let own = operators.iter().zip(measured);
                    let own = own.filter(|(name, _)| nodes.contains(name));
                    let sum: Duration = own.map(|(_, time)| *time).sum();
                    if let Some(times) = times.get_mut(which) {
                        times.push(sum.as_secs_f64() * 1e3);
                    }
                }
            }
            self.progress.advance();
        }
        let middle = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            median(&times)
        };
        Ok(times.into_iter().map(|t| t.map(middle)).collect())
    }

    /// The network of a mix.
    fn build(&mut self, mix: &Mix) -> Result<Built> {
        let folder = self.job.folder;
        if mix.int8_layers().next().is_none() {
            return Ok(Built {
                pfn: folder.pfe.pfn.clone(),
                payload: folder.cpu_payload()?,
            });
        }
        let mut config = self.config.clone();
        let float = mix.float_layers().filter_map(|i| self.layers.get(i));
        config.placement.skip.extend(float.map(|l| l.name.clone()));
        let trial = self.bench.trial(&config)?;
        Ok(Built {
            payload: compile::cpu(&trial.quantized.graph)?,
            pfn: trial.pfn,
        })
    }

    fn runner(&self, built: Built) -> Result<Runner> {
        let folder = self.job.folder;
        let path = folder.rpn.graph.path();
        let (model, pool) = (&folder.model, self.pool.clone());
        let runner = Runner::new(model, &built.pfn, built.payload, pool, path)?;
        Ok(runner.with_layout(self.job.layout))
    }

    /// Runs the float network.
    fn run_float(&mut self) -> Result<(Reference<'a>, Measurement)> {
        let model = &self.job.folder.model;
        let built = self.build(&Mix::float(self.layers.len()))?;
        let mut runner = self.runner(built)?;
        let mut reference = Reference::empty(model);
        let mut boxes = match self.labels {
            Some(_) => Some(Boxes::new(model, runner.engine(), &self.pool)?),
            None => None,
        };
        self.progress.begin("float network", self.frames.len());
        for path in &self.frames {
            if boxes.is_none() && reference.is_full(runner.engine()) {
                break;
            }
            runner.run(path, None)?;
            if !reference.is_full(runner.engine()) {
                reference.add(path, runner.engine())?;
            }
            if let Some(boxes) = &mut boxes {
                let place = runner.place();
                boxes.detect(path, place.as_ref(), runner.engine())?;
                self.places.push(place);
            }
            self.progress.advance();
        }
        // Compared with itself, the network has no noise.
        let sqnr = reference.compare(runner.engine()).finish();
        let measured = self.measured(&sqnr, boxes)?;
        Ok((reference, measured))
    }

    fn measured(&self, sqnr: &Sqnr, boxes: Option<Boxes<'_>>) -> Result<Measurement> {
        // Averages ratios, not decibels, in which one noisy output would hide among many clean ones.
        let mean = |of: fn(&OutputSqnr) -> f64| {
            let noise: f64 = sqnr
                .outputs
                .iter()
                .map(|o| 10_f64.powf(-of(o) / 10.0))
                .sum();
            -10.0 * (noise / sqnr.outputs.len().max(1) as f64).log10()
        };
        let mean_ap = match (&self.labels, boxes) {
            (Some(labels), Some(boxes)) => Some(boxes.score(labels)?),
            _ => None,
        };
        Ok(Measurement {
            mean_ap,
            all: mean(|o| o.all),
            objects: mean(|o| o.objects),
        })
    }
}

impl Evaluate for Network<'_> {
    fn evaluate(&mut self, mix: &Mix) -> Result<Measurement> {
        let (reference, float) = match self.float.take() {
            Some(float) => float,
            None => self.run_float()?,
        };
        let measured = match mix.int8_layers().count() {
            0 => Ok(float),
            _ => self.compare(mix, &reference),
        };
        self.float = Some((reference, float));
        measured
    }
}

impl Network<'_> {
    /// Runs a mix and compares it with the float network.
    fn compare(&mut self, mix: &Mix, reference: &Reference<'_>) -> Result<Measurement> {
        let built = self.build(mix)?;
        self.maps.keep_for(&built.pfn);
        let mut runner = self.runner(built)?;
        let mut comparison = reference.compare(runner.engine());
        let model = &self.job.folder.model;
        let mut boxes = match self.labels {
            Some(_) => Some(Boxes::new(model, runner.engine(), &self.pool)?),
            None => None,
        };
        let int8 = mix.int8_layers().count();
        let step = format!("{int8} of {} layers in INT8", mix.len());
        self.progress.begin(&step, self.frames.len());
        for (index, path) in self.frames.iter().enumerate() {
            if boxes.is_none() && index >= reference.len() {
                break;
            }
            self.maps.put(index, path, &mut runner)?;
            runner.run_read(None)?;
            comparison.add(index, runner.engine())?;
            if let Some(boxes) = &mut boxes {
                let place = self.places.get(index).and_then(Option::as_ref);
                boxes.detect(path, place, runner.engine())?;
            }
            self.progress.advance();
        }
        self.measured(&comparison.finish(), boxes)
    }
}

/// BEV maps of the first frames, up to [`MAX_MAPS`] bytes.
#[derive(Default)]
struct Maps {
    /// The PFN that computed them.
    pfn: Option<Pfn>,
    maps: Vec<Bev>,
    bytes: usize,
}

impl Maps {
    /// Drops the maps of any other PFN.
    fn keep_for(&mut self, pfn: &Pfn) {
        if self.pfn.as_ref() != Some(pfn) {
            *self = Self {
                pfn: Some(pfn.clone()),
                ..Self::default()
            };
        }
    }

    /// Fills the network's input with frame `index`. The first pass must be in order.
    fn put(&mut self, index: usize, path: &Path, runner: &mut Runner) -> Result<()> {
        if let Some(bev) = self.maps.get(index) {
            runner.put(bev);
            return Ok(());
        }
        runner.read(path)?;
        let bev = runner.bev();
        if index == self.maps.len() && self.bytes + bev.bytes() <= MAX_MAPS {
            self.bytes += bev.bytes();
            self.maps.push(bev);
        }
        Ok(())
    }
}

/// At most `limit` frames, evenly spaced; 0 is all.
fn spread(frames: &[PathBuf], limit: usize) -> Vec<PathBuf> {
    if limit == 0 || limit >= frames.len() {
        return frames.to_vec();
    }
    let indices = (0..limit).map(|i| i * frames.len() / limit);
    indices.filter_map(|i| frames.get(i).cloned()).collect()
}

/// Computes the boxes of frames from head maps.
struct Boxes<'a> {
    model: &'a Model,
    heads: Heads,
    decoder: cpu::Decoder,
    results: Results,
}

impl<'a> Boxes<'a> {
    fn new(model: &'a Model, engine: &dyn Engine, pool: &Arc<Pool>) -> Result<Self> {
        Ok(Self {
            model,
            heads: Heads::find(engine, model)?,
            decoder: cpu::Decoder::new(model, pool),
            results: Results::default(),
        })
    }

    /// Adds the boxes of the frame that `engine` has run, as [`crate::eval::frames::run`] does.
    fn detect(
        &mut self,
        frame: &Path,
        place: Option<&Transform>,
        engine: &dyn Engine,
    ) -> Result<()> {
        for task in 0..self.heads.tasks() {
            let maps = self.heads.maps(engine, task)?;
            Decoder::decode(&mut self.decoder, task, maps)?;
        }
        self.decoder.suppress();
        let token = sample_token(frame);
        let boxes = self.decoder.boxes().iter();
        let boxes = boxes.take(MAX_BOXES).filter_map(|found| {
            let class = self.model.classes.get(found.class as usize)?;
            let found = place.map_or(*found, |place| place.place(found));
            Some(SampleBox::from_box3d(&found, &token, class))
        });
        let boxes = boxes.collect();
        self.results.results.insert(token, boxes);
        Ok(())
    }

    /// nuScenes mAP over the model's classes.
    fn score(&self, labels: &Results) -> Result<f64> {
        let config = nuscenes::Config::for_classes(self.model.classes.iter().map(String::as_str));
        Ok(nuscenes::evaluate(labels, &self.results, &config)?.mean_ap)
    }
}

/// The layers named in `int8` with their multiply-accumulates, in order of execution, and their nodes. Layers with
/// the same name share a weight and are merged.
fn describe(
    graph: &Graph,
    program: &Program,
    int8: &[&str],
) -> Result<(Vec<QuantizableLayer>, Vec<Vec<String>>)> {
    let mut described: Vec<QuantizableLayer> = Vec::new();
    let mut nodes: Vec<Vec<String>> = Vec::new();
    let operators = program.layers();
    for layer in layers(graph)? {
        if !int8.contains(&layer.name.as_str()) {
            continue;
        }
        // The engine's name for it.
        let node = if layer.node.is_empty() {
            layer.output
        } else {
            layer.node
        };
        let own = operators.iter().filter(|o| o.name == node);
        let macs: u64 = own.map(|o| o.macs).sum();
        let known = described.iter().position(|d| d.name == layer.name);
        if let Some((same, names)) = known.and_then(|i| described.get_mut(i).zip(nodes.get_mut(i)))
        {
            same.macs += macs;
            names.push(node);
            continue;
        }
        described.push(QuantizableLayer {
            name: layer.name,
            operator: layer.operator,
            macs,
            times_ms: None,
        });
        nodes.push(vec![node]);
    }
    Ok((described, nodes))
}
