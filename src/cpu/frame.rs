//! The stages of a frame on the CPU, put together: [`Encoder`] and [`Decoder`].

use std::sync::Arc;

use super::decode::{self, CandidateList};
use super::features::{self, Features};
use super::nms::{self, Nms};
use super::pillars::{self, Pillars};
use super::pool::Pool;
use super::scatter::{self, Scatter};
use crate::boxes::{Box3d, Variances};
use crate::detection::{Clock, Dropped, Times};
use crate::map::{HeadMaps, MapView, MapViewMut};
use crate::model::{Grid, Model, Pfn, PfnError, Points as PointSpec};
use crate::points::{FrameError, Layout, PointCloud, SweepBuffer, Transform};

/// Converts points to the BEV map on the CPU. Allocated once.
pub(crate) struct Encoder {
    spec: PointSpec,
    grid: Grid,
    pool: Arc<Pool>,
    /// Points converted to the model's columns.
    points: Vec<f32>,
    /// Combined sweeps.
    accumulated: PointCloud,
    pillars: Pillars,
    features: Features,
    scatter: Scatter,
    /// Points dropped because a capacity was reached.
    surplus_points: usize,
    times: Times,
}

impl Encoder {
    /// Allocates the buffers for `model`.
    ///
    /// # Errors
    /// [`PfnError`] if the PFN's weights do not match the model.
    pub(crate) fn new(model: &Model, pfn: &Pfn, pool: &Arc<Pool>) -> Result<Self, PfnError> {
        Ok(Self {
            points: Vec::with_capacity(model.points.capacity * model.points.columns.len()),
            accumulated: PointCloud::empty(Layout::XYZIT),
            pillars: Pillars::new(&model.grid),
            features: Features::new(model, pfn, pool.threads())?,
            scatter: Scatter::new(model.grid.max_pillars),
            spec: model.points.clone(),
            grid: model.grid.clone(),
            pool: pool.clone(),
            surplus_points: 0,
            times: Times::default(),
        })
    }

    /// Cells of the loaded frame's pillars, `y · width + x`.
    pub(crate) fn cells(&self) -> &[u32] {
        self.pillars.cells()
    }

    /// Features of the loaded frame's pillars, `[pillar][channel]`.
    pub(crate) fn features(&self) -> &[f32] {
        self.features.values()
    }

    /// Writes the BEV map of pillars that were computed before; see [`Encoder::cells`] and [`Encoder::features`].
    pub(crate) fn encode_pillars(
        &mut self,
        cells: &[u32],
        features: &[f32],
        mut map: MapViewMut<'_>,
    ) {
        scatter::scatter(features, cells, &mut self.scatter, &mut map);
    }

    /// Finds the pillars of a cloud, moved by `place`, and computes their features.
    ///
    /// # Errors
    /// [`FrameError::MissingColumn`].
    pub(crate) fn load(
        &mut self,
        cloud: &PointCloud,
        place: Option<&Transform>,
    ) -> Result<(), FrameError> {
        self.surplus_points = 0;
        self.load_cloud(cloud, place)
    }

    /// Like [`Encoder::load`], for the sweeps that [`SweepBuffer::accumulate`] combines.
    ///
    /// # Errors
    /// The same as [`Encoder::load`].
    pub(crate) fn load_sweeps(
        &mut self,
        sweeps: &SweepBuffer,
        place: Option<&Transform>,
    ) -> Result<(), FrameError> {
        let empty = PointCloud::empty(Layout::XYZIT);
        let mut cloud = std::mem::replace(&mut self.accumulated, empty);
        let counts = sweeps.accumulate_placed(place, &mut cloud);
        self.surplus_points = counts.points_over_capacity;
        let loaded = self.load_cloud(&cloud, None);
        self.accumulated = cloud;
        loaded
    }

    /// Writes the BEV map of the loaded points. `map` is the same in every frame.
    pub(crate) fn encode(&mut self, mut map: MapViewMut<'_>) {
        let mut clock = Clock::start();
        let (features, cells) = (self.features.values(), self.pillars.cells());
        scatter::scatter(features, cells, &mut self.scatter, &mut map);
        clock.lap(&mut self.times.scatter);
    }

    /// Reports the frame's losses and stage times.
    pub(crate) fn finish(&self, dropped: &mut Dropped, times: &mut Times) {
        *dropped += *self.pillars.dropped();
        dropped.sweep_points += self.surplus_points as u64;
        times.pillars = self.times.pillars;
        times.features = self.times.features;
        times.scatter = self.times.scatter;
    }

    fn load_cloud(
        &mut self,
        cloud: &PointCloud,
        place: Option<&Transform>,
    ) -> Result<(), FrameError> {
        let mut clock = Clock::start();
        let columns = &self.spec.columns;
        let scale = self.spec.intensity_scale;
        let selected = cloud.select_placed(columns, scale, place, &mut self.points)?;
        let stride = columns.len();
        let len = selected.points.len().min(self.spec.capacity * stride);
        let points = &selected.points[..len];
        self.surplus_points += (selected.points.len() - len) / stride;
        pillars::voxelize(points, stride, &self.grid, &mut self.pillars);
        clock.lap(&mut self.times.pillars);
        features::features(
            points,
            stride,
            &self.pillars,
            &self.grid,
            &self.pool,
            &mut self.features,
        );
        clock.lap(&mut self.times.features);
        Ok(())
    }
}

/// Converts head maps to boxes on the CPU. Allocated once.
pub(crate) struct Decoder {
    model: Model,
    pool: Arc<Pool>,
    candidates: CandidateList,
    nms: Nms,
    times: Times,
}

impl Decoder {
    /// Allocates the buffers for `model`.
    pub(crate) fn new(model: &Model, pool: &Arc<Pool>) -> Self {
        Self {
            candidates: CandidateList::new(model),
            nms: Nms::new(model),
            model: model.clone(),
            pool: pool.clone(),
            times: Times::default(),
        }
    }

    /// Collects a task's candidates from its head maps. Tasks come in order; the first one starts a frame.
    pub(crate) fn decode(&mut self, task: usize, maps: &HeadMaps<MapView<'_>>) {
        if task == 0 {
            self.candidates.clear();
            self.times.decode = 0.0;
        }
        let clock = Clock::start();
        decode::decode(&self.model, task, maps, &self.pool, &mut self.candidates);
        self.times.decode += clock.total();
    }

    /// Suppresses overlapping candidates of all tasks.
    pub(crate) fn suppress(&mut self) {
        let mut clock = Clock::start();
        nms::suppress(&self.model, self.candidates.candidates(), &mut self.nms);
        clock.lap(&mut self.times.nms);
    }

    /// Reports the frame's losses and stage times.
    pub(crate) fn finish(&self, dropped: &mut Dropped, times: &mut Times) {
        dropped.candidates += self.candidates.surplus();
        dropped.non_finite_candidates += self.candidates.non_finite();
        times.decode = self.times.decode;
        times.nms = self.times.nms;
    }

    /// The boxes of the last frame, best first.
    pub(crate) fn boxes(&self) -> &[Box3d] {
        self.nms.boxes()
    }

    /// The boxes' variances; empty if the head has none.
    pub(crate) fn variances(&self) -> &[Variances] {
        self.nms.variances()
    }
}
