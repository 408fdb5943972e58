//! Pillar features on the device: [`crate::cpu::features`] by the kernels of `kernels/features.cu`, with the same
//! bytes.
//!
//! Here the weights get the order in which the kernels read them, and a block its shape: as many warps as
//! have room in shared memory beside the weights, each with buffers for the rows of one pillar.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::{Buffer, CudaError, Device, Input, Launch, Pillars};
use crate::model::Model;
use crate::model::{Pfn, PfnLayer};
use crate::points::MAX_COLUMNS;

/// Layers of a PFN at most; `MAX_LAYERS` in the kernels.
const MAX_LAYERS: usize = 3;
/// Threads of a warp.
const WARP: usize = 32;
/// Warps of a block at most; `MAX_THREADS / WARP` in the kernels.
const MAX_WARPS: usize = 8;
/// Fewer warps are too few to hide each other's waiting: smaller chunks are better.
const ENOUGH_WARPS: usize = 6;
/// Smaller chunks are worse than few warps: most pillars would be computed in parts.
const MIN_CHUNK: usize = 8;
/// Shared memory that every block may have, in f32.
const SHARED_FLOATS: usize = 48 * 1024 / size_of::<f32>();
/// Columns of a point that `features_pfn` takes.
const COMMON_COLUMNS: usize = 8;
/// Pillars of a warp in a full frame: several, since the weights are read once per block.
const PILLARS_PER_WARP: usize = 8;

/// The mirror of `Layer` in `kernels/features.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Layer {
    inputs: u32,
    maxes: u32,
    width: u32,
    weights: u32,
}

/// The mirror of `FeaturesParams` in `kernels/features.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Params {
    frame: u64,
    pillars: u64,
    counts: u64,
    cells: u64,
    slots: u64,
    weights: u64,
    out: u64,
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
    layer: [Layer; MAX_LAYERS],
    reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 184);

/// The stage's weights, and the features of the last frame, on the device. Allocated once.
#[derive(Debug)]
pub struct Features {
    weights: Buffer<f32>,
    /// `[max_pillars][channels]`.
    values: Buffer<f32>,
    channels: usize,
    launch: Launch,
    /// All but the addresses of the frame and its pillars.
    params: Params,
}

impl Features {
    /// Copies the weights to the device and allocates the features.
    ///
    /// # Errors
    /// [`CudaError::Pfn`] when `pfn` is not the one that `model` describes, [`CudaError::Kernel`] for a
    /// model that is beyond what a checked one can be, [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(model: &Model, pfn: &Pfn, device: &Arc<dyn Device>) -> Result<Self, CudaError> {
        pfn.check(model)?;
        let (layers, weights) = pack(pfn);
        let block = Block::new(model, &layers, weights.len())?;
        let channels = model.bev_channels();
        let weights = Buffer::new(device, "the PFN's weights", &weights)?;
        let values = Buffer::zeroed(device, "pillar features", model.grid.max_pillars * channels)?;
        let mut layer = [Layer::zeroed(); MAX_LAYERS];
        layer[..layers.len()].copy_from_slice(&layers);
        Ok(Self {
            params: Params {
                weights: weights.address(),
                out: values.address(),
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
            launch: block.launch(model.grid.max_pillars),
            weights,
            values,
            channels,
        })
    }

    /// Address of the features, `[max_pillars][channels]` f32; those past the frame's number of pillars are
    /// not of this frame.
    pub fn values(&self) -> u64 {
        self.values.address()
    }

    /// What [`Features::values`] is the address of.
    pub(super) fn buffer(&self) -> &Buffer<f32> {
        &self.values
    }

    /// Features of a pillar: channels C of the BEV map.
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

/// Computes the features of every pillar. `input`, `pillars` and `out` were made for one model.
///
/// # Errors
/// [`CudaError::Kernel`].
pub fn features(input: &Input, pillars: &Pillars, out: &mut Features) -> Result<(), CudaError> {
    let params = Params {
        frame: input.address(),
        pillars: pillars.count(),
        counts: pillars.counts(),
        cells: pillars.cells(),
        slots: pillars.slots(),
        ..out.params
    };
    let device = out.weights.device();
    device.launch(&out.launch, bytemuck::bytes_of(&params))
}

/// The weights in the order in which the kernels read them, and where each layer's are.
fn pack(pfn: &Pfn) -> (Vec<Layer>, Vec<f32>) {
    let mut weights = Vec::new();
    let mut layers: Vec<Layer> = Vec::new();
    for layer in &pfn.layers {
        let first = layers.is_empty();
        let own = layer.in_features / if first { 1 } else { 2 };
        let packed = Layer {
            inputs: own.next_multiple_of(4) as u32,
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

/// Lanes share out the channels: a row to a quarter, half or whole warp, or two channels to a lane.
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
    /// Rows of a warp's two buffers, and their f32.
    chunk: usize,
    stride: [usize; 2],
    /// f32 of the max of all layers.
    maxes: usize,
}

impl Block {
    fn new(model: &Model, layers: &[Layer], weights: usize) -> Result<Self, CudaError> {
        let columns = model.points.columns.len();
        let width = |layer: usize| layers.get(layer).map_or(0, |layer| layer.width as usize);
        let inputs = layers.first().map_or(0, |layer| layer.inputs as usize);
        // The rows that layers read in turn; the last layer writes none.
        let stride = match layers.len() {
            1 => [inputs, 0],
            2 => [inputs, width(0)],
            _ => [inputs.max(width(1)), width(0)],
        };
        let common = Self {
            kernel: "features_pfn",
            weights,
            warps: 0,
            chunk: 0,
            stride: stride.map(odd_quads),
            maxes: (0..layers.len()).map(width).sum(),
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
                "{columns} point columns and {} layers, of which the widest has {} channels, are more than \
                 it can hold; use narrower `pfn.layers`",
                layers.len(),
                (0..layers.len()).map(width).max().unwrap_or(0),
            ),
        })
    }

    /// With the largest chunk that leaves room for enough warps, if there is room for two at all.
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

/// At least `floats`, as an odd number of quads: rows so far apart lie in different banks.
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
            let large = model.bev_channels() > 64;
            assert_eq!(block.kernel == "features_pfn_large", large);
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
