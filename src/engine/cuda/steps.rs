//! The launches of a frame, from a program's operators.
//!
//! Convolutions that need nothing of each other and run in one kernel share a launch, as those of a head's branches do.

use std::sync::Arc;

use crate::cuda::conv::{
    self, Conv, ConvKernel, ConvSpec, LARGEST, MAX_GROUP, MAX_LEVELS, PRODUCT,
};
use crate::cuda::direct::{self, Direct, DirectConv, DirectPhase, PixelOp};
use crate::cuda::place::{Place, Tensor};
use crate::cuda::tiles::{self, TileList, Tiles};
use crate::cuda::{CudaError, Device};
use crate::engine::EngineError;
use crate::engine::cuda::Options;
use crate::engine::cuda::pack::pack;
use crate::engine::reach::sources;
use crate::map::Element;
use crate::program::{self, DepthToSpaceMode, Op, OpKind, Program, values};

/// Most groups of a convolution that run as convolutions of their own.
const MOST_GROUPS: usize = 16;

/// A launch of a frame.
#[derive(Debug)]
pub(super) struct Step {
    /// The names of its operators.
    name: String,
    kind: StepKind,
}

#[derive(Debug)]
enum StepKind {
    Convs(Vec<(Conv, Arc<TileList>)>),
    Direct(Box<Direct>, Arc<TileList>),
    /// Chooses the tiles of later steps.
    Tiles(Box<Tiles>),
}

impl Step {
    /// A step that chooses the tiles of later ones.
    pub(super) fn tiles(name: &str, tiles: Tiles) -> Self {
        Self {
            name: name.to_owned(),
            kind: StepKind::Tiles(Box::new(tiles)),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Enqueues the launch.
    pub(super) fn run(&self, device: &dyn Device) -> Result<(), CudaError> {
        match &self.kind {
            StepKind::Convs(convs) => conv::conv(device, convs),
            StepKind::Direct(operator, list) => direct::direct(device, operator, list),
            StepKind::Tiles(tiles) => tiles::tiles(tiles),
        }
    }

    /// Enqueues the launches that compute what its tiles take from the background, when all maps hold it.
    pub(super) fn record_backgrounds(&self, device: &dyn Device) -> Result<(), CudaError> {
        match &self.kind {
            StepKind::Convs(convs) => {
                let mut convs = convs.iter();
                convs.try_for_each(|(conv, list)| conv::backgrounds(device, conv, list))
            }
            StepKind::Direct(..) | StepKind::Tiles(_) => Ok(()),
        }
    }

    /// Whether it can take another convolution of that kernel.
    fn takes(&self, conv: &Conv) -> bool {
        match &self.kind {
            StepKind::Convs(convs) => {
                convs.len() < MAX_GROUP && convs.iter().all(|(other, _)| other.same_kernel(conv))
            }
            StepKind::Direct(..) | StepKind::Tiles(_) => false,
        }
    }
}

/// The launches of a program.
pub(super) struct Steps {
    pub(super) steps: Vec<Step>,
    /// Number of steps before those of lazy operators.
    pub(super) first_lazy: usize,
    /// The tiles of each operator.
    pub(super) tiles: Vec<OperatorTiles>,
}

/// The tiles of an operator.
pub(super) struct OperatorTiles {
    /// All of them.
    pub(super) list: Arc<TileList>,
    /// By level from 1 on.
    pub(super) levels: Vec<Level>,
}

/// A level of a convolution's tiles: the sources of its input that they do not multiply.
pub(super) struct Level {
    /// The operators' outputs that the level before does multiply.
    pub(super) sources: Vec<usize>,
    /// Input channels that are left, of all.
    pub(super) left: [usize; 2],
    /// Their first position.
    first: usize,
}

/// Prepares the operators of a validated program, of which those from `first_lazy` on are lazy.
pub(super) fn steps(
    program: &Program,
    blob: &[u8],
    places: &[Place],
    device: &Arc<dyn Device>,
    first_lazy: usize,
    options: &Options,
) -> Result<Steps, EngineError> {
    let prepare = Prepare {
        program,
        blob,
        places,
        device,
        options,
    };
    let mut steps: Vec<Step> = Vec::with_capacity(program.ops.len());
    let mut tiles = Vec::with_capacity(program.ops.len());
    let mut first_lazy_step = None;
    // The first step that may read each root tensor.
    let mut ready = vec![0; program.tensors.len()];
    for (index, op) in program.ops.iter().enumerate() {
        let first = op.inputs().map(|input| ready[program.root(input).0]).max();
        let mut first = first.unwrap_or(0);
        if index >= first_lazy {
            first = first.max(*first_lazy_step.get_or_insert(steps.len()));
        }
        let mut last = 0;
        let prepared = prepare.operator(op)?;
        let levels = prepared.levels();
        let list = Arc::new(TileList::all(device, prepared.tiles(), levels)?);
        let levels = match prepared {
            Prepared::Convs(convs, levels) => {
                for conv in convs {
                    let room = (first..steps.len()).find(|&at| steps[at].takes(&conv));
                    let at = room.unwrap_or(steps.len());
                    if at == steps.len() {
                        steps.push(Step {
                            name: String::new(),
                            kind: StepKind::Convs(Vec::new()),
                        });
                    }
                    steps[at].add(&op.name, conv, list.clone());
                    last = last.max(at);
                }
                levels
            }
            Prepared::Direct(operator) => {
                last = steps.len();
                steps.push(Step {
                    name: op.name.clone(),
                    kind: StepKind::Direct(operator, list.clone()),
                });
                Vec::new()
            }
        };
        tiles.push(OperatorTiles { list, levels });
        let root = program.root(op.output).0;
        ready[root] = ready[root].max(last + 1);
    }
    Ok(Steps {
        first_lazy: first_lazy_step.unwrap_or(steps.len()),
        steps,
        tiles,
    })
}

impl Step {
    fn add(&mut self, name: &str, conv: Conv, list: Arc<TileList>) {
        if let StepKind::Convs(convs) = &mut self.kind {
            convs.push((conv, list));
        }
        if self.name.split(" + ").last() != Some(name) {
            let join = if self.name.is_empty() { "" } else { " + " };
            self.name = format!("{}{join}{name}", self.name);
        }
    }
}

/// An operator, ready to run.
enum Prepared {
    /// One for each group, and the levels of their tiles.
    Convs(Vec<Conv>, Vec<Level>),
    Direct(Box<Direct>),
}

impl Prepared {
    /// Rows and columns of its tiles.
    fn tiles(&self) -> [usize; 2] {
        match self {
            Self::Convs(convs, _) => convs.first().map_or([1; 2], Conv::tiles),
            Self::Direct(operator) => operator.tiles(),
        }
    }

    /// Number of their levels besides 0.
    fn levels(&self) -> usize {
        match self {
            Self::Convs(_, levels) => levels.len(),
            Self::Direct(_) => 0,
        }
    }
}

/// A convolution's groups, and the levels of their tiles.
type OnTensorCores = (Vec<Conv>, Vec<Level>);

/// What operators are prepared with.
struct Prepare<'a> {
    program: &'a Program,
    blob: &'a [u8],
    places: &'a [Place],
    device: &'a Arc<dyn Device>,
    options: &'a Options,
}

impl Prepare<'_> {
    fn tensor(&self, index: usize) -> Tensor<'_> {
        (&self.places[index], self.program.tensors[index].codes())
    }

    fn operator(&self, op: &Op) -> Result<Prepared, EngineError> {
        let pixels = |pixel_op: PixelOp<'_>, input: usize, relu: bool| {
            self.pixels(op, &pixel_op, input, None, relu)
        };
        match &op.kind {
            OpKind::Conv(conv) => {
                if let Some((convs, levels)) = self.convs(conv, op)? {
                    return Ok(Prepared::Convs(convs, levels));
                }
                log::warn!(
                    "`{}` does not run on tensor cores and is slow: {} x {} of stride {:?}, {} groups",
                    op.name,
                    conv.kernel[0],
                    conv.kernel[1],
                    conv.stride,
                    conv.groups
                );
                self.direct_conv(conv, op)
            }
            OpKind::Affine {
                input,
                scale,
                shift,
                relu,
            } => {
                let scale = values(self.blob, &scale.range())?;
                let shift = values(self.blob, &shift.range())?;
                pixels(PixelOp::Affine(scale, shift), *input, *relu)
            }
            OpKind::Add { a, b, relu } => self.pixels(op, &PixelOp::Add, *a, Some(*b), *relu),
            OpKind::Relu { input } => pixels(PixelOp::Relu, *input, true),
            OpKind::Sigmoid { input } => pixels(PixelOp::Sigmoid, *input, false),
            OpKind::Quantize { input } => pixels(PixelOp::Quantize, *input, false),
            OpKind::Dequantize { input } => pixels(PixelOp::Dequantize, *input, false),
            OpKind::DepthToSpace { input, block, mode } => {
                let crd = *mode == DepthToSpaceMode::Crd;
                pixels(PixelOp::DepthToSpace(*block, crd), *input, false)
            }
            OpKind::MaxPool {
                input,
                kernel,
                stride,
                pad,
            } => {
                let pool = PixelOp::MaxPool {
                    kernel: *kernel,
                    stride: *stride,
                    pad: *pad,
                };
                pixels(pool, *input, false)
            }
        }
    }

    fn pixels(
        &self,
        op: &Op,
        pixel_op: &PixelOp<'_>,
        input: usize,
        second: Option<usize>,
        relu: bool,
    ) -> Result<Prepared, EngineError> {
        let second = second.map(|second| self.tensor(second));
        let (input, output) = (self.tensor(input), self.tensor(op.output));
        let operator = Direct::pixels(self.device, pixel_op, input, second, output, relu)?;
        Ok(Prepared::Direct(Box::new(operator)))
    }

    /// The levels of a convolution's tiles: its input's first sources in chunks of the kernel's channels.
    fn levels_of(&self, spec: &program::Conv, kernel: &ConvKernel) -> Vec<Level> {
        let mut levels: Vec<Level> = Vec::new();
        if !self.options.skips_channels() || spec.groups != 1 || spec.phases.len() != 1 {
            return levels;
        }
        let shape = self.places[spec.input].shape();
        let channels = shape.span().next_multiple_of(kernel.channels);
        let all = shape.channels.len();
        let mut pending = Vec::new();
        for (source, part) in sources(self.program, spec.input) {
            let Some(&next) = shape.channels.get(part.end) else {
                break;
            };
            pending.push(source);
            let first = next as usize - shape.first();
            if levels.len() < MAX_LEVELS && kernel.may_begin(first, channels) {
                levels.push(Level {
                    sources: std::mem::take(&mut pending),
                    left: [all - part.end, all],
                    first,
                });
            }
        }
        levels
    }

    /// The convolution on tensor cores, one for each group, with the levels of their tiles; `None` if no kernel fits.
    fn convs(&self, spec: &program::Conv, op: &Op) -> Result<Option<OnTensorCores>, EngineError> {
        let (input, codes) = self.tensor(spec.input);
        let (output, out_codes) = self.tensor(op.output);
        let taps = || spec.phases.iter().flat_map(|phase| &phase.taps);
        let first = [0, 1].map(|axis| taps().map(|tap| tap[axis]).min().unwrap_or(0));
        let last = [0, 1].map(|axis| taps().map(|tap| tap[axis]).max().unwrap_or(0));
        let extent = (last[0] - first[0]).max(last[1] - first[1]) as usize + 1;
        if spec.stride[0] != spec.stride[1] || spec.groups > MOST_GROUPS {
            return Ok(None);
        }
        let (mut convs, mut levels) = (Vec::with_capacity(spec.groups), Vec::new());
        for group in 0..spec.groups {
            let part = |place: &Place| place.group(group, spec.groups);
            let (Some(input), Some(output)) = (part(input), part(output)) else {
                return Ok(None);
            };
            if !input.shape().is_aligned() || !output.shape().is_aligned() {
                return Ok(None);
            }
            let sizes =
                [&input, &output].map(|place| (place.shape().element, place.shape().span()));
            let [(element, channels), output_size] = sizes;
            let channels = channels.next_multiple_of(PRODUCT / element.bytes());
            let stride = spec.stride[0];
            let kernel = ConvKernel::choose(
                extent,
                stride,
                (element, channels),
                output_size,
                self.options.block.unwrap_or(LARGEST),
            );
            let Some(kernel) = kernel else {
                return Ok(None);
            };
            let residual = match spec.residual {
                None => None,
                Some(residual) => {
                    let (place, codes) = self.tensor(residual);
                    let fits = |place: &Place| {
                        let of = place.shape().element;
                        (of == Element::F32 || of == element)
                            && place.shape().adds_to(output.shape())
                    };
                    let Some(place) = part(place).filter(fits) else {
                        return Ok(None);
                    };
                    Some((place, codes))
                }
            };
            levels = self.levels_of(spec, &kernel);
            let firsts: Vec<usize> = levels.iter().map(|level| level.first).collect();
            let shapes = [input.shape(), output.shape()];
            let zero = codes.map_or(0, |codes| codes.zero);
            let packed = pack(spec, group, self.blob, &kernel, shapes, first, zero)?;
            let prepared = ConvSpec {
                kernel,
                input: &input,
                residual: residual.as_ref().map(|(place, codes)| (place, *codes)),
                output: (&output, out_codes),
                channels: packed.channels,
                levels: &firsts,
                first,
                up: spec.up,
                relu: spec.relu,
                phases: &packed.phases,
                constants: &packed.constants,
            };
            convs.push(Conv::new(self.device, &prepared)?);
        }
        Ok(Some((convs, levels)))
    }

    /// The convolution as the CPU engine computes it.
    fn direct_conv(&self, conv: &program::Conv, op: &Op) -> Result<Prepared, EngineError> {
        let mut phases = Vec::with_capacity(conv.phases.len());
        for phase in &conv.phases {
            phases.push(DirectPhase {
                taps: &phase.taps,
                weights: values(self.blob, &phase.weights.range())?,
                multiplier: match &phase.multiplier {
                    Some(multiplier) => values(self.blob, &multiplier.range())?,
                    None => &[],
                },
                bias: values(self.blob, &phase.bias.range())?,
            });
        }
        let spec = DirectConv {
            input: self.tensor(conv.input),
            residual: conv.residual.map(|residual| self.tensor(residual)),
            output: self.tensor(op.output),
            stride: conv.stride,
            up: conv.up,
            groups: conv.groups,
            narrow: conv.layout.is_narrow(),
            relu: conv.relu,
            phases: &phases,
        };
        Ok(Prepared::Direct(Box::new(Direct::conv(
            self.device,
            &spec,
        )?)))
    }
}
