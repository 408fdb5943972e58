//! Which graph output is which of the description's: heatmap, reg, height, dim, rot and vel of each
//! task.
//!
//! The first of these rules that gives every wanted output exactly one of the graph's, decides:
//!
//! 1. **The description's names** (`head.tasks[].outputs`), letter by letter. AWML's exporter has
//!    `heatmap`, `reg`, `height`, `dim`, `rot`, `vel`.
//! 2. **Kind and task in the name.** A name is cut into words at everything that is no letter, and
//!    its numbers are taken out. Exactly one word must be a kind: `heatmap` or `hm`; `reg`; `height`
//!    or `hei`; `dim`; `rot`; `vel`. The last number is the task's, from 0; without a number it is
//!    task 0, if the model has one task only. So `heatmap_0`, `task0_heatmap`, `hm3` and
//!    `task_heads.5.vel` are understood.
//! 3. **Order**, if the graph has exactly six outputs per task and their channels are, task by task,
//!    those of heatmap, reg, height, dim, rot, vel.

use std::collections::HashMap;

use crate::build::onnx::Graph;
use crate::build::{BuildError, Result};
use crate::map::HeadMaps;
use crate::model::Model;

/// How outputs were told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// The graph has the description's names.
    Names,
    /// Kind and task number were found in the graph's names.
    Words,
    /// The graph's outputs are in the order of the description's.
    Order,
}

impl std::fmt::Display for Matching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Names => "name",
            Self::Words => "the words in their names",
            Self::Order => "their order",
        })
    }
}

/// An output that the description wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Name in the description.
    pub(super) name: String,
    pub(super) channels: usize,
    kind: usize,
    task: usize,
}

/// The outputs of the description, task by task.
pub(super) fn wanted(model: &Model) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (task, spec) in model.head.tasks.iter().enumerate() {
        let outputs = spec.outputs.each_ref().zip(model.head_channels(spec));
        for (kind, (name, channels)) in outputs.into_array().into_iter().enumerate() {
            all.push(Wanted {
                name: name.clone(),
                channels,
                kind,
                task,
            });
        }
    }
    all
}

/// The graph's output for each wanted one, and by which rule. `channels` gives a value's channels.
pub(super) fn matched(
    graph: &Graph,
    wanted: &[Wanted],
    channels: impl Fn(&str) -> Option<usize>,
) -> Result<(Vec<String>, Matching)> {
    let outputs: Vec<&str> = graph.proto().output.iter().map(|o| o.name()).collect();
    if wanted.iter().all(|w| outputs.contains(&w.name.as_str())) {
        let names = wanted.iter().map(|w| w.name.clone()).collect();
        return Ok((names, Matching::Names));
    }
    let tasks = wanted.iter().map(|w| w.task + 1).max().unwrap_or(0);
    if let Some(names) = by_words(&outputs, wanted, tasks) {
        return Ok((names, Matching::Words));
    }
    let in_order = outputs.len() == wanted.len()
        && outputs.iter().zip(wanted).all(|(o, w)| channels(o) == Some(w.channels))
        // Names that say something are never overruled.
        && outputs.iter().all(|name| kind_and_task(name, tasks).is_none());
    if in_order {
        let names = outputs.iter().map(|&name| name.to_owned()).collect();
        return Ok((names, Matching::Order));
    }
    let names: Vec<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
    let described = |name: &&str| match channels(name) {
        Some(channels) => format!("\"{name}\" ({channels} channels)"),
        None => format!("\"{name}\""),
    };
    let found: Vec<String> = outputs.iter().map(described).collect();
    Err(BuildError::graph(
        graph.path(),
        format!(
            "its outputs are {}; the model description wants {names:?} with {:?} channels. Name the \
             file's outputs in `head.tasks[].outputs`",
            found.join(", "),
            wanted.iter().map(|w| w.channels).collect::<Vec<_>>()
        ),
    ))
}

fn by_words(outputs: &[&str], wanted: &[Wanted], tasks: usize) -> Option<Vec<String>> {
    let mut found: HashMap<(usize, usize), &str> = HashMap::new();
    for name in outputs {
        let key = kind_and_task(name, tasks);
        if key.is_some_and(|key| found.insert(key, name).is_some()) {
            return None;
        }
    }
    let names = wanted.iter().map(|w| found.get(&(w.kind, w.task)));
    names.map(|name| name.map(|&n| n.to_owned())).collect()
}

/// The kind and the task that a name speaks of, if it does of one of each.
fn kind_and_task(name: &str, tasks: usize) -> Option<(usize, usize)> {
    let words = name.split(|c: char| !c.is_ascii_alphabetic());
    let mut kinds = words.filter_map(|word| match word.to_ascii_lowercase().as_str() {
        "hm" => Some(0),
        "hei" => Some(2),
        word => HeadMaps::NAMES.iter().position(|&name| name == word),
    });
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return None;
    };
    let mut numbers = name.split(|c: char| !c.is_ascii_digit());
    let task = match numbers.rfind(|n| !n.is_empty()) {
        Some(number) => number.parse().ok()?,
        None if tasks == 1 => 0,
        None => return None,
    };
    (task < tasks).then_some((kind, task))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_task_of_names() {
        for (name, tasks, expected) in [
            ("heatmap", 1, Some((0, 0))),
            ("heatmap", 2, None),
            ("heatmap_0", 6, Some((0, 0))),
            ("task3_heatmap", 6, Some((0, 3))),
            ("hm5", 6, Some((0, 5))),
            ("hm6", 6, None),
            ("task_heads.2.vel", 6, Some((5, 2))),
            ("reg_0", 1, Some((1, 0))),
            ("REG", 1, Some((1, 0))),
            ("regression", 1, None),
            ("heatmap_reg", 1, None),
            ("594", 6, None),
            ("height_99999999999999999999", 6, None),
        ] {
            assert_eq!(kind_and_task(name, tasks), expected, "{name}");
        }
    }
}
