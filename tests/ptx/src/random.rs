//! Random numbers for schedules: SplitMix64 (Steele et al. 2014).

/// A generator.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A set bit of `mask`, which is not 0.
    pub(crate) fn bit(&mut self, mask: u32) -> u32 {
        let mut rest = mask;
        for _ in 0..self.below(u64::from(mask.count_ones().max(1))) {
            rest &= rest - 1;
        }
        rest.trailing_zeros()
    }
}
