use std::path::Path;

use super::*;

/// A model with a 24 × 20 grid (W × H), 40 channels, one class, and a head of half that size.
fn model() -> Model {
    let text = r#"
name = "odd"
classes = ["car"]

[points]
columns = ["x", "y", "z"]
capacity = 1000

[grid]
range = [0.0, 0.0, 0.0, 24.0, 20.0, 4.0]
voxel_size = [1.0, 1.0, 4.0]
max_points_per_pillar = 4
max_pillars = 64

[pfn]
mean_offset = false
center_offset_axes = 0
layers = [40]

[head]
downsample = 2
size_order = "lwh"
rotation = "sin_cos"

[decode]
score = 0.05
max_candidates = 100

[[nms]]
kind = "circle"
radius = 0.5
scope = "class"
"#;
    Model::parse(text, Path::new("odd.toml")).unwrap()
}

fn tensor(name: &str, input: bool, dims: &[i64]) -> Tensor {
    Tensor {
        name: name.into(),
        input,
        data_type: 0,
        format: 0,
        dims: dims.into(),
        vector: -1,
        vector_axis: -1,
    }
}

/// The inputs and outputs of an engine for that model: f32, linear.
fn tensors() -> Vec<Tensor> {
    let outputs = [
        ("heatmap", 1),
        ("reg", 2),
        ("height", 1),
        ("dim", 3),
        ("rot", 2),
        ("vel", 2),
    ];
    let input = tensor("spatial_features", true, &[1, 40, 20, 24]);
    let outputs = outputs.map(|(name, channels)| tensor(name, false, &[1, channels, 10, 12]));
    std::iter::once(input).chain(outputs).collect()
}

fn bound(tensors: &[Tensor]) -> Result<Bindings, TensorRtError> {
    bind(Path::new("x.plan"), tensors, &model(), Some(0.25))
}

fn refusal(tensors: &[Tensor]) -> String {
    bound(tensors).unwrap_err().to_string()
}

/// For each format: number, type, vector and its axis, as TensorRT reports them; then the index of (c, y, x) in
/// C × H × W according to the documentation of `TensorFormat`, and the number of values.
type Naive = fn([usize; 3], [usize; 3]) -> (usize, usize);
const NAIVE: [(i32, i32, i32, i32, Naive); 8] = [
    (0, 0, -1, -1, |[c, y, x], [cs, h, w]| {
        ((c * h + y) * w + x, cs * h * w)
    }),
    (1, 1, 2, 1, |at, size| blocks(2, at, size)),
    (2, 1, 8, 1, |at, size| last(8, at, size)),
    (3, 2, 4, 1, |at, size| blocks(4, at, size)),
    (4, 1, 16, 1, |at, size| blocks(16, at, size)),
    (5, 2, 32, 1, |at, size| blocks(32, at, size)),
    (8, 0, 1, -1, |at, size| last(1, at, size)),
    (11, 1, 16, 1, |at, size| last(16, at, size)),
];

/// `[(C + n - 1) / n][H][W][n]`, subscript `[c / n][y][x][c % n]`.
fn blocks(n: usize, [c, y, x]: [usize; 3], [channels, h, w]: [usize; 3]) -> (usize, usize) {
    let count = channels.div_ceil(n);
    ((((c / n) * h + y) * w + x) * n + c % n, count * h * w * n)
}

/// `[H][W][(C + n - 1) / n * n]`, subscript `[y][x][c]`.
fn last(n: usize, [c, y, x]: [usize; 3], [channels, h, w]: [usize; 3]) -> (usize, usize) {
    let padded = channels.div_ceil(n) * n;
    ((y * w + x) * padded + c, h * w * padded)
}

#[test]
fn every_element_of_every_format_is_where_tensorrt_puts_it() {
    for (format, data_type, vector, vector_axis, naive) in NAIVE {
        let mut tensors = tensors();
        for tensor in &mut tensors {
            let element = if tensor.input {
                data_type
            } else {
                data_type % 2
            };
            *tensor = Tensor {
                data_type: element,
                format,
                vector,
                vector_axis,
                ..tensor.clone()
            };
        }
        let bindings = bound(&tensors).unwrap();
        assert_eq!(bindings.outputs.len(), 6);
        assert_eq!(bindings.others, []);
        for binding in bindings.outputs.iter().chain([&bindings.input]) {
            let Binding { desc, map, bytes } = binding;
            let size = [desc.channels, desc.height, desc.width];
            let mut values = 0;
            for c in 0..size[0] {
                for y in 0..size[1] {
                    for x in 0..size[2] {
                        let (expected, count) = naive([c, y, x], size);
                        let (l, v) = (&map.layout, map.vector as usize);
                        // Like `map_index` in `kernels/common.cuh`.
                        let found = c / v * l.stride_c + y * l.stride_y + x * l.stride_x + c % v;
                        assert_eq!(found, expected, "format {format}, ({c}, {y}, {x})");
                        values = count;
                    }
                }
            }
            let value = match map.element {
                Element::F32 => 4,
                Element::F16 => 2,
                Element::I8 => 1,
            };
            assert_eq!(*bytes, values * value, "format {format}");
        }
        let input = &bindings.input;
        assert_eq!(input.desc.name, "spatial_features");
        let scale = if data_type == 2 { 0.25 } else { 1.0 };
        assert_eq!(input.map.scale, scale);
        assert_eq!(bindings.outputs[3].desc.name, "dim");
        assert_eq!(bindings.outputs[3].desc.channels, 3);
    }
}

#[test]
fn inputs_that_do_not_match_the_model_are_refused() {
    let mut wrong = tensors();
    wrong[0].dims[1] = 32;
    let text = refusal(&wrong);
    let expected = "x.plan: tensor `spatial_features` of the engine: its shape is 1x32x20x24, but the model \
                       description says 1x40x20x24";
    assert!(text.starts_with(expected), "{text}");

    let mut wrong = tensors();
    wrong[0].dims[0] = -1;
    let text = refusal(&wrong);
    assert!(text.contains("-1x40x20x24 is not fixed; export"), "{text}");

    let mut wrong = tensors();
    wrong[0].dims.remove(0);
    assert!(refusal(&wrong).contains("its shape is 40x20x24, "));

    let mut wrong = tensors();
    wrong.push(tensor("num_voxels", true, &[1]));
    let text = refusal(&wrong);
    assert!(text.contains("`num_voxels`"), "{text}");
    assert!(
        text.contains("2 inputs (spatial_features, num_voxels)"),
        "{text}"
    );
    assert!(refusal(&tensors()[1..]).contains("0 inputs (none)"));
}

#[test]
fn outputs_that_are_missing_or_wrong_are_refused() {
    let mut wrong = tensors();
    wrong[4].name = "size".into();
    let text = refusal(&wrong);
    let expected = "tensor `dim` of the engine: the engine has no such output; it has heatmap, reg, \
                    height, size, rot, vel; name them";
    assert!(text.contains(expected), "{text}");

    let mut wrong = tensors();
    wrong[1].dims = vec![1, 1, 12, 10];
    let text = refusal(&wrong);
    assert!(
        text.contains("1x1x12x10, but the model description says 1x1x10x12"),
        "{text}"
    );
    // Swapped names show in the channels.
    let mut wrong = tensors();
    let name = wrong[1].name.clone();
    wrong[1].name = std::mem::replace(&mut wrong[2].name, name);
    assert!(refusal(&wrong).contains("1x2x10x12, but the model description says 1x1x10x12"));
}

#[test]
fn types_and_formats_that_the_kernels_cannot_handle_are_refused() {
    for (index, data_type, name, words) in [
        (0, 3, "INT32", "FP32, FP16 or INT8; build"),
        (1, 2, "INT8", "FP32 or FP16; build"),
        (2, 7, "BF16", "--outputIOFormats=fp16:chw"),
        (0, 6, "FP8", "--inputIOFormats=fp16:chw"),
        (0, 99, "99", "expected"),
    ] {
        let mut wrong = tensors();
        wrong[index].data_type = data_type;
        let text = refusal(&wrong);
        let found = format!("its type is {name}, expected ");
        assert!(text.contains(&found) && text.contains(words), "{text}");
    }
    for (format, name) in [
        (6, "DHWC8"),
        (9, "DLA_LINEAR"),
        (10, "DLA_HWC4"),
        (12, "DHWC"),
        (-7, "-7"),
    ] {
        let mut wrong = tensors();
        wrong[0].format = format;
        let text = refusal(&wrong);
        let expected = format!(
            "its format is {name}, expected one of LINEAR, CHW2, HWC8, CHW4, CHW16, CHW32, HWC, HWC16; build"
        );
        assert!(text.contains(&expected), "{text}");
    }
    // A format and a vector that contradict each other.
    for (format, vector, axis) in [(0, 4, 1), (5, 16, 1), (5, 32, 2), (2, -1, -1)] {
        let mut wrong = tensors();
        (wrong[0].format, wrong[0].vector, wrong[0].vector_axis) = (format, vector, axis);
        let text = refusal(&wrong);
        let found = format!("reports {} along axis {axis}", vector.max(1));
        assert!(text.contains(&found), "{text}");
    }
}

#[test]
fn int8_inputs_need_a_scale() {
    let mut codes = tensors();
    codes[0].data_type = 2;
    let input = bound(&codes).unwrap().input;
    assert_eq!((input.map.element, input.map.scale), (Element::I8, 0.25));
    for (scale, words) in [
        (None, "does not say what value code 1 has"),
        (Some(0.0), "code 1 stands for 0,"),
        (Some(f32::NAN), "code 1 stands for NaN,"),
    ] {
        let text = bind(Path::new("x.plan"), &codes, &model(), scale).unwrap_err();
        assert!(text.to_string().contains(words), "{text}");
    }
}

#[test]
fn unnamed_outputs_get_enough_memory() {
    let mut more = tensors();
    more.push(tensor("debug", false, &[1, 3, 10, 12]));
    let vectorised = Tensor {
        vector: 32,
        vector_axis: 1,
        format: 5,
        ..tensor("features", false, &[1, 33, 2, 2])
    };
    more.push(vectorised);
    more.push(tensor("count", false, &[]));
    let others = bound(&more).unwrap().others;
    let expected = [
        ("debug", 8 * 3 * 10 * 64),
        ("features", 8 * 64 * 2 * 64),
        ("count", 8),
    ];
    assert_eq!(
        others,
        expected.map(|(name, bytes)| (name.to_owned(), bytes))
    );

    let mut endless = tensors();
    endless.push(tensor("debug", false, &[i64::MAX, 4]));
    assert!(refusal(&endless).contains("exceeds any memory"));
    let mut dynamic = tensors();
    dynamic.push(tensor("debug", false, &[1, -1]));
    assert!(refusal(&dynamic).contains("1x-1 is not fixed"));
}
