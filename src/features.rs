//! Pillar features: the PFN (pillar feature network) over each pillar's points.
//!
//! Per point the input columns are: the cloud's own columns, xyz − mean of the pillar's kept points,
//! offset from the pillar's centre in 2 or 3 axes (metres); rows past the pillar's count are zero.
//! Each layer is Linear → ReLU → max over **all** `max_points_per_pillar` rows, padding included;
//! every layer but the last appends its max to each row. BatchNorm is folded into the Linear.

/// One layer of the PFN, BatchNorm folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct PfnLayer {
    /// Input columns.
    pub in_features: usize,
    /// Outputs of the Linear itself; a layer before the last passes twice as many on (its rows and
    /// their max).
    pub out_features: usize,
    /// Weights, row-major `[out_features][in_features]`.
    pub weight: Vec<f32>,
    /// Bias, `[out_features]`.
    pub bias: Vec<f32>,
}

/// The PFN's trained weights, first layer first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pfn {
    /// The layers.
    pub layers: Vec<PfnLayer>,
}
