//! PyTorch checkpoints as training and quantisation leave them: `../shared/golden/checkpoints`, whose README says how they
//! were made and what computed the expected values.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use centerpoint::build::Folder;
use centerpoint::internals::build::onnx::Graph;
use centerpoint::internals::build::onnx::proto::{GraphProto, ModelProto, NodeProto};
use pytorch_reader::PytorchReader;
use safetensors::tensor::{Dtype, TensorView};

use super::exports::distance;
use super::pfn::{TOLERANCE, floats, worst};
use super::shared;
use crate::import::difference;
use crate::npz::npy;
use crate::oracle::{Case, Output, run};
use crate::toy::{built, refused};

/// Exit code for input that cannot be read.
const BAD_INPUT: i32 = 4;

fn golden(name: &str) -> PathBuf {
    shared("golden/checkpoints").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Arguments that import a checkpoint of the network `form` into `folder/m`.
fn arguments(form: &str, checkpoint: &Path, options: &[&str]) -> Vec<String> {
    let model = shared("golden/exports").join(form).join("model.toml");
    let required = [
        "import",
        "--checkpoint",
        text(checkpoint),
        "--model",
        text(&model),
        "--out",
        "m",
        "--force",
    ];
    let all = required.iter().chain(options);
    all.map(|&argument| argument.to_owned()).collect()
}

/// Imports a checkpoint, and reads what was written. Returns what the program said, too.
fn imported(
    form: &str,
    checkpoint: &Path,
    options: &[&str],
) -> (tempfile::TempDir, Folder, String) {
    let out = tempfile::tempdir().unwrap();
    let arguments = arguments(form, checkpoint, options);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (said, _) = built(out.path(), &arguments);
    let folder = Folder::read(&out.path().join("m")).unwrap();
    (out, folder, said)
}

/// The configuration where the file has none: a deconvolution of stride 1 from 16 to 16 channels looks like a convolution.
fn config(name: &str) -> Vec<String> {
    match name {
        "half" | "ptq_axis0_deconv" | "ptq_per_tensor_deconv" => {
            vec![
                "--network-config".into(),
                text(&golden("train.config.py")).into(),
            ]
        }
        _ => Vec::new(),
    }
}

fn imported_golden(name: &str, options: &[&str]) -> (tempfile::TempDir, Folder, String) {
    let config = config(name);
    let mut all: Vec<&str> = config.iter().map(String::as_str).collect();
    all.extend(options);
    imported("awml", &golden(&format!("{name}.pth")), &all)
}

/// Largest difference of a PFN from the pillar features in `expected`.
fn pfn_difference(form: &str, folder: &Folder, expected: Vec<f32>) -> f64 {
    let io = std::fs::read(shared("golden/exports").join(form).join("io.npz")).unwrap();
    let input = floats(&npy(&io, "input_features"));
    let points = folder.model.grid.max_points_per_pillar;
    let columns = folder.pfe.pfn.layers[0].in_features;
    let pillars = input.len() / (points * columns);
    let case = Case {
        name: form.to_owned(),
        model: PathBuf::new(),
        input_shape: vec![pillars, points, columns],
        input,
        outputs: vec![Output {
            name: "pillar_features".to_owned(),
            shape: vec![pillars, expected.len() / pillars],
            values: expected,
        }],
    };
    difference(&folder.pfe.pfn, &case)
}

/// The outputs for the map that all references were computed for.
fn outputs(form: &str, folder: &Folder) -> Vec<Output> {
    let io = std::fs::read(shared("golden/exports").join(form).join("io.npz")).unwrap();
    run(&folder.rpn.graph, &floats(&npy(&io, "spatial_features")))
}

#[test]
#[ignore = "needs ../shared"]
fn float_checkpoints_give_torchs_values() {
    for name in [
        "train",
        "legacy",
        "half",
        "ptq",
        "ptq_exact",
        "ptq_per_tensor_deconv",
        "ptq_axis0_deconv",
        "qat",
    ] {
        let (_out, folder, said) = imported_golden(name, &["--scales", "none"]);
        assert!(!folder.is_quantized() && folder.rpn.unused.is_empty());
        let expected = std::fs::read(golden(&format!("{name}.expected.npz"))).unwrap();
        let expected = |name: &str| floats(&npy(&expected, &format!("float/{name}")));
        let pfn = pfn_difference("awml", &folder, expected("pillar_features"));
        let outputs = outputs("awml", &folder);
        assert_eq!(outputs.len(), 6);
        let outputs = outputs.iter().map(|o| worst(&o.values, &expected(&o.name)));
        let outputs = outputs.fold(0.0, f32::max);
        println!("{name}: PFN {pfn:.1e}, outputs {outputs:.1e}");
        assert!(
            pfn <= f64::from(TOLERANCE) && outputs <= TOLERANCE,
            "{said}"
        );
    }
}

/// With the largest ratio of the difference from torch's values to the quantisation noise.
const QUANTISED: [(&str, f64); 5] = [
    ("ptq_exact", 0.0),
    ("ptq_per_tensor_deconv", 0.0),
    ("qat", 0.0),
    ("ptq", 0.5),
    // Its deconvolutions have other scales here.
    ("ptq_axis0_deconv", 1.1),
];

#[test]
#[ignore = "needs ../shared"]
fn quantised_checkpoints_give_torchs_values() {
    for (name, most) in QUANTISED {
        let (out, folder, said) = imported_golden(name, &[]);
        assert!(folder.is_quantized());
        let network = "m/pts_backbone_neck_head.onnx";
        let (listed, _) = built(out.path(), &["inspect", network]);
        assert!(
            listed.contains(&format!("Scales from {name}.pth"))
                && listed
                    .contains("blocks.1.3: input pts_backbone.blocks.1.3._input_quantizer._amax"),
            "{listed}"
        );
        let expected = std::fs::read(golden(&format!("{name}.expected.npz"))).unwrap();
        for output in outputs("awml", &folder) {
            let [float, int8] = ["float", "fakequant"]
                .map(|form| floats(&npy(&expected, &format!("{form}/{}", output.name))));
            let noise = distance(&float, &int8);
            let ratio = distance(&output.values, &int8) / noise;
            // Whatever differs is about as near to the float network.
            let own = distance(&output.values, &float) / noise;
            let most_own = if most > 1.0 { 1.25 } else { 1.1 };
            assert!(own <= most_own, "{name} {}: {own}", output.name);
            let worst = worst(&output.values, &int8);
            println!(
                "{name} {}: {ratio:.4}, {worst:.1e}; own noise {own:.3}",
                output.name
            );
            assert!(ratio <= most, "{name} {}: {ratio}", output.name);
            assert!(most > 0.0 || worst == 0.0);
        }
        // The PFN is the float one, and says so.
        let pfn = floats(&npy(&expected, "float/pillar_features"));
        assert!(pfn_difference("awml", &folder, pfn) <= f64::from(TOLERANCE));
        let steps = folder.steps();
        let count = |what: &str| steps.iter().filter(|step| step.contains(what)).count();
        assert_eq!(count("the PFN runs in float"), 4, "{steps:?}");
        assert_eq!(count("kept the scales of 24 layers"), 1, "{steps:?}");
        let requantised = if name == "ptq_axis0_deconv" { 3 } else { 0 };
        assert_eq!(count("quantised again"), requantised, "{steps:?}");
        assert!(said.contains("read 100 tensors"), "{said}");
    }
}

/// The scales of a checkpoint for its own float network are those of the quantised network, wherever it has them.
#[test]
#[ignore = "needs ../shared"]
fn scales_of_quantised_checkpoints_serve_their_float_networks() {
    let frames = Path::new(env!("CARGO_MANIFEST_DIR")).join("calib/demo/frames");
    for (name, _) in QUANTISED {
        let (out, keep, _) = imported_golden(name, &[]);
        let (float, ..) = imported_golden(name, &["--scales", "none"]);
        let model = float.path().join("m");
        let args = [
            "quantize",
            "--model",
            text(&model),
            "--scales",
            "m",
            "--pcd",
            text(&frames),
            "--allow-low-sqnr",
            "--out",
            "r.plan",
            "--onnx",
            "r",
        ];
        let (_, said) = built(out.path(), &args);
        assert!(!said.contains("scale"), "{said}");
        let placed = Folder::read(&out.path().join("r")).unwrap();
        let pairs = outputs("awml", &keep)
            .into_iter()
            .zip(outputs("awml", &placed));
        for (keep, placed) in pairs {
            let worst = worst(&placed.values, &keep.values);
            println!("{name} {}: {worst:.1e}", keep.name);
            assert!(worst <= TOLERANCE);
        }
    }
}

/// Every layer alone: codes of its input, its weight and its bias.
#[test]
#[ignore = "needs ../shared"]
fn quantised_layers_give_torchs_values() {
    for (name, _) in QUANTISED {
        let (out, ..) = imported_golden(name, &[]);
        let graph = Graph::read(&out.path().join("m/pts_backbone_neck_head.onnx")).unwrap();
        let npz = std::fs::read(golden(&format!("{name}.layers.npz"))).unwrap();
        let layers: Vec<&NodeProto> = graph.proto().node.iter().filter(|n| is_layer(n)).collect();
        assert_eq!(layers.len(), 24);
        let (mut most, mut again) = (0.0_f32, 0.0_f32);
        for layer in layers {
            let module = layer.name();
            let [input, expected] =
                ["in", "out"].map(|end| floats(&npy(&npz, &format!("{module}/{end}"))));
            let found = run(&alone(&graph, layer, [input.len(), expected.len()]), &input);
            let largest = expected
                .iter()
                .fold(0.0_f32, |most, value| most.max(value.abs()));
            let relative = worst(&found[0].values, &expected) / largest;
            if name == "ptq_axis0_deconv" && layer.op_type() == "ConvTranspose" {
                again = again.max(relative);
            } else {
                most = most.max(relative);
            }
        }
        println!("{name}: {most:.1e} of a layer's largest output, quantised again {again:.1e}");
        assert!(most <= TOLERANCE, "{name}: {most}");
        // A step of 8 bits is 0.8 % of the largest weight.
        assert!(again <= 0.05, "{name}: {again}");
    }
}

fn is_layer(node: &NodeProto) -> bool {
    ["Conv", "ConvTranspose"].contains(&node.op_type())
}

/// A layer with its pairs, of a square input and a square output of so many elements.
fn alone(graph: &Graph, layer: &NodeProto, elements: [usize; 2]) -> Graph {
    let producer = |value: &str| graph.producer(value).unwrap().proto.clone();
    let dequantize = producer(&layer.input[0]);
    let mut quantize = producer(&dequantize.input[0]);
    quantize.input[0] = "x".into();
    let nodes = vec![
        quantize,
        dequantize,
        producer(&layer.input[1]),
        layer.clone(),
    ];
    let weight = graph.initializer(&nodes[2].input[0]).unwrap();
    let mut channels = [weight.dims[1], weight.dims[0]];
    if layer.op_type() == "ConvTranspose" {
        channels.reverse();
    }
    let [input, output] = [0, 1].map(|i| {
        let size = ((elements[i] as i64 / channels[i]) as f64).sqrt() as i64;
        assert_eq!((channels[i] * size * size) as usize, elements[i]);
        [1, channels[i], size, size]
    });
    let proto = GraphProto {
        initializer: graph.proto().initializer.clone(),
        input: vec![crate::nets::value("x", &input)],
        output: vec![crate::nets::value(&layer.output[0], &output)],
        node: nodes,
        ..Default::default()
    };
    let model: ModelProto = crate::nets::model(proto);
    let mut graph = Graph::new(Path::new("layer.onnx"), model).unwrap();
    graph.prune().unwrap();
    graph
}

/// An export lends its graph: the result is that of the network that is built, whatever the exporter did to the weights.
#[test]
#[ignore = "needs ../shared"]
fn exports_lend_their_graphs() {
    for (name, form) in [("ptq_exact", "fakequant"), ("train", "float")] {
        let expected = std::fs::read(golden(&format!("{name}.expected.npz"))).unwrap();
        for variant in [
            "legacy11",
            "legacy13_dynamic",
            "legacy17",
            "legacy17_nofold",
            "dynamo18",
            "dynamo18_noopt",
            "dynamo_default",
        ] {
            let rpn = format!("golden/exports/awml/{variant}/pts_backbone_neck_head.onnx");
            let (_out, folder, _) = imported_golden(name, &["--rpn", text(&shared(&rpn))]);
            for output in outputs("awml", &folder) {
                let values = floats(&npy(&expected, &format!("{form}/{}", output.name)));
                let worst = worst(&output.values, &values);
                assert!(
                    worst <= TOLERANCE,
                    "{name} {variant} {}: {worst}",
                    output.name
                );
                assert!(
                    form == "float" || worst == 0.0,
                    "{variant} {}: {worst}",
                    output.name
                );
            }
        }
    }
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The floats of a checkpoint.
fn tensors(path: &Path) -> Tensors {
    let read = PytorchReader::with_top_level_key(path, "state_dict").unwrap();
    let tensors = read.tensors().iter().map(|(name, tensor)| {
        let values = floats(&tensor.read().unwrap());
        (name.clone(), (tensor.shape().to_vec(), values))
    });
    tensors.collect()
}

/// Writes a checkpoint.
fn save(tensors: &Tensors, path: &Path) {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = tensors.iter().map(|(name, (dims, _))| {
        let view = TensorView::new(Dtype::F32, dims.clone(), &bytes[name]).unwrap();
        (name, view)
    });
    let views: HashMap<&String, TensorView<'_>> = views.collect();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The same scales under other names, in another file, or behind a prefix.
#[test]
#[ignore = "needs ../shared"]
fn other_names_and_files_give_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let all = tensors(&golden("ptq_exact.pth"));
    let (reference, ..) = imported_golden("ptq_exact", &[]);
    let network = |out: &tempfile::TempDir| {
        std::fs::read(out.path().join("m/pts_backbone_neck_head.onnx")).unwrap()
    };
    let calib = golden("ptq_exact.calib");
    let config = golden("train.config.py");
    let renamed = |rename: &dyn Fn(&str) -> String| -> Tensors {
        let all = all.iter();
        all.map(|(name, tensor)| (rename(name), tensor.clone()))
            .collect()
    };
    let mut without = all.clone();
    without.retain(|name, _| !name.contains("quantizer"));
    let mut learnt = Tensors::new();
    for (name, (dims, values)) in &all {
        match name.strip_suffix("._amax") {
            Some(quantizer) => {
                let min = values.iter().map(|v| -v).collect();
                learnt.insert(
                    format!("{quantizer}.clip.clip_value_min"),
                    (dims.clone(), min),
                );
                let max = (dims.clone(), values.clone());
                learnt.insert(format!("{quantizer}.clip.clip_value_max"), max);
            }
            None => _ = learnt.insert(name.clone(), (dims.clone(), values.clone())),
        }
    }
    for (tensors, options) in [
        (
            renamed(&|name| {
                name.replace("._input", ".input")
                    .replace("._weight", ".weight")
            }),
            vec![],
        ),
        (renamed(&|name| format!("module.{name}")), vec![]),
        (renamed(&|name| name.replace("pts_", "")), vec![]),
        (
            without,
            vec!["--calib", text(&calib), "--network-config", text(&config)],
        ),
        (learnt, vec!["--network-config", text(&config)]),
    ] {
        save(&tensors, &path);
        let (out, ..) = imported("awml", &path, &options);
        // Names of values follow those of the checkpoint.
        let is_renamed = tensors.contains_key("backbone.blocks.0.0.weight");
        assert_eq!(
            network(&out) == network(&reference),
            !is_renamed,
            "{options:?}"
        );
        let expected = std::fs::read(golden("ptq_exact.expected.npz")).unwrap();
        for output in outputs("awml", &Folder::read(&out.path().join("m")).unwrap()) {
            let int8 = floats(&npy(&expected, &format!("fakequant/{}", output.name)));
            assert_eq!(
                worst(&output.values, &int8),
                0.0,
                "{options:?} {}",
                output.name
            );
        }
    }
    let other = golden("ptq.calib");
    let arguments = arguments("awml", &golden("qat.pth"), &["--calib", text(&other)]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let message = refused(folder.path(), &arguments, BAD_INPUT);
    assert!(
        message.contains("`pts_backbone.blocks.0.0._input_quantizer` is 3.96875")
            && message.contains("ptq.calib has 2.762736"),
        "{message}"
    );
}

/// The second network: convolutions in the neck, six tasks; by the names of mmdetection3d and of det3d.
#[test]
#[ignore = "needs ../shared"]
fn necks_of_convolutions_and_several_tasks_are_built() {
    let export = shared("golden/exports/nus/legacy17_nofold");
    let graph = Graph::read(&export.join("pts_backbone_neck_head.onnx")).unwrap();
    let mut all = Tensors::new();
    for tensor in &graph.proto().initializer {
        if let Some(values) = graph.floats(tensor.name()).unwrap()
            && tensor.name().starts_with("pts_")
        {
            all.insert(tensor.name().to_owned(), (values.dims, values.data));
        }
    }
    // The exporter writes equal biases once.
    for node in graph.nodes().filter(|node| node.op() == "Identity") {
        let (from, to) = (node.input(0).unwrap(), node.output(0).unwrap());
        if let Some(values) = all.get(from).cloned() {
            all.insert(to.to_owned(), values);
        }
    }
    let pfe =
        centerpoint::internals::build::import::read_pfe(&export.join("pts_voxel_encoder.onnx"));
    let layer = &pfe.unwrap().pfn.layers[0];
    let linear = "pts_voxel_encoder.pfn_layers.0.linear";
    let dims = vec![layer.out_features, layer.in_features];
    all.insert(format!("{linear}.weight"), (dims, layer.weight.clone()));
    let bias = (vec![layer.out_features], layer.bias.clone());
    all.insert(format!("{linear}.bias"), bias);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let io = std::fs::read(shared("golden/exports/nus/io.npz")).unwrap();
    let det3d: Tensors = all
        .iter()
        .map(|(name, tensor)| (det3d_name(name), tensor.clone()))
        .collect();
    // A convolution of the neck has as many input channels as output channels.
    let config = folder.path().join("flat.py");
    let text_of_config = "model = dict(pts_backbone=dict(layer_nums=[1, 2, 2], layer_strides=[2, 2, 2]), \
                          pts_neck=dict(upsample_strides=[0.5, 1, 2], use_conv_for_no_stride=True))\n";
    std::fs::write(&config, text_of_config).unwrap();
    for (tensors, eps) in [(&all, vec![]), (&det3d, vec!["--head-eps", "1e-3"])] {
        save(tensors, &path);
        let options = [vec!["--network-config", text(&config)], eps].concat();
        let (_out, imported, _) = imported("nus", &path, &options);
        let outputs = outputs("nus", &imported);
        assert_eq!(outputs.len(), 36);
        let worst = outputs
            .iter()
            .map(|o| worst(&o.values, &floats(&npy(&io, &o.name))));
        let worst = worst.fold(0.0, f32::max);
        println!("nus: {worst:.1e}");
        assert!(worst <= TOLERANCE, "{worst}");
        let features = floats(&npy(&io, "pillar_features"));
        assert!(pfn_difference("nus", &imported, features) <= f64::from(TOLERANCE));
    }
}

/// What det3d calls a tensor: plain sequences with a padding first, other names in the head.
fn det3d_name(name: &str) -> String {
    let (module, tensor) = name.rsplit_once('.').unwrap();
    let module = if let Some(rest) = module.strip_prefix("pts_backbone.") {
        let (block, place) = rest.rsplit_once('.').unwrap();
        format!("neck.{block}.{}", place.parse::<usize>().unwrap() + 1)
    } else if let Some(rest) = module.strip_prefix("pts_bbox_head.") {
        let (part, place) = rest.rsplit_once('.').unwrap();
        let (part, place) = match place {
            "conv" => (part.strip_suffix(".0").unwrap_or(part), 0),
            "bn" => (part.strip_suffix(".0").unwrap_or(part), 1),
            _ => (part, 3),
        };
        let part = part.replace("task_heads", "tasks").replace("heatmap", "hm");
        format!("bbox_head.{part}.{place}")
    } else {
        module
            .replace("pts_voxel_encoder", "reader")
            .replace("pts_neck", "neck")
    };
    format!("{module}.{tensor}")
}

#[test]
#[ignore = "needs ../shared"]
fn layers_without_scales_must_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut all = tensors(&golden("ptq_exact.pth"));
    all.retain(|name, _| !(name.contains("quantizer") && name.contains("shared_conv")));
    all.remove("pts_backbone.blocks.1.3._weight_quantizer._amax");
    save(&all, &path);
    let arguments = arguments("awml", &path, &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let message = refused(folder.path(), &arguments, BAD_INPUT);
    for part in [
        "`pts_backbone.blocks.1.3` (its weight)",
        "`pts_bbox_head.shared_conv.conv` (its input and its weight)",
        "--skip",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let skip = ["--skip", "*shared_conv*", "*blocks.1.3"];
    let (_out, imported, said) = imported("awml", &path, &skip);
    assert!(
        said.contains("left pts_backbone.blocks.1.3 in float"),
        "{said}"
    );
    assert!(said.contains("kept the scales of 22 layers"), "{said}");
    assert!(imported.is_quantized());
}

#[test]
#[ignore = "needs ../shared"]
fn damaged_and_hostile_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, parts) in [
        (
            "hostile/reduce_os_system.pth",
            vec!["`hook`", "`posix.system`"],
        ),
        (
            "hostile/reduce_os_system_legacy.pth",
            vec!["`hook`", "`posix.system`"],
        ),
        ("hostile/truncated.pth", vec!["zip"]),
        (
            "hostile/truncated_legacy.pth",
            vec!["beyond the end of the file"],
        ),
        (
            "hostile/root_list.pth",
            vec!["root is a list", "expected a dictionary"],
        ),
        (
            "hostile/wrong_shapes.pth",
            vec![
                "`pts_backbone.blocks.1.0.weight` has shape [24, 16, 5, 5]",
                "[O, 16, 3, 3]",
            ],
        ),
        (
            "hostile/missing_key.pth",
            vec![
                "no `pts_backbone.blocks.1.3.weight`",
                "expected [O, 24, 3, 3]",
            ],
        ),
        (
            "hostile/bad_amax.pth",
            vec!["`pts_backbone.blocks.2.0._input_quantizer._amax` has the value NaN"],
        ),
        (
            "nvidia_scn.pth",
            vec!["`backbone.conv_input.0", "sparse 3D encoder"],
        ),
        (
            "nvidia_scn_float.pth",
            vec!["`backbone.conv_input.0", "sparse 3D encoder"],
        ),
        (
            "mmdet3d_scn.pth",
            vec!["`pts_middle_encoder.conv_input.0", "sparse 3D encoder"],
        ),
        (
            "half.pth",
            vec!["`pts_neck.deblocks.0.0.weight`", "--network-config"],
        ),
    ] {
        let path = golden(name);
        let arguments = arguments("awml", &path, &[]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let message = refused(folder.path(), &arguments, BAD_INPUT);
        println!("{message}");
        for part in parts.into_iter().chain([text(&path)]) {
            assert!(message.contains(part), "{name}: {message}");
        }
        assert!(!folder.path().join("m").exists(), "{name}");
    }
    // The other faults of two of these files, one by one.
    let path = folder.path().join("x.safetensors");
    for (key, dims, part) in [
        ("pts_neck.deblocks.1.0.weight", vec![16, 24, 2, 2], "stride"),
        (
            "pts_bbox_head.task_heads.0.heatmap.1.bias",
            vec![6],
            "has shape [6]; expected [5]",
        ),
        (
            "pts_backbone.blocks.2.3._weight_quantizer._amax",
            vec![7, 1, 1, 1],
            "has shape [7, 1, 1, 1]; expected [32, 1, 1, 1] or one value",
        ),
    ] {
        let mut all = tensors(&golden("ptq.pth"));
        all.insert(key.into(), (dims.clone(), vec![0.5; dims.iter().product()]));
        if key.contains("deblocks.1") {
            all.remove("pts_neck.deblocks.1.0._weight_quantizer._amax");
            all.insert(
                "pts_neck.deblocks.1.0._weight_quantizer._amax".into(),
                (vec![], vec![1.0]),
            );
        }
        save(&all, &path);
        let arguments = arguments("awml", &path, &[]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let message = refused(folder.path(), &arguments, BAD_INPUT);
        println!("{message}");
        assert!(message.contains(part), "{message}");
    }
}
