//! `cp-bench` as a program: its counters, and the consistency of its numbers with each other and with other
//! tools. No test here depends on timing.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::repository;

/// Runs `cp-bench` in `folder`; `INT8_PLAN`, `FP32_PLAN` and `FRAMES` stand for the demo's files.
fn bench(folder: &Path, args: &str) -> Output {
    let demo = |path: &str| repository().join(path).display().to_string();
    let args = args.split_whitespace().map(|arg| match arg {
        "INT8_PLAN" => demo("engines/demo/int8.plan"),
        "FP32_PLAN" => demo("engines/demo/fp32.plan"),
        "FRAMES" => demo("calib/demo/frames"),
        other => other.to_owned(),
    });
    Command::new(env!("CARGO_BIN_EXE_cp-bench"))
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .args(args)
        .output()
        .unwrap()
}

/// Like [`bench`], which must succeed; returns its output.
fn report(folder: &Path, args: &str) -> String {
    let run = bench(folder, args);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{args}: {errors}");
    String::from_utf8(run.stdout).unwrap()
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

/// The numbers of a key in all objects of an array.
fn column(frames: &Value, key: &str) -> Vec<f64> {
    let frames = frames.as_array().unwrap().iter();
    frames.map(|frame| frame[key].as_f64().unwrap()).collect()
}

/// The statistical definition of `trtexec`'s percentile: the smallest value such that at least `percent` % of
/// all values are not above it.
fn inverse_of_the_distribution(values: &[f64], percent: f64) -> f64 {
    let reached = |value: f64| {
        let below = values.iter().filter(|v| **v <= value).count();
        below as f64 * 100.0 >= percent * values.len() as f64 - 1e-6
    };
    let found = values.iter().copied().filter(|&v| reached(v));
    found.fold(f64::INFINITY, f64::min)
}

fn assert_near(found: &Value, expected: f64, what: &str) {
    let found = found.as_f64().unwrap();
    let error = (found - expected).abs();
    assert!(
        error <= 1e-9 * expected.abs().max(1.0),
        "{what}: {found}, expected {expected}"
    );
}

/// The part of a text between two marks.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let rest = text.split_once(from).unwrap().1;
    rest.split_once(to).unwrap().0
}

#[test]
fn a_short_run_counts_exactly_and_its_numbers_agree() {
    let folder = tempfile::tempdir().unwrap();
    let text = report(
        folder.path(),
        "--engine INT8_PLAN --threads 2 --iterations 21 --duration 0 --warm-up 0 --percentile 0,50,90,99.9,100 \
         --json report.json --export-times times.json --histogram h.png --curve c.png",
    );
    let (all, times) = (
        json(folder.path(), "report.json"),
        json(folder.path(), "times.json"),
    );
    let run = &all["runs"][0];
    assert_eq!(all["runs"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&run["frames"], &run["warm_up_frames"]),
        (&21.into(), &1.into())
    );
    assert_eq!(times.as_array().unwrap().len(), 21);
    assert_eq!(run["threads"], 2);
    assert_eq!(run["grid"], serde_json::json!([256, 256]));
    assert_eq!(run["gpu"], Value::Null);
    assert_eq!(run["memory"]["device"], Value::Null);
    assert_eq!(run["memory"]["allocations"], 0, "a frame allocates");
    assert!(
        run["boxes"].as_f64().unwrap() > 1.0,
        "nothing is detected in the synthetic street"
    );
    assert_eq!(run["input"]["sweeps"], 2, "the model's");

    // The summary, computed from the times of every frame.
    let latencies = column(&times, "latencyMs");
    let ms = &run["latency_ms"];
    let mean = latencies.iter().sum::<f64>() / 21.0;
    assert_near(&ms["mean"], mean, "mean");
    let variance = latencies
        .iter()
        .map(|v| (v - mean) * (v - mean))
        .sum::<f64>()
        / 21.0;
    assert_near(
        &ms["variation"],
        variance.sqrt() / mean * 100.0,
        "variation",
    );
    assert_near(
        &ms["median"],
        inverse_of_the_distribution(&latencies, 50.0),
        "median",
    );
    for (i, percent) in [0.0, 50.0, 90.0, 99.9, 100.0].into_iter().enumerate() {
        let found = &ms["percentiles"][i];
        assert_eq!(found["percent"], percent);
        let expected = inverse_of_the_distribution(&latencies, percent);
        assert_near(&found["value"], expected, &format!("{percent} %"));
    }
    assert_eq!(ms["percentiles"][0]["value"], ms["min"]);
    assert_eq!(ms["percentiles"][4]["value"], ms["max"]);

    // A frame's parts add up, and frames follow each other.
    let parts = [
        "pillars", "features", "scatter", "engine", "decode", "nms", "other",
    ];
    let names: Vec<&Value> = run["stages_ms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["name"])
        .collect();
    assert_eq!(names, parts);
    let sums = parts.map(|part| column(&times, &format!("{part}Ms")));
    let starts = column(&times, "startMs");
    for frame in 0..21 {
        let sum: f64 = sums.iter().map(|part| part[frame]).sum();
        assert!(
            (sum - latencies[frame]).abs() < 1e-9,
            "frame {frame}: {sum}"
        );
        assert!(sums.iter().all(|part| part[frame] >= 0.0), "frame {frame}");
        let next = starts.get(frame + 1).copied().unwrap_or(f64::INFINITY);
        assert!(starts[frame] + latencies[frame] <= next, "frame {frame}");
    }
    for (i, part) in parts.iter().enumerate() {
        let mean = sums[i].iter().sum::<f64>() / 21.0;
        assert_near(&run["stages_ms"][i]["mean"], mean, part);
    }
    let walltime = (starts[20] + latencies[20] - starts[0]) / 1e3;
    assert_near(&run["walltime_s"], walltime, "walltime");
    assert_near(&run["throughput_qps"], 21.0 / walltime, "throughput");

    // The printed numbers are the same.
    assert!(text.contains("Timing trace has 21 queries over "), "{text}");
    let line = between(&text, "\nLatency: ", "\n");
    let expected = format!(
        "min = {:.3} ms, max = {:.3} ms, mean = {mean:.3} ms, median = {:.3} ms, percentile(0%) = ",
        ms["min"].as_f64().unwrap(),
        ms["max"].as_f64().unwrap(),
        ms["median"].as_f64().unwrap(),
    );
    assert!(line.starts_with(&expected), "{line}\n{expected}");
    assert!(line.contains(", percentile(99.9%) = "), "{line}");
    let qps: f64 = between(&text, "Throughput: ", " qps").parse().unwrap();
    assert!((qps - 21.0 / walltime).abs() <= 0.005 + 1e-9, "{qps}");
    assert!(
        text.contains("not on a GPU; 0 allocations after the warm-up"),
        "{text}"
    );

    for picture in ["h.png", "c.png"] {
        let file = std::fs::File::open(folder.path().join(picture)).unwrap();
        let reader = png::Decoder::new(std::io::BufReader::new(file))
            .read_info()
            .unwrap();
        assert_eq!((reader.info().width, reader.info().height), (1200, 640));
    }
}

#[test]
fn compared_plans_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let text = report(
        folder.path(),
        "--compare FP32_PLAN INT8_PLAN --pcd FRAMES --iterations 5 --duration 0 --warm-up 0 --json report.json \
         --export-times times.json --export-profile profile.json",
    );
    let (all, times) = (
        json(folder.path(), "report.json"),
        json(folder.path(), "times.json"),
    );
    assert_eq!(
        column(&times, "run"),
        [0., 1., 1., 0., 0., 1., 1., 0., 0., 1.]
    );
    let of = |run: f64| -> Vec<f64> {
        let (runs, ms) = (column(&times, "run"), column(&times, "latencyMs"));
        let all = runs.into_iter().zip(ms).filter(|(r, _)| *r == run);
        all.map(|(_, ms)| ms).collect()
    };
    let (fp32, int8) = (of(0.0), of(1.0));
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[2]
    };
    let ratios: Vec<f64> = int8.iter().zip(&fp32).map(|(b, a)| b / a).collect();
    let found = &all["comparisons"][0];
    assert_eq!(
        (&found["base"], &found["plan"], &found["pairs"]),
        (&0.into(), &1.into(), &5.into())
    );
    assert_near(
        &found["of_medians"],
        middle(int8) / middle(fp32),
        "of medians",
    );
    assert_near(&found["median"], middle(ratios.clone()), "median of ratios");
    let smallest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    assert_near(&found["spread"][0], smallest, "5 % of five");
    assert!(text.contains("; 5 pairs: median "), "{text}");
    // Files: their number, and their points (20 bytes each).
    let sizes = std::fs::read_dir(repository().join("calib/demo/frames")).unwrap();
    let sizes: Vec<u64> = sizes
        .map(|file| file.unwrap().metadata().unwrap().len() / 20)
        .collect();
    for run in 0..2 {
        let input = &all["runs"][run]["input"];
        assert_eq!(input["count"], sizes.len());
        let expected = [sizes.iter().min(), sizes.iter().max()].map(Option::unwrap);
        assert_eq!(input["points"], serde_json::json!(expected));
    }
    // A profile for each plan, like trtexec's.
    let profiles = json(folder.path(), "profile.json");
    for profile in profiles.as_array().unwrap() {
        let layers = profile.as_array().unwrap();
        assert_eq!(layers[0]["count"], 20);
        let shares: f64 = layers[1..]
            .iter()
            .map(|l| l["percentage"].as_f64().unwrap())
            .sum();
        assert!((shares - 100.0).abs() < 1e-6, "{shares}");
    }
}

#[test]
fn late_frames_and_skipped_scans_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let short = "--engine INT8_PLAN --points 2k --synthetic-sweeps 1 --iterations 6 --duration 0 --warm-up 0 --json r.json";
    for (deadline, misses) in [("0", 6), ("1e6", 0)] {
        let text = report(folder.path(), &format!("{short} --deadline-ms {deadline}"));
        let found = json(folder.path(), "r.json")["runs"][0]["deadline"].clone();
        assert_eq!(
            (&found["frames"], &found["misses"]),
            (&6.into(), &misses.into())
        );
        assert_eq!(found["longest_run"], misses);
        let line = format!("missed by {misses} of 6 frames, at most {misses} in a row");
        assert!(text.contains(&line), "{text}");
    }
    // No frame takes less than the 10 µs between two scans: all scans but the newest are skipped, and late.
    let text = report(
        folder.path(),
        &format!("{short} --rate 100000 --deadline-ms 1e6 --export-times t.json"),
    );
    let run = &json(folder.path(), "r.json")["runs"][0];
    let skipped = run["skipped_scans"].as_u64().unwrap();
    assert!(skipped >= 5, "{skipped}");
    assert_eq!(run["deadline"]["frames"], 6 + skipped);
    assert_eq!(run["deadline"]["misses"], skipped);
    assert!(
        text.contains(&format!("Skipped scans: {skipped}\n")),
        "{text}"
    );
    let times = json(folder.path(), "t.json");
    let (latency, response) = (column(&times, "latencyMs"), column(&times, "responseMs"));
    let starts = column(&times, "startMs");
    for frame in 0..6 {
        // The scan taken: the newest of those arriving every 0.01 ms.
        let waited = response[frame] - latency[frame];
        assert!(waited >= 0.0, "frame {frame}: {waited}");
        let scan = (starts[frame] - waited) / 0.01;
        assert!(
            (scan - scan.round()).abs() < 1e-6,
            "frame {frame}: scan {scan}"
        );
    }
}

#[test]
fn every_combination_is_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let text = report(
        folder.path(),
        "--engine INT8_PLAN FP32_PLAN --points 1k,3000 --synthetic-sweeps 1,3 --iterations 1 --duration 0 --warm-up 0 \
         --json r.json --histogram h.png --curve c.png",
    );
    let all = json(folder.path(), "r.json");
    let runs = all["runs"].as_array().unwrap();
    let found: Vec<(bool, u64, u64)> = runs
        .iter()
        .map(|run| {
            let input = &run["input"];
            let int8 = run["plan"].as_str().unwrap().ends_with("int8.plan");
            let points = input["points"][1].as_u64().unwrap();
            (int8, input["sweeps"].as_u64().unwrap(), points)
        })
        .collect();
    let of = |int8| {
        [
            (int8, 1, 1000),
            (int8, 1, 3000),
            (int8, 3, 3000),
            (int8, 3, 9000),
        ]
    };
    assert_eq!(found, [of(true), of(false)].concat());
    let table = text.split_once("=== Latency ===").unwrap().1;
    assert_eq!(table.trim().lines().count(), 9, "{table}");
    for number in 1..=8 {
        assert!(folder.path().join(format!("h.{number}.png")).is_file());
    }
    assert!(folder.path().join("c.png").is_file());
    assert_eq!(all["comparisons"].as_array().unwrap().len(), 0);
}

#[test]
fn trtexecs_spellings_of_options_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let short = "--loadEngine=PLAN --points 1000 --iterations=2 --duration=0 --warmUp=0";
    let plan = repository().join("engines/demo/int8.plan");
    let args = short.replace("PLAN", &plan.display().to_string());
    let text = report(
        folder.path(),
        &format!(
            "{args} --exportTimes=t.json --dumpProfile --exportProfile=p.json --percentile=90,95,99"
        ),
    );
    assert_eq!(column(&json(folder.path(), "t.json"), "latencyMs").len(), 2);
    assert!(text.contains("profile of 20 frames:"), "{text}");
    assert_eq!(json(folder.path(), "p.json")[0]["count"], 20);
    // Its defaults, and one more percentile.
    let report = bench(folder.path(), "--help");
    let help = String::from_utf8(report.stdout).unwrap();
    for default in ["200", "3", "10", "90 95 99 99.9"] {
        assert!(
            help.contains(&format!("[default: {default}]")),
            "{default}: {help}"
        );
    }
}

#[test]
fn invalid_measurements_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for (args, status, words) in [
        ("", 2, "--engine"),
        ("--compare INT8_PLAN", 2, "2"),
        ("--compare INT8_PLAN INT8_PLAN --rate 10", 2, "--rate"),
        ("--engine INT8_PLAN --points 0", 2, "not within"),
        (
            "--engine INT8_PLAN --points 18446744073709551615k",
            2,
            "not within",
        ),
        ("--engine INT8_PLAN --percentile 101", 2, "not within"),
        ("--engine INT8_PLAN --duration nan", 2, "not within"),
        ("--engine INT8_PLAN --rate 0", 2, "not within"),
        ("--engine INT8_PLAN --synthetic-sweeps 0", 2, "0"),
        ("--engine INT8_PLAN --pcd FRAMES --points 5", 2, "--points"),
        ("--engine none.plan", 4, "none.plan"),
        ("--engine INT8_PLAN --pcd none.bin", 3, "none.bin"),
        (
            "--engine INT8_PLAN --json no/folder.json",
            1,
            "no/folder.json",
        ),
    ] {
        let run = bench(folder.path(), args);
        let errors = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(status), "{args}: {errors}");
        assert!(errors.contains(words), "{args}: {errors}");
    }
}
