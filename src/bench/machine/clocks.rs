//! Clocks and temperatures common to all Linux systems: cpufreq and the thermal zones.

use std::path::Path;

use serde::Serialize;

use super::{entries, file, key, number};

/// A clock and its limits, in MHz.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Clock {
    /// The clocked unit: `cores 0-3`, or the device's name.
    pub name: String,
    /// Current value.
    pub mhz: f64,
    /// Lowest allowed value.
    pub min_mhz: Option<f64>,
    /// Highest allowed value.
    pub max_mhz: Option<f64>,
    /// The governor that controls it, such as `schedutil` or `performance`.
    pub governor: Option<String>,
}

/// A sensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Temperature {
    /// Its name, such as `gpu-thermal`.
    pub name: String,
    /// °C.
    pub celsius: f64,
}

/// The CPU's clocks: one per cpufreq policy, or else the mean of `/proc/cpuinfo`.
pub(super) fn cpu(root: &Path) -> Vec<Clock> {
    let folder = "sys/devices/system/cpu/cpufreq";
    let groups = entries(root, folder)
        .into_iter()
        .filter(|name| name.starts_with("policy"));
    let clocks: Vec<Clock> = groups
        .filter_map(|policy| {
            let path = |name: &str| format!("{folder}/{policy}/{name}");
            let mhz = |name| number(root, &path(name)).map(|khz| khz / 1e3);
            let cores = file(root, &path("affected_cpus"))?;
            Some(Clock {
                name: format!("cores {}", ranges(&cores)),
                mhz: mhz("scaling_cur_freq")?,
                min_mhz: mhz("scaling_min_freq"),
                max_mhz: mhz("scaling_max_freq"),
                governor: file(root, &path("scaling_governor")),
            })
        })
        .collect();
    if clocks.is_empty() {
        return nominal(root).into_iter().collect();
    }
    clocks
}

/// The mean of all cores' clocks in `/proc/cpuinfo`, which only x86 lists.
fn nominal(root: &Path) -> Option<Clock> {
    let info = file(root, "proc/cpuinfo")?;
    let lines = info.lines().filter(|line| key(line) == "cpu MHz");
    let clocks = lines.filter_map(|line| line.split_once(':')?.1.trim().parse::<f64>().ok());
    let clocks: Vec<f64> = clocks.filter(|mhz| mhz.is_finite()).collect();
    (!clocks.is_empty()).then(|| Clock {
        name: "cores".into(),
        mhz: clocks.iter().sum::<f64>() / clocks.len() as f64,
        min_mhz: None,
        max_mhz: None,
        governor: None,
    })
}

/// Abbreviates `0 1 2 3 8` to `0-3 8`; returns other texts unchanged.
fn ranges(cores: &str) -> String {
    let Ok(numbers) = cores
        .split_whitespace()
        .map(str::parse::<u32>)
        .collect::<Result<Vec<_>, _>>()
    else {
        return cores.to_owned();
    };
    let groups = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let texts = groups.filter_map(|group| match group {
        [] => None,
        [one] => Some(one.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    texts.collect::<Vec<_>>().join(" ")
}

/// All thermal zones with a value; some of a Jetson's have none while their unit is off.
pub(super) fn temperatures(root: &Path) -> Vec<Temperature> {
    let folder = "sys/class/thermal";
    let zones = entries(root, folder)
        .into_iter()
        .filter(|name| name.starts_with("thermal_zone"));
    zones
        .filter_map(|zone| {
            Some(Temperature {
                name: file(root, &format!("{folder}/{zone}/type"))?,
                celsius: number(root, &format!("{folder}/{zone}/temp"))? / 1e3,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_cores_become_ranges() {
        assert_eq!(ranges("0 1 2 3 8"), "0-3 8");
        assert_eq!(ranges("7"), "7");
        assert_eq!(ranges("4 5"), "4-5");
        assert_eq!(ranges("4294967295 0"), "4294967295 0");
        assert_eq!(ranges("all"), "all");
    }
}
