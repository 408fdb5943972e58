//! The ranges of a quantised checkpoint.
//!
//! | made by | keys behind a layer |
//! |---|---|
//! | pytorch-quantization | `._input_quantizer._amax`, `._weight_quantizer._amax` |
//! | the same, learnt | `….clip.clip_value_min`, `….clip.clip_value_max` |
//! | ModelOpt | `.input_quantizer._amax`, `.weight_quantizer._amax` |
//!
//! Scale = amax / 127. The shape of a weight's amax tells its axis; a number of values never does, since a deconvolution may
//! have as many input channels as output channels.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::CheckpointError;
use super::file::File;
use super::state::State;
use crate::build::Result;
use crate::build::onnx::tensor::Tensor;

/// What each program calls the quantisers of a layer's input and of its weight.
const QUANTIZERS: [[&str; 2]; 2] = [
    ["_input_quantizer", "_weight_quantizer"],
    ["input_quantizer", "weight_quantizer"],
];

/// The ranges of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scales {
    pub(super) input: f32,
    /// One for each output channel.
    pub(super) weight: Vec<f32>,
    /// Keys of both ranges.
    pub(super) keys: [String; 2],
    /// Whether the file's range of the weight cannot be used, so that this one is that of the float weight.
    pub(super) requantized: bool,
}

/// Which layers have ranges, and where those are.
pub(super) struct Source {
    calib: Option<Calib>,
    /// Layers and what each lacks.
    missing: Vec<String>,
}

/// A file of ranges by quantiser.
struct Calib {
    path: PathBuf,
    values: BTreeMap<String, Tensor<f32>>,
}

impl Source {
    /// # Errors
    /// As [`File::read`] and [`File::floats`].
    pub(super) fn new(calib: Option<File>, state: &State) -> Result<Self> {
        let calib = match calib {
            None => None,
            Some(file) => {
                let mut values = BTreeMap::new();
                for key in file.keys() {
                    let name = state.without_prefix(key.strip_suffix("._amax").unwrap_or(key));
                    values.extend(file.floats(key)?.map(|tensor| (name.to_owned(), tensor)));
                }
                Some(Calib {
                    path: file.path,
                    values,
                })
            }
        };
        Ok(Self {
            calib,
            missing: Vec::new(),
        })
    }

    /// Whether there are ranges at all.
    pub(super) fn is_quantized(&self, state: &State) -> bool {
        self.calib.is_some() || state.has_quantizers()
    }

    /// The ranges of the layer `key`, whose weight has its output channels on `axis`; `None` and a note of what is missing if
    /// they are incomplete.
    ///
    /// # Errors
    /// [`CheckpointError`] for ranges that do not fit the layer.
    pub(super) fn take(
        &mut self,
        state: &mut State,
        key: &str,
        weight: &Tensor<f32>,
        axis: usize,
    ) -> Result<Option<Scales>> {
        let mut found = [None, None];
        for names in QUANTIZERS {
            for (found, name) in found.iter_mut().zip(names) {
                let quantizer = format!("{key}.{name}");
                if let Some(range) = self.range(state, &quantizer)? {
                    *found = Some(range);
                }
            }
        }
        let (input, amax) = match found {
            [Some(input), Some(weight)] => (input, weight),
            [input, weight] => {
                let lacks = match (input, weight) {
                    (Some(_), _) => "its weight",
                    (None, Some(_)) => "its input",
                    (None, None) => "its input and its weight",
                };
                self.missing.push(format!("`{key}` ({lacks})"));
                return Ok(None);
            }
        };
        let [input_key, weight_key] = [&input, &amax].map(|range| range.key.clone());
        let &[value] = &input.amax.data[..] else {
            let expected = "one range for the whole map".to_owned();
            return Err(state.misfit(&input_key, &input.amax.dims, expected).into());
        };
        let (weight, requantized) = per_channel(state, &amax, weight, axis)?;
        Ok(Some(Scales {
            input: value,
            weight,
            keys: [input_key, weight_key],
            requantized,
        }))
    }

    /// The range of a quantiser, from the checkpoint, the file of ranges, or both.
    fn range(&mut self, state: &mut State, quantizer: &str) -> Result<Option<Range>> {
        check_pre_scale(state, quantizer)?;
        let own = own_range(state, quantizer)?;
        let Some(calib) = &mut self.calib else {
            return Ok(own);
        };
        let Some(other) = calib.values.remove(quantizer) else {
            return Ok(own);
        };
        if let Some(own) = own {
            if own.amax.data != other.data {
                let differs = own.amax.data.iter().zip(&other.data).find(|(a, b)| a != b);
                let (found, expected) = match differs {
                    Some((a, b)) if own.amax.dims == other.dims => (a.to_string(), b.to_string()),
                    _ => (
                        format!("{:?} values", own.amax.dims),
                        format!("{:?} values", other.dims),
                    ),
                };
                return Err(CheckpointError::Contradiction {
                    path: state.path().into(),
                    key: state.full(quantizer),
                    found,
                    other: calib.path.clone(),
                    expected,
                }
                .into());
            }
            return Ok(Some(own));
        }
        let range = Range {
            key: quantizer.to_owned(),
            amax: other,
        };
        range.check(state)?;
        Ok(Some(range))
    }

    /// Leaves out the ranges of what starts so, and returns their names.
    pub(super) fn leave(&mut self, state: &mut State, start: &str) -> Vec<String> {
        let mut left = Vec::new();
        for [input, weight] in QUANTIZERS {
            for name in [input, weight] {
                let quantizer = format!("{start}.{name}");
                let mut found = state.leave(&format!("{quantizer}.")) > 0;
                if let Some(calib) = &mut self.calib {
                    found |= calib.values.remove(&quantizer).is_some();
                }
                if found {
                    left.push(quantizer);
                }
            }
        }
        left
    }

    /// The ranges of quantisers that no layer has.
    pub(super) fn rest(&self) -> Vec<String> {
        let values = self.calib.iter().flat_map(|calib| calib.values.keys());
        values.cloned().collect()
    }

    /// # Errors
    /// [`CheckpointError::NoScales`] if a layer had no ranges.
    pub(super) fn check_complete(&self, state: &State) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::NoScales {
            path: state.path().into(),
            layers: self.missing.join(", "),
        }
        .into())
    }
}

/// A range with its key.
struct Range {
    key: String,
    amax: Tensor<f32>,
}

impl Range {
    fn check(&self, state: &State) -> Result<()> {
        match self.amax.data.iter().find(|amax| **amax < 0.0) {
            Some(amax) => {
                let found = format!("has the range {amax}");
                let expected = "0 or more".to_owned();
                Err(state.error(&self.key, found, expected).into())
            }
            None => Ok(()),
        }
    }
}

/// The range of a quantiser in the checkpoint: calibrated or learnt.
fn own_range(state: &mut State, quantizer: &str) -> Result<Option<Range>> {
    let key = format!("{quantizer}._amax");
    let [min_key, max_key] = ["min", "max"].map(|end| format!("{quantizer}.clip.clip_value_{end}"));
    let learnt = state.take(&max_key)?;
    let range = match (state.take(&key)?, learnt) {
        // What training learnt replaces what calibration started it with.
        (_, Some(amax)) => {
            let min = state.need(&min_key, || "the lower end of a learnt range".into())?;
            // Every layer's input is the output of a ReLU or of the PFN, so only its upper end cuts anything.
            let is_input = quantizer.ends_with("input_quantizer");
            let fits = |(min, max): (&f32, &f32)| {
                -min == *max || (is_input && *min <= 0.0 && -min <= *max)
            };
            if min.dims != amax.dims || !min.data.iter().zip(&amax.data).all(fits) {
                let found = format!("is {:?}", min.data.first().unwrap_or(&f32::NAN));
                let most = amax.data.first().unwrap_or(&f32::NAN);
                let expected = format!("{:?}, the negative of `clip_value_max`", -most);
                return Err(state.error(&min_key, found, expected).into());
            }
            Range { key: max_key, amax }
        }
        (Some(amax), None) => Range { key, amax },
        (None, None) => return Ok(None),
    };
    range.check(state)?;
    Ok(Some(range))
}

/// Refuses factors of an input before its quantiser (SmoothQuant), unless they change nothing.
fn check_pre_scale(state: &mut State, quantizer: &str) -> Result<()> {
    let key = format!("{quantizer}._pre_quant_scale");
    let Some(factors) = state.take(&key)? else {
        return Ok(());
    };
    match factors.data.iter().find(|factor| **factor != 1.0) {
        None => Ok(()),
        Some(factor) => {
            let found = format!("multiplies the input by {factor} before it is quantised");
            let expected = "1: quantise without SmoothQuant or AWQ".to_owned();
            Err(state.error(&key, found, expected).into())
        }
    }
}

/// A range for each output channel, which lies on `axis` of the weight, and whether it is that of the float weight.
fn per_channel(
    state: &State,
    range: &Range,
    weight: &Tensor<f32>,
    axis: usize,
) -> Result<(Vec<f32>, bool)> {
    let amax = &range.amax;
    let outputs = weight.dims.get(axis).copied().unwrap_or_default();
    if let [amax] = amax.data[..] {
        return Ok((vec![amax; outputs], false));
    }
    let with_axis = |axis: usize| {
        let dims = weight.dims.iter().enumerate();
        dims.map(|(i, &n)| if i == axis { n } else { 1 })
            .collect::<Vec<_>>()
    };
    // A list without axes is that of a convolution, whose first axis holds the output channels.
    if amax.dims == with_axis(axis) || (axis == 0 && amax.dims == [outputs]) {
        return Ok((amax.data.clone(), false));
    }
    if axis == 1 && amax.dims == with_axis(0) {
        return Ok((largest(weight, axis, outputs), true));
    }
    let expected = format!("{:?} or one value", with_axis(axis));
    Err(state.misfit(&range.key, &amax.dims, expected).into())
}

/// The largest magnitude of each channel on `axis`.
fn largest(weight: &Tensor<f32>, axis: usize, channels: usize) -> Vec<f32> {
    let inner: usize = weight.dims.iter().skip(axis + 1).product();
    let mut amax = vec![0.0_f32; channels];
    for (i, value) in weight.data.iter().enumerate() {
        if let Some(most) = amax.get_mut(i / inner.max(1) % channels.max(1)) {
            *most = most.max(value.abs());
        }
    }
    amax
}

/// Whether the range of a weight in the checkpoint lies on its axis 1, which only a deconvolution's does.
pub(super) fn is_on_axis_1(state: &State, key: &str) -> bool {
    QUANTIZERS.iter().any(|[_, weight]| {
        let dims = state.dims(&format!("{key}.{weight}._amax"));
        matches!(dims, Some([1, channels, 1, 1]) if *channels > 1)
    })
}

impl State {
    /// Whether any key is that of a quantiser.
    fn has_quantizers(&self) -> bool {
        self.keys().any(is_of_quantizer)
    }

    /// Counts all tensors of quantisers as known, and returns their number.
    pub(super) fn leave_quantizers(&mut self) -> usize {
        self.leave_if(is_of_quantizer)
    }
}

fn is_of_quantizer(key: &str) -> bool {
    let names = QUANTIZERS.as_flattened();
    key.split('.').any(|part| names.contains(&part))
}
