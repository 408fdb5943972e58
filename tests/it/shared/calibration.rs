//! Calibration against pytorch-quantization 2.2.1: histograms, ranges, codes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use centerpoint::internals::build::calibrate::{
    AmaxMethod, CalibrationError, Histogram, RangeError, ZERO_AMAX, raw, scale,
};
use centerpoint::internals::chain::Chain;
use centerpoint::map::quantize;
use serde_json::Value;

use super::shared;
use crate::common;
use crate::npz::npy;

/// Cases that the reference gets wrong or does not support. They have their own tests here.
const DEGENERATE: [&str; 7] = [
    "all_zeros",
    "denormals",
    "tiny_1e-9",
    "near_f32_max",
    "nan_in_batch",
    "inf_in_batch",
    "empty",
];

/// Reads the cases by name. Returns them and the folder of their files.
fn golden() -> (BTreeMap<String, Value>, PathBuf) {
    let path = shared("golden/calibration/calibration.json");
    // Python writes NaN, which is not valid JSON.
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace(": NaN", ": null");
    let all: Value = serde_json::from_str(&text).unwrap();
    let cases = serde_json::from_value(all["cases"].clone()).unwrap();
    (cases, path.parent().unwrap().to_owned())
}

fn batches(case: &Value) -> Vec<u64> {
    serde_json::from_value(case["batches"].clone()).unwrap()
}

fn read(folder: &Path, case: &Value) -> Result<Histogram, CalibrationError> {
    let file = folder.join(case["file"].as_str().unwrap());
    raw::read(&file, &batches(case), 2048)
}

/// SHA-256 of the counts as little-endian i64.
fn counts_sha256(histogram: &Histogram) -> String {
    let bytes = histogram.bins().iter().flat_map(|n| n.to_le_bytes());
    common::sha256(&bytes.collect::<Vec<u8>>())
}

#[test]
#[ignore = "needs ../shared"]
fn ordinary_histograms_and_ranges_match_the_reference() {
    let (cases, folder) = golden();
    let mut compared = 0;
    for (name, case) in &cases {
        if DEGENERATE.contains(&name.as_str()) {
            continue;
        }
        let histogram = read(&folder, case).unwrap();
        assert_eq!(
            histogram.bins().len() as u64,
            case["num_bins"].as_u64().unwrap(),
            "{name}"
        );
        let total: u64 = histogram.bins().iter().sum();
        assert_eq!(total, case["hist_total"].as_u64().unwrap(), "{name}");
        let expected = case["hist_sha256"].as_str().unwrap();
        assert_eq!(counts_sha256(&histogram), expected, "{name}");
        let close = |found: f32, expected: &Value, what: &str| {
            let expected = expected.as_f64().unwrap();
            let difference = (f64::from(found) - expected).abs();
            assert!(
                difference <= 1e-6 * expected,
                "{name} {what}: {found}, expected {expected}"
            );
        };
        close(histogram.range(), &case["edge_last"], "range");
        close(histogram.width(), &case["width"], "width");
        let amax = |method| histogram.amax(method).unwrap();
        assert_eq!(
            f64::from(amax(AmaxMethod::Max).amax),
            case["max"].as_f64().unwrap()
        );
        for percent in ["99.9", "99.99", "100"] {
            let found = amax(AmaxMethod::Percentile(percent.parse().unwrap()));
            close(found.amax, &case[format!("percentile_{percent}")], percent);
        }
        close(amax(AmaxMethod::Entropy).amax, &case["entropy"], "entropy");
        let (found, best) = (amax(AmaxMethod::Mse), &case["mse_f64"]);
        let equal = match &best["bins_within_1e-5_rel"] {
            Value::Array(bins) => bins.clone(),
            _ => vec![best["argmin_bin"].clone()],
        };
        let bin = found.bin.unwrap();
        assert!(
            equal.contains(&bin.into()),
            "{name} mse: bin {bin} of {equal:?}"
        );
        if best["argmin_bin"] == bin {
            close(found.amax, &best["amax"], "mse");
        }
        compared += 1;
    }
    assert_eq!(compared, cases.len() - DEGENERATE.len());
}

#[test]
#[ignore = "needs ../shared"]
fn degenerate_tensors_have_sane_ranges() {
    let (cases, folder) = golden();
    let all = [
        AmaxMethod::Max,
        AmaxMethod::Mse,
        AmaxMethod::Entropy,
        AmaxMethod::Percentile(100.0),
    ];
    for name in ["all_zeros", "denormals", "tiny_1e-9", "near_f32_max"] {
        let histogram = read(&folder, &cases[name]).unwrap();
        let max = cases[name]["max"].as_f64().unwrap();
        assert_eq!(histogram.total(), 8192);
        assert_eq!(f64::from(histogram.max()), max, "{name}");
        for method in all {
            let amax = histogram.amax(method).unwrap().amax;
            // One huge value or many tiny ones: no value may be clipped by much.
            let least = if method == AmaxMethod::Entropy {
                0.8
            } else {
                0.98
            };
            let ratio = if max > 0.0 {
                f64::from(amax) / max
            } else {
                1.0
            };
            assert!(
                (least..=1.0).contains(&ratio),
                "{name} {method}: {amax} of {max}"
            );
            let small = max <= f64::from(ZERO_AMAX);
            assert_eq!(scale(amax) == 1.0, small, "{name} {method}");
        }
    }
    let zeros = read(&folder, &cases["all_zeros"]).unwrap();
    assert_eq!((zeros.bins()[0], zeros.range()), (8192, 0.0));
    // The reference's bins, where it has any.
    for name in ["denormals", "tiny_1e-9"] {
        let histogram = read(&folder, &cases[name]).unwrap();
        let expected = cases[name]["hist_sha256"].as_str().unwrap();
        assert_eq!(counts_sha256(&histogram), expected, "{name}");
    }

    let empty = read(&folder, &cases["empty"]).unwrap();
    assert_eq!(empty.amax(AmaxMethod::Mse), Err(RangeError::Empty));
    for name in ["nan_in_batch", "inf_in_batch"] {
        let file = folder.join(cases[name]["file"].as_str().unwrap());
        let bytes = std::fs::read(&file).unwrap();
        let values = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let first = values.clone().position(|x| !x.is_finite()).unwrap();
        let text = Chain(&read(&folder, &cases[name]).unwrap_err()).to_string();
        let value = values.clone().nth(first).unwrap();
        let expected = format!("value {first} is {value}");
        assert!(
            text.contains(&expected) && text.contains(name),
            "{text}: {expected}"
        );
    }
}

#[test]
#[ignore = "needs ../shared"]
fn codes_match_the_golden_files() {
    let npz = std::fs::read(shared("golden/calibration/fakequant_golden.npz")).unwrap();
    let text = std::fs::read(shared("golden/calibration/fakequant_golden.json")).unwrap();
    let cases: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let bytes = npy(&npz, name);
        let values = bytes.chunks_exact(4);
        values
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let codes = |name: &str| -> Vec<i16> {
        let bytes = npy(&npz, name);
        let values = bytes.chunks_exact(2);
        values
            .map(|b| i16::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };

    // Activations.
    let mut compared = 0;
    for (name, case) in &cases {
        let Some(stem) = name.strip_suffix("/narrow1") else {
            continue;
        };
        let amax = case["amax"].as_f64().unwrap() as f32;
        let step = scale(amax);
        let values = floats(&format!("{stem}/x"));
        let found = values.iter().map(|&x| i16::from(quantize(x, step)));
        if amax > ZERO_AMAX {
            assert_eq!(f64::from(step), case["onnx_scale"].as_f64().unwrap());
            assert!(found.eq(codes(&format!("{stem}/q_onnx"))), "{stem}");
        } else {
            // A scale of 1 yields 0 up to the amax. The reference also yields 0 beyond it, which QuantizeLinear
            // cannot.
            assert_eq!(step, 1.0);
            let inside = values.iter().zip(found).filter(|(x, _)| x.abs() <= amax);
            let inside: Vec<i16> = inside.map(|(_, code)| code).collect();
            assert!(!inside.is_empty() && inside.iter().all(|&code| code == 0));
            assert!(codes(&format!("{name}/q")).iter().all(|&code| code == 0));
        }
        compared += 1;
    }
    assert_eq!(compared, 8);

    // Weights per output channel: axis 0 of a Conv and a Gemm, axis 1 of a ConvTranspose.
    for (name, channels, inner) in [
        ("conv2d", 16, 72),
        ("convT2d", 16, 4),
        ("linear", 32, 9),
        ("conv1x1_group", 16, 9),
    ] {
        let values = floats(&format!("w/{name}/w"));
        let (amax, onnx) = (
            floats(&format!("w/{name}/amax")),
            floats(&format!("w/{name}/onnx_scale")),
        );
        let expected = codes(&format!("w/{name}/q"));
        let mut differ = 0;
        for (i, (&w, &code)) in values.iter().zip(&expected).enumerate() {
            let channel = i / inner % channels;
            let step = scale(amax[channel]);
            // The reference's codes of a tiny channel are 0; its export loses that.
            let tiny = amax[channel] <= ZERO_AMAX;
            assert_eq!(step, if tiny { 1.0 } else { onnx[channel] });
            let found = i16::from(quantize(w, step));
            // The reference multiplies by 127/amax, ONNX divides by amax/127.
            assert!((found - code).abs() <= 1 && found.abs() <= 127);
            differ += usize::from(found != code);
        }
        assert!(
            differ * 1000 <= values.len(),
            "{name}: {differ} codes differ"
        );
    }
}
