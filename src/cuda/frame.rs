//! One frame on the device: points in, boxes out.
//!
//! With an engine on the device the whole frame is one graph. With one on the host (the CPU engine) there
//! are two, from the points to the pillars' features, and from the head maps to the boxes; what lies between
//! is copied to the host and back. Recorded once, when the detector is made, on an empty frame.

use std::sync::Arc;

use bytemuck::Zeroable;

use super::decode::{self, Decoder};
use super::features::{self, Features};
use super::nms::{self, Nms};
use super::pillars::{self, Pillars, Totals};
use super::scatter::{self, Scatter};
use super::{Buffer, CudaError, Device, DeviceMap, Element, Graph, Input, Pinned};
use crate::boxes::Box3d;
use crate::engine::{self, MapDesc, MapLayout, MapView};
use crate::error::Result;
use crate::features::Pfn;
use crate::frame::{Dropped, Times};
use crate::model::Model;
use crate::points::PointCloud;
use crate::scatter as host_scatter;

/// An engine that runs on the device: the counterpart of [`crate::engine::Engine`].
pub trait Engine: Send {
    /// The network's input and its map, all zero at first; only the scatter stage writes it.
    fn input(&self) -> (&MapDesc, DeviceMap);
    /// The network's outputs and their maps, in the network's order. They never move.
    fn outputs(&self) -> Vec<(&MapDesc, DeviceMap)>;
    /// Puts a run of the network on the device's stream, without waiting; this is recorded.
    ///
    /// # Errors
    /// The device's.
    fn enqueue(&mut self) -> Result<(), CudaError>;
}

/// Marks of time between the stages, in their order.
const START: usize = 0;
const PILLARS: usize = 1;
const FEATURES: usize = 2;
const SCATTER: usize = 3;
const ENGINE: usize = 4;
const DECODE: usize = 5;
const NMS: usize = 6;

/// A frame's buffers on the device, and the launches that were recorded. Allocated once.
pub struct Frame {
    device: Arc<dyn Device>,
    stages: Stages,
    side: Side,
    /// From the points on; with an engine on the device to the boxes.
    first: Option<Graph>,
    boxes: Vec<Box3d>,
}

/// The stages and what they leave for the host.
struct Stages {
    input: Input,
    pillars: Pillars,
    features: Features,
    decoder: Decoder,
    nms: Nms,
    totals: Pinned<Totals>,
    result: Pinned<u8>,
    /// By task, in the order of [`crate::model::OUTPUT_KINDS`].
    heads: Vec<[DeviceMap; 6]>,
}

/// Where the engine is.
enum Side {
    Device {
        engine: Box<dyn Engine>,
        scatter: Scatter,
        map: DeviceMap,
    },
    Host(Box<Host>),
}

/// An engine on the host, and the way there and back.
struct Host {
    engine: Box<dyn engine::Engine>,
    /// Indices into the engine's outputs, by task.
    outputs: Vec<[usize; 6]>,
    scatter: host_scatter::Scatter,
    features: Pinned<f32>,
    cells: Pinned<u32>,
    /// The head maps of all tasks, one after the other, each NCHW.
    heads: Pinned<f32>,
    head_maps: Buffer<f32>,
    /// What was copied.
    feature_values: Vec<f32>,
    cell_values: Vec<u32>,
    head_values: Vec<f32>,
    /// From the head maps to the boxes.
    second: Option<Graph>,
}
