//! Deterministic pseudo-random numbers.

/// Xorshift; the seed must not be 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// In 0..1.
    pub(crate) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// In -1..1.
    pub(crate) fn signed(&mut self) -> f32 {
        2.0 * self.next() - 1.0
    }
}
