use super::*;
use crate::build::onnx::proto::AttributeProto;
use crate::build::onnx::tensor::{from_floats, from_integers};
use crate::build::testing::{int, ints, node, shaped};

/// Operator, attributes, weight, expected rows and columns.
type Case = (
    &'static str,
    &'static [(&'static str, &'static [i64])],
    [i64; 4],
    [usize; 2],
);

#[test]
fn windows_have_onnx_runtimes_sizes() {
    // Shapes by onnxruntime 1.31.
    let cases: [Case; 5] = [
        (
            "Conv",
            &[("strides", &[2, 2]), ("pads", &[1, 1, 1, 1])],
            [4, 3, 3, 3],
            [5, 6],
        ),
        ("Conv", &[("dilations", &[2, 3])], [4, 3, 3, 3], [5, 5]),
        (
            "ConvTranspose",
            &[("strides", &[2, 2])],
            [3, 4, 2, 2],
            [18, 22],
        ),
        (
            "ConvTranspose",
            &[
                ("strides", &[2, 2]),
                ("pads", &[1, 1, 1, 1]),
                ("output_padding", &[1, 0]),
            ],
            [3, 4, 3, 3],
            [18, 21],
        ),
        ("Conv", &[("kernel_shape", &[1, 1])], [4, 3, 1, 1], [9, 11]),
    ];
    for (op, attributes, weight, size) in cases {
        let mut window = node(op, &["x", "w"], "out");
        for (name, values) in attributes {
            ints(&mut window, name, values);
        }
        let dims = weight.map(|n| n as usize);
        let data = vec![0.0; dims.iter().product()];
        let tensors = vec![from_floats("w", &dims, &data)];
        let graph = shaped(vec![window], tensors, Some(&[1, 3, 9, 11]));
        let shapes = Shapes::infer(&graph, &[]).unwrap();
        assert_eq!(
            shapes.get("out"),
            Some(&[1, 4, size[0], size[1]][..]),
            "{op} {attributes:?}"
        );
    }
}

/// torch's `x.repeat(1, x.shape[1], 1)` in operator set 13.
#[test]
fn arguments_that_are_computed_from_shapes_are_evaluated() {
    let mut gather = node("Gather", &["shape", "one"], "points");
    int(&mut gather, "axis", 0);
    let mut join = node("Concat", &["u", "p", "u"], "repeats");
    int(&mut join, "axis", 0);
    let nodes = vec![
        node("Shape", &["x"], "shape"),
        gather,
        node("Unsqueeze", &["points", "zero"], "p"),
        join,
        node("Tile", &["x", "repeats"], "out"),
    ];
    let tensors = vec![
        from_integers("one", &[], &[1]),
        from_integers("zero", &[1], &[0]),
        from_integers("u", &[1], &[1]),
    ];
    let graph = shaped(nodes, tensors, Some(&[-1, 5, 3]));
    let shapes = Shapes::infer(&graph, &[("x", &[7, 5, 3])]).unwrap();
    assert_eq!(shapes.ints("repeats"), Some(&[1, 5, 1][..]));
    assert_eq!(shapes.get("out"), Some(&[7, 25, 3][..]));
    // With an open axis nothing is known, which is not an error.
    assert_eq!(Shapes::infer(&graph, &[]).unwrap().get("out"), None);
}

#[test]
fn reshape_keeps_and_infers_lengths() {
    for (to, expected) in [
        (vec![0, -1], Some(vec![2, 12])),
        (vec![-1], Some(vec![24])),
        (vec![4, 3, 2], Some(vec![4, 3, 2])),
        (vec![5, -1], None),
        (vec![-1, -1], None),
        (vec![0, 0, 0, 0], None),
    ] {
        let tensors = vec![from_integers("to", &[to.len()], &to)];
        let graph = shaped(
            vec![node("Reshape", &["x", "to"], "out")],
            tensors,
            Some(&[2, 3, 4]),
        );
        match (Shapes::infer(&graph, &[]), expected) {
            (Ok(shapes), Some(dims)) => assert_eq!(shapes.get("out"), Some(&dims[..])),
            (Err(error), None) => assert!(error.to_string().contains("cannot reshape")),
            (found, expected) => panic!("{to:?}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn contradictions_name_the_node() {
    let mut same = node("Conv", &["x", "w"], "out");
    same.attribute.push(AttributeProto {
        name: Some("auto_pad".to_owned()),
        s: Some("SAME_UPPER".into()),
        ..Default::default()
    });
    ints(&mut same, "pads", &[1, 1, 1, 1]);
    let weight = || vec![from_floats("w", &[1, 3, 3, 3], &[0.0; 27])];
    for (node, x, needle) in [
        (same, [1, 3, 9, 9], "both auto_pad SAME_UPPER and pads"),
        (
            node("Conv", &["x", "w"], "out"),
            [1, 4, 9, 9],
            "its input has 4 channels",
        ),
        (
            node("Conv", &["x", "w"], "out"),
            [1, 3, 2, 9],
            "window of 3 rows or columns is larger",
        ),
    ] {
        let graph = shaped(vec![node], weight(), Some(&x));
        let message = Shapes::infer(&graph, &[]).unwrap_err().to_string();
        assert!(message.contains(needle), "{message}");
        assert!(
            message.starts_with("net.onnx: node \"Conv.out\" (Conv): "),
            "{message}"
        );
    }
}
