//! Pillar features on the device: [`crate::cpu::features`] by the kernels of `kernels/features.cu`, with the same bytes.
//!
//! This file arranges the weights in the order in which the kernels read them, and shapes a block: as many warps
//! as fit into shared memory beside the weights, each with buffers for the rows of one pillar.

use std::sync::Arc;

use bytemuck::{NoUninit, Pod, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::input::{FrameHeader, Input, Sizes};
use super::pillars::Pillars;
use crate::model::Model;
use crate::model::{Pfn, PfnLayer};
use crate::points::MAX_COLUMNS;

/// Most layers of a PFN; `MAX_LAYERS` in the kernels.
const MAX_LAYERS: usize = 3;
/// Threads of a warp.
const WARP: usize = 32;
/// Most warps of a block; `MAX_THREADS / WARP` in the kernels.
const MAX_WARPS: usize = 8;
/// Fewer warps cannot hide each other's latency: smaller chunks are better.
const ENOUGH_WARPS: usize = 6;
/// Smaller chunks are worse than few warps: they would split most pillars.
const MIN_CHUNK: usize = 8;
/// Shared memory of a block without asking for more, in f32.
const SHARED_FLOATS: usize = 48 * 1024 / size_of::<f32>();
/// Most columns of a point in `features_pfn`.
const COMMON_COLUMNS: usize = 8;
/// Inputs of the first layer of `features_pfn_own`, as in the kernels.
const OWN_COLUMNS: usize = 12;
/// Pillars of a warp in a full frame: several, because a block reads the weights once.
const PILLARS_PER_WARP: usize = 8;

/// The mirror of `FeaturesLayer` in `kernels/features.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LayerParams {
    inputs: u32,
    maxes: u32,
    width: u32,
    weights: u32,
}

/// The mirror of `FeaturesParams` in `kernels/features.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    frame: DevicePtr<FrameHeader>,
    pillars: DevicePtr<u32>,
    counts: DevicePtr<u32>,
    cells: DevicePtr<u32>,
    slots: DevicePtr<u32>,
    weights: DevicePtr<f32>,
    out: DevicePtr<f32>,
    max_pillars: u32,
    max_points: u32,
    nx: u32,
    mean_offset: u32,
    center_axes: u32,
    channels: u32,
    weight_count: u32,
    chunk: u32,
    stride: [u32; 2],
    warp_floats: u32,
    max_count: u32,
    layers: u32,
    voxel: [f32; 3],
    min: [f32; 3],
    layer: [LayerParams; MAX_LAYERS],
    reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 184);

// SAFETY: the addresses are those of the buffers of a `Features`, which `Features::new` allocates for the numbers
// beside them, and of an `Input` and `Pillars` that `features` borrows and that were made for the same model.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] =
        &["features_pfn", "features_pfn_own", "features_pfn_large"];
}

/// The stage's weights, and the features of the last frame, on the device. Allocated once.
#[derive(Debug)]
pub struct Features {
    weights: Buffer<f32>,
    /// `[max_pillars][channels]`.
    values: Buffer<f32>,
    channels: usize,
    shape: Launch,
    /// Everything but the addresses of the frame and its pillars.
    params: Params,
    sizes: Sizes,
}

impl Features {
    /// Copies the weights to the device and allocates the features.
    ///
    /// # Errors
    /// [`CudaError::Pfn`] if `pfn` does not match `model`; [`CudaError::Kernel`] for a model so large that the
    /// model check refuses it; [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(model: &Model, pfn: &Pfn, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        pfn.check(model)?;
        let (layers, weights) = pack(pfn);
        let block = Block::new(model, &layers, weights.len())?;
        let channels = model.bev_channels();
        let weights = Buffer::new(device, "the PFN's weights", &weights)?;
        let values = Buffer::zeroed(device, "pillar features", model.grid.max_pillars * channels)?;
        let mut layer = [LayerParams::zeroed(); MAX_LAYERS];
        layer[..layers.len()].copy_from_slice(&layers);
        Ok(Self {
            params: Params {
                weights: weights.ptr(),
                out: values.ptr(),
                max_pillars: model.grid.max_pillars as u32,
                max_points: model.grid.max_points_per_pillar as u32,
                nx: model.grid.nx as u32,
                mean_offset: model.pfn.mean_offset.into(),
                center_axes: model.pfn.center_axes as u32,
                channels: channels as u32,
                weight_count: weights.len() as u32,
                chunk: block.chunk as u32,
                stride: block.stride.map(|floats| floats as u32),
                warp_floats: block.warp_floats() as u32,
                max_count: block.maxes as u32,
                layers: layers.len() as u32,
                voxel: model.grid.voxel,
                min: model.grid.min,
                layer,
                ..Params::zeroed()
            },
            shape: block.launch(model.grid.max_pillars),
            weights,
            values,
            channels,
            sizes: Sizes::new(model),
        })
    }

    /// The features, `[max_pillars][channels]`; those past the frame's number of pillars are stale.
    pub fn values(&self) -> &Buffer<f32> {
        &self.values
    }

    /// Number of features of a pillar: channels C of the BEV map.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Reads the features of the first `pillars` pillars back, and waits for them: for tests.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self, pillars: usize) -> Result<Vec<f32>, CudaError> {
        self.values.download(pillars * self.channels)
    }
}

/// Computes the features of every pillar.
///
/// # Errors
/// [`CudaError::Kernel`], also if `input`, `pillars` and `out` were made for different models.
pub fn features(input: &Input, pillars: &Pillars, out: &mut Features) -> Result<(), CudaError> {
    out.sizes.check(input.sizes(), out.shape.kernel)?;
    out.sizes.check(pillars.sizes(), out.shape.kernel)?;
    let params = Params {
        frame: input.header(),
        pillars: pillars.count(),
        counts: pillars.counts(),
        cells: pillars.cells(),
        slots: pillars.slots(),
        ..out.params
    };
    launch(&**out.weights.device(), &out.shape, &params)
}

/// The weights in the order in which the kernels read them, and the position of each layer's.
fn pack(pfn: &Pfn) -> (Vec<LayerParams>, Vec<f32>) {
    let mut weights = Vec::new();
    let mut layers: Vec<LayerParams> = Vec::new();
    for layer in &pfn.layers {
        let first = layers.is_empty();
        let own = layer.in_features / if first { 1 } else { 2 };
        // Zeros change no sum, and `features_pfn_own` needs so many columns.
        let least = if first && own <= OWN_COLUMNS {
            OWN_COLUMNS
        } else {
            own
        };
        let packed = LayerParams {
            inputs: least.next_multiple_of(4) as u32,
            maxes: if first {
                0
            } else {
                own.next_multiple_of(4) as u32
            },
            width: padded_width(layer.out_features) as u32,
            weights: weights.len() as u32,
        };
        push_padded(&mut weights, &layer.bias, packed.width);
        push_columns(
            &mut weights,
            layer,
            own..layer.in_features,
            packed.maxes,
            packed.width,
        );
        push_columns(&mut weights, layer, 0..own, packed.inputs, packed.width);
        layers.push(packed);
    }
    (layers, weights)
}

/// A row's channels are divided among the lanes of a quarter, half or whole warp, or two to a lane.
fn padded_width(width: usize) -> usize {
    match width {
        0..=8 => 8,
        9..=16 => 16,
        17..=32 => 32,
        _ => width.next_multiple_of(2 * WARP),
    }
}

/// Appends the weights of these input columns, `[padded][width]`, zero where the layer has none.
fn push_columns(
    weights: &mut Vec<f32>,
    layer: &PfnLayer,
    columns: std::ops::Range<usize>,
    padded: u32,
    width: u32,
) {
    let missing = padded as usize - columns.len();
    for column in columns {
        let outputs: Vec<f32> = (layer.weight.iter().skip(column))
            .step_by(layer.in_features)
            .copied()
            .collect();
        push_padded(weights, &outputs, width);
    }
    weights.resize(weights.len() + missing * width as usize, 0.0);
}

fn push_padded(weights: &mut Vec<f32>, values: &[f32], width: u32) {
    let end = weights.len() + width as usize;
    weights.extend(values);
    weights.resize(end, 0.0);
}

/// Shape of a block.
#[derive(Clone, Copy, Debug)]
struct Block {
    kernel: &'static str,
    /// f32 of the weights in shared memory.
    weights: usize,
    warps: usize,
    /// Rows of a warp's two buffers, and f32 of a row in each.
    chunk: usize,
    stride: [usize; 2],
    /// f32 of the maxima of all layers.
    maxes: usize,
}

impl Block {
    fn new(model: &Model, layers: &[LayerParams], weights: usize) -> Result<Self, CudaError> {
        let columns = model.points.columns.len();
        let width = |layer: usize| layers.get(layer).map_or(0, |layer| layer.width as usize);
        let inputs = layers.first().map_or(0, |layer| layer.inputs as usize);
        // The layers read rows of the two buffers in turn; the last layer writes none.
        let stride = match layers.len() {
            1 => [inputs, 0],
            2 => [inputs, width(0)],
            _ => [inputs.max(width(1)), width(0)],
        };
        let widths: Vec<usize> = (0..layers.len()).map(width).collect();
        let own = inputs == OWN_COLUMNS && matches!(widths[..], [32 | 64] | [16, 32]);
        let common = Self {
            kernel: if own {
                "features_pfn_own"
            } else {
                "features_pfn"
            },
            weights,
            warps: 0,
            chunk: 0,
            stride: stride.map(odd_quads),
            maxes: widths.iter().sum(),
        };
        let large = Self {
            kernel: "features_pfn_large",
            weights: 0,
            ..common
        };
        let max_points = model.grid.max_points_per_pillar;
        let fits = columns <= MAX_COLUMNS && layers.len() <= MAX_LAYERS;
        let of_common = (columns <= COMMON_COLUMNS).then(|| common.filled(max_points));
        let block = of_common.flatten().or_else(|| large.filled(max_points));
        block.filter(|_| fits).ok_or_else(|| CudaError::Kernel {
            kernel: large.kernel.into(),
            reason: format!(
                "{columns} point columns and {} layers of up to {} channels exceed what it can hold; use \
                 narrower `pfn.layers`",
                layers.len(),
                widths.iter().max().unwrap_or(&0),
            ),
        })
    }

    /// With the largest chunk that leaves room for enough warps; `None` if there is no room for two.
    fn filled(self, max_points: usize) -> Option<Self> {
        let mut chunk = max_points.min(WARP);
        loop {
            let block = Self { chunk, ..self };
            let room = SHARED_FLOATS.saturating_sub(self.weights);
            let warps = (room / block.warp_floats()).min(MAX_WARPS);
            if warps >= ENOUGH_WARPS || chunk <= MIN_CHUNK {
                return (warps >= 2).then_some(Self { warps, ..block });
            }
            chunk = (chunk / 2).max(MIN_CHUNK);
        }
    }

    fn warp_floats(&self) -> usize {
        self.chunk * (self.stride[0] + self.stride[1]) + self.maxes
    }

    fn launch(&self, max_pillars: usize) -> Launch {
        let blocks = max_pillars.div_ceil(self.warps * PILLARS_PER_WARP);
        Launch {
            kernel: self.kernel,
            grid: [blocks as u32, 1, 1],
            block: (self.warps * WARP) as u32,
            shared: ((self.weights + self.warps * self.warp_floats()) * size_of::<f32>()) as u32,
        }
    }
}

/// Rounds up to an odd number of quads: rows that far apart are in different banks.
fn odd_quads(floats: usize) -> usize {
    match floats {
        0 => 0,
        _ => floats.next_multiple_of(4) | 4,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn common_models_keep_their_weights_in_shared_memory() {
        let text = include_str!("../../engines/demo/model.toml");
        let mut model = Model::parse(text, Path::new("model.toml")).unwrap();
        for (layers, max_points, warps, chunk) in [
            (vec![64], 20, 8, 20),
            (vec![32, 32], 20, 8, 20),
            (vec![64, 64], 20, 7, 20),
            (vec![64, 64], 32, 8, 16),
            (vec![64, 64, 64], 32, 8, 8),
            (vec![256, 256, 256], 1024, 4, 8),
        ] {
            model.pfn.layers = layers;
            model.grid.max_points_per_pillar = max_points;
            let mut inputs = model.pfn_in_features();
            let layer = |outputs: usize| {
                let in_features = std::mem::replace(&mut inputs, 2 * outputs);
                PfnLayer {
                    in_features,
                    out_features: outputs,
                    weight: vec![1.0; in_features * outputs],
                    bias: vec![1.0; outputs],
                }
            };
            let layers = model.pfn_linear_widths().map(layer).collect();
            let (layers, weights) = pack(&Pfn { layers });
            let block = Block::new(&model, &layers, weights.len()).unwrap();
            let kernel = match model.pfn.layers[..] {
                [64] | [32, 32] => "features_pfn_own",
                [256, ..] => "features_pfn_large",
                _ => "features_pfn",
            };
            assert_eq!(block.kernel, kernel);
            assert_eq!(
                (block.warps, block.chunk),
                (warps, chunk),
                "{:?}",
                model.pfn
            );
            assert!(block.launch(1).shared <= 48 * 1024);
        }
    }
}
