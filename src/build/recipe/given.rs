//! Scales that another program chose: those of a quantised folder, for a float folder of the same network.
//!
//! The folder may come from a checkpoint (`cp-build import --scales keep`), a Q/DQ network of any tool, or this program. Its
//! pairs lend their ranges only: new pairs go where `quantize` places them, so an output may lose its pair, and the maps of one
//! Concat share the greatest of their scales. A map without a range takes that of the maps that it shares its scale with, or
//! the calibrated one. Codes around another value than 0 become codes around 0.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ndarray::{ArrayD, Axis};

use crate::build::folder::Folder;
use crate::build::import::rpn_of;
use crate::build::onnx::{Graph, Node};
use crate::build::quantize::{self, Placement, QuantizerKind, WeightFormat, WeightFormats};
use crate::build::{BuildError, Result, deconv, foreign};
use crate::program::greatest_code;

/// The greatest error of a weight at which the scales are still its own: root mean square in steps. Nearest codes have 0.29,
/// codes that were chosen by the layer's output up to about 0.6, codes of another network far more.
const MOST_STEPS: f64 = 1.0;

/// What to do about a folder whose network is another one.
const OWN_FLOAT: &str =
    "take its own float network: `cp-build import --scales none` with the files that it came from";

/// The ranges of a quantised network, by the names of the float one.
pub(super) struct GivenScales {
    path: PathBuf,
    maps: BTreeMap<String, f32>,
    weights: BTreeMap<String, WeightFormat>,
    /// The network without its pairs.
    float: Graph,
    /// The same after its BatchNormalizations were fused.
    fused: Graph,
    /// What is to say about the scales of maps, by map.
    notes: BTreeMap<String, String>,
}

/// Scales for a network and a placement.
pub(super) struct Fitted {
    /// Ranges of maps. Those of [`quantize::tensors_to_calibrate`] that it lacks have none.
    pub(super) amax: BTreeMap<String, f32>,
    pub(super) formats: WeightFormats,
    /// Only the layers that have scales.
    pub(super) placement: Placement,
    pub(super) warnings: Vec<String>,
}

impl Fitted {
    /// No scales.
    pub(super) fn none(placement: Placement) -> Self {
        Self {
            amax: BTreeMap::new(),
            formats: WeightFormats::new(),
            placement,
            warnings: Vec::new(),
        }
    }
}

impl GivenScales {
    /// Reads the pairs of `folder`, whose scales are for the network of `float`.
    ///
    /// # Errors
    /// [`BuildError::Folder`] for a folder without pairs or with another pillar feature network.
    pub(super) fn new(folder: &Folder, float: &Folder) -> Result<Self> {
        let graph = &folder.rpn.graph;
        let mut given = Self {
            path: graph.path().into(),
            maps: BTreeMap::new(),
            weights: BTreeMap::new(),
            float: graph.clone(),
            fused: graph.clone(),
            notes: BTreeMap::new(),
        };
        if !folder.is_quantized() {
            let what = "its network has no Q/DQ pairs, so there are no scales to take";
            return Err(given.refuse(what.to_owned()));
        }
        if folder.pfe.pfn != float.pfe.pfn {
            return Err(given.refuse(format!(
                "its pillar feature network is not that of {}; {OWN_FLOAT}",
                float.path().display()
            )));
        }
        foreign::without_pairs(&mut given.float)?;
        given.fused = rpn_of(given.float.clone(), &folder.model)?.graph;
        deconv::rewrite(&mut given.float)?;
        let sources = foreign::sources(graph)?;
        for node in graph.nodes().filter(|n| n.op() == "DequantizeLinear") {
            let Some(source) = sources.get(node.need_output()?) else {
                continue;
            };
            let read = quantize::read_pair(graph, node)?;
            let (amax, note) = match read {
                Ok(weight) if weight.kind == QuantizerKind::Weight => {
                    given.check(source, &weight.amax)?;
                    let format = WeightFormat {
                        bits: weight.bits,
                        amax: Some(weight.amax),
                    };
                    given.weights.insert(source.clone(), format);
                    continue;
                }
                Ok(map) => match map.amax[..] {
                    [amax] => (amax, None),
                    _ => return Err(node.error("it has several scales for a map, expected one")),
                },
                Err(reason) => match symmetric(graph, node)? {
                    Some(amax) => {
                        let note = format!("{reason}; took codes around 0 for ±{amax}");
                        (amax, Some(note))
                    }
                    None => continue,
                },
            };
            given.check(source, &[amax])?;
            let known = given.maps.entry(source.clone()).or_insert(amax);
            let several = *known != amax;
            *known = known.max(amax);
            let several = several.then(|| {
                format!(
                    "it has several scales, one for each reader; took the greatest, for ±{known}"
                )
            });
            if let Some(note) = several.or(note) {
                given.notes.insert(source.clone(), note);
            }
        }
        Ok(given)
    }

    /// The scales of a network that is placed by `placement`.
    ///
    /// # Errors
    /// [`BuildError::Folder`] for a network with other weights.
    pub(super) fn fit(&self, graph: &Graph, placement: &Placement) -> Result<Fitted> {
        let mut fitted = Fitted {
            amax: self.maps.clone(),
            ..Fitted::none(placement.clone())
        };
        let mut only = Vec::new();
        for layer in quantize::layers(graph)? {
            let mut found = false;
            for (name, axis) in quantize::weights(graph, &layer)? {
                let Some(given) = self.weights.get(&name) else {
                    continue;
                };
                found = true;
                fitted
                    .formats
                    .insert(name.clone(), self.format(graph, &name, axis, given)?);
            }
            if found {
                only.push(layer.name);
            }
        }
        if only.is_empty() {
            return Err(self.refuse(format!(
                "none of its scales is for a layer of {}; {OWN_FLOAT}",
                graph.path().display()
            )));
        }
        fitted.placement.only = Some(only);
        let shared = quantize::shared(graph, &fitted.placement)?;
        for map in quantize::tensors_to_calibrate(graph, &fitted.placement)? {
            let note = self.notes.get(&map);
            let warning = note.map(|note| format!("the scale of \"{map}\": {note}"));
            fitted.warnings.extend(warning);
            if fitted.amax.contains_key(&map) {
                continue;
            }
            let others = shared.get(&map).into_iter().flatten();
            let given = others.filter_map(|other| self.maps.get(other));
            if let Some(amax) = given.copied().reduce(f32::max) {
                fitted.amax.insert(map, amax);
            }
        }
        Ok(fitted)
    }

    /// The format of a weight with its output channels on `axis`.
    fn format(
        &self,
        graph: &Graph,
        name: &str,
        axis: usize,
        given: &WeightFormat,
    ) -> Result<WeightFormat> {
        let (Some(weight), Some(amax)) = (graph.array(name)?, &given.amax) else {
            return Ok(given.clone());
        };
        let of_same_size = |graph: &Graph| -> Result<Option<ArrayD<f32>>> {
            let found = graph.array(name)?;
            Ok(found.filter(|found| found.shape() == weight.shape()))
        };
        let channels = weight.shape().get(axis).copied().unwrap_or(0);
        // A deconvolution that was rewritten has several channels for each of its own.
        let each = channels / amax.len().max(1);
        let (Some(plain), Some(fused), true) = (
            of_same_size(&self.float)?,
            of_same_size(&self.fused)?,
            channels > 0 && each * amax.len() == channels,
        ) else {
            return Err(self.refuse(format!(
                "its weight \"{name}\" has other sizes than that of {}: {:?}; {OWN_FLOAT}",
                graph.path().display(),
                weight.shape()
            )));
        };
        // The codes are those of a weight before its BatchNormalization, which multiplies each channel by a factor.
        let mut scaled = Vec::with_capacity(channels);
        let repeated = amax.iter().flat_map(|a| std::iter::repeat_n(*a, each));
        for (channel, amax) in repeated.enumerate() {
            let [plain, fused] = [&plain, &fused].map(|w| w.index_axis(Axis(axis), channel));
            let values = plain.iter().zip(&fused);
            let greatest = values.max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
            scaled.push(match greatest {
                Some((plain, fused)) if *plain != 0.0 => amax * (fused / plain).abs(),
                _ => amax,
            });
        }
        let amax = scaled;
        self.check(name, &amax)?;
        let inner: usize = weight.shape().iter().skip(axis + 1).product();
        let most = f64::from(greatest_code(given.bits));
        let steps = |(i, (a, b)): (usize, (&f32, &f32))| {
            let amax = f64::from(amax[i / inner % channels]);
            let step = if amax > 0.0 { amax / most } else { 1.0 };
            // Weights beyond the range saturate, which says nothing about where they come from.
            let [a, b] = [a, b].map(|w| f64::from(*w).max(-amax).min(amax));
            ((a - b) / step).powi(2)
        };
        let errors: f64 = weight.iter().zip(&fused).enumerate().map(steps).sum();
        let error = (errors / weight.len() as f64).sqrt();
        if error > MOST_STEPS {
            return Err(self.refuse(format!(
                "its weight \"{name}\" differs from that of {} by {error:.1} steps (root mean square), expected at most \
                 {MOST_STEPS}: the scales are those of another network; {OWN_FLOAT}",
                graph.path().display()
            )));
        }
        Ok(WeightFormat {
            bits: given.bits,
            amax: Some(amax),
        })
    }

    /// Fails for a range that is none.
    fn check(&self, tensor: &str, amax: &[f32]) -> Result<()> {
        match amax.iter().find(|amax| !amax.is_finite() || **amax < 0.0) {
            None => Ok(()),
            Some(&amax) => Err(BuildError::BadRange {
                path: self.path.clone(),
                tensor: tensor.to_owned(),
                amax,
            }),
        }
    }

    fn refuse(&self, what: String) -> BuildError {
        BuildError::Folder {
            path: self.path.clone(),
            what,
        }
    }
}

/// The range around 0 that holds the values of a map's codes, which are around another value; `None` if they are unknown.
fn symmetric(graph: &Graph, node: Node<'_>) -> Result<Option<f32>> {
    let zeros = node.input(2).map(|zero| graph.integers(zero));
    let (Some(scales), Some(zeros)) = (
        graph.floats(node.need_input(1)?)?,
        zeros.transpose()?.flatten(),
    ) else {
        return Ok(None);
    };
    let (&[scale], &[zero]) = (&scales.data[..], &zeros.data[..]) else {
        return Ok(None);
    };
    let farthest = f64::from(greatest_code(8)) + zero.unsigned_abs() as f64;
    Ok(Some((f64::from(scale) * farthest) as f32))
}
