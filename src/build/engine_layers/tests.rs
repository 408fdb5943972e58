//! The layer table from both of its sources, for a network of two quantised convolutions, a float convolution and a
//! residual.

use std::path::Path;

use crate::build::engine_layers::{EngineLayer, LayerTable, LayerTensor, Outcome, inspector, log};
use crate::build::onnx::Graph;
use crate::build::onnx::proto::{GraphProto, NodeProto};
use crate::build::onnx::tensor::{from_codes, from_floats};
use crate::engine::tensorrt::{Family, Version};

use crate::testing::nets::{model, node, value};

const TENSORRT: Version = Version {
    family: Family::TensorRt,
    major: 10,
    minor: 3,
    patch: 0,
};
const RTX: Version = Version {
    family: Family::TensorRtRtx,
    major: 1,
    minor: 7,
    patch: 1,
};

/// x ─ Q ─ DQ ─ a ─ Relu ─ Q ─ DQ ─┬─ b ─ Add ─ c ─ out, where only the weights of c are codes.
///                                 └───────┘
fn network() -> Graph {
    let named = |mut node: NodeProto, name: &str| {
        node.name = Some(name.to_owned());
        node
    };
    let pair = |from: &str, to: &str| {
        let q = named(
            node("QuantizeLinear", &[from, "s", "z"], &[&format!("{from}_q")]),
            "",
        );
        let dq = node("DequantizeLinear", &[&format!("{from}_q"), "s", "z"], &[to]);
        [q, named(dq, &format!("{to}_DequantizeLinear"))]
    };
    let conv = |name: &str, from: &str, to: &str| {
        let weight = node("DequantizeLinear", &["w", "s", "z"], &[&format!("{to}_w")]);
        let conv = node("Conv", &[from, &format!("{to}_w")], &[to]);
        [
            named(weight, &format!("{to}_w_DequantizeLinear")),
            named(conv, name),
        ]
    };
    let mut nodes = Vec::new();
    nodes.extend(pair("x", "x_dq"));
    nodes.extend(conv("/a/Conv", "x_dq", "a"));
    nodes.push(named(node("Relu", &["a"], &["r"]), "/a/Relu"));
    nodes.extend(pair("r", "r_dq"));
    nodes.extend(conv("", "r_dq", "b"));
    nodes.push(named(node("Add", &["b", "r_dq"], &["sum"]), "/b/Add"));
    nodes.extend(conv("/c/Conv", "sum", "out"));
    let graph = GraphProto {
        node: nodes,
        initializer: vec![
            from_codes("w", &[1, 1, 1, 1], &[3]),
            from_codes("z", &[], &[0]),
            from_floats("s", &[], &[0.1]),
        ],
        input: vec![value("x", &[1, 1, 4, 4])],
        output: vec![value("out", &[1, 1, 4, 4])],
        ..Default::default()
    };
    Graph::new(Path::new("net.onnx"), model(graph)).unwrap()
}

fn tensor(name: &str, element: &str, format: &str) -> LayerTensor {
    LayerTensor {
        name: name.into(),
        dims: vec![1, 1, 4, 4],
        element: element.into(),
        format: format.into(),
    }
}

/// The inspector's output in the forms of TensorRT 8.6 to 10: one sentence for both type and layout, and raw record
/// separators between nodes.
fn inspector_json(first_conv: &str) -> String {
    format!(
        "{{\"Layers\": [{{
  \"Name\": \"Reformatting CopyNode for Input Tensor 0 to x_q\",
  \"LayerType\": \"Reformat\",
  \"Inputs\": [{{\"Name\": \"x\", \"Location\": \"Device\", \"Dimensions\": [1,1,4,4],
    \"Format/Datatype\": \"Row major linear FP16 format\"}}],
  \"Outputs\": [{{\"Name\": \"x_q\", \"Location\": \"Device\", \"Dimensions\": [1,1,4,4],
    \"Format/Datatype\": \"Four wide channel vectorized row major Int8 format\"}}],
  \"ParameterType\": \"Reformat\", \"TacticValue\": \"0x0\", \"StreamId\": 0, \"Metadata\": \"\"
}},{{
  \"Name\": \"w + /a/Conv + /a/Relu\",
  \"LayerType\": \"CaskConvolution\",
  \"Inputs\": [{{\"Name\": \"x_q\", \"Dimensions\": [1,1,4,4],
    \"Format/Datatype\": \"{first_conv}\"}}],
  \"Outputs\": [{{\"Name\": \"r_q\", \"Dimensions\": [1,1,4,4],
    \"Format/Datatype\": \"Thirty-two wide channel vectorized row major Int8 format\"}}],
  \"ParameterType\": \"Convolution\", \"Kernel\": [1,1], \"Weights\": {{\"Type\": \"Int8\", \"Count\": 1}},
  \"HasBias\": 0, \"TacticName\": \"some_i8816gemm\", \"TacticValue\": \"0x1\",
  \"Metadata\": \"[ONNX Layer: a_w_DequantizeLinear]\u{1e}[ONNX Layer: /a/Conv]\u{1e}[ONNX Layer: /a/Relu]\"
}},{{
  \"Name\": \"w_1 + node_of_b + /b/Add\",
  \"LayerType\": \"CaskConvolution\",
  \"Inputs\": [{{\"Name\": \"r_q\", \"Dimensions\": [1,1,4,4], \"Format/Datatype\": \"Int8\"}}],
  \"Outputs\": [{{\"Name\": \"sum\", \"Dimensions\": [1,1,4,4],
    \"Format/Datatype\": \"Channel major FP16 format where channel % 8 == 0\"}}]
}},{{
  \"Name\": \"/c/Conv\",
  \"LayerType\": \"gemm\",
  \"Inputs\": [{{\"Name\": \"sum\", \"Dimensions\": [1,1,4,4], \"Datatype\": \"Half\",
    \"Format\": \"(NHWC) Channel major format\"}}],
  \"Outputs\": [{{\"Name\": \"out\", \"Dimensions\": [1,1,4,4], \"Datatype\": \"Half\",
    \"Format\": \"(Linear) Row major linear format\"}}]
}}],
\"Bindings\": [\"x\",\"out\"]
}}"
    )
}

const INT8: &str = "Four wide channel vectorized row major Int8 format";

/// The same engine in a builder's log, with the lines around it.
const LOG: &str = "\
Engine Layer Information:
Layers:
Name: __myl_MulRounCast_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,1,4,4], \
Strides: [16,16,4,1], StrideOrder: [3,2,1,0], Datatype: Half, Format: (Linear) Row major linear format }], \
Constants: [ { Name: s, Dimensions: [1], Datatype: Half, Format: (Linear) Row major linear format }], \
Outputs: [ { Name: x_q, Dimensions: [1,1,4,4], Datatype: Int8, Format: (NHWC) Channel major format }], \
TacticName: __myl_MulRounCast_0x1, StreamId: 0, Metadata: [ONNX Layer: node_of_x_q]
Name: /a/Conv_myl0_1, LayerType: correlation, Inputs: [ { Name: x_q, Dimensions: [1,1,4,4], \
Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [1,1,1,1], \
Datatype: Int8, Format: (NHWC) Channel major format }], Outputs: [ { Name: a, Dimensions: [1,1,4,4], \
Datatype: Float, Format: (NHWC) Channel major format }], TacticName: STUB, StreamId: 0, \
Metadata: [ONNX Layer: /a/Conv][ONNX Layer: x_dq_DequantizeLinear]
Name: __mye1_myl0_2, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
EventId: 2, Metadata: 
Name: __myl_Relu_myl0_3, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [1,1,4,4], Datatype: Float, \
Format: (NHWC) Channel major format }], Constants: [], Outputs: [ { Name: r_q, Dimensions: [1,1,4,4], \
Datatype: Int8, Format: (NHWC) Channel major format }], TacticName: k, StreamId: 0, \
Metadata: [ONNX Layer: /a/Relu][ONNX Layer: /a/Conv]
Name: node_of_b_myl0_4, LayerType: correlation, Inputs: [ { Name: r_h, Dimensions: [1,1,4,4], \
Datatype: Half, Format: (NHWC) Channel major format }, { Name: r_f, Dimensions: [1,1,4,4], \
Datatype: Float, Format: (NHWC) Channel major format }], Constants: [], Outputs: [ { Name: b, \
Dimensions: [1,1,4,4], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: STUB, \
StreamId: 0, Metadata: [ONNX Layer: node_of_b]

I/O Tensors:
 Name: x, IOMode: Input, DataType: Half, Dimensions: [1,1,4,4], Location: Device, ProfileInfo: [ { \
MinShape: [1,1,4,4], OptShape: [1,1,4,4], MaxShape: [1,1,4,4], Format: Row major linear FP16 format (kLINEAR) }]
 Name: out, IOMode: Output, DataType: Float, Dimensions: [1,1,4,4], Location: Device, ProfileInfo: [ { \
Format: Row major linear FP32 format (kLINEAR) }]

Engine Metadata:
 Multi-Device: Disabled
";

fn outcomes(table: &LayerTable) -> Vec<(&str, &str, String)> {
    let row = |l: &'_ crate::build::engine_layers::QuantizedLayer| l.outcome.to_string();
    let all = table.quantized.iter();
    all.map(|l| (l.node.as_str(), l.operator.as_str(), row(l)))
        .collect()
}

#[test]
fn the_inspectors_layers_are_read() {
    let layers = inspector::read(&inspector_json(INT8)).unwrap();
    assert_eq!(layers.len(), 4);
    assert_eq!(
        layers[1],
        EngineLayer {
            name: "w + /a/Conv + /a/Relu".into(),
            kind: "CaskConvolution".into(),
            inputs: vec![tensor("x_q", "int8", INT8)],
            outputs: vec![tensor(
                "r_q",
                "int8",
                "Thirty-two wide channel vectorized row major Int8 format"
            )],
            tactic: "some_i8816gemm".into(),
            nodes: ["a_w_DequantizeLinear", "/a/Conv", "/a/Relu"]
                .map(String::from)
                .into(),
        }
    );
    let channel_major = "Channel major FP16 format where channel % 8 == 0";
    assert_eq!(layers[2].outputs, [tensor("sum", "fp16", channel_major)]);
    assert_eq!(
        layers[3].inputs,
        [tensor("sum", "fp16", "(NHWC) Channel major format")]
    );
    assert!(inspector::read("{\"Layers\": 3}").is_err());
}

#[test]
fn the_inspectors_table_shows_the_outcome_of_quantised_layers() {
    let table = LayerTable::new(inspector::read(&inspector_json(INT8)).unwrap(), &network());
    // The third layer names its nodes in its own name.
    assert_eq!(
        outcomes(&table),
        [
            ("/a/Conv", "Conv", "int8".into()),
            ("node_of_b", "Conv", "int8".into()),
            ("/b/Add", "Add", "int8".into()),
        ]
    );
    let counts = table.counts;
    assert_eq!((counts.engine, counts.int8, counts.reformats), (4, 2, 1));
    assert_eq!((counts.quantized, counts.fallbacks), (3, 0));
    assert!(table.warnings(TENSORRT).is_empty());

    let half = inspector_json("Row major linear FP16 format");
    let table = LayerTable::new(inspector::read(&half).unwrap(), &network());
    assert_eq!(table.quantized[0].outcome, Outcome::Fallback("fp16".into()));
    assert_eq!((table.counts.int8, table.counts.fallbacks), (1, 1));
    let warnings = table.warnings(TENSORRT);
    let expected = "node \"/a/Conv\" (Conv) is quantised, but the engine reads fp16 there";
    assert_eq!(warnings, [expected]);
}

#[test]
fn an_engine_that_lists_only_names_becomes_a_table_of_names() {
    let json = r#"{"Layers": ["Reformatting CopyNode for Input Tensor 0 to /a/Conv"
,"/a/Conv + /a/Relu"], "Bindings": []}"#;
    let table = LayerTable::new(inspector::read(json).unwrap(), &network());
    assert_eq!((table.counts.engine, table.counts.reformats), (2, 1));
    assert_eq!(table.quantized[0].outcome, Outcome::Fallback(String::new()));
    assert_eq!(table.quantized[1].outcome, Outcome::Unlisted);
    let warnings = table.warnings(TENSORRT);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].ends_with("reads unknown type there"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("\"node_of_b\" (Conv)"), "{warnings:?}");
    assert!(
        warnings[1].ends_with("no layer of the engine names it"),
        "{warnings:?}"
    );
}

#[test]
fn the_logs_layers_are_read() {
    let layers = log::layers(LOG);
    assert_eq!(layers.len(), 5);
    let nhwc = "(NHWC) Channel major format";
    assert_eq!(
        layers[1],
        EngineLayer {
            name: "/a/Conv_myl0_1".into(),
            kind: "correlation".into(),
            inputs: vec![tensor("x_q", "int8", nhwc)],
            outputs: vec![tensor("a", "fp32", nhwc)],
            tactic: "STUB".into(),
            nodes: ["/a/Conv", "x_dq_DequantizeLinear"]
                .map(String::from)
                .into(),
        }
    );
    assert_eq!(
        layers[4].inputs,
        [tensor("r_h", "fp16", nhwc), tensor("r_f", "fp32", nhwc)]
    );
    assert!(layers[2].inputs.is_empty() && layers[2].nodes.is_empty());
    // Truncated anywhere, the log yields at worst incomplete layers.
    for end in 0..LOG.len() {
        let _ = (log::layers(&LOG[..end]), log::io_tensors(&LOG[..end]));
    }
}

#[test]
fn the_logs_table_shows_the_outcome_of_quantised_layers() {
    let table = LayerTable::new(log::layers(LOG), &network());
    assert_eq!(
        outcomes(&table),
        [
            // A layer that reads floats completes it.
            ("/a/Conv", "Conv", "int8".into()),
            ("node_of_b", "Conv", "fp16 and fp32".into()),
            ("/b/Add", "Add", "not listed".into()),
        ]
    );
    // One of five layers waits; another only quantises.
    let counts = table.counts;
    assert_eq!((counts.engine, counts.int8, counts.reformats), (4, 1, 1));
    assert_eq!((counts.quantized, counts.fallbacks), (3, 1));
    let warnings = table.warnings(TENSORRT);
    let expected =
        "node \"node_of_b\" (Conv) is quantised, but the engine reads fp16 and fp32 there";
    assert_eq!(warnings, [expected]);
    let warnings = table.warnings(RTX);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("TensorRT-RTX 1.7.1 emulates INT8"),
        "{warnings:?}"
    );
    let json = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<LayerTable>(&json).unwrap(), table);
}

#[test]
fn the_logs_inputs_and_outputs_are_read() {
    let found = log::io_tensors(LOG);
    assert_eq!(found.len(), 2);
    assert!(found[0].input && !found[1].input);
    let words = "Row major linear FP16 format (kLINEAR)";
    assert_eq!(found[0].tensor, tensor("x", "fp16", words));
    let words = "Row major linear FP32 format (kLINEAR)";
    assert_eq!(found[1].tensor, tensor("out", "fp32", words));
}
