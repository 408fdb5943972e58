//! Matches the graph's outputs to the head maps of the description: heatmap, reg, height, dim, rot and
//! vel of each task.
//!
//! These rules apply in turn, until one assigns exactly one graph output to each head map:
//!
//! 1. **The description's names** (`head.tasks[].outputs`), compared exactly. AWML's exporter writes
//!    `heatmap`, `reg`, `height`, `dim`, `rot`, `vel`.
//! 2. **Head map and task in the name.** The name is split into words at all characters that are not
//!    letters. Exactly one word must be a head map: `heatmap` or `hm`; `reg`; `height` or `hei`; `dim`;
//!    `rot`; `vel`. The last number in the name is the task, counted from 0. A name without a number
//!    belongs to task 0 if the model has only one task. Examples are `heatmap_0`, `task0_heatmap`,
//!    `hm3` and `task_heads.5.vel`.
//! 3. **Order**, if the graph has exactly six outputs per task and their channels are, task by task,
//!    those of heatmap, reg, height, dim, rot, vel.

use std::collections::HashMap;

use crate::build::onnx::Graph;
use crate::build::{BuildError, Result};
use crate::map::HeadMaps;
use crate::model::{HEAD_VALUES, Model};

/// The rule that matched the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// The graph uses the description's names.
    Names,
    /// The graph's names contain the head map and the task.
    Words,
    /// The graph's outputs have the description's order.
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

/// A head map of the description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadMap {
    /// Name in the description.
    pub(super) name: String,
    pub(super) channels: usize,
    /// Index in [`OUTPUT_KINDS`].
    kind: usize,
    task: usize,
}

/// The head maps of the description, task by task.
pub(super) fn head_maps(model: &Model) -> Vec<HeadMap> {
    let mut all = Vec::new();
    for (task, spec) in model.head.tasks.iter().enumerate() {
        let outputs = spec.outputs.each_ref().zip(model.head_channels(spec));
        for (kind, (name, channels)) in outputs.into_array().into_iter().enumerate() {
            all.push(HeadMap {
                name: name.clone(),
                channels,
                kind,
                task,
            });
        }
    }
    all
}

/// The name of the graph output for each head map, and the rule that matched them. `channels` returns
/// the number of channels of a value.
pub(super) fn match_outputs(
    graph: &Graph,
    wanted: &[HeadMap],
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
        // The order never overrules a name that identifies a head map.
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
            "its outputs are {}, but the model description expects {names:?} with {:?} channels. Enter \
             the file's output names in `head.tasks[].outputs`",
            found.join(", "),
            wanted.iter().map(|w| w.channels).collect::<Vec<_>>()
        ),
    ))
}

/// Applies the second rule.
fn by_words(outputs: &[&str], wanted: &[HeadMap], tasks: usize) -> Option<Vec<String>> {
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

/// The outputs (name, channels) of each task, by the words in their names or by their order; `None` if they are neither.
pub(super) fn tasks_of(outputs: &[(String, usize)]) -> Option<Vec<HeadMaps<(String, usize)>>> {
    let values = |task: HeadMaps<(String, usize)>| {
        let found = task.each_ref().map(|(_, channels)| *channels);
        let fits = |factor: usize| {
            let wanted = HEAD_VALUES.map(|values| values * factor);
            found
                == HeadMaps {
                    heatmap: found.heatmap,
                    ..wanted
                }
        };
        (fits(1) || fits(2)).then_some(task)
    };
    let heatmaps = outputs.iter().filter(|(name, _)| {
        [1, usize::MAX]
            .into_iter()
            .any(|tasks| matches!(kind_and_task(name, tasks), Some((0, _))))
    });
    let tasks = heatmaps.count();
    if tasks == 0 {
        let none = |(name, _): &(String, usize)| kind_and_task(name, 1).is_none();
        let (chunks, rest) = outputs.as_chunks::<6>();
        let in_order = !chunks.is_empty() && rest.is_empty() && outputs.iter().all(none);
        let tasks = chunks.iter().map(|chunk| values(chunk.clone().into()));
        return tasks.collect::<Option<_>>().filter(|_| in_order);
    }
    let mut found: HashMap<(usize, usize), &(String, usize)> = HashMap::new();
    for output in outputs {
        if let Some(key) = kind_and_task(&output.0, tasks)
            && found.insert(key, output).is_some()
        {
            return None;
        }
    }
    let task = |task: usize| {
        let maps = std::array::from_fn(|kind| found.get(&(kind, task)).copied().cloned());
        values(HeadMaps::from(maps).try_map(|map| map.ok_or(())).ok()?)
    };
    (0..tasks).map(task).collect()
}

/// The head map (an index in [`OUTPUT_KINDS`]) and the task that a name identifies, if any.
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
    fn tasks_are_found_by_names_or_by_order() {
        let outputs = |names: &[&str], channels: &[usize]| -> Vec<(String, usize)> {
            let names = names.iter().map(|&name| name.to_owned());
            names.zip(channels.iter().copied().cycle()).collect()
        };
        let values = [5, 2, 1, 3, 2, 2];
        let one = outputs(&["heatmap", "reg", "height", "dim", "rot", "vel"], &values);
        assert_eq!(tasks_of(&one).unwrap().len(), 1);
        let shuffled: Vec<_> = one.iter().rev().cloned().collect();
        assert_eq!(tasks_of(&shuffled), tasks_of(&one));
        let numbered: Vec<String> = (0..2)
            .flat_map(|task| {
                HeadMaps::NAMES
                    .map(|name| format!("{name}_{task}"))
                    .into_array()
            })
            .collect();
        let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
        let two = tasks_of(&outputs(&numbered, &values)).unwrap();
        assert_eq!((two.len(), two[1].vel.0.as_str()), (2, "vel_1"));
        let unnamed = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(tasks_of(&outputs(&unnamed, &values)).unwrap().len(), 1);
        let variances = [3, 4, 2, 6, 4, 4];
        assert_eq!(
            tasks_of(&outputs(&unnamed, &variances)).unwrap()[0].reg.1,
            4
        );
        // Another order, a map too few, other channels, the same map twice.
        assert_eq!(tasks_of(&outputs(&unnamed, &[2, 5, 1, 3, 2, 2])), None);
        assert_eq!(tasks_of(&one[..5]), None);
        assert_eq!(tasks_of(&outputs(&numbered, &variances[..1])), None);
        let twice = [&one[..], &[("heatmap_0".to_owned(), 5)]].concat();
        assert_eq!(tasks_of(&twice), None);
    }

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
