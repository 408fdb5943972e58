//! The budget: a greedy search for the fastest mix that is accurate enough.
//!
//! 1. All layers begin in INT8. While the goal is not met, the layer that removes the most noise for
//!    its cost is left in float. What it removes depends on the others: gains only shrink as noise
//!    goes, so that the gains of earlier mixes are bounds, and only the layers at the top are measured
//!    again (lazy greedy, Minoux 1978).
//! 2. Then layers are put back, the costliest first, where the goal stays met.
//!
//! Gains are the power of the noise at object cells, also where the goal is a drop of mAP: a single
//! layer changes mAP by less than the luck of the matching on some hundred frames, noise is smooth.
//! Equal gains go to the earlier layer, so that the result is a function of the measurements.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{Evaluate, Measured, Mix, SensitivityError};
use crate::error::Result;

/// When a mix is accurate enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// mAP at most this much below the float network's.
    MeanApDrop(f64),
    /// SQNR at object cells of at least so many dB.
    ObjectSqnr(f64),
}

impl Goal {
    /// Whether `mix` is accurate enough, compared with `float`.
    pub fn is_met(&self, float: &Measured, mix: &Measured) -> bool {
        match *self {
            // In steps that are far below what can be measured: a drop of exactly the budget is met.
            Goal::MeanApDrop(most) => mix
                .drop_from(float)
                .is_some_and(|drop| drop <= most + 1e-12),
            Goal::ObjectSqnr(least) => mix.objects >= least,
        }
    }
}

/// What leaving a layer in float costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Its multiply-adds: the same on every machine.
    #[default]
    Macs,
    /// Its measured time in float less that in INT8, on this machine.
    Time,
}

/// The mix that was found, and the way there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// When a mix is accurate enough.
    pub goal: Goal,
    /// What a layer in float costs.
    pub cost: Cost,
    /// The mix.
    pub mix: Mix,
    /// The layers of it that stay float.
    pub skip: Vec<String>,
    /// What was measured of it.
    pub measured: Measured,
    /// Share of the cost of all layers that stays in INT8, 0 to 1.
    pub int8_share: f64,
    /// What was tried, in order.
    pub steps: Vec<Step>,
}

/// One change of the mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What was done.
    pub action: Action,
    /// To which layer.
    pub layer: String,
    /// What was measured of the mix that it makes, or would have made.
    pub measured: Measured,
    /// Whether that meets the goal.
    pub met: bool,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The layer was left in float.
    LeftOut,
    /// The layer was put back to INT8.
    PutBack,
    /// Putting the layer back would break the goal: it stays float.
    Kept,
}

/// A layer to the search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// What leaving it in float costs, in any unit; 0 and less is free.
    pub cost: f64,
}

/// Searches the cheapest mix of `layers` that meets `goal`.
///
/// # Errors
/// The first measurement that fails; [`SensitivityError::Goal`] where not even the float network meets
/// the goal, or where it is of a metric that was not measured.
pub fn search(
    layers: &[Candidate<'_>],
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
    let costs = |of: &mut dyn Iterator<Item = usize>| -> f64 {
        of.filter_map(|i| layers.get(i))
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

fn unreachable(goal: Goal, float: &Measured) -> String {
    match (goal, float.mean_ap) {
        (Goal::MeanApDrop(_), None) => {
            "a budget of mAP needs labels: give `--labels`, or `--min-sqnr` instead".into()
        }
        (Goal::MeanApDrop(most), Some(_)) => {
            format!("a budget of {most}: expected a drop of mAP of 0 or more, such as 0.001")
        }
        (Goal::ObjectSqnr(least), _) => format!(
            "a least SQNR of {least} dB: not even the float network has it ({} dB), expected \
             something like 30",
            float.objects
        ),
    }
}

struct State<'a> {
    layers: &'a [Candidate<'a>],
    goal: Goal,
    float: Measured,
    mix: Mix,
    measured: Measured,
    steps: Vec<Step>,
}

impl State<'_> {
    fn is_met(&self) -> bool {
        self.goal.is_met(&self.float, &self.measured)
    }

    /// Noise that `after` has less than the mix at hand, for the cost of `layer`.
    fn value(&self, layer: usize, after: &Measured) -> f64 {
        // A layer that costs nothing goes before all others with the same sign of gain.
        let total: f64 = self.layers.iter().map(|l| l.cost.max(0.0)).sum();
        let least = if total > 0.0 { total * 1e-9 } else { 1.0 };
        let cost = self.layers.get(layer).map_or(0.0, |l| l.cost).max(least);
        (self.measured.noise() - after.noise()) / cost
    }

    /// Leaves layers in float until the goal is met: at the latest when all are.
    fn leave_out(&mut self, measure: &mut dyn Evaluate) -> Result<()> {
        // Per layer the best that it may still be worth; not measured is worth everything.
        let mut bounds: Vec<(usize, f64)> = (0..self.layers.len())
            .map(|layer| (layer, f64::INFINITY))
            .collect();
        while !self.is_met() {
            // Worth and measurement in the mix at hand of those that were measured in it.
            let mut fresh: Vec<(usize, Measured)> = Vec::new();
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

    /// Puts layers back to INT8, the costliest first, while the goal stays met.
    fn put_back(&mut self, measure: &mut dyn Evaluate) -> Result<()> {
        let mut left_out: Vec<usize> = self.mix.float_layers().collect();
        // The last one made the goal: without it the mix is one that did not meet it.
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

    fn record(&mut self, action: Action, layer: usize, measured: Measured, met: bool) {
        let name = self.layers.get(layer).map_or("", |l| l.name);
        self.steps.push(Step {
            action,
            layer: name.to_owned(),
            measured,
            met,
        });
    }
}

/// The order of values; of equal ones the earlier layer is the greater.
fn by_value(a: &(usize, f64), b: &(usize, f64)) -> Ordering {
    a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))
}
