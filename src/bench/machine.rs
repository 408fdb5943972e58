//! The machine that a measurement was taken on: what it is, and how fast it was set to run.
//!
//! Latencies mean little without it: the memory clock of a Jetson alone moves the median by 45 %. Everything is
//! read from files of Linux under a root (`/` but in tests), and what is not there is left out and
//! named in [`Machine::missing`]; nothing here can fail. Clocks are MHz, temperatures °C.
//!
//! [`Machine`] is what stays, [`State`] what changes: it is taken before and after a measurement.

mod clocks;
mod jetson;

use std::path::Path;

use serde::Serialize;

pub use clocks::{Clock, Temperature};
pub use jetson::{Jetson, PowerMode};

use super::memory::kilobytes;

/// What stays while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Name of the board, as the device tree or the firmware has it.
    pub board: Option<String>,
    /// The CPU's name.
    pub cpu: Option<String>,
    /// Logical cores that are on.
    pub cores: usize,
    /// The instruction set that the program was built for, as `x86_64`.
    pub architecture: &'static str,
    /// RAM in bytes.
    pub memory: Option<u64>,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// The distribution.
    pub system: Option<String>,
    /// What only a Jetson has.
    pub jetson: Option<Jetson>,
    /// What could not be found out, and why, in words.
    pub missing: Vec<String>,
}

/// What changes while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct State {
    /// Processes that wanted to run, mean of the last minute.
    pub load: Option<f64>,
    /// Clocks of the CPU's cores, a value for each group that shares one.
    pub cpu: Vec<Clock>,
    /// Clock of an integrated GPU.
    pub gpu: Option<Clock>,
    /// Clock of a Jetson's memory (EMC).
    pub emc: Option<Clock>,
    /// All sensors.
    pub temperatures: Vec<Temperature>,
}

impl Machine {
    /// Looks under `root`.
    pub fn read(root: &Path) -> Self {
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

    /// What the report lacks on this machine.
    fn find_missing(&self, state: &State) -> Vec<String> {
        let mut missing = Vec::new();
        if state.cpu.iter().all(|clock| clock.governor.is_none()) {
            missing.push(
                "no CPU governor and frequency limits: no /sys/devices/system/cpu/cpufreq, as in most \
                 virtual machines"
                    .into(),
            );
        }
        if state.temperatures.is_empty() {
            missing.push("no temperatures: no /sys/class/thermal/thermal_zone*".into());
        }
        match &self.jetson {
            None => missing.push("not a Jetson: no power mode, no GPU and EMC clocks".into()),
            Some(jetson) => {
                if jetson.power_mode.is_none() {
                    missing.push("no power mode: /var/lib/nvpmodel/status cannot be read".into());
                }
                if state.gpu.is_none() {
                    missing.push("no GPU clock: none in /sys/class/devfreq".into());
                }
                if state.emc.is_none() {
                    missing.push(
                        "no EMC clock: /sys/kernel/debug/bpmp/debug/clk/emc is for root; \
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
    /// Looks under `root`.
    pub fn read(root: &Path) -> Self {
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

/// The text of a small file without the white space and zeros around it; `None` if it is not there or empty.
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

/// The names of a folder's entries; shorter ones first, so that `zone2` comes before `zone10`.
fn entries(root: &Path, path: &str) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(root.join(path)) else {
        return Vec::new();
    };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// Left of the colon.
fn key(line: &str) -> &str {
    line.split(':').next().unwrap_or_default().trim()
}

/// The CPU's name from `/proc/cpuinfo`: in words, or as ARM numbers its designs.
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
    // `model name` of a Jetson says only "ARMv8 Processor rev 1 (v8l)".
    part().or_else(|| value("model name"))
}

fn pretty_name(os_release: &str) -> Option<String> {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}
