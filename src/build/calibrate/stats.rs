//! Statistics of one tensor over all frames.
//!
//! A frame's map is first summarised in parallel by groups of rows, independently of earlier frames. It is then
//! counted into the histograms, which depend on earlier frames. The groups do not depend on the number of
//! threads and their sums are added in a fixed order, so the result is deterministic.

use serde::{Deserialize, Serialize};

use super::cache::list;
use super::histogram::{Histogram, NOT_FINITE};
use crate::cpu::pool::Pool;
use crate::map::MapView;

/// Maximum number of groups of rows.
const PIECES: usize = 32;

/// Statistics of a tensor. *Occupied* cells have a pillar below them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorStats {
    /// |x| of all cells.
    pub all: Histogram,
    /// |x| of the occupied cells.
    pub occupied: Histogram,
    /// Smallest x.
    pub min: f32,
    /// Greatest |x| by channel.
    #[serde(deserialize_with = "list")]
    pub channel_max: Vec<f32>,
    /// Greatest |x| by channel in the occupied cells; 0 if there are none.
    #[serde(deserialize_with = "list")]
    pub occupied_channel_max: Vec<f32>,
    /// Mean of x by channel.
    #[serde(deserialize_with = "list")]
    pub channel_mean: Vec<f32>,
    /// Mean of x by channel over the occupied cells; 0 if there are none.
    #[serde(deserialize_with = "list")]
    pub occupied_channel_mean: Vec<f32>,
}

/// A NaN or an infinity in a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NotFinite {
    pub(super) value: f32,
    pub(super) channel: usize,
    pub(super) y: usize,
    pub(super) x: usize,
}

/// Statistics of a set of cells, by channel.
#[derive(Clone, Debug, Default)]
struct Channels {
    cells: u64,
    /// Bit pattern of the greatest |x|.
    max: Vec<u32>,
    min: Vec<f32>,
    sum: Vec<f64>,
}

/// Summary of one map: its empty cells and its occupied cells.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    sets: [Channels; 2],
}

/// Index of the occupied cells in [`Summary::sets`].
const OCCUPIED: usize = 1;

impl Channels {
    fn new(channels: usize) -> Self {
        Self {
            cells: 0,
            max: vec![0; channels],
            min: vec![f32::INFINITY; channels],
            sum: vec![0.0; channels],
        }
    }

    fn cell(&mut self, values: &[f32]) {
        self.cells += 1;
        let sums = self.max.iter_mut().zip(&mut self.min).zip(&mut self.sum);
        for (((max, min), sum), &x) in sums.zip(values) {
            *max = (*max).max(x.abs().to_bits());
            *min = min.min(x);
            *sum += f64::from(x);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.cells += other.cells;
        for (max, &other) in self.max.iter_mut().zip(&other.max) {
            *max = (*max).max(other);
        }
        for (min, &other) in self.min.iter_mut().zip(&other.min) {
            *min = min.min(other);
        }
        for (sum, &other) in self.sum.iter_mut().zip(&other.sum) {
            *sum += other;
        }
    }

    fn max(&self) -> u32 {
        self.max.iter().copied().fold(0, u32::max)
    }

    fn channel_max(&self) -> Vec<f32> {
        self.max.iter().map(|&bits| f32::from_bits(bits)).collect()
    }

    fn mean(&self) -> Vec<f32> {
        let cells = self.cells.max(1) as f64;
        self.sum.iter().map(|sum| (sum / cells) as f32).collect()
    }
}

impl Summary {
    fn empty(channels: usize) -> Self {
        Self {
            sets: [Channels::new(channels), Channels::new(channels)],
        }
    }

    /// Summarises a map of the CPU engine, in which the channels of a cell are adjacent. `occupied` lists its
    /// cells, `y · width + x`.
    pub(super) fn new(
        map: &MapView<'_>,
        occupied: &[bool],
        pool: &Pool,
    ) -> Result<Self, NotFinite> {
        let layout = map.layout;
        let rows = layout.height.div_ceil(PIECES).max(1);
        let mut pieces = vec![Self::empty(layout.channels); layout.height.div_ceil(rows)];
        pool.for_each_chunk_mut(&mut pieces, 1, |index, piece| {
            let [
                Self {
                    sets: [empty, full],
                },
            ] = piece
            else {
                return;
            };
            for y in index * rows..((index + 1) * rows).min(layout.height) {
                let occupied = &occupied[y * layout.width..][..layout.width];
                for (x, &occupied) in occupied.iter().enumerate() {
                    let set = if occupied { &mut *full } else { &mut *empty };
                    set.cell(pixels(map, y, x..x + 1));
                }
            }
        });
        let mut all = Self::empty(layout.channels);
        for piece in &pieces {
            all.merge(piece);
        }
        if all.sets.iter().any(|set| set.max() >= NOT_FINITE) {
            return Err(not_finite(map));
        }
        Ok(all)
    }

    fn merge(&mut self, other: &Self) {
        for (set, other) in self.sets.iter_mut().zip(&other.sets) {
            set.merge(other);
        }
    }
}

/// The channels of adjacent cells, including any padding between them.
fn pixels<'a>(map: &MapView<'a>, y: usize, x: std::ops::Range<usize>) -> &'a [f32] {
    let layout = &map.layout;
    let (first, last) = (layout.index(0, y, x.start), layout.index(0, y, x.end - 1));
    &map.data[first..last + layout.channels]
}

fn not_finite(map: &MapView<'_>) -> NotFinite {
    let layout = map.layout;
    let cells = (0..layout.height).flat_map(|y| (0..layout.width).map(move |x| (y, x)));
    let values = cells.flat_map(|(y, x)| {
        let values = pixels(map, y, x..x + 1).iter().enumerate();
        values.map(move |(channel, &value)| NotFinite {
            value,
            channel,
            y,
            x,
        })
    });
    let mut values = values.filter(|at| !at.value.is_finite());
    values.next().unwrap_or(NotFinite {
        value: f32::NAN,
        channel: 0,
        y: 0,
        x: 0,
    })
}

/// Accumulates the maps of a tensor, frame by frame.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    all: Histogram,
    occupied: Histogram,
    summary: Summary,
}

impl Collector {
    /// Starts from an empty histogram.
    pub(super) fn new(empty: Histogram) -> Self {
        Self {
            all: empty.clone(),
            occupied: empty,
            summary: Summary::default(),
        }
    }

    /// Counts the next frame's map; `summary` must be its summary.
    pub(super) fn add(
        &mut self,
        map: &MapView<'_>,
        occupied: &[bool],
        summary: &Summary,
        pool: &Pool,
    ) {
        let layout = map.layout;
        let [empty, full] = summary.sets.each_ref().map(Channels::max);
        self.all.widen(f32::from_bits(empty.max(full)));
        self.occupied.widen(f32::from_bits(full));
        let mut counts = vec![(self.all.counts(), self.occupied.counts()); pool.threads()];
        let dense = layout.stride_x == layout.channels;
        pool.for_each_with(&mut counts, layout.height, |(all, full), y| {
            if dense {
                all.add(pixels(map, y, 0..layout.width));
            }
            let occupied = &occupied[y * layout.width..][..layout.width];
            for (x, &occupied) in occupied.iter().enumerate() {
                let values = pixels(map, y, x..x + 1);
                if !dense {
                    all.add(values);
                }
                if occupied {
                    full.add(values);
                }
            }
        });
        for (all, full) in &counts {
            self.all.merge(all);
            self.occupied.merge(full);
        }
        if self.summary.sets[OCCUPIED].max.is_empty() {
            self.summary = Summary::empty(layout.channels);
        }
        self.summary.merge(summary);
    }

    /// The statistics.
    pub(super) fn finish(self) -> TensorStats {
        let [mut all, full] = self.summary.sets;
        all.merge(&full);
        TensorStats {
            all: self.all,
            occupied: self.occupied,
            min: all.min.iter().copied().fold(f32::INFINITY, f32::min),
            channel_max: all.channel_max(),
            occupied_channel_max: full.channel_max(),
            channel_mean: all.mean(),
            occupied_channel_mean: full.mean(),
        }
    }
}
