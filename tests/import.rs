//! Import of ONNX exports: PFNs against ONNX Runtime, head outputs against the model description.

mod common;
#[path = "common/oracle.rs"]
mod oracle;

use std::path::Path;

use centerpoint::build::import::{Matching, Pfe, read_pfe, read_rpn};
use centerpoint::build::onnx::{Graph, tensor};
use centerpoint::features::Pfn;
use centerpoint::model::Model;

/// Each pillar's features in f64, straight from the definition. `at(p, m, c)` is the input.
fn reference(pfn: &Pfn, points: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let columns = pfn.layers[0].in_features;
    let mut rows: Vec<Vec<f64>> = (0..points)
        .map(|m| (0..columns).map(|c| at(m, c)).collect())
        .collect();
    let mut max = Vec::new();
    for layer in &pfn.layers {
        for row in &mut rows {
            row.extend(&max);
            assert_eq!(row.len(), layer.in_features);
            let weights = layer.weight.chunks_exact(layer.in_features);
            let linear = weights.zip(&layer.bias).map(|(w, &b)| {
                let sum: f64 = w.iter().zip(&*row).map(|(&w, x)| f64::from(w) * x).sum();
                (sum + f64::from(b)).max(0.0)
            });
            *row = linear.collect();
        }
        let top = |c: usize| rows.iter().map(|row| row[c]).fold(f64::MIN, f64::max);
        max = (0..layer.out_features).map(top).collect();
    }
    max
}

/// Largest difference between the reference on the imported weights and ONNX Runtime's output.
fn difference(pfe: &Pfe, case: &oracle::Case) -> f64 {
    let [output] = &case.outputs[..] else {
        panic!("{}: not one output", case.name);
    };
    let channels = pfe.pfn.layers.last().unwrap().out_features;
    // [P, M, C], or [1, C, P, M] with channels first in the output, too.
    let (pillars, points, maps) = match case.input_shape[..] {
        [p, m, _] => (p, m, false),
        [1, _, p, m] => (p, m, true),
        _ => panic!("{:?}", case.input_shape),
    };
    let columns = pfe.pfn.layers[0].in_features;
    let mut worst = 0.0_f64;
    for p in 0..pillars {
        let features = reference(&pfe.pfn, points, |m, c| {
            f64::from(match maps {
                true => case.input[(c * pillars + p) * points + m],
                false => case.input[(p * points + m) * columns + c],
            })
        });
        for (c, feature) in features.iter().enumerate() {
            let expected = match maps {
                true => output.values[c * pillars + p],
                false => output.values[p * channels + c],
            };
            worst = worst.max((feature - f64::from(expected)).abs());
        }
    }
    worst
}

#[test]
fn pfns_of_all_exporters_give_onnx_runtimes_features() {
    let folder = tempfile::tempdir().unwrap();
    if !oracle::script(&["pfe", folder.path().to_str().unwrap()]) {
        return;
    }
    let cases = oracle::cases(folder.path());
    let good: Vec<_> = cases
        .iter()
        .filter(|c| !c.name.starts_with("bad_"))
        .collect();
    assert_eq!(good.len(), 10);
    for case in good {
        let pfe = read_pfe(&case.model).unwrap();
        let worst = difference(&pfe, case);
        println!("{}: {worst:.1e}", case.name);
        assert!(worst <= 1e-5, "{}: {worst}", case.name);
    }
    for (name, needle) in [
        ("leaky", "(LeakyRelu): expected Relu"),
        ("axis", "the max over axes Some([0]), the points are axis 1"),
        ("mean", "(ReduceMean): expected ReduceMax or MaxPool"),
        ("order", "expected the rows"),
        ("extra", "(Sigmoid): expected MatMul, Gemm or Conv"),
        ("weight", "is used by other nodes, too"),
    ] {
        let path = folder.path().join(format!("bad_{name}/model.onnx"));
        let message = read_pfe(&path).unwrap_err().to_string();
        println!("{message}");
        assert!(message.contains(needle), "{name}: {message}");
        assert!(
            message.contains("model.onnx: node \"/"),
            "{name}: {message}"
        );
    }
}

#[test]
fn trained_pfns_give_onnx_runtimes_features() {
    for (file, widths, pillars) in [
        ("carkusl_nusc_pfe_sim", [(10, 32), (64, 64)], 5268),
        (
            "haohaonju_waymo_pfe_baseline32000",
            [(10, 32), (64, 64)],
            32000,
        ),
    ] {
        let Some(path) = common::shared(&format!("data/pfn/{file}.onnx")) else {
            return;
        };
        let pfe = read_pfe(&path).unwrap();
        let found: Vec<_> = pfe
            .pfn
            .layers
            .iter()
            .map(|l| (l.in_features, l.out_features))
            .collect();
        assert_eq!(found, widths);
        assert_eq!((pfe.max_pillars, pfe.max_points), (Some(pillars), Some(20)));
        assert_eq!(pfe.fused.fused.len(), 2);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_str().unwrap();
        if !oracle::script(&["run", path.to_str().unwrap(), out]) {
            return;
        }
        let worst = difference(&pfe, &oracle::case(&path, folder.path()));
        println!("{file}: {worst:.1e}");
        assert!(worst <= 1e-4, "{file}: {worst}");
    }
}

fn _unused(_: &Path, _: Matching, _: &Graph, _: &Model) {
    let _ = read_rpn;
    let _ = tensor::from_floats;
}
