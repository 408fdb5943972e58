//! Histogram of the absolute values of a tensor, from which a method picks the amax.
//!
//! The rules follow NVIDIA's pytorch-quantization 2.2.1 (`calib/histogram.py`), bin for bin:
//! - The first batch sets the range, `[0, max |x|]` in 2048 bins.
//! - A later batch with a larger maximum keeps the bin width and appends bins, up to a total of
//!   `ceil(max / width)`, all in f32.
//! - The bin of a value is `trunc(|x| · bins / range)` in f32; the upper edge of the last bin is part of
//!   that bin.
//!
//! Unlike the reference:
//! - Counters are u64; the reference uses f32, which stops at 16 777 216.
//! - There are at most [`MAX_BINS`] bins. Beyond that, pairs of bins are merged, which doubles the width.
//! - Zeros are also counted on their own, so that one pass serves with and without the reference's `skip_zeros`.
//! - A range of 0, or one too small for a normal f32 bin width, is replaced by that of the next larger
//!   batch; all values counted so far then count as 0.
//! - A range near the largest f32 does not overflow, and NaN and infinity are errors.

use serde::{Deserialize, Serialize};

use super::cache::Bins;

/// Default number of bins of the first batch.
pub(crate) const BINS: usize = 2048;
/// Minimum number of initial bins: twice the number that an 8-bit code needs.
pub(crate) const MIN_BINS: usize = 256;
/// Maximum number of bins.
pub(crate) const MAX_BINS: usize = 8192;

/// Counters of each bin while counting a batch. Real maps contain runs of equal values, and reading a counter
/// that was just written stalls, so neighbouring values use different counters.
const LANES: usize = 4;
/// Number of values whose bins are computed at once.
const BLOCK: usize = 16;

/// Smallest bit pattern of |x| that is infinite or NaN.
pub(super) const NOT_FINITE: u32 = 0x7f80_0000;

/// Why values cannot be counted or have no amax.
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
    #[error("no values, so there is no range")]
    Empty,
    /// An invalid initial number of bins.
    #[error(
        "{0} bins: expected {MIN_BINS} to {MAX_BINS}; fewer than twice the levels of an 8-bit code leave nothing to choose"
    )]
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
    /// Bin width, used to append bins.
    width: f32,
    /// Greatest |x|.
    max: f32,
    /// Values that are 0; the first bin counts them, too.
    zeros: u64,
    /// Count of each bin.
    counts: Vec<u64>,
}

impl Histogram {
    /// An empty histogram, whose first batch gets `bins` bins.
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
            zeros: 0,
        })
    }

    /// A histogram from its parts; `None` if they are inconsistent.
    pub(super) fn from_parts(
        counts: Vec<u64>,
        range: f32,
        width: f32,
        max: f32,
        zeros: u64,
    ) -> Option<Self> {
        let finite = |x: f32| x.is_finite() && x >= 0.0;
        let sizes = (MIN_BINS..=MAX_BINS).contains(&counts.len());
        let total = counts.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
        let fits = finite(range) && finite(width) && width <= range && finite(max) && max <= range;
        let of_first = counts.first().is_some_and(|&first| zeros <= first);
        (sizes && fits && of_first && total.is_some()).then_some(Self {
            counts,
            range,
            width,
            max,
            zeros,
        })
    }

    /// Counts a batch. An empty batch changes nothing.
    ///
    /// # Errors
    /// [`RangeError::NotFinite`]; the histogram stays unchanged.
    pub fn add(&mut self, batch: &[f32]) -> Result<(), RangeError> {
        let most = max_bits(batch);
        if most >= NOT_FINITE {
            let index = batch.iter().position(|x| !x.is_finite()).unwrap_or(0);
            let value = batch.get(index).copied().unwrap_or(f32::NAN);
            return Err(RangeError::NotFinite { index, value });
        }
        self.widen(f32::from_bits(most));
        // Pieces are short enough for 32-bit counters.
        for piece in batch.chunks(1 << 30) {
            let mut counts = self.counts();
            counts.add(piece);
            self.merge(&counts);
        }
        Ok(())
    }

    /// Extends the range to `max`, which must be finite. Called before counting a batch.
    pub(super) fn widen(&mut self, max: f32) {
        self.max = self.max.max(max);
        if max <= self.range {
            return;
        }
        // This includes an unset range. No bins have been appended yet.
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
        // The product may be below the greatest value by a rounding error, or overflow.
        self.range = (self.width * bins as f32).clamp(max, f32::MAX);
    }

    /// Empty counters for the same bins, to count parts of a batch separately after [`Histogram::widen`].
    pub(super) fn counts(&self) -> Counts {
        Counts {
            binning: Binning::new(self.counts.len(), self.range),
            counts: vec![[0; LANES]; self.counts.len()],
            zeros: 0,
        }
    }

    /// Adds counts from [`Histogram::counts`].
    pub(super) fn merge(&mut self, counts: &Counts) {
        for (sum, lanes) in self.counts.iter_mut().zip(&counts.counts) {
            *sum += lanes.iter().map(|&n| u64::from(n)).sum::<u64>();
        }
        self.zeros += counts.zeros;
    }

    /// This histogram as if no value had been 0 (pytorch-quantization's `skip_zeros`), except that a tensor of zeros stays
    /// as it is.
    pub(crate) fn without_zeros(&self) -> Self {
        let mut others = self.clone();
        if self.max > 0.0 {
            let zeros = std::mem::take(&mut others.zeros);
            if let Some(first) = others.counts.first_mut() {
                *first -= zeros.min(*first);
            }
        }
        others
    }

    /// Count of each bin, starting at 0.
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

    /// Lower edge of bin `index`; the range for the index after the last.
    pub(super) fn edge(&self, index: usize) -> f64 {
        f64::from(self.range) * index as f64 / self.counts.len() as f64
    }

    /// Middle of bin `index`.
    pub(super) fn center(&self, index: usize) -> f64 {
        (self.edge(index) + self.edge(index + 1)) / 2.0
    }
}

/// Greatest bit pattern of |x|. As integers, the patterns sort like the values, with infinity and NaN last.
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

/// Maps a value to its bin.
#[derive(Clone, Copy, Debug)]
struct Binning {
    /// Number of bins, scaled by a power of two.
    factor: f32,
    /// Range, scaled by the same power of two.
    divisor: f32,
    last: i32,
}

impl Binning {
    fn new(bins: usize, range: f32) -> Self {
        // Keeps |x| · bins from overflowing. Scaling both by a power of two does not change the quotient.
        let scale = if range > 1e30 { 2_f32.powi(-32) } else { 1.0 };
        Self {
            factor: bins as f32 * scale,
            // With range 0 all values are 0, and 0/1 falls into the first bin.
            divisor: if range > 0.0 { range * scale } else { 1.0 },
            last: bins as i32 - 1,
        }
    }

    #[inline(always)]
    fn bin(self, x: f32) -> usize {
        // The conversion truncates, as the reference does.
        ((x.abs() * self.factor / self.divisor) as i32).min(self.last) as usize
    }
}

/// Counts of part of a batch, of at most 2³² − 1 values.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    binning: Binning,
    counts: Vec<[u32; LANES]>,
    zeros: u64,
}

impl Counts {
    /// Counts finite values.
    pub(super) fn add(&mut self, values: &[f32]) {
        self.zeros += values.iter().filter(|&&x| x == 0.0).count() as u64;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::calibrate::AmaxMethod;

    /// Later batches exceed the bins of the first by far.
    #[test]
    fn ranges_grow_from_nothing_and_the_number_of_bins_stays_limited() {
        let mut histogram = Histogram::new(2048).unwrap();
        for batch in [
            &[0.0; 7][..],
            &[1e-45, 0.0],
            &[1e-30, 5e-31],
            &[],
            &[1.0, -0.25],
            &[3.4e38, f32::MAX],
        ] {
            histogram.add(batch).unwrap();
            let bins = histogram.bins();
            assert!(bins.len() <= MAX_BINS, "{}", bins.len());
            assert!(histogram.range() >= histogram.max());
        }
        assert_eq!(histogram.total(), 15);
        assert_eq!(histogram.bins()[0], 13);
        // The width has doubled repeatedly, but at least half of the bins are always in use.
        assert!(histogram.bins().len() > MAX_BINS / 2);
        assert_eq!(histogram.amax(AmaxMethod::Max).unwrap().amax, f32::MAX);

        let before = histogram.clone();
        let error = histogram.add(&[1.0, f32::NAN]).unwrap_err();
        assert!(
            matches!(error, RangeError::NotFinite { index: 1, .. }),
            "{error}"
        );
        assert_eq!(histogram, before);
        assert_eq!(Histogram::new(100), Err(RangeError::Bins(100)));
    }

    /// As pytorch-quantization, which removes the zeros before it counts.
    #[test]
    fn without_zeros_is_as_if_there_were_none() {
        let batches = [
            &[0.0, 0.0, 0.25, -0.0, 1e-6][..],
            &[0.0; 40],
            &[0.5, 0.0, -3.0, 0.01],
        ];
        let (mut all, mut others) = [(); 2].map(|()| Histogram::new(256).unwrap()).into();
        for batch in batches {
            all.add(batch).unwrap();
            let batch: Vec<f32> = batch.iter().copied().filter(|&x| x != 0.0).collect();
            others.add(&batch).unwrap();
        }
        assert_ne!(all.bins(), others.bins());
        assert_eq!(all.without_zeros(), others);
        let mut zeros = Histogram::new(256).unwrap();
        zeros.add(&[0.0; 9]).unwrap();
        assert_eq!(zeros.without_zeros(), zeros);
    }

    /// Merged bins have the same counts as bins of twice the width.
    #[test]
    fn merged_bins_keep_their_values() {
        let low: Vec<f32> = (0..2048).map(|i| (i as f32 + 0.5) / 2048.0).collect();
        let mut histogram = Histogram::new(2048).unwrap();
        histogram.add(&low).unwrap();
        histogram.add(&[15.99]).unwrap();
        // Bins of width max/2048 up to 16 would be more than 8192, which takes two doublings.
        let width = low[2047] / 2048.0 * 4.0;
        assert_eq!(histogram.width(), width);
        assert_eq!(histogram.bins()[..512].iter().sum::<u64>(), 2048);
        assert!(histogram.bins()[..511].iter().all(|&n| n == 4));
        assert_eq!(histogram.bins().iter().sum::<u64>(), 2049);
    }
}
