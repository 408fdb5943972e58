//! Head maps on a device, in the types and layouts of engines: made up, and those of the demo network for real
//! frames.

use std::sync::{Arc, LazyLock};

use centerpoint::cuda::{Device, DeviceMap};
use centerpoint::engine::Engine;
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::cuda::Buffer;
use centerpoint::internals::engine::cpu::{CpuEngine, Options};
use centerpoint::internals::program::Program;
use centerpoint::map::{Element, HeadMaps, MapFormat, MapLayout};
use centerpoint::{Model, Plan};

use crate::bev::bev_of;
use crate::common::repository;
use crate::oracle::fill;
use crate::real::{RealFrame, demo_frames};
use crate::stages::heads::{Heads, Storage};

/// How maps lie on the device.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// As on the CPU, f32.
    Same,
    /// Each output in memory of its own, with this many channels side by side.
    Packed(Element, usize),
}

pub(super) const FORMS: [Form; 6] = [
    Form::Same,
    Form::Packed(Element::F32, 1),
    Form::Packed(Element::F32, 4),
    Form::Packed(Element::F16, 1),
    Form::Packed(Element::F16, 8),
    Form::Packed(Element::F16, 32),
];

impl Form {
    pub(super) fn is_half(self) -> bool {
        matches!(self, Form::Packed(Element::F16, _))
    }
}

/// A value truncated to half precision.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = value.abs();
    sign | if value.is_nan() {
        0x7e00
    } else if magnitude >= 65_536.0 {
        0x7c00
    } else if magnitude < 2f32.powi(-14) {
        (magnitude * 2f32.powi(24)) as u16
    } else {
        (((bits & 0x7fff_ffff) >> 13) - (112 << 10)) as u16
    }
}

/// Value of a half-precision number.
fn half_value(half: u16) -> f32 {
    let (sign, exponent, mantissa) = (half >> 15, half >> 10 & 31, f32::from(half & 0x3ff));
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-24),
        31 if mantissa == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + mantissa / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

/// Truncates all values to half precision.
pub(super) fn cut_to_half(heads: &mut Heads) {
    heads
        .data
        .iter_mut()
        .for_each(|value| *value = half_value(half(*value)));
}

/// Copies the maps of a task to a device.
pub(super) fn upload(device: &Arc<dyn Device>, heads: &Heads, form: Form) -> HeadMaps<DeviceMap> {
    let buffer = |bytes: &[u8]| Buffer::new(device, "head maps", bytes).unwrap();
    let Form::Packed(element, vector) = form else {
        let memory = buffer(bytemuck::cast_slice(&heads.data));
        let map = |layout| DeviceMap::new(&memory, MapFormat::f32(layout)).unwrap();
        return heads.layouts.map(map).into();
    };
    let maps: [DeviceMap; 6] = std::array::from_fn(|kind| {
        let from = heads.layouts[kind];
        let cells = from.height * from.width;
        let layout = MapLayout {
            offset: 0,
            stride_c: cells * vector,
            stride_y: from.width * vector,
            stride_x: vector,
            ..from
        };
        // The last vector is padded with NaN, because nobody may read it.
        let mut values = vec![f32::NAN; from.channels.div_ceil(vector) * vector * cells];
        for channel in 0..from.channels {
            for cell in 0..cells {
                let index = (channel / vector * cells + cell) * vector + channel % vector;
                values[index] = heads.get(kind, channel, cell);
            }
        }
        let memory = if element == Element::F16 {
            let halves: Vec<u16> = values.into_iter().map(half).collect();
            buffer(bytemuck::cast_slice(&halves))
        } else {
            buffer(bytemuck::cast_slice(&values))
        };
        let format = MapFormat {
            element,
            vector: vector as u32,
            ..MapFormat::f32(layout)
        };
        DeviceMap::new(&memory, format).unwrap()
    });
    maps.into()
}

/// The demo network's head maps of a frame.
pub(crate) struct RealHeads {
    pub(super) frame: RealFrame,
    pub(super) heads: Heads,
}

/// [`real_heads`] of the demo frames.
pub(super) static REAL: LazyLock<(Model, Vec<RealHeads>)> =
    LazyLock::new(|| real_heads(demo_frames()));

/// The demo plan's model and the CPU engine's head maps of `frames`.
pub(crate) fn real_heads(frames: Vec<RealFrame>) -> (Model, Vec<RealHeads>) {
    let plan = Plan::open(&demo_plan()).unwrap();
    let model = plan.model().clone();
    let program = Program::from_json(plan.section("program").unwrap().as_ref()).unwrap();
    let weights = Arc::new(plan.section("weights").unwrap());
    let pool = Arc::new(Pool::new(2));
    let mut engine = CpuEngine::new(program, weights, pool, &Options::default()).unwrap();
    let run = |frame: RealFrame| {
        fill(&mut engine, &bev_of(&model, plan.pfn(), &frame.cloud));
        engine.run().unwrap();
        let mut heads = Heads::new(&model, 0, Storage::Nchw);
        for (kind, name) in model.head.tasks[0].outputs.iter().enumerate() {
            let index = engine.outputs().iter().position(|o| o.name == *name);
            let view = engine.output(index.unwrap()).unwrap();
            let layout = view.layout;
            for channel in 0..layout.channels {
                for cell in 0..layout.height * layout.width {
                    let index = layout.index(channel, cell / layout.width, cell % layout.width);
                    heads.set(kind, channel, cell, view.data[index]);
                }
            }
        }
        RealHeads { frame, heads }
    };
    let heads = frames.into_iter().map(run).collect();
    (model, heads)
}

pub(super) fn demo_plan() -> std::path::PathBuf {
    repository().join("engines/demo/fp32.plan")
}
