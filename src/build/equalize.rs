//! Cross-layer equalisation: channels of one tensor get like ranges, at no cost at run time.
//!
//! A tensor has one INT8 scale for all of its channels, so that a channel with small values keeps
//! few levels. Dividing channel c by a factor `s_c > 0` where it is made and multiplying the weights
//! that read it by the same changes nothing in the result: convolutions are linear, and Relu, MaxPool,
//! Concat and DepthToSpace only choose or move values. The pillar feature network is the first maker:
//! its last layer is Linear, Relu and a max over rows (of padding, too), all of which a factor passes.
//!
//! `s_c = (amax of channel c)^alpha`, with geometric mean 1 over a tensor: alpha = 1 gives all
//! channels one range, and all of the unevenness to the weights; 0.5 shares it (Nagel et al., "Data-Free
//! Quantization Through Weight Equalization and Bias Correction", ICCV 2019). Channels that only hold
//! zeros keep factor 1; others stay within [`MAX_FACTOR`] of it.
//!
//! Channels that operators tie together form a *class* with one factor: those before and after a Relu,
//! the `s²` channels that a DepthToSpace spreads over one, both summands of a residual Add. A class
//! that meets anything else (an output of the network, Sigmoid, a BatchNormalization that could not be
//! folded) keeps factor 1, with the reason in the [`Report`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::fuse::constant_name;
use super::onnx::proto::TensorProto;
use super::onnx::shapes::axis;
use super::onnx::tensor::{self, Tensor, element};
use super::onnx::{Graph, Node, Shapes};
use super::{BuildError, Result};
use crate::features::Pfn;

/// Factors are within 1/64 to 64: what a dead or a wild channel asks for beyond that helps nobody.
pub const MAX_FACTOR: f64 = 64.0;

/// A network whose results are those of the one it was made from.
#[derive(Clone, Debug)]
pub struct Equalized {
    /// Backbone, neck and head.
    pub graph: Graph,
    /// The pillar feature network.
    pub pfn: Pfn,
    /// What was done.
    pub report: Report,
}

/// What [`equalize`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The tensors that convolutions read whose channels got factors.
    pub equalized: Vec<Equal>,
    /// Those that stay, or of which channels stay.
    pub left_out: Vec<LeftOut>,
}

/// A tensor whose channels got factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Equal {
    /// Its name.
    pub tensor: String,
    /// Channels that got one.
    pub channels: usize,
    /// Channels that only hold zeros.
    pub dead: usize,
    /// Least and largest factor.
    pub factors: [f64; 2],
}

/// A tensor with channels that could get no factor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub tensor: String,
    /// Channels that stay as they are.
    pub channels: usize,
    /// Why.
    pub reason: String,
}

/// Equalises a network. `channel_amax` has the largest absolute value of each channel of the tensors
/// that convolutions read, by name. The graph must have a fixed input size and folded
/// BatchNormalizations (see [`super::fuse`]).
///
/// Computed in f64, stored as f32: the results differ by rounding only.
///
/// # Errors
/// [`BuildError`] for a tensor without maxima, or with those of another number of channels; for
/// malformed nodes; for weights that would not be finite.
pub fn equalize(
    graph: &Graph,
    pfn: &Pfn,
    channel_amax: &BTreeMap<String, Vec<f32>>,
    alpha: f64,
) -> Result<Equalized> {
    let shapes = Shapes::infer(graph, &[])?;
    let mut channels = Channels::new(graph, &shapes);
    for node in graph.nodes() {
        channels.visit(graph, node)?;
    }
    for value in &graph.proto().output {
        channels.pin(value.name(), "it is an output of the network");
    }
    let made = pfn.layers.last().map_or(0, |layer| layer.out_features);
    for input in graph.inputs()? {
        if channels
            .map(&input.name)
            .is_some_and(|map| map.len() != made)
        {
            let reason = format!("the PFN makes {made} channels for it");
            channels.pin(&input.name, &reason);
        }
    }
    let (factors, report) = channels.factors(graph, channel_amax, alpha)?;

    let mut pfn = pfn.clone();
    if let (Some(layer), [input]) = (pfn.layers.last_mut(), &graph.inputs()?[..]) {
        let rows = layer.weight.chunks_exact_mut(layer.in_features.max(1));
        for ((row, bias), factor) in rows.zip(&mut layer.bias).zip(factors.of(&input.name)) {
            for value in row.iter_mut().chain([bias]) {
                *value = (f64::from(*value) / factor) as f32;
            }
        }
    }
    let mut changes = Changes::default();
    for node in graph.nodes().filter(|n| is_convolution(*n)) {
        changes.scale(graph, node, &factors)?;
    }
    let mut graph = graph.clone();
    changes.apply(&mut graph)?;
    Ok(Equalized { graph, pfn, report })
}

fn is_convolution(node: Node<'_>) -> bool {
    matches!(node.op(), "Conv" | "ConvTranspose")
}

/// The channels of all maps of a graph, numbered in one row.
struct Channels<'a> {
    /// The numbers of each map's channels.
    maps: HashMap<&'a str, Range<usize>>,
    /// Channels that share a factor.
    classes: Sets,
    /// Channels that are normalised together: those of a map, and of the maps that it is tied to.
    groups: Sets,
    /// Channels whose class keeps factor 1, and why.
    pinned: Vec<(usize, String)>,
}

/// Disjoint sets of the numbers below a count.
struct Sets(Vec<usize>);

impl Sets {
    /// The least member of the set of `i`.
    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

impl<'a> Channels<'a> {
    fn new(graph: &'a Graph, shapes: &Shapes) -> Self {
        let mut maps = HashMap::new();
        let mut count = 0;
        let inputs = graph.proto().input.iter().map(|v| v.name());
        let made = graph.nodes().filter(|n| n.op() != "Constant");
        let made = made.filter_map(|n| n.output(0));
        for value in inputs.chain(made) {
            if let Some(&[1, channels, _, _]) = shapes.get(value) {
                maps.insert(value, count..count + channels);
                count += channels;
            }
        }
        let mut groups = Sets((0..count).collect());
        for map in maps.values() {
            map.clone()
                .for_each(|channel| groups.join(map.start, channel));
        }
        Self {
            maps,
            classes: Sets((0..count).collect()),
            groups,
            pinned: Vec::new(),
        }
    }

    fn map(&self, value: &str) -> Option<Range<usize>> {
        self.maps.get(value).cloned()
    }

    /// Keeps all channels of a map as they are.
    fn pin(&mut self, value: &str, reason: &str) {
        for channel in self.map(value).into_iter().flatten() {
            self.pinned.push((channel, reason.to_owned()));
        }
    }

    /// Ties what `node` reads to what it makes, or pins both where no factor passes.
    fn visit(&mut self, graph: &Graph, node: Node<'_>) -> Result<()> {
        let passes = match node.op() {
            "Constant" => true,
            // Its weights take the factors of both sides.
            "Conv" | "ConvTranspose" => convolution(graph, node)?.is_some(),
            "Relu" | "MaxPool" | "Identity" | "Dropout" => self.tie(node, |c, _| c),
            "Add" => self.tie(node, |c, _| c),
            "Concat" if axis(node, node.int("axis", 0)?, 4)? == 1 => self.tie_parts(node),
            "DepthToSpace" => {
                let block = usize::try_from(node.int("blocksize", 0)?).unwrap_or(0);
                let area = block.saturating_mul(block).max(1);
                match node.string("mode", "DCR")? {
                    "CRD" => self.tie(node, |c, _| c / area),
                    _ => self.tie(node, |c, out| c % out.max(1)),
                }
            }
            _ => false,
        };
        if !passes {
            let reason = format!("no factor passes {}", node.describe());
            let values = node.proto.input.iter().chain(&node.proto.output);
            values.for_each(|value| self.pin(value, &reason));
        }
        Ok(())
    }

    /// Joins channel c of every input with channel `to(c, channels of the output)` of the output;
    /// `false` if one of them is no map, or has not the channels for it.
    fn tie(&mut self, node: Node<'_>, to: impl Fn(usize, usize) -> usize) -> bool {
        let inputs = node.proto.input.iter().map(|value| self.map(value));
        let inputs: Option<Vec<_>> = inputs.collect();
        let output = node.output(0).and_then(|value| self.map(value));
        let (Some(inputs), Some(output)) = (inputs, output) else {
            return false;
        };
        let fits = |map: &Range<usize>| (0..map.len()).all(|c| to(c, output.len()) < output.len());
        if !inputs.iter().all(fits) {
            return false;
        }
        for (c, channel) in inputs.into_iter().flat_map(|map| map.enumerate()) {
            self.join(channel, output.start + to(c, output.len()));
        }
        true
    }

    /// Joins the channels of all inputs, one after the other, with those of the output.
    fn tie_parts(&mut self, node: Node<'_>) -> bool {
        let inputs = node.proto.input.iter().map(|value| self.map(value));
        let inputs: Option<Vec<_>> = inputs.collect();
        let output = node.output(0).and_then(|value| self.map(value));
        let (Some(inputs), Some(output)) = (inputs, output) else {
            return false;
        };
        if inputs.iter().map(Range::len).sum::<usize>() != output.len() {
            return false;
        }
        for (channel, to) in inputs.into_iter().flatten().zip(output) {
            self.join(channel, to);
        }
        true
    }

    fn join(&mut self, a: usize, b: usize) {
        self.classes.join(a, b);
        self.groups.join(a, b);
    }

    /// The factor of each class, from the maxima of the maps that convolutions read.
    fn factors(
        mut self,
        graph: &Graph,
        channel_amax: &BTreeMap<String, Vec<f32>>,
        alpha: f64,
    ) -> Result<(Factors<'a>, Report)> {
        let count = self.classes.0.len();
        let mut read: Vec<&str> = Vec::new();
        for node in graph.nodes().filter(|n| is_convolution(*n)) {
            let value = node.need_input(0)?;
            if self.maps.contains_key(value) && !read.contains(&value) {
                read.push(value);
            }
        }
        let mut amax = vec![0.0_f64; count];
        for &value in &read {
            let map = self.map(value).unwrap_or_default();
            let found = channel_amax.get(value).map_or(&[][..], |m| m);
            if found.len() != map.len() || found.iter().any(|m| !m.is_finite() || *m < 0.0) {
                return Err(BuildError::graph(
                    graph.path(),
                    format!(
                        "to equalise \"{value}\", finite maxima of its {} channels are needed, \
                         {} were given; calibrate this network",
                        map.len(),
                        found.len()
                    ),
                ));
            }
            for (channel, found) in map.zip(found) {
                let class = self.classes.root(channel);
                amax[class] = amax[class].max(f64::from(*found));
            }
        }
        let mut reasons: BTreeMap<usize, String> = BTreeMap::new();
        for (channel, reason) in std::mem::take(&mut self.pinned) {
            reasons.entry(self.classes.root(channel)).or_insert(reason);
        }
        let logs = self.centres(&amax, &reasons);
        let limit = MAX_FACTOR.ln();
        let factors = (0..count).map(|channel| {
            let class = self.classes.root(channel);
            let live = amax[class] > 0.0 && !reasons.contains_key(&class);
            match logs.get(&self.groups.root(channel)) {
                Some(centre) if live => {
                    let log = alpha * (amax[class].ln() - centre);
                    log.clamp(-limit, limit).exp()
                }
                _ => 1.0,
            }
        });
        let factors: Vec<f64> = factors.collect();
        let report = self.report(&read, &factors, &amax, &reasons);
        let maps = self.maps;
        Ok((Factors { maps, factors }, report))
    }

    /// The mean logarithm of the maxima of each group: of its pinned channels where it has any, so
    /// that the others come into their range.
    fn centres(&mut self, amax: &[f64], reasons: &BTreeMap<usize, String>) -> HashMap<usize, f64> {
        let mut sums: HashMap<(usize, bool), (f64, usize)> = HashMap::new();
        for channel in 0..amax.len() {
            let class = self.classes.root(channel);
            if amax[class] > 0.0 {
                let key = (self.groups.root(channel), reasons.contains_key(&class));
                let (sum, count) = sums.entry(key).or_default();
                *sum += amax[class].ln();
                *count += 1;
            }
        }
        let mut centres = HashMap::new();
        for ((group, pinned), (sum, count)) in sums {
            let mean = sum / count as f64;
            match pinned {
                true => drop(centres.insert(group, mean)),
                false => drop(centres.entry(group).or_insert(mean)),
            }
        }
        centres
    }

    fn report(
        &mut self,
        read: &[&str],
        factors: &[f64],
        amax: &[f64],
        reasons: &BTreeMap<usize, String>,
    ) -> Report {
        let mut report = Report::default();
        for &value in read {
            let map = self.map(value).unwrap_or_default();
            let classes: Vec<usize> = map.clone().map(|c| self.classes.root(c)).collect();
            let pinned: Vec<&String> = classes.iter().filter_map(|c| reasons.get(c)).collect();
            if let Some(reason) = pinned.first() {
                report.left_out.push(LeftOut {
                    tensor: value.to_owned(),
                    channels: pinned.len(),
                    reason: (*reason).clone(),
                });
            }
            if pinned.len() < classes.len() {
                let own = factors.get(map).unwrap_or_default();
                let least = own.iter().copied().fold(f64::INFINITY, f64::min);
                let largest = own.iter().copied().fold(0.0, f64::max);
                report.equalized.push(Equal {
                    tensor: value.to_owned(),
                    channels: own.len() - pinned.len(),
                    dead: classes.iter().filter(|&&c| amax[c] == 0.0).count(),
                    factors: [least, largest],
                });
            }
        }
        report
    }
}

/// The factor of every channel.
struct Factors<'a> {
    maps: HashMap<&'a str, Range<usize>>,
    factors: Vec<f64>,
}

impl Factors<'_> {
    /// The factors of a map's channels; none for what is no map.
    fn of(&self, value: &str) -> &[f64] {
        let map = self.maps.get(value).cloned();
        map.and_then(|map| self.factors.get(map))
            .unwrap_or_default()
    }
}

/// Weight and bias of a convolution, if both are constants that can be changed.
fn convolution(
    graph: &Graph,
    node: Node<'_>,
) -> Result<Option<(Tensor<f32>, Option<Tensor<f32>>)>> {
    let constant = |value: &str| -> Result<Option<Tensor<f32>>> {
        match graph.constant(value)? {
            Some(proto) if proto.data_type() == element::FLOAT => {
                tensor::floats(graph.path(), &proto).map(Some)
            }
            _ => Ok(None),
        }
    };
    let Some(weight) = constant(node.need_input(1)?)? else {
        return Ok(None);
    };
    match node.input(2) {
        None => Ok(Some((weight, None))),
        Some(name) => Ok(constant(name)?.map(|bias| (weight, Some(bias)))),
    }
}

/// New weights and biases.
#[derive(Default)]
struct Changes {
    /// By the output of a node: its inputs from the second on.
    inputs: HashMap<String, Vec<String>>,
    tensors: BTreeMap<String, TensorProto>,
}

impl Changes {
    /// Plans the weight and the bias of a convolution between maps with factors.
    fn scale(&mut self, graph: &Graph, node: Node<'_>, factors: &Factors<'_>) -> Result<()> {
        let (input, output) = (node.need_input(0)?, node.need_output()?);
        let (before, after) = (factors.of(input), factors.of(output));
        if before.iter().chain(after).all(|&f| f == 1.0) {
            return Ok(());
        }
        let Some((mut weight, bias)) = convolution(graph, node)? else {
            return Ok(());
        };
        let groups = usize::try_from(node.int("group", 1)?).unwrap_or(0).max(1);
        let transposed = node.op() == "ConvTranspose";
        let (ins, outs) = (before.len() / groups, after.len() / groups);
        // Rows and columns of the weight, of which the rows go through the groups.
        let (rows, columns) = if transposed { (ins, outs) } else { (outs, ins) };
        let taps: usize = weight.dims.iter().skip(2).product();
        if weight.data.len() != rows * groups * columns * taps || taps == 0 {
            return Err(node.error(format!(
                "its weight has shape {:?} for {} channels to {} in {groups} groups",
                weight.dims,
                before.len(),
                after.len()
            )));
        }
        for (at, values) in weight.data.chunks_exact_mut(taps).enumerate() {
            let (row, column) = (at / columns, at % columns + at / columns / rows * columns);
            let (i, o) = if transposed {
                (row, column)
            } else {
                (column, row)
            };
            let factor = before[i] / after[o];
            values
                .iter_mut()
                .for_each(|w| *w = (f64::from(*w) * factor) as f32);
        }
        let mut inputs = vec![self.constant(graph, node, 1, "weight", weight)?];
        if let Some(mut bias) = bias {
            for (value, factor) in bias.data.iter_mut().zip(after) {
                *value = (f64::from(*value) / factor) as f32;
            }
            inputs.push(self.constant(graph, node, 2, "bias", bias)?);
        }
        self.inputs.insert(output.to_owned(), inputs);
        Ok(())
    }

    /// Plans a constant as input `index` of a node. Gives its name.
    fn constant(
        &mut self,
        graph: &Graph,
        node: Node<'_>,
        index: usize,
        suffix: &str,
        tensor: Tensor<f32>,
    ) -> Result<String> {
        if tensor.data.iter().any(|v| !v.is_finite()) {
            return Err(node.error("its equalised weights would not be finite"));
        }
        let name = constant_name(graph, node, index, suffix)?;
        let proto = tensor::from_floats(&name, &tensor.dims, &tensor.data);
        self.tensors.insert(name.clone(), proto);
        Ok(name)
    }

    fn apply(mut self, graph: &mut Graph) -> Result<()> {
        graph.edit(|proto| {
            for node in &mut proto.node {
                let output = node.output.first().map_or("", String::as_str);
                if let Some(inputs) = self.inputs.remove(output) {
                    node.input.truncate(1);
                    node.input.extend(inputs);
                }
            }
            for tensor in &mut proto.initializer {
                if let Some(changed) = self.tensors.remove(tensor.name()) {
                    *tensor = changed;
                }
            }
            proto.initializer.extend(self.tensors.into_values());
        })?;
        // Weights that were shared have a copy for each user now.
        graph.prune()
    }
}

#[cfg(test)]
mod tests;
