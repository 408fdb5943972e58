//! The report of a sensitivity run: a JSON file that is complete after every measurement, so that a
//! run goes on where an earlier one was stopped.
//!
//! ```json
//! {
//!   "producer": "centerpoint 0.1.0",
//!   "inputs": {"frames": "sha256…", "model.toml": "sha256…", …},
//!   "layers": [{"name": "pts_backbone.blocks.0.0", "operator": "Conv", "macs": 1000}, …],
//!   "measurements": {"888f": {"mean_ap": 0.7, "all": 30.1, "objects": 35.2}, …},
//!   "ranking": [{"layer": "…", "alone": {…}, "left_out": {…}}, …],
//!   "search": {"goal": {"mean_ap_drop": 0.001}, "mix": "8f88", "skip": ["…"], …}
//! }
//! ```
//! Measurements are by [`Mix`]: one character a layer, in the order of `layers`, `8` for INT8 and `f` for
//! float. What follows from them (`ranking`) is there for readers and not read again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::budget::{Action, Goal, Search};
use super::{Evaluate, Measured, Mix, SensitivityError};
use crate::build::config::{Config, Recipe};
use crate::build::folder::producer;
use crate::build::hash::{sha256, sha256_file};
use crate::error::Result;
use crate::eval::report::aligned;
use crate::files;

/// No report comes near this size: a measurement has some hundred bytes.
const MAX_BYTES: u64 = 1 << 26;
/// Losses of mAP that differ by less count as equal.
const MAP_STEP: f64 = 1e-3;
/// How many differences a refusal lists.
const SHOWN: usize = 4;

/// What was measured, and with which inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Program and version that wrote the report.
    pub producer: String,
    /// All that the measurements depend on by name, mostly SHA-256 hashes.
    pub inputs: BTreeMap<String, String>,
    /// The layers that can be INT8, in order of execution.
    pub layers: Vec<Layer>,
    /// What was measured so far.
    pub measurements: BTreeMap<Mix, Measured>,
    /// The layers, the worst in INT8 first; empty until all are measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<Ranked>,
    /// What the last search found, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// A layer that can be INT8.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its name, as `--skip` takes it.
    pub name: String,
    /// Conv, ConvTranspose, Gemm or MatMul.
    pub operator: String,
    /// Multiply-adds.
    pub macs: u64,
    /// Its time in float and in INT8 in ms, where they were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_ms: Option<[f64; 2]>,
}

/// What was measured of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranked {
    /// Its name.
    pub layer: String,
    /// The network with this layer alone in INT8.
    pub alone: Measured,
    /// The network with all but this layer in INT8.
    pub left_out: Measured,
}

impl Report {
    /// An empty report.
    pub fn new(inputs: BTreeMap<String, String>, layers: Vec<Layer>) -> Self {
        Self {
            producer: producer(),
            inputs,
            layers,
            ..Self::default()
        }
    }

    /// The report at `path` to go on with, if there is one and it is of these inputs and layers; a new
    /// one if there is none. Measured times are those of the report that is there.
    ///
    /// # Errors
    /// [`SensitivityError`] for a file that cannot be read, that is no report, or that is of other inputs.
    pub fn open(
        path: &Path,
        inputs: BTreeMap<String, String>,
        layers: Vec<Layer>,
    ) -> Result<Self, SensitivityError> {
        let io = |source| SensitivityError::Io {
            path: path.into(),
            source,
        };
        let not_a_report = |what: String| SensitivityError::NotAReport {
            path: path.into(),
            what,
        };
        let new = Self::new(inputs, layers);
        let bytes = match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(new),
            found => found.map_err(io)?.len(),
        };
        if bytes > MAX_BYTES {
            let what = format!("{bytes} bytes, a report has at most {MAX_BYTES}");
            return Err(not_a_report(what));
        }
        let text = std::fs::read(path).map_err(io)?;
        let found: Self = serde_json::from_slice(&text).map_err(|e| not_a_report(e.to_string()))?;
        let differences = found.differences(&new);
        if !differences.is_empty() {
            return Err(SensitivityError::OtherInputs {
                path: path.into(),
                differences,
            });
        }
        let layers = found.layers.len();
        if let Some(mix) = found.measurements.keys().find(|mix| mix.len() != layers) {
            let what = format!("a measurement of {} layers, there are {layers}", mix.len());
            return Err(not_a_report(what));
        }
        Ok(found)
    }

    /// In what the report's inputs are not those of `other`.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.producer != other.producer {
            let (found, now) = (&self.producer, &other.producer);
            differences.push(format!("it was written by {found}, this is {now}"));
        }
        let names = self.inputs.keys().chain(other.inputs.keys());
        let mut names: Vec<&String> = names.collect();
        names.sort();
        names.dedup();
        for name in names {
            let value = |report: &Self| match report.inputs.get(name) {
                Some(value) => short(value),
                None => "none".to_owned(),
            };
            if self.inputs.get(name) != other.inputs.get(name) {
                differences.push(format!("{name} was {}, now {}", value(self), value(other)));
            }
        }
        let layers = |report: &Self| -> Vec<(String, u64)> {
            let layers = report.layers.iter();
            layers.map(|l| (l.name.clone(), l.macs)).collect()
        };
        // Layers follow from the inputs: only named where nothing else differs.
        if differences.is_empty() && layers(self) != layers(other) {
            let (found, now) = (self.layers.len(), other.layers.len());
            differences.push(format!(
                "its {found} layers are not those {now} of the model"
            ));
        }
        if differences.len() > SHOWN {
            let more = differences.len() - SHOWN;
            differences.truncate(SHOWN);
            differences.push(format!("and {more} more"));
        }
        differences
    }

    /// Writes the report whole.
    ///
    /// # Errors
    /// [`FileError`](crate::files::FileError) with the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(files::write(path, self.to_json().as_bytes())?)
    }

    /// Writes the mix that was found as a configuration for `cp-build quantize --config`: `config`, which
    /// everything was measured with, and its skip list. Nothing without a search.
    ///
    /// # Errors
    /// [`FileError`](crate::files::FileError) with the file.
    pub fn write_skip_list(&self, config: &Config, path: &Path) -> Result<()> {
        match self.skip_list(config) {
            Some(text) => Ok(files::write(path, text.as_bytes())?),
            None => Ok(()),
        }
    }

    /// The text of the configuration.
    fn skip_list(&self, config: &Config) -> Option<String> {
        let (search, float, int8) = (self.search.as_ref()?, self.float()?, self.int8()?);
        let mut config = config.clone();
        config.placement.skip.extend(search.skip.iter().cloned());
        // The recipe `best` has chosen; it is to make this network, not to choose again.
        if config.recipe == Recipe::Best {
            config.recipe = Recipe::Custom;
        }
        Some(format!(
            "# From `cp-build sensitivity`: {} of {} layers stay float.\n# float:    {}\n# all INT8: \
             {}\n# this mix: {}\n\n{}",
            search.skip.len(),
            self.layers.len(),
            words(float, float),
            words(int8, float),
            words(&search.measured, float),
            config.to_toml()
        ))
    }

    /// The report as the text of a file.
    pub fn to_json(&self) -> String {
        // Plain numbers, texts and maps with keys of text: they can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The float network, once it is measured.
    pub fn float(&self) -> Option<&Measured> {
        self.measurements.get(&Mix::float(self.layers.len()))
    }

    /// All layers in INT8, once that is measured.
    pub fn int8(&self) -> Option<&Measured> {
        self.measurements.get(&Mix::int8(self.layers.len()))
    }

    /// Ranks the layers, once all that [`super::ablate`] measures is there: by the mAP that is lost
    /// with the layer alone in INT8 where there are labels, in steps of 0.001, then by SQNR at object
    /// cells, the worst first. Smaller losses of a single layer are the luck of the frames.
    pub fn rank(&mut self) {
        let count = self.layers.len();
        let layers = self.layers.iter().enumerate();
        let measured = |mix: Mix| self.measurements.get(&mix).copied();
        let ranking: Option<Vec<Ranked>> = layers
            .map(|(i, layer)| {
                Some(Ranked {
                    layer: layer.name.clone(),
                    alone: measured(Mix::float(count).with(i, true))?,
                    left_out: measured(Mix::int8(count).with(i, false))?,
                })
            })
            .collect();
        let mut ranking = ranking.unwrap_or_default();
        let steps = |ranked: &Ranked| {
            let drop = self.float().and_then(|float| ranked.alone.drop_from(float));
            (drop.unwrap_or(0.0) / MAP_STEP).round()
        };
        ranking.sort_by(|a, b| {
            let by_drop = steps(b).total_cmp(&steps(a));
            by_drop.then(a.alone.objects.total_cmp(&b.alone.objects))
        });
        self.ranking = ranking;
    }

    /// The ranking as an aligned table: the multiply-adds of each layer in parts of all; what the
    /// layer alone in INT8 costs against float (mAP lost, SQNR in dB over all and over object cells); what
    /// leaving it in float gains against all layers in INT8 (mAP, dB).
    pub fn table(&self) -> String {
        let (Some(float), Some(int8)) = (self.float(), self.int8()) else {
            return "nothing is measured yet\n".to_owned();
        };
        let labels = float.mean_ap.is_some();
        let mut rows = vec![head(labels)];
        let total: u64 = self.layers.iter().map(|l| l.macs).sum();
        for ranked in &self.ranking {
            let layer = self.layers.iter().find(|l| l.name == ranked.layer);
            let macs = layer.map_or(0, |l| l.macs);
            let share = 100.0 * macs as f64 / total.max(1) as f64;
            let mut row = vec![ranked.layer.clone(), format!("{share:.1} %")];
            if labels {
                row.push(signed(ranked.alone.drop_from(float).map(|drop| -drop), 4));
            }
            row.push(format!("{:.1}", ranked.alone.all));
            row.push(format!("{:.1}", ranked.alone.objects));
            if labels {
                row.push(signed(ranked.left_out.drop_from(int8).map(|drop| -drop), 4));
            }
            row.push(signed(Some(ranked.left_out.all - int8.all), 2));
            row.push(signed(Some(ranked.left_out.objects - int8.objects), 2));
            rows.push(row);
        }
        format!(
            "{}\nfloat: {}\nINT8:  {}\n",
            aligned(&rows),
            words(float, float),
            words(int8, float)
        )
    }

    /// The search in words, a line a step; empty without one.
    pub fn search_text(&self) -> String {
        let (Some(search), Some(float)) = (&self.search, self.float()) else {
            return String::new();
        };
        let goal = match search.goal {
            Goal::MeanApDrop(most) => format!("a drop of at most {most} mAP"),
            Goal::ObjectSqnr(least) => format!("an SQNR of at least {least} dB at objects"),
        };
        let mut lines = vec![format!("searching for {goal}")];
        lines.extend(search.steps.iter().map(|step| {
            let action = match step.action {
                Action::LeftOut => "left out",
                Action::PutBack => "put back",
                Action::Kept => "stays out",
            };
            let met = if step.met { "enough" } else { "not enough" };
            let measured = words(&step.measured, float);
            format!("  {action:<9} {}: {measured}, {met}", step.layer)
        }));
        lines.push(format!(
            "{} of {} layers stay float, {:.1} % of the cost is in INT8: {}\n",
            search.skip.len(),
            self.layers.len(),
            100.0 * search.int8_share,
            words(&search.measured, float)
        ));
        lines.join("\n")
    }
}

fn head(labels: bool) -> Vec<String> {
    let columns: &[&str] = match labels {
        true => &[
            "layer",
            "MAC",
            "alone mAP",
            "dB all",
            "dB obj",
            "left out mAP",
            "dB all",
            "dB obj",
        ],
        false => &[
            "layer",
            "MAC",
            "alone dB all",
            "dB obj",
            "left out dB all",
            "dB obj",
        ],
    };
    columns.iter().map(|&c| c.to_owned()).collect()
}

/// `mAP 0.7521 (-0.0012), SQNR 31.2 dB, 35.6 dB at objects`.
fn words(measured: &Measured, float: &Measured) -> String {
    let sqnr = format!(
        "SQNR {:.1} dB, {:.1} dB at objects",
        measured.all, measured.objects
    );
    match (measured.mean_ap, measured.drop_from(float)) {
        (Some(ap), Some(drop)) if measured != float => {
            format!("mAP {ap:.4} ({}), {sqnr}", signed(Some(-drop), 4))
        }
        // The float network has no noise.
        (Some(ap), _) => format!("mAP {ap:.4}"),
        (None, _) if measured == float => "no labels".to_owned(),
        (None, _) => sqnr,
    }
}

fn signed(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:+.digits$}"))
}

/// SHA-256 over names and contents of the frames, in order; not their folders.
///
/// # Errors
/// [`crate::build::BuildError::Io`] for a frame that cannot be read.
pub fn frames_hash(frames: &[PathBuf]) -> Result<String> {
    let mut contents = String::new();
    for path in frames {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        contents += &format!("{} {name}\n", sha256_file(path)?);
    }
    Ok(sha256(contents.as_bytes()))
}

/// Every option that decides a quantised network by its dotted key, such as `config.equalize.alpha`.
pub fn options(config: &Config) -> BTreeMap<String, String> {
    fn flatten(prefix: &str, table: &toml::Table, into: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let key = format!("{prefix}.{key}");
            match value {
                toml::Value::Table(inner) => flatten(&key, inner, into),
                value => {
                    into.insert(key, value.to_string());
                }
            }
        }
    }
    let mut options = BTreeMap::new();
    if let Ok(table) = toml::Table::try_from(config) {
        flatten("config", &table, &mut options);
    }
    options
}

/// The first characters of a hash, or a short value.
fn short(value: &str) -> String {
    match value.get(..12) {
        Some(start) if value.len() == 64 => format!("{start}…"),
        _ => value.to_owned(),
    }
}

/// Takes measurements from a report, or makes them and keeps them there.
pub struct Recorder<'a> {
    /// The report.
    pub report: &'a mut Report,
    /// Its file, if it is kept in one.
    pub path: Option<&'a Path>,
    /// What measures.
    pub measure: &'a mut dyn Evaluate,
}

impl Evaluate for Recorder<'_> {
    fn evaluate(&mut self, mix: &Mix) -> Result<Measured> {
        if let Some(known) = self.report.measurements.get(mix) {
            return Ok(*known);
        }
        let measured = self.measure.evaluate(mix)?;
        self.report.measurements.insert(mix.clone(), measured);
        if let Some(path) = self.path {
            self.report.write(path)?;
        }
        Ok(measured)
    }
}
