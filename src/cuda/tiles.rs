//! Which tiles of its maps the engine computes: the kernels of `kernels/tiles.cu`.
//!
//! A map holds the background, what the network makes of an empty input, wherever it sees nothing else. Only tiles that see
//! something, or held something else after the last frame, are computed. Of lazy layers only those that a passing cell of a
//! heatmap needs. A tile's level is the number of sources of a concatenation that it need not multiply.

use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::map::{DeviceMap, MapParams};
use crate::map::Element;

/// Rows and columns of a tile; `TILE_H` and `TILE_W` in the kernels.
pub(crate) const TILE: [usize; 2] = [8, 16];
/// Bits of a tile's number in a list; `TILE_BITS` in the kernels.
const TILE_BITS: u32 = 28;
/// Threads of a block; `BLOCK` in the kernels.
const BLOCK: u32 = 256;
/// Threads of a block of `tiles_list`; `LIST_BLOCK` in the kernels.
const LIST_BLOCK: u32 = 1024;

/// Tiles of a map, by number: row by row.
#[derive(Debug)]
pub(crate) struct TileList {
    /// Rows and columns of tiles.
    shape: [usize; 2],
    /// Number of levels besides 0.
    levels: usize,
    tiles: Buffer<u32>,
    count: Buffer<u32>,
}

impl TileList {
    /// All tiles of a map with these rows and columns of tiles, which may have so many levels.
    ///
    /// # Errors
    /// [`CudaError::Map`] if there are too many, [`CudaError::Memory`], [`CudaError::Copy`].
    pub(crate) fn all(
        device: &Arc<dyn Device>,
        shape: [usize; 2],
        levels: usize,
    ) -> Result<Self, CudaError> {
        let count = (shape[0] * shape[1]) as u32;
        if count >> TILE_BITS != 0 {
            return Err(CudaError::Map {
                map: "tiles".into(),
                problem: format!("{shape:?} are too many"),
            });
        }
        Ok(Self {
            shape,
            levels,
            tiles: Buffer::new(device, "tiles", &(0..count).collect::<Vec<_>>())?,
            count: Buffer::new(device, "number of tiles", &[count])?,
        })
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    pub(super) fn levels(&self) -> usize {
        self.levels
    }

    pub(super) fn tiles(&self) -> DevicePtr<u32> {
        self.tiles.ptr()
    }

    pub(super) fn count(&self) -> DevicePtr<u32> {
        self.count.ptr()
    }

    /// Number of all tiles.
    pub(crate) fn len(&self) -> usize {
        self.tiles.len()
    }

    /// The number of tiles of each level that the last frame computed: waits for it.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub(crate) fn computed(&self) -> Result<Vec<usize>, CudaError> {
        let count = self.count.download(1)?;
        let count = count.first().map_or(0, |&count| count as usize);
        let mut computed = vec![0; self.levels + 1];
        for tile in self.tiles.download(count.min(self.len()))? {
            if let Some(level) = computed.get_mut((tile >> TILE_BITS) as usize) {
                *level += 1;
            }
        }
        Ok(computed)
    }
}

/// The mirror of `TileTable` in `kernels/tiles.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct TableParams {
    map: MapParams,
    sums: DevicePtr<u32>,
    least: DevicePtr<f32>,
}

/// The mirror of `TileBoxes` in `kernels/tiles.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct BoxParams {
    sums: DevicePtr<u32>,
    rows: DevicePtr<[u32; 2]>,
    columns: DevicePtr<[u32; 2]>,
    pitch: u32,
    reserved: u32,
}

/// The mirror of `TileLayer` in `kernels/tiles.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct LayerParams {
    seen: BoxParams,
    needed_by: DevicePtr<BoxParams>,
    source_boxes: DevicePtr<BoxParams>,
    differs: DevicePtr<u8>,
    tiles: DevicePtr<u32>,
    count: DevicePtr<u32>,
    height: u32,
    width: u32,
    needs: u32,
    sources: u32,
}

/// The mirror of `TilesParams` in `kernels/tiles.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    tables: DevicePtr<TableParams>,
    layers: DevicePtr<LayerParams>,
}

const _: () = assert!(size_of::<TableParams>() == 64);
const _: () = assert!(size_of::<BoxParams>() == 32);
const _: () = assert!(size_of::<LayerParams>() == 88);
const _: () = assert!(size_of::<Params>() == 16);

// SAFETY: the addresses are those of the buffers of a `Tiles`, which `Tiles::new` allocates for the numbers beside them, of
// the tables, lists and maps that it keeps. It checks that boxes lie in the tables' maps, and `Table::new` what it reads of
// a map.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] = &["tiles_rows", "tiles_columns", "tiles_list"];
}

/// Counts of a map's pixels that are not 0, or of a heatmap's cells that pass, as a summed-area table.
#[derive(Debug)]
pub(crate) struct Table {
    map: DeviceMap,
    sums: Buffer<u32>,
    /// The least logit of each channel that passes.
    least: Option<Buffer<f32>>,
}

impl Table {
    /// For the pixels of `map` that are not 0, or for the cells where one of its channels reaches its `least` logit.
    ///
    /// # Errors
    /// [`CudaError::Map`] if the kernels cannot read the map, [`CudaError::Memory`], [`CudaError::Copy`].
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        map: &DeviceMap,
        least: Option<&[f32]>,
    ) -> Result<Self, CudaError> {
        let format = map.format();
        let layout = format.layout;
        let fits = match least {
            Some(least) => format.element == Element::F32 && least.len() == layout.channels,
            None => layout.stride_c == 1 && format.vector == 1,
        };
        if !fits {
            return Err(CudaError::Map {
                map: "a map whose pixels are counted".into(),
                problem: format!("it is stored as {format:?}"),
            });
        }
        let sums = (layout.height + 1) * (layout.width + 1);
        let least = least.map(|least| Buffer::new(device, "least logits", least));
        Ok(Self {
            map: map.clone(),
            sums: Buffer::zeroed(device, "sums of pixels", sums)?,
            least: least.transpose()?,
        })
    }

    fn params(&self) -> TableParams {
        TableParams {
            map: self.map.params(),
            sums: self.sums.ptr(),
            least: self.least.as_ref().map_or(DevicePtr::NULL, Buffer::ptr),
        }
    }

    /// Rows and columns of the map.
    fn size(&self) -> [usize; 2] {
        let layout = self.map.format().layout;
        [layout.height, layout.width]
    }
}

/// The rows or columns of a table's map that each row or column of tiles has to do with, as first and last index plus 1.
pub(crate) type Sides = Vec<[u32; 2]>;

/// For each tile of a layer a box of a table's map.
#[derive(Debug)]
pub(crate) struct Boxes {
    pub(crate) table: Arc<Table>,
    pub(crate) sides: [Sides; 2],
}

/// A layer whose tiles are chosen.
#[derive(Debug)]
pub(crate) struct Layer {
    /// All its tiles.
    pub(crate) list: Arc<TileList>,
    /// What they see; `None`: they may see something in any frame.
    pub(crate) seen: Option<Boxes>,
    /// The cells that need them, by heatmap. Without any, all are needed.
    pub(crate) needed_by: Vec<Boxes>,
    /// What they see through each of the sources that the list's levels have.
    pub(crate) sources: Vec<Boxes>,
}

/// Finds the tiles to compute in each frame. Allocated once.
#[derive(Debug)]
pub(crate) struct Tiles {
    params: Params,
    /// Number of tables, most rows and columns of one, and number of layers.
    size: [u32; 4],
    tables: Buffer<TableParams>,
    _layers: Buffer<LayerParams>,
    _kept: (Vec<Arc<Table>>, Vec<Layer>, Kept),
}

/// The memory that layers point to.
#[derive(Debug, Default)]
struct Kept {
    boxes: Vec<Buffer<BoxParams>>,
    sides: Vec<Buffer<[u32; 2]>>,
    differs: Vec<Buffer<u8>>,
}

impl Kept {
    /// Copies the sides of boxes for tiles of this shape to the device.
    fn copy_sides(
        &mut self,
        device: &Arc<dyn Device>,
        boxes: &Boxes,
        shape: [usize; 2],
    ) -> Result<BoxParams, CudaError> {
        let size = boxes.table.size();
        let fits = |axis: usize| {
            let mut sides = boxes.sides[axis].iter();
            boxes.sides[axis].len() == shape[axis]
                && sides.all(|[first, end]| first <= end && *end as usize <= size[axis])
        };
        if !fits(0) || !fits(1) {
            return Err(CudaError::Map {
                map: "a map whose pixels are counted".into(),
                problem: "a tile's box lies outside it".into(),
            });
        }
        let rows = Buffer::new(device, "rows of tiles", &boxes.sides[0])?;
        let columns = Buffer::new(device, "columns of tiles", &boxes.sides[1])?;
        let params = BoxParams {
            sums: boxes.table.sums.ptr(),
            rows: rows.ptr(),
            columns: columns.ptr(),
            pitch: size[1] as u32 + 1,
            reserved: 0,
        };
        self.sides.extend([rows, columns]);
        Ok(params)
    }

    /// Copies a list of boxes to the device.
    fn copy_boxes(
        &mut self,
        device: &Arc<dyn Device>,
        boxes: &[Boxes],
        shape: [usize; 2],
    ) -> Result<DevicePtr<BoxParams>, CudaError> {
        if boxes.is_empty() {
            return Ok(DevicePtr::NULL);
        }
        let params = boxes.iter();
        let params = params.map(|boxes| self.copy_sides(device, boxes, shape));
        let params = params.collect::<Result<Vec<_>, _>>()?;
        let buffer = Buffer::new(device, "boxes of tiles", &params)?;
        let address = buffer.ptr();
        self.boxes.push(buffer);
        Ok(address)
    }
}

impl Tiles {
    /// For the tiles of `layers`, all of which must hold the background. Counts the pixels of `tables` first.
    ///
    /// # Errors
    /// [`CudaError::Map`] if a box exceeds its map or a layer has no box for one of its levels, [`CudaError::Memory`],
    /// [`CudaError::Copy`].
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        tables: Vec<Arc<Table>>,
        layers: Vec<Layer>,
    ) -> Result<Self, CudaError> {
        let mut kept = Kept::default();
        let mut params = Vec::with_capacity(layers.len());
        for layer in &layers {
            let shape = layer.list.shape;
            if layer.sources.len() > layer.list.levels {
                return Err(CudaError::Map {
                    map: "tiles".into(),
                    problem: "they would get more levels than their list has".into(),
                });
            }
            let differs = Buffer::zeroed(device, "tiles that differ", layer.list.len())?;
            params.push(LayerParams {
                seen: match &layer.seen {
                    Some(boxes) => kept.copy_sides(device, boxes, shape)?,
                    None => BoxParams::zeroed(),
                },
                needed_by: kept.copy_boxes(device, &layer.needed_by, shape)?,
                source_boxes: kept.copy_boxes(device, &layer.sources, shape)?,
                differs: differs.ptr(),
                tiles: layer.list.tiles(),
                count: layer.list.count(),
                height: shape[0] as u32,
                width: shape[1] as u32,
                needs: layer.needed_by.len() as u32,
                sources: layer.sources.len() as u32,
            });
            kept.differs.push(differs);
        }
        let most = |axis: usize| tables.iter().map(|table| table.size()[axis]).max();
        let size = [
            tables.len(),
            most(0).unwrap_or(0),
            most(1).unwrap_or(0),
            layers.len(),
        ];
        let table_params: Vec<TableParams> = tables.iter().map(|table| table.params()).collect();
        let table_params = Buffer::new(device, "tables", &table_params)?;
        let layer_params = Buffer::new(device, "layers", &params)?;
        Ok(Self {
            params: Params {
                tables: table_params.ptr(),
                layers: layer_params.ptr(),
            },
            size: size.map(|size| size as u32),
            tables: table_params,
            _layers: layer_params,
            _kept: (tables, layers, kept),
        })
    }
}

/// Counts the pixels of the maps, then lists the tiles to compute.
///
/// # Errors
/// [`CudaError::Kernel`].
pub(crate) fn tiles(tiles: &Tiles) -> Result<(), CudaError> {
    let [tables, height, width, layers] = tiles.size;
    let grids = [
        ("tiles_rows", [height, tables], BLOCK),
        ("tiles_columns", [width.div_ceil(BLOCK), tables], BLOCK),
        ("tiles_list", [layers, 1], LIST_BLOCK),
    ];
    for (kernel, [x, y], block) in grids {
        // Without a map or a layer there is nothing to do.
        if x == 0 || y == 0 {
            continue;
        }
        let shape = Launch {
            kernel,
            grid: [x, y, 1],
            block,
            shared: 0,
        };
        launch(&**tiles.tables.device(), &shape, &tiles.params)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::place::tests::device;
    use crate::map::{MapFormat, MapLayout};

    #[test]
    fn what_does_not_fit_is_refused() {
        let device = device();
        assert!(TileList::all(&device, [1 << 14, 1 << 14], 0).is_err());

        let buffer = Buffer::<f32>::zeroed(&device, "a map", 2 * 8 * 16).unwrap();
        let planes = MapFormat::f32(MapLayout::nchw(2, 8, 16));
        let planes = DeviceMap::new(&buffer, planes).unwrap();
        // Pixels of planes do not lie together, and a heatmap of two channels has two thresholds.
        assert!(Table::new(&device, &planes, None).is_err());
        assert!(Table::new(&device, &planes, Some(&[0.0])).is_err());
        let table = Arc::new(Table::new(&device, &planes, Some(&[0.0; 2])).unwrap());

        let layer = |rows: [u32; 2], levels: usize, sources: usize| {
            let boxes = || Boxes {
                table: table.clone(),
                sides: [vec![rows], vec![[0, 16]]],
            };
            Layer {
                list: Arc::new(TileList::all(&device, [1, 1], levels).unwrap()),
                seen: Some(boxes()),
                needed_by: vec![boxes()],
                sources: (0..sources).map(|_| boxes()).collect(),
            }
        };
        let tiles = |layer| Tiles::new(&device, vec![table.clone()], vec![layer]);
        assert!(tiles(layer([0, 9], 0, 0)).is_err());
        assert!(tiles(layer([5, 4], 0, 0)).is_err());
        assert!(tiles(layer([0, 8], 0, 1)).is_err());
        let sound = tiles(layer([0, 8], 1, 1)).unwrap();
        assert!(super::tiles(&sound).is_ok());
        // Nothing to do.
        let nothing = Tiles::new(&device, Vec::new(), Vec::new()).unwrap();
        assert!(super::tiles(&nothing).is_ok());
    }
}
