//! `quantize.toml`: every option of `cp-build quantize`, with its default.
//!
//! ```toml
//! recipe = "custom"             # or "nvidia", "best": see `recipe.rs`
//! bias_correction = "all"       # the cells whose mean error is taken off the biases; or "occupied",
//!                               # "background", "off"
//!
//! [calibration]
//! method = "percentile"         # or "max", "mse", "entropy"
//! percentile = 99.999           # of "percentile", in percent
//! bins = 2048                   # of the histograms
//! cells = "occupied"            # only cells with a pillar under them; or "all"
//!
//! [equalize]
//! alpha = 0.5                   # cross-layer equalisation, 0 to 1; 0 is none
//! background = true             # the background of each channel becomes a whole number of codes
//!
//! [placement]
//! skip = []                     # globs of layer names that stay float
//! first_layer = true            # the first convolution in INT8
//! heads = true                  # the convolutions that make the outputs in INT8
//! deconvolutions = true         # as 1×1 convolution and shuffle, in INT8
//! pfn = "float"                 # or "weights": its weights rounded to INT8, computed in float
//!
//! [frames]
//! limit = 0                     # most frames to use, chosen at random; 0 is all
//! seed = 0                      # of that choice
//! held_out = 4                  # every 4th frame is not calibrated on but measured on; 0 is none
//! ```
//!
//! Keys that are left out have the values above: what measured best on the demo model. Flags of the
//! command override single keys. The recipe `nvidia` fixes all but `skip` and `frames`; under `best` a
//! given key holds for every candidate. The effective configuration is kept whole in the plan's
//! manifest.

mod error;

use std::path::Path;

pub use error::ConfigError;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// No configuration comes near this size; a larger file is not one.
const MAX_BYTES: u64 = 1 << 16;

/// All options; see the [module's head](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the other options come from.
    pub recipe: Recipe,
    /// Which mean error is taken off the biases.
    pub bias_correction: BiasCorrection,
    /// How the ranges of activations are found.
    pub calibration: Calibration,
    /// Cross-layer equalisation.
    pub equalize: Equalize,
    /// What becomes INT8.
    pub placement: Placement,
    /// The frames to calibrate and to measure on.
    pub frames: Frames,
}

/// Where the options come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// That of pytorch-quantization: histogram and MSE, deconvolutions in float.
    Nvidia,
    /// The best of a list of candidates, by measured error on held-out frames.
    Best,
    /// As the configuration says.
    #[default]
    Custom,
}

/// Cells that a mean error is measured over and taken off the biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BiasCorrection {
    /// Biases stay.
    Off,
    /// Every cell.
    #[default]
    All,
    /// Cells with a pillar under them.
    Occupied,
    /// Cells that nothing in a frame reaches.
    Background,
}

/// How the ranges of activations are found; see [`super::calibrate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// From a histogram to an amax.
    pub method: Method,
    /// For [`Method::Percentile`], in percent.
    pub percentile: f64,
    /// Bins of a histogram.
    pub bins: usize,
    /// Cells that the histograms count.
    pub cells: Cells,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            method: Method::Percentile,
            percentile: 99.999,
            bins: 2048,
            cells: Cells::Occupied,
        }
    }
}

/// From a histogram to an amax; see [`super::calibrate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The largest value.
    Max,
    /// Least mean squared error.
    Mse,
    /// Least relative entropy.
    Entropy,
    /// So many percent of the values are below.
    Percentile,
}

/// Cells that histograms count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cells {
    /// Every cell.
    All,
    /// Cells with a pillar under them.
    Occupied,
}

/// Cross-layer equalisation; see [`super::equalize`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Equalize {
    /// Exponent of a channel's amax, 0 to 1; 0 is none.
    pub alpha: f64,
    /// Whether the background of each channel becomes a whole number of codes.
    pub background: bool,
}

impl Default for Equalize {
    fn default() -> Self {
        Self {
            alpha: 0.5,
            background: true,
        }
    }
}

/// What becomes INT8; see [`super::quantize`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// Globs of names of layers that stay float.
    pub skip: Vec<String>,
    /// Whether the first convolution does.
    pub first_layer: bool,
    /// Whether the convolutions that make the outputs do.
    pub heads: bool,
    /// Whether deconvolutions do.
    pub deconvolutions: bool,
    /// What happens to the pillar feature network, which runs in float.
    pub pfn: PfnPolicy,
}

impl Default for Placement {
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

/// What happens to the pillar feature network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PfnPolicy {
    /// Nothing.
    Float,
    /// Its weights are rounded to INT8 per output.
    Weights,
}

/// The frames to calibrate and to measure on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Frames {
    /// Most frames to use; 0 is all.
    pub limit: usize,
    /// Seed of the choice of `limit` frames.
    pub seed: u64,
    /// Every so manieth frame is measured on instead of calibrated on; 0 is none.
    pub held_out: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            limit: 0,
            seed: 0,
            held_out: 4,
        }
    }
}

/// Keys that were given, by a file and then by flags; all others have their defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    keys: Table,
    origin: String,
}

impl Given {
    /// The keys of the file at `path`.
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
                message: format!("{bytes} bytes, a configuration has at most {MAX_BYTES}"),
            });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(io)?, path)
    }

    /// The keys of a file's text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Given::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let syntax = |e: toml::de::Error| ConfigError::Syntax {
            path: path.into(),
            message: e.to_string().trim_end().to_owned(),
        };
        // Read as the whole first: its errors show the line.
        let config: Config = toml::from_str(text).map_err(syntax)?;
        let origin = path.display().to_string();
        config.check(&origin)?;
        Ok(Self {
            keys: toml::from_str(text).map_err(syntax)?,
            origin,
        })
    }

    /// Gives the dotted `key` a value, in place of the file's.
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

    /// The recipe that was given.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] for an unknown one.
    pub fn recipe(&self) -> Result<Recipe, ConfigError> {
        Ok(self.over(&Config::default())?.recipe)
    }

    /// `base` with the given keys in place of its own.
    ///
    /// # Errors
    /// [`ConfigError`] with the key.
    pub fn over(&self, base: &Config) -> Result<Config, ConfigError> {
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

    /// As [`Given::over`] for a recipe that is fixed but for its recipe's name, the frames and
    /// `placement.skip`.
    ///
    /// # Errors
    /// [`ConfigError::Fixed`] for a given key with another value.
    pub fn over_fixed(&self, base: &Config) -> Result<Config, ConfigError> {
        let config = self.over(base)?;
        let free = Config {
            recipe: config.recipe,
            placement: Placement {
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
    /// Checks that every value is one that can be; `origin` is where it came from, for messages.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with key, value and range.
    pub fn check(&self, origin: &str) -> Result<(), ConfigError> {
        let Calibration {
            percentile, bins, ..
        } = self.calibration;
        let alpha = self.equalize.alpha;
        let check = |ok: bool, key, found: String, expected| match ok {
            true => Ok(()),
            false => Err(ConfigError::Value {
                origin: origin.to_owned(),
                key,
                found,
                expected,
            }),
        };
        check(
            percentile > 50.0 && percentile <= 100.0,
            "calibration.percentile",
            percentile.to_string(),
            "percent, above 50 and at most 100",
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
            "0 for none, or 2 and more: with 1 no frame is left to calibrate on",
        )?;
        check(
            self.recipe != Recipe::Best || self.frames.held_out != 0,
            "frames.held_out",
            "0".into(),
            "2 and more: the recipe `best` chooses by the error on held-out frames",
        )
    }

    /// The options that decide accuracy, for people: `equalize 0.5, align background,
    /// max, all cells, bias all`.
    pub fn label(&self) -> String {
        let mut parts = Vec::new();
        if self.equalize.alpha > 0.0 {
            parts.push(format!("equalize {}", self.equalize.alpha));
        }
        if self.equalize.background {
            parts.push("align background".to_owned());
        }
        parts.push(match self.calibration.method {
            Method::Max => "max".to_owned(),
            Method::Mse => "mse".to_owned(),
            Method::Entropy => "entropy".to_owned(),
            Method::Percentile => format!("percentile {}", self.calibration.percentile),
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
        for (kept, what) in [
            (placement.first_layer, "float first layer"),
            (placement.heads, "float heads"),
            (placement.deconvolutions, "float deconvolutions"),
        ] {
            if !kept {
                parts.push(what.to_owned());
            }
        }
        parts.join(", ")
    }

    /// The configuration as the text of a file.
    pub fn to_toml(&self) -> String {
        // Plain numbers, texts and lists: they can always be written.
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
