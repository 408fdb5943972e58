//! Finds the channels of a graph that share a factor, and computes the factors.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::fold::{Factors, convolution};
use super::{EqualizeReport, EqualizedTensor, LeftOut, MAX_FACTOR, is_convolution};
use crate::build::onnx::shapes::axis;
use crate::build::onnx::{Graph, Node, Shapes};
use crate::build::{BuildError, Result};
use crate::model::Pfn;

/// The channels of all maps of a graph, numbered consecutively.
pub(super) struct Channels<'a> {
    /// The channel numbers of each map.
    maps: HashMap<&'a str, Range<usize>>,
    /// Channels that share a factor.
    classes: DisjointSets,
    /// Channels that are normalised together: those of a map and of the maps that it is tied to.
    groups: DisjointSets,
    /// Channels whose class keeps factor 1, and the reason. Plans record these texts.
    pinned: Vec<(usize, String)>,
}

/// Disjoint sets of the numbers below a count, as a union-find forest.
struct DisjointSets(Vec<usize>);

impl DisjointSets {
    /// The smallest member of the set that contains `i`.
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
    /// Numbers the channels of a network and ties those that must share a factor.
    pub(super) fn new(graph: &'a Graph, pfn: &Pfn) -> Result<Self> {
        let mut channels = Self::untied(graph, &Shapes::infer(graph, &[])?);
        for node in graph.nodes() {
            channels.visit(graph, node)?;
        }
        for value in &graph.proto().output {
            channels.pin(value.name(), "it is an output of the network");
        }
        let features = pfn.layers.last().map_or(0, |layer| layer.out_features);
        for input in graph.inputs()? {
            if channels
                .map(&input.name)
                .is_some_and(|map| map.len() != features)
            {
                let reason = format!("the PFN makes {features} channels for it");
                channels.pin(&input.name, &reason);
            }
        }
        Ok(channels)
    }

    fn untied(graph: &'a Graph, shapes: &Shapes) -> Self {
        let mut maps = HashMap::new();
        let mut count = 0;
        let inputs = graph.proto().input.iter().map(|v| v.name());
        let outputs = graph.nodes().filter(|n| n.op() != "Constant");
        let outputs = outputs.filter_map(|n| n.output(0));
        for value in inputs.chain(outputs) {
            if let Some(&[1, channels, _, _]) = shapes.get(value) {
                maps.insert(value, count..count + channels);
                count += channels;
            }
        }
        let mut groups = DisjointSets((0..count).collect());
        for map in maps.values() {
            map.clone()
                .for_each(|channel| groups.join(map.start, channel));
        }
        Self {
            maps,
            classes: DisjointSets((0..count).collect()),
            groups,
            pinned: Vec::new(),
        }
    }

    pub(super) fn map(&self, value: &str) -> Option<Range<usize>> {
        self.maps.get(value).cloned()
    }

    /// Makes all channels of a map keep factor 1.
    fn pin(&mut self, value: &str, reason: &str) {
        for channel in self.map(value).into_iter().flatten() {
            self.pinned.push((channel, reason.to_owned()));
        }
    }

    /// Ties the inputs of `node` to its output, or pins both if the operator does not commute with
    /// factors.
    fn visit(&mut self, graph: &Graph, node: Node<'_>) -> Result<()> {
        let passes = match node.op() {
            "Constant" => true,
            // Its weights absorb the factors of both sides.
            "Conv" | "ConvTranspose" => convolution(graph, node)?.is_some(),
            "Relu" | "MaxPool" | "Identity" | "Dropout" | "Add" => self.tie(node, |c, _| c),
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

    /// The channels of all inputs and of the output; `None` if one of them is not a map.
    fn ends(&self, node: Node<'_>) -> Option<(Vec<Range<usize>>, Range<usize>)> {
        let inputs = node.proto.input.iter().map(|value| self.map(value));
        let inputs: Option<Vec<_>> = inputs.collect();
        Some((inputs?, self.map(node.output(0)?)?))
    }

    /// Joins channel c of every input with channel `to(c, output channels)` of the output. Returns
    /// `false` if an input or output is not a map or lacks the channel.
    fn tie(&mut self, node: Node<'_>, to: impl Fn(usize, usize) -> usize) -> bool {
        let Some((inputs, output)) = self.ends(node) else {
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

    /// Joins the concatenated channels of all inputs with those of the output.
    fn tie_parts(&mut self, node: Node<'_>) -> bool {
        let Some((inputs, output)) = self.ends(node) else {
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

    /// The maps that convolutions read, in order of execution.
    fn conv_inputs(&self, graph: &Graph) -> Result<Vec<&'a str>> {
        let mut maps: Vec<&str> = Vec::new();
        for node in graph.nodes().filter(|n| is_convolution(*n)) {
            let value = self.maps.get_key_value(node.need_input(0)?);
            if let Some((value, _)) = value.filter(|(value, _)| !maps.contains(value)) {
                maps.push(value);
            }
        }
        Ok(maps)
    }

    /// The reasons why classes keep factor 1, by class.
    fn reasons(&mut self) -> BTreeMap<usize, String> {
        let mut reasons = BTreeMap::new();
        for (channel, reason) in std::mem::take(&mut self.pinned) {
            reasons.entry(self.classes.root(channel)).or_insert(reason);
        }
        reasons
    }

    /// Calls `choose` with the channels of each class, as far as convolutions read them, to pick its
    /// factor. Pinned classes and those without a choice keep factor 1.
    pub(super) fn choose_factors(
        mut self,
        graph: &Graph,
        mut choose: impl FnMut(&[(&str, usize)]) -> Option<f64>,
    ) -> Result<Factors<'a>> {
        let conv_inputs = self.conv_inputs(graph)?;
        let reasons = self.reasons();
        let mut members: BTreeMap<usize, Vec<(&str, usize)>> = BTreeMap::new();
        for value in conv_inputs {
            for (c, channel) in self.map(value).into_iter().flatten().enumerate() {
                let class = self.classes.root(channel);
                members.entry(class).or_default().push((value, c));
            }
        }
        let mut by_class = vec![1.0; self.classes.0.len()];
        for (class, members) in members {
            if !reasons.contains_key(&class) {
                by_class[class] = choose(&members).unwrap_or(1.0);
            }
        }
        let count = by_class.len();
        let factors = (0..count)
            .map(|channel| by_class[self.classes.root(channel)])
            .collect();
        let maps = self.maps;
        Ok(Factors::new(maps, factors))
    }

    /// Computes the factor of each class from the maxima of the maps that convolutions read.
    pub(super) fn equalize(
        mut self,
        graph: &Graph,
        channel_amax: &BTreeMap<String, Vec<f32>>,
        alpha: f64,
    ) -> Result<(Factors<'a>, EqualizeReport)> {
        let count = self.classes.0.len();
        let conv_inputs = self.conv_inputs(graph)?;
        let mut amax = vec![0.0_f64; count];
        for &value in &conv_inputs {
            let map = self.map(value).unwrap_or_default();
            let found = channel_amax.get(value).map_or(&[][..], |m| m);
            if found.len() != map.len() || found.iter().any(|m| !m.is_finite() || *m < 0.0) {
                return Err(BuildError::graph(
                    graph.path(),
                    format!(
                        "equalising \"{value}\" needs finite maxima of its {} channels, but the \
                         calibration has {}; calibrate this network",
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
        let reasons = self.reasons();
        let logs = self.centres(&amax, &reasons);
        let factors = (0..count).map(|channel| {
            let class = self.classes.root(channel);
            let live = amax[class] > 0.0 && !reasons.contains_key(&class);
            match logs.get(&self.groups.root(channel)) {
                Some(centre) if live => {
                    let log = alpha * (amax[class].ln() - centre);
                    log.exp().clamp(1.0 / MAX_FACTOR, MAX_FACTOR)
                }
                _ => 1.0,
            }
        });
        let factors: Vec<f64> = factors.collect();
        let report = self.report(&conv_inputs, &factors, &amax, &reasons);
        let maps = self.maps;
        Ok((Factors::new(maps, factors), report))
    }

    /// The mean logarithm of the maxima of each group. If a group has pinned channels only those count,
    /// so the others move into their range.
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
            if pinned {
                centres.insert(group, mean);
            } else {
                centres.entry(group).or_insert(mean);
            }
        }
        centres
    }

    fn report(
        &mut self,
        conv_inputs: &[&str],
        factors: &[f64],
        amax: &[f64],
        reasons: &BTreeMap<usize, String>,
    ) -> EqualizeReport {
        let mut report = EqualizeReport::default();
        for &value in conv_inputs {
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
                report.equalized.push(EqualizedTensor {
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
