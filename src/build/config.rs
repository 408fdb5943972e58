//! `quantize.toml`: all options of `cp-build quantize` and their defaults.
//!
//! ```toml
//! recipe = "custom"             # or "nvidia", "best": see `recipe.rs`
//! bias_correction = "all"       # subtract the mean error over these cells from the biases; or "occupied",
//!                               # "background", "off"
//!
//! [calibration]
//! method = "percentile"         # or "max", "mse", "entropy"
//! percentile = 99.999           # for "percentile", in percent
//! bins = 2048                   # histogram bins
//! cells = "occupied"            # only cells below a pillar; or "all"
//!
//! [equalize]
//! alpha = 0.5                   # cross-layer equalisation, 0 to 1; 0 disables it
//! background = true             # shift each channel's background to a whole number of codes
//!
//! [placement]
//! skip = []                     # globs of layer names to keep in float
//! first_layer = true            # quantise the first convolution
//! heads = true                  # quantise the convolutions that produce outputs
//! deconvolutions = true         # quantise deconvolutions, as 1×1 convolution and shuffle
//! pfn = "float"                 # or "weights": round the PFN's weights to INT8, compute in float
//!
//! [frames]
//! limit = 0                     # maximum number of frames, chosen at random; 0 is all
//! seed = 0                      # for that choice
//! held_out = 4                  # hold every 4th frame out of calibration, to measure on; 0 holds out none
//! ```
//!
//! Missing keys have the values above, which measured best on the demo model. Command-line flags override single
//! keys. The recipe `nvidia` fixes everything except `skip` and `frames`; with `best`, a key that is set applies to
//! every candidate. The plan's manifest stores the complete effective configuration.

mod error;

use std::path::Path;

pub use error::ConfigError;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// Maximum file size, far above that of any real configuration.
const MAX_BYTES: u64 = 1 << 16;

/// All options; see the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Source of the other options.
    pub recipe: Recipe,
    /// Which mean error to subtract from the biases.
    pub bias_correction: BiasCorrection,
    /// How to determine the ranges of activations.
    pub calibration: CalibrationConfig,
    /// Cross-layer equalisation.
    pub equalize: EqualizeConfig,
    /// Which layers to quantise.
    pub placement: PlacementConfig,
    /// Which frames to calibrate and measure on.
    pub frames: FramesConfig,
}

/// Source of the options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// Those of pytorch-quantization: histogram and MSE, deconvolutions in float.
    Nvidia,
    /// The candidate with the least measured error on held-out frames.
    Best,
    /// The configuration as it is.
    #[default]
    Custom,
}

/// Cells whose mean error is subtracted from the biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BiasCorrection {
    /// Leaves the biases unchanged.
    Off,
    /// All cells.
    #[default]
    All,
    /// Cells below a pillar.
    Occupied,
    /// Cells unaffected by any point of the frame.
    Background,
}

/// How to determine the ranges of activations; see [`super::calibrate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibrationConfig {
    /// How to pick the amax of a histogram.
    pub method: CalibrationMethod,
    /// For [`CalibrationMethod::Percentile`], in percent.
    pub percentile: f64,
    /// Initial number of histogram bins.
    pub bins: usize,
    /// Cells counted by the histograms.
    pub cells: Cells,
}

impl Default for CalibrationConfig {
    fn default() -> Self {
        Self {
            method: CalibrationMethod::Percentile,
            percentile: 99.999,
            bins: 2048,
            cells: Cells::Occupied,
        }
    }
}

/// How to pick the amax of a histogram; [`super::calibrate::AmaxMethod`] adds the percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationMethod {
    /// Greatest absolute value.
    Max,
    /// Least mean squared error.
    Mse,
    /// Least Kullback–Leibler divergence.
    Entropy,
    /// Covers [`CalibrationConfig::percentile`] percent of the values.
    Percentile,
}

/// Cells counted by the histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cells {
    /// All cells.
    All,
    /// Cells below a pillar.
    Occupied,
}

/// Cross-layer equalisation; see [`super::equalize`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EqualizeConfig {
    /// Exponent of a channel's amax, 0 to 1; 0 disables equalisation.
    pub alpha: f64,
    /// Whether to shift each channel's background to a whole number of codes.
    pub background: bool,
}

impl Default for EqualizeConfig {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            background: true,
        }
    }
}

/// Which layers to quantise; see [`super::quantize`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// Globs of layer names to keep in float.
    pub skip: Vec<String>,
    /// Whether to quantise the first convolution.
    pub first_layer: bool,
    /// Whether to quantise the convolutions that produce the outputs.
    pub heads: bool,
    /// Whether to quantise deconvolutions.
    pub deconvolutions: bool,
    /// How to treat the pillar feature network, which always runs in float.
    pub pfn: PfnPolicy,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            skip: Vec::new(),
            first_layer: true,
            heads: true,
            deconvolutions: true,
            pfn: PfnPolicy::Float,
        }
    }
}

/// How to treat the pillar feature network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PfnPolicy {
    /// Leave it unchanged.
    Float,
    /// Round its weights to INT8, with a scale for each output.
    Weights,
}

/// Which frames to calibrate and measure on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FramesConfig {
    /// Maximum number of frames; 0 is all.
    pub limit: usize,
    /// Seed of the choice of `limit` frames.
    pub seed: u64,
    /// Holds every n-th frame out of calibration, to measure on; 0 holds out none.
    pub held_out: usize,
}

impl Default for FramesConfig {
    fn default() -> Self {
        Self {
            limit: 0,
            seed: 0,
            held_out: 4,
        }
    }
}

/// The keys set by a file and by flags, which take precedence over it. All other keys have their defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigOverrides {
    keys: Table,
    origin: String,
}

impl ConfigOverrides {
    /// Reads the keys of the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] with the file and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let io = |source| ConfigError::Io {
            path: path.into(),
            source,
        };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_BYTES {
            return Err(ConfigError::Syntax {
                path: path.into(),
                message: format!("{bytes} bytes, expected at most {MAX_BYTES}"),
            });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(io)?, path)
    }

    /// Parses the text of a file; messages refer to `path`.
    ///
    /// # Errors
    /// Those of [`ConfigOverrides::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let syntax = |e: toml::de::Error| ConfigError::Syntax {
            path: path.into(),
            message: e.to_string().trim_end().to_owned(),
        };
        // Parsed as a full configuration first, because those errors show the line.
        let config: Config = toml::from_str(text).map_err(syntax)?;
        let origin = path.display().to_string();
        config.check(&origin)?;
        Ok(Self {
            keys: toml::from_str(text).map_err(syntax)?,
            origin,
        })
    }

    /// Sets the dotted `key`, replacing the file's value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let mut table = &mut self.keys;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value.into());
                return;
            }
            let inner = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else {
                return;
            };
            table = inner;
        }
    }

    /// The chosen recipe.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] for an unknown recipe.
    pub fn recipe(&self) -> Result<Recipe, ConfigError> {
        Ok(self.apply_to(&Config::default())?.recipe)
    }

    /// Returns `base` with these keys overridden.
    ///
    /// # Errors
    /// [`ConfigError`] with the key.
    pub fn apply_to(&self, base: &Config) -> Result<Config, ConfigError> {
        let syntax = |message: String| ConfigError::Syntax {
            path: self.origin().into(),
            message,
        };
        let mut keys = Table::try_from(base).map_err(|e| syntax(e.to_string()))?;
        merge(&mut keys, &self.keys);
        let config: Config = keys
            .try_into()
            .map_err(|e: toml::de::Error| syntax(e.message().to_owned()))?;
        config.check(self.origin())?;
        Ok(config)
    }

    /// Like [`ConfigOverrides::apply_to`], for a recipe that fixes everything except its name, the frames and
    /// `placement.skip`.
    ///
    /// # Errors
    /// [`ConfigError::Fixed`] for a fixed key with another value.
    pub fn apply_to_fixed(&self, base: &Config) -> Result<Config, ConfigError> {
        let config = self.apply_to(base)?;
        let free = Config {
            recipe: config.recipe,
            placement: PlacementConfig {
                skip: config.placement.skip.clone(),
                ..base.placement.clone()
            },
            frames: config.frames.clone(),
            ..base.clone()
        };
        match difference(&free, &config) {
            Some((key, fixed, found)) => Err(ConfigError::Fixed {
                origin: self.origin().into(),
                key,
                fixed,
                found,
            }),
            None => Ok(config),
        }
    }

    fn origin(&self) -> &str {
        match &*self.origin {
            "" => "command line",
            path => path,
        }
    }
}

impl Config {
    /// Checks that every value is valid. Messages name `origin` as the source.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with key, value and range.
    pub fn check(&self, origin: &str) -> Result<(), ConfigError> {
        let CalibrationConfig {
            percentile, bins, ..
        } = self.calibration;
        let alpha = self.equalize.alpha;
        let check = |ok: bool, key, found: String, expected| {
            if ok {
                return Ok(());
            }
            Err(ConfigError::Value {
                origin: origin.to_owned(),
                key,
                found,
                expected,
            })
        };
        check(
            percentile > 50.0 && percentile <= 100.0,
            "calibration.percentile",
            percentile.to_string(),
            "a percentage above 50 and at most 100",
        )?;
        check(
            (256..=8192).contains(&bins),
            "calibration.bins",
            bins.to_string(),
            "256 to 8192",
        )?;
        check(
            (0.0..=1.0).contains(&alpha),
            "equalize.alpha",
            alpha.to_string(),
            "0 to 1",
        )?;
        check(
            self.frames.held_out != 1,
            "frames.held_out",
            "1".into(),
            "0 for none, or at least 2: with 1 no frame is left to calibrate on",
        )?;
        check(
            self.recipe != Recipe::Best || self.frames.held_out != 0,
            "frames.held_out",
            "0".into(),
            "at least 2: the recipe `best` chooses by the error on held-out frames",
        )
    }

    /// A readable summary of the options that affect accuracy: `equalize 0.5, align background, max, all cells,
    /// bias all`. Also names candidates in the plan's manifest.
    pub fn label(&self) -> String {
        let mut parts = Vec::new();
        if self.equalize.alpha > 0.0 {
            parts.push(format!("equalize {}", self.equalize.alpha));
        }
        if self.equalize.background {
            parts.push("align background".to_owned());
        }
        parts.push(match self.calibration.method {
            CalibrationMethod::Max => "max".to_owned(),
            CalibrationMethod::Mse => "mse".to_owned(),
            CalibrationMethod::Entropy => "entropy".to_owned(),
            CalibrationMethod::Percentile => format!("percentile {}", self.calibration.percentile),
        });
        parts.push(match self.calibration.cells {
            Cells::All => "all cells".to_owned(),
            Cells::Occupied => "occupied cells".to_owned(),
        });
        match self.bias_correction {
            BiasCorrection::Off => {}
            BiasCorrection::All => parts.push("bias all".to_owned()),
            BiasCorrection::Occupied => parts.push("bias occupied".to_owned()),
            BiasCorrection::Background => parts.push("bias background".to_owned()),
        }
        let placement = &self.placement;
        for (quantized, label) in [
            (placement.first_layer, "float first layer"),
            (placement.heads, "float heads"),
            (placement.deconvolutions, "float deconvolutions"),
        ] {
            if !quantized {
                parts.push(label.to_owned());
            }
        }
        parts.join(", ")
    }

    /// The configuration as TOML.
    pub fn to_toml(&self) -> String {
        // Numbers, strings and lists can always be serialised.
        toml::to_string(self).unwrap_or_default()
    }
}

fn merge(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The first key in which two configurations differ, with both values.
fn difference(a: &Config, b: &Config) -> Option<(String, String, String)> {
    fn find(prefix: &str, a: &Table, b: &Table) -> Option<(String, String, String)> {
        a.iter().find_map(|(key, a)| {
            let b = b.get(key)?;
            let key = format!("{prefix}{key}");
            match (a, b) {
                (Value::Table(a), Value::Table(b)) => find(&format!("{key}."), a, b),
                _ if a == b => None,
                _ => Some((key, a.to_string(), b.to_string())),
            }
        })
    }
    find("", &Table::try_from(a).ok()?, &Table::try_from(b).ok()?)
}

#[cfg(test)]
mod tests;
