//! A small network as a safetensors file, whole and with faults.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::build::compile;
use crate::build::import::{pfe_of, rpn_of};
use crate::build::testing::{data, ops};

const MODEL: &str = r#"
name = "small"
classes = ["car"]
[points]
columns = ["x", "y", "z", "intensity"]
[grid]
range = [-2.0, -2.0, -2.0, 2.0, 2.0, 2.0]
voxel_size = [0.5, 0.5, 4.0]
max_points_per_pillar = 4
max_pillars = 16
[pfn]
layers = [4]
[head]
downsample = 2
size_order = "lwh"
rotation = "sin_cos"
[decode]
score = 0.1
[[nms]]
kind = "circle"
scope = "class"
radius = 1.0
"#;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Multiples of 1/8 between −1 and 1.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7 + seed * 5) % 17) as f32 / 8.0 - 1.0)
        .collect()
}

/// A convolution with a bias: its weight has the shape `dims`, and its output channels on `axis`.
fn layer(tensors: &mut Tensors, key: &str, dims: &[usize], axis: usize) {
    let count = dims.iter().product();
    let weight = (dims.to_vec(), values(count, tensors.len()));
    tensors.insert(format!("{key}.weight"), weight);
    let bias = (vec![dims[axis]], values(dims[axis], 3));
    tensors.insert(format!("{key}.bias"), bias);
}

/// Two blocks of strides 2 and 1, a neck of deconvolutions, one task; BatchNormalizations fused. The PFN reads the four columns
/// and five or six more.
fn network() -> Tensors {
    let mut all = Tensors::new();
    layer(
        &mut all,
        "pts_voxel_encoder.pfn_layers.0.linear",
        &[4, 10],
        0,
    );
    layer(&mut all, "pts_backbone.blocks.0.0", &[4, 4, 3, 3], 0);
    layer(&mut all, "pts_backbone.blocks.0.3", &[4, 4, 3, 3], 0);
    layer(&mut all, "pts_backbone.blocks.1.0", &[6, 4, 3, 3], 0);
    layer(&mut all, "pts_neck.deblocks.0.0", &[4, 5, 1, 1], 1);
    layer(&mut all, "pts_neck.deblocks.1.0", &[6, 5, 2, 2], 1);
    layer(
        &mut all,
        "pts_bbox_head.shared_conv.conv",
        &[4, 10, 3, 3],
        0,
    );
    for (map, channels) in [
        ("heatmap", 1),
        ("reg", 2),
        ("height", 1),
        ("dim", 3),
        ("rot", 2),
        ("vel", 2),
    ] {
        let task = format!("pts_bbox_head.task_heads.0.{map}");
        layer(&mut all, &format!("{task}.0.conv"), &[4, 4, 3, 3], 0);
        layer(&mut all, &format!("{task}.1"), &[channels, 4, 1, 1], 0);
    }
    all
}

/// The network with ranges of a weight by layer and of an input by layer.
fn quantized() -> Tensors {
    let mut all = network();
    for key in network().keys() {
        let Some(layer) = key.strip_suffix(".weight") else {
            continue;
        };
        let amax = |value: f32| (vec![], vec![value * 127.0 / 128.0]);
        all.insert(format!("{layer}._input_quantizer._amax"), amax(4.0));
        all.insert(format!("{layer}._weight_quantizer._amax"), amax(1.0));
    }
    all
}

struct Saved {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn save(tensors: &Tensors) -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = tensors.iter().map(|(name, (dims, _))| {
        let view = TensorView::new(Dtype::F32, dims.clone(), &bytes[name]).unwrap();
        (name, view)
    });
    let views: HashMap<&String, TensorView<'_>> = views.collect();
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    Saved {
        _folder: folder,
        path,
    }
}

fn model() -> Model {
    Model::parse(MODEL, Path::new("model.toml")).unwrap()
}

fn read(tensors: &Tensors, change: impl Fn(&mut Request)) -> Result<Networks> {
    let saved = save(tensors);
    let mut request = Request {
        checkpoint: saved.path.clone(),
        ..Request::default()
    };
    change(&mut request);
    Checkpoint::open(&request)?.networks(&model())
}

/// The message of a refusal, which names the file.
fn refusal(tensors: &Tensors, change: impl Fn(&mut Request)) -> String {
    let Err(error) = read(tensors, change) else {
        panic!("not refused");
    };
    let message = error.to_string();
    assert!(message.contains("x.safetensors: "), "{message}");
    message
}

#[test]
fn a_network_is_built_from_its_tensors() {
    let Networks { pfe, rpn, report } = read(&network(), |_| {}).unwrap();
    assert_eq!(report.matched, network().len());
    assert_eq!(report.unmatched, [""; 0]);
    let pfn = pfe_of(pfe).unwrap().pfn;
    assert_eq!(
        pfn.layers[0].weight,
        network()["pts_voxel_encoder.pfn_layers.0.linear.weight"].1
    );
    // The strides follow from the size of the head.
    let stride = |layer: &str| {
        let output = format!("{layer}.linear");
        rpn.producer(&output)
            .unwrap()
            .ints("strides")
            .unwrap()
            .unwrap()
            .to_vec()
    };
    assert_eq!(stride("pts_backbone.blocks.0.0"), [2, 2]);
    assert_eq!(stride("pts_backbone.blocks.0.3"), [1, 1]);
    assert_eq!(stride("pts_backbone.blocks.1.0"), [2, 2]);
    assert_eq!(stride("pts_neck.deblocks.1.0"), [2, 2]);
    assert_eq!(
        ops(&rpn)
            .iter()
            .filter(|op| **op == "ConvTranspose")
            .count(),
        2
    );
    let checked = rpn_of(rpn, &model()).unwrap();
    assert_eq!(checked.graph.outputs().unwrap().len(), 6);
}

/// ε of each part, and what is folded: the same numbers as if the network had been fused.
#[test]
fn batch_normalizations_are_folded() {
    let mut all = network();
    all.remove("pts_backbone.blocks.0.0.bias");
    for (name, value) in [
        ("weight", 0.5),
        ("bias", 0.25),
        ("running_mean", 2.0),
        ("running_var", 3.999),
    ] {
        all.insert(
            format!("pts_backbone.blocks.0.1.{name}"),
            (vec![4], vec![value; 4]),
        );
    }
    all.insert(
        "pts_backbone.blocks.0.1.num_batches_tracked".into(),
        (vec![], vec![9.0]),
    );
    let Networks { rpn, report, .. } = read(&all, |_| {}).unwrap();
    assert_eq!(report.ignored.len(), 1, "{report:?}");
    let graph = rpn_of(rpn, &model()).unwrap().graph;
    // √(3.999 + 0.001) is 2.
    let weight = &all["pts_backbone.blocks.0.0.weight"].1;
    for (folded, weight) in data(&graph, "pts_backbone.blocks.0.0.weight")
        .iter()
        .zip(weight)
    {
        assert!((folded - weight / 4.0).abs() < 1e-6, "{folded} {weight}");
    }
    // Behind codes it stays, and engines compute it.
    let mut codes = quantized();
    codes.extend(
        all.iter()
            .filter(|(key, _)| key.contains("blocks.0.1."))
            .map(|(key, tensor)| (key.clone(), tensor.clone())),
    );
    codes.remove("pts_backbone.blocks.0.0.bias");
    let networks = read(&codes, |_| {}).unwrap();
    compile::cpu(&rpn_of(networks.rpn, &model()).unwrap().graph).unwrap();

    all.remove("pts_backbone.blocks.0.1.running_var");
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("no `pts_backbone.blocks.0.1.running_var`"),
        "{message}"
    );
}

/// Layers that read one map with one range share a pair; another range has its own.
#[test]
fn readers_of_one_map_may_have_other_ranges() {
    let mut all = quantized();
    let key = "pts_bbox_head.task_heads.0.rot.0.conv._input_quantizer._amax";
    all.insert(key.into(), (vec![], vec![8.0 * 127.0 / 128.0]));
    let Networks { rpn, report, .. } = read(&all, |_| {}).unwrap();
    assert_eq!(report.scales.len(), 18);
    let shared = "pts_bbox_head.shared_conv.conv.relu";
    let quantize = rpn.consumers(shared).filter(|n| n.op() == "QuantizeLinear");
    let mut scales: Vec<f32> = quantize
        .flat_map(|node| data(&rpn, node.input(1).unwrap()))
        .collect();
    scales.sort_by(f32::total_cmp);
    assert_eq!(scales, [1.0 / 32.0, 1.0 / 16.0]);
    compile::cpu(&rpn_of(rpn, &model()).unwrap().graph).unwrap();
}

#[test]
fn weights_saturate_at_both_ends_of_their_range() {
    let mut all = quantized();
    let key = "pts_backbone.blocks.0.0";
    all.insert(
        format!("{key}.weight"),
        (
            vec![4, 4, 3, 3],
            (0..144).map(|i| i as f32 - 72.0).collect(),
        ),
    );
    let rpn = read(&all, |_| {}).unwrap().rpn;
    let codes = rpn
        .integers(&format!("{key}.weight_quantized"))
        .unwrap()
        .unwrap()
        .data;
    assert_eq!(
        (codes.iter().min(), codes.iter().max()),
        (Some(&-127), Some(&127))
    );
}

#[test]
fn ranges_are_read_by_their_shape() {
    let conv = "pts_backbone.blocks.0.3._weight_quantizer._amax";
    let deconv = "pts_neck.deblocks.1.0._weight_quantizer._amax";
    for (key, dims, expected) in [
        (conv, vec![4, 1, 1, 1], Ok(false)),
        (conv, vec![4], Ok(false)),
        (
            conv,
            vec![1, 4, 1, 1],
            Err("[1, 4, 1, 1]; expected [4, 1, 1, 1] or one value"),
        ),
        (deconv, vec![1, 5, 1, 1], Ok(false)),
        (deconv, vec![6, 1, 1, 1], Ok(true)),
        (
            deconv,
            vec![5],
            Err("[5]; expected [1, 5, 1, 1] or one value"),
        ),
        (deconv, vec![1, 6, 1, 1], Err("[1, 6, 1, 1]")),
    ] {
        let mut all = quantized();
        let count = dims.iter().product();
        all.insert(key.into(), (dims.clone(), vec![0.5; count]));
        match (read(&all, |_| {}), expected) {
            (Ok(networks), Ok(requantized)) => {
                let said = networks
                    .report
                    .steps
                    .iter()
                    .any(|step| step.contains("quantised again"));
                assert_eq!(said, requantized, "{dims:?}");
                let layer = key.strip_suffix("._weight_quantizer._amax").unwrap();
                let scales = data(&networks.rpn, &format!("{layer}.weight_scale"));
                let half = scales.iter().all(|scale| *scale == 0.5 / 127.0);
                assert_eq!(half, !requantized, "{scales:?}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (Ok(_), Err(_)) => panic!("{key} {dims:?}: not refused"),
            (Err(error), Ok(_)) => panic!("{key} {dims:?}: {error}"),
        }
    }
}

#[test]
fn quantisers_that_change_more_than_the_range_are_refused() {
    let quantizer = "pts_backbone.blocks.0.3._input_quantizer";
    let mut all = quantized();
    all.insert(
        format!("{quantizer}._pre_quant_scale"),
        (vec![4], vec![1.0; 4]),
    );
    read(&all, |_| {}).unwrap();
    all.insert(
        format!("{quantizer}._pre_quant_scale"),
        (vec![4], vec![1.0, 1.0, 0.5, 1.0]),
    );
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("_pre_quant_scale") && message.contains("0.5"),
        "{message}"
    );

    // The lower end of a learnt range matters for weights only.
    let mut all = quantized();
    let clip =
        |name: &str, end: &str| format!("pts_backbone.blocks.0.3.{name}.clip.clip_value_{end}");
    all.insert(clip("_input_quantizer", "min"), (vec![], vec![-1.0]));
    all.insert(clip("_input_quantizer", "max"), (vec![], vec![2.0]));
    let networks = read(&all, |_| {}).unwrap();
    assert!(networks.report.scales["pts_backbone.blocks.0.3"][0].ends_with("clip.clip_value_max"));
    all.insert(clip("_weight_quantizer", "min"), (vec![], vec![-1.0]));
    all.insert(clip("_weight_quantizer", "max"), (vec![], vec![2.0]));
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("clip_value_min` is -1.0; expected -2.0"),
        "{message}"
    );
}

#[test]
fn a_file_of_ranges_must_agree_with_the_checkpoint() {
    let all = quantized();
    let mut ranges = Tensors::new();
    for (key, tensor) in &all {
        if let Some(quantizer) = key.strip_suffix("._amax") {
            ranges.insert(quantizer.to_owned(), tensor.clone());
        }
    }
    let calib = save(&ranges);
    let with = |request: &mut Request| request.calib = Some(calib.path.clone());
    let reference = read(&all, |_| {}).unwrap();
    // Beside the checkpoint's, and instead of them.
    for tensors in [&all, &network()] {
        let networks = read(tensors, with).unwrap();
        assert_eq!(networks.rpn.to_model(), reference.rpn.to_model());
    }
    let mut other = all.clone();
    let key = "pts_backbone.blocks.1.0._input_quantizer._amax";
    other.insert(key.into(), (vec![], vec![1.5]));
    let message = refusal(&other, with);
    assert!(
        message.contains("is 1.5, but") && message.contains("has 3.96875"),
        "{message}"
    );
    // A layer that the file of ranges knows and the network does not.
    ranges.insert(
        "pts_backbone.blocks.7.0._input_quantizer".into(),
        (vec![], vec![1.0]),
    );
    let more = save(&ranges);
    let message = refusal(&all, |request| request.calib = Some(more.path.clone()));
    assert!(
        message.contains("1 tensors") && message.contains("blocks.7.0"),
        "{message}"
    );
}

#[test]
fn scales_are_kept_dropped_or_missed() {
    let dropped = read(&quantized(), |request| {
        request.scales = Some(ScaleUse::Drop)
    })
    .unwrap();
    let float = read(&network(), |_| {}).unwrap();
    assert_eq!(dropped.rpn.to_model(), float.rpn.to_model());
    assert!(
        dropped.report.ignored[0].contains("38 tensors of quantisers"),
        "{:?}",
        dropped.report
    );
    let message = refusal(&network(), |request| request.scales = Some(ScaleUse::Keep));
    assert!(message.contains("--calib"), "{message}");

    let mut all = quantized();
    all.remove("pts_backbone.blocks.0.3._input_quantizer._amax");
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("no scale for `pts_backbone.blocks.0.3` (its input)"),
        "{message}"
    );
    let skip = |request: &mut Request| request.skip = vec!["*.blocks.0.?".into(), "other".into()];
    let networks = read(&all, skip).unwrap();
    assert_eq!(
        networks.report.skipped,
        ["pts_backbone.blocks.0.0", "pts_backbone.blocks.0.3"]
    );
    assert_eq!(networks.report.scales.len(), 16);
    assert!(
        networks
            .report
            .steps
            .iter()
            .any(|step| step == "--skip other: no layer with scales has this name")
    );
}

#[test]
fn tensors_of_no_network_must_be_allowed() {
    let mut all = network();
    all.insert(
        "pts_bbox_head.task_heads.0.iou.0.conv.weight".into(),
        (vec![1], vec![0.0]),
    );
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("1 tensors are no part of the network: `pts_bbox_head.task_heads.0.iou"),
        "{message}"
    );
    let networks = read(&all, |request| request.allow_unmatched = true).unwrap();
    assert_eq!(networks.report.unmatched.len(), 1);
    // What is missing cannot be allowed.
    all.remove("pts_bbox_head.task_heads.0.vel.1.weight");
    let message = refusal(&all, |request| request.allow_unmatched = true);
    assert!(
        message.contains("no `pts_bbox_head.task_heads.0.vel.1.weight`"),
        "{message}"
    );
}

#[test]
fn one_network_is_found_behind_any_prefix() {
    let prefixed = |prefix: &str| -> Tensors {
        let all = network().into_iter();
        all.map(|(key, tensor)| (format!("{prefix}{key}"), tensor))
            .collect()
    };
    read(&prefixed("module.model."), |_| {}).unwrap();
    let mut both = prefixed("student.");
    both.extend(prefixed("teacher."));
    let message = refusal(&both, |_| {});
    assert!(message.contains("`student.` and `teacher.`"), "{message}");
    let mut all = prefixed("module.");
    all.remove("module.pts_neck.deblocks.1.0.bias");
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("no `module.pts_neck.deblocks.1.0.bias`"),
        "{message}"
    );
    let message = refusal(&Tensors::new(), |_| {});
    assert!(message.contains("holds no tensors"), "{message}");
}

/// Where a branch may be either, a range on axis 1 or the configuration tells.
#[test]
fn a_branch_is_a_convolution_or_a_deconvolution() {
    let mut all = network();
    layer(&mut all, "pts_neck.deblocks.0.0", &[4, 4, 1, 1], 1);
    layer(&mut all, "pts_bbox_head.shared_conv.conv", &[4, 9, 3, 3], 0);
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("may be a convolution or a deconvolution"),
        "{message}"
    );
    let config = tempfile::NamedTempFile::new().unwrap();
    let operator = |strides: &str, use_conv: &str| {
        let text = format!(
            "model = dict(pts_backbone=dict(layer_strides={strides}, layer_nums=[1, 0]), \
             pts_neck=dict(upsample_strides=[1, 2], use_conv_for_no_stride={use_conv}))\n"
        );
        std::fs::write(config.path(), text).unwrap();
        let networks = read(&all, |request| request.config = Some(config.path().into()))?;
        let node = networks
            .rpn
            .producer("pts_neck.deblocks.0.0.linear")
            .unwrap();
        Ok::<_, crate::build::BuildError>(node.op().to_owned())
    };
    assert_eq!(operator("[2, 2]", "False").unwrap(), "ConvTranspose");
    assert_eq!(operator("[2, 2]", "True").unwrap(), "Conv");
    for strides in ["[1, 2]", "[2, 1]", "[2, 2, 2]", "[2, 0]"] {
        let error = operator(strides, "True").unwrap_err().to_string();
        assert!(error.contains("strides"), "{error}");
    }
}

#[test]
fn wrong_shapes_are_refused() {
    for (key, dims, part) in [
        (
            "pts_backbone.blocks.0.0.weight",
            vec![4, 4, 5, 5],
            "expected [O, 4, 3, 3]",
        ),
        (
            "pts_backbone.blocks.0.0.weight",
            vec![4, 5, 3, 3],
            "expected [O, 4, 3, 3]",
        ),
        (
            "pts_backbone.blocks.0.0.weight",
            vec![144],
            "expected [O, 4, 3, 3]",
        ),
        (
            "pts_neck.deblocks.1.0.weight",
            vec![5, 5, 2, 2],
            "expected [6, O, k, k] or [O, 6, k, k]",
        ),
        ("pts_neck.deblocks.1.0.weight", vec![5, 6, 2, 2], "stride"),
        (
            "pts_bbox_head.task_heads.0.dim.1.weight",
            vec![3, 4, 3, 1],
            "[O, 4, 1, 1] or [O, 4, 3, 3]",
        ),
        (
            "pts_bbox_head.task_heads.0.dim.1.bias",
            vec![4],
            "has shape [4]; expected [3]",
        ),
        (
            "pts_voxel_encoder.pfn_layers.0.linear.weight",
            vec![40],
            "has shape [40]",
        ),
        (
            "pts_voxel_encoder.pfn_layers.0.linear.weight",
            vec![0, 10],
            "has shape [0, 10]",
        ),
    ] {
        let mut all = network();
        let count = dims.iter().product();
        all.insert(key.into(), (dims, vec![0.0; count]));
        let message = refusal(&all, |_| {});
        assert!(
            message.contains(key) && message.contains(part),
            "{key}: {message}"
        );
    }
    let mut all = network();
    all.insert(
        "pts_backbone.blocks.0.0.bias".into(),
        (vec![4], vec![f32::NAN; 4]),
    );
    let message = refusal(&all, |_| {});
    assert!(
        message.contains("has the value NaN; expected finite numbers"),
        "{message}"
    );
}

/// A text in a pickle.
fn pickled(text: &str) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    [b"X", &length[..], text.as_bytes()].concat()
}

/// A file of torch.save before 1.6, with the pickle `root`, and one storage of one float if the root has a tensor.
fn legacy(root: &[u8]) -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let has_tensor = root.windows(5).any(|part| part == b"torch");
    // The storages' keys, the number of floats, the float.
    let storages = if has_tensor {
        let keys = [b"\x80\x02]", &pickled("0")[..], b"a."].concat();
        [&keys[..], &1_u64.to_le_bytes(), &1.0_f32.to_le_bytes()].concat()
    } else {
        b"\x80\x02].".to_vec()
    };
    let bytes = [
        // Magic number, version, byte order.
        &b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."[..],
        b"\x80\x02M\xe9\x03.",
        &[b"\x80\x02}", &pickled("little_endian")[..], b"\x88s."].concat(),
        &[b"\x80\x02", root, b"."].concat(),
        &storages,
    ]
    .concat();
    std::fs::write(&path, bytes).unwrap();
    Saved {
        _folder: folder,
        path,
    }
}

/// A dictionary of one entry.
fn dictionary(key: &str, value: &[u8]) -> Vec<u8> {
    [b"}", &pickled(key)[..], value, b"s"].concat()
}

/// A tensor of 2¹⁶ × 2¹⁴ elements, all of which are the one float of the file.
fn expanded() -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &pickled("storage"),
        b"ctorch\nFloatStorage\n",
        &pickled("0"),
        &pickled("cpu"),
        b"K\x01NtQK\x00(J\x00\x00\x01\x00J\x00\x40\x00\x00t(K\x00K\x00t\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

#[test]
fn hostile_pickles_are_refused() {
    let weight = "pts_voxel_encoder.pfn_layers.0.linear.weight";
    let call = [&b"cos\nsystem\n("[..], &pickled("true"), b"tR"].concat();
    let inner = dictionary("hook", &call);
    for (root, part) in [
        // 4 GiB of a file of a few hundred bytes.
        (
            dictionary("state_dict", &dictionary(weight, &expanded())),
            "claims [65536, 16384] elements, 4294967296 bytes; expected no more than the ",
        ),
        (dictionary("hook", &call), "`hook` calls `os.system`"),
        (dictionary("meta", &inner), "`meta.hook` calls `os.system`"),
        (b"]".to_vec(), "its root is a list, expected a dictionary"),
        (
            dictionary("state_dict", b"N"),
            "`state_dict` is None, expected a dictionary",
        ),
        (dictionary("state_dict", b"}"), "it holds no tensors"),
    ] {
        let saved = legacy(&root);
        let request = Request {
            checkpoint: saved.path.clone(),
            ..Request::default()
        };
        let read = Checkpoint::open(&request).and_then(|checkpoint| checkpoint.networks(&model()));
        let Err(error) = read else {
            panic!("{part}: not refused");
        };
        let message = error.to_string();
        assert!(
            message.contains("x.pth: ") && message.contains(part),
            "{message}"
        );
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// A file whose bytes were changed is read or refused.
    #[test]
    fn damaged_files_do_no_harm(place in 0_usize..2000, byte: u8, end in 0_usize..20_000) {
        let saved = save(&network());
        let mut bytes = std::fs::read(&saved.path).unwrap();
        if let Some(found) = bytes.get_mut(place) {
            *found = byte;
        }
        bytes.truncate(end.max(100));
        std::fs::write(&saved.path, bytes).unwrap();
        let request = Request {
            checkpoint: saved.path.clone(),
            ..Request::default()
        };
        let _ = Checkpoint::open(&request).and_then(|checkpoint| checkpoint.networks(&model()));
    }
}
