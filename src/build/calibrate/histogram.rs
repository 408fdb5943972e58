//! Histogram of the absolute values of a tensor, from which a method picks its amax.
//!
//! The rules are those of NVIDIA's pytorch-quantization 2.2.1 (`calib/histogram.py`), bin for bin:
//! - the first batch gives the range, `[0, max |x|]` in 2048 bins;
//! - a later batch with a larger maximum keeps the width of a bin and appends bins:
//!   `ceil(max / width)` of them, all in f32;
//! - the bin of a value is `trunc(|x| · bins / range)` in f32, and the upper edge of the last bin
//!   belongs to it.
//!
//! Where the reference fails, this does not:
//! - counters are u64 (there f32, which stops at 16 777 216);
//! - there are at most [`MAX_BINS`] bins: beyond, pairs of bins are merged, which doubles the width;
//! - a range of 0, or one so small that its bins have no normal f32 width, is given up for that of
//!   the next larger batch; what was counted until then counts as 0;
//! - a range near the largest f32 does not overflow; NaN and infinity are errors.

use serde::{Deserialize, Serialize};

use super::cache::Bins;

/// Bins of the first batch, unless asked for otherwise.
pub const BINS: usize = 2048;
/// Fewest bins that a histogram can begin with: twice those that a code of 8 bits needs.
pub const MIN_BINS: usize = 256;
/// Most bins of a histogram.
pub const MAX_BINS: usize = 8192;

/// Counters of each bin while a batch is counted. Equal values follow each other in real maps, and a
/// counter that was just written is not ready to be read: neighbours go to different counters.
const LANES: usize = 4;
/// Values whose bins are computed at once.
const BLOCK: usize = 16;

/// Bits of |x| at and above which an f32 is infinite or NaN.
pub(super) const NOT_FINITE: u32 = 0x7f80_0000;

/// Why values cannot be counted, or why there is no amax.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// A NaN or an infinity in a batch.
    #[error("value {index} is {value}; only finite values can be quantised")]
    NotFinite {
        /// Its index in the batch.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// No value was counted.
    #[error("there are no values, so there is no range")]
    Empty,
    /// A number of bins that a histogram cannot begin with.
    #[error("{0} bins: a histogram begins with {MIN_BINS} to {MAX_BINS}")]
    Bins(usize),
    /// A percentile outside 0 to 100.
    #[error("percentile {0}: expected a number from 0 to 100")]
    Percentile(f64),
}

/// Counts of |x| over `[0, range]` in bins of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Bins")]
pub struct Histogram {
    /// Upper edge of the last bin; 0 while all values are 0.
    range: f32,
    /// Width of a bin, as the appending of bins uses it.
    width: f32,
    /// Greatest |x|.
    max: f32,
    /// Count of each bin.
    counts: Vec<u64>,
}

impl Histogram {
    /// A histogram without values, whose first batch gets `bins` bins.
    ///
    /// # Errors
    /// [`RangeError::Bins`] outside [`MIN_BINS`] to [`MAX_BINS`].
    pub fn new(bins: usize) -> Result<Self, RangeError> {
        if !(MIN_BINS..=MAX_BINS).contains(&bins) {
            return Err(RangeError::Bins(bins));
        }
        Ok(Self {
            counts: vec![0; bins],
            range: 0.0,
            width: 0.0,
            max: 0.0,
        })
    }

    /// A histogram from its parts, `None` if they contradict each other.
    pub(super) fn from_parts(counts: Vec<u64>, range: f32, width: f32, max: f32) -> Option<Self> {
        let finite = |x: f32| x.is_finite() && x >= 0.0;
        let sizes = (MIN_BINS..=MAX_BINS).contains(&counts.len());
        let total = counts.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
        let fits = finite(range) && finite(width) && width <= range && finite(max) && max <= range;
        (sizes && fits && total.is_some()).then_some(Self {
            counts,
            range,
            width,
            max,
        })
    }

    /// Counts a batch. An empty one changes nothing.
    ///
    /// # Errors
    /// [`RangeError::NotFinite`]; the histogram is as before.
    pub fn add(&mut self, batch: &[f32]) -> Result<(), RangeError> {
        let most = max_bits(batch);
        if most >= NOT_FINITE {
            let index = batch.iter().position(|x| !x.is_finite()).unwrap_or(0);
            let value = batch.get(index).copied().unwrap_or(f32::NAN);
            return Err(RangeError::NotFinite { index, value });
        }
        self.widen(f32::from_bits(most));
        // A counter of 32 bits cannot overflow in one piece.
        for piece in batch.chunks(1 << 30) {
            let mut counts = self.counts();
            counts.add(piece);
            self.merge(&counts);
        }
        Ok(())
    }

    /// Makes room for values up to `max`, which is finite: what a batch does before it is counted.
    pub(super) fn widen(&mut self, max: f32) {
        self.max = self.max.max(max);
        if max <= self.range {
            return;
        }
        // Also where there is no range yet. No bin was appended until here.
        if self.width < f32::MIN_POSITIVE {
            let total = self.total();
            self.counts.fill(0);
            if let Some(zeros) = self.counts.first_mut() {
                *zeros = total;
            }
            self.range = max;
            self.width = max / self.counts.len() as f32;
            return;
        }
        let bins = loop {
            let bins = (max / self.width).ceil();
            if bins <= MAX_BINS as f32 {
                break bins as usize;
            }
            let merged = self.counts.chunks(2).map(|pair| pair.iter().sum());
            self.counts = merged.collect();
            self.width *= 2.0;
        };
        let bins = bins.max(self.counts.len());
        self.counts.resize(bins, 0);
        // The product can be a rounding error below the greatest value, or overflow.
        self.range = (self.width * bins as f32).clamp(max, f32::MAX);
    }

    /// Empty counters of the same bins, to count pieces of a batch apart after [`Histogram::widen`].
    pub(super) fn counts(&self) -> Counts {
        Counts {
            binning: Binning::new(self.counts.len(), self.range),
            counts: vec![[0; LANES]; self.counts.len()],
        }
    }

    /// Adds what was counted apart.
    pub(super) fn merge(&mut self, counts: &Counts) {
        for (sum, lanes) in self.counts.iter_mut().zip(&counts.counts) {
            *sum += lanes.iter().map(|&n| u64::from(n)).sum::<u64>();
        }
    }

    /// Count of each bin, the one at 0 first.
    pub fn bins(&self) -> &[u64] {
        &self.counts
    }

    /// Upper edge of the last bin; 0 while all values are 0.
    pub fn range(&self) -> f32 {
        self.range
    }

    /// Width of a bin, rounded to f32.
    pub fn width(&self) -> f32 {
        self.width
    }

    /// Greatest |x|; 0 without values.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Lower edge of bin `index`; the range for the index past the last.
    pub(super) fn edge(&self, index: usize) -> f64 {
        f64::from(self.range) * index as f64 / self.counts.len() as f64
    }

    /// Middle of bin `index`.
    pub(super) fn center(&self, index: usize) -> f64 {
        (self.edge(index) + self.edge(index + 1)) / 2.0
    }
}

/// Greatest bits of |x|: as integers they are in the order of the values, infinity and NaN the last.
fn max_bits(values: &[f32]) -> u32 {
    let mut most = [0_u32; BLOCK];
    let blocks = values.chunks_exact(BLOCK);
    for x in blocks.remainder() {
        most[0] = most[0].max(x.abs().to_bits());
    }
    for block in blocks {
        for (most, x) in most.iter_mut().zip(block) {
            *most = (*most).max(x.abs().to_bits());
        }
    }
    most.into_iter().fold(0, u32::max)
}

/// From a value to its bin.
#[derive(Clone, Copy, Debug)]
struct Binning {
    /// Bins, and the range, both times the same power of two.
    times: f32,
    by: f32,
    last: i32,
}

impl Binning {
    fn new(bins: usize, range: f32) -> Self {
        // |x| · bins must not overflow. A power of two changes no other bit of the quotient.
        let factor = if range > 1e30 { 2_f32.powi(-32) } else { 1.0 };
        Self {
            times: bins as f32 * factor,
            // Everything is 0 then, and 0/1 is in the first bin.
            by: if range > 0.0 { range * factor } else { 1.0 },
            last: bins as i32 - 1,
        }
    }

    #[inline(always)]
    fn bin(self, x: f32) -> usize {
        // The conversion truncates, as the reference does.
        ((x.abs() * self.times / self.by) as i32).min(self.last) as usize
    }
}

/// Counters of a part of a batch, at most 2³² − 1 values.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    binning: Binning,
    counts: Vec<[u32; LANES]>,
}

impl Counts {
    /// Counts finite values.
    pub(super) fn add(&mut self, values: &[f32]) {
        let blocks = values.chunks_exact(BLOCK);
        for &x in blocks.remainder() {
            self.counts[self.binning.bin(x)][0] += 1;
        }
        let mut bins = [0_usize; BLOCK];
        for block in blocks {
            for (bin, &x) in bins.iter_mut().zip(block) {
                *bin = self.binning.bin(x);
            }
            for (i, &bin) in bins.iter().enumerate() {
                self.counts[bin][i % LANES] += 1;
            }
        }
    }
}
