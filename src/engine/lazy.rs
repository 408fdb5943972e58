//! What the decoder reads of the head maps, for an engine that computes no more.

use crate::cpu::decode::least_logits;
use crate::model::Model;

/// The head maps that the decoder reads only where a score can pass, for an engine that computes them only there.
#[derive(Clone, Debug, PartialEq)]
pub struct LazyHeads {
    /// By task.
    pub tasks: Vec<LazyTask>,
}

/// A task of [`LazyHeads`]. `maps` are read at the cells where a channel of `heatmap` reaches its `least` logit or is NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct LazyTask {
    /// Name of the output that holds the heatmap.
    pub heatmap: String,
    /// The smallest logit that passes, by channel of the heatmap.
    pub least: Vec<f32>,
    /// Names of the task's other outputs.
    pub maps: Vec<String>,
}

impl LazyHeads {
    /// What the decoder of `model` reads.
    pub fn new(model: &Model) -> Self {
        let (_, least) = least_logits(model);
        let tasks = model.head.tasks.iter().map(|task| {
            let [heatmap, maps @ ..] = task.outputs.clone().into_array();
            LazyTask {
                heatmap,
                least: task.classes.iter().map(|&class| least[class]).collect(),
                maps: maps.into(),
            }
        });
        Self {
            tasks: tasks.collect(),
        }
    }
}
