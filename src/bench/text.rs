//! The report as text: the machine, then a summary of each plan in `trtexec`'s format, with warnings.

use std::fmt::{self, Display, Formatter};

use super::compare::Comparison;
use super::machine::{Clock, Machine, State};
use super::report::{Memory, Report, Run};
use super::stats::Summary;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "=== Machine ===")?;
        write!(f, "{}", self.machine)?;
        states(f, &self.before, &self.after)?;
        for run in &self.runs {
            writeln!(f)?;
            write!(f, "{run}")?;
            for warning in self.warnings(run) {
                writeln!(f, "Warning: {warning}")?;
            }
        }
        if !self.comparisons.is_empty() {
            writeln!(f, "\n=== Comparison, in turn ===")?;
            for comparison in &self.comparisons {
                self.comparison(f, comparison)?;
            }
        }
        if self.runs.len() > 1 {
            writeln!(f, "\n=== Latency ===")?;
            table(f, &self.runs)?;
        }
        Ok(())
    }
}

impl Report {
    fn comparison(&self, f: &mut Formatter<'_>, c: &Comparison) -> fmt::Result {
        let (Some(base), Some(run)) = (self.runs.get(c.base), self.runs.get(c.plan)) else {
            return Ok(());
        };
        writeln!(
            f,
            "{} takes {:.3} of {}'s time (ratio of medians); {} pairs: median {:.3}, 5 % {:.3}, 95 % {:.3}",
            run.plan, c.of_medians, base.plan, c.pairs, c.median, c.spread[0], c.spread[1],
        )
    }

    /// Reasons to doubt a run, and what to do.
    fn warnings(&self, run: &Run) -> Vec<String> {
        let mut warnings = Vec::new();
        if run.latency_ms.is_unstable() {
            warnings.push(format!(
                "latency is unstable, with a coefficient of variation of {:.1} %. {}",
                run.latency_ms.variation,
                self.steadier()
            ));
        }
        let cores = self.machine.cores as f64;
        if let Some(load) = self.before.load.filter(|load| *load > 0.5 * cores) {
            warnings.push(format!(
                "{load:.1} processes were runnable on {cores} cores in the minute before: other programs \
                 took part of the time"
            ));
        }
        let dropped = run.dropped;
        if dropped.pillars + dropped.sweep_points > 0 {
            warnings.push(format!(
                "{} points exceeded max_pillars and {} exceeded points.capacity: more points would take the \
                 same time",
                dropped.pillars, dropped.sweep_points
            ));
        }
        if dropped.non_finite_candidates > 0 {
            warnings.push("the network returns NaN or infinity: its times may be unusual".into());
        }
        match run.memory.allocations {
            Some(count) if count > 0 => warnings.push(format!(
                "{count} allocations in {} frames after the warm-up: the clouds got larger, or this is a bug",
                run.frames
            )),
            _ => {}
        }
        warnings
    }

    /// How to get steadier times on this machine.
    fn steadier(&self) -> &'static str {
        let governors = self
            .before
            .cpu
            .iter()
            .map(|clock| clock.governor.as_deref());
        let mut governors = governors.flatten();
        if self.machine.jetson.is_some() {
            "Choose the power mode (`sudo nvpmodel -m 0`) and lock the clocks (`sudo jetson_clocks`), then measure \
             again for longer (`--duration`)."
        } else if governors.any(|governor| governor != "performance") {
            "Fix the CPU's clock (`sudo cpupower frequency-set -g performance`), stop other programs, then measure \
             again for longer (`--duration`)."
        } else {
            "Stop other programs, use fewer threads than cores (`--threads`), and measure for longer \
             (`--duration`)."
        }
    }
}

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let unknown = || "unknown".to_owned();
        if let Some(board) = &self.board {
            writeln!(f, "Board: {board}")?;
        }
        let cpu = self.cpu.clone().unwrap_or_else(unknown);
        writeln!(f, "CPU: {cpu}, {} cores, {}", self.cores, self.architecture)?;
        let memory = self.memory.map_or_else(unknown, gigabytes);
        let kernel = self.kernel.clone().unwrap_or_else(unknown);
        let system = self.system.clone().unwrap_or_else(unknown);
        writeln!(f, "Memory: {memory}; Linux {kernel}, {system}")?;
        if let Some(jetson) = &self.jetson {
            let l4t = jetson.l4t.clone().unwrap_or_else(unknown);
            let mode = jetson.power_mode.as_ref().map_or_else(unknown, |mode| {
                let name = mode.name.clone().unwrap_or_else(unknown);
                format!("{name} ({})", mode.id)
            });
            writeln!(f, "Jetson Linux: {l4t}; power mode: {mode}")?;
        }
        for missing in &self.missing {
            writeln!(f, "Not recorded: {missing}")?;
        }
        Ok(())
    }
}

/// Writes load, clocks and temperatures before and after.
fn states(f: &mut Formatter<'_>, before: &State, after: &State) -> fmt::Result {
    if let (Some(before), Some(after)) = (before.load, after.load) {
        writeln!(f, "Load: {before:.2}, then {after:.2}")?;
    }
    let clocks = |state: &State| -> Vec<Clock> {
        let all = state.cpu.iter().chain(&state.gpu).chain(&state.emc);
        all.cloned().collect()
    };
    for clock in clocks(before) {
        let then = clocks(after).into_iter().find(|c| c.name == clock.name);
        let then = then.map_or_else(String::new, |then| format!(", then {:.0}", then.mhz));
        write!(f, "Clock of {}: {:.0}{then} MHz", clock.name, clock.mhz)?;
        if let (Some(min), Some(max)) = (clock.min_mhz, clock.max_mhz) {
            write!(f, ", allowed {min:.0} to {max:.0}")?;
        }
        if let Some(governor) = clock.governor {
            write!(f, ", governor {governor}")?;
        }
        writeln!(f)?;
    }
    if !before.temperatures.is_empty() {
        let texts = before.temperatures.iter().map(|sensor| {
            let then = after.temperatures.iter().find(|t| t.name == sensor.name);
            let then = then.map_or_else(String::new, |then| format!(" → {:.0}", then.celsius));
            format!("{} {:.0}{then}", sensor.name, sensor.celsius)
        });
        writeln!(
            f,
            "Temperatures, °C: {}",
            texts.collect::<Vec<_>>().join(", ")
        )?;
    }
    Ok(())
}

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [nx, ny] = self.grid;
        let place = match &self.gpu {
            Some(gpu) => gpu.clone(),
            None => format!("CPU, {} thread{}", self.threads, plural(self.threads)),
        };
        writeln!(f, "=== Performance summary: {} ===", self.plan)?;
        writeln!(f, "Model: {}, {nx} × {ny} cells, on {place}", self.model)?;
        writeln!(f, "Frames: {}", self.frames_text())?;
        let (warm_up, warm_up_ms) = (self.warm_up_frames, self.warm_up_ms);
        writeln!(
            f,
            "Warmup completed {warm_up} queries over {warm_up_ms:.0} ms"
        )?;
        let walltime = self.walltime_s;
        writeln!(
            f,
            "Timing trace has {} queries over {walltime:.3} s\n",
            self.frames
        )?;
        writeln!(f, "Throughput: {:.2} qps", self.throughput_qps)?;
        writeln!(f, "Latency: {}", Line(&self.latency_ms))?;
        if let Some(response) = &self.response_ms {
            writeln!(f, "Response: {}", Line(response))?;
            writeln!(f, "Skipped scans: {}", self.skipped_scans)?;
        }
        writeln!(f, "Total Host Walltime: {walltime:.3} s")?;
        if let Some(missed) = &self.deadline {
            writeln!(
                f,
                "Deadline: {} ms, missed by {} of {} frames, at most {} in a row",
                missed.deadline_ms, missed.misses, missed.frames, missed.longest_run
            )?;
        }
        writeln!(f, "Memory: {}", self.memory)?;
        writeln!(f, "Dropped: {}\n", losses(self))?;
        self.stages(f)
    }
}

impl Run {
    fn frames_text(&self) -> String {
        let input = &self.input;
        let points = match input.points {
            [least, most] if least == most => format!("{most} points"),
            [least, most] => format!("{least} to {most} points"),
        };
        let kind = match (input.kind, input.sweeps) {
            ("files", _) => format!("{} from files", input.count),
            (_, 1) => "synthetic, 1 sweep".to_owned(),
            (_, sweeps) => format!("synthetic, {sweeps} sweeps"),
        };
        format!("{kind}, {points}; {:.1} boxes each", self.boxes)
    }

    /// Writes a row per stage and one for the total; `share` refers to the mean.
    fn stages(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<10}{:>9}{:>9}{:>9}",
            "stage, ms", "min", "mean", "median"
        )?;
        for percentile in &self.latency_ms.percentiles {
            write!(f, "{:>9}", format!("{} %", percentile.percent))?;
        }
        writeln!(f, "{:>9}{:>9}", "max", "share")?;
        let all = [("total", &self.latency_ms)];
        let stages = self.stages_ms.iter().map(|stage| (stage.name, &stage.ms));
        for (name, ms) in stages.chain(all) {
            write!(
                f,
                "{name:<10}{:9.3}{:9.3}{:9.3}",
                ms.min, ms.mean, ms.median
            )?;
            for percentile in &ms.percentiles {
                write!(f, "{:9.3}", percentile.value)?;
            }
            let share = ms.mean / self.latency_ms.mean * 100.0;
            writeln!(f, "{:9.3}{share:7.1} %", ms.max)?;
        }
        Ok(())
    }
}

/// Writes a row per run: its parameters and latency.
fn table(f: &mut Formatter<'_>, runs: &[Run]) -> fmt::Result {
    let width = runs.iter().map(|run| run.plan.chars().count()).max();
    let width = width.unwrap_or(0).max("plan".len());
    write!(
        f,
        "{:<width$}{:>12}{:>8}{:>9}{:>10}",
        "plan", "cells", "sweeps", "points", "median"
    )?;
    let percentiles = runs
        .first()
        .map_or(&[][..], |run| &run.latency_ms.percentiles);
    for percentile in percentiles {
        write!(f, "{:>9}", format!("{} %", percentile.percent))?;
    }
    writeln!(f, "{:>9}", "max")?;
    for run in runs {
        let (ms, [nx, ny]) = (&run.latency_ms, run.grid);
        let (cells, input) = (format!("{nx} × {ny}"), &run.input);
        write!(
            f,
            "{:<width$}{cells:>12}{:>8}{:>9}",
            run.plan, input.sweeps, input.points[1]
        )?;
        write!(f, "{:10.3}", ms.median)?;
        for percentile in &ms.percentiles {
            write!(f, "{:9.3}", percentile.value)?;
        }
        writeln!(f, "{:9.3}", ms.max)?;
    }
    Ok(())
}

/// `min = … ms, max = … ms, …` like `trtexec`.
struct Line<'a>(&'a Summary);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Summary {
            min,
            max,
            mean,
            median,
            percentiles,
            ..
        } = self.0;
        write!(
            f,
            "min = {min:.3} ms, max = {max:.3} ms, mean = {mean:.3} ms, median = {median:.3} ms"
        )?;
        for p in percentiles {
            write!(f, ", percentile({}%) = {:.3} ms", p.percent, p.value)?;
        }
        Ok(())
    }
}

impl Display for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.start, self.end) {
            (Some(start), Some(end)) => write!(
                f,
                "{} resident, {} at the peak, {} before loading; ",
                megabytes(end.now),
                megabytes(end.peak),
                megabytes(start.now)
            )?,
            _ => write!(f, "resident memory unknown; ")?,
        }
        match self.device {
            Some(bytes) => write!(
                f,
                "{} used on the device by all programs; ",
                megabytes(bytes)
            )?,
            None => write!(f, "not on a GPU; ")?,
        }
        match self.allocations {
            Some(count) => write!(f, "{count} allocations after the warm-up"),
            None => write!(f, "allocations not counted"),
        }
    }
}

/// The mean losses of a frame.
fn losses(run: &Run) -> String {
    let lost = run.dropped.counters();
    let lost = lost.iter().filter(|(_, n)| *n > 0);
    let lost = lost.map(|(name, n)| format!("{:.1} {name}", *n as f64 / run.frames as f64));
    let lost: Vec<String> = lost.collect();
    if lost.is_empty() {
        "nothing".into()
    } else {
        format!("{} per frame", lost.join(", "))
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
