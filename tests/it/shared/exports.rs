//! Networks as PyTorch's exporters write them, from the ONNX files to the head maps: `../shared/golden/exports`, whose
//! README says how they were made and what computed the expected values.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use centerpoint::build::{BuildError, Folder, Sources, import};
use centerpoint::internals::cpu::pool::Pool;
use centerpoint::internals::engine::cpu::{CpuEngine, Isa, Options};

use super::pfn::{TOLERANCE, floats, worst};
use super::shared;
use crate::import::difference;
use crate::npz::npy;
use crate::oracle::{Case, Output, run, run_on};
use crate::toy::{built, refused};

/// What each form of network was exported as.
const FLOAT: [&str; 9] = [
    "legacy11",
    "legacy13",
    "legacy13_dynamic",
    "legacy17",
    "legacy17_nofold",
    "dynamo18",
    "dynamo18_noopt",
    "dynamo20_dynbatch",
    "dynamo_default",
];

/// Imports the PFN and the rest of two variants of a form into `out`.
fn imported(form: &str, [pfe, rpn]: [&str; 2], out: &Path) -> Result<Folder, BuildError> {
    let export = shared("golden/exports").join(form);
    let sources = Sources {
        pfe: Some(&export.join(pfe).join("pts_voxel_encoder.onnx")),
        rpn: Some(&export.join(rpn).join("pts_backbone_neck_head.onnx")),
        model: &[export.join("model.toml")],
    };
    import(&sources, out, false)
}

/// Largest differences of an imported model's PFN and of its outputs from the expected values.
fn differences(form: &str, folder: &Folder) -> (f64, f32) {
    differences_from(form, folder, None)
}

/// Like [`differences`], with other expected pillar features.
fn differences_from(form: &str, folder: &Folder, features: Option<Vec<f32>>) -> (f64, f32) {
    let io = shared("golden/exports").join(form).join("io.npz");
    let io = std::fs::read(io).unwrap();
    let values = |name: &str| floats(&npy(&io, name));

    let input = values("input_features");
    let points = folder.model.grid.max_points_per_pillar;
    let columns = folder.pfe.pfn.layers[0].in_features;
    let pillars = input.len() / (points * columns);
    let features = features.unwrap_or_else(|| values("pillar_features"));
    let channels = features.len() / pillars;
    let pfn = Case {
        name: form.to_owned(),
        model: PathBuf::new(),
        input,
        input_shape: vec![pillars, points, columns],
        outputs: vec![Output {
            name: "pillar_features".to_owned(),
            shape: vec![pillars, channels],
            values: features,
        }],
    };

    let outputs = run(&folder.rpn.graph, &values("spatial_features"));
    assert_eq!(outputs.len(), 6 * folder.model.head.tasks.len());
    let outputs = outputs.iter().map(|o| worst(&o.values, &values(&o.name)));
    (
        difference(&folder.pfe.pfn, &pfn),
        outputs.fold(0.0, f32::max),
    )
}

/// A description drawn up from the networks (and their training configuration) says what the one made by hand says.
#[test]
#[ignore = "needs ../shared"]
fn new_model_describes_the_float_exports() {
    let folder = tempfile::tempdir().unwrap();
    let config = shared("golden/checkpoints/train.config.py");
    for (form, options) in [
        ("awml", vec!["--config", config.to_str().unwrap()]),
        (
            "nus",
            "--like mmdet3d --range -6.4,-6.4,-5,6.4,6.4,3"
                .split(' ')
                .collect(),
        ),
    ] {
        let export = shared("golden/exports").join(form);
        let by_hand = centerpoint::Model::read(&export.join("model.toml")).unwrap();
        for variant in FLOAT {
            let variant = export.join(variant);
            let [pfe, rpn] = ["pts_voxel_encoder.onnx", "pts_backbone_neck_head.onnx"]
                .map(|name| variant.join(name).to_str().unwrap().to_owned());
            let args = [
                "new-model",
                "--pfe",
                &pfe,
                "--rpn",
                &rpn,
                "--out",
                "m.toml",
                "--force",
            ];
            built(folder.path(), &[&args[..], &options].concat());
            let drawn = centerpoint::Model::read(&folder.path().join("m.toml")).unwrap();
            assert_eq!(drawn.classes, by_hand.classes);
            assert_eq!(drawn.points.columns, by_hand.points.columns);
            assert_eq!(drawn.grid.min, by_hand.grid.min);
            assert_eq!(drawn.grid.max, by_hand.grid.max);
            assert_eq!(drawn.grid.voxel, by_hand.grid.voxel);
            assert_eq!(
                (drawn.grid.nx, drawn.grid.ny),
                (by_hand.grid.nx, by_hand.grid.ny)
            );
            let points = [&drawn, &by_hand].map(|model| model.grid.max_points_per_pillar);
            assert_eq!(points[0], points[1]);
            assert_eq!(drawn.pfn, by_hand.pfn);
            assert_eq!(drawn.head.downsample, by_hand.head.downsample);
            assert_eq!(drawn.head.tasks, by_hand.head.tasks);
        }
    }
}

#[test]
#[ignore = "needs ../shared"]
fn float_exports_give_torchs_values() {
    for form in ["awml", "nus"] {
        for variant in FLOAT {
            let out = tempfile::tempdir().unwrap();
            imported(form, [variant; 2], out.path()).unwrap();
            // What was written, not only what was read.
            let folder = Folder::read(out.path()).unwrap();
            let (pfn, outputs) = differences(form, &folder);
            println!("{form} {variant}: PFN {pfn:.1e}, outputs {outputs:.1e}");
            assert!(pfn <= f64::from(TOLERANCE) && outputs <= TOLERANCE);
        }
    }
}

/// Quantised exports that this program reads, with the largest ratio of the difference from ONNX Runtime's values to
/// the quantisation noise: 0 where all sums are exact, and what one value on the other side of a boundary may cause.
const QUANTISED: [(&str, f64); 14] = [
    ("exact_default", 0.0),
    ("exact_qoperator", 0.0),
    ("exact_u8", 0.0),
    ("exact_s8_bias", 0.0),
    ("exact_s8_conv", 0.0),
    ("modelopt_dynamo", 0.5),
    ("modelopt_fp32", 0.5),
    ("ort_default", 0.5),
    ("ort_qoperator", 0.5),
    ("ort_s8_bias", 0.5),
    ("ort_s8_conv", 0.5),
    ("ort_trt", 0.5),
    ("ort_u8", 0.5),
    ("torch_fakequant", 0.0),
];

#[test]
#[ignore = "needs ../shared"]
fn quantised_exports_give_onnx_runtimes_values() {
    let export = shared("golden/exports/awml");
    let io = std::fs::read(export.join("io.npz")).unwrap();
    for (variant, most) in QUANTISED {
        let out = tempfile::tempdir().unwrap();
        let folder = imported("awml", ["legacy17", variant], out.path()).unwrap();
        let reference = std::fs::read(export.join(variant).join("ort.npz")).unwrap();
        let map = floats(&npy(&io, "spatial_features"));
        for output in run(&folder.rpn.graph, &map) {
            let [float, int8] = [&io, &reference].map(|npz| floats(&npy(npz, &output.name)));
            let ratio = distance(&output.values, &int8) / distance(&float, &int8);
            println!("{variant} {}: {ratio:.4}", output.name);
            assert!(ratio <= most, "{variant} {}: {ratio}", output.name);
        }
    }
}

/// The scales of quantised exports for the network without its pairs: as near to the float network as with the pairs.
#[test]
#[ignore = "needs ../shared"]
fn scales_of_quantised_exports_serve_their_float_networks() {
    let export = shared("golden/exports/awml");
    let io = std::fs::read(export.join("io.npz")).unwrap();
    let map = floats(&npy(&io, "spatial_features"));
    let frames = Path::new(env!("CARGO_MANIFEST_DIR")).join("calib/demo/frames");
    let out = tempfile::tempdir().unwrap();
    let path = |variant: &str, name: &str| {
        let path = export.join(variant).join(name);
        path.to_str().unwrap().to_owned()
    };
    let pfe = path("legacy17", "pts_voxel_encoder.onnx");
    let model = path("", "model.toml");
    for (variant, _) in QUANTISED {
        let rpn = path(variant, "pts_backbone_neck_head.onnx");
        let import = [
            "import", "--pfe", &pfe, "--rpn", &rpn, "--model", &model, "--force",
        ];
        built(out.path(), &[&import[..], &["--out", "q"]].concat());
        built(
            out.path(),
            &[&import[..], &["--out", "f", "--scales", "none"]].concat(),
        );
        let quantize = [
            "quantize",
            "--model",
            "f",
            "--scales",
            "q",
            "--pcd",
            frames.to_str().unwrap(),
            "--allow-low-sqnr",
            "--out",
            "r.plan",
            "--onnx",
            "r",
            "--force",
        ];
        built(out.path(), &quantize);
        let outputs = |folder: &str| {
            let folder = Folder::read(&out.path().join(folder)).unwrap();
            run(&folder.rpn.graph, &map)
        };
        let (float, placed) = (outputs("f"), outputs("r"));
        let reference = std::fs::read(export.join(variant).join("ort.npz")).unwrap();
        for (float, placed) in float.iter().zip(&placed) {
            let int8 = floats(&npy(&reference, &float.name));
            let noise = distance(&float.values, &int8);
            let ratio = distance(&placed.values, &int8) / noise;
            let own = distance(&placed.values, &float.values) / noise;
            let torch = floats(&npy(&io, &float.name));
            let weights = distance(&float.values, &torch) / distance(&torch, &int8);
            println!(
                "{variant} {}: {ratio:.3}, own noise {own:.3}, of weights {weights:.3}",
                float.name
            );
            // Their pairs are where ours are.
            let same = variant.starts_with("modelopt") || variant == "torch_fakequant";
            // Codes from 0 on become codes around 0, of twice the step. The others lose the pairs of their outputs.
            let unsigned = ["default", "u8"].iter().any(|end| variant.ends_with(end));
            let doubled = variant == "exact_qoperator" || (unsigned && !same);
            let most = if doubled { 2.0 } else { 1.01 };
            assert!(own <= most && (!same || ratio < 0.01) && weights < 0.9);
        }
    }
}

pub(super) fn distance(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    let squares = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Networks that cannot agree with their reference, because they are not the same numbers here: ModelOpt's default computes
/// in FP16 between the codes, which moves one value in twenty to the other side of a boundary, and its form for torch has
/// deconvolutions that are quantised again. They must be as near to the float network as the reference is.
#[test]
#[ignore = "needs ../shared"]
fn changed_networks_are_as_near_to_the_float_network_as_the_reference() {
    let export = shared("golden/exports/awml");
    let io = std::fs::read(export.join("io.npz")).unwrap();
    for (variant, step) in [
        ("modelopt_default", "FP16"),
        ("modelopt_torch", "quantised again"),
    ] {
        let reference = std::fs::read(export.join(variant).join("ort.npz")).unwrap();
        let out = tempfile::tempdir().unwrap();
        let folder = imported("awml", ["legacy17", variant], out.path()).unwrap();
        let map = floats(&npy(&io, "spatial_features"));
        for output in run(&folder.rpn.graph, &map) {
            let [float, int8] = [&io, &reference].map(|npz| floats(&npy(npz, &output.name)));
            let ratio = distance(&output.values, &float) / distance(&int8, &float);
            println!("{variant} {}: {ratio:.3}", output.name);
            assert!(ratio <= 1.1, "{variant} {}: {ratio}", output.name);
        }
        assert!(folder.steps().iter().any(|found| found.contains(step)));
    }
}

/// A PFN runs in float: without its quantisers it gives the float network's features.
#[test]
#[ignore = "needs ../shared"]
fn quantised_pfns_give_the_float_features() {
    // The second is the checkpoint `ptq_exact`, whose float network has values on a grid.
    let own = std::fs::read(shared("golden/checkpoints/ptq_exact.expected.npz")).unwrap();
    let own = floats(&npy(&own, "float/pillar_features"));
    for (variant, features) in [("modelopt_torch", None), ("torch_fakequant", Some(own))] {
        let out = tempfile::tempdir().unwrap();
        let folder = imported("awml", [variant, "legacy17"], out.path()).unwrap();
        let (pfn, _) = differences_from("awml", &folder, features);
        println!("{variant}: {pfn:.1e}");
        assert!(pfn <= f64::from(TOLERANCE));
        let steps = folder.steps();
        let dropped = steps
            .iter()
            .filter(|step| step.contains("the PFN runs in float"));
        assert!(dropped.count() >= 4, "{steps:?}");
    }
}

/// Zero points change nothing about this: the same bytes on every instruction set and number of threads.
#[test]
#[ignore = "needs ../shared"]
fn zero_points_give_the_same_bytes_everywhere() {
    let export = shared("golden/exports/awml");
    let io = std::fs::read(export.join("io.npz")).unwrap();
    let map = floats(&npy(&io, "spatial_features"));
    for variant in ["exact_default", "ort_default", "ort_u8"] {
        let out = tempfile::tempdir().unwrap();
        let folder = imported("awml", ["legacy17", variant], out.path()).unwrap();
        let payload = folder.cpu_payload().unwrap();
        let values = |isa: Isa, threads: usize| -> Vec<Vec<f32>> {
            let options = Options {
                isa: Some(isa),
                ..Options::default()
            };
            let (program, weights) = (payload.program.clone(), payload.weights.clone());
            let pool = Arc::new(Pool::new(threads));
            let engine = CpuEngine::new(program, Arc::new(weights), pool, &options);
            let outputs = run_on(&mut engine.unwrap(), &map);
            outputs.into_iter().map(|o| o.values).collect()
        };
        let expected = values(Isa::Portable, 1);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 2] {
                let found = values(isa, threads);
                assert!(found == expected, "{variant}: {} {threads}", isa.name());
            }
        }
    }
}

/// Zero points and quantised operators are listed; the CPU's plan has the zero points, and TensorRT refuses them.
#[test]
#[ignore = "needs ../shared"]
fn zero_points_are_for_the_cpu_only() {
    for (variant, step) in [
        ("exact_default", "its codes became floats"),
        (
            "exact_u8",
            "made the UINT8 codes of 26 maps and 0 weights INT8",
        ),
        ("exact_qoperator", "(QLinearConv): written with"),
        (
            "ort_qoperator",
            "(com.microsoft::QLinearConcat): written with",
        ),
    ] {
        let out = tempfile::tempdir().unwrap();
        let model = out.path().join("model");
        let folder = imported("awml", ["legacy17", variant], &model).unwrap();
        let steps = folder.steps();
        assert!(steps.iter().any(|s| s.contains(step)), "{steps:?}");
        let compile = ["compile", "--model", "model", "--out", "out", "--target"];
        built(out.path(), &[&compile[..], &["cpu"]].concat());
        let (text, _) = built(out.path(), &["inspect", "out", "--show", "layers"]);
        let shifted = variant.starts_with("exact");
        assert_eq!(text.contains(", zero_point=-128"), shifted, "{text}");
        std::fs::remove_file(out.path().join("out")).unwrap();
        let typed = [&compile[..], &["onnx"]].concat();
        if shifted {
            let message = refused(out.path(), &typed, 4);
            assert!(
                message.contains("its zero point is") && message.contains("ActivationSymmetric"),
                "{message}"
            );
        } else {
            built(out.path(), &typed);
        }
    }
}
