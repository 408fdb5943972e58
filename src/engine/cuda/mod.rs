//! The CUDA engine: runs a program for the CPU on a GPU, with the CPU engine's bytes.
//!
//! Convolutions of codes run on tensor cores (`kernels/conv.cu`): sums are exact integers, and the operations after them are
//! the CPU engine's, so no byte can differ. What does not fit those kernels, and operators in f32, run as the CPU engine
//! computes them, operation by operation (`kernels/direct.cu`).
//!
//! Everything is prepared when the engine is made: where tensors lie ([`layout`]), weights in the kernels' order ([`pack`]),
//! and the launches of a frame ([`steps`]), which are the same for every frame and take part in its CUDA graph.

mod layout;
mod pack;
mod reach;
mod steps;

use std::sync::Arc;

use crate::cuda::place::Place;
use crate::cuda::tiles::{self, TileList, Tiles};
use crate::cuda::{Buffer, Device, DeviceMap, Marks};
use crate::engine::cpu::{Weights, expand};
use crate::engine::cuda::reach::Reaches;
use crate::engine::cuda::steps::Step;
use crate::engine::{Engine, EngineError, LayerTime, MapMut, MapRef};
use crate::map::{Location, MapDesc, MapFormat, MapLayout};
use crate::program::{Codes, Program};

/// Execution options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether to skip tiles that see only zeros of the input. The results have the same bytes. Default: yes. Costs one run
    /// when the engine is created.
    pub skip_empty: Option<bool>,
}

/// A program that is ready to run on a GPU.
pub struct CudaEngine {
    device: Arc<dyn Device>,
    input: (MapDesc, DeviceMap),
    outputs: Vec<MapDesc>,
    output_maps: Vec<DeviceMap>,
    steps: Vec<Step>,
    /// Selects the tiles to compute; `None` computes all.
    tiles: Option<Tiles>,
    /// The lists of each operator, with its name.
    lists: Vec<(String, Arc<TileList>)>,
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
        let (program, weights) = expand(program, weights)?;
        let places = places(&program, device)?;
        let (steps, lists) = steps::steps(&program, (*weights).as_ref(), &places, device)?;
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
        let mut engine = Self {
            device: device.clone(),
            input: map(program.input, &program.tensors[program.input].name)?,
            outputs,
            output_maps,
            steps,
            tiles: None,
            lists: program
                .ops
                .iter()
                .map(|op| op.name.clone())
                .zip(lists)
                .collect(),
        };
        if options.skip_empty.unwrap_or(true) {
            // The input is empty, so this leaves the background in all maps.
            engine.run()?;
            let reaches = Reaches::new(&program);
            let lists = engine.lists.iter().enumerate();
            let layers = lists.map(|(index, (_, list))| (list.clone(), reaches.sides(index)));
            let layers: Vec<_> = layers.collect();
            engine.tiles = Some(Tiles::new(device, &engine.input.1, &layers)?);
        }
        Ok(engine)
    }

    /// Name, tiles that the last frame computed and all tiles of each operator: waits for the frame.
    ///
    /// # Errors
    /// [`EngineError::Cuda`].
    pub fn computed_tiles(&self) -> Result<Vec<(&str, [usize; 2])>, EngineError> {
        let lists = self.lists.iter();
        let all = lists.map(|(name, list)| Ok((name.as_str(), list.computed()?)));
        all.collect()
    }
}

/// Allocates a buffer for each root tensor. Borders hold the code of the value 0.
fn places(program: &Program, device: &Arc<dyn Device>) -> Result<Vec<Place>, EngineError> {
    /// Bytes after a map that kernels may read: they read whole chunks of channels, and multiply the excess by 0.
    const SLACK: usize = 64;
    let shapes = layout::shapes(program);
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
        if let Some(tiles) = &self.tiles {
            tiles::tiles(tiles)?;
        }
        for step in &self.steps {
            step.run(&*self.device)?;
        }
        Ok(())
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        if let Some(tiles) = &self.tiles {
            tiles::tiles(tiles)?;
        }
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
