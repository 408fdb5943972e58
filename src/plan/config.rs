//! The options of a quantisation, which a plan records: the keys of `quantize.toml` and their defaults.

use serde::{Deserialize, Serialize};

/// All options; see the reference in the book.
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
    /// How to round the weights.
    pub weights: WeightsConfig,
    /// Which frames to calibrate and measure on.
    pub frames: FramesConfig,
    /// Training after the quantisation; `None` trains nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qat: Option<QatConfig>,
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
    /// The scales of a network that is quantised already.
    Given,
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

/// How to determine the ranges of activations; see `build::calibrate`.
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
    /// Whether values that are 0 are left out.
    pub skip_zeros: bool,
}

impl Default for CalibrationConfig {
    fn default() -> Self {
        Self {
            method: CalibrationMethod::Percentile,
            percentile: 99.999,
            bins: 2048,
            cells: Cells::Occupied,
            skip_zeros: false,
        }
    }
}

/// How to pick the amax of a histogram; `build::calibrate::AmaxMethod` adds the percentile.
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

/// Cross-layer equalisation; see `build::equalize`.
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

/// Which layers to quantise; see `build::quantize`.
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

/// How to round weights to codes; see `build::rounding`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsConfig {
    /// Bits of the codes, 8 or 4, of layers that no glob below names.
    pub bits: u8,
    /// Globs of layers with 4 bits.
    pub four_bits: Vec<String>,
    /// Globs of layers with 8 bits; they win over those with 4.
    pub eight_bits: Vec<String>,
    /// Which weights of deconvolutions share a scale.
    pub deconvolution_scales: DeconvolutionScales,
    /// How to choose the codes.
    pub rounding: Rounding,
    /// Whether to search the ranges of weights of 4 bits; otherwise a range is the greatest absolute weight.
    pub search: bool,
}

impl Default for WeightsConfig {
    fn default() -> Self {
        Self {
            bits: 8,
            four_bits: Vec::new(),
            eight_bits: Vec::new(),
            deconvolution_scales: DeconvolutionScales::Channel,
            rounding: Rounding::Nearest,
            search: true,
        }
    }
}

/// Which weights of a deconvolution share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeconvolutionScales {
    /// Those of an output channel.
    Channel,
    /// All, as in networks for engines whose INT8 deconvolutions have one scale.
    Tensor,
}

/// How to choose the codes of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// The nearest code of each weight.
    Nearest,
    /// One code after the other; later ones make up for the errors of earlier ones (GPTQ, arXiv 2210.17323).
    Gptq,
    /// The code below or above each weight, by gradient descent on the error of the layer's output (AdaRound, arXiv
    /// 2004.10568).
    Adaround,
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

/// Quantisation-aware training; see `build::train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QatConfig {
    /// What the outputs are compared with.
    pub loss: QatLoss,
    /// Weight of the features' loss beside that of the outputs; 0 leaves it out.
    pub feature_weight: f64,
    /// Number of steps.
    pub steps: usize,
    /// Frames of a step.
    pub batch: usize,
    /// Greatest learning rate.
    pub rate: f64,
    /// How the rate changes over the steps.
    pub curve: Curve,
    /// Adam's β₂.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Greatest norm of the gradients.
    pub clip: f64,
    /// Share of the weights' moving average that a step keeps, 0 to below 1. The average is what is measured and written.
    pub ema: f64,
    /// Rate of the activations' scales, relative to that of the weights; 0 leaves them as they were calibrated.
    pub scale_rate: f64,
    /// How the scales of weights follow the weights.
    pub weight_scales: WeightScales,
    /// Whether to train the pillar feature network, too, in float.
    pub train_pfn: bool,
    /// Globs of layer names to train; empty trains all.
    pub train_layers: Vec<String>,
    /// Globs of layer names to leave as they are.
    pub freeze: Vec<String>,
    /// Steps between two measurements on the held-out frames.
    pub check: usize,
    /// Measurements without a better one after which the training stops; 0 never stops it.
    pub patience: usize,
    /// What is measured.
    pub select: QatFigure,
    /// Seed of the order of frames.
    pub seed: u64,
}

impl Default for QatConfig {
    fn default() -> Self {
        Self {
            loss: QatLoss::Distil,
            feature_weight: 0.0,
            steps: 500,
            batch: 4,
            rate: 1e-4,
            curve: Curve::Cosine,
            beta2: 0.99,
            weight_decay: 0.0,
            clip: 35.0,
            ema: 0.98,
            scale_rate: 0.1,
            weight_scales: WeightScales::Max,
            train_pfn: false,
            train_layers: Vec::new(),
            freeze: Vec::new(),
            check: 100,
            patience: 0,
            select: QatFigure::Sqnr,
            seed: 0,
        }
    }
}

/// What the outputs are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QatLoss {
    /// The float network's outputs; needs no labels.
    Distil,
    /// Labelled boxes.
    Labels,
    /// The sum of both.
    Both,
}

/// What decides between the networks of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QatFigure {
    /// The signal-to-noise ratio against the float network, in dB.
    Sqnr,
    /// The mean average precision (nuScenes) on labelled frames.
    Map,
}

/// How the scales of quantised weights follow the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightScales {
    /// The greatest absolute weight of each output channel, at every step.
    Max,
    /// Those of the calibration; weights beyond saturate.
    Fixed,
}

/// How the rate and the momentum change over the steps of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// The rate rises over the first twentieth of the steps, then falls to 0 as half a cosine.
    Cosine,
    /// The one-cycle policy of det3d, as NVIDIA's CUDA-CenterPoint trains: the rate rises from a tenth over 40 % of the
    /// steps and falls to a hundred-thousandth, the momentum falls from 0.95 to 0.85 and rises again.
    OneCycle,
    /// The same rate at every step.
    Constant,
}
