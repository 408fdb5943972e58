//! PyTorch checkpoints: from a state dict to the networks that an exporter would have written.
//!
//! ```text
//! X.pth ─ file ─ state ─ layers ─┬─ network ──────┐
//! X.calib ────── scales ─────────┴─ lent (ONNX) ──┴─ builder ─ graph, float or Q/DQ
//! ```
//!
//! Everything after that is an import of ONNX: [`crate::build::import`] folds BatchNormalizations, reads the PFN, and checks
//! the rest against the description. The ranges that a checkpoint brings are kept as they are; the PFN stays in float.

mod builder;
mod error;
mod file;
mod layers;
mod lent;
mod network;
mod scales;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) use error::CheckpointError;

use file::File;
use layers::Reader;
use network::Epsilons;
use scales::Source;
use state::{State, some};

use super::Result;
use super::globs::Globs;
use super::onnx::Graph;
use crate::model::Model;
use crate::model::mmengine::{self, Structure};

/// ε of the BatchNormalizations in SECOND, SECONDFPN and PillarFeatureNet where nothing states it.
const DEFAULT_EPS: f64 = 1e-3;

/// What becomes of the ranges of a quantised checkpoint or network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleUse {
    /// The network is quantised with them.
    Keep,
    /// The network is the float one.
    Drop,
}

/// A checkpoint and what belongs to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// The checkpoint.
    pub(crate) checkpoint: PathBuf,
    /// Ranges by quantiser, of the same run.
    pub(crate) calib: Option<PathBuf>,
    /// A float export of backbone, neck and head that lends its graph.
    pub(crate) graph: Option<PathBuf>,
    /// A flattened mmengine configuration.
    pub(crate) config: Option<PathBuf>,
    /// Layers to leave in float, as patterns for keys without `.weight`.
    pub(crate) skip: Vec<String>,
    /// What becomes of the ranges; by default they are kept if there are any.
    pub(crate) scales: Option<ScaleUse>,
    /// ε of the head's BatchNormalizations where the configuration does not state it.
    pub(crate) head_eps: Option<f64>,
    /// Whether tensors may be left over.
    pub(crate) allow_unmatched: bool,
}

/// The networks of a checkpoint. Errors about them refer to the checkpoint.
pub(crate) struct Networks {
    /// The PFN.
    pub(crate) pfe: Graph,
    /// Backbone, neck and head.
    pub(crate) rpn: Graph,
    /// What became of the tensors.
    pub(crate) report: Report,
}

/// What became of a checkpoint's tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// Number of tensors that are part of the networks.
    pub(crate) matched: usize,
    /// What was left aside with good reason, one line each.
    pub(crate) ignored: Vec<String>,
    /// Tensors that are no part of the networks.
    pub(crate) unmatched: Vec<String>,
    /// Layers that stay in float by choice.
    pub(crate) skipped: Vec<String>,
    /// What was changed or assumed, one line each.
    pub(crate) steps: Vec<String>,
    /// Where the ranges of a layer's input and of its weight come from.
    pub(crate) scales: BTreeMap<String, [String; 2]>,
}

/// An open checkpoint.
pub(crate) struct Checkpoint<'a> {
    request: &'a Request,
    state: State,
}

impl<'a> Checkpoint<'a> {
    /// Finds the network in the file.
    ///
    /// # Errors
    /// [`CheckpointError`] for a file that is no checkpoint of a CenterPoint-pillar network.
    pub(crate) fn open(request: &'a Request) -> Result<Self> {
        let state = State::new(File::read(&request.checkpoint)?)?;
        Ok(Self { request, state })
    }

    /// The widths of the PFN's layers, which Autoware's parameter files lack.
    ///
    /// # Errors
    /// [`CheckpointError`] for a layer that is missing or no matrix.
    pub(crate) fn pfn_widths(&mut self) -> Result<Vec<usize>> {
        network::pfn_widths(&mut self.state)
    }

    /// Builds the networks.
    ///
    /// # Errors
    /// [`CheckpointError`] for tensors that are missing, left over or do not fit.
    pub(crate) fn networks(mut self, model: &Model) -> Result<Networks> {
        let request = self.request;
        let mut report = Report::default();
        let structure = self.structure(&mut report)?;
        let eps = self.epsilons(structure.as_ref(), &mut report);
        let scales = self.scales(&mut report)?;
        let skip = Globs::new(&request.skip);
        let mut reader = Reader {
            state: &mut self.state,
            scales,
            skips: &|key| skip.matches(key),
            report: &mut report,
        };
        let pfe = network::pfn(&mut reader, model, eps.encoder)?;
        let rpn = match &request.graph {
            None => network::rpn(&mut reader, model, structure.as_ref(), eps)?,
            Some(graph) => lent::rpn(&mut reader, model, graph, eps)?,
        };
        let scales = reader.scales;
        if let Some(scales) = &scales {
            scales.check_complete(&self.state)?;
        }
        for pattern in skip.unused(report.skipped.iter().map(String::as_str)) {
            let what = format!("--skip {pattern}: no layer with scales has this name");
            report.steps.push(what);
        }
        let left = report.skipped.iter();
        let left = left.map(|key| format!("left {key} in float"));
        report.steps.extend(left.collect::<Vec<_>>());
        if !report.scales.is_empty() {
            report.steps.push(format!(
                "kept the scales of {} layers, as they came with the checkpoint",
                report.scales.len()
            ));
        }
        self.account(scales.as_ref(), &mut report)?;
        Ok(Networks { pfe, rpn, report })
    }

    /// What the configuration says, if there is one: the file that the request names, or else the text in the checkpoint.
    fn structure(&self, report: &mut Report) -> Result<Option<Structure>> {
        if let Some(config) = &self.request.config {
            return Ok(Some(mmengine::read_structure(config)?));
        }
        let Some(text) = self.state.config() else {
            return Ok(None);
        };
        match mmengine::structure(text, self.state.path()) {
            Ok(structure) => Ok(Some(structure)),
            Err(error) => {
                report
                    .ignored
                    .push(format!("the configuration in the checkpoint: {error}"));
                Ok(None)
            }
        }
    }

    /// ε of each part: what the configuration states, or the default.
    fn epsilons(&self, structure: Option<&Structure>, report: &mut Report) -> Epsilons {
        let family = self.state.family;
        let [encoder, backbone, neck, shared, tasks] = structure.map_or([None; 5], |s| s.eps);
        let [shared, tasks] = [shared, tasks].map(|eps| eps.or(self.request.head_eps));
        let start = format!("{}.", family.head);
        let is_norm = |key: &str| key.ends_with(".running_var") && key.contains(&start);
        let is_open = shared.is_none() || tasks.is_none();
        if is_open && !family.plain && self.state.keys().any(is_norm) {
            report.steps.push(format!(
                "took {} as the ε of the head's BatchNormalizations, which nothing states: mmdetection3d's own default is \
                 0.00001 (--head-eps)",
                family.head_eps
            ));
        }
        Epsilons {
            encoder: encoder.unwrap_or(DEFAULT_EPS),
            backbone: backbone.unwrap_or(DEFAULT_EPS),
            neck: neck.unwrap_or(DEFAULT_EPS),
            shared: shared.unwrap_or(family.head_eps),
            tasks: tasks.unwrap_or(family.head_eps),
        }
    }

    /// The ranges to quantise with, if any.
    fn scales(&mut self, report: &mut Report) -> Result<Option<Source>> {
        let calib = self.request.calib.as_deref().map(File::read).transpose()?;
        let mut scales = Source::new(calib, &self.state)?;
        let is_quantized = scales.is_quantized(&self.state);
        match self.request.scales {
            Some(ScaleUse::Keep) if !is_quantized => Err(CheckpointError::Missing {
                path: self.state.path().into(),
                key: "…._input_quantizer._amax".into(),
                expected: "scales to keep: name a quantised checkpoint, or its ranges (--calib)"
                    .into(),
            }
            .into()),
            None | Some(ScaleUse::Keep) if is_quantized => {
                let linear = format!("{}.pfn_layers.", self.state.family.encoder);
                for i in 0..=self
                    .state
                    .last(&linear)
                    .unwrap_or_default()
                    .min(network::MAX_PARTS)
                {
                    let left = scales.leave(&mut self.state, &format!("{linear}{i}.linear"));
                    let step =
                        |name| format!("dropped the quantiser \"{name}\": the PFN runs in float");
                    report.steps.extend(left.into_iter().map(step));
                }
                Ok(Some(scales))
            }
            _ => {
                let left = self.state.leave_quantizers();
                if left > 0 {
                    report.ignored.push(format!("{left} tensors of quantisers"));
                }
                if let Some(calib) = &self.request.calib {
                    report
                        .ignored
                        .push(format!("the ranges in {}", calib.display()));
                }
                Ok(None)
            }
        }
    }

    /// Counts what was read and what is left.
    fn account(&self, scales: Option<&Source>, report: &mut Report) -> Result<()> {
        let (mut unmatched, counters) = self.state.rest();
        unmatched.extend(scales.map(Source::rest).into_iter().flatten());
        if !unmatched.is_empty() && !self.request.allow_unmatched {
            return Err(CheckpointError::Unmatched {
                path: self.state.path().into(),
                count: unmatched.len(),
                keys: some(&unmatched),
            }
            .into());
        }
        if counters > 0 {
            let what = format!("{counters} counters of training steps (num_batches_tracked)");
            report.ignored.push(what);
        }
        if !self.state.beside().is_empty() {
            let what = format!("beside the state dict: {}", some(self.state.beside()));
            report.ignored.push(what);
        }
        report.matched = self.state.read;
        report.unmatched = unmatched;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
