//! What is ordered before what: vector clocks of the lanes of a warp and of the warps of a block.
//!
//! Each lane counts its synchronisations with other lanes, each warp those with other warps; a clock holds the last
//! counts of the others that it knows of. An access happened before another if that one's clock covers it.

use crate::module::LANES;

/// Clocks of a warp's lanes.
#[derive(Clone, Debug)]
pub(crate) struct LaneClocks([[u32; LANES]; LANES]);

impl LaneClocks {
    pub(crate) fn new() -> Self {
        let mut clocks = [[0; LANES]; LANES];
        for (lane, clock) in clocks.iter_mut().enumerate() {
            clock[lane] = 1;
        }
        LaneClocks(clocks)
    }

    /// The lanes of `mask` meet.
    pub(crate) fn join(&mut self, mask: u32) {
        let members = |lane: &usize| mask >> lane & 1 == 1;
        let mut joined = [0; LANES];
        for lane in (0..LANES).filter(members) {
            for (all, one) in joined.iter_mut().zip(&self.0[lane]) {
                *all = (*all).max(*one);
            }
        }
        for lane in (0..LANES).filter(members) {
            self.0[lane] = joined;
            self.0[lane][lane] += 1;
        }
    }

    pub(crate) fn now(&self, lane: usize) -> u32 {
        self.0[lane][lane]
    }

    /// Whether `lane` knows of `time` of another lane.
    pub(crate) fn covers(&self, lane: usize, other: usize, time: u32) -> bool {
        self.0[lane][other] >= time
    }
}

/// Clocks of a block's warps.
#[derive(Clone, Debug)]
pub(crate) struct WarpClocks {
    warps: Vec<Vec<u32>>,
    /// What the arrivals at each barrier know.
    barriers: Vec<Vec<u32>>,
}

impl WarpClocks {
    pub(crate) fn new(warps: usize, barriers: usize) -> Self {
        let mut clocks = vec![vec![0; warps]; warps];
        for (warp, clock) in clocks.iter_mut().enumerate() {
            clock[warp] = 1;
        }
        WarpClocks {
            warps: clocks,
            barriers: vec![vec![0; warps]; barriers],
        }
    }

    /// A warp arrives at a barrier.
    pub(crate) fn arrive(&mut self, warp: usize, barrier: usize) {
        for (all, one) in self.barriers[barrier].iter_mut().zip(&self.warps[warp]) {
            *all = (*all).max(*one);
        }
        self.warps[warp][warp] += 1;
    }

    /// A warp leaves a barrier.
    pub(crate) fn leave(&mut self, warp: usize, barrier: usize) {
        for (one, all) in self.warps[warp].iter_mut().zip(&self.barriers[barrier]) {
            *one = (*one).max(*all);
        }
    }

    pub(crate) fn now(&self, warp: usize) -> u32 {
        self.warps[warp][warp]
    }

    pub(crate) fn covers(&self, warp: usize, other: usize, time: u32) -> bool {
        self.warps[warp][other] >= time
    }
}
