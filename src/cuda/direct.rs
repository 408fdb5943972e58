//! The engine's operators that do not run on tensor cores: the kernels of `kernels/direct.cu`.

use std::sync::Arc;

use bytemuck::{NoUninit, Zeroable};

use super::device::{Buffer, CudaError, Device, DevicePtr, KernelParams, Launch, launch};
use super::place::{Place, Tensor, is_typed};
use super::tiles::{TILE, TileList};

/// Threads of a block; `THREADS` in the kernels.
const THREADS: u32 = 128;
/// Output channels of a block; `LANES` in the kernels.
const LANES: usize = 16;
/// Blocks that a multiprocessor holds at a time.
const RESIDENT: usize = 8;

/// The mirror of `View` in `kernels/direct.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct View {
    data: DevicePtr<u8>,
    channels: DevicePtr<u32>,
    count: u32,
    row: u32,
    pixel: u32,
    element: u32,
    scale: f32,
    zero: i32,
}

/// The mirror of `DirectPhase` in `kernels/direct.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct PhaseParams {
    weights: DevicePtr<u8>,
    multiplier: DevicePtr<f32>,
    bias: DevicePtr<f32>,
    taps: DevicePtr<[i32; 2]>,
    count: u32,
    reserved: u32,
}

/// The mirror of `DirectParams` in `kernels/direct.cu`.
#[derive(Clone, Copy, Debug, NoUninit, Zeroable)]
#[repr(C)]
struct Params {
    input: View,
    output: View,
    second: View,
    tiles: DevicePtr<u32>,
    count: DevicePtr<u32>,
    /// Of a convolution; the factors of an affine operator.
    phases: DevicePtr<u8>,
    shift: DevicePtr<f32>,
    height: u32,
    width: u32,
    input_height: u32,
    input_width: u32,
    kernel: [u32; 2],
    stride: [u32; 2],
    up: [u32; 2],
    pad: [u32; 2],
    groups: u32,
    narrow: u32,
    relu: u32,
    op: u32,
    block: u32,
    crd: u32,
}

const _: () = assert!(size_of::<View>() == 40);
const _: () = assert!(size_of::<PhaseParams>() == 40);
const _: () = assert!(size_of::<Params>() == 224);

// SAFETY: `direct` takes the addresses from an operator and a list that it borrows and that keep their memory. The
// constructors of `Direct` check that the kernels read and write inside it for every tile of the output, and `direct` that
// the list has only those.
#[allow(unsafe_code)]
unsafe impl KernelParams for Params {
    const KERNELS: &'static [&'static str] =
        &["direct_conv_s8", "direct_conv_f32", "direct_pixels"];
}

/// What [`Direct::pixels`] computes; see [`OpKind`](crate::program::OpKind).
#[derive(Clone, Debug)]
pub(crate) enum PixelOp<'a> {
    /// `input · scale[c] + shift[c]`.
    Affine(&'a [f32], &'a [f32]),
    /// `input + second`.
    Add,
    Relu,
    Sigmoid,
    Quantize,
    Dequantize,
    /// The size of a block of pixels, and whether the order of channels is CRD.
    DepthToSpace(usize, bool),
    MaxPool {
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 2],
    },
}

/// A phase of a convolution. Weights are in the program's layout.
#[derive(Clone, Debug)]
pub(crate) struct DirectPhase<'a> {
    /// Offsets of the input pixels.
    pub(crate) taps: &'a [[i32; 2]],
    /// Codes, or f32 as bytes.
    pub(crate) weights: &'a [u8],
    /// Of codes.
    pub(crate) multiplier: &'a [f32],
    pub(crate) bias: &'a [f32],
}

/// A convolution to prepare.
#[derive(Debug)]
pub(crate) struct DirectConv<'a> {
    pub(crate) input: Tensor<'a>,
    pub(crate) residual: Option<Tensor<'a>>,
    pub(crate) output: Tensor<'a>,
    pub(crate) stride: [usize; 2],
    pub(crate) up: [usize; 2],
    pub(crate) groups: usize,
    pub(crate) narrow: bool,
    pub(crate) relu: bool,
    pub(crate) phases: &'a [DirectPhase<'a>],
}

/// An operator that is ready to run.
#[derive(Debug)]
pub(crate) struct Direct {
    kernel: &'static str,
    /// Everything but the tiles.
    params: Params,
    /// Rows and columns of tiles.
    tiles: [usize; 2],
    /// Jobs of a tile.
    parts: usize,
    _kept: Kept,
}

/// The memory that an operator uses.
#[derive(Debug, Default)]
struct Kept {
    numbers: Vec<Buffer<u32>>,
    values: Vec<Buffer<f32>>,
    bytes: Vec<Buffer<u8>>,
    taps: Vec<Buffer<[i32; 2]>>,
    phases: Vec<Buffer<PhaseParams>>,
    places: Vec<Place>,
}

impl Kept {
    /// The kernels' view of a tensor.
    fn view(
        &mut self,
        device: &Arc<dyn Device>,
        (place, codes): Tensor<'_>,
    ) -> Result<View, CudaError> {
        let shape = place.shape();
        let channels = Buffer::new(device, "channels", &shape.channels)?;
        let view = View {
            data: place.at(shape.start()),
            channels: channels.ptr(),
            count: shape.channels.len() as u32,
            row: shape.row() as u32,
            pixel: shape.pixel as u32,
            element: shape.element as u32,
            scale: codes.map_or(1.0, |codes| codes.scale),
            zero: codes.map_or(0, |codes| i32::from(codes.zero)),
        };
        self.numbers.push(channels);
        self.places.push(place.clone());
        Ok(view)
    }

    fn values(
        &mut self,
        device: &Arc<dyn Device>,
        values: &[f32],
    ) -> Result<DevicePtr<f32>, CudaError> {
        let buffer = Buffer::new(device, "constants", values)?;
        let address = buffer.ptr();
        self.values.push(buffer);
        Ok(address)
    }
}

fn refuse<T>(kernel: &'static str, reason: &str) -> Result<T, CudaError> {
    Err(CudaError::Kernel {
        kernel: kernel.into(),
        reason: reason.into(),
    })
}

/// Rows, columns and channels of a tensor.
fn size((place, _): Tensor<'_>) -> [usize; 3] {
    let shape = place.shape();
    [shape.height, shape.width, shape.channels.len()]
}

impl Direct {
    /// A convolution of codes or of f32. Copies the weights to the device.
    ///
    /// # Errors
    /// [`CudaError::Kernel`] if the kernel would leave the memory of a tensor, [`CudaError::Memory`], [`CudaError::Copy`].
    pub(crate) fn conv(device: &Arc<dyn Device>, spec: &DirectConv<'_>) -> Result<Self, CudaError> {
        let of_codes = spec.input.1.is_some();
        let kernel = if of_codes {
            "direct_conv_s8"
        } else {
            "direct_conv_f32"
        };
        let (input, output) = (spec.input.0.shape(), spec.output.0.shape());
        let [height, width, count] = size(spec.output);
        let tensors = [Some(spec.input), spec.residual, Some(spec.output)];
        let whole = |channels: usize| channels.is_multiple_of(spec.groups) && channels > 0;
        if spec.groups == 0
            || !whole(count)
            || !whole(input.channels.len())
            || !tensors.into_iter().flatten().all(is_typed)
            || spec
                .residual
                .is_some_and(|other| size(other) != size(spec.output))
            || spec.up.contains(&0)
            || spec.phases.len() != spec.up[0] * spec.up[1]
            || (!of_codes && spec.narrow && !input.channels.len().is_multiple_of(LANES))
            || (spec.narrow && spec.groups != 1)
        {
            return refuse(kernel, "its tensors do not fit");
        }
        let (per_group, channels) = (count / spec.groups, input.channels.len() / spec.groups);
        let lanes = if spec.narrow { 1 } else { LANES };
        let blocks = spec.groups * per_group.div_ceil(lanes);
        let padded = match (of_codes, spec.narrow) {
            (true, true) => channels.next_multiple_of(32),
            (true, false) => channels.next_multiple_of(4),
            (false, _) => channels,
        };
        let steps = [height.div_ceil(spec.up[0]), width.div_ceil(spec.up[1])];
        for phase in spec.phases {
            let bytes = if of_codes { 1 } else { size_of::<f32>() };
            let weights = blocks * lanes * phase.taps.len() * padded * bytes;
            if phase.weights.len() < weights
                || phase.bias.len() < blocks * lanes
                || (of_codes && phase.multiplier.len() < blocks * lanes)
            {
                return refuse(kernel, "it has other weights");
            }
            for axis in [0, 1] {
                let border = input.border as i64;
                let len = [input.height, input.width][axis] as i64;
                let last = ((steps[axis] - 1) * spec.stride[axis]) as i64;
                let inside = |tap: &[i32; 2]| {
                    let tap = i64::from(tap[axis]);
                    tap >= -border && last + tap < len + border
                };
                if !phase.taps.iter().all(inside) {
                    return refuse(kernel, "its taps lie outside the input's border");
                }
            }
        }
        let mut kept = Kept::default();
        let mut phases = Vec::with_capacity(spec.phases.len());
        for phase in spec.phases {
            let weights = Buffer::new(device, "weights", phase.weights)?;
            let taps = Buffer::new(device, "taps", phase.taps)?;
            phases.push(PhaseParams {
                weights: weights.ptr(),
                multiplier: kept.values(device, phase.multiplier)?,
                bias: kept.values(device, phase.bias)?,
                taps: taps.ptr(),
                count: phase.taps.len() as u32,
                reserved: 0,
            });
            kept.bytes.push(weights);
            kept.taps.push(taps);
        }
        let phases = Buffer::new(device, "phases", &phases)?;
        let params = Params {
            input: kept.view(device, spec.input)?,
            output: kept.view(device, spec.output)?,
            second: match spec.residual {
                Some(residual) => kept.view(device, residual)?,
                None => View::zeroed(),
            },
            phases: phases.ptr().cast(),
            height: output.height as u32,
            width: output.width as u32,
            stride: spec.stride.map(|stride| stride as u32),
            up: spec.up.map(|up| up as u32),
            groups: spec.groups as u32,
            narrow: u32::from(spec.narrow),
            relu: u32::from(spec.relu),
            ..Params::zeroed()
        };
        kept.phases.push(phases);
        Ok(Self {
            kernel,
            params,
            tiles: [0, 1].map(|axis| steps[axis].div_ceil(TILE[axis])),
            parts: spec.phases.len() * blocks,
            _kept: kept,
        })
    }

    /// An operator on pixels. `second` is what [`PixelOp::Add`] adds.
    ///
    /// # Errors
    /// The same as [`Direct::conv`].
    pub(crate) fn pixels(
        device: &Arc<dyn Device>,
        op: &PixelOp<'_>,
        input: Tensor<'_>,
        second: Option<Tensor<'_>>,
        output: Tensor<'_>,
        relu: bool,
    ) -> Result<Self, CudaError> {
        let kernel = "direct_pixels";
        let [height, width, channels] = size(output);
        let shaped = match op {
            PixelOp::DepthToSpace(block, _) => {
                *block > 0
                    && size(input).map(Some)
                        == [
                            height.is_multiple_of(*block).then(|| height / block),
                            width.is_multiple_of(*block).then(|| width / block),
                            channels.checked_mul(block * block),
                        ]
                    && input.1 == output.1
            }
            PixelOp::MaxPool { .. } => size(input)[2] == channels && input.1 == output.1,
            PixelOp::Affine(scale, shift) => {
                size(input) == size(output) && scale.len().min(shift.len()) >= channels
            }
            _ => size(input) == size(output),
        };
        let tensors = [Some(input), second, Some(output)];
        if !shaped
            || !tensors.into_iter().flatten().all(is_typed)
            || matches!(op, PixelOp::Add) != second.is_some()
            || second.is_some_and(|second| size(second) != size(output))
        {
            return refuse(kernel, "its tensors do not fit");
        }
        let mut kept = Kept::default();
        let mut params = Params {
            input: kept.view(device, input)?,
            output: kept.view(device, output)?,
            second: match second {
                Some(second) => kept.view(device, second)?,
                None => View::zeroed(),
            },
            height: height as u32,
            width: width as u32,
            input_height: size(input)[0] as u32,
            input_width: size(input)[1] as u32,
            relu: u32::from(relu),
            ..Params::zeroed()
        };
        params.op = match op {
            PixelOp::Affine(scale, shift) => {
                params.phases = kept.values(device, scale)?.cast();
                params.shift = kept.values(device, shift)?;
                0
            }
            PixelOp::Add => 1,
            PixelOp::Relu => {
                params.relu = 1;
                2
            }
            PixelOp::Sigmoid => 3,
            PixelOp::Quantize => 4,
            PixelOp::Dequantize => 5,
            PixelOp::DepthToSpace(block, crd) => {
                params.block = *block as u32;
                params.crd = u32::from(*crd);
                6
            }
            PixelOp::MaxPool {
                kernel,
                stride,
                pad,
            } => {
                params.kernel = kernel.map(|v| v as u32);
                params.stride = stride.map(|v| v as u32);
                params.pad = pad.map(|v| v as u32);
                7
            }
        };
        Ok(Self {
            kernel,
            params,
            tiles: [height.div_ceil(TILE[0]), width.div_ceil(TILE[1])],
            parts: 1,
            _kept: kept,
        })
    }

    /// Rows and columns of tiles of [`TILE`] steps or pixels.
    pub(crate) fn tiles(&self) -> [usize; 2] {
        self.tiles
    }
}

/// Runs an operator for the tiles of a list.
///
/// # Errors
/// [`CudaError::Kernel`].
pub(crate) fn direct(
    device: &dyn Device,
    operator: &Direct,
    list: &TileList,
) -> Result<(), CudaError> {
    if list.shape() != operator.tiles || list.levels() != 0 {
        return refuse(operator.kernel, "it gets the tiles of another map");
    }
    let params = Params {
        tiles: list.tiles(),
        count: list.count(),
        ..operator.params
    };
    let jobs = operator.tiles[0] * operator.tiles[1] * operator.parts;
    let most = device.multiprocessors() as usize * RESIDENT;
    let shape = Launch {
        kernel: operator.kernel,
        grid: [jobs.min(most).max(1) as u32, 1, 1],
        block: THREADS,
        shared: 0,
    };
    launch(device, &shape, &params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::place::tests::{device, place};
    use crate::map::Element;
    use crate::program::Codes;

    #[test]
    fn what_does_not_fit_is_refused() {
        let device = device();
        let codes = Some(Codes {
            scale: 1.0,
            zero: 0,
        });
        let of = |element, size| place(&device, element, size);
        let (input, output) = (of(Element::I8, [4, 8, 16]), of(Element::F32, [16, 8, 16]));
        let narrow = of(Element::F32, [16, 8, 15]);
        let taps = [[-1, 0], [0, 1]];
        let phase = DirectPhase {
            taps: &taps,
            weights: &[0; 2 * 4 * 16],
            multiplier: &[1.0; 16],
            bias: &[0.0; 16],
        };
        let far = [DirectPhase {
            taps: &[[-2, 0], [0, 1]],
            ..phase.clone()
        }];
        let short = [DirectPhase {
            bias: &[],
            ..phase.clone()
        }];
        let phases = [phase];
        let spec = || DirectConv {
            input: (&input, codes),
            residual: None,
            output: (&output, None),
            stride: [1, 1],
            up: [1, 1],
            groups: 1,
            narrow: false,
            relu: false,
            phases: &phases,
        };
        for (wrong, problem) in [
            (
                DirectConv {
                    groups: 3,
                    ..spec()
                },
                "its tensors do not fit",
            ),
            (
                DirectConv {
                    input: (&input, None),
                    ..spec()
                },
                "its tensors do not fit",
            ),
            (
                DirectConv {
                    residual: Some((&narrow, None)),
                    ..spec()
                },
                "its tensors do not fit",
            ),
            (
                DirectConv {
                    phases: &short,
                    ..spec()
                },
                "it has other weights",
            ),
            (
                DirectConv {
                    phases: &far,
                    ..spec()
                },
                "its taps lie outside",
            ),
            (
                DirectConv {
                    stride: [2, 1],
                    ..spec()
                },
                "its taps lie outside",
            ),
        ] {
            let error = Direct::conv(&device, &wrong).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let (a, b) = ((&output, None), (&narrow, None));
        for (op, input, second) in [
            (PixelOp::Relu, b, None),
            (PixelOp::Relu, a, Some(a)),
            (PixelOp::Add, a, None),
            (PixelOp::Add, a, Some(b)),
            (PixelOp::Affine(&[1.0; 16], &[0.0; 15]), a, None),
            (PixelOp::DepthToSpace(3, false), a, None),
        ] {
            assert!(
                Direct::pixels(&device, &op, input, second, a, false).is_err(),
                "{op:?}"
            );
        }
        let operator = Direct::conv(&device, &spec()).unwrap();
        for (shape, levels, fits) in [([1, 1], 0, true), ([1, 2], 0, false), ([1, 1], 1, false)] {
            let list = TileList::all(&device, shape, levels).unwrap();
            assert_eq!(direct(&*device, &operator, &list).is_ok(), fits);
        }
    }
}
