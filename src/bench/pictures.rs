//! Plots of a measurement: the distribution of latencies, and latency over the quantity that differs between runs.

use super::machine::Machine;
use super::report::Run;
use super::run::Recording;
use crate::draw::plot::{self, Curve, Curves, Histogram, Mark, Plot};

/// The latencies of a run, with marked median and percentiles.
pub(crate) fn histogram(run: &Run, recording: &Recording, machine: &Machine) -> Plot {
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

/// Median latency over the points, sweeps or cells of a frame: the first of these that differs between runs, with
/// one curve for each combination of the others. The fainter lines are the first requested percentile.
pub(crate) fn curve(runs: &[Run], machine: &Machine) -> Plot {
    type Quantity = fn(&Run) -> f64;
    let points: Quantity = |run| run.input.points[1] as f64;
    let sweeps: Quantity = |run| run.input.sweeps as f64;
    let cells: Quantity = |run| (run.grid[0] * run.grid[1]) as f64;
    let per_sweep: Quantity = |run| (run.input.points[1] / run.input.sweeps.max(1)) as f64;
    let differs = |quantity: Quantity| runs.iter().any(|run| quantity(run) != quantity(&runs[0]));
    let (x, quantity) = if differs(per_sweep) {
        ("points", points)
    } else if differs(sweeps) {
        ("sweeps", sweeps)
    } else {
        ("cells", cells)
    };
    let mut curves: Vec<Curve> = Vec::new();
    for run in runs {
        let name = match x {
            "points" if differs(sweeps) => format!("{}, {} sweeps", run.plan, run.input.sweeps),
            "cells" => "all plans".to_owned(),
            _ => run.plan.clone(),
        };
        let bound = run.latency_ms.percentiles.first();
        let bound = bound.map_or(run.latency_ms.median, |p| p.value);
        let point = [quantity(run), run.latency_ms.median, bound];
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

/// The GPU or CPU and the machine of a run.
fn place(run: &Run, machine: &Machine) -> String {
    let board = machine.board.as_deref().or(machine.cpu.as_deref());
    let board = board.unwrap_or("unknown machine");
    match &run.gpu {
        Some(gpu) => format!("{gpu}, {board}"),
        None if run.threads == 1 => format!("CPU, 1 thread, {board}"),
        None => format!("CPU, {} threads, {board}", run.threads),
    }
}
