//! The CUDA engine: runs a program for the CPU on a GPU, with the CPU engine's bytes, or floats in half precision.
//!
//! Convolutions of codes run on tensor cores (`kernels/conv.cu`): sums are exact integers, and the operations after them are
//! the CPU engine's, so no byte can differ. What does not fit those kernels, and operators in f32, run as the CPU engine
//! computes them, operation by operation (`kernels/direct.cu`). In half precision ([`Options::half`]) convolutions of floats run
//! on tensor cores too: weights and maps are rounded to halves, and sums are in f32 in the order of the hardware.
//!
//! Everything is prepared when the engine is made: where tensors lie ([`layout`]), weights in the kernels' order ([`pack`]),
//! and the launches of a frame ([`steps`]), which are the same for every frame and take part in its CUDA graph.

mod layout;
mod pack;
mod reach;
mod steps;

use std::sync::Arc;

use crate::cuda::place::Place;
use crate::cuda::tiles::{Boxes, Layer, Table, Tiles};
use crate::cuda::{Buffer, Device, DeviceMap, Marks};
use crate::engine::cpu::{Weights, expand};
use crate::engine::cuda::reach::{Reaches, needed_by};
use crate::engine::cuda::steps::{OperatorTiles, Step};
use crate::engine::lazy::{LazyHeads, LazyHeatmap, LazyPlan};
use crate::engine::{Engine, EngineError, LayerTime, MapMut, MapRef};
use crate::map::{Location, MapDesc, MapFormat, MapLayout};
use crate::program::{Codes, Program};

/// Execution options, as those of the CPU engine.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether to skip tiles that see only zeros of the input. The results have the same bytes. Default: yes. Costs one run
    /// when the engine is created.
    pub skip_empty: Option<bool>,
    /// Whether convolutions of a Concat multiply only the channels of those sources that differ from what they hold for
    /// zeros. The results have the same bytes. Default: yes. Needs `skip_empty`, and memory for sums.
    pub skip_channels: Option<bool>,
    /// Maps to compute only at the cells that are read, which have the same bytes; elsewhere they hold anything. The operators
    /// of these maps run after all others. `None` computes all of every map.
    pub lazy_heads: Option<LazyHeads>,
    /// Whether floats are stored and multiplied in half precision, except for the network's outputs. Results differ slightly from
    /// those in f32. Default: no.
    pub half: bool,
    /// The largest block of convolutions: bytes of input channels at a time and output channels. Default: what there is.
    pub block: Option<[usize; 2]>,
}

impl Options {
    fn skips_empty(&self) -> bool {
        self.skip_empty.unwrap_or(true)
    }

    fn skips_channels(&self) -> bool {
        self.skips_empty() && self.skip_channels.unwrap_or(true)
    }
}

/// What the last frame computed of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// The operator's name.
    pub name: String,
    /// Tiles computed, and all tiles.
    pub tiles: [usize; 2],
    /// Share of its arithmetic.
    pub share: f64,
}

/// A program that is ready to run on a GPU.
pub struct CudaEngine {
    device: Arc<dyn Device>,
    input: (MapDesc, DeviceMap),
    outputs: Vec<MapDesc>,
    output_maps: Vec<DeviceMap>,
    steps: Vec<Step>,
    /// The tiles of each operator, with its name.
    tiles: Vec<(String, OperatorTiles)>,
}

impl CudaEngine {
    /// Checks the program, allocates its maps and copies its weights to the device.
    ///
    /// # Errors
    /// [`EngineError::Program`] if the program is inconsistent or does not match the weights, [`EngineError::Cuda`].
    pub fn new(
        program: Program,
        weights: Weights,
        device: &Arc<dyn Device>,
        options: &Options,
    ) -> Result<Self, EngineError> {
        program.validate((*weights).as_ref().len())?;
        let (mut program, weights) = expand(program, weights)?;
        let heads = options.lazy_heads.as_ref();
        let lazy = heads.and_then(|heads| LazyPlan::new(&program, heads));
        if let Some(lazy) = &lazy {
            lazy.reorder(&mut program);
        }
        let skip = options.skips_empty();
        let places = places(&program, options.half, device)?;
        let prepared = steps::steps(
            &program,
            (*weights).as_ref(),
            &places,
            device,
            lazy.as_ref().map_or(program.ops.len(), |lazy| lazy.first),
            options,
        )?;
        let map = |index: usize, name: &str| -> Result<(MapDesc, DeviceMap), EngineError> {
            let (place, tensor) = (&places[index], &program.tensors[index]);
            let desc = MapDesc {
                name: name.to_owned(),
                channels: tensor.channels,
                height: tensor.height,
                width: tensor.width,
            };
            Ok((desc, DeviceMap::at(place, format(place, tensor.codes()))?))
        };
        let outputs = program.outputs.iter();
        let outputs = outputs.map(|output| map(output.tensor, &output.name));
        let (outputs, output_maps) = outputs.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let names = program.ops.iter().map(|op| op.name.clone());
        let mut engine = Self {
            device: device.clone(),
            input: map(program.input, &program.tensors[program.input].name)?,
            outputs,
            output_maps,
            steps: prepared.steps,
            tiles: names.zip(prepared.tiles).collect(),
        };
        if skip {
            // The input is empty, so this leaves the background in all maps.
            engine.run()?;
            for step in &engine.steps {
                step.record_backgrounds(&**device)?;
            }
        }
        engine.choose_tiles(&program, lazy.as_ref(), prepared.first_lazy, skip)?;
        Ok(engine)
    }

    /// Adds the steps that choose tiles: of all operators, if empty ones are skipped, and of the lazy ones.
    fn choose_tiles(
        &mut self,
        program: &Program,
        lazy: Option<&LazyPlan>,
        first_lazy: usize,
        skip: bool,
    ) -> Result<(), EngineError> {
        let reaches = Reaches::new(program);
        let input = || Table::new(&self.device, &self.input.1, None).map(Arc::new);
        let input = skip.then(input).transpose()?;
        let boxes = |table: &Arc<Table>, sides| Boxes {
            table: table.clone(),
            sides,
        };
        let layer = |(index, (_, tiles)): (usize, &(String, OperatorTiles))| Layer {
            list: tiles.list.clone(),
            seen: input
                .as_ref()
                .map(|input| boxes(input, reaches.sides(index))),
            needed_by: Vec::new(),
            sources: match &input {
                None => Vec::new(),
                Some(input) => {
                    let levels = tiles.levels.iter();
                    let through =
                        |level: &steps::Level| reaches.sides_through(index, &level.sources);
                    levels.map(|level| boxes(input, through(level))).collect()
                }
            },
        };
        let mut layers: Vec<Layer> = self.tiles.iter().enumerate().map(layer).collect();
        if let Some(lazy) = lazy {
            let mut lazy_layers = layers.split_off(lazy.first);
            let table = |heatmap: &LazyHeatmap| {
                let map = &self.output_maps[heatmap.output];
                Table::new(&self.device, map, Some(&heatmap.least)).map(Arc::new)
            };
            let tables = lazy.heatmaps.iter().map(table);
            let tables = tables.collect::<Result<Vec<_>, _>>()?;
            for (layer, needed) in lazy_layers.iter_mut().zip(needed_by(program, lazy)) {
                let needed = needed.into_iter();
                let needed = needed.map(|(heatmap, sides)| boxes(&tables[heatmap], sides));
                layer.needed_by = needed.collect();
            }
            let tiles = Tiles::new(&self.device, tables, lazy_layers)?;
            self.steps
                .insert(first_lazy, Step::tiles("tiles of lazy heads", tiles));
        }
        if let Some(input) = input {
            let tiles = Tiles::new(&self.device, vec![input], layers)?;
            self.steps.insert(0, Step::tiles("tiles", tiles));
        }
        Ok(())
    }

    /// What the last frame computed of each operator: waits for it.
    ///
    /// # Errors
    /// [`EngineError::Cuda`].
    pub fn computed(&self) -> Result<Vec<Computed>, EngineError> {
        let operator = |(name, tiles): &(String, OperatorTiles)| {
            let (of_levels, all) = (tiles.list.computed()?, tiles.list.len());
            let left = tiles.levels.iter().map(|level| level.left);
            let left = std::iter::once([1, 1]).chain(left);
            let shares = of_levels
                .iter()
                .zip(left)
                .map(|(tiles, [left, of])| *tiles as f64 * left as f64 / of as f64);
            Ok(Computed {
                name: name.clone(),
                tiles: [of_levels.iter().sum(), all],
                share: shares.sum::<f64>() / all.max(1) as f64,
            })
        };
        self.tiles.iter().map(operator).collect()
    }
}

/// Allocates a buffer for each root tensor. Borders hold the code of the value 0.
fn places(
    program: &Program,
    half: bool,
    device: &Arc<dyn Device>,
) -> Result<Vec<Place>, EngineError> {
    /// Bytes after a map that kernels may read: they read whole chunks of channels, and multiply the excess by 0.
    const SLACK: usize = 64;
    let shapes = layout::shapes(program, half);
    let mut buffers = Vec::with_capacity(shapes.len());
    for (index, tensor) in program.tensors.iter().enumerate() {
        if tensor.slice_of.is_some() {
            buffers.push(None);
            continue;
        }
        let bytes = shapes[index].len() * shapes[index].element.bytes() + SLACK;
        buffers.push(Some(if tensor.zero_point == 0 {
            Buffer::zeroed(device, "feature maps", bytes)?
        } else {
            Buffer::new(
                device,
                "feature maps",
                &vec![tensor.zero_point as u8; bytes],
            )?
        }));
    }
    let mut places = Vec::with_capacity(shapes.len());
    for (index, shape) in shapes.into_iter().enumerate() {
        let buffer = buffers[program.root(index).0].as_ref();
        let place = buffer.and_then(|buffer| Place::new(buffer, shape));
        places.push(place.ok_or_else(|| EngineError::Mismatch {
            what: format!("tensor {index} lies outside its buffer"),
        })?);
    }
    Ok(places)
}

/// How the stages before and after the engine access a tensor.
fn format(place: &Place, codes: Option<Codes>) -> MapFormat {
    let shape = place.shape();
    MapFormat {
        element: shape.element,
        scale: codes.map_or(1.0, |codes| codes.scale),
        vector: 1,
        layout: MapLayout {
            channels: shape.channels.len(),
            height: shape.height,
            width: shape.width,
            offset: shape.start() + shape.first(),
            stride_c: 1,
            stride_y: shape.row(),
            stride_x: shape.pixel,
        },
    }
}

impl Engine for CudaEngine {
    fn input(&self) -> &MapDesc {
        &self.input.0
    }

    fn outputs(&self) -> &[MapDesc] {
        &self.outputs
    }

    fn location(&self) -> Location {
        Location::Device
    }

    fn input_map(&mut self) -> MapMut<'_> {
        MapMut::Device(self.input.1.clone())
    }

    fn output_map(&self, index: usize) -> Option<MapRef<'_>> {
        self.output_maps.get(index).cloned().map(MapRef::Device)
    }

    fn run(&mut self) -> Result<(), EngineError> {
        for step in &self.steps {
            step.run(&*self.device)?;
        }
        Ok(())
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        let marks = Marks::new(&self.device, self.steps.len() + 1)?;
        marks.set(0)?;
        for (at, step) in self.steps.iter().enumerate() {
            step.run(&*self.device)?;
            marks.set(at + 1)?;
        }
        let mut times = Vec::with_capacity(self.steps.len());
        for (at, step) in self.steps.iter().enumerate() {
            times.push(LayerTime {
                name: step.name().to_owned(),
                ms: marks.between(at, at + 1)?,
            });
        }
        Ok(times)
    }
}
