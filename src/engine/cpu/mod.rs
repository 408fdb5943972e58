//! The CPU engine: convolutional networks in f32 and INT8, in plain Rust, on any instruction set.
//!
//! It runs a [`Program`]: `CpuEngine::new(program, weights, pool, &options)`, then like any [`Engine`].
//! [`CpuEngine::run_with`] also shows every tensor, for calibration, and `profile` times every layer. The engine
//! reads the weights in place, for instance from an opened plan; see [`Weights`].
//!
//! # How it computes
//! Maps are NHWC with a border of zeros (`arena.rs`). Weights are stored in blocks of 16 output channels, in one
//! layout for all instruction sets ([`crate::program::layout`]). A tile of pixels by 16 or 32 output channels stays
//! in registers during the reduction (`kernels.rs`). Every output element is one chain of fused multiply-adds in a
//! fixed order (tap by tap, channel by channel, starting from the bias). The result's bytes therefore depend neither
//! on the instruction set nor on the number of threads.
//!
//! Three things are not computed, and no byte changes: pixels that see only empty input are copied (`skip.rs`), channels
//! that see only empty input enter the sums of an INT8 convolution as constants (`slices.rs`), and what the decoder does not
//! read is left out (`lazy.rs`).
//!
//! The compiler decides which convolutions run in INT8. Their sums are exact integers, followed by a fixed sequence
//! of f32 operations ([`crate::program::Conv`], `int8_kernels`), so their bytes are reproducible too. Codes with a zero
//! point, from networks that other tools quantised, run in the same kernels: it fills the border of a map, a sum starts
//! from minus what the zero point would add, and it is added to the rounded result.

mod active;
mod arena;
mod bands;
mod conv;
mod exec;
mod expand;
mod int8_kernels;
mod int8_simd;
mod kernels;
mod lazy;
mod marks;
mod reference;
mod simd;
mod skip;
mod slices;
mod steps;

pub(in crate::engine) use arena::border;
pub(in crate::engine) use expand::expand;
#[cfg(feature = "build")]
pub(crate) use kernels::{Residual, Row, narrow_row, wide_channels, wide_row};
pub use simd::Isa;
#[cfg(feature = "build")]
pub(crate) use simd::{Kernel, Lanes, dispatch};

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cpu::pool::Pool;
use crate::engine::cpu::arena::{LINE, TensorPlace};
use crate::engine::cpu::bands::StepContext;
use crate::engine::cpu::exec::{Step, StepKind};
use crate::engine::cpu::lazy::Lazy;
use crate::engine::cpu::skip::Skip;
use crate::engine::cpu::steps::{completed, steps};
use crate::engine::lazy::LazyHeads;
use crate::engine::{Engine, EngineError, LayerTime, MapMut, MapRef};
use crate::map::{Location, MapDataMut, MapDesc, MapView, MapViewMut};
use crate::program::{Codes, Program};

/// The owner of the weight blob: `Arc::new(vec)`, or a type that wraps a memory map and returns the blob's part of
/// it. `as_ref` must return the same bytes each time, aligned to 4 bytes. Alignment to [`crate::program::ALIGN`] is
/// fastest.
pub(crate) type Weights = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A callback of [`CpuEngine::run_with`]; receives each tensor's name and values.
pub(crate) type Observer<'a> = dyn FnMut(&str, MapView<'_>) + 'a;

/// A callback of [`CpuEngine::run_with_codes`]; receives each tensor's name and codes.
#[cfg(feature = "build")]
pub(crate) type CodeObserver<'a> = dyn FnMut(&str, &[i8], crate::map::MapLayout) + 'a;

/// Receives the name of a completed tensor, the arena, and the tensor's place in it.
type Show<'a> = dyn FnMut(&str, &[u8], &TensorPlace) + 'a;

/// Execution options.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Instruction set. `None` uses the one named by the environment variable `CENTERPOINT_ISA` (see [`Isa::name`]), or
    /// else the best that this machine has.
    pub isa: Option<Isa>,
    /// Whether to skip pixels that see only zeros of the input. The results have the same bytes. Default: yes. Costs
    /// one run when the engine is created.
    pub skip_empty: Option<bool>,
    /// Whether INT8 convolutions of a Concat multiply only the channels of those sources that differ from what they hold for
    /// zeros. The results have the same bytes. Default: yes. Needs `skip_empty`.
    pub skip_channels: Option<bool>,
    /// Maps to compute only at the cells that are read, which have the same bytes; elsewhere they hold what they hold for an
    /// input of zeros, or zeros. The operators of these maps run after all others. `None` computes all of every map, and so
    /// does [`CpuEngine::run_with`] in any case.
    pub lazy_heads: Option<LazyHeads>,
}

/// A program that is ready to run, with its weights, memory and threads.
pub struct CpuEngine {
    input: MapDesc,
    outputs: Vec<MapDesc>,
    input_place: TensorPlace,
    output_places: Vec<TensorPlace>,
    steps: Vec<Step>,
    /// Operator names, one per step.
    names: Vec<String>,
    /// Tensors that each step completes, for observers.
    completed: Vec<Vec<(String, TensorPlace)>>,
    weights: Weights,
    pool: Arc<Pool>,
    isa: Isa,
    arena: Vec<CacheLine>,
    /// Selects the pixels to compute; `None` computes all.
    skip: Option<Skip>,
    /// Selects pixels of the maps that are read only in part; `None` if there are none.
    lazy: Option<Lazy>,
    /// Time of each step in the last run, if timing is on.
    times: Option<Vec<Duration>>,
}

/// A cache line of the arena. It sets the arena's alignment.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct CacheLine([u8; LINE]);

impl CpuEngine {
    /// Checks the program, plans its memory and allocates it.
    ///
    /// # Errors
    /// [`EngineError::Program`] if the program is inconsistent or does not match the weights, [`EngineError::Memory`] if
    /// its maps are too large, [`EngineError::Device`] if the requested instruction set is missing.
    pub fn new(
        program: Program,
        weights: Weights,
        pool: Arc<Pool>,
        options: &Options,
    ) -> Result<Self, EngineError> {
        let isa = Isa::choose(options.isa)?;
        program.validate((*weights).as_ref().len())?;
        let (mut program, weights) = expand::expand(program, weights)?;
        let (_, len) = arena::plan(&program)?;
        let heads = options.lazy_heads.as_ref();
        let lazy = heads.and_then(|heads| Lazy::plan(&mut program, heads, len));
        let (places, len) = arena::plan(&program)?;
        let lines = len.div_ceil(LINE);
        let mut arena = Vec::new();
        arena
            .try_reserve_exact(lines)
            .map_err(|error| EngineError::Device {
                device: "cpu".to_owned(),
                reason: format!("cannot allocate {len} bytes for feature maps: {error}"),
            })?;
        arena.resize(lines, CacheLine([0; LINE]));

        let desc = |name: &str, place: &TensorPlace| MapDesc {
            name: name.to_owned(),
            channels: place.channels,
            height: place.height,
            width: place.width,
        };
        let input_place = places[program.input];
        let output_places: Vec<TensorPlace> = program
            .outputs
            .iter()
            .map(|output| places[output.tensor])
            .collect();
        let outputs = program.outputs.iter().zip(&output_places);
        let mut engine = Self {
            input: desc(&program.tensors[program.input].name, &input_place),
            outputs: outputs
                .map(|(output, place)| desc(&output.name, place))
                .collect(),
            input_place,
            output_places,
            steps: steps(&program, &places),
            names: program.ops.iter().map(|op| op.name.clone()).collect(),
            completed: completed(&program, &places),
            weights,
            pool,
            isa,
            arena,
            skip: None,
            lazy,
            times: None,
        };
        if options.skip_empty.unwrap_or(true)
            && let Some(skip) = Skip::new(
                &program,
                engine.arena_bytes(),
                options.skip_channels.unwrap_or(true),
            )
        {
            engine.skip = Some(engine.record_references(skip)?);
        }
        Ok(engine)
    }

    /// Runs on an input of zeros and records each operator's output as its reference.
    fn record_references(&mut self, mut skip: Skip) -> Result<Skip, EngineError> {
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        for (index, step) in self.steps.iter().enumerate() {
            let context = StepContext {
                pool: &self.pool,
                isa: self.isa,
                weights: (*self.weights).as_ref(),
                active: None,
                slices: None,
                signed_input: false,
            };
            step.run(context, arena)?;
            skip.record(index, &step.target.output, arena);
            if let StepKind::Conv(conv) = &step.kind {
                let output = &step.target.output;
                skip.record_slices(index, |quads, before, most| {
                    conv.background(output, context, arena, quads, before, most)
                });
            }
        }
        Ok(skip)
    }

    /// Runs the network and passes every f32 tensor to `observer` once, by name, as soon as it is complete: first the
    /// network's input, then each operator's output (after its fused ReLU). A Concat is complete when its last part is
    /// written. The views exclude borders.
    pub fn run_with(&mut self, observer: &mut Observer<'_>) -> Result<(), EngineError> {
        let mut show = |name: &str, arena: &[u8], place: &TensorPlace| {
            if place.codes.is_none() {
                observer(name, view(arena, place));
            }
        };
        let place = self.input_place;
        show(&self.input.name, bytemuck::cast_slice(&self.arena), &place);
        self.execute(Some(&mut show))
    }

    /// Runs the network and passes every tensor of codes to `observer` once, by name, as soon as it is complete: first the
    /// network's input, then each operator's output. The layout gives the place of an element, within a border of codes of 0.
    #[cfg(feature = "build")]
    pub(crate) fn run_with_codes(
        &mut self,
        observer: &mut CodeObserver<'_>,
    ) -> Result<(), EngineError> {
        let mut show = |name: &str, arena: &[u8], place: &TensorPlace| {
            if place.codes.is_some() {
                let codes = bytemuck::cast_slice(&arena[place.buffer()]);
                observer(name, codes, place.layout());
            }
        };
        let place = self.input_place;
        show(&self.input.name, bytemuck::cast_slice(&self.arena), &place);
        self.execute(Some(&mut show))
    }

    /// Turns operator timing on or off. Timing costs nothing while off.
    pub fn set_timing(&mut self, on: bool) {
        self.times = on.then(|| vec![Duration::ZERO; self.steps.len()]);
    }

    /// Time of each operator in the last run, in the order of [`Program::layers`], with those of lazy heads
    /// ([`Options::lazy_heads`]) behind the others; empty if timing is off.
    pub fn layer_times(&self) -> &[Duration] {
        self.times.as_deref().unwrap_or_default()
    }

    /// Fraction of each operator's arithmetic that the last run did, in the order of [`CpuEngine::layer_times`]. The rest of
    /// its output was copied (see [`Options::skip_empty`]) or is not read ([`Options::lazy_heads`]), or the rest of its
    /// channels was not multiplied ([`Options::skip_channels`]).
    pub fn layer_shares(&self) -> Vec<f32> {
        let mut shares: Vec<f32> = match &self.skip {
            Some(skip) => skip.computed().collect(),
            None => vec![1.0; self.steps.len()],
        };
        for (index, share) in shares.iter_mut().enumerate() {
            let lazy = self.lazy.as_ref().and_then(|lazy| lazy.computed(index));
            *share = lazy.unwrap_or(*share);
        }
        shares
    }

    /// Size of the memory that holds all feature maps, in bytes.
    pub fn arena_bytes(&self) -> usize {
        size_of_val(&self.arena[..])
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn execute(&mut self, mut show: Option<&mut Show<'_>>) -> Result<(), EngineError> {
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        if let Some(skip) = &mut self.skip {
            skip.mark(&self.pool, &self.input_place, arena);
        }
        let skip = self.skip.as_ref();
        let mut lazy = self.lazy.as_mut();
        for (index, step) in self.steps.iter().enumerate() {
            if let Some(lazy) = &mut lazy
                && index == lazy.first()
            {
                match show {
                    None => lazy.mark(&self.pool, &self.output_places, arena, skip),
                    // An observer sees whole maps.
                    Some(_) => lazy.mark_all(),
                }
            }
            let mut active = skip.and_then(|skip| skip.active(index));
            if let Some(lazy) = &lazy {
                active = lazy.active(index, active, skip);
            }
            let context = StepContext {
                pool: &self.pool,
                isa: self.isa,
                weights: (*self.weights).as_ref(),
                signed_input: skip.is_none_or(Skip::has_negative_codes),
                active,
                slices: skip.and_then(|skip| skip.slices(index)),
            };
            let begin = self.times.is_some().then(Instant::now);
            step.run(context, arena)?;
            if let (Some(times), Some(begin)) = (&mut self.times, begin) {
                times[index] = begin.elapsed();
            }
            if let Some(show) = &mut show {
                for (name, place) in &self.completed[index] {
                    show(name, arena, place);
                }
            }
        }
        Ok(())
    }
}

impl CpuEngine {
    /// The input map; see [`Engine::input_map`].
    pub fn input_mut(&mut self) -> MapViewMut<'_> {
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        let buffer = &mut arena[self.input_place.buffer()];
        MapViewMut {
            data: match self.input_place.codes {
                None => MapDataMut::F32(bytemuck::cast_slice_mut(buffer)),
                // The zero point of a program's input is 0.
                Some(Codes { scale, .. }) => MapDataMut::I8 {
                    codes: bytemuck::cast_slice_mut(buffer),
                    scale,
                },
            },
            layout: self.input_place.layout(),
        }
    }

    /// Output `index`; see [`Engine::output_map`].
    pub fn output(&self, index: usize) -> Option<MapView<'_>> {
        let place = self.output_places.get(index)?;
        Some(view(bytemuck::cast_slice(&self.arena), place))
    }
}

impl Engine for CpuEngine {
    fn input(&self) -> &MapDesc {
        &self.input
    }

    fn outputs(&self) -> &[MapDesc] {
        &self.outputs
    }

    fn location(&self) -> Location {
        Location::Host
    }

    fn input_map(&mut self) -> MapMut<'_> {
        MapMut::Host(self.input_mut())
    }

    fn output_map(&self, index: usize) -> Option<MapRef<'_>> {
        self.output(index).map(MapRef::Host)
    }

    fn run(&mut self) -> Result<(), EngineError> {
        self.execute(None)
    }

    fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        self.set_timing(true);
        let done = self.execute(None);
        let times = self.names.iter().zip(self.layer_times());
        let times = times.map(|(name, time)| LayerTime {
            name: name.clone(),
            ms: time.as_secs_f64() * 1e3,
        });
        let times = times.collect();
        self.set_timing(false);
        done.map(|()| times)
    }
}

/// A view of an f32 map in the arena.
fn view<'a>(arena: &'a [u8], place: &TensorPlace) -> MapView<'a> {
    MapView {
        data: bytemuck::cast_slice(&arena[place.buffer()]),
        layout: place.layout(),
    }
}
