//! `quantize.toml`: all options of `cp-build quantize` and their defaults.
//!
//! ```toml
//! recipe = "custom"             # or "nvidia", "best", "given": see `recipe.rs`
//! bias_correction = "all"       # subtract the mean error over these cells from the biases; or "occupied",
//!                               # "background", "off"
//!
//! [calibration]
//! method = "percentile"         # or "max", "mse", "entropy"
//! percentile = 99.999           # for "percentile", in percent
//! bins = 2048                   # histogram bins
//! cells = "occupied"            # only cells below a pillar; or "all"
//! skip_zeros = false            # leave out values that are 0, as pytorch-quantization's option of that name
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
//! [weights]
//! bits = 8                      # bits of the weights' codes, or 4
//! four_bits = []                # globs of layers with 4 bits
//! eight_bits = []               # globs of layers with 8 bits, which win over those with 4
//! deconvolution_scales = "channel"  # one for each output channel; or "tensor": one for a deconvolution of 8 bits
//! rounding = "nearest"          # or "gptq", "adaround": by the error of the layer's output
//! search = true                 # search the ranges of weights of 4 bits; false: the greatest absolute weight
//!
//! [frames]
//! limit = 0                     # maximum number of frames, chosen at random; 0 is all
//! seed = 0                      # for that choice
//! held_out = 4                  # hold every 4th frame out of calibration, to measure on; 0 holds out none
//! ```
//!
//! Missing keys have the values above, which measured best on the demo model. Command-line flags override single
//! keys. The recipes `nvidia` and `given` fix everything except `skip`, `weights` and `frames`; `given` also fixes the bits and
//! scales of `weights`. With `best`, a key that is set applies to every candidate. The plan's manifest stores the complete
//! effective configuration.

mod error;

use std::path::Path;

pub(crate) use error::ConfigError;

pub(crate) use crate::plan::config::{
    BiasCorrection, CalibrationConfig, CalibrationMethod, Cells, DeconvolutionScales,
    EqualizeConfig, FramesConfig, PfnPolicy, PlacementConfig, QatConfig, Rounding, WeightsConfig,
};
pub use crate::plan::config::{Config, Recipe};
use crate::plan::config::{Curve, QatLoss, WeightScales};
use toml::{Table, Value};

/// Options of pytorch-quantization that are no keys here, with what holds instead.
const FOREIGN: [(&str, &str); 6] = [
    (
        "grow_method",
        "bins are always appended, as with pytorch-quantization's grow_method = 'append'",
    ),
    ("unsigned", "codes are always signed, -127 to 127"),
    ("narrow_range", "codes are always -127 to 127"),
    (
        "num_bits",
        "codes of activations always have 8 bits; those of weights have `weights.bits`",
    ),
    ("num_bins", "the key is `bins`"),
    (
        "axis",
        "weights always have a range for each output channel, activations one range",
    ),
];

/// Maximum file size, far above that of any real configuration.
const MAX_BYTES: u64 = 1 << 16;

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
    /// `ConfigError` with the file and the key.
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
        let syntax = |e: toml::de::Error| {
            let mut message = e.to_string().trim_end().to_owned();
            let mut foreign = FOREIGN.iter();
            let is_unknown = |key| e.message().starts_with(&format!("unknown field `{key}`"));
            if let Some((_, here)) = foreign.find(|(key, _)| is_unknown(key)) {
                message += &format!("\n{here}");
            }
            ConfigError::Syntax {
                path: path.into(),
                message,
            }
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

    /// Sets the keys of the table `key` that the file does not set to those of `base`.
    pub(crate) fn complete(&mut self, key: &str, base: &impl serde::Serialize) {
        let Ok(mut table) = Table::try_from(base) else {
            return;
        };
        if let Some(Value::Table(own)) = self.keys.get(key) {
            merge(&mut table, own);
        }
        self.keys.insert(key.to_owned(), Value::Table(table));
    }

    /// Forgets the top-level `key` with everything below it.
    pub(crate) fn remove(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// The chosen recipe.
    ///
    /// # Errors
    /// `ConfigError::Syntax` for an unknown recipe.
    pub fn recipe(&self) -> Result<Recipe, ConfigError> {
        Ok(self.apply_to(&Config::default())?.recipe)
    }

    /// Returns `base` with these keys overridden.
    ///
    /// # Errors
    /// `ConfigError` with the key.
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

    /// Like [`ConfigOverrides::apply_to`], for a recipe that fixes everything except its name, the frames, the weights and
    /// `placement.skip`.
    ///
    /// # Errors
    /// `ConfigError::Fixed` for a fixed key with another value.
    pub fn apply_to_fixed(&self, base: &Config) -> Result<Config, ConfigError> {
        let config = self.apply_to(base)?;
        let free = Config {
            recipe: config.recipe,
            placement: PlacementConfig {
                skip: config.placement.skip.clone(),
                ..base.placement.clone()
            },
            weights: match base.recipe {
                // The scales belong to bits.
                Recipe::Given => WeightsConfig {
                    rounding: config.weights.rounding,
                    ..base.weights.clone()
                },
                _ => config.weights.clone(),
            },
            frames: config.frames.clone(),
            qat: config.qat.clone(),
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
            matches!(self.weights.bits, 4 | 8),
            "weights.bits",
            self.weights.bits.to_string(),
            "4 or 8",
        )?;
        if let Some(qat) = &self.qat {
            qat.check(&check)?;
        }
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

    /// The options of a training by NVIDIA's CUDA-CenterPoint: labels, one cycle, decoupled decay, fixed ranges. Its 20 epochs
    /// are up to `steps`.
    pub(crate) fn nvidia_training() -> QatConfig {
        QatConfig {
            loss: QatLoss::Labels,
            rate: 1e-4,
            curve: Curve::OneCycle,
            beta2: 0.99,
            weight_decay: 0.01,
            clip: 35.0,
            ema: 0.0,
            scale_rate: 0.0,
            weight_scales: WeightScales::Fixed,
            ..QatConfig::default()
        }
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
        if self.recipe == Recipe::Given {
            parts.push("given scales".to_owned());
            parts.extend(self.weights.label());
            return parts.join(", ");
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
        if self.calibration.skip_zeros {
            parts.push("without zeros".to_owned());
        }
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
        parts.extend(self.weights.label());
        parts.join(", ")
    }

    /// The configuration as TOML.
    pub fn to_toml(&self) -> String {
        // Numbers, strings and lists can always be serialised.
        toml::to_string(self).unwrap_or_default()
    }
}

impl WeightsConfig {
    /// What differs from 8 bits and nearest codes: `4-bit weights, gptq`.
    fn label(&self) -> Vec<String> {
        let mut parts = Vec::new();
        let others = |globs: &[String], bits: u8| match globs {
            [] => String::new(),
            globs => format!(", {bits} in {}", globs.join(" ")),
        };
        let (four, eight) = (&self.four_bits[..], &self.eight_bits[..]);
        match self.bits {
            4 => parts.push(format!("4-bit weights{}", others(eight, 8))),
            _ if !four.is_empty() => {
                let but = others(eight, 8);
                parts.push(format!("4-bit weights in {}{but}", four.join(" ")));
            }
            _ => {}
        }
        if !self.search && !parts.is_empty() {
            parts.push("greatest weights".to_owned());
        }
        if self.deconvolution_scales == DeconvolutionScales::Tensor {
            parts.push("one scale a deconvolution".to_owned());
        }
        match self.rounding {
            Rounding::Nearest => {}
            Rounding::Gptq => parts.push("gptq".to_owned()),
            Rounding::Adaround => parts.push("adaround".to_owned()),
        }
        parts
    }
}

impl QatConfig {
    /// Calls `check(valid, key, found, expected)` for each value.
    fn check<E>(
        &self,
        check: &dyn Fn(bool, &'static str, String, &'static str) -> Result<(), E>,
    ) -> Result<(), E> {
        let counts = [
            ("qat.steps", self.steps, 1_000_000, "1 to 1000000"),
            ("qat.batch", self.batch, 1024, "1 to 1024"),
            ("qat.check", self.check, 1_000_000, "1 to 1000000"),
        ];
        for (key, found, most, expected) in counts {
            check(
                (1..=most).contains(&found),
                key,
                found.to_string(),
                expected,
            )?;
        }
        let numbers = [
            ("qat.rate", self.rate, 0.0..=1.0, "0 to 1"),
            ("qat.beta2", self.beta2, 0.0..=0.999_999, "0 to 0.999999"),
            ("qat.weight_decay", self.weight_decay, 0.0..=10.0, "0 to 10"),
            ("qat.clip", self.clip, 1e-6..=1e9, "0.000001 to 1e9"),
            ("qat.ema", self.ema, 0.0..=0.999_999, "0 to 0.999999"),
            ("qat.scale_rate", self.scale_rate, 0.0..=100.0, "0 to 100"),
            (
                "qat.feature_weight",
                self.feature_weight,
                0.0..=1000.0,
                "0 to 1000",
            ),
        ];
        for (key, found, range, expected) in numbers {
            check(range.contains(&found), key, found.to_string(), expected)?;
        }
        Ok(())
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
