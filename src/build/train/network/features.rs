//! The features that all outputs of a network are made of, and a loss that keeps them close to those of another network.

use super::Network;
use crate::build::train::loss::Teacher;
use crate::build::train::map::{Maps, Shape};

/// The features of the float network for a frame.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    /// `[cell][channel]`.
    values: Vec<f32>,
    /// By cell: how much the float network sees there.
    weights: Vec<f32>,
    /// The sum of weighted squares.
    norm: f64,
}

impl Features {
    /// Takes the features of the frame in the input of `network`, weighted by the scores of `teacher`, whose maps have
    /// `scores` rows and columns.
    pub(crate) fn new(
        network: &mut Network,
        value: usize,
        teacher: &Teacher,
        scores: [usize; 2],
    ) -> Self {
        network.forward();
        let maps = &network.maps[value];
        let Shape {
            height,
            width,
            channels,
        } = maps.shape;
        let best = teacher.weights();
        let (mut values, mut weights) = (Vec::new(), Vec::new());
        let mut norm = 0.0;
        for y in 0..height {
            values.extend_from_slice(maps.pixels(0, y));
            for (x, cell) in maps.pixels(0, y).chunks_exact(channels).enumerate() {
                let [row, column] = [y * scores[0] / height, x * scores[1] / width];
                let weight = best[row * scores[1] + column];
                let square: f64 = cell.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
                norm += f64::from(weight) * square;
                weights.push(weight);
            }
        }
        Self {
            values,
            weights,
            norm: norm.max(f64::MIN_POSITIVE),
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.values[..]) + size_of_val(&self.weights[..])
    }
}

impl Network {
    /// The last value but the outputs that every way from the input to an output leads through: the shared map that the heads
    /// read, or the neck's output. `None` if the ways part at the input.
    pub(crate) fn features(&self) -> Option<(usize, Shape)> {
        let ends: Vec<usize> = self.outputs.iter().map(|(_, value)| *value).collect();
        let parts = |without: usize| {
            let mut reached = vec![false; self.values.len()];
            reached[self.input] = true;
            for op in self.ops.iter().filter(|op| op.output != without) {
                reached[op.output] = op.kind.inputs().any(|input| reached[input]);
            }
            !ends.iter().any(|&end| reached[end])
        };
        let values = self.ops.iter().rev().map(|op| op.output);
        let found = values.filter(|v| !ends.contains(v)).find(|&v| parts(v))?;
        Some((found, self.values[found].1))
    }

    /// Adds the gradient of the features' loss for the only frame of the batch, times `scale`, before [`Network::backward`],
    /// and returns the loss: `scale` times the weighted squared error relative to the weighted square of the goal.
    pub(crate) fn feature_loss(&mut self, value: usize, goal: &Features, scale: f64) -> f64 {
        let Features {
            values,
            weights,
            norm,
        } = goal;
        let (maps, gradient) = self.value_gradient(value);
        let Shape {
            height,
            width,
            channels,
        } = maps.shape;
        let part = 2.0 * scale / norm;
        let mut loss = 0.0;
        for y in 0..height {
            let line = y * width;
            let goals = &values[line * channels..(line + width) * channels];
            let weights = &weights[line..line + width];
            let cells = maps.pixels(0, y).chunks_exact(channels);
            let cells = cells.zip(goals.chunks_exact(channels)).zip(weights);
            let gradients = gradient.pixels_mut(0, y).chunks_exact_mut(channels);
            for (gradient, ((now, goal), &weight)) in gradients.zip(cells) {
                for ((gradient, now), goal) in gradient.iter_mut().zip(now).zip(goal) {
                    let difference = now - goal;
                    loss += f64::from(weight) * f64::from(difference) * f64::from(difference);
                    *gradient += (part * f64::from(weight) * f64::from(difference)) as f32;
                }
            }
        }
        loss / norm * scale
    }

    /// A value and its gradient, zeros at first, to be filled before [`Network::backward`].
    pub(super) fn value_gradient(&mut self, value: usize) -> (&Maps, &mut Maps) {
        if self.gradients[value].is_none() {
            let mut maps = self.take(value);
            maps.clear();
            self.gradients[value] = Some(maps);
        }
        let gradient = self.gradients[value].get_or_insert_with(|| unreachable!());
        (&self.maps[value], gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::train::params::Role;
    use crate::build::train::tests::{every_operator, fill, network};

    #[test]
    fn features_are_what_all_outputs_read_and_train_the_layers_before_them() {
        let mut network = network(&every_operator(3, false), 2);
        let (value, shape) = network.features().unwrap();
        assert_eq!(network.values[value].0, "cat");
        assert_eq!(shape.channels, 32);
        fill(network.batch(1), 5);
        network.forward();

        let cells = shape.height * shape.width;
        let weights: Vec<f32> = (0..cells).map(|i| 0.5 + (i % 3) as f32).collect();
        let goal = Features {
            values: (0..cells * 32).map(|i| (i % 7) as f32 * 0.2).collect(),
            weights,
            norm: 40.0,
        };
        let scale = 0.25;
        let before = network.feature_loss(value, &goal, scale);
        let place = 2 * 32 + 9;
        let found = network.gradients[value].as_ref().unwrap().pixels(0, 3)[place];
        let step = 1.0 / 64.0;
        let mut moved = |by: f32| {
            network.maps[value].pixels_mut(0, 3)[place] += by;
            let loss = network.feature_loss(value, &goal, scale);
            network.maps[value].pixels_mut(0, 3)[place] -= by;
            loss
        };
        let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        assert!(before > 0.0 && found != 0.0);
        assert!(
            (f64::from(found) - expected).abs() < 1e-5,
            "{found} {expected}"
        );

        network.backward(false);
        for param in network.params.iter().filter(|p| p.role == Role::Weight) {
            let trained = network
                .params
                .gradients(param.index)
                .iter()
                .any(|g| *g != 0.0);
            assert_eq!(trained, param.name != "h.weight", "{}", param.name);
        }
    }
}
