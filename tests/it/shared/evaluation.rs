//! The metrics against the results of nuscenes-devkit and of perception_eval.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use centerpoint::internals::eval::{nuscenes, t4};
use centerpoint::internals::results::nuscenes::Results;
use serde_json::{Value, json};

use super::shared;

/// Reads `golden/evaluation/NAME`.
fn golden(name: &str) -> Value {
    let path = shared(&format!("golden/evaluation/{name}"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Writes one side of a golden case to a result file, as users of the devkit do.
fn write_side(dir: &Path, case: &Value, side: &str) -> PathBuf {
    let mut results: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for token in case["sample_tokens"].as_array().unwrap() {
        results.insert(token.as_str().unwrap(), vec![]);
    }
    for found in case[side].as_array().unwrap() {
        let token = found["sample_token"].as_str().unwrap();
        results.get_mut(token).unwrap().push(found);
    }
    let path = dir.join(format!("{side}.json"));
    let file = json!({"meta": {"use_lidar": true}, "results": results});
    // Python's `json.dump` writes NaN.
    std::fs::write(&path, file.to_string().replace("null", "NaN")).unwrap();
    path
}

/// Compares every number of `expected` with its counterpart in `found`.
fn assert_close(found: &Value, expected: &Value, place: &str) {
    match expected {
        Value::Object(map) => {
            for (key, value) in map {
                assert_close(&found[key], value, &format!("{place}.{key}"));
            }
            assert_eq!(found.as_object().unwrap().len(), map.len(), "{place}");
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                assert_close(&found[i], value, &format!("{place}[{i}]"));
            }
        }
        Value::Number(number) => {
            let (found, expected) = (found.as_f64(), number.as_f64().unwrap());
            let found =
                found.unwrap_or_else(|| panic!("{place}: not a number, expected {expected}"));
            assert!(
                (found - expected).abs() <= 1e-6,
                "{place}: {found}, expected {expected}"
            );
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}

#[test]
#[ignore = "needs ../shared"]
fn nuscenes_equals_the_devkit() {
    let golden = golden("nuscenes.json");
    let dir = tempfile::tempdir().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let labels = Results::read(&write_side(dir.path(), case, "gt")).unwrap();
        let predictions = Results::read(&write_side(dir.path(), case, "pred")).unwrap();
        let config = nuscenes::Config::default();
        let metrics = nuscenes::evaluate(&labels, &predictions, &config).unwrap();
        let mut expected = case["result"].clone();
        expected.as_object_mut().unwrap().remove("curves");
        assert_close(
            &metrics.to_json().into(),
            &expected,
            case["name"].as_str().unwrap(),
        );
    }
}

#[test]
#[ignore = "needs ../shared"]
fn t4_equals_perception_eval() {
    let [inputs, golden] = ["nuscenes.json", "t4.json"].map(golden);
    let dir = tempfile::tempdir().unwrap();
    let pairs = inputs["cases"]
        .as_array()
        .unwrap()
        .iter()
        .zip(golden["cases"].as_array().unwrap());
    assert_eq!(pairs.len(), 18);
    for (case, expected) in pairs {
        assert_eq!(case["name"], expected["name"]);
        let labels = Results::read(&write_side(dir.path(), case, "gt")).unwrap();
        let predictions = Results::read(&write_side(dir.path(), case, "pred")).unwrap();
        let metrics = t4::evaluate(&labels, &predictions, &t4::Config::default()).unwrap();
        let mut expected = expected.clone();
        let name = expected.as_object_mut().unwrap().remove("name").unwrap();
        assert_close(&metrics.to_json().into(), &expected, name.as_str().unwrap());
    }
}
