//! Scatter on the device: the map of the CPU stage, in every type and layout that an engine may use, without
//! touching a byte between its elements.

use std::sync::{Arc, LazyLock};

use bytemuck::NoUninit;
use centerpoint::cuda::{CudaError, Device, DeviceMap, DevicePtr};
use centerpoint::internals::cpu::scatter as cpu;
use centerpoint::internals::cuda::pillars::{Pillars, voxelize};
use centerpoint::internals::cuda::scatter::{Scatter, scatter};
use centerpoint::internals::cuda::{Buffer, Input, Launch};
use centerpoint::map::{Element, MapDataMut, MapFormat, MapLayout, MapViewMut};
use centerpoint::{Layout, Model};

use crate::emulation;
use crate::stages::{Random, model};

/// Fills the bytes between the elements of a map, such as a border.
const BETWEEN: u8 = 0xa5;

/// A map on the device, and its expected bytes.
struct Map {
    buffer: Buffer<u8>,
    map: DeviceMap,
    expected: Vec<u8>,
    /// The CPU stage with a dense map of its own.
    state: cpu::Scatter,
    values: Vec<f32>,
    codes: Vec<i8>,
}

impl Map {
    fn new(
        device: &Arc<dyn Device>,
        element: Element,
        scale: f32,
        vector: u32,
        layout: MapLayout,
    ) -> Self {
        let size = element.bytes();
        let MapLayout {
            channels,
            height,
            width,
            ..
        } = layout;
        let format = MapFormat {
            element,
            scale,
            vector,
            layout,
        };
        let last = index(&format, channels - 1, height - 1, width - 1);
        let mut bytes = vec![BETWEEN; (last + vector as usize + 3) * size];
        for (c, y, x) in elements(&layout) {
            let at = index(&format, c, y, x) * size;
            bytes[at..at + size].fill(0);
        }
        let buffer = Buffer::new(device, "map", &bytes).unwrap();
        let map = DeviceMap::new(&buffer, format).unwrap();
        let dense = channels * height * width;
        Self {
            buffer,
            map,
            expected: bytes,
            state: cpu::Scatter::new(height * width),
            values: vec![0.0; dense],
            codes: vec![0; dense],
        }
    }

    /// Runs the CPU stage, and converts its dense map to the layout.
    fn expect(&mut self, features: &[f32], cells: &[u32]) {
        let format = *self.map.format();
        let layout = format.layout;
        let dense = MapLayout::nchw(layout.channels, layout.height, layout.width);
        let data = match format.element {
            Element::I8 => MapDataMut::I8 {
                codes: &mut self.codes,
                scale: format.scale,
            },
            _ => MapDataMut::F32(&mut self.values),
        };
        let view = &mut MapViewMut {
            data,
            layout: dense,
        };
        cpu::scatter(features, cells, &mut self.state, view);
        let size = format.element.bytes();
        for (c, y, x) in elements(&layout) {
            let from = dense.index(c, y, x);
            let at = index(&format, c, y, x) * size;
            let to = &mut self.expected[at..at + size];
            match format.element {
                Element::F32 => to.copy_from_slice(&self.values[from].to_ne_bytes()),
                Element::F16 => to.copy_from_slice(&half(self.values[from]).to_ne_bytes()),
                Element::I8 => to.copy_from_slice(&self.codes[from].to_ne_bytes()),
            }
        }
    }

    fn check(&self, what: &str) {
        let found = self.buffer.download(self.expected.len()).unwrap();
        let wrong = found.iter().zip(&self.expected).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "first wrong byte, {what}");
    }
}

/// Index of element (c, y, x), as [`MapFormat`] defines it.
fn index(format: &MapFormat, c: usize, y: usize, x: usize) -> usize {
    let (layout, vector) = (&format.layout, format.vector as usize);
    let channel = c / vector * layout.stride_c + c % vector;
    layout.offset + channel + y * layout.stride_y + x * layout.stride_x
}

/// All (c, y, x).
fn elements(layout: &MapLayout) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
    let MapLayout {
        channels,
        height,
        width,
        ..
    } = *layout;
    (0..channels)
        .flat_map(move |c| (0..height).flat_map(move |y| (0..width).map(move |x| (c, y, x))))
}

/// Values of the half-precision numbers from 0 on, with 65536 instead of infinity.
static HALVES: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let value = |bits: u16| {
        let (exponent, fraction) = (i32::from(bits >> 10), f64::from(bits & 0x3ff));
        match exponent {
            0 => fraction * 2f64.powi(-24),
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        }
    };
    (0..=0x7c00).map(value).collect()
});

/// The half-precision number nearest to a value, found by a search among all, in f64.
pub(crate) fn half(value: f32) -> u16 {
    if value.is_nan() {
        return 0x7fff;
    }
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let size = f64::from(value.abs());
    let above = HALVES.partition_point(|half| *half < size);
    if above == 0 || above == HALVES.len() {
        return sign | above.min(0x7c00) as u16;
    }
    let (to_above, to_below) = (HALVES[above] - size, size - HALVES[above - 1]);
    let up = to_above < to_below || to_above == to_below && above % 2 == 0;
    sign | if up { above } else { above - 1 } as u16
}

/// The stages around scatter.
struct Stage {
    model: Model,
    input: Input,
    pillars: Pillars,
    scatter: Scatter,
    features: Buffer<f32>,
}

impl Stage {
    fn new(model: Model, device: &Arc<dyn Device>) -> Self {
        let features = model.grid.max_pillars * model.bev_channels();
        Self {
            input: Input::new(&model, device).unwrap(),
            pillars: Pillars::new(&model, device).unwrap(),
            scatter: Scatter::new(&model, device).unwrap(),
            features: Buffer::zeroed(device, "features", features).unwrap(),
            model,
        }
    }

    /// Makes pillars in these cells, in this order.
    fn set_cells(&mut self, cells: &[u32]) {
        let grid = &self.model.grid;
        let points: Vec<f32> = cells
            .iter()
            .flat_map(|&cell| {
                let [x, y, z] = grid.center(cell as usize % grid.nx, cell as usize / grid.nx);
                [x, y, z, 0.0, 0.0]
            })
            .collect();
        self.input.set(&points, Layout::XYZIT).unwrap();
        voxelize(&self.input, &mut self.pillars).unwrap();
        let kept = cells.len().min(grid.max_pillars);
        assert_eq!(self.pillars.download().unwrap().cells, cells[..kept]);
    }

    /// Runs one frame; further pillars keep the features of earlier frames.
    fn run(&mut self, features: &[f32], map: &Map) -> Result<(), CudaError> {
        self.features.upload(features)?;
        scatter(&self.features, &self.pillars, &mut self.scatter, &map.map)
    }

    /// Compares a frame of `count` random cells.
    fn check(&mut self, random: &mut Random, count: usize, map: &mut Map, what: &str) {
        let grid = &self.model.grid;
        let (channels, kept) = (self.model.bev_channels(), count.min(grid.max_pillars));
        let cells = random_cells(random, grid.cells(), count);
        let features = random_features(random, kept * channels, map.map.format().scale);
        self.set_cells(&cells);
        self.run(&features, map).unwrap();
        map.expect(&features, &cells[..kept]);
        map.check(what);
    }
}

/// A random layout of the model's map that an engine may use: its name, and its channels side by side.
fn random_layout(random: &mut Random, model: &Model) -> (String, u32, MapLayout) {
    let (channels, height, width) = (model.bev_channels(), model.grid.ny, model.grid.nx);
    let mut layout = MapLayout::nchw(channels, height, width);
    let pad = random.below(3);
    let mut vector = 1;
    let name = match random.below(4) {
        0 => {
            layout.stride_y = width + pad;
            layout.stride_c = layout.stride_y * (height + pad) + pad;
            "NCHW"
        }
        1 => {
            layout.stride_c = 1;
            layout.stride_x = channels + pad;
            layout.stride_y = layout.stride_x * (width + pad);
            "NHWC"
        }
        2 => {
            vector = [2, 4, 8, 16, 32][random.below(5)];
            layout.stride_x = vector;
            layout.stride_y = vector * (width + pad);
            layout.stride_c = layout.stride_y * (height + pad);
            "CHW"
        }
        _ => {
            // Rows of adjacent vectors.
            vector = [4, 8, 16][random.below(3)];
            layout.stride_c = vector;
            layout.stride_x = channels.next_multiple_of(vector);
            layout.stride_y = layout.stride_x * (width + pad);
            "HWC"
        }
    };
    layout.offset = random.below(20);
    (
        format!("{name}{vector}, padded by {pad}"),
        vector as u32,
        layout,
    )
}

fn random_features(random: &mut Random, count: usize, scale: f32) -> Vec<f32> {
    let value = |_| match random.below(12) {
        0 => 0.0,
        1 => f32::from_bits(random.bits() as u32),
        2 => random.uniform(-1e-7, 1e-7),
        // Ties between two codes.
        3..6 => (random.below(600) as f32 - 300.0) * 0.5 * scale,
        6 => random.uniform(-70000.0, 70000.0),
        _ => random.uniform(0.0, 20.0),
    };
    (0..count).map(value).collect()
}

/// Random cells in random order.
fn random_cells(random: &mut Random, cells: usize, count: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..cells as u32).collect();
    for i in 0..count {
        let other = i + random.below(cells - i);
        all.swap(i, other);
    }
    all.truncate(count);
    all
}

#[test]
fn random_maps_equal_the_cpu() {
    for case in 0..emulation::cases(120) as u64 {
        let device = emulation::device(case);
        let random = &mut Random(case);
        let mut model = model();
        let channels = [1, 2, 3, 16, 31, 32, 33, 64, 100][random.below(9)];
        model.pfn.layers = vec![channels];
        model.grid.max_pillars = [1 + random.below(70), 32, 33, 192][random.below(4)];
        let (name, vector, layout) = random_layout(random, &model);
        let element = [Element::F32, Element::F16, Element::I8][case as usize % 3];
        let scale = [0.1, 1.0, 0.037][random.below(3)];
        let mut map = Map::new(&device, element, scale, vector, layout);
        let mut stage = Stage::new(model, &device);
        let (cells, max_pillars) = (stage.model.grid.cells(), stage.model.grid.max_pillars);
        for frame in 0..5 {
            // Frames that share cells, are empty, full, or cut off at the cap.
            let counts = [0, cells, max_pillars, random.below(cells), random.below(40)];
            let count = counts[random.below(counts.len())].min(cells);
            let what = format!("case {case}, frame {frame}: {element:?} {name}");
            stage.check(random, count, &mut map, &what);
        }
    }
}

#[test]
fn as_many_pillars_as_fit() {
    for (seed, element) in [Element::F32, Element::F16, Element::I8]
        .into_iter()
        .enumerate()
    {
        let device = emulation::device(seed as u64);
        let random = &mut Random(seed as u64);
        let mut model = model();
        model.grid.max_pillars = 33;
        let (name, vector, layout) = random_layout(random, &model);
        let mut map = Map::new(&device, element, 0.1, vector, layout);
        let mut stage = Stage::new(model, &device);
        for count in [32, 33, 34, 0] {
            let what = format!("{count} pillars, {element:?} {name}");
            stage.check(random, count, &mut map, &what);
        }
    }
}

/// All finite halves, and the floats around each and around the midpoint to the next.
fn floats_around_halves() -> Vec<f32> {
    HALVES
        .windows(2)
        .flat_map(|pair| [pair[0], (pair[0] + pair[1]) / 2.0])
        .map(|size| size as f32)
        .flat_map(|size| [size, size.next_up(), size.next_down()])
        .flat_map(|value| [value, -value])
        .collect()
}

#[test]
fn values_become_the_nearest_half() {
    let device = emulation::device(0);
    let mut values = floats_around_halves();
    let mut random = Random(1);
    values.extend((0..100_000).map(|_| f32::from_bits(random.bits() as u32)));
    values.extend([
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
    ]);
    let mut model = model();
    model.pfn.layers = vec![64];
    let (grid, channels) = (&mut model.grid, 64);
    grid.max_pillars = grid.cells();
    let cells: Vec<u32> = (0..grid.cells() as u32).collect();
    let layout = MapLayout {
        stride_c: 1,
        stride_x: channels,
        stride_y: channels * grid.nx,
        ..MapLayout::nchw(channels, grid.ny, grid.nx)
    };
    let mut map = Map::new(&device, Element::F16, 1.0, 1, layout);
    let mut stage = Stage::new(model, &device);
    stage.set_cells(&cells);
    values.resize(values.len().next_multiple_of(cells.len() * channels), 1.0);
    for features in values.chunks(cells.len() * channels) {
        stage.run(features, &map).unwrap();
        map.expect(features, &cells);
        map.check("as halves");
    }
}

/// The mirror of `HalfValues` in `tests/emulation/common.cu`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct HalfValues {
    halves: DevicePtr<u16>,
    values: DevicePtr<f32>,
    count: u32,
    reserved: u32,
}

#[test]
fn every_half_has_its_value() {
    // A GPU has an instruction for it, and its fatbin lacks the tests' kernels.
    let device = emulation::emulated(0, false);
    let device: Arc<dyn Device> = device;
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let from = Buffer::new(&device, "halves", &halves).unwrap();
    let to = Buffer::<f32>::zeroed(&device, "values", halves.len()).unwrap();
    let params = HalfValues {
        halves: from.ptr(),
        values: to.ptr(),
        count: halves.len() as u32,
        reserved: 0,
    };
    let launch = Launch::for_threads("half_values", halves.len(), 256);
    emulation::launch(&*device, &launch, &params).unwrap();
    for (bits, value) in halves.into_iter().zip(to.download(1 << 16).unwrap()) {
        let size = bits & 0x7fff;
        if size > 0x7c00 {
            assert!(value.is_nan(), "{bits:#06x}");
            continue;
        }
        let expected = if size == 0x7c00 {
            f32::INFINITY
        } else {
            HALVES[usize::from(size)] as f32
        };
        let expected = if bits == size { expected } else { -expected };
        assert_eq!(value.to_bits(), expected.to_bits(), "{bits:#06x}");
    }
}

#[test]
fn unsuitable_maps_are_refused() {
    let device = emulation::device(0);
    let mut stage = Stage::new(model(), &device);
    stage.set_cells(&[3]);
    let layout = MapLayout::nchw(32, 12, 16);
    let memory = Buffer::<f32>::zeroed(&device, "map", 32 * 12 * 16).unwrap();
    let mut refused = |vector: u32, layout: MapLayout, expected: &str| {
        let format = MapFormat {
            vector,
            ..MapFormat::f32(layout)
        };
        let error = DeviceMap::new(&memory, format)
            .and_then(|map| scatter(&stage.features, &stage.pillars, &mut stage.scatter, &map));
        let text = error.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    };
    refused(1, MapLayout::nchw(31, 12, 16), "[31, 12, 16] (C, H, W)");
    refused(1, MapLayout::nchw(32, 16, 12), "gives [32, 12, 16]");
    refused(3, layout, "3 channels side by side");
    refused(64, layout, "64 channels side by side");
    let wide = MapLayout {
        stride_c: 1 << 28,
        ..layout
    };
    refused(1, wide, "its last element");
}
