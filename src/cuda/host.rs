//! An engine on the host between stages on the device: features are copied out, head maps in.
//!
//! This runs a CPU plan with `--device cuda`. It waits for the device twice a frame: it has to be correct, not fast.

use std::sync::Arc;
use std::time::Instant;

use super::device::{Buffer, CudaError, Device, Pinned};
use super::features::Features;
use super::map::{DeviceMap, MapFormat};
use super::pillars::Pillars;
use crate::engine::{Engine, LayerTime, MapLayout};
use crate::error::Result;
use crate::frame::Times;
use crate::model::{Model, OUTPUT_KINDS};
use crate::scatter::{Scatter, scatter};

/// The engine, the copies of its maps on the device, and the buffers to copy through. Allocated once.
pub(super) struct HostEngine {
    engine: Box<dyn Engine>,
    scatter: Scatter,
    /// For each head map: index of the engine's output, and position of its first value in `maps`.
    outputs: Vec<(usize, usize)>,
    /// By task; indices into `outputs`.
    tasks: Vec<[usize; OUTPUT_KINDS.len()]>,
    features: Pinned<f32>,
    cells: Pinned<u32>,
    /// Head maps one after the other, each NCHW.
    maps: Pinned<f32>,
    device_maps: Buffer<f32>,
    channels: usize,
    feature_values: Vec<f32>,
    cell_values: Vec<u32>,
    map_values: Vec<f32>,
}

impl HostEngine {
    /// `outputs` are indices of the engine's outputs, by task.
    pub(super) fn new(
        model: &Model,
        device: &Arc<dyn Device>,
        engine: Box<dyn Engine>,
        outputs: &[[usize; OUTPUT_KINDS.len()]],
    ) -> Result<Self, CudaError> {
        let (max_pillars, channels) = (model.grid.max_pillars, model.bev_channels());
        let mut values = 0;
        let mut placed = Vec::new();
        let mut tasks = Vec::with_capacity(outputs.len());
        for task in outputs {
            let mut indices = [0; OUTPUT_KINDS.len()];
            for (index, &output) in indices.iter_mut().zip(task) {
                let Some(desc) = engine.outputs().get(output) else {
                    return Err(CudaError::Map {
                        map: format!("output {output}"),
                        problem: format!("the engine has {} outputs", engine.outputs().len()),
                    });
                };
                *index = placed.len();
                placed.push((output, values));
                values += desc.channels * desc.height * desc.width;
            }
            tasks.push(indices);
        }
        Ok(Self {
            scatter: Scatter::new(max_pillars),
            outputs: placed,
            tasks,
            features: Pinned::zeroed(device, "pillar features", max_pillars * channels)?,
            cells: Pinned::zeroed(device, "cells of pillars", max_pillars)?,
            maps: Pinned::zeroed(device, "head maps", values)?,
            device_maps: Buffer::zeroed(device, "head maps", values)?,
            channels,
            feature_values: vec![0.0; max_pillars * channels],
            cell_values: vec![0; max_pillars],
            map_values: vec![0.0; values],
            engine,
        })
    }

    /// The head maps on the device, by task.
    ///
    /// # Errors
    /// [`CudaError::Map`] for a map that is too large for the kernels.
    pub(super) fn heads(&self) -> Result<Vec<[DeviceMap; OUTPUT_KINDS.len()]>, CudaError> {
        let map = |index: usize| {
            let (output, offset) = self.outputs[index];
            let desc = &self.engine.outputs()[output];
            let layout = MapLayout {
                offset,
                ..MapLayout::nchw(desc.channels, desc.height, desc.width)
            };
            DeviceMap::new(&self.device_maps, MapFormat::f32(layout))
        };
        let maps = |task: &[usize; OUTPUT_KINDS.len()]| {
            let [heatmap, reg, height, dim, rot, vel] = task.map(map);
            Ok([heatmap?, reg?, height?, dim?, rot?, vel?])
        };
        self.tasks.iter().map(maps).collect()
    }

    /// Enqueues the copy of the features and their cells to the host.
    pub(super) fn copy_out(&self, features: &Features, pillars: &Pillars) -> Result<(), CudaError> {
        let values = features.values();
        self.features.copy_from(values, values.len())?;
        let cells = pillars.cells_buffer();
        self.cells.copy_from(cells, cells.len())
    }

    /// Enqueues the copy of the head maps to the device.
    pub(super) fn copy_in(&self) -> Result<(), CudaError> {
        self.maps.copy_to(&self.device_maps, self.maps.len())
    }

    /// Waits for the features that were copied out, and runs the network on them. Leaves the head maps where
    /// [`HostEngine::copy_in`] copies them from.
    pub(super) fn run(&mut self, pillars: usize, times: &mut Times) -> Result<()> {
        let start = Instant::now();
        // A count that a failing device garbled must not cause a panic.
        let pillars = pillars.min(self.cell_values.len());
        let cells = &mut self.cell_values[..pillars];
        let features = &mut self.feature_values[..pillars * self.channels];
        self.cells.read(0, cells)?;
        self.features.read(0, features)?;
        let mut map = self.engine.input_mut();
        scatter(features, cells, &mut self.scatter, &mut map);
        let scattered = Instant::now();
        self.engine.run()?;
        for &(output, at) in &self.outputs {
            let Some(view) = self.engine.output(output) else {
                continue;
            };
            let layout = view.layout;
            let values = self.map_values[at..].chunks_exact_mut(layout.width);
            for (row, values) in values.take(layout.channels * layout.height).enumerate() {
                let (c, y) = (row / layout.height, row % layout.height);
                let first = layout.index(c, y, 0);
                let from = view.data[first..].iter().step_by(layout.stride_x);
                values
                    .iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to = *from);
            }
        }
        self.maps.write(0, &self.map_values)?;
        times.scatter = (scattered - start).as_secs_f64() * 1e3;
        times.engine = scattered.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    /// Runs the network again on the map of the last frame.
    pub(super) fn profile(&mut self) -> Result<Vec<LayerTime>> {
        Ok(self.engine.profile()?)
    }
}
