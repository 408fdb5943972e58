//! Which tiles of its maps the engine computes: the kernels of `kernels/tiles.cu`.
//!
//! A map holds the background, what the network makes of an empty input, wherever it sees nothing else. Only tiles that see
//! something, or held something else after the last frame, are computed.

use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::map::{DeviceMap, MapParams};
use crate::map::Element;

/// Rows and columns of a tile; `TILE_H` and `TILE_W` in the kernels.
pub(crate) const TILE: [usize; 2] = [8, 16];
/// Threads of a block; `BLOCK` in the kernels.
const BLOCK: u32 = 256;

/// Tiles of a map, by number: row by row.
#[derive(Debug)]
pub(crate) struct TileList {
    /// Rows and columns of tiles.
    shape: [usize; 2],
    tiles: Buffer<u32>,
    count: Buffer<u32>,
}

impl TileList {
    /// All tiles of a map with these rows and columns of tiles.
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub(crate) fn all(device: &Arc<dyn Device>, shape: [usize; 2]) -> Result<Self, CudaError> {
        let count = (shape[0] * shape[1]) as u32;
        Ok(Self {
            shape,
            tiles: Buffer::new(device, "tiles", &(0..count).collect::<Vec<_>>())?,
            count: Buffer::new(device, "number of tiles", &[count])?,
        })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn tiles(&self) -> DevicePtr<u32> {
        self.tiles.ptr()
    }

    pub(super) fn count(&self) -> DevicePtr<u32> {
        self.count.ptr()
    }

    /// The number of tiles that the last frame computed, of all: waits for it.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub(crate) fn computed(&self) -> Result<[usize; 2], CudaError> {
        let count = self.count.download(1)?;
        let count = count.first().map_or(0, |&count| count as usize);
        Ok([count, self.tiles.len()])
    }
}

/// The mirror of `TileLayer` in `kernels/tiles.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct LayerParams {
    rows: DevicePtr<[u32; 2]>,
    columns: DevicePtr<[u32; 2]>,
    differs: DevicePtr<u8>,
    tiles: DevicePtr<u32>,
    count: DevicePtr<u32>,
    height: u32,
    width: u32,
}

/// The mirror of `TilesParams` in `kernels/tiles.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    input: MapParams,
    sums: DevicePtr<u32>,
    layers: DevicePtr<LayerParams>,
}

const _: () = assert!(size_of::<LayerParams>() == 48);
const _: () = assert!(size_of::<Params>() == 64);

// SAFETY: the addresses are those of the buffers of a `Tiles`, which `Tiles::new` allocates for the numbers beside them, of
// the lists and of the map that it keeps. It checks that boxes lie in the map.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] = &["tiles_rows", "tiles_columns", "tiles_list"];
}

/// The part of the input that each row or column of tiles sees, as first and last index plus 1.
pub(crate) type Sides = Vec<[u32; 2]>;

/// Finds the tiles to compute in each frame. Allocated once.
#[derive(Debug)]
pub(crate) struct Tiles {
    params: Params,
    /// Rows and columns of the input, and number of layers.
    size: [u32; 3],
    kept: Kept,
}

/// The memory that the kernels use.
#[derive(Debug)]
struct Kept {
    _input: DeviceMap,
    sums: Buffer<u32>,
    _layers: Buffer<LayerParams>,
    _sides: Vec<Buffer<[u32; 2]>>,
    _differs: Vec<Buffer<u8>>,
    _lists: Vec<Arc<TileList>>,
}

impl Tiles {
    /// For the tiles of `layers`, which see these rows and columns of `input`. All of them must hold the background.
    ///
    /// # Errors
    /// [`CudaError::Map`] if a box exceeds the input, [`CudaError::Memory`], [`CudaError::Copy`].
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        input: &DeviceMap,
        layers: &[(Arc<TileList>, [Sides; 2])],
    ) -> Result<Self, CudaError> {
        let layout = input.format().layout;
        let sums = Buffer::zeroed(
            device,
            "occupied pixels",
            (layout.height + 1) * (layout.width + 1),
        )?;
        let (mut params, mut sides, mut differs) = (Vec::new(), Vec::new(), Vec::new());
        for (list, layer_sides) in layers {
            let [height, width] = list.shape;
            let fits = |axis: usize, len: usize| {
                let of = &layer_sides[axis];
                of.len() == list.shape[axis]
                    && of
                        .iter()
                        .all(|[first, end]| first <= end && *end as usize <= len)
            };
            if !fits(0, layout.height) || !fits(1, layout.width) {
                return Err(CudaError::Map {
                    map: "the network's input".into(),
                    problem: "a tile sees pixels outside it".into(),
                });
            }
            let rows = Buffer::new(device, "rows that tiles see", &layer_sides[0])?;
            let columns = Buffer::new(device, "columns that tiles see", &layer_sides[1])?;
            let differ = Buffer::zeroed(device, "tiles that differ", height * width)?;
            params.push(LayerParams {
                rows: rows.ptr(),
                columns: columns.ptr(),
                differs: differ.ptr(),
                tiles: list.tiles(),
                count: list.count(),
                height: height as u32,
                width: width as u32,
            });
            sides.extend([rows, columns]);
            differs.push(differ);
        }
        if input.format().element == Element::F16 || layout.stride_c != 1 {
            return Err(CudaError::Map {
                map: "the network's input".into(),
                problem: "its pixels are no rows of f32 or codes".into(),
            });
        }
        let params = Buffer::new(device, "layers", &params)?;
        Ok(Self {
            params: Params {
                input: input.params(),
                sums: sums.ptr(),
                layers: params.ptr(),
            },
            size: [
                layout.height as u32,
                layout.width as u32,
                layers.len() as u32,
            ],
            kept: Kept {
                _input: input.clone(),
                sums,
                _layers: params,
                _sides: sides,
                _differs: differs,
                _lists: layers.iter().map(|(list, _)| list.clone()).collect(),
            },
        })
    }
}

/// Lists the tiles to compute for the input's pixels.
///
/// # Errors
/// [`CudaError::Kernel`].
pub(crate) fn tiles(tiles: &Tiles) -> Result<(), CudaError> {
    let [height, width, layers] = tiles.size;
    let blocks = [
        ("tiles_rows", height),
        ("tiles_columns", width.div_ceil(BLOCK)),
        ("tiles_list", layers),
    ];
    for (kernel, blocks) in blocks {
        let shape = Launch {
            kernel,
            grid: [blocks.max(1), 1, 1],
            block: BLOCK,
            shared: 0,
        };
        launch(&**tiles.kept.sums.device(), &shape, &tiles.params)?;
    }
    Ok(())
}
