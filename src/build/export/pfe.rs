//! Exports a PFN as the ONNX file that AWML's exporter would write, with BatchNormalization folded.
//!
//! ```text
//! input_features [num_voxels, points, columns]
//!   MatMul, Add, Relu                          rows of a layer
//!   ReduceMax over the points                  their max, which is the output of the last layer
//!   Tile to all points, Concat (rows, max)     the input of the next layer
//! pillar_features [num_voxels, 1, channels]
//! ```
//!
//! The file holds the exact bits of the PFN's values: `import::read_pfe` reads the same PFN back.

use std::path::Path;

use crate::build::Result;
use crate::build::onnx::proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use crate::build::onnx::tensor::{from_floats, from_integers};
use crate::build::onnx::{Graph, make};
use crate::model::{Pfn, PfnLayer};

/// AWML's names for the input and the output.
const INPUT: &str = "input_features";
const OUTPUT: &str = "pillar_features";
/// AWML's name for the open axis of pillars.
const PILLARS: &str = "num_voxels";
/// Versions in AWML's files: the operator set and the file format.
const OPSET: i64 = 17;
const IR: i64 = 8;

/// The graph of a PFN for pillars of `points` points. `path` is only for error messages.
///
/// # Errors
/// [`crate::build::BuildError::Graph`] if the PFN has no layers.
pub fn pfe(pfn: &Pfn, points: usize, path: &Path) -> Result<Graph> {
    let mut nodes = Vec::new();
    let mut tensors = vec![from_integers("repeats", &[3], &[1, points as i64, 1])];
    let mut x = INPUT.to_owned();
    for (i, layer) in pfn.layers.iter().enumerate() {
        let rows = linear(layer, i, &x, &mut nodes, &mut tensors);
        let last = i + 1 == pfn.layers.len();
        let max = if last {
            OUTPUT.to_owned()
        } else {
            format!("pfn_layers.{i}.max")
        };
        let mut pool = make::node(
            "ReduceMax",
            &format!("/pfn_layers.{i}/ReduceMax"),
            &[&rows],
            &max,
        );
        pool.attribute = vec![make::ints("axes", &[1]), make::int("keepdims", 1)];
        nodes.push(pool);
        if !last {
            let tiled = format!("pfn_layers.{i}.tiled");
            let name = format!("/pfn_layers.{i}/Tile");
            nodes.push(make::node("Tile", &name, &[&max, "repeats"], &tiled));
            x = format!("pfn_layers.{i}.concat");
            let name = format!("/pfn_layers.{i}/Concat");
            let mut concat = make::node("Concat", &name, &[&rows, &tiled], &x);
            concat.attribute = vec![make::int("axis", 2)];
            nodes.push(concat);
        }
    }
    if pfn.layers.len() == 1 {
        tensors.retain(|t| t.name() != "repeats");
    }
    let columns = pfn.layers.first().map_or(0, |l| l.in_features);
    let channels = pfn.layers.last().map_or(0, |l| l.out_features);
    let model = ModelProto {
        ir_version: Some(IR),
        producer_name: Some("centerpoint".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        graph: Some(GraphProto {
            name: Some("pts_voxel_encoder".into()),
            node: nodes,
            initializer: tensors,
            input: vec![value(INPUT, points, columns)],
            output: vec![value(OUTPUT, 1, channels)],
            ..Default::default()
        }),
        ..Default::default()
    };
    Graph::new(path, model)
}

/// Adds the nodes of layer `i` up to its Relu and returns the name of its rows.
fn linear(
    layer: &PfnLayer,
    i: usize,
    x: &str,
    nodes: &mut Vec<NodeProto>,
    tensors: &mut Vec<TensorProto>,
) -> String {
    let (inputs, outputs) = (layer.in_features, layer.out_features);
    // MatMul expects a row for each input.
    let at = |k: usize| layer.weight.get(k % outputs * inputs + k / outputs);
    let weight: Vec<f32> = (0..inputs * outputs).filter_map(at).copied().collect();
    let [weights, bias, product, sum, rows] =
        ["weight", "bias", "product", "sum", "rows"].map(|part| format!("pfn_layers.{i}.{part}"));
    tensors.push(from_floats(&weights, &[inputs, outputs], &weight));
    tensors.push(from_floats(&bias, &[outputs], &layer.bias));
    for (op, from, to) in [
        ("MatMul", vec![x, &weights], &product),
        ("Add", vec![&product, &bias], &sum),
        ("Relu", vec![&sum], &rows),
    ] {
        nodes.push(make::node(op, &format!("/pfn_layers.{i}/{op}"), &from, to));
    }
    rows
}

/// A FLOAT value of shape `[num_voxels, rows, columns]`.
fn value(name: &str, rows: usize, columns: usize) -> ValueInfoProto {
    let open = DimensionProto {
        dim_param: Some(PILLARS.into()),
        ..Default::default()
    };
    let dims = vec![open, make::axis(rows), make::axis(columns)];
    make::value(name, Some(dims))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::import::read_pfe;

    /// A PFN whose layers have these numbers of outputs, with values that rounding would change.
    fn pfn(columns: usize, outputs: &[usize]) -> Pfn {
        let mut in_features = columns;
        let mut layers = Vec::new();
        for &out_features in outputs {
            let number = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 7.0;
            layers.push(PfnLayer {
                in_features,
                out_features,
                weight: (0..in_features * out_features).map(number).collect(),
                bias: (0..out_features).map(|i| number(i + 5)).collect(),
            });
            in_features = 2 * out_features;
        }
        Pfn { layers }
    }

    #[test]
    fn the_same_pfn_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pts_voxel_encoder.onnx");
        for (columns, outputs, points) in [
            (9, &[32][..], 20),
            (11, &[16, 32], 32),
            (5, &[4, 6, 8], 7),
            (11, &[16, 32], 1),
        ] {
            let mut pfn = pfn(columns, outputs);
            pfn.layers[0].bias[0] = -0.0;
            pfn.layers[0].weight[1] = 1e-42;
            pfe(&pfn, points, &path).unwrap().write(&path).unwrap();
            let found = read_pfe(&path).unwrap();
            assert_eq!((found.max_pillars, found.max_points), (None, Some(points)));
            let bits = |pfn: &Pfn| -> Vec<u32> {
                let layers = pfn.layers.iter();
                let values = layers.flat_map(|l| l.weight.iter().chain(&l.bias));
                values.map(|v| v.to_bits()).collect()
            };
            assert_eq!(found.pfn, pfn);
            assert_eq!(bits(&found.pfn), bits(&pfn));
        }
    }

    #[test]
    fn a_pfn_without_layers_is_rejected() {
        let error = pfe(&Pfn { layers: vec![] }, 4, Path::new("p.onnx")).unwrap_err();
        assert!(error.to_string().contains("p.onnx"), "{error}");
    }
}
