//! Clocks and temperatures that every Linux tells in the same way: cpufreq and the thermal zones.

use std::path::Path;

use serde::Serialize;

use super::{entries, file, key, number};

/// A clock and the limits within which it moves, in MHz.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clock {
    /// What it drives: `cores 0-3`, or the device's name.
    pub name: String,
    /// Now.
    pub mhz: f64,
    /// Lowest that is allowed.
    pub min_mhz: Option<f64>,
    /// Highest that is allowed.
    pub max_mhz: Option<f64>,
    /// What chooses it, as `schedutil`, `performance`.
    pub governor: Option<String>,
}

/// A sensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Temperature {
    /// Its name, as `gpu-thermal`.
    pub name: String,
    /// °C.
    pub celsius: f64,
}

/// The CPU's clocks: by cpufreq's groups, else the mean of what `/proc/cpuinfo` says.
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

/// The mean of all cores' clocks in `/proc/cpuinfo`, which x86 has.
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

/// `0 1 2 3 8` as `0-3 8`; anything else as it is.
fn ranges(cores: &str) -> String {
    let Ok(numbers) = cores
        .split_whitespace()
        .map(str::parse::<u32>)
        .collect::<Result<Vec<_>, _>>()
    else {
        return cores.to_owned();
    };
    let groups = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let words = groups.filter_map(|group| match group {
        [] => None,
        [one] => Some(one.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// All thermal zones that give a value; some of a Jetson's do not while their unit is off.
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
    fn neighbours_are_ranges() {
        assert_eq!(ranges("0 1 2 3 8"), "0-3 8");
        assert_eq!(ranges("7"), "7");
        assert_eq!(ranges("4 5"), "4-5");
        assert_eq!(ranges("4294967295 0"), "4294967295 0");
        assert_eq!(ranges("all"), "all");
    }
}
