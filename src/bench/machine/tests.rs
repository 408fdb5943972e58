//! The machine's description: synthetic file trees of a Jetson and other machines, and this machine.

use std::path::Path;
use std::process::Command;

use crate::bench::machine::jetson::PowerMode;
use crate::bench::machine::{Clock, Jetson};
use crate::bench::{Machine, State};

/// Writes files under a root.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

/// The files of an AGX Orin with JetPack 6 according to the documentation; not tested on an Orin.
const ORIN: [(&str, &str); 34] = [
    (
        "proc/device-tree/model",
        "NVIDIA Jetson AGX Orin Developer Kit\0",
    ),
    (
        "proc/device-tree/compatible",
        "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0",
    ),
    (
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n\
         processor\t: 1\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    ),
    (
        "proc/meminfo",
        "MemTotal:       64349204 kB\nMemFree: 1 kB\n",
    ),
    ("proc/loadavg", "0.52 0.60 0.70 1/300 4000\n"),
    ("proc/sys/kernel/osrelease", "5.15.148-tegra\n"),
    (
        "etc/os-release",
        "NAME=\"Ubuntu\"\nPRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\n",
    ),
    (
        "etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n# more\n",
    ),
    ("var/lib/nvpmodel/status", "pmode:0002"),
    (
        "etc/nvpmodel.conf",
        "# < POWER_MODEL ID=2 NAME=NOT_THIS >\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\n\
         < POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n\
         < POWER_MODEL ID=3 NAME=MODE_50W >\n< PM_CONFIG DEFAULT=2 >\n",
    ),
    (
        "sys/devices/system/cpu/cpufreq/policy0/affected_cpus",
        "0 1 2 3\n",
    ),
    (
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq",
        "1190400\n",
    ),
    (
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq",
        "729600\n",
    ),
    (
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq",
        "1728000\n",
    ),
    (
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
        "schedutil\n",
    ),
    (
        "sys/devices/system/cpu/cpufreq/policy4/affected_cpus",
        "4 5 6 7\n",
    ),
    (
        "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq",
        "729600\n",
    ),
    // A group of cores disabled by the power mode.
    ("sys/devices/system/cpu/cpufreq/policy8/affected_cpus", "\n"),
    (
        "sys/devices/system/cpu/cpufreq/policy8/scaling_cur_freq",
        "729600\n",
    ),
    ("sys/class/devfreq/15340000.vic/cur_freq", "115200000\n"),
    ("sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n"),
    ("sys/class/devfreq/17000000.gpu/min_freq", "306000000\n"),
    ("sys/class/devfreq/17000000.gpu/max_freq", "612000000\n"),
    ("sys/class/devfreq/17000000.gpu/governor", "nvhost_podgov\n"),
    ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "2133000000\n"),
    (
        "sys/kernel/debug/bpmp/debug/clk/emc/min_rate",
        "204000000\n",
    ),
    (
        "sys/kernel/debug/bpmp/debug/clk/emc/max_rate",
        "3199000000\n",
    ),
    ("sys/class/thermal/thermal_zone10/type", "tj-thermal\n"),
    ("sys/class/thermal/thermal_zone10/temp", "51437\n"),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "50125\n"),
    // A sensor without a value because its unit is off.
    ("sys/class/thermal/thermal_zone2/type", "cv0-thermal\n"),
    ("sys/class/thermal/thermal_zone2/temp", ""),
    ("sys/class/thermal/cooling_device0/type", "fan\n"),
];

fn clock(name: &str, mhz: f64, limits: Option<[f64; 2]>, governor: Option<&str>) -> Clock {
    Clock {
        name: name.into(),
        mhz,
        min_mhz: limits.map(|[min, _]| min),
        max_mhz: limits.map(|[_, max]| max),
        governor: governor.map(str::to_owned),
    }
}

#[test]
fn an_orin_reports_power_mode_and_clocks() {
    let root = tree(&ORIN);
    let machine = Machine::read(root.path());
    let jetson = Jetson {
        l4t: Some("R36.4.3".into()),
        power_mode: Some(PowerMode {
            id: 2,
            name: Some("MODE_30W".into()),
        }),
    };
    let expected = Machine {
        board: Some("NVIDIA Jetson AGX Orin Developer Kit".into()),
        cpu: Some("Arm Cortex-A78AE".into()),
        cores: 2,
        architecture: std::env::consts::ARCH,
        memory: Some(64_349_204 * 1024),
        kernel: Some("5.15.148-tegra".into()),
        system: Some("Ubuntu 22.04.5 LTS".into()),
        jetson: Some(jetson),
        missing: vec![],
    };
    assert_eq!(machine, expected);
    let state = State::read(root.path());
    let expected = [
        clock(
            "cores 0-3",
            1190.4,
            Some([729.6, 1728.0]),
            Some("schedutil"),
        ),
        clock("cores 4-7", 729.6, None, None),
    ];
    assert_eq!(state.cpu, expected);
    let gpu = clock(
        "17000000.gpu",
        306.0,
        Some([306.0, 612.0]),
        Some("nvhost_podgov"),
    );
    assert_eq!(state.gpu, Some(gpu));
    assert_eq!(
        state.emc,
        Some(clock("emc", 2133.0, Some([204.0, 3199.0]), None))
    );
    assert_eq!(state.load, Some(0.52));
    let names: Vec<(&str, f64)> = state
        .temperatures
        .iter()
        .map(|t| (t.name.as_str(), t.celsius))
        .collect();
    assert_eq!(names, [("cpu-thermal", 50.125), ("tj-thermal", 51.437)]);
    let text = machine.to_string();
    assert!(
        text.contains("Jetson Linux: R36.4.3; power mode: MODE_30W (2)"),
        "{text}"
    );
    assert!(!text.contains("Not recorded"), "{text}");
}

#[test]
fn other_names_of_the_gpu_are_recognised() {
    for device in [
        "17000000.ga10b",
        "17000000.gv11b",
        "17000000.gp10b",
        "57000000.gpu",
        "gpu-gpc-0",
    ] {
        let path = format!("sys/class/devfreq/{device}/cur_freq");
        let root = tree(&[
            ("sys/class/devfreq/13e40000.host1x/cur_freq", "5"),
            (&path, "1300500000"),
        ]);
        assert_eq!(
            State::read(root.path()).gpu,
            Some(clock(device, 1300.5, None, None))
        );
    }
}

#[test]
fn missing_values_are_listed() {
    // Without root, the memory clock cannot be read; in a container, the list of power modes is missing.
    let hidden = [
        "sys/kernel/debug/",
        "etc/nvpmodel.conf",
        "etc/nv_tegra_release",
    ];
    let files: Vec<_> = ORIN
        .into_iter()
        .filter(|(path, _)| !hidden.iter().any(|h| path.starts_with(h)))
        .collect();
    let machine = Machine::read(tree(&files).path());
    let jetson = machine.jetson.unwrap();
    assert_eq!(jetson.l4t, None);
    assert_eq!(jetson.power_mode, Some(PowerMode { id: 2, name: None }));
    assert_eq!(machine.missing.len(), 1, "{:?}", machine.missing);
    assert!(
        machine.missing[0].contains("run with sudo"),
        "{:?}",
        machine.missing
    );

    // A PC with cpufreq.
    let pc = [
        ("sys/class/dmi/id/product_name", "Desk 9\n"),
        (
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\ncpu MHz\t\t: 3000.5\n",
        ),
        ("sys/devices/system/cpu/cpufreq/policy0/affected_cpus", "0"),
        (
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq",
            "3000000",
        ),
        (
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
            "powersave",
        ),
        ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp"),
        ("sys/class/thermal/thermal_zone0/temp", "40000"),
    ];
    let machine = Machine::read(tree(&pc).path());
    assert_eq!(machine.board.as_deref(), Some("Desk 9"));
    assert_eq!(machine.cpu.as_deref(), Some("Some CPU @ 3 GHz"));
    assert_eq!(
        machine.missing,
        ["not a Jetson: no power mode, no GPU and EMC clocks"]
    );

    // An empty tree.
    let nothing = tempfile::tempdir().unwrap();
    let machine = Machine::read(nothing.path());
    assert_eq!(
        (machine.cores, machine.missing.len()),
        (0, 3),
        "{machine:?}"
    );
    assert_eq!(State::read(nothing.path()), State::default());
}

#[test]
fn broken_files_only_lose_their_values() {
    let broken: Vec<(&str, &str)> = ORIN
        .iter()
        .map(|(path, _)| (*path, "\u{0}\u{fffd} nan: <>\n-1 pmode:"))
        .collect();
    let root = tree(&broken);
    let machine = Machine::read(root.path());
    assert_eq!(machine.jetson.unwrap().power_mode, None);
    let state = State::read(root.path());
    assert_eq!((state.gpu, state.emc, state.load), (None, None, None));
    for (status, id) in [
        ("pmode:0013", Some(13)),
        ("pmode:", None),
        ("pmode:99999999999", None),
        ("2", None),
    ] {
        let root = tree(&[
            ("etc/nv_tegra_release", "# R35"),
            ("var/lib/nvpmodel/status", status),
        ]);
        let jetson = Machine::read(root.path()).jetson.unwrap();
        assert_eq!(jetson.power_mode.map(|mode| mode.id), id, "{status}");
        assert_eq!(jetson.l4t, None);
    }
}

#[test]
fn this_machine_matches_other_programs() {
    let machine = Machine::read(Path::new("/"));
    let output = |program: &str, arg: &str| {
        let run = Command::new(program).arg(arg).output().unwrap();
        String::from_utf8(run.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(machine.kernel, Some(output("uname", "-r")));
    assert_eq!(machine.architecture, output("uname", "-m"));
    assert_eq!(
        machine.cores.to_string(),
        output("getconf", "_NPROCESSORS_ONLN")
    );
    let pages: u64 = output("getconf", "_PHYS_PAGES").parse().unwrap();
    let page: u64 = output("getconf", "PAGESIZE").parse().unwrap();
    assert_eq!(machine.memory, Some(pages * page));
}
