//! What an mmengine configuration of mmdetection3d (or AWML) says about a CenterPoint-pillar model.
//!
//! The file must be flattened, as `Config.dump()` writes it: it holds literals only, see [`super::python`]. Nothing of it
//! runs. Keys are those of mmdetection3d 1.x; those of 0.x are read where they differ (`pts_voxel_layer`).

use std::collections::BTreeMap;
use std::path::Path;

use super::draft::{Facts, Step, StepKind, StepScope};
use super::file::read_text_within;
use super::python::{self, Literal};
use super::{Candidates, ModelError, Rotation, SizeOrder, Suppressors};

/// Largest file; real ones have some 20 kB.
const MAX_BYTES: u64 = 1 << 20;

type Dict = BTreeMap<String, Literal>;

/// Reads the configuration at `path`.
///
/// # Errors
/// [`ModelError`] with the line or the key: not flattened, another detector, or a value of another type.
pub(crate) fn read(path: &Path) -> Result<Facts, ModelError> {
    let text = read_text_within(path, MAX_BYTES)?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Facts, ModelError> {
    let all = literals(text, path)?;
    facts(&Node::root(&all, path))
}

fn literals(text: &str, path: &Path) -> Result<Dict, ModelError> {
    let flatten = format!(
        "flatten it where mmengine is installed: python -c \"from mmengine import Config; \
         Config.fromfile('{}').dump('flat.py')\"",
        path.display()
    );
    let all = python::parse(text).map_err(|error| ModelError::Syntax {
        path: path.into(),
        message: format!("line {}: {}; {flatten}", error.line, error.what),
    })?;
    if all.contains_key("_base_") {
        return Err(ModelError::Value {
            path: path.into(),
            key: "_base_".into(),
            problem: format!("the configuration takes values from other files; {flatten}"),
        });
    }
    Ok(all)
}

/// What no tensor of a network states: strides, and the ε of BatchNormalizations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Structure {
    /// Convolutions of each block of the backbone after its first.
    pub(crate) layer_nums: Option<Vec<usize>>,
    /// Stride of each block.
    pub(crate) strides: Option<Vec<usize>>,
    /// Factor of each branch of the neck.
    pub(crate) upsample: Option<Vec<f64>>,
    /// Whether a branch of factor 1 is a convolution.
    pub(crate) conv_for_no_stride: bool,
    /// ε in PFN, backbone and neck, in the head's shared convolution, and in its tasks.
    pub(crate) eps: [Option<f64>; 5],
}

/// Reads the structure from the configuration at `path`.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_structure(path: &Path) -> Result<Structure, ModelError> {
    structure(&read_text_within(path, MAX_BYTES)?, path)
}

/// Reads the structure from the text of a configuration, which is in the file `path`.
///
/// # Errors
/// As [`read`].
pub(crate) fn structure(text: &str, path: &Path) -> Result<Structure, ModelError> {
    let all = literals(text, path)?;
    let root = Node::root(&all, path);
    let model = root.need_dict("model")?;
    let [backbone, neck] = ["pts_backbone", "pts_neck"].map(|name| model.need_dict(name));
    let (backbone, neck) = (backbone?, neck?);
    let head = model.dict("pts_bbox_head")?;
    let separate = match &head {
        Some(head) => head.dict("separate_head")?,
        None => None,
    };
    let eps = |part: Option<&Node<'_>>| part.map_or(Ok(None), Node::eps);
    Ok(Structure {
        layer_nums: backbone.counts("layer_nums")?,
        strides: backbone.counts("layer_strides")?,
        upsample: neck.numbers("upsample_strides")?,
        conv_for_no_stride: neck.bool("use_conv_for_no_stride")?.unwrap_or(false),
        eps: [
            eps(model.dict("pts_voxel_encoder")?.as_ref())?,
            eps(Some(&backbone))?,
            eps(Some(&neck))?,
            eps(head.as_ref())?,
            // CenterHead does not pass its own on.
            eps(separate.as_ref())?,
        ],
    })
}

/// A dictionary and its dotted name.
struct Node<'a> {
    path: &'a Path,
    key: String,
    values: &'a Dict,
}

impl<'a> Node<'a> {
    fn root(values: &'a Dict, path: &'a Path) -> Self {
        Self {
            path,
            key: String::new(),
            values,
        }
    }

    /// ε of the BatchNormalizations of a part; mmcv's default where `norm_cfg` does not state it.
    fn eps(&self) -> Result<Option<f64>, ModelError> {
        const DEFAULT: f64 = 1e-5;
        match self.dict("norm_cfg")? {
            Some(norm) => Ok(Some(norm.number("eps")?.unwrap_or(DEFAULT))),
            None => Ok(None),
        }
    }

    fn key(&self, name: &str) -> String {
        match self.key.as_str() {
            "" => name.to_owned(),
            key => format!("{key}.{name}"),
        }
    }

    fn error<T>(&self, name: &str, problem: impl Into<String>) -> Result<T, ModelError> {
        Err(ModelError::Value {
            path: self.path.into(),
            key: self.key(name),
            problem: problem.into(),
        })
    }

    /// The value of `name`; `None` is no value.
    fn get(&self, name: &str) -> Option<&'a Literal> {
        self.values
            .get(name)
            .filter(|value| **value != Literal::None)
    }

    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Literal) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => {
                let found: String = format!("{value:?}").chars().take(80).collect();
                self.error(name, format!("{found}; expected {expected}"))
            }
        }
    }

    fn dict(&self, name: &str) -> Result<Option<Node<'a>>, ModelError> {
        let values = self.read(name, "a dictionary", |value| match value {
            Literal::Dict(values) => Some(values),
            _ => None,
        })?;
        Ok(values.map(|values| Node {
            path: self.path,
            key: self.key(name),
            values,
        }))
    }

    fn need_dict(&self, name: &str) -> Result<Node<'a>, ModelError> {
        match self.dict(name)? {
            Some(dict) => Ok(dict),
            None => self.error(name, "missing; expected a configuration of CenterPoint"),
        }
    }

    /// The dictionaries of a list.
    fn dicts(&self, name: &str) -> Result<Vec<Node<'a>>, ModelError> {
        let items = self.read(name, "a list of dictionaries", |value| match value {
            Literal::List(items) => Some(items),
            _ => None,
        })?;
        let mut dicts = Vec::new();
        for (i, item) in items.into_iter().flatten().enumerate() {
            let Literal::Dict(values) = item else {
                return self.error(&format!("{name}[{i}]"), "expected a dictionary");
            };
            dicts.push(Node {
                path: self.path,
                key: self.key(&format!("{name}[{i}]")),
                values,
            });
        }
        Ok(dicts)
    }

    /// The class that a dictionary describes, without its module.
    fn class(&self) -> Result<&'a str, ModelError> {
        let class = self.text("type")?.unwrap_or_default();
        Ok(class.rsplit('.').next().unwrap_or_default())
    }

    /// Checks the class that a dictionary describes.
    fn check_class(&self, expected: &[&str]) -> Result<(), ModelError> {
        let class = self.class()?;
        if expected.contains(&class) {
            return Ok(());
        }
        self.error(
            "type",
            format!("`{class}`; expected {}", expected.join(" or ")),
        )
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.read(name, "a text", |value| match value {
            Literal::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    fn texts(&self, name: &str) -> Result<Option<Vec<String>>, ModelError> {
        self.read(name, "a list of texts", |value| {
            let Literal::List(items) = value else {
                return None;
            };
            let texts = items.iter().map(|item| match item {
                Literal::Text(text) => Some(text.clone()),
                _ => None,
            });
            texts.collect()
        })
    }

    fn bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        self.read(name, "True or False", |value| match value {
            Literal::Bool(value) => Some(*value),
            _ => None,
        })
    }

    fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.read(name, "a number", number)
    }

    fn count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.read(name, "a whole number", count)
    }

    fn counts(&self, name: &str) -> Result<Option<Vec<usize>>, ModelError> {
        self.read(name, "a list of whole numbers", |value| match value {
            Literal::List(items) => items.iter().map(count).collect(),
            _ => None,
        })
    }

    fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.read(name, "a list of numbers", |value| match value {
            Literal::List(items) => items.iter().map(number).collect(),
            _ => None,
        })
    }

    fn array<const N: usize>(&self, name: &str) -> Result<Option<[f64; N]>, ModelError> {
        let expected = format!("a list of {N} numbers");
        self.read(name, &expected, |value| match value {
            Literal::List(items) => {
                let numbers: Option<Vec<f64>> = items.iter().map(number).collect();
                numbers?.try_into().ok()
            }
            _ => None,
        })
    }
}

fn number(value: &Literal) -> Option<f64> {
    match value {
        Literal::Number(number) => Some(*number),
        _ => None,
    }
}

fn count(value: &Literal) -> Option<usize> {
    number(value)
        .filter(|n| n.fract() == 0.0 && (0.0..1e9).contains(n))
        .map(|n| n as usize)
}

fn facts(root: &Node<'_>) -> Result<Facts, ModelError> {
    let model = root.need_dict("model")?;
    model.check_class(&["CenterPoint"])?;
    let encoder = model.need_dict("pts_middle_encoder")?;
    encoder.check_class(&["PointPillarsScatter"])?;
    let mut facts = Facts {
        source: super::draft::source(root.path),
        ..Facts::default()
    };
    voxels(root, &model, &mut facts)?;
    pfn(&model, &mut facts)?;
    input(root, &mut facts)?;
    head(root, &model, &mut facts)?;
    Ok(facts)
}

/// Range and voxels.
fn voxels(root: &Node<'_>, model: &Node<'_>, facts: &mut Facts) -> Result<(), ModelError> {
    let preprocessor = match model.dict("data_preprocessor")? {
        Some(preprocessor) => Some(preprocessor),
        None => root.dict("data_preprocessor")?,
    };
    let layer = match preprocessor {
        Some(preprocessor) => preprocessor.need_dict("voxel_layer")?,
        None => model.need_dict("pts_voxel_layer")?,
    };
    facts.range = layer.array("point_cloud_range")?;
    facts.voxel_size = layer.array("voxel_size")?;
    facts.max_points = layer.count("max_num_points")?;
    // For training and for testing, or one number.
    facts.max_pillars = match layer.get("max_voxels") {
        Some(Literal::List(_)) => layer
            .counts("max_voxels")?
            .and_then(|voxels| voxels.last().copied()),
        _ => layer.count("max_voxels")?,
    };
    // mmdetection3d before 1.0 had other conventions for boxes, and its configurations do not state which.
    if model.get("pts_voxel_layer").is_none() {
        facts.size_order = Some(SizeOrder::Lwh);
        facts.rotation = Some(Rotation::SinCos);
    }
    Ok(())
}

fn pfn(model: &Node<'_>, facts: &mut Facts) -> Result<(), ModelError> {
    let pfn = model.need_dict("pts_voxel_encoder")?;
    const BACKWARD: &str = "BackwardPillarFeatureNet";
    const AUTOWARE: &str = "PillarFeatureNetAutoware";
    pfn.check_class(&["PillarFeatureNet", BACKWARD, AUTOWARE])?;
    if pfn.bool("with_distance")? == Some(true) {
        return pfn.error(
            "with_distance",
            "True; the distance of points is not supported",
        );
    }
    let mean = pfn.bool("with_cluster_center")?.unwrap_or(true);
    let with_center = pfn.bool("with_voxel_center")?.unwrap_or(true);
    let with_z = match pfn.class()? {
        BACKWARD => false,
        AUTOWARE => pfn.bool("use_voxel_center_z")?.unwrap_or(true),
        _ => true,
    };
    let axes = match (with_center, with_z) {
        (false, _) => 0,
        (true, false) => 2,
        (true, true) => 3,
    };
    facts.mean_offset = Some(mean);
    facts.center_axes = Some(axes);
    facts.legacy = Some(pfn.bool("legacy")?.unwrap_or(true) && axes > 0);
    facts.layers = pfn.counts("feat_channels")?;
    let columns = pfn.count("in_channels")?;
    facts.in_features = columns.map(|columns| columns + if mean { 3 } else { 0 } + axes);
    Ok(())
}

/// Columns and sweeps, from the steps that read a frame in tests.
fn input(root: &Node<'_>, facts: &mut Facts) -> Result<(), ModelError> {
    let steps = match root.get("test_pipeline") {
        Some(_) => root.dicts("test_pipeline")?,
        None => match root.dict("test_dataloader")? {
            Some(loader) => match loader.dict("dataset")? {
                Some(dataset) => dataset.dicts("pipeline")?,
                None => Vec::new(),
            },
            None => Vec::new(),
        },
    };
    let mut columns: Option<Vec<usize>> = None;
    for step in &steps {
        let is_sweeps = match step.class()? {
            "LoadPointsFromFile" => false,
            "LoadPointsFromMultiSweeps" => true,
            _ => continue,
        };
        let used = match step.get("use_dim") {
            Some(Literal::List(_)) => step.counts("use_dim")?,
            _ => step.count("use_dim")?.map(|count| (0..count).collect()),
        };
        if is_sweeps {
            facts.sweeps = Some(step.count("sweeps_num")?.unwrap_or(10) + 1);
        }
        let Some(used) = used else { continue };
        columns = Some(match &columns {
            None => used,
            Some(before) => {
                let of = used.iter().map(|&column| before.get(column).copied());
                match of.collect() {
                    Some(columns) => columns,
                    None => {
                        let problem = format!("{used:?}, but points have {} columns", before.len());
                        return step.error("use_dim", problem);
                    }
                }
            }
        });
    }
    // The fifth column is the time only where sweeps are added; else the data set knows what it is.
    let name = |column: &usize| match column {
        0 => Some("x"),
        1 => Some("y"),
        2 => Some("z"),
        3 => Some("intensity"),
        4 if facts.sweeps.is_some() => Some("t"),
        _ => None,
    };
    let names: Option<Vec<&str>> = columns
        .iter()
        .flatten()
        .map(name)
        .collect::<Option<Vec<_>>>()
        .filter(|names| !names.is_empty());
    facts.columns = names.map(|names| names.into_iter().map(String::from).collect());
    Ok(())
}

fn head(root: &Node<'_>, model: &Node<'_>, facts: &mut Facts) -> Result<(), ModelError> {
    let head = model.need_dict("pts_bbox_head")?;
    head.check_class(&["CenterHead"])?;
    let test = match model.dict("test_cfg")? {
        Some(test) => Some(test.need_dict("pts")?),
        None => None,
    };
    let names = root.texts("class_names")?.unwrap_or_default();
    let mut tasks: Vec<Vec<String>> = Vec::new();
    for task in head.dicts("tasks")? {
        let named: usize = tasks.iter().map(Vec::len).sum();
        let classes = match task.texts("class_names")? {
            Some(classes) => classes,
            // In the order of all classes.
            None => {
                let count = task.count("num_class")?.unwrap_or_default();
                names.iter().skip(named).take(count).cloned().collect()
            }
        };
        let wanted = task.count("num_class")?;
        if wanted.is_some_and(|wanted| wanted != classes.len()) {
            let found = classes.len();
            return task.error("num_class", format!("{wanted:?}, but {found} class names"));
        }
        tasks.push(classes);
    }
    if tasks.is_empty() {
        return head.error("tasks", "missing or empty");
    }
    facts.tasks = Some(tasks);
    let coder = head.need_dict("bbox_coder")?;
    coder.check_class(&["CenterPointBBoxCoder"])?;
    facts.downsample = coder.count("out_size_factor")?;
    facts.max_candidates = coder.count("max_num")?;
    facts.score = coder.number("score_threshold")?;
    facts.center_range = coder.array("post_center_range")?;
    facts.candidates = Some(Candidates::ClassCell);
    if let Some(test) = test {
        facts.downsample = facts.downsample.or(test.count("out_size_factor")?);
        facts.score = facts.score.or(test.number("score_threshold")?);
        facts.nms = Some(nms(&test)?);
    }
    Ok(())
}

/// The suppression of `test_cfg.pts`: by circle or by rotated IoU, task by task.
fn nms(test: &Node<'_>) -> Result<Vec<Step>, ModelError> {
    let kind = match test.text("nms_type")?.unwrap_or("rotate") {
        "circle" => {
            // Squares of radii: mmdetection3d compares them with squared distances.
            let squares = test.numbers("min_radius")?.unwrap_or_default();
            StepKind::CircleByTask(squares.into_iter().map(f64::sqrt).collect())
        }
        "rotate" => {
            let threshold = test.number("nms_thr")?;
            let Some(threshold) = threshold else {
                return test.error("nms_thr", "missing");
            };
            StepKind::Iou(threshold, None, Suppressors::Kept)
        }
        other => {
            return test.error(
                "nms_type",
                format!("`{other}`; expected `circle` or `rotate`"),
            );
        }
    };
    Ok(vec![Step {
        kind,
        scope: StepScope::Task,
        max_boxes: test.count("post_max_size")?,
    }])
}

#[cfg(test)]
mod tests;
