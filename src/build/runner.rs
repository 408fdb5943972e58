//! A network on frames, offline: what a [`Detector`](crate::Detector) computes up to the head maps,
//! from a payload that is in no plan yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::calibrate::CalibrationError;
use super::{BuildError, Result};
use crate::cpu::{self, Pool};
use crate::engine::cpu::{CodeObserver, CpuEngine, Observer, Options};
use crate::engine::{Engine, check_input};
use crate::model::{Model, Pfn};
use crate::points::{self, FrameError, Layout, Mounting, PointCloud, ReadOptions, Transform};
use crate::program::Payload;

/// The network's input of one frame: its occupied cells.
#[derive(Clone, Debug)]
pub(crate) struct Bev {
    /// Cells of the pillars, `y · width + x`.
    cells: Vec<u32>,
    /// Features of each, `[pillar][channel]`.
    features: Vec<f32>,
}

impl Bev {
    /// The occupied cells, `y · width + x`, each with its features.
    pub(crate) fn pillars(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let channels = self.features.len() / self.cells.len().max(1);
        let features = self.features.chunks_exact(channels.max(1));
        self.cells.iter().map(|&cell| cell as usize).zip(features)
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.cells[..]) + size_of_val(&self.features[..])
    }
}

/// Reads frames, and finds the way from each to the model.
pub(crate) struct FrameReader {
    read: ReadOptions,
    mounting: Option<Mounting>,
    /// From the last frame's input to the model, if they differ.
    place: Option<Transform>,
}

impl FrameReader {
    /// `network` is the model's file, for messages. Frames whose columns have no names are read as `layout`, or else as the
    /// model's columns.
    ///
    /// # Errors
    /// [`BuildError::Graph`] for columns that cannot be those of a point.
    pub(crate) fn new(model: &Model, layout: Option<Layout>, network: &Path) -> Result<Self> {
        let default_layout = Layout::new(&model.points.columns);
        let default_layout =
            default_layout.map_err(|e| BuildError::graph(network, e.to_string()))?;
        Ok(Self {
            read: ReadOptions {
                layout,
                default_layout,
            },
            mounting: model.mounting(),
            place: None,
        })
    }

    /// Reads a frame's file.
    ///
    /// # Errors
    /// [`FrameError`] where the frame cannot be read.
    pub(crate) fn read(&mut self, frame: &Path) -> Result<PointCloud> {
        let cloud = points::read(frame, &self.read)?;
        self.place = match &mut self.mounting {
            None => None,
            Some(mounting) => Some(mounting.transform(cloud.data(), cloud.layout())?),
        };
        Ok(cloud)
    }

    /// The way from the last frame that was read to the model, if they differ.
    pub(crate) fn place(&self) -> Option<Transform> {
        self.place
    }
}

/// Names the frame that lacks a column: only here are both known, what the model needs, and which file lacks it.
pub(crate) fn missing_column(frame: &Path) -> impl Fn(FrameError) -> BuildError {
    move |error| match error {
        source @ FrameError::MissingColumn { .. } => BuildError::from(CalibrationError::Columns {
            path: frame.into(),
            source: source.into(),
        }),
        other => other.into(),
    }
}

/// A network with everything that a frame needs.
pub(crate) struct Runner {
    frames: FrameReader,
    encoder: cpu::Encoder,
    engine: CpuEngine,
}

impl Runner {
    /// `network` is the file that the payload was made from, for messages.
    ///
    /// # Errors
    /// [`BuildError`] where the engine or the PFN does not fit the model.
    pub(crate) fn new(
        model: &Model,
        pfn: &Pfn,
        payload: Payload,
        pool: Arc<Pool>,
        network: &Path,
    ) -> Result<Self> {
        let path = || PathBuf::from(network);
        let encoder = cpu::Encoder::new(model, pfn, &pool).map_err(|source| BuildError::Pfn {
            path: path(),
            source,
        })?;
        let weights = Arc::new(payload.weights);
        let engine = CpuEngine::new(payload.program, weights, pool, &Options::default()).map_err(
            |source| BuildError::Engine {
                path: path(),
                source,
            },
        )?;
        check_input(&engine, model).map_err(|e| BuildError::graph(network, e.to_string()))?;
        Ok(Self {
            frames: FrameReader::new(model, None, network)?,
            encoder,
            engine,
        })
    }

    /// Reads frames whose columns have no names as `layout`, instead of as the model's columns.
    pub(crate) fn with_layout(mut self, layout: Option<Layout>) -> Self {
        self.frames.read.layout = layout;
        self
    }

    /// The way from the last frame that was read to the model, if they differ.
    pub(crate) fn place(&self) -> Option<Transform> {
        self.frames.place()
    }

    /// Runs the network on a frame's file.
    ///
    /// # Errors
    /// As [`Runner::read`] and [`Runner::run_read`].
    pub(crate) fn run(&mut self, frame: &Path, observer: Option<&mut Observer<'_>>) -> Result<()> {
        self.read(frame)?;
        self.run_read(observer)
    }

    /// Reads a frame's file into the network's input.
    ///
    /// # Errors
    /// [`FrameError`] where the frame cannot be read, [`CalibrationError::Columns`] where it lacks one that
    /// the model needs.
    pub(crate) fn read(&mut self, frame: &Path) -> Result<()> {
        let cloud = self.frames.read(frame)?;
        let loaded = self.encoder.load(&cloud, self.frames.place.as_ref());
        loaded.map_err(missing_column(frame))?;
        self.encoder.encode(self.engine.input_mut());
        Ok(())
    }

    /// The pillars of the frame that was read last, to be put into other networks.
    pub(crate) fn bev(&self) -> Bev {
        Bev {
            cells: self.encoder.cells().to_vec(),
            features: self.encoder.features().to_vec(),
        }
    }

    /// Puts pillars into the network's input, in place of [`Runner::read`]. [`Runner::cells`] stay those of
    /// the frame that was read.
    pub(crate) fn put(&mut self, bev: &Bev) {
        let map = self.engine.input_mut();
        self.encoder.encode_pillars(&bev.cells, &bev.features, map);
    }

    /// Runs the network on the frame that was read last, and shows every map of floats to `observer`
    /// if there is one.
    ///
    /// # Errors
    /// [`crate::engine::EngineError`] where the engine fails.
    pub(crate) fn run_read(&mut self, observer: Option<&mut Observer<'_>>) -> Result<()> {
        match observer {
            Some(observer) => self.engine.run_with(observer)?,
            None => self.engine.run()?,
        }
        Ok(())
    }

    /// Runs the network on the input that was read or put last, and shows every map of codes to `observer`.
    ///
    /// # Errors
    /// [`crate::engine::EngineError`] where the engine fails.
    pub(crate) fn run_codes(&mut self, observer: &mut CodeObserver<'_>) -> Result<()> {
        Ok(self.engine.run_with_codes(observer)?)
    }

    /// The engine with the last frame's outputs.
    pub(crate) fn engine(&self) -> &CpuEngine {
        &self.engine
    }

    /// The engine, to turn its timing on.
    pub(crate) fn engine_mut(&mut self) -> &mut CpuEngine {
        &mut self.engine
    }

    /// Cells of the last frame's pillars in the network's input, `y · width + x`.
    pub(crate) fn cells(&self) -> &[u32] {
        self.encoder.cells()
    }
}
