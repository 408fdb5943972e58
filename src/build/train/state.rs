//! The state of a training in a file, to continue after a stop with the same bytes.
//!
//! ```text
//! "centerpoint training\n"  one line of JSON  "\n"  parameters, moments, moving average, best (f32, little-endian)
//! ```

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::optimizer::Optimizer;
use super::params::Params;
use crate::build::{BuildError, Result};
use crate::files::{self, FileError};

const MAGIC: &[u8] = b"centerpoint training\n";
/// Most bytes of a state: 256 million parameters.
const MAX_BYTES: u64 = 6 << 30;

/// Where a training is.
pub(crate) struct State {
    /// Steps done.
    pub(crate) step: usize,
    /// The best figure so far, with that before the training.
    pub(crate) best: f64,
    pub(crate) best_step: usize,
    /// The parameters of the best measurement of the training.
    pub(crate) best_values: Vec<f32>,
    /// Measurements since the best one.
    pub(crate) since_best: usize,
    /// Step, rate, loss, norm of the gradients and figure of each step; NaN where none was measured.
    pub(crate) log: Vec<[f64; 5]>,
    /// The best figure of the training alone.
    trained: f64,
    header: Header,
}

/// What a state belongs to, and its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Options and inputs.
    inputs: Value,
    /// Steps of the whole training.
    steps: usize,
    before: f64,
    step: usize,
    optimizer_steps: u32,
    skipped: u32,
    best: f64,
    best_step: usize,
    since_best: usize,
    trained: Option<f64>,
    parameters: usize,
    /// The log; `None` for values that are not finite, which JSON lacks.
    log: Vec<[Option<f64>; 5]>,
}

impl State {
    /// The state before the first of `steps` steps. `inputs` is all that the training depends on.
    pub(crate) fn new(inputs: &impl Serialize, steps: usize, before: f64) -> Self {
        Self {
            step: 0,
            best: before,
            best_step: 0,
            best_values: Vec::new(),
            since_best: 0,
            log: Vec::new(),
            trained: f64::NEG_INFINITY,
            header: Header {
                // Options and hashes can always be serialised.
                inputs: serde_json::to_value(inputs).unwrap_or_default(),
                steps,
                before,
                step: 0,
                optimizer_steps: 0,
                skipped: 0,
                best: before,
                best_step: 0,
                since_best: 0,
                trained: None,
                parameters: 0,
                log: Vec::new(),
            },
        }
    }

    /// Takes note of a measurement of `values`.
    pub(crate) fn measured(&mut self, figure: f64, values: &[f32]) {
        self.trained = self.trained.max(figure);
        if figure > self.best {
            self.best = figure;
            self.best_step = self.step;
            self.best_values = values.to_vec();
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
    }

    /// The figure before the training.
    pub(crate) fn before(&self) -> f64 {
        self.header.before
    }

    /// The best figure of the training, without that before it.
    pub(crate) fn best_figure(&self) -> f64 {
        self.trained
    }

    /// Writes the state.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn write(&self, path: &Path, params: &Params, optimizer: &Optimizer) -> Result<()> {
        let header = Header {
            step: self.step,
            optimizer_steps: optimizer.steps,
            skipped: optimizer.skipped,
            best: self.best,
            best_step: self.best_step,
            since_best: self.since_best,
            trained: self.trained.is_finite().then_some(self.trained),
            parameters: params.all_values().len(),
            log: self
                .log
                .iter()
                .map(|row| row.map(|value| value.is_finite().then_some(value)))
                .collect(),
            ..self.header.clone()
        };
        let text = serde_json::to_vec(&header).unwrap_or_default();
        let arrays = [
            params.all_values(),
            &optimizer.mean,
            &optimizer.square,
            &optimizer.average,
            &self.best_values,
        ];
        files::write_with(path, |file| {
            file.write_all(MAGIC)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            for array in arrays {
                for value in array {
                    file.write_all(&value.to_le_bytes())?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Continues from a file, if it exists.
    ///
    /// # Errors
    /// [`FileError`]; [`BuildError::Folder`] for a file that is broken or belongs to another training.
    pub(crate) fn read(
        &mut self,
        path: &Path,
        params: &mut Params,
        optimizer: &mut Optimizer,
    ) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let refuse = |what: &str| BuildError::Folder {
            path: path.into(),
            what: format!("{what}; remove the file to start from the beginning"),
        };
        if files::len(path)? > MAX_BYTES {
            return Err(refuse("too large for the state of a training"));
        }
        let bytes = std::fs::read(path).map_err(FileError::new(path, "read"))?;
        let rest = bytes.strip_prefix(MAGIC);
        let rest = rest.ok_or_else(|| refuse("not the state of a training"))?;
        let end = rest.iter().position(|b| *b == b'\n');
        let end = end.ok_or_else(|| refuse("the state of a training is cut short"))?;
        let header: Header = serde_json::from_slice(&rest[..end])
            .map_err(|e| refuse(&format!("the state of a training is damaged: {e}")))?;
        let (own, count) = (&self.header, params.all_values().len());
        let same = header.inputs == own.inputs
            && (header.steps, header.before, header.parameters) == (own.steps, own.before, count);
        if !same {
            return Err(refuse(
                "the state of a training with other options, frames or labels, or of another network",
            ));
        }
        let values = &rest[end + 1..];
        let arrays = if header.best > header.before { 5 } else { 4 };
        if values.len() != arrays * count * size_of::<f32>() || header.step > header.steps {
            return Err(refuse("the state of a training is cut short"));
        }
        let values: Vec<f32> = values
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let array = |i: usize| values[i * count..(i + 1) * count].to_vec();
        params.exchange(&mut array(0));
        optimizer.steps = header.optimizer_steps;
        optimizer.skipped = header.skipped;
        optimizer.mean = array(1);
        optimizer.square = array(2);
        optimizer.average = array(3);
        if arrays == 5 {
            self.best_values = array(4);
        }
        self.step = header.step;
        self.best = header.best;
        self.best_step = header.best_step;
        self.since_best = header.since_best;
        self.trained = header.trained.unwrap_or(f64::NEG_INFINITY);
        let log = header.log.iter();
        self.log = log
            .map(|row| row.map(|value| value.unwrap_or(f64::NAN)))
            .collect();
        Ok(())
    }
}
