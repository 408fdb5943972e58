//! Runs a frame through encoder, engine and decoder: the same steps on the CPU and on a GPU.

use std::sync::Arc;

use super::DetectorError;
use crate::chain::Chain;
use crate::cuda::{Device, Graph, StageError};
use crate::detection::{Clock, Dropped, Times};
use crate::engine::{Engine, Heads};
use crate::model::Model;
use crate::stages::{Decoder, Encoder};

/// An encoder, an engine and a decoder that fit together.
pub(super) struct Pipeline<E, D> {
    /// All stages of a frame, if they only enqueue work. Declared first, so it is freed before the buffers that it uses.
    graph: Option<Graph>,
    encoder: E,
    engine: Box<dyn Engine>,
    decoder: D,
    heads: Heads,
}

impl<E: Encoder, D: Decoder> Pipeline<E, D> {
    /// Checks that the engine's maps match `model`.
    pub(super) fn new(
        model: &Model,
        encoder: E,
        engine: Box<dyn Engine>,
        decoder: D,
    ) -> Result<Self, DetectorError> {
        Ok(Self {
            graph: None,
            heads: Heads::find(&*engine, model)?,
            encoder,
            engine,
            decoder,
        })
    }

    /// Records the stages as one CUDA graph. All of them, including the engine, must run on `device`. If one cannot be
    /// recorded, which a TensorRT engine need not allow, every frame enqueues them one by one.
    pub(super) fn record(&mut self, device: &Arc<dyn Device>) -> Result<(), DetectorError> {
        let mut times = Times::default();
        self.stages(&mut times)?;
        match Graph::record(device, || self.stages(&mut times)) {
            Ok(graph) => self.graph = Some(graph),
            Err(error) => {
                device.wait()?;
                log::warn!("no CUDA graph, so a frame takes longer: {}", Chain(&error));
            }
        }
        Ok(())
    }

    /// Runs the frame that `load` passes to the encoder.
    pub(super) fn run(
        &mut self,
        load: impl FnOnce(&mut E) -> Result<(), StageError>,
    ) -> Result<(Dropped, Times), DetectorError> {
        let clock = Clock::start();
        let (mut dropped, mut times) = (Dropped::default(), Times::default());
        load(&mut self.encoder)?;
        match &mut self.graph {
            // SAFETY: the graph uses buffers of the encoder, the engine and the decoder, which outlive it.
            #[allow(unsafe_code)]
            Some(graph) => unsafe { graph.launch() }?,
            None => self.stages(&mut times)?,
        }
        self.encoder.finish(&mut dropped, &mut times)?;
        self.decoder.finish(&mut dropped, &mut times)?;
        times.total = clock.total();
        Ok((dropped, times))
    }

    /// Runs everything between the loaded points and the finished boxes.
    fn stages(&mut self, times: &mut Times) -> Result<(), DetectorError> {
        self.encoder.encode(self.engine.input_map())?;
        let mut clock = Clock::start();
        self.engine.run()?;
        clock.lap(&mut times.engine);
        for task in 0..self.heads.tasks() {
            let maps = self.heads.maps(&*self.engine, task)?;
            self.decoder.decode(task, maps)?;
        }
        self.decoder.suppress()?;
        Ok(())
    }

    pub(super) fn engine_mut(&mut self) -> &mut dyn Engine {
        &mut *self.engine
    }

    pub(super) fn decoder(&self) -> &D {
        &self.decoder
    }
}
