//! The measurements of mixes of a real network, on frames.
//!
//! What does not change from mix to mix is done once: the BEV map of each frame (only its occupied
//! cells are kept, and beyond [`MAX_BEV`] read again), and the float network's outputs, which the first
//! measurement makes. Each mix is compiled once and run on all frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::report::Layer;
use super::{Evaluate, Measured, Mix, SensitivityError};
use crate::build::onnx::Graph;
use crate::build::quantize::{Kind, Placement, Quantized, layers};
use crate::build::runner::{Bev, Runner};
use crate::build::sqnr::{Reference, position};
use crate::build::{Result as BuildResult, compile};
use crate::decode::{self, Decoder};
use crate::engine::cpu::{Payload, Program};
use crate::engine::{Engine, MapView};
use crate::error::Result;
use crate::eval::nuscenes::{self, Config, MAX_BOXES};
use crate::features::Pfn;
use crate::model::Model;
use crate::nms::{self, Nms};
use crate::output::nuscenes::{Results, SampleBox, sample_token};
use crate::threads::Pool;

/// Most bytes of BEV maps that are kept.
const MAX_BEV: usize = 512 << 20;
/// Frames that layers are timed on.
const TIMED: usize = 20;

/// Makes the quantised network of a placement: the same one every time.
pub type Make<'a> = dyn FnMut(&Placement) -> Result<Quantized> + 'a;

/// What mixes of a network are made from and measured on.
pub struct Source<'a> {
    /// The model.
    pub model: &'a Model,
    /// The pillar feature network, as INT8 plans have it.
    pub pfn: &'a Pfn,
    /// The float network: what the quantised ones are made from.
    pub graph: &'a Graph,
    /// Options of what becomes INT8 in the mix of all.
    pub placement: &'a Placement,
    /// The frames to measure on.
    pub frames: &'a [PathBuf],
    /// Labels of the frames, for mAP; of more frames is no harm.
    pub labels: Option<&'a Results>,
    /// CPU threads; 0 is one per core. The result does not depend on them.
    pub threads: usize,
}

/// A network whose mixes are measured.
pub struct Network<'a> {
    source: Source<'a>,
    make: Box<Make<'a>>,
    layers: Vec<Layer>,
    /// Name of each layer's node.
    nodes: Vec<Vec<String>>,
    pool: Arc<Pool>,
    labels: Option<Results>,
    /// Of the first frames, as many as are kept.
    maps: Vec<Bev>,
    maps_bytes: usize,
    reference: Option<Reference<'a>>,
    /// Called after each frame that was run.
    progress: Box<dyn Fn() + 'a>,
}

impl<'a> Network<'a> {
    /// Finds the layers that `source.placement` makes INT8. `progress` is called after each frame that
    /// is run.
    ///
    /// # Errors
    /// [`SensitivityError::NoLayers`], and what `make` fails with.
    pub fn new(
        source: Source<'a>,
        mut make: Box<Make<'a>>,
        progress: Box<dyn Fn() + 'a>,
    ) -> Result<Self> {
        let quantized = make(source.placement)?;
        let weights = quantized.quantizers.iter();
        let weights = weights.filter(|q| q.kind == Kind::Weight);
        let int8 = weights.flat_map(|q| q.readers.iter().map(String::as_str));
        let int8: Vec<&str> = int8.collect();
        let program = compile::cpu(source.graph)?.program;
        let (layers, nodes) = describe(source.graph, &program, &int8)?;
        if layers.is_empty() {
            return Err(SensitivityError::NoLayers {
                path: source.graph.path().into(),
            }
            .into());
        }
        let tokens: Vec<String> = source.frames.iter().map(|f| sample_token(f)).collect();
        let labels = source.labels.map(|labels| {
            let mut labels = labels.clone();
            labels.results.retain(|token, _| tokens.contains(token));
            labels
        });
        Ok(Self {
            pool: Arc::new(Pool::new(source.threads)),
            source,
            make,
            layers,
            nodes,
            labels,
            maps: Vec::new(),
            maps_bytes: 0,
            reference: None,
            progress,
        })
    }

    /// The layers that can be INT8, in order of execution.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Measures how long each layer takes in the float network and with all layers in INT8, in ms:
    /// medians over frames, both networks in turn.
    ///
    /// # Errors
    /// What building or running the networks fails with.
    pub fn times(&mut self) -> Result<Vec<[f64; 2]>> {
        let count = self.layers.len();
        let payloads = [
            self.payload(&Mix::float(count))?,
            self.payload(&Mix::int8(count))?,
        ];
        let operators = payloads.each_ref().map(|payload| {
            let layers = payload.program.layers();
            layers.into_iter().map(|l| l.name).collect::<Vec<String>>()
        });
        let mut runners = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let mut runner = self.runner(payload)?;
            runner.engine_mut().set_timing(true);
            runners.push(runner);
        }
        // By layer and network: of each frame.
        let mut times: Vec<[Vec<f64>; 2]> = vec![Default::default(); count];
        for index in 0..self.source.frames.len().min(TIMED) {
            for (which, (runner, operators)) in runners.iter_mut().zip(&operators).enumerate() {
                // Twice, so that what is timed finds its weights and maps where the run left them.
                for _ in 0..2 {
                    self.run(runner, index)?;
                }
                let measured = runner.engine().layer_times();
                for (nodes, times) in self.nodes.iter().zip(&mut times) {
                    let own = operators.iter().zip(measured);
                    let own = own.filter(|(name, _)| nodes.contains(name));
                    let sum: Duration = own.map(|(_, time)| *time).sum();
                    times[which].push(sum.as_secs_f64() * 1e3);
                }
            }
        }
        Ok(times.into_iter().map(|t| t.map(median)).collect())
    }

    /// The payload of a mix.
    fn payload(&mut self, mix: &Mix) -> Result<Payload> {
        if mix.int8_layers().next().is_none() {
            return Ok(compile::cpu(self.source.graph)?);
        }
        let mut placement = self.source.placement.clone();
        let float = mix.float_layers().filter_map(|i| self.layers.get(i));
        placement.skip.extend(float.map(|layer| layer.name.clone()));
        Ok(compile::cpu(&(self.make)(&placement)?.graph)?)
    }

    fn runner(&self, payload: Payload) -> BuildResult<Runner<'a>> {
        let Source {
            model, pfn, graph, ..
        } = self.source;
        Runner::new(model, pfn, payload, self.pool.clone(), graph.path())
    }

    /// Runs a network on frame `index`.
    fn run(&mut self, runner: &mut Runner<'_>, index: usize) -> Result<()> {
        let Some(path) = self.source.frames.get(index) else {
            return Ok(());
        };
        match self.maps.get(index) {
            Some(bev) => runner.put(bev),
            None => {
                runner.read(path)?;
                let bev = runner.bev();
                if index == self.maps.len() && self.maps_bytes + bev.bytes() <= MAX_BEV {
                    self.maps_bytes += bev.bytes();
                    self.maps.push(bev);
                }
            }
        }
        runner.run_read(None)
    }

    /// The float network's outputs.
    fn reference(&mut self) -> Result<Reference<'a>> {
        if let Some(reference) = self.reference.take() {
            return Ok(reference);
        }
        let mut runner = self.runner(compile::cpu(self.source.graph)?)?;
        let mut reference = Reference::empty(self.source.model);
        for (index, path) in self.source.frames.iter().enumerate() {
            if reference.is_full(runner.engine()) {
                break;
            }
            self.run(&mut runner, index)?;
            reference.add(path, runner.engine());
        }
        Ok(reference)
    }
}

impl Evaluate for Network<'_> {
    fn evaluate(&mut self, mix: &Mix) -> Result<Measured> {
        let payload = self.payload(mix)?;
        let reference = self.reference()?;
        let mut runner = self.runner(payload)?;
        let mut comparison = reference.compare(runner.engine());
        let mut detections = self.labels.is_some().then(|| Boxes::new(self.source.model));
        for (index, path) in self.source.frames.iter().enumerate() {
            self.run(&mut runner, index)?;
            comparison.add(index, runner.engine());
            if let Some(boxes) = &mut detections {
                boxes.detect(path, runner.engine(), &self.pool);
            }
            (self.progress)();
        }
        let sqnr = comparison.finish();
        self.reference = Some(reference);
        let mean = |of: fn(&crate::build::sqnr::OutputSqnr) -> f64| {
            let sum: f64 = sqnr.outputs.iter().map(of).sum();
            sum / sqnr.outputs.len().max(1) as f64
        };
        let mean_ap = match (&self.labels, detections) {
            (Some(labels), Some(boxes)) => Some(boxes.score(labels)?),
            _ => None,
        };
        Ok(Measured {
            mean_ap,
            all: mean(|o| o.all),
            objects: mean(|o| o.objects),
        })
    }
}

/// Boxes of frames, from the head maps on.
struct Boxes<'a> {
    model: &'a Model,
    decoder: Decoder,
    nms: Nms,
    results: Results,
}

impl<'a> Boxes<'a> {
    fn new(model: &'a Model) -> Self {
        Self {
            model,
            decoder: Decoder::new(model),
            nms: Nms::new(model),
            results: Results::default(),
        }
    }

    /// Adds the boxes of the frame whose outputs `engine` has, as [`crate::eval::frames::run`] does.
    fn detect(&mut self, frame: &Path, engine: &impl Engine, pool: &Pool) {
        self.decoder.clear();
        for (task, outputs) in self.model.head.tasks.iter().enumerate() {
            let maps = outputs
                .outputs
                .each_ref()
                .map(|name| position(engine, name));
            // Reading the model folder has checked that all are there.
            let [
                Some(heatmap),
                Some(reg),
                Some(height),
                Some(dim),
                Some(rot),
                Some(vel),
            ] = maps
            else {
                continue;
            };
            let maps: [MapView<'_>; 6] = [heatmap, reg, height, dim, rot, vel];
            decode::decode(self.model, task, &maps, pool, &mut self.decoder);
        }
        nms::suppress(self.model, self.decoder.candidates(), &mut self.nms);
        let token = sample_token(frame);
        let boxes = self.nms.boxes().iter().take(MAX_BOXES).filter_map(|found| {
            let class = self.model.classes.get(found.class as usize)?;
            Some(SampleBox::from_box3d(found, &token, class))
        });
        let boxes = boxes.collect();
        self.results.results.insert(token, boxes);
    }

    /// nuScenes mAP over the model's classes.
    fn score(&self, labels: &Results) -> Result<f64> {
        let config = Config::for_classes(self.model.classes.iter().map(String::as_str));
        Ok(nuscenes::evaluate(labels, &self.results, &config)?.mean_ap)
    }
}

/// The layers named in `int8` with their arithmetic, in order of execution, and their nodes. Layers of one
/// name, which share a weight, are one.
fn describe(
    graph: &Graph,
    program: &Program,
    int8: &[&str],
) -> BuildResult<(Vec<Layer>, Vec<Vec<String>>)> {
    let mut described: Vec<Layer> = Vec::new();
    let mut nodes: Vec<Vec<String>> = Vec::new();
    let operators = program.layers();
    for layer in layers(graph)? {
        if !int8.contains(&layer.name.as_str()) {
            continue;
        }
        // As the engine names it.
        let node = match layer.node.is_empty() {
            true => layer.output,
            false => layer.node,
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
        described.push(Layer {
            name: layer.name,
            operator: layer.operator,
            macs,
            times_ms: None,
        });
        nodes.push(vec![node]);
    }
    Ok((described, nodes))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
