//! The parameters of a training, one after the other in one array, with their gradients.

use std::path::{Path, PathBuf};

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Weights of a convolution or a linear layer, which decay.
    Weight,
    /// A bias, or the factor or the shift of a BatchNormalization.
    Bias,
    /// The running mean or variance of a BatchNormalization, which follows the batches.
    Statistic,
    /// The logarithm of a quantiser's scale, relative to its start.
    Scale,
}

/// A tensor of parameters.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) index: usize,
    /// Name of the tensor in the network.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Factor of the learning rate; 0 leaves it as it is.
    pub(crate) rate: f32,
    start: usize,
    len: usize,
}

impl Param {
    /// Its part of the arrays.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }
}

/// All parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params {
    all: Vec<Param>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    origin: PathBuf,
}

impl Params {
    /// No parameters. `origin` is the network's file, for messages.
    pub(super) fn new(origin: &Path) -> Self {
        Self {
            origin: origin.into(),
            ..Self::default()
        }
    }

    /// Adds a tensor, or finds the one of this name. Returns its number.
    pub(super) fn push(&mut self, name: &str, role: Role, values: &[f32]) -> usize {
        if let Some(known) = self.all.iter().find(|p| p.name == name) {
            return known.index;
        }
        let index = self.all.len();
        self.all.push(Param {
            index,
            name: name.to_owned(),
            role,
            rate: 1.0,
            start: self.values.len(),
            len: values.len(),
        });
        self.values.extend_from_slice(values);
        self.gradients.resize(self.values.len(), 0.0);
        index
    }

    /// The name of a tensor.
    pub(super) fn name(&self, index: usize) -> &str {
        &self.all[index].name
    }

    /// The tensors.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Param> {
        self.all.iter()
    }

    /// The tensors, to set their rates.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.all.iter_mut()
    }

    /// Sets the rate of a tensor.
    pub(super) fn set_rate(&mut self, index: usize, rate: f32) {
        self.all[index].rate = rate;
    }

    /// Whether a tensor is trained.
    pub(super) fn is_trained(&self, index: usize) -> bool {
        self.all[index].rate > 0.0
    }

    /// The values of a tensor.
    pub(crate) fn values(&self, index: usize) -> &[f32] {
        &self.values[self.all[index].range()]
    }

    /// The values of a tensor, to change.
    pub(super) fn values_mut(&mut self, index: usize) -> &mut [f32] {
        let range = self.all[index].range();
        &mut self.values[range]
    }

    /// All values.
    pub(crate) fn all_values(&self) -> &[f32] {
        &self.values
    }

    /// All values and gradients, to change the values.
    pub(crate) fn split(&mut self) -> (&[Param], &mut [f32], &mut [f32]) {
        (&self.all, &mut self.values, &mut self.gradients)
    }

    /// Exchanges all values with others, of the same number.
    pub(crate) fn exchange(&mut self, values: &mut [f32]) {
        self.values.swap_with_slice(values);
    }

    /// The gradients of a tensor.
    #[cfg(test)]
    pub(crate) fn gradients(&self, index: usize) -> &[f32] {
        &self.gradients[self.all[index].range()]
    }

    /// The gradients of one or two tensors, to add to.
    pub(super) fn gradients_mut(
        &mut self,
        first: usize,
        second: Option<usize>,
    ) -> (&mut [f32], Option<&mut [f32]>) {
        let a = self.all[first].range();
        let Some(b) = second.map(|s| self.all[s].range()) else {
            return (&mut self.gradients[a], None);
        };
        if a.end <= b.start {
            let (low, high) = self.gradients.split_at_mut(b.start);
            (&mut low[a], Some(&mut high[..b.len()]))
        } else {
            let (low, high) = self.gradients.split_at_mut(a.start);
            (&mut high[..a.len()], Some(&mut low[b]))
        }
    }

    /// The first tensor with a value that is not finite.
    pub(super) fn not_finite(&self) -> Option<&str> {
        let bad = |p: &&Param| self.values[p.range()].iter().any(|v| !v.is_finite());
        self.all.iter().find(bad).map(|p| p.name.as_str())
    }

    /// The network's file, for messages.
    pub(crate) fn origin(&self) -> &Path {
        &self.origin
    }
}
