//! Greedy search for the fastest mix that is accurate enough.
//!
//! 1. All layers start in INT8. While the goal is not met, the layer that removes the most noise for its cost
//!    changes to float. How much it removes depends on the other layers, but gains only shrink as noise
//!    decreases. Gains in earlier mixes are therefore upper bounds, and only the top layers need a new
//!    measurement (lazy greedy, Minoux 1978).
//! 2. Layers are then put back to INT8, the most expensive first, if the goal remains met.
//!
//! The gain is the decrease of the noise power at object cells, even if the goal is an mAP drop: on a few hundred
//! frames, a single layer changes mAP by less than random matching does, whereas noise is smooth. Of equal gains
//! the earlier layer wins, so the result depends only on the measurements.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{Evaluate, Measurement, Mix, SensitivityError};
use crate::build::Result;

/// The required accuracy of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Maximum loss of mAP against the float network.
    MeanApDrop(f64),
    /// Minimum SQNR at object cells, in dB.
    ObjectSqnr(f64),
}

impl Goal {
    /// Whether `mix` is accurate enough, compared with `float`.
    pub fn is_met(&self, float: &Measurement, mix: &Measurement) -> bool {
        match *self {
            // The tolerance is far below measurable differences; a drop of exactly the budget is accepted.
            Goal::MeanApDrop(most) => mix
                .drop_from(float)
                .is_some_and(|drop| drop <= most + 1e-12),
            Goal::ObjectSqnr(least) => mix.objects >= least,
        }
    }
}

/// The cost of a layer in float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Its multiply-accumulates, which are the same on every machine.
    #[default]
    Macs,
    /// Its measured time in float minus its time in INT8, on this machine.
    Time,
}

/// The best mix, and the steps of the search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The required accuracy.
    pub goal: Goal,
    /// The cost of layers in float.
    pub cost: Cost,
    /// The mix.
    pub mix: Mix,
    /// Its float layers.
    pub skip: Vec<String>,
    /// Its measurement.
    pub measured: Measurement,
    /// Share of the total cost that is in INT8, 0 to 1.
    pub int8_share: f64,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One change of the mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The kind of change.
    pub action: Action,
    /// The changed layer.
    pub layer: String,
    /// Measurement of the resulting mix, even if the change was rejected.
    pub measured: Measurement,
    /// Whether that mix meets the goal.
    pub met: bool,
}

/// The kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The layer changed to float.
    LeftOut,
    /// The layer changed back to INT8.
    PutBack,
    /// Changing the layer back would miss the goal, so it stays in float.
    Kept,
}

/// A layer and its cost in float.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerCost<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its cost in float, in any unit; 0 or less is free.
    pub cost: f64,
}

/// Searches for the cheapest mix of `layers` that meets `goal`.
///
/// # Errors
/// The first failed measurement; [`SensitivityError::Goal`] if even the float network misses the goal, or if the
/// goal's metric was not measured.
pub(crate) fn search(
    layers: &[LayerCost<'_>],
    goal: Goal,
    cost: Cost,
    measure: &mut dyn Evaluate,
) -> Result<Search> {
    let float = measure.evaluate(&Mix::float(layers.len()))?;
    if !goal.is_met(&float, &float) {
        return Err(SensitivityError::Goal(unreachable(goal, &float)).into());
    }
    let all = Mix::int8(layers.len());
    let first = measure.evaluate(&all)?;
    let mut state = State {
        layers,
        goal,
        float,
        mix: all,
        measured: first,
        steps: Vec::new(),
    };
    state.leave_out(measure)?;
    state.put_back(measure)?;
    let costs = |indices: &mut dyn Iterator<Item = usize>| -> f64 {
        indices
            .filter_map(|i| layers.get(i))
            .map(|l| l.cost.max(0.0))
            .sum()
    };
    let total = costs(&mut (0..layers.len()));
    let int8 = costs(&mut state.mix.int8_layers());
    let names = state.mix.float_layers().filter_map(|i| layers.get(i));
    Ok(Search {
        goal,
        cost,
        skip: names.map(|layer| layer.name.to_owned()).collect(),
        int8_share: if total > 0.0 { int8 / total } else { 1.0 },
        mix: state.mix,
        measured: state.measured,
        steps: state.steps,
    })
}

fn unreachable(goal: Goal, float: &Measurement) -> String {
    match (goal, float.mean_ap) {
        (Goal::MeanApDrop(_), None) => {
            "an mAP budget requires labels: add `--labels`, or use `--min-sqnr` instead".into()
        }
        (Goal::MeanApDrop(most), Some(_)) => {
            format!("a budget of {most}: expected an mAP drop of at least 0, such as 0.001")
        }
        (Goal::ObjectSqnr(least), _) => format!(
            "a minimum SQNR of {least} dB: even the float network has only {} dB; use a value such \
             as 30",
            float.objects
        ),
    }
}

struct State<'a> {
    layers: &'a [LayerCost<'a>],
    goal: Goal,
    float: Measurement,
    mix: Mix,
    measured: Measurement,
    steps: Vec<Step>,
}

impl State<'_> {
    fn is_met(&self) -> bool {
        self.goal.is_met(&self.float, &self.measured)
    }

    /// Decrease in noise from the current mix to `after`, per unit of `layer`'s cost.
    fn value(&self, layer: usize, after: &Measurement) -> f64 {
        // A free layer comes before all others whose gain has the same sign.
        let total: f64 = self.layers.iter().map(|l| l.cost.max(0.0)).sum();
        let least = if total > 0.0 { total * 1e-9 } else { 1.0 };
        let cost = self.layers.get(layer).map_or(0.0, |l| l.cost).max(least);
        (self.measured.noise() - after.noise()) / cost
    }

    /// Changes layers to float until the goal is met, at the latest when all are.
    fn leave_out(&mut self, measure: &mut dyn Evaluate) -> Result<()> {
        // Upper bound of each remaining layer's value; infinite if not measured yet.
        let mut bounds: Vec<(usize, f64)> = (0..self.layers.len())
            .map(|layer| (layer, f64::INFINITY))
            .collect();
        while !self.is_met() {
            // Layers measured in the current mix.
            let mut fresh: Vec<(usize, Measurement)> = Vec::new();
            let (layer, measured) = loop {
                let top = bounds.iter().copied().max_by(by_value);
                let Some((layer, _)) = top else {
                    return Ok(());
                };
                if let Some((_, measured)) = fresh.iter().find(|(l, _)| *l == layer) {
                    break (layer, *measured);
                }
                let measured = measure.evaluate(&self.mix.with(layer, false))?;
                fresh.push((layer, measured));
                let value = self.value(layer, &measured);
                for bound in bounds.iter_mut().filter(|(l, _)| *l == layer) {
                    bound.1 = value;
                }
            };
            bounds.retain(|(l, _)| *l != layer);
            self.mix = self.mix.with(layer, false);
            self.measured = measured;
            self.record(Action::LeftOut, layer, measured, self.is_met());
        }
        Ok(())
    }

    /// Puts layers back to INT8, the most expensive first, if the goal remains met.
    fn put_back(&mut self, measure: &mut dyn Evaluate) -> Result<()> {
        let mut left_out: Vec<usize> = self.mix.float_layers().collect();
        // The last layer reached the goal, and the mix without it is known to miss it.
        if let Some(last) = self.steps.last() {
            let name = last.layer.clone();
            left_out.retain(|&l| self.layers.get(l).is_none_or(|layer| layer.name != name));
        }
        let cost = |layer: &usize| self.layers.get(*layer).map_or(0.0, |l| l.cost);
        left_out.sort_by(|a, b| cost(b).total_cmp(&cost(a)).then(a.cmp(b)));
        for layer in left_out {
            let mix = self.mix.with(layer, true);
            let measured = measure.evaluate(&mix)?;
            let met = self.goal.is_met(&self.float, &measured);
            let action = if met { Action::PutBack } else { Action::Kept };
            if met {
                (self.mix, self.measured) = (mix, measured);
            }
            self.record(action, layer, measured, met);
        }
        Ok(())
    }

    fn record(&mut self, action: Action, layer: usize, measured: Measurement, met: bool) {
        let name = self.layers.get(layer).map_or("", |l| l.name);
        self.steps.push(Step {
            action,
            layer: name.to_owned(),
            measured,
            met,
        });
    }
}

/// Orders by value; of equal values the earlier layer is greater.
fn by_value(a: &(usize, f64), b: &(usize, f64)) -> Ordering {
    a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))
}
