//! The charts of a measurement: how often each latency came, and cost over what differs between runs.

use super::machine::Machine;
use super::report::Run;
use super::run::Recording;
use crate::draw::Image;
use crate::draw::plot::{self, Curve, Curves, Histogram, Mark};

/// The latencies of a run, with median and percentiles marked.
pub fn histogram(run: &Run, recording: &Recording, machine: &Machine) -> Image {
    let values: Vec<f64> = recording.samples.iter().map(|s| s.latency_ms).collect();
    let percentiles = run.latency_ms.percentiles.iter().map(|p| Mark {
        name: format!("{} %", p.percent),
        value: p.value,
    });
    let median = Mark {
        name: "median".into(),
        value: run.latency_ms.median,
    };
    let mut marks: Vec<Mark> = std::iter::once(median).chain(percentiles).collect();
    marks.sort_by(|a, b| a.value.total_cmp(&b.value));
    plot::histogram(&Histogram {
        title: &format!("Latency of {} frames, {}", run.frames, run.plan),
        subtitle: &place(run, machine),
        values: &values,
        unit: "ms",
        marks: &marks,
    })
}

/// Median latency over the points, sweeps or cells of a frame, whichever differ first in that order; with a curve
/// for each combination of the others. The fainter line above is the first percentile that was asked for.
pub fn curve(runs: &[Run], machine: &Machine) -> Image {
    type Number = fn(&Run) -> f64;
    let points: Number = |run| run.input.points[1] as f64;
    let sweeps: Number = |run| run.input.sweeps as f64;
    let cells: Number = |run| (run.grid[0] * run.grid[1]) as f64;
    let per_sweep: Number = |run| (run.input.points[1] / run.input.sweeps.max(1)) as f64;
    let differ = |number: Number| {
        runs.iter().any(|run| {
            runs.first()
                .is_some_and(|first| number(first) != number(run))
        })
    };
    let (x, number) = if differ(per_sweep) {
        ("points", points)
    } else if differ(sweeps) {
        ("sweeps", sweeps)
    } else {
        ("cells", cells)
    };
    let mut curves: Vec<Curve> = Vec::new();
    for run in runs {
        let name = match x {
            "points" if differ(sweeps) => format!("{}, {} sweeps", run.plan, run.input.sweeps),
            "cells" => "all plans".to_owned(),
            _ => run.plan.clone(),
        };
        let bound = run.latency_ms.percentiles.first();
        let bound = bound.map_or(run.latency_ms.median, |p| p.value);
        let point = [number(run), run.latency_ms.median, bound];
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve {
                name,
                points: vec![point],
            }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    }
    let percentile = runs
        .first()
        .and_then(|run| run.latency_ms.percentiles.first());
    let faint = percentile.map_or_else(String::new, |p| format!(", {} % fainter", p.percent));
    let subtitle = runs.first().map(|run| place(run, machine));
    plot::curves(&Curves {
        title: &format!("Latency over {x}: median{faint}"),
        subtitle: &subtitle.unwrap_or_default(),
        x,
        y: "ms",
        curves: &curves,
    })
}

/// Where it ran.
fn place(run: &Run, machine: &Machine) -> String {
    let board = machine.board.as_deref().or(machine.cpu.as_deref());
    let board = board.unwrap_or("unknown machine");
    match &run.gpu {
        Some(gpu) => format!("{gpu}, {board}"),
        None if run.threads == 1 => format!("CPU, 1 thread, {board}"),
        None => format!("CPU, {} threads, {board}", run.threads),
    }
}
