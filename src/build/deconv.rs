//! Deconvolutions with kernel = stride as 1×1 convolutions, exactly.
//!
//! Where a ConvTranspose's kernel equals its stride and nothing is cut, each output pixel has one tap:
//!
//! ```text
//! ConvTranspose W[ci, co, a, b]   =   Conv 1×1 with row (co·s + a)·s + b  ─ DepthToSpace (CRD)
//! ```
//!
//! with the bias of `co` repeated s² times; s = 1 needs no DepthToSpace. The products are the same, so
//! the result is. A convolution quantises per output channel in every engine, which transposed ones do
//! not. A Relu behind it moves in front of the DepthToSpace (which only moves values), so that engines
//! that fuse Conv and Relu still find them together. Names of node, weight and bias stay.

use std::collections::{HashMap, HashSet};

use super::Result;
use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::tensor::{self, Tensor, element};
use super::onnx::{Graph, Node, Window, make, opset};

/// Where the convolution comes from, in its `doc_string`: options that speak of deconvolutions must
/// still find it.
const ORIGIN: &str = "ConvTranspose with kernel = stride";
/// Most nodes that may share one weight: each gets its own.
const MAX_SHARED: usize = 3;

/// Whether `node` is a deconvolution, in either form.
pub fn is_deconvolution(node: Node<'_>) -> bool {
    node.op() == "ConvTranspose" || node.proto.doc_string.as_deref() == Some(ORIGIN)
}

/// Rewrites every ConvTranspose that has an exact equal, and gives those nodes as text. The others
/// stay: kernel and stride differ, not square, pads, or a weight that is no FLOAT constant.
///
/// # Errors
/// [`BuildError`](super::BuildError) for malformed nodes and tensors.
pub fn rewrite(graph: &mut Graph) -> Result<Vec<String>> {
    let mut plan = Plan::default();
    let mut rewritten = Vec::new();
    for node in graph.nodes() {
        let Some(deconv) = Deconv::of(graph, node)? else {
            continue;
        };
        rewritten.push(node.describe());
        plan.add(graph, &deconv)?;
    }
    // The mode CRD is there from operator set 11 on.
    if plan.shuffles && opset::raise(graph, 11).is_err() {
        return Ok(Vec::new());
    }
    plan.apply(graph)?;
    Ok(rewritten)
}

/// A ConvTranspose that can be rewritten.
struct Deconv<'a> {
    node: Node<'a>,
    /// s, the kernel's and the stride's rows and columns.
    block: usize,
    groups: usize,
    weight: Tensor<f32>,
    bias: Option<Vec<f32>>,
}

impl<'a> Deconv<'a> {
    fn of(graph: &Graph, node: Node<'a>) -> Result<Option<Self>> {
        if node.op() != "ConvTranspose" {
            return Ok(None);
        }
        let weight_name = node.need_input(1)?;
        let Some(proto) = graph.constant(weight_name)? else {
            return Ok(None);
        };
        let &[inputs, outputs, rows, columns] = &proto.dims[..] else {
            return Ok(None);
        };
        let plain = proto.data_type() == element::FLOAT
            && graph.uses(weight_name) <= MAX_SHARED
            && [inputs, outputs, rows, columns].iter().all(|&n| n > 0);
        let (Ok(block), true) = (usize::try_from(rows), plain && rows == columns) else {
            return Ok(None);
        };
        // Without SAME padding the size of the map does not matter.
        let window = Window::new(node, [1, 1], Some([block; 2]))?;
        let exact = window.stride == [block; 2]
            && window.pad == [0; 4]
            && window.output_padding == [0; 2]
            && (window.dilation == [1; 2] || block == 1);
        let weight = tensor::floats(graph.path(), &proto)?;
        let channels = weight.dims.get(1).map(|n| n.saturating_mul(window.groups));
        let whole_groups = weight.dims.first().is_some_and(|n| n % window.groups == 0);
        if !exact || !whole_groups {
            return Ok(None);
        }
        let bias = match node.input(2) {
            None => None,
            Some(name) => match graph.floats(name)? {
                Some(bias) if Some(bias.data.len()) == channels => Some(bias.data),
                _ => return Ok(None),
            },
        };
        Ok(Some(Self {
            node,
            block,
            groups: window.groups,
            weight,
            bias,
        }))
    }

    /// The convolution's weight, `[O·s², I / groups, 1, 1]`.
    fn conv_weight(&self) -> Tensor<f32> {
        let (inputs, outputs) = (self.weight.dims[0] / self.groups, self.weight.dims[1]);
        let area = self.block * self.block;
        let mut data = Vec::with_capacity(self.weight.data.len());
        for group in 0..self.groups {
            for row in 0..outputs * area {
                let (output, tap) = (row / area, row % area);
                let from = |i: usize| ((group * inputs + i) * outputs + output) * area + tap;
                data.extend((0..inputs).map(|i| self.weight.data[from(i)]));
            }
        }
        Tensor {
            dims: vec![self.groups * outputs * area, inputs, 1, 1],
            data,
        }
    }

    /// The convolution's bias.
    fn conv_bias(&self) -> Option<Vec<f32>> {
        let area = self.block * self.block;
        let repeat = |&b| std::iter::repeat_n(b, area);
        Some(self.bias.as_ref()?.iter().flat_map(repeat).collect())
    }
}

/// The changes of [`rewrite`].
#[derive(Default)]
struct Plan {
    /// Nodes by their output, and what takes their place.
    replaced: HashMap<String, Vec<NodeProto>>,
    /// New or changed initializers, in order.
    tensors: Vec<TensorProto>,
    /// Values that are gone.
    gone: HashSet<String>,
    /// Whether there is a DepthToSpace.
    shuffles: bool,
}

impl Plan {
    fn add(&mut self, graph: &Graph, deconv: &Deconv<'_>) -> Result<()> {
        let node = deconv.node;
        let output = node.need_output()?;
        let weight = deconv.conv_weight();
        let mut conv = node.proto.clone();
        conv.op_type = Some("Conv".to_owned());
        conv.doc_string = Some(ORIGIN.to_owned());
        conv.attribute = vec![
            make::ints("dilations", &[1, 1]),
            make::int("group", deconv.groups as i64),
            make::ints("kernel_shape", &[1, 1]),
            make::ints("pads", &[0; 4]),
            make::ints("strides", &[1, 1]),
        ];
        conv.input.truncate(1);
        conv.input.push(self.constant(graph, node, 1, &weight)?);
        if let Some(data) = deconv.conv_bias() {
            let dims = vec![data.len()];
            let bias = Tensor { dims, data };
            conv.input.push(self.constant(graph, node, 2, &bias)?);
        }
        if deconv.block == 1 {
            self.replaced.insert(output.to_owned(), vec![conv]);
            return Ok(());
        }

        self.shuffles = true;
        let blocks = graph.fresh_name(&format!("{output}.blocks"));
        conv.output = vec![blocks.clone()];
        let shuffle = |from: &str, to: &str| {
            let name = format!("{}.DepthToSpace", node.proto.name());
            let mut node = make::node("DepthToSpace", &name, &[from], to);
            node.attribute = vec![
                make::int("blocksize", deconv.block as i64),
                make::string("mode", "CRD"),
            ];
            node
        };
        match sole_relu(graph, output) {
            Some(relu) => {
                let rectified = relu.need_output()?;
                let relu_blocks = graph.fresh_name(&format!("{rectified}.blocks"));
                let mut moved = relu.proto.clone();
                moved.input = vec![blocks];
                moved.output = vec![relu_blocks.clone()];
                let last = shuffle(&relu_blocks, rectified);
                self.replaced.insert(output.to_owned(), vec![conv]);
                self.replaced
                    .insert(rectified.to_owned(), vec![moved, last]);
                self.gone.insert(output.to_owned());
            }
            None => {
                let last = shuffle(&blocks, output);
                self.replaced.insert(output.to_owned(), vec![conv, last]);
            }
        }
        Ok(())
    }

    /// Plans a constant in place of input `index`, under its own name if nobody else uses that and
    /// no graph input declares its old shape.
    fn constant(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        index: usize,
        value: &Tensor<f32>,
    ) -> Result<String> {
        let old = node.need_input(index)?;
        let own = graph.uses(old) == 1 && graph.initializer(old).is_some();
        let declared = graph.proto().input.iter().any(|v| v.name() == old);
        let name = match own && !declared {
            true => old.to_owned(),
            false => graph.fresh_name(&format!("{}.{index}", node.need_output()?)),
        };
        self.tensors
            .push(tensor::from_floats(&name, &value.dims, &value.data));
        Ok(name)
    }

    fn apply(mut self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            for node in std::mem::take(&mut proto.node) {
                let output = node.output.first().map_or("", String::as_str);
                match self.replaced.remove(output) {
                    Some(others) => proto.node.extend(others),
                    None => proto.node.push(node),
                }
            }
            proto.value_info.retain(|v| !self.gone.contains(v.name()));
            for tensor in self.tensors {
                let same = |t: &&mut TensorProto| t.name() == tensor.name();
                match proto.initializer.iter_mut().find(same) {
                    Some(old) => *old = tensor,
                    None => proto.initializer.push(tensor),
                }
            }
        })?;
        // Constant nodes and shared weights that nobody uses any more go.
        graph.prune()
    }
}

/// The Relu that is all that uses `value`.
fn sole_relu<'a>(graph: &'a Graph, value: &str) -> Option<Node<'a>> {
    let relu = graph.consumers(value).next()?;
    (relu.op() == "Relu" && graph.uses(value) == 1).then_some(relu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::onnx::tensor::from_floats;
    use crate::build::testing::{data, graph, int, ints, node, ops};

    /// A ConvTranspose `x` → `y` with weight `u.weight` and bias `u.bias`.
    fn up(kernel: i64, stride: i64) -> NodeProto {
        let mut up = node("ConvTranspose", &["x", "u.weight", "u.bias"], "y");
        ints(&mut up, "kernel_shape", &[kernel, kernel]);
        ints(&mut up, "strides", &[stride, stride]);
        up
    }

    fn tensors(dims: [usize; 4]) -> Vec<TensorProto> {
        let count = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let bias: Vec<f32> = (0..dims[1]).map(|i| 0.5 + i as f32).collect();
        vec![
            from_floats("u.weight", &dims, &values),
            from_floats("u.bias", &[dims[1]], &bias),
        ]
    }

    #[test]
    fn rows_are_channel_then_kernel_row_then_column() {
        // W[ci, co, a, b] = 12 ci + 4 co + 2 a + b
        let nodes = vec![up(2, 2), node("Relu", &["y"], "out")];
        let mut graph = graph(nodes, tensors([2, 3, 2, 2]));
        let rewritten = rewrite(&mut graph).unwrap();
        assert_eq!(rewritten, ["\"ConvTranspose.y\" (ConvTranspose)"]);
        assert_eq!(ops(&graph), ["Conv", "Relu", "DepthToSpace"]);
        let weight = graph.floats("u.weight").unwrap().unwrap();
        assert_eq!(weight.dims, [12, 2, 1, 1]);
        let expected: Vec<f32> = (0..12).flat_map(|r| [r as f32, 12.0 + r as f32]).collect();
        assert_eq!(weight.data, expected);
        let repeated = [0.5, 1.5, 2.5].map(|b| [b; 4]).concat();
        assert_eq!(data(&graph, "u.bias"), repeated);
        let shuffle = graph.producer("out").unwrap();
        assert_eq!(shuffle.int("blocksize", 0).unwrap(), 2);
        assert_eq!(shuffle.string("mode", "DCR").unwrap(), "CRD");
        let conv = graph.nodes().next().unwrap();
        assert_eq!(conv.proto.name(), "ConvTranspose.y");
        assert!(is_deconvolution(conv));
    }

    #[test]
    fn one_by_one_needs_no_shuffle_and_a_value_used_twice_keeps_its_name() {
        let nodes = vec![up(1, 1), node("Relu", &["y"], "out")];
        let mut small = graph(nodes, tensors([2, 3, 1, 1]));
        rewrite(&mut small).unwrap();
        assert_eq!(ops(&small), ["Conv", "Relu"]);
        // The transpose of [2, 3].
        assert_eq!(data(&small, "u.weight"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);

        let nodes = vec![
            up(2, 2),
            node("Relu", &["y"], "r"),
            node("Add", &["y", "r"], "out"),
        ];
        let mut twice = graph(nodes, tensors([2, 3, 2, 2]));
        rewrite(&mut twice).unwrap();
        assert_eq!(ops(&twice), ["Conv", "DepthToSpace", "Relu", "Add"]);
        assert_eq!(twice.producer("y").unwrap().op(), "DepthToSpace");
    }

    #[test]
    fn groups_stay_groups() {
        let mut grouped = up(2, 2);
        int(&mut grouped, "group", 2);
        let mut weights = tensors([4, 1, 2, 2]);
        weights[1] = from_floats("u.bias", &[2], &[0.5, 1.5]);
        let mut graph = graph(vec![grouped, node("Relu", &["y"], "out")], weights);
        rewrite(&mut graph).unwrap();
        let weight = graph.floats("u.weight").unwrap().unwrap();
        assert_eq!(weight.dims, [8, 2, 1, 1]);
        // Rows of group 0 read input channels 0 and 1, those of group 1 channels 2 and 3.
        let expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
        assert_eq!(weight.data, expected.map(|v: u8| f32::from(v)));
        let conv = graph.nodes().next().unwrap();
        assert_eq!(conv.int("group", 1).unwrap(), 2);
    }

    #[test]
    fn what_has_no_exact_equal_stays() {
        let mut padded = up(2, 2);
        ints(&mut padded, "pads", &[0, 0, 1, 1]);
        let mut longer = up(2, 2);
        ints(&mut longer, "output_padding", &[1, 1]);
        let mut spread = up(2, 2);
        ints(&mut spread, "dilations", &[2, 2]);
        for (case, deconv) in [up(2, 1), up(2, 3), padded, longer, spread]
            .into_iter()
            .enumerate()
        {
            let nodes = vec![deconv, node("Relu", &["y"], "out")];
            let mut graph = graph(nodes, tensors([2, 3, 2, 2]));
            assert!(rewrite(&mut graph).unwrap().is_empty(), "{case}");
            assert_eq!(ops(&graph), ["ConvTranspose", "Relu"], "{case}");
        }
    }

    #[test]
    fn a_shared_weight_is_left_to_the_other_node() {
        let conv = node("Conv", &["x", "u.weight"], "z");
        let nodes = vec![up(1, 1), conv, node("Add", &["y", "z"], "out")];
        let mut graph = graph(nodes, tensors([3, 3, 1, 1]));
        rewrite(&mut graph).unwrap();
        let original: Vec<f32> = (0..9).map(|i| i as f32).collect();
        assert_eq!(data(&graph, "u.weight"), original);
        let own = graph.producer("y").unwrap().input(1).unwrap();
        assert_eq!(data(&graph, own)[..3], [0.0, 3.0, 6.0]);
    }
}
