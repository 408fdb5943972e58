//! Convolutions of codes and of halves on tensor cores: the kernels of `kernels/conv.cu`.
//!
//! The caller packs weights and constants in the kernels' order; this file knows shapes and addresses.

use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::place::{Place, Tensor, is_typed};
use super::tiles::{TILE, TileList};
use crate::map::Element;

/// Threads of a block; `THREADS` in the kernels.
const THREADS: u32 = 128;
/// Weights of all taps of this many bytes are copied at once, as in the kernels.
const AT_ONCE: usize = 9216;
/// Most taps of a phase; `MAX_TAPS` in the kernels.
const MAX_TAPS: usize = 9;
/// Most convolutions of a launch; `MAX_GROUP` in the kernels.
pub(crate) const MAX_GROUP: usize = 8;
/// Most levels of a tile; `MAX_LEVELS` in the kernels.
pub(crate) const MAX_LEVELS: usize = 3;
/// Blocks that a multiprocessor holds at a time; more have to wait for them.
const RESIDENT: usize = 4;

const RELU: u32 = 1;
const OUTPUT_F32: u32 = 2;
const RESIDUAL_F32: u32 = 4;
const START: u32 = 8;
const SUMS: u32 = 16;

/// A kernel: what it can compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvKernel {
    name: &'static str,
    /// Type of the input: codes or halves.
    pub(crate) element: Element,
    /// Rows and columns of the pixels that the taps read.
    pub(crate) taps: usize,
    /// Input pixels per step.
    pub(crate) stride: usize,
    /// Input channels at a time.
    pub(crate) channels: usize,
    /// Output channels of a block.
    pub(crate) outputs: usize,
}

/// Bytes of the channels of a product.
pub(crate) const PRODUCT: usize = 32;

/// Bytes of input channels at a time and output channels of the largest blocks.
pub(crate) const LARGEST: [usize; 2] = [64, 64];

/// `bytes`: of the input channels at a time.
const fn kernel(
    name: &'static str,
    element: Element,
    [taps, stride, bytes, outputs]: [usize; 4],
) -> ConvKernel {
    ConvKernel {
        name,
        element,
        taps,
        stride,
        channels: bytes / element.bytes(),
        outputs,
    }
}

/// All kernels, of each type the ones with the largest blocks first.
const KERNELS: [ConvKernel; 20] = [
    kernel("conv_s8_k3_s1_c64_n64", Element::I8, [3, 1, 64, 64]),
    kernel("conv_s8_k1_s1_c64_n64", Element::I8, [1, 1, 64, 64]),
    kernel("conv_s8_k3_s1_c32_n64", Element::I8, [3, 1, 32, 64]),
    kernel("conv_s8_k3_s2_c32_n64", Element::I8, [3, 2, 32, 64]),
    kernel("conv_s8_k3_s1_c32_n32", Element::I8, [3, 1, 32, 32]),
    kernel("conv_s8_k1_s1_c32_n32", Element::I8, [1, 1, 32, 32]),
    kernel("conv_s8_k3_s2_c32_n32", Element::I8, [3, 2, 32, 32]),
    kernel("conv_s8_k1_s2_c32_n32", Element::I8, [1, 2, 32, 32]),
    kernel("conv_s8_k3_s1_c32_n8", Element::I8, [3, 1, 32, 8]),
    kernel("conv_s8_k1_s1_c32_n8", Element::I8, [1, 1, 32, 8]),
    kernel("conv_f16_k3_s1_c32_n64", Element::F16, [3, 1, 64, 64]),
    kernel("conv_f16_k1_s1_c32_n64", Element::F16, [1, 1, 64, 64]),
    kernel("conv_f16_k3_s1_c16_n64", Element::F16, [3, 1, 32, 64]),
    kernel("conv_f16_k3_s2_c16_n64", Element::F16, [3, 2, 32, 64]),
    kernel("conv_f16_k3_s1_c16_n32", Element::F16, [3, 1, 32, 32]),
    kernel("conv_f16_k1_s1_c16_n32", Element::F16, [1, 1, 32, 32]),
    kernel("conv_f16_k3_s2_c16_n32", Element::F16, [3, 2, 32, 32]),
    kernel("conv_f16_k1_s2_c16_n32", Element::F16, [1, 2, 32, 32]),
    kernel("conv_f16_k3_s1_c16_n8", Element::F16, [3, 1, 32, 8]),
    kernel("conv_f16_k1_s1_c16_n8", Element::F16, [1, 1, 32, 8]),
];

const fn names() -> [&'static str; KERNELS.len()] {
    let mut names = [""; KERNELS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = KERNELS[at].name;
        at += 1;
    }
    names
}

impl ConvKernel {
    /// The kernel for a convolution whose taps lie within `taps` pixels, with inputs and outputs of these types and numbers of
    /// channels (of positions, except of f32), if there is one. `largest`: the most input channels at a time, in bytes, and output
    /// channels of a block.
    pub(crate) fn choose(
        taps: usize,
        stride: usize,
        (input, channels): (Element, usize),
        (output, outputs): (Element, usize),
        largest: [usize; 2],
    ) -> Option<Self> {
        let fits = |kernel: &&Self| {
            let few = kernel.outputs == 8;
            kernel.element == input
                && (output == Element::F32 || output == input)
                && kernel.taps >= taps
                && kernel.stride == stride
                && kernel.channels * kernel.element.bytes() <= largest[0]
                && kernel.outputs <= largest[1]
                && (kernel.is_small() || channels.is_multiple_of(kernel.channels))
                && (kernel.outputs < 64 || outputs > 32)
                && few == (outputs <= 8 && output == Element::F32 && stride == 1)
        };
        // Of two that fit, the one with fewer taps reads less.
        KERNELS.iter().filter(fits).min_by_key(|k| k.taps).copied()
    }

    /// Whether it takes as few channels at a time as a product does.
    fn is_small(&self) -> bool {
        self.channels * self.element.bytes() == PRODUCT
    }

    /// Whether a level can begin at a channel, of this many: at a chunk of codes, and not of few outputs.
    pub(crate) fn may_begin(&self, first: usize, channels: usize) -> bool {
        self.element == Element::I8
            && self.outputs >= 16
            && first.is_multiple_of(self.channels)
            && (self.channels..channels).contains(&first)
    }

    /// Bytes of shared memory of a block.
    fn shared(&self) -> usize {
        let side = |steps: usize| (steps - 1) * self.stride + self.taps;
        let bytes = self.channels * self.element.bytes();
        let patch = side(TILE[0]) * side(TILE[1]) * (bytes + 16);
        let tap = bytes * self.outputs;
        let all = self.taps * self.taps * tap;
        let weights = if all <= AT_ONCE { all } else { 3 * tap };
        let results = TILE[0] * TILE[1] * (self.outputs * self.element.bytes() + 16);
        (patch + weights).max(results)
    }
}

/// The mirror of `Phase` in `kernels/conv.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct PhaseParams {
    taps: u32,
    weights: u32,
    offset: [u32; MAX_TAPS],
    reserved: u32,
}

const _: () = assert!(size_of::<PhaseParams>() == 48);

/// The mirror of `Conv` in `kernels/conv.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    input: DevicePtr<u8>,
    weights: DevicePtr<u8>,
    constants: DevicePtr<u32>,
    phases: DevicePtr<PhaseParams>,
    residual: DevicePtr<u8>,
    output: DevicePtr<u8>,
    background: DevicePtr<i32>,
    tiles: DevicePtr<u32>,
    count: DevicePtr<u32>,
    rows: u32,
    columns: u32,
    pixel: u32,
    origin: [u32; 2],
    channels: u32,
    first_channel: [u32; MAX_LEVELS],
    end_channel: u32,
    phase_count: u32,
    blocks: u32,
    out_channels: u32,
    height: u32,
    width: u32,
    up: [u32; 2],
    out_row: u32,
    out_pixel: u32,
    residual_row: u32,
    residual_pixel: u32,
    flags: u32,
    residual_scale: f32,
    scale: f32,
    inverse_scale: f32,
    zero: i32,
}

const _: () = assert!(size_of::<Params>() == 176);

/// The mirror of `ConvGroup` in `kernels/conv.cu`.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
struct Group {
    convs: [Params; MAX_GROUP],
}

// SAFETY: an array of structs without padding has none.
#[allow(unsafe_code)]
unsafe impl NoUninit for Group {}

// SAFETY: `conv` takes the addresses from convolutions and lists that it borrows and that keep their memory.
// `Conv::new` checks that the kernel reads and writes inside it for every tile of the output and every level, and `launch_all`
// that a list has only those. Sums are as long as those of all tiles.
#[allow(unsafe_code)]
unsafe impl KernelParams for Group {
    const KERNELS: &'static [&'static str] = &names();
}

/// Taps of a phase, and its weights in the kernels' order: `[block][chunk][tap][32 bytes of
/// channels][output channels / 16][lane][16]`.
#[derive(Clone, Debug)]
pub(crate) struct ConvPhase {
    /// Row and column of the patch that each tap reads for the first step.
    pub(crate) taps: Vec<[usize; 2]>,
    /// The bytes.
    pub(crate) weights: Vec<u8>,
}

/// A convolution to prepare.
#[derive(Debug)]
pub(crate) struct ConvSpec<'a> {
    pub(crate) kernel: ConvKernel,
    pub(crate) input: &'a Place,
    /// Around 0, if it holds codes.
    pub(crate) residual: Option<Tensor<'a>>,
    pub(crate) output: Tensor<'a>,
    /// Input channels, in whole chunks of the kernel; weights past the input's own are 0.
    pub(crate) channels: usize,
    /// For each level from 1 on, the channels that its tiles take from the background: all before this one, counted from the
    /// input's first position.
    pub(crate) levels: &'a [usize],
    /// The input pixel, relative to the first step's, where patches begin.
    pub(crate) first: [i32; 2],
    /// Output pixels of a step.
    pub(crate) up: [usize; 2],
    pub(crate) relu: bool,
    /// `up[0] · up[1]` phases.
    pub(crate) phases: &'a [ConvPhase],
    /// Multiplier, bias and the sum's start value of each channel of each block of each phase.
    pub(crate) constants: &'a [(f32, f32, i32)],
}

/// A convolution that is ready to run.
#[derive(Debug)]
pub(crate) struct Conv {
    kernel: ConvKernel,
    /// Everything but the tiles.
    params: Params,
    /// Rows and columns of tiles.
    tiles: [usize; 2],
    /// Number of levels from 1 on.
    levels: usize,
    /// Their sums.
    background: Buffer<i32>,
    _kept: (Buffer<u8>, Buffer<u32>, Buffer<PhaseParams>, Vec<Place>),
}

impl Conv {
    /// Copies the weights to the device.
    ///
    /// # Errors
    /// [`CudaError::Kernel`] if the kernel would leave the memory of a tensor, [`CudaError::Memory`], [`CudaError::Copy`].
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &ConvSpec<'_>) -> Result<Self, CudaError> {
        let kernel = spec.kernel;
        let refuse = |reason: &str| {
            Err(CudaError::Kernel {
                kernel: kernel.name.into(),
                reason: reason.into(),
            })
        };
        let (place, codes) = spec.output;
        let (input, output) = (spec.input.shape(), place.shape());
        let steps = [
            output.height.div_ceil(spec.up[0]),
            output.width.div_ceil(spec.up[1]),
        ];
        // The input: copies of 16 bytes of all pixels of the buffer.
        let size = input.element.bytes();
        let read = (input.height + 2 * input.border) * input.row() + spec.channels;
        if input.element != kernel.element
            || !input.is_aligned()
            || !spec.channels.is_multiple_of(kernel.channels)
            || spec.channels < input.span()
            || (read - input.pixel) * size > spec.input.bytes_from(input.first())
        {
            return refuse("its input does not fit");
        }
        // Pixels past the buffer read as 0, which only tiles past the map's end do.
        let mut origin = [0; 2];
        for axis in [0, 1] {
            let at = input.border as i64 + i64::from(spec.first[axis]);
            let len = [input.height, input.width][axis] + 2 * input.border;
            let last = (steps[axis] - 1) * kernel.stride;
            let taps = spec.phases.iter().flat_map(|phase| &phase.taps);
            let reach = taps.map(|tap| tap[axis]).max().unwrap_or(0);
            if at < 0 || reach >= kernel.taps || at as usize + last + reach >= len {
                return refuse("its taps lie outside the input's border");
            }
            origin[axis] = at as u32;
        }
        // Weights and constants.
        let count = output.span();
        let blocks = count.div_ceil(kernel.outputs);
        let [up_y, up_x] = spec.up;
        if spec.phases.len() != up_y * up_x
            || spec.constants.len() != spec.phases.len() * blocks * kernel.outputs
        {
            return refuse("it has other phases or constants");
        }
        let patch_width = (TILE[1] - 1) * kernel.stride + kernel.taps;
        let mut weights = Vec::new();
        let mut phases = Vec::with_capacity(spec.phases.len());
        for phase in spec.phases {
            let expected = blocks * kernel.outputs * spec.channels * size * phase.taps.len();
            if phase.taps.len() > MAX_TAPS || phase.weights.len() != expected {
                return refuse("it has other weights");
            }
            let mut params = PhaseParams {
                taps: phase.taps.len() as u32,
                weights: weights.len() as u32,
                ..PhaseParams::zeroed()
            };
            for (to, [y, x]) in params.offset.iter_mut().zip(&phase.taps) {
                *to = (y * patch_width + x) as u32;
            }
            phases.push(params);
            weights.extend_from_slice(&phase.weights);
        }
        let may_begin = |first: &usize| kernel.may_begin(*first, spec.channels);
        if spec.levels.len() > MAX_LEVELS
            || !spec.levels.is_sorted_by(|before, after| before < after)
            || !spec.levels.iter().all(may_begin)
            || !spec.levels.is_empty() && spec.phases.len() != 1
        {
            return refuse("its levels do not fit");
        }
        // The output.
        let fits = match (output.element, codes) {
            (Element::F32, None) => output.span() == output.channels.len(),
            (element, codes) => {
                kernel.outputs > 8
                    && element == kernel.element
                    && codes.is_some() == (element == Element::I8)
                    && output.is_aligned()
                    && output.first() + output.written() <= output.pixel
            }
        };
        if !fits {
            return refuse("its output does not fit");
        }
        let (mut residual_at, mut flags) = ([0; 2], 0);
        let mut residual = DevicePtr::NULL;
        let mut residual_scale = 1.0;
        if let Some((place, codes)) = spec.residual {
            let shape = place.shape();
            if !is_typed((place, codes)) || !shape.adds_to(output) {
                return refuse("its residual does not fit");
            }
            residual = place.at(shape.start() + shape.first());
            residual_at = [shape.row() as u32, shape.pixel as u32];
            residual_scale = codes.map_or(1.0, |codes| codes.scale);
            let is_f32 = shape.element == Element::F32;
            if !is_f32 && shape.element != kernel.element {
                return refuse("its residual has another type");
            }
            flags |= if is_f32 { RESIDUAL_F32 } else { 0 };
        }
        flags |= if spec.relu { RELU } else { 0 };
        flags |= if output.element == Element::F32 {
            OUTPUT_F32
        } else {
            0
        };
        let starts = spec.constants.iter().any(|constant| constant.2 != 0);
        flags |= if starts { START } else { 0 };
        let (scale, zero) = codes.map_or((1.0, 0), |codes| (codes.scale, codes.zero));

        let constants = spec.constants.iter().map(|constant| constant.0.to_bits());
        let constants = constants.chain(spec.constants.iter().map(|c| c.1.to_bits()));
        let constants = constants.chain(spec.constants.iter().map(|c| c.2 as u32));
        let weights = Buffer::new(device, "weights", &weights)?;
        let constants = Buffer::new(device, "constants", &constants.collect::<Vec<_>>())?;
        let phases = Buffer::new(device, "phases", &phases)?;
        let tiles = [0, 1].map(|axis| steps[axis].div_ceil(TILE[axis]));
        let sums = tiles[0] * TILE[0] * tiles[1] * TILE[1] * blocks * kernel.outputs;
        let mut first_channel = [0; MAX_LEVELS];
        for (to, first) in first_channel.iter_mut().zip(spec.levels) {
            *to = *first as u32;
        }
        let levels = spec.levels.len();
        let background = Buffer::zeroed(device, "sums of channels", levels * sums)?;
        let params = Params {
            input: spec.input.at(input.first()),
            weights: weights.ptr(),
            constants: constants.ptr(),
            phases: phases.ptr(),
            residual,
            output: place.at(output.start() + output.first()),
            background: background.ptr(),
            tiles: DevicePtr::NULL,
            count: DevicePtr::NULL,
            rows: (input.height + 2 * input.border) as u32,
            columns: (input.width + 2 * input.border) as u32,
            pixel: (input.pixel * size) as u32,
            origin,
            channels: (spec.channels * size) as u32,
            first_channel,
            end_channel: (spec.channels * size) as u32,
            phase_count: phases.len() as u32,
            blocks: blocks as u32,
            out_channels: output.written() as u32,
            height: output.height as u32,
            width: output.width as u32,
            up: spec.up.map(|up| up as u32),
            out_row: output.row() as u32,
            out_pixel: output.pixel as u32,
            residual_row: residual_at[0],
            residual_pixel: residual_at[1],
            flags,
            residual_scale,
            scale,
            inverse_scale: 1.0 / scale,
            zero: i32::from(zero),
        };
        let mut kept = vec![spec.input.clone(), place.clone()];
        kept.extend(spec.residual.map(|(place, _)| place.clone()));
        Ok(Self {
            kernel,
            params,
            tiles,
            levels,
            background,
            _kept: (weights, constants, phases, kept),
        })
    }

    /// Number of levels that its tiles can have, besides 0.
    pub(crate) fn levels(&self) -> usize {
        self.levels
    }

    /// Whether two convolutions may run in one launch, if neither needs the other's output.
    pub(crate) fn same_kernel(&self, other: &Self) -> bool {
        self.kernel == other.kernel
    }

    /// Rows and columns of tiles of [`TILE`] steps.
    pub(crate) fn tiles(&self) -> [usize; 2] {
        self.tiles
    }
}

/// Computes what the tiles of each level take from the background: the sums of the channels before it, of what the input
/// holds now. The list must have all tiles. Only enqueues.
///
/// # Errors
/// [`CudaError::Kernel`].
pub(crate) fn backgrounds(
    device: &dyn Device,
    conv: &Conv,
    list: &TileList,
) -> Result<(), CudaError> {
    let sums = conv.background.len() / conv.levels.max(1);
    for level in 0..conv.levels {
        let params = Params {
            output: conv
                .background
                .memory()
                .at(level * sums * size_of::<i32>())
                .cast(),
            end_channel: conv.params.first_channel[level],
            flags: conv.params.flags | SUMS,
            ..conv.params
        };
        launch_all(device, std::iter::once((params, conv, list)))?;
    }
    Ok(())
}

/// Runs up to [`MAX_GROUP`] convolutions side by side, each for the tiles of its list. All have the same kernel, and none
/// reads what another one writes.
///
/// # Errors
/// [`CudaError::Kernel`].
pub(crate) fn conv(device: &dyn Device, convs: &[(Conv, Arc<TileList>)]) -> Result<(), CudaError> {
    let all = convs.iter();
    launch_all(device, all.map(|(conv, list)| (conv.params, conv, &**list)))
}

/// Launches convolutions with these parameters.
fn launch_all<'a>(
    device: &dyn Device,
    convs: impl ExactSizeIterator<Item = (Params, &'a Conv, &'a TileList)>,
) -> Result<(), CudaError> {
    let (mut group, count) = (Group::zeroed(), convs.len());
    let (mut kernel, mut most, mut fit) = (None, 1, count <= MAX_GROUP);
    for (to, (params, conv, list)) in group.convs.iter_mut().zip(convs) {
        fit &= *kernel.get_or_insert(conv.kernel) == conv.kernel
            && list.shape() == conv.tiles
            && list.levels() == conv.levels();
        *to = Params {
            tiles: list.tiles(),
            count: list.count(),
            ..params
        };
        let jobs = conv.tiles[0] * conv.tiles[1] * (params.phase_count * params.blocks) as usize;
        most = most.max(jobs);
    }
    let Some(kernel) = kernel else {
        return Ok(());
    };
    if !fit {
        return Err(CudaError::Kernel {
            kernel: kernel.name.into(),
            reason: "it gets convolutions of other kernels or lists of other maps".into(),
        });
    }
    let resident = (device.multiprocessors() as usize * RESIDENT).div_ceil(count);
    let shape = Launch {
        kernel: kernel.name,
        grid: [most.min(resident) as u32, count as u32, 1],
        block: THREADS,
        shared: kernel.shared() as u32,
    };
    launch(device, &shape, &group)
}

#[cfg(test)]
mod tests {
    use super::super::place::tests::{device, place};
    use super::*;
    use crate::program::Codes;

    #[test]
    fn each_kernel_is_chosen_for_something_and_fits() {
        for kernel in KERNELS {
            let output = if kernel.outputs == 8 {
                Element::F32
            } else {
                kernel.element
            };
            let (taps, stride) = (kernel.taps, kernel.stride);
            let input = (kernel.element, kernel.channels);
            let output = (output, kernel.outputs);
            let chosen = ConvKernel::choose(taps, stride, input, output, LARGEST);
            assert_eq!(chosen, Some(kernel));
            // More would have to be asked for.
            assert!(kernel.shared() <= 48 << 10, "{}", kernel.name);
        }
        let codes = (Element::I8, 32);
        assert_eq!(ConvKernel::choose(5, 1, codes, codes, LARGEST), None);
        assert_eq!(ConvKernel::choose(3, 3, codes, codes, LARGEST), None);
        // Between codes and halves.
        assert_eq!(
            ConvKernel::choose(3, 1, codes, (Element::F16, 32), LARGEST),
            None
        );
        assert_eq!(
            ConvKernel::choose(3, 1, (Element::F32, 32), codes, LARGEST),
            None
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let device = device();
        let codes = Codes {
            scale: 1.0,
            zero: 0,
        };
        let small = (Element::I8, 32);
        let kernel = ConvKernel::choose(3, 1, small, small, LARGEST).unwrap();
        let of = |element, size| place(&device, element, size);
        let (input, output) = (of(Element::I8, [64, 8, 16]), of(Element::I8, [32, 8, 16]));
        let (wider, halves) = (of(Element::I8, [32, 8, 17]), of(Element::F16, [32, 8, 16]));
        let phases = [ConvPhase {
            taps: (0..9).map(|tap| [tap / 3, tap % 3]).collect(),
            weights: vec![0; 9 * 64 * 32],
        }];
        let short = [ConvPhase {
            weights: Vec::new(),
            ..phases[0].clone()
        }];
        let spec = || ConvSpec {
            kernel,
            input: &input,
            residual: None,
            output: (&output, Some(codes)),
            channels: 64,
            levels: &[32],
            first: [-1, -1],
            up: [1, 1],
            relu: true,
            phases: &phases,
            constants: &[(1.0, 0.0, 0); 32],
        };
        for (wrong, problem) in [
            (
                ConvSpec {
                    input: &halves,
                    ..spec()
                },
                "its input does not fit",
            ),
            (
                ConvSpec {
                    channels: 48,
                    ..spec()
                },
                "its input does not fit",
            ),
            (
                ConvSpec {
                    first: [-2, -1],
                    ..spec()
                },
                "its taps lie outside",
            ),
            (
                ConvSpec {
                    first: [-1, 0],
                    ..spec()
                },
                "its taps lie outside",
            ),
            (
                ConvSpec {
                    up: [1, 2],
                    ..spec()
                },
                "it has other phases",
            ),
            (
                ConvSpec {
                    constants: &[],
                    ..spec()
                },
                "it has other phases or constants",
            ),
            (
                ConvSpec {
                    phases: &short,
                    ..spec()
                },
                "it has other weights",
            ),
            (
                ConvSpec {
                    levels: &[16],
                    ..spec()
                },
                "its levels do not fit",
            ),
            (
                ConvSpec {
                    levels: &[32, 32],
                    ..spec()
                },
                "its levels do not fit",
            ),
            (
                ConvSpec {
                    output: (&halves, None),
                    ..spec()
                },
                "its output does not fit",
            ),
            (
                ConvSpec {
                    residual: Some((&wider, Some(codes))),
                    ..spec()
                },
                "its residual does not fit",
            ),
            (
                ConvSpec {
                    residual: Some((&halves, None)),
                    ..spec()
                },
                "its residual has another type",
            ),
        ] {
            let error = Conv::new(&device, &wrong).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }

        let conv = Conv::new(&device, &spec()).unwrap();
        let lists = [([1, 1], 1), ([1, 2], 1), ([1, 1], 0)];
        let lists = lists.map(|(shape, levels)| TileList::all(&device, shape, levels).unwrap());
        let [list, other, flat] = lists.each_ref();
        let run =
            |list: &TileList| launch_all(&*device, std::iter::once((conv.params, &conv, list)));
        assert!(run(list).is_ok() && backgrounds(&*device, &conv, list).is_ok());
        assert!(run(other).is_err() && run(flat).is_err());
        assert!(super::conv(&*device, &[]).is_ok());
    }
}
