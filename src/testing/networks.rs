//! Networks of realistic size, and their plans.
//!
//! `demo` is the shipped model. `autoware-base` has the size deployed by Autoware (the `Arch` of that name in
//! `engines/demo/network.py`) with random weights, which take the same time and memory as trained ones.
#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::folder::Folder;
use crate::build::onnx::Graph;
use crate::build::onnx::proto::{GraphProto, NodeProto};
use crate::build::onnx::tensor::from_floats;
use crate::build::quantize::{self, Placement};
use crate::build::{compile, deconv};
use crate::cpu::pool::Pool;
use crate::engine::cpu::{CpuEngine, Options};
use crate::error::Result;
use crate::map::MapView;
use crate::model::{Model, Pfn};
use crate::plan::{self, Contents, Manifest, Target};

use super::Random;
use super::nets::{int, ints, model, node, value};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/demo");

/// A network and its model description.
pub struct Network {
    /// `demo` or `autoware-base`.
    pub name: &'static str,
    /// The model description.
    pub model: Model,
    /// The PFN's weights.
    pub pfn: Pfn,
    model_text: String,
    /// Backbone, neck and heads in float, BN folded.
    pub graph: Graph,
}

impl Network {
    /// Reads the shipped model.
    pub fn demo() -> Result<Self> {
        let folder = Folder::read(Path::new(DEMO))?;
        Ok(Self {
            name: "demo",
            model: folder.model,
            pfn: folder.pfe.pfn,
            model_text: folder.model_text,
            graph: folder.rpn.graph,
        })
    }

    /// The demo model on the other grid; both use the demo's PFN because they have 32 BEV channels. `heatmap_bias` is added to
    /// the heatmap: with 0, random weights let as many cells pass as not, where a trained network's are nearly all far below
    /// the threshold.
    ///
    /// # Panics
    /// Panics if the demo's description lacks a line that this edits.
    pub fn autoware_base(heatmap_bias: f32) -> Result<Self> {
        let demo = Self::demo()?;
        let mut model_text = demo.model_text;
        for (from, to) in [
            (
                "[-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]",
                "[-76.8, -76.8, -3.0, 76.8, 76.8, 5.0]",
            ),
            ("[0.4, 0.4, 8.0]", "[0.32, 0.32, 8.0]"),
            ("[256, 256]", "[480, 480]"),
            ("max_points_per_pillar = 20", "max_points_per_pillar = 32"),
            ("max_pillars = 20000", "max_pillars = 40000"),
            ("downsample = 2", "downsample = 1"),
        ] {
            assert!(
                model_text.contains(from),
                "the demo's description does not contain `{from}`"
            );
            model_text = model_text.replace(from, to);
        }
        let model = Model::parse(&model_text, Path::new("autoware-base.toml"))?;
        let graph = autoware_base(&model, heatmap_bias)?;
        Ok(Self {
            name: "autoware-base",
            model,
            pfn: demo.pfn,
            model_text,
            graph,
        })
    }

    /// The network with quantised activations and weights in every layer, and deconvolutions as 1×1
    /// convolutions. The ranges are the largest absolute values on `input` (NCHW).
    pub fn quantized(&self, input: &[f32]) -> Result<Graph> {
        let mut graph = self.graph.clone();
        deconv::rewrite(&mut graph)?;
        quantized(&graph, input)
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> Result<u64> {
        let program = compile::cpu(&self.graph)?.program;
        Ok(program.layers().iter().map(|layer| layer.macs).sum())
    }

    /// Compiles a form of the network, float or quantised, into a plan.
    pub fn write_plan(&self, graph: &Graph, path: &Path) -> Result<()> {
        let payload = compile::cpu(graph)?;
        let program = serde_json::to_vec(&payload.program).expect("programs are serialisable");
        let manifest = Manifest {
            producer: "bench".into(),
            target: Target {
                engine: "cpu".into(),
                ..Target::default()
            },
            ..Manifest::default()
        };
        let contents = Contents {
            manifest,
            model_text: &self.model_text,
            pfn: &self.pfn,
            engine: vec![("program", &program), ("weights", &payload.weights)],
        };
        Ok(plan::write(path, contents)?)
    }
}

/// Quantises activations and weights in every layer of a graph. The ranges are the largest absolute values on
/// `input` (NCHW).
pub fn quantized(graph: &Graph, input: &[f32]) -> Result<Graph> {
    let payload = compile::cpu(graph)?;
    let (pool, weights) = (Arc::new(Pool::new(0)), Arc::new(payload.weights));
    let mut engine = CpuEngine::new(payload.program, weights, pool, &Options::default())?;
    let mut view = engine.input_mut();
    let (height, width) = (view.layout.height, view.layout.width);
    for (i, value) in input.iter().enumerate() {
        view.set(i / (height * width), i / width % height, i % width, *value);
    }
    let mut amax = BTreeMap::new();
    engine.run_with(&mut |name, view| {
        amax.insert(name.to_owned(), largest(view));
    })?;
    Ok(quantize::insert_qdq(graph, &amax, &Placement::default())?.graph)
}

/// The largest absolute value of a map.
fn largest(view: MapView<'_>) -> f32 {
    let layout = view.layout;
    let mut largest = 0.0f32;
    for y in 0..layout.height {
        for x in 0..layout.width {
            for c in 0..layout.channels {
                largest = largest.max(view.data[layout.index(c, y, x)].abs());
            }
        }
    }
    largest
}

/// Nodes and weights of a network under construction.
struct Builder {
    graph: GraphProto,
    random: Random,
    /// Added to the biases.
    shift: f32,
}

impl Builder {
    /// Adds a node named after its output, and returns that name.
    fn add(&mut self, mut node: NodeProto) -> String {
        let name = node.output[0].clone();
        node.name = Some(name.clone());
        self.graph.node.push(node);
        name
    }

    /// Adds a convolution with padding `kernel / 2`, or a transposed one with kernel equal to stride. The scale of the
    /// weights preserves the variance through a Relu.
    fn conv(
        &mut self,
        op: &str,
        name: &str,
        x: &str,
        sizes: [usize; 2],
        k: usize,
        s: usize,
    ) -> String {
        let [channels, out] = sizes;
        let dims = match op {
            "Conv" => [out, channels, k, k],
            _ => [channels, out, k, k],
        };
        let taps = if op == "Conv" { k * k } else { 1 };
        let scale = (6.0 / (channels * taps) as f32).sqrt();
        let count = dims.iter().product();
        let weight: Vec<f32> = (0..count).map(|_| scale * self.random.signed()).collect();
        let bias: Vec<f32> = (0..out)
            .map(|_| 0.1 * self.random.signed() + self.shift)
            .collect();
        let [w, b] = ["weight", "bias"].map(|end| format!("{name}.{end}"));
        self.graph.initializer.push(from_floats(&w, &dims, &weight));
        self.graph.initializer.push(from_floats(&b, &[out], &bias));
        let mut conv = node(op, &[x, &w, &b], &[name]);
        let pad = if op == "Conv" { k as i64 / 2 } else { 0 };
        conv.attribute = vec![
            ints("kernel_shape", &[k as i64; 2]),
            ints("strides", &[s as i64; 2]),
            ints("pads", &[pad; 4]),
        ];
        self.add(conv)
    }

    fn conv_relu(
        &mut self,
        op: &str,
        name: &str,
        x: &str,
        sizes: [usize; 2],
        k: usize,
        s: usize,
    ) -> String {
        let y = self.conv(op, name, x, sizes, k, s);
        self.add(node("Relu", &[&y], &[&format!("{name}.relu")]))
    }
}

/// Backbone, neck and heads for a model whose head is as large as its grid.
fn autoware_base(description: &Model, heatmap_bias: f32) -> Result<Graph> {
    const NECK: usize = 128;
    const HEAD: usize = 64;
    let grid = &description.grid;
    let size = [1, description.bev_channels(), grid.ny, grid.nx].map(|n| n as i64);
    let mut net = Builder {
        graph: GraphProto {
            name: Some("autoware-base".into()),
            input: vec![value("spatial_features", &size)],
            ..GraphProto::default()
        },
        random: Random(1),
        shift: 0.0,
    };
    let (mut x, mut channels) = ("spatial_features".to_owned(), description.bev_channels());
    let mut ups = Vec::new();
    // Channels, further convolutions, stride, stride of the neck's branch.
    for (block, (out, layers, stride, up)) in [(64, 3, 1, 1), (128, 5, 2, 2), (256, 5, 2, 4)]
        .into_iter()
        .enumerate()
    {
        for layer in 0..=layers {
            let name = format!("pts_backbone.blocks.{block}.{layer}");
            let stride = if layer == 0 { stride } else { 1 };
            x = net.conv_relu("Conv", &name, &x, [channels, out], 3, stride);
            channels = out;
        }
        let name = format!("pts_neck.deblocks.{block}");
        ups.push(net.conv_relu("ConvTranspose", &name, &x, [out, NECK], up, up));
    }
    let ups: Vec<&str> = ups.iter().map(String::as_str).collect();
    let mut concat = node("Concat", &ups, &["pts_neck"]);
    concat.attribute.push(int("axis", 1));
    let x = net.add(concat);
    let x = net.conv_relu(
        "Conv",
        "pts_bbox_head.shared_conv",
        &x,
        [3 * NECK, HEAD],
        3,
        1,
    );
    let task = &description.head.tasks[0];
    let outputs = task.outputs.each_ref().zip(description.head_channels(task));
    for (name, out) in outputs.into_array() {
        let y = net.conv_relu("Conv", &format!("{name}.0"), &x, [HEAD, HEAD], 3, 1);
        net.shift = if *name == task.outputs.heatmap {
            heatmap_bias
        } else {
            0.0
        };
        net.conv("Conv", name, &y, [HEAD, out], 3, 1);
        net.shift = 0.0;
        let size = [1, out, grid.ny, grid.nx].map(|n| n as i64);
        net.graph.output.push(value(name, &size));
    }
    Ok(Graph::new(
        &PathBuf::from("autoware-base.onnx"),
        model(net.graph),
    )?)
}
