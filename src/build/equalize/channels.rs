//! Which channels of a graph share a factor, and what it is.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::fold::convolution;
use super::{Equal, LeftOut, MAX_FACTOR, Report, is_convolution};
use crate::build::onnx::shapes::axis;
use crate::build::onnx::{Graph, Node, Shapes};
use crate::build::{BuildError, Result};
use crate::model::Pfn;

/// The channels of all maps of a graph, numbered in one row.
pub(super) struct Channels<'a> {
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
    /// The channels of a network, tied.
    pub(super) fn of(graph: &'a Graph, pfn: &Pfn) -> Result<Self> {
        let mut channels = Self::new(graph, &Shapes::infer(graph, &[])?);
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
        Ok(channels)
    }

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

    pub(super) fn map(&self, value: &str) -> Option<Range<usize>> {
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

    /// The maps that convolutions read, in order of execution.
    fn read(&self, graph: &Graph) -> Result<Vec<&'a str>> {
        let mut read: Vec<&str> = Vec::new();
        for node in graph.nodes().filter(|n| is_convolution(*n)) {
            let value = self.maps.get_key_value(node.need_input(0)?);
            if let Some((value, _)) = value.filter(|(value, _)| !read.contains(value)) {
                read.push(value);
            }
        }
        Ok(read)
    }

    /// Why classes keep factor 1.
    fn reasons(&mut self) -> BTreeMap<usize, String> {
        let mut reasons = BTreeMap::new();
        for (channel, reason) in std::mem::take(&mut self.pinned) {
            reasons.entry(self.classes.root(channel)).or_insert(reason);
        }
        reasons
    }

    /// Factors of the classes that `choose` has one for; it is given the channels of the maps that
    /// convolutions read, all of one class. Classes that meet what no factor passes keep 1.
    pub(super) fn chosen(
        mut self,
        graph: &Graph,
        mut choose: impl FnMut(&[(&str, usize)]) -> Option<f64>,
    ) -> Result<Factors<'a>> {
        let read = self.read(graph)?;
        let reasons = self.reasons();
        let mut members: BTreeMap<usize, Vec<(&str, usize)>> = BTreeMap::new();
        for value in read {
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
        Ok(Factors { maps, factors })
    }

    /// The factor of each class, from the maxima of the maps that convolutions read.
    pub(super) fn equalized(
        mut self,
        graph: &Graph,
        channel_amax: &BTreeMap<String, Vec<f32>>,
        alpha: f64,
    ) -> Result<(Factors<'a>, Report)> {
        let count = self.classes.0.len();
        let read = self.read(graph)?;
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
pub(super) struct Factors<'a> {
    maps: HashMap<&'a str, Range<usize>>,
    factors: Vec<f64>,
}

impl Factors<'_> {
    /// The factors of a map's channels; none for what is no map.
    pub(super) fn of(&self, value: &str) -> &[f64] {
        let map = self.maps.get(value).cloned();
        map.and_then(|map| self.factors.get(map))
            .unwrap_or_default()
    }
}
