//! Rewrites deconvolutions with kernel = stride as exactly equivalent 1×1 convolutions.
//!
//! If a ConvTranspose's kernel equals its stride and nothing is cropped, each output pixel has one tap:
//!
//! ```text
//! ConvTranspose W[ci, co, a, b]   =   Conv 1×1 with row (co·s + a)·s + b  ─ DepthToSpace (CRD)
//! ```
//!
//! with the bias of `co` repeated s² times; s = 1 needs no DepthToSpace. Both forms compute the same
//! products, so the results are equal. The rewrite pays off because every engine quantises a
//! convolution per output channel, but not a transposed one. A Relu after the deconvolution moves in
//! front of the DepthToSpace, which only moves values, so engines still fuse Conv and Relu. The node,
//! its weight and its bias keep their names.

use std::collections::{HashMap, HashSet};

use ndarray::{Array4, Ix4};

use super::Result;
use super::onnx::proto::{NodeProto, TensorProto};
use super::onnx::tensor::{self, element};
use super::onnx::{Graph, Node, Window, make, opset};

/// Marks a rewritten convolution in its `doc_string`, because options for deconvolutions must still
/// find it.
const ORIGIN: &str = "ConvTranspose with kernel = stride";
/// Largest number of nodes that may share a weight; each gets its own copy.
const MAX_SHARED: usize = 3;

/// Whether `node` is a deconvolution, rewritten or not.
pub(crate) fn is_deconvolution(node: Node<'_>) -> bool {
    node.op() == "ConvTranspose" || node.proto.doc_string.as_deref() == Some(ORIGIN)
}

/// Rewrites every ConvTranspose that has an exact equivalent and returns the descriptions of those
/// nodes. Leaves the others alone: those whose kernel differs from the stride or is not square, that
/// are padded, or whose weight is not a FLOAT constant.
///
/// # Errors
/// [`BuildError`](super::BuildError) for malformed nodes and tensors.
pub fn rewrite(graph: &mut Graph) -> Result<Vec<String>> {
    let mut edits = Edits::default();
    let mut rewritten = Vec::new();
    for node in graph.nodes() {
        let Some(deconv) = Deconv::from_node(graph, node)? else {
            continue;
        };
        rewritten.push(node.describe());
        edits.add(graph, deconv)?;
    }
    // DepthToSpace has the mode CRD since operator set 11.
    if edits.needs_crd && opset::raise(graph, 11).is_err() {
        return Ok(Vec::new());
    }
    edits.apply(graph)?;
    Ok(rewritten)
}

/// A ConvTranspose that can be rewritten.
struct Deconv<'a> {
    node: Node<'a>,
    /// s, the rows and columns of kernel and stride.
    block: usize,
    groups: usize,
    /// `[I, O / groups, s, s]`.
    weight: Array4<f32>,
    bias: Option<Vec<f32>>,
}

impl<'a> Deconv<'a> {
    fn from_node(graph: &Graph, node: Node<'a>) -> Result<Option<Self>> {
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
        // The size of the map only matters for SAME padding.
        let window = Window::new(node, [1, 1], Some([block; 2]))?;
        let exact = window.stride == [block; 2]
            && window.pad == [0; 4]
            && window.output_padding == [0; 2]
            && (window.dilation == [1; 2] || block == 1);
        let weight = tensor::array(graph.path(), &proto)?;
        let weight = weight
            .into_dimensionality::<Ix4>()
            .map_err(|e| node.error(format!("its weight: {e}")))?;
        let (inputs, outputs, ..) = weight.dim();
        if !exact || inputs % window.groups != 0 {
            return Ok(None);
        }
        let channels = outputs.saturating_mul(window.groups);
        let bias = match node.input(2) {
            None => None,
            Some(name) => match graph.floats(name)? {
                Some(bias) if bias.data.len() == channels => Some(bias.data),
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

    /// The dimensions of the convolution's weight, `[O·s², I / groups, 1, 1]`, and the weight.
    fn conv_weight(self) -> Result<([usize; 4], Vec<f32>)> {
        let (inputs, outputs, ..) = self.weight.dim();
        let (inputs, area) = (inputs / self.groups, self.block * self.block);
        let by_group = (self.groups, inputs, outputs, area);
        let weight = self
            .weight
            .into_shape_with_order(by_group)
            .map_err(|e| self.node.error(format!("its weight: {e}")))?
            .permuted_axes([0, 2, 3, 1]);
        let dims = [self.groups * outputs * area, inputs, 1, 1];
        Ok((dims, weight.iter().copied().collect()))
    }

    /// The convolution's bias.
    fn conv_bias(&self) -> Option<Vec<f32>> {
        let area = self.block * self.block;
        let repeat = |&b| std::iter::repeat_n(b, area);
        Some(self.bias.as_ref()?.iter().flat_map(repeat).collect())
    }
}

/// The edits of [`rewrite`].
#[derive(Default)]
struct Edits {
    /// Replacements of nodes by the node's output.
    replaced: HashMap<String, Vec<NodeProto>>,
    /// New or changed initializers, in order.
    tensors: Vec<TensorProto>,
    /// Values that no longer exist.
    removed: HashSet<String>,
    /// Whether a DepthToSpace with mode CRD is added.
    needs_crd: bool,
}

impl Edits {
    fn add(&mut self, graph: &Graph, deconv: Deconv<'_>) -> Result<()> {
        let (node, block) = (deconv.node, deconv.block);
        let output = node.need_output()?;
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
        let bias = deconv.conv_bias();
        let (dims, weight) = deconv.conv_weight()?;
        conv.input
            .push(self.constant(graph, node, 1, &dims, &weight)?);
        if let Some(bias) = bias {
            let dims = [bias.len()];
            conv.input
                .push(self.constant(graph, node, 2, &dims, &bias)?);
        }
        if block == 1 {
            self.replaced.insert(output.to_owned(), vec![conv]);
            return Ok(());
        }

        self.needs_crd = true;
        let blocks = graph.fresh_name(&format!("{output}.blocks"));
        conv.output = vec![blocks.clone()];
        let shuffle = |from: &str, to: &str| {
            let name = format!("{}.DepthToSpace", node.proto.name());
            let mut node = make::node("DepthToSpace", &name, &[from], to);
            node.attribute = vec![
                make::int("blocksize", block as i64),
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
                self.removed.insert(output.to_owned());
            }
            None => {
                let last = shuffle(&blocks, output);
                self.replaced.insert(output.to_owned(), vec![conv, last]);
            }
        }
        Ok(())
    }

    /// Plans a constant in place of input `index` and returns its name. It keeps the input's name,
    /// unless another node uses that or a graph input declares its old shape.
    fn constant(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        index: usize,
        dims: &[usize],
        data: &[f32],
    ) -> Result<String> {
        let old = node.need_input(index)?;
        let own = graph.uses(old) == 1 && graph.initializer(old).is_some();
        let declared = graph.proto().input.iter().any(|v| v.name() == old);
        let name = if own && !declared {
            old.to_owned()
        } else {
            graph.fresh_name(&format!("{}.{index}", node.need_output()?))
        };
        self.tensors.push(tensor::from_floats(&name, dims, data));
        Ok(name)
    }

    fn apply(self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            make::replace_nodes(proto, self.replaced);
            proto
                .value_info
                .retain(|v| !self.removed.contains(v.name()));
            make::put_initializers(proto, self.tensors);
        })?;
        // Removes the Constant nodes and shared weights that are now unused.
        graph.prune()
    }
}

/// The Relu that is the only user of `value`.
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
    fn one_by_one_needs_no_depth_to_space_and_a_value_used_twice_keeps_its_name() {
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
        // Rows of group 0 read input channels 0 and 1, rows of group 1 read channels 2 and 3.
        let expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
        assert_eq!(weight.data, expected.map(|v: u8| f32::from(v)));
        let conv = graph.nodes().next().unwrap();
        assert_eq!(conv.int("group", 1).unwrap(), 2);
    }

    #[test]
    fn deconvolutions_without_an_exact_equivalent_stay() {
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
    fn a_shared_weight_does_not_change_for_the_other_node() {
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
