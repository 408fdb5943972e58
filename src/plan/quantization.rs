//! The manifest's record of how an INT8 network was quantised.

use serde::{Deserialize, Serialize, Serializer};

use super::config::{
    BiasCorrection, CalibrationConfig, Config, EqualizeConfig, FramesConfig, PlacementConfig,
    QatConfig, Recipe, WeightsConfig,
};

/// How an INT8 network was quantised, and its accuracy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// All options; with the recipe `best`, those of the chosen candidate.
    #[serde(serialize_with = "without_default_weights")]
    pub config: Config,
    /// The data that determined the ranges.
    pub calibration: Calibrated,
    /// Signal-to-noise ratio of the outputs on the held-out frames; `None` if none were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqnr: Option<Sqnr>,
    /// The candidates of the recipe `best`; empty for other recipes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// The training after the calibration, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Layers that compute in INT8.
    pub int8: Vec<String>,
    /// Layers that compute in float.
    pub float: Vec<String>,
    /// All quantised tensors with their ranges.
    pub quantizers: Vec<Quantizer>,
}

/// Leaves out how weights are rounded where that is the default, so that plans keep the bytes that they had without the option.
fn without_default_weights<S: Serializer>(
    config: &Config,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename = "Config")]
    struct Brief<'a> {
        recipe: &'a Recipe,
        bias_correction: &'a BiasCorrection,
        calibration: &'a CalibrationConfig,
        equalize: &'a EqualizeConfig,
        placement: &'a PlacementConfig,
        frames: &'a FramesConfig,
        #[serde(skip_serializing_if = "Option::is_none")]
        qat: &'a Option<QatConfig>,
    }
    let Config {
        recipe,
        bias_correction,
        calibration,
        equalize,
        placement,
        weights,
        frames,
        qat,
    } = config;
    if *weights != WeightsConfig::default() {
        return config.serialize(serializer);
    }
    let brief = Brief {
        recipe,
        bias_correction,
        calibration,
        equalize,
        placement,
        frames,
        qat,
    };
    brief.serialize(serializer)
}

/// A quantisation-aware training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Number of frames that it trained on.
    pub frames: usize,
    /// Steps done.
    pub steps: usize,
    /// Layers that it trained.
    pub layers: Vec<String>,
    /// What was measured, on the held-out frames: `SQNR` in dB, or `mAP`.
    pub figure: String,
    /// The figure before the training.
    pub before: f64,
    /// The best figure during the training, and its step.
    pub best: f64,
    /// Step of the best figure.
    pub best_step: usize,
    /// Whether the plan has the trained weights. It keeps those before the training if they are as good.
    pub kept: bool,
}

/// The data that determined ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// Number of frames.
    pub frames: usize,
    /// SHA-256 of the network, frames and options, as in the calibration file. The network is the equalised one, if
    /// equalisation was applied.
    pub key: CalibrationKey,
}

/// A configuration that was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The options that distinguish candidates; see [`Config::label`].
    pub name: String,
    /// Whether the plan uses it.
    pub chosen: bool,
    /// Its accuracy.
    pub sqnr: Sqnr,
}

/// SHA-256 hashes of a calibration's inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationKey {
    /// The network, the PFN, and the model's points, grid and pillars. Thresholds are excluded, because they
    /// do not affect calibration.
    pub model: String,
    /// Names and contents of the frames, in order, without their folders.
    pub frames: String,
    /// The options that affect the result.
    pub options: String,
}

/// A Q/DQ pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantizer {
    /// The tensor's ONNX name.
    pub tensor: String,
    /// The layer of a weight; `None` for activations.
    pub layer: Option<String>,
    /// Activation or weight.
    pub kind: QuantizerKind,
    /// Bits of its codes: 8, or 4 for weights.
    #[serde(default = "eight_bits", skip_serializing_if = "is_eight_bits")]
    pub bits: u8,
    /// The channel axis if `amax` is per channel; `None` if it is per tensor.
    pub axis: Option<usize>,
    /// Largest magnitude that codes represent: one value, or one per channel.
    pub amax: Vec<f32>,
    /// The tensor's own calibrated amax, if it shares the scale of a tensor with a larger one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_amax: Option<f32>,
    /// Share of the calibration's values beyond `amax`, 0 to 1. The owner of the calibration sets it, see
    /// `build::calibrate::Calibration::saturated`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturated: Option<f64>,
    /// Names of the layers that read the tensor through the pair.
    pub readers: Vec<String>,
}

fn eight_bits() -> u8 {
    8
}

/// Whether a number of bits is the default, which is not written.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_eight_bits(bits: &u8) -> bool {
    *bits == 8
}

/// The kind of tensor that a pair quantises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantizerKind {
    /// A value that depends on the frame.
    Activation,
    /// A constant.
    Weight,
}

/// Signal-to-noise ratios of a network's outputs against the float network's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sqnr {
    /// The figure to compare networks by, in dB.
    pub figure: f64,
    /// Number of frames measured.
    pub frames: usize,
    /// Number of object cells in those frames.
    pub object_cells: u64,
    /// Each output, in network order.
    pub outputs: Vec<OutputSqnr>,
}

/// The SQNR of one output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSqnr {
    /// Its name.
    pub name: String,
    /// Over all cells, in dB.
    pub all: f64,
    /// Over object cells, in dB.
    pub objects: f64,
}
