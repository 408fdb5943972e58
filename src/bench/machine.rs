//! The machine that a measurement was taken on: its hardware and clock settings.
//!
//! Latencies mean little without it: the memory clock of a Jetson alone changes the median by 45 %. Everything
//! is read from Linux's files under a root (`/` except in tests). Nothing here can fail: unavailable values are
//! left out and listed in [`Machine::missing`]. Clocks are in MHz, temperatures in °C.
//!
//! [`Machine`] holds the constant properties; [`State`] the changing ones, read before and after a measurement.

mod clocks;
mod jetson;

use std::path::Path;

use serde::Serialize;

pub(crate) use clocks::{Clock, Temperature};
pub(crate) use jetson::Jetson;

use super::memory::kilobytes;

/// Constant properties of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Name of the board, from the device tree or the firmware.
    pub board: Option<String>,
    /// The CPU's name.
    pub cpu: Option<String>,
    /// Online logical cores.
    pub cores: usize,
    /// The instruction set that the program was built for, such as `x86_64`.
    pub architecture: &'static str,
    /// RAM in bytes.
    pub memory: Option<u64>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// The distribution.
    pub system: Option<String>,
    /// Properties of a Jetson.
    pub jetson: Option<Jetson>,
    /// Unavailable values, with the reason.
    pub missing: Vec<String>,
}

/// Changing properties of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct State {
    /// Runnable processes, averaged over the last minute.
    pub load: Option<f64>,
    /// Clocks of the CPU's cores, one per group of cores that share a clock.
    pub cpu: Vec<Clock>,
    /// Clock of an integrated GPU.
    pub gpu: Option<Clock>,
    /// Clock of a Jetson's memory (EMC).
    pub emc: Option<Clock>,
    /// All sensors.
    pub temperatures: Vec<Temperature>,
}

impl Machine {
    /// Reads the files under `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let cpu_info = file(root, "proc/cpuinfo").unwrap_or_default();
        let cores = cpu_info
            .lines()
            .filter(|line| key(line) == "processor")
            .count();
        let memory = file(root, "proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal:"));
        let jetson = Jetson::read(root);
        let mut machine = Self {
            board: file(root, "proc/device-tree/model")
                .or_else(|| file(root, "sys/class/dmi/id/product_name")),
            cpu: cpu_name(&cpu_info),
            cores,
            architecture: std::env::consts::ARCH,
            memory,
            kernel: file(root, "proc/sys/kernel/osrelease"),
            system: file(root, "etc/os-release").and_then(|text| pretty_name(&text)),
            jetson,
            missing: Vec::new(),
        };
        machine.missing = machine.find_missing(&State::read(root));
        machine
    }

    /// The values that are unavailable on this machine.
    fn find_missing(&self, state: &State) -> Vec<String> {
        let mut missing = Vec::new();
        if state.cpu.iter().all(|clock| clock.governor.is_none()) {
            missing.push(
                "no CPU governor and frequency limits: /sys/devices/system/cpu/cpufreq does not exist, as in \
                 most virtual machines"
                    .into(),
            );
        }
        if state.temperatures.is_empty() {
            missing.push("no temperatures: /sys/class/thermal/thermal_zone* does not exist".into());
        }
        match &self.jetson {
            None => missing.push("not a Jetson: no power mode, no GPU and EMC clocks".into()),
            Some(jetson) => {
                if jetson.power_mode.is_none() {
                    missing.push("no power mode: cannot read /var/lib/nvpmodel/status".into());
                }
                if state.gpu.is_none() {
                    missing.push("no GPU clock: not found in /sys/class/devfreq".into());
                }
                if state.emc.is_none() {
                    missing.push(
                        "no EMC clock: only root can read /sys/kernel/debug/bpmp/debug/clk/emc; \
                         run with sudo to record it"
                            .into(),
                    );
                }
            }
        }
        missing
    }
}

impl State {
    /// Reads the files under `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let load = file(root, "proc/loadavg");
        Self {
            load: load.and_then(|text| text.split_whitespace().next()?.parse().ok()),
            cpu: clocks::cpu(root),
            gpu: jetson::gpu_clock(root),
            emc: jetson::emc_clock(root),
            temperatures: clocks::temperatures(root),
        }
    }
}

/// The text of a small file, trimmed of white space and NULs; `None` if missing or empty.
fn file(root: &Path, path: &str) -> Option<String> {
    let bytes = std::fs::read(root.join(path)).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The number in a small file.
fn number(root: &Path, path: &str) -> Option<f64> {
    let value: f64 = file(root, path)?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// The names of a folder's entries, shorter ones first, which sorts `zone2` before `zone10`.
fn entries(root: &Path, path: &str) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(root.join(path)) else {
        return Vec::new();
    };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// The part left of the colon.
fn key(line: &str) -> &str {
    line.split(':').next().unwrap_or_default().trim()
}

/// The CPU's name from `/proc/cpuinfo`: a text, or ARM's numbers of the design.
fn cpu_name(info: &str) -> Option<String> {
    let value = |name: &str| {
        let line = info.lines().find(|line| key(line) == name)?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let part = || {
        let (implementer, part) = (value("CPU implementer")?, value("CPU part")?);
        let name = match (implementer.as_str(), part.as_str()) {
            ("0x41", "0xd42") => "Arm Cortex-A78AE",
            ("0x41", "0xd83") => "Arm Neoverse V3AE",
            _ => return Some(format!("ARM implementer {implementer}, part {part}")),
        };
        Some(name.to_owned())
    };
    // A Jetson's `model name` is only "ARMv8 Processor rev 1 (v8l)".
    part().or_else(|| value("model name"))
}

fn pretty_name(os_release: &str) -> Option<String> {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests;
