//! Properties of a Jetson: L4T's release, the power mode, and the clocks of GPU and memory.
//!
//! The files, from NVIDIA's Jetson Linux documentation and `nvpmodel`:
//!
//! | file | holds |
//! |---|---|
//! | `/etc/nv_tegra_release` | `# R36 (release), REVISION: 4.3, …` |
//! | `/var/lib/nvpmodel/status` | the power mode's number, such as `pmode:0002` |
//! | `/etc/nvpmodel.conf` | its name, in `< POWER_MODEL ID=2 NAME=MODE_30W >` |
//! | `/sys/class/devfreq/17000000.gpu/` (JetPack 6), `…ga10b`, `…gv11b`, `…gp10b`, `gpu-gpc-0` | GPU, Hz |
//! | `/sys/kernel/debug/bpmp/debug/clk/emc/` | memory, Hz; root only |
//!
//! **Not tested on a Jetson**: only on file trees made from this documentation.

use std::path::Path;

use serde::Serialize;

use super::clocks::Clock;
use super::{entries, file, number};

/// Constant properties of a Jetson.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Jetson {
    /// Release of Jetson Linux, such as `R36.4.3`.
    pub l4t: Option<String>,
    /// The mode that limits clocks and cores.
    pub power_mode: Option<PowerMode>,
}

/// A power mode of `nvpmodel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PowerMode {
    /// Its number.
    pub id: u32,
    /// Its name, if listed in `/etc/nvpmodel.conf`.
    pub name: Option<String>,
}

impl Jetson {
    /// Reads the files under `root`; `None` if the machine is not a Jetson.
    pub(super) fn read(root: &Path) -> Option<Self> {
        let release = file(root, "etc/nv_tegra_release");
        // A container may have only the device tree.
        let tegra = file(root, "proc/device-tree/compatible")
            .is_some_and(|names| names.contains("nvidia,tegra"));
        (tegra || release.is_some()).then(|| Self {
            l4t: release.as_deref().and_then(l4t),
            power_mode: power_mode(root),
        })
    }
}

/// `R36.4.3` from the first line of `/etc/nv_tegra_release`.
fn l4t(release: &str) -> Option<String> {
    let mut parts = release.lines().next()?.split(',').map(str::trim);
    let major = parts.next()?.trim_start_matches('#').split('(').next()?;
    let minor = parts.find_map(|part| part.strip_prefix("REVISION:"))?;
    Some(format!("{}.{}", major.trim(), minor.trim()))
}

fn power_mode(root: &Path) -> Option<PowerMode> {
    let status = file(root, "var/lib/nvpmodel/status")?;
    let id: u32 = status.strip_prefix("pmode:")?.trim().parse().ok()?;
    let modes = file(root, "etc/nvpmodel.conf").unwrap_or_default();
    let name = modes.lines().find_map(|line| {
        let inside = line.trim().strip_prefix('<')?.strip_suffix('>')?;
        let mut words = inside.split_whitespace();
        (words.next() == Some("POWER_MODEL")).then_some(())?;
        let mut value = |key: &str| words.next()?.strip_prefix(key);
        let found: u32 = value("ID=")?.parse().ok()?;
        value("NAME=").filter(|_| found == id).map(str::to_owned)
    });
    Some(PowerMode { id, name })
}

/// The clock of the integrated GPU.
pub(super) fn gpu_clock(root: &Path) -> Option<Clock> {
    let folder = "sys/class/devfreq";
    let is_gpu = |name: &String| {
        let unit = name.rsplit('.').next().unwrap_or_default();
        name.starts_with("gpu-gpc") || ["gpu", "ga10b", "gv11b", "gp10b"].contains(&unit)
    };
    let device = entries(root, folder).into_iter().find(is_gpu)?;
    let path = |name: &str| format!("{folder}/{device}/{name}");
    let mhz = |name| number(root, &path(name)).map(|hz| hz / 1e6);
    Some(Clock {
        mhz: mhz("cur_freq")?,
        min_mhz: mhz("min_freq"),
        max_mhz: mhz("max_freq"),
        governor: file(root, &path("governor")),
        name: device,
    })
}

/// The clock of the memory.
pub(super) fn emc_clock(root: &Path) -> Option<Clock> {
    let folder = "sys/kernel/debug/bpmp/debug/clk/emc";
    let mhz = |name| number(root, &format!("{folder}/{name}")).map(|hz| hz / 1e6);
    Some(Clock {
        name: "emc".into(),
        mhz: mhz("rate")?,
        min_mhz: mhz("min_rate"),
        max_mhz: mhz("max_rate"),
        governor: None,
    })
}
