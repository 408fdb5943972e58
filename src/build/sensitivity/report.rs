//! The report of a sensitivity run: a JSON file that is complete after every measurement, so a later run can
//! continue an interrupted one.
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
//! The keys of `measurements` are [`Mix`]es: one character per layer, in the order of `layers`, `8` for INT8 and `f`
//! for float. `ranking` is derived from them for human readers.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::budget::{Action, Goal, Search};
use super::{Evaluate, Measurement, Mix, SensitivityError};
use crate::build::Result;
use crate::build::config::{Config, Recipe};
use crate::build::folder::producer;
use crate::eval::report::aligned;
use crate::files;

/// Maximum file size, far above that of any real report: a measurement takes about a hundred bytes.
const MAX_BYTES: u64 = 1 << 26;
/// Losses of mAP closer than this count as equal.
const MAP_STEP: f64 = 1e-3;
/// Maximum number of differences that an error lists.
const SHOWN: usize = 4;

/// Measurements and their inputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Program and version that wrote the report.
    pub producer: String,
    /// Everything that the measurements depend on, by name; mostly SHA-256 hashes.
    pub inputs: BTreeMap<String, String>,
    /// The quantisable layers, in order of execution.
    pub layers: Vec<QuantizableLayer>,
    /// The measurements so far.
    pub measurements: BTreeMap<Mix, Measurement>,
    /// The layers, the most sensitive first; empty until all are measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<LayerSensitivity>,
    /// The result of the last search, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// A quantisable layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizableLayer {
    /// Its name, as in `--skip`.
    pub name: String,
    /// Conv, ConvTranspose, Gemm or MatMul.
    pub operator: String,
    /// Multiply-accumulates per frame.
    pub macs: u64,
    /// Its time in float and in INT8, in ms, if measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_ms: Option<[f64; 2]>,
}

/// The measurements of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSensitivity {
    /// Its name.
    pub layer: String,
    /// The network with only this layer in INT8.
    pub alone: Measurement,
    /// The network with all layers except this one in INT8.
    pub left_out: Measurement,
}

impl Report {
    /// An empty report.
    pub fn new(inputs: BTreeMap<String, String>, layers: Vec<QuantizableLayer>) -> Self {
        Self {
            producer: producer(),
            inputs,
            layers,
            ..Self::default()
        }
    }

    /// Opens the report at `path` to continue it, or creates a new one if the file does not exist. Layer times come
    /// from an existing report.
    ///
    /// # Errors
    /// [`SensitivityError`] for a file that cannot be read, is not a report, or was made with other inputs or layers.
    pub fn open(
        path: &Path,
        inputs: BTreeMap<String, String>,
        layers: Vec<QuantizableLayer>,
    ) -> Result<Self, SensitivityError> {
        let new = Self::new(inputs, layers);
        let Some(found) = Self::load(path)? else {
            return Ok(new);
        };
        let differences = found.differences(&new);
        if !differences.is_empty() {
            return Err(SensitivityError::OtherInputs {
                path: path.into(),
                differences,
            });
        }
        Ok(found)
    }

    /// Reads the report at `path` to choose layers of a model by it. `model` are the hashes of the model's files, by name.
    ///
    /// # Errors
    /// [`SensitivityError`] for a file that cannot be read, is not a report, lacks measurements, or is of another model.
    pub(crate) fn read(
        path: &Path,
        model: &BTreeMap<String, String>,
    ) -> Result<Self, SensitivityError> {
        let found = Self::load(path)?.ok_or_else(|| SensitivityError::Io {
            path: path.into(),
            source: ErrorKind::NotFound.into(),
        })?;
        let of_model = found
            .inputs
            .iter()
            .filter(|(name, _)| model.contains_key(*name));
        let of_model = of_model.map(|(name, hash)| (name.clone(), hash.clone()));
        let own = Self::new(of_model.collect(), Vec::new());
        let differences = own.differences(&Self::new(model.clone(), Vec::new()));
        if !differences.is_empty() {
            return Err(SensitivityError::OtherModel {
                path: path.into(),
                differences,
            });
        }
        if found.ranking.is_empty() {
            return Err(SensitivityError::Incomplete { path: path.into() });
        }
        Ok(found)
    }

    /// The report at `path`; `None` if there is no such file.
    fn load(path: &Path) -> Result<Option<Self>, SensitivityError> {
        let io = |source| SensitivityError::Io {
            path: path.into(),
            source,
        };
        let not_a_report = |what: String| SensitivityError::NotAReport {
            path: path.into(),
            what,
        };
        let bytes = match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found.map_err(io)?.len(),
        };
        if bytes > MAX_BYTES {
            let what = format!("{bytes} bytes, expected at most {MAX_BYTES}");
            return Err(not_a_report(what));
        }
        let text = std::fs::read(path).map_err(io)?;
        let found: Self = serde_json::from_slice(&text).map_err(|e| not_a_report(e.to_string()))?;
        let layers = found.layers.len();
        if let Some(mix) = found.measurements.keys().find(|mix| mix.len() != layers) {
            let what = format!("a measurement of {} layers, expected {layers}", mix.len());
            return Err(not_a_report(what));
        }
        Ok(Some(found))
    }

    /// The names of the `share` of layers that are least sensitive, at least one, the least first.
    pub(crate) fn least_sensitive(&self, share: f64) -> Vec<String> {
        let count = (share * self.ranking.len() as f64).ceil().max(1.0) as usize;
        let ranking = self.ranking.iter().rev().take(count);
        ranking.map(|ranked| ranked.layer.clone()).collect()
    }

    /// The differences between the inputs of this report and of `other`.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.producer != other.producer {
            let (found, now) = (&self.producer, &other.producer);
            differences.push(format!("it was written by {found}, but this is {now}"));
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
        // Layers are derived from the inputs, so they are listed only if nothing else differs.
        if differences.is_empty() && layers(self) != layers(other) {
            let (found, now) = (self.layers.len(), other.layers.len());
            differences.push(format!("its {found} layers differ from the model's {now}"));
        }
        if differences.len() > SHOWN {
            let more = differences.len() - SHOWN;
            differences.truncate(SHOWN);
            differences.push(format!("and {more} more"));
        }
        differences
    }

    /// Writes the report atomically.
    ///
    /// # Errors
    /// [`FileError`](crate::files::FileError) with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(files::write(path, self.to_json().as_bytes())?)
    }

    /// Writes the best mix as a configuration for `cp-build quantize --config`: the measured `config` with the mix's
    /// skip list. Writes nothing without a search.
    ///
    /// # Errors
    /// [`FileError`](crate::files::FileError) with the path.
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
        // The recipe `best` has already chosen; do not let it choose again.
        if config.recipe == Recipe::Best {
            config.recipe = Recipe::Custom;
        }
        Some(format!(
            "# From `cp-build sensitivity`: {} of {} layers stay float.\n# float:    {}\n# all INT8: \
             {}\n# this mix: {}\n\n{}",
            search.skip.len(),
            self.layers.len(),
            summary(float, float),
            summary(int8, float),
            summary(&search.measured, float),
            config.to_toml()
        ))
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        // Numbers, strings and maps with string keys can always be serialised.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The measurement of the float network, if done.
    pub fn float(&self) -> Option<&Measurement> {
        self.measurements.get(&Mix::float(self.layers.len()))
    }

    /// The measurement of all layers in INT8, if done.
    pub fn int8(&self) -> Option<&Measurement> {
        self.measurements.get(&Mix::int8(self.layers.len()))
    }

    /// Ranks the layers after [`super::ablate`] has completed, the most sensitive first. With labels, the order is by
    /// the mAP lost with only the layer in INT8, in steps of 0.001, because smaller differences are chance. Then it is
    /// by SQNR at object cells.
    pub fn rank(&mut self) {
        let count = self.layers.len();
        let layers = self.layers.iter().enumerate();
        let measured = |mix: Mix| self.measurements.get(&mix).copied();
        let ranking: Option<Vec<LayerSensitivity>> = layers
            .map(|(i, layer)| {
                Some(LayerSensitivity {
                    layer: layer.name.clone(),
                    alone: measured(Mix::float(count).with(i, true))?,
                    left_out: measured(Mix::int8(count).with(i, false))?,
                })
            })
            .collect();
        let mut ranking = ranking.unwrap_or_default();
        let steps = |ranked: &LayerSensitivity| {
            let drop = self.float().and_then(|float| ranked.alone.drop_from(float));
            (drop.unwrap_or(0.0) / MAP_STEP).round()
        };
        ranking.sort_by(|a, b| {
            let by_drop = steps(b).total_cmp(&steps(a));
            by_drop.then(a.alone.objects.total_cmp(&b.alone.objects))
        });
        self.ranking = ranking;
    }

    /// The ranking as an aligned table. Columns: the layer's share of all multiply-accumulates; with only the layer in
    /// INT8, the change of mAP and the SQNR in dB over all and object cells; with only the layer in float, the gain
    /// over all layers in INT8 (mAP, dB).
    pub fn table(&self) -> String {
        let (Some(float), Some(int8)) = (self.float(), self.int8()) else {
            return "no measurements yet\n".to_owned();
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
            summary(float, float),
            summary(int8, float)
        )
    }

    /// Describes the search, one line per step; empty without a search.
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
            let met = if step.met { "met" } else { "not met" };
            let measured = summary(&step.measured, float);
            format!("  {action:<9} {}: {measured}, {met}", step.layer)
        }));
        lines.push(format!(
            "{} of {} layers in float, {:.1} % of the cost in INT8: {}\n",
            search.skip.len(),
            self.layers.len(),
            100.0 * search.int8_share,
            summary(&search.measured, float)
        ));
        lines.join("\n")
    }
}

fn head(labels: bool) -> Vec<String> {
    let columns: &[&str] = if labels {
        &[
            "layer",
            "MAC",
            "alone mAP",
            "dB all",
            "dB obj",
            "left out mAP",
            "dB all",
            "dB obj",
        ]
    } else {
        &[
            "layer",
            "MAC",
            "alone dB all",
            "dB obj",
            "left out dB all",
            "dB obj",
        ]
    };
    columns.iter().map(|&c| c.to_owned()).collect()
}

/// `mAP 0.7521 (-0.0012), SQNR 31.2 dB, 35.6 dB at objects`.
fn summary(measured: &Measurement, float: &Measurement) -> String {
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

/// Every option that affects a quantised network, by dotted key such as `config.equalize.alpha`.
pub(crate) fn options(config: &Config) -> BTreeMap<String, String> {
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

/// The first characters of a hash, or any other value in full.
fn short(value: &str) -> String {
    match value.get(..12) {
        Some(start) if value.len() == 64 => format!("{start}…"),
        _ => value.to_owned(),
    }
}

/// Looks up measurements in a report. Makes and records missing ones.
pub(crate) struct Recorder<'a> {
    /// The report.
    pub report: &'a mut Report,
    /// Its file, if any.
    pub path: Option<&'a Path>,
    /// Makes missing measurements.
    pub measure: &'a mut dyn Evaluate,
}

impl Evaluate for Recorder<'_> {
    fn evaluate(&mut self, mix: &Mix) -> Result<Measurement> {
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
