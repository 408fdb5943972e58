//! Draws up a `model.toml` from what several sources say about a model, with the source of each value as a comment.
//!
//! Options, a training configuration and the networks must agree. A convention only fills the gaps: no file states the
//! meaning of the rotation channels, for example.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use toml::Value;

use super::{Candidates, ModelError, Rotation, SizeOrder, Suppressors};

/// What one source says about a model; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The source, for comments and messages: a file or an option.
    pub(crate) source: String,
    /// Whether this is a convention, which gives way to all other sources.
    pub(crate) convention: bool,
    /// A name for people.
    pub(crate) name: Option<String>,
    /// Class names by task.
    pub(crate) tasks: Option<Vec<Vec<String>>>,
    /// Class names without their tasks.
    pub(crate) classes: Option<Vec<String>>,
    /// Number of classes by task.
    pub(crate) task_sizes: Option<Vec<usize>>,
    /// Names of each task's six outputs.
    pub(crate) outputs: Option<Vec<[String; 6]>>,
    /// Columns of a point.
    pub(crate) columns: Option<Vec<String>>,
    /// Sweeps of a frame.
    pub(crate) sweeps: Option<usize>,
    /// Largest intensity of the training data.
    pub(crate) intensity_max: Option<f64>,
    /// Height of the ground in the training data, in metres.
    pub(crate) model_ground: Option<f64>,
    /// Minimum x, y, z, then maximum, in metres.
    pub(crate) range: Option<[f64; 6]>,
    /// In metres; z is the range's height.
    pub(crate) voxel_size: Option<[f64; 3]>,
    /// Columns and rows of the BEV map.
    pub(crate) cells: Option<[usize; 2]>,
    /// Points of a pillar.
    pub(crate) max_points: Option<usize>,
    /// Pillars of a frame.
    pub(crate) max_pillars: Option<usize>,
    /// Columns of the PFN's input.
    pub(crate) in_features: Option<usize>,
    /// Whether xyz − mean is part of it.
    pub(crate) mean_offset: Option<bool>,
    /// Axes of the offset from the pillar's centre.
    pub(crate) center_axes: Option<usize>,
    /// Whether the offsets replaced the coordinates in training.
    pub(crate) legacy: Option<bool>,
    /// Widths of the PFN's layers.
    pub(crate) layers: Option<Vec<usize>>,
    /// BEV cells by head cell and axis.
    pub(crate) downsample: Option<usize>,
    /// Order of the size channels.
    pub(crate) size_order: Option<SizeOrder>,
    /// Meaning of the rotation channels.
    pub(crate) rotation: Option<Rotation>,
    /// Whether there are variance channels.
    pub(crate) variance: Option<bool>,
    /// How cells become candidates.
    pub(crate) candidates: Option<Candidates>,
    /// Most candidates of a task.
    pub(crate) max_candidates: Option<usize>,
    /// Minimum score.
    pub(crate) score: Option<f64>,
    /// Minimum norm of the rotation, and classes that have 0 instead.
    pub(crate) yaw_norm: Option<(f64, Vec<String>)>,
    /// Range of a box's centre, in metres.
    pub(crate) center_range: Option<[f64; 6]>,
    /// Suppression steps.
    pub(crate) nms: Option<Vec<Step>>,
}

/// A suppression step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    pub(crate) scope: StepScope,
    /// Most boxes of a group.
    pub(crate) max_boxes: Option<usize>,
}

/// The definition of an overlap.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StepKind {
    /// Radius in metres.
    Circle(f64),
    /// Radius in metres by task.
    CircleByTask(Vec<f64>),
    /// Largest IoU that is no overlap, the search distance in metres, and which boxes suppress others.
    Iou(f64, Option<f64>, Suppressors),
}

/// The boxes that are compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StepScope {
    /// Those of a task.
    Task,
    /// All.
    All,
    /// All but those of these classes, which are a group of their own.
    Apart(Vec<String>),
}

/// A `model.toml`, and which of its values are only conventions.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// The text.
    pub(crate) text: String,
    /// Keys whose values are a convention.
    pub(crate) conventions: Vec<&'static str>,
}

/// A value and its source.
struct Settled<'a, T> {
    value: T,
    from: &'a Facts,
}

/// A file as a source.
pub(crate) fn source(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    // A comment ends with its line.
    name.to_string_lossy().replace(char::is_control, " ")
}

/// Draws up the description. Where several sources agree, the comment names the first. Errors refer to `path`.
///
/// # Errors
/// [`ModelError::Value`] if two sources contradict each other, or if none has a value that is needed.
pub(crate) fn draft(sources: &[Facts], path: &Path) -> Result<Draft, ModelError> {
    let mut writer = Writer {
        sources,
        path,
        lines: Vec::new(),
        conventions: Vec::new(),
    };
    writer.write()?;
    let told: Vec<&str> = sources.iter().map(|facts| facts.source.as_str()).collect();
    let mut text = format!(
        "# Drawn up by `cp-build new-model` from {}.\n# Each comment names the source of its value. Values \"as in …\" are \
         conventions that no file states: check them.\n",
        told.join(", ")
    );
    // Comments in a column of their own, as far as the values allow it.
    let width = |line: &(String, String)| line.0.chars().count();
    let short = writer.lines.iter().filter(|line| !line.1.is_empty());
    let column = short.map(width).filter(|&w| w <= 48).max().unwrap_or(0);
    for line in &writer.lines {
        let (value, comment) = line;
        if comment.is_empty() {
            text += value;
        } else {
            let _ = write!(text, "{value:column$}  # {comment}");
        }
        text.push('\n');
    }
    Ok(Draft {
        text,
        conventions: writer.conventions,
    })
}

struct Writer<'a> {
    sources: &'a [Facts],
    path: &'a Path,
    /// A line and its comment.
    lines: Vec<(String, String)>,
    conventions: Vec<&'static str>,
}

impl<'a> Writer<'a> {
    fn error(&self, key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Value {
            path: self.path.into(),
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// The value of the first source that has one; the others must agree, except for conventions.
    fn settle<T: PartialEq + std::fmt::Debug>(
        &self,
        key: &str,
        told: impl Fn(&Facts) -> Option<T>,
    ) -> Result<Option<Settled<'a, T>>, ModelError> {
        let mut settled: Option<Settled<'a, T>> = None;
        for from in self.sources {
            let Some(value) = told(from) else { continue };
            match &settled {
                None => settled = Some(Settled { value, from }),
                Some(first) if first.value != value && !from.convention => {
                    return Err(self.error(
                        key,
                        format!(
                            "{:?} by {}, but {value:?} by {}",
                            first.value, first.from.source, from.source
                        ),
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(settled)
    }

    /// Like [`Writer::settle`], for what a description must have.
    fn need<T: PartialEq + std::fmt::Debug>(
        &self,
        key: &str,
        option: &str,
        told: impl Fn(&Facts) -> Option<T>,
    ) -> Result<Settled<'a, T>, ModelError> {
        let settled = self.settle(key, told)?;
        settled.ok_or_else(|| self.error(key, format!("missing; add {option}")))
    }

    fn section(&mut self, name: &str) {
        self.lines.push((String::new(), String::new()));
        self.lines.push((name.into(), String::new()));
    }

    /// Writes `name = value`; `key` is its dotted name.
    fn value(&mut self, key: &'static str, value: impl Into<Value>, from: &Facts) {
        let name = key.rsplit('.').next().unwrap_or(key);
        let comment = if from.convention {
            // The keys of all steps are one convention, and the classes of tasks are those of the model.
            let key = match key {
                key if key.starts_with("nms.") => "nms",
                "head.tasks.classes" => "classes",
                key => key,
            };
            if !self.conventions.contains(&key) {
                self.conventions.push(key);
            }
            format!("as in {}", from.source)
        } else {
            from.source.clone()
        };
        let value: Value = value.into();
        self.lines.push((format!("{name} = {value}"), comment));
    }

    fn settled<T: Into<Value>>(&mut self, key: &'static str, settled: Settled<'_, T>) {
        self.value(key, settled.value, settled.from);
    }

    /// A key that is left out, with its meaning.
    fn left_out(&mut self, example: &str, meaning: &str) {
        self.lines.push((format!("# {example}"), meaning.into()));
    }

    fn write(&mut self) -> Result<(), ModelError> {
        let tasks = self.tasks()?;
        let name = self.settle("name", |facts| facts.name.clone())?;
        let name = name.map_or_else(|| "centerpoint".to_owned(), |name| name.value);
        self.lines
            .push((format!("name = {}", Value::from(name)), String::new()));
        let classes = tasks.value.concat();
        self.value("classes", classes.clone(), tasks.from);
        let (columns, in_features) = self.columns()?;
        self.points(&columns)?;
        self.grid()?;
        self.pfn(columns.value.len(), in_features)?;
        self.head(&tasks)?;
        self.decode(&classes)?;
        self.nms(&tasks.value)
    }

    /// Class names by task.
    fn tasks(&self) -> Result<Settled<'a, Vec<Vec<String>>>, ModelError> {
        let sizes = self.settle("head.tasks", |facts| facts.task_sizes.clone())?;
        let named = self.settle("classes", |facts| {
            facts.classes.clone().filter(|_| !facts.convention)
        })?;
        if let Some(named) = named {
            let sizes = match &sizes {
                Some(sizes) => sizes.value.clone(),
                None => vec![named.value.len()],
            };
            if sizes.iter().sum::<usize>() != named.value.len() {
                return Err(self.error(
                    "classes",
                    format!("{} names for tasks of {sizes:?} classes", named.value.len()),
                ));
            }
            let mut left = named.value.as_slice();
            let mut task = |size: &usize| {
                let (task, rest) = left.split_at(*size);
                left = rest;
                task.to_vec()
            };
            return Ok(Settled {
                value: sizes.iter().map(&mut task).collect(),
                from: named.from,
            });
        }
        let fits = |tasks: &Vec<Vec<String>>| match &sizes {
            Some(sizes) => tasks.iter().map(Vec::len).eq(sizes.value.iter().copied()),
            None => true,
        };
        let tasks = self.settle("head.tasks", |facts| {
            facts
                .tasks
                .clone()
                .filter(|tasks| !facts.convention || fits(tasks))
        })?;
        let Some(tasks) = tasks else {
            let sizes = sizes.map_or_else(Vec::new, |sizes| sizes.value);
            return Err(self.error(
                "classes",
                format!("the heatmaps have {sizes:?} channels; name the classes with --classes, in this order"),
            ));
        };
        if !fits(&tasks.value) {
            let found: Vec<usize> = tasks.value.iter().map(Vec::len).collect();
            let sizes = sizes.map_or_else(Vec::new, |sizes| sizes.value);
            return Err(self.error(
                "head.tasks",
                format!(
                    "{found:?} classes by {}, but the heatmaps have {sizes:?} channels",
                    tasks.from.source
                ),
            ));
        }
        Ok(tasks)
    }

    /// The columns, and those of the PFN's input if they are known.
    fn columns(&self) -> Result<(Settled<'a, Vec<String>>, Option<usize>), ModelError> {
        let option = "--columns, such as x,y,z,intensity,t, or --like";
        let columns = self.need("points.columns", option, |facts| facts.columns.clone())?;
        let in_features = self.settle("pfn.in_features", |facts| facts.in_features)?;
        Ok((columns, in_features.map(|settled| settled.value)))
    }

    fn points(&mut self, columns: &Settled<'_, Vec<String>>) -> Result<(), ModelError> {
        self.section("[points]");
        self.value("points.columns", columns.value.clone(), columns.from);
        let sweeps = self.settle("points.sweeps", |facts| facts.sweeps.map(number))?;
        match sweeps {
            Some(sweeps) => self.settled("points.sweeps", sweeps),
            None => self.left_out(
                "sweeps = 1",
                "clouds that make a frame, the newest included",
            ),
        }
        if columns.value.iter().any(|column| column == "intensity") {
            match self.settle("points.intensity_max", |facts| facts.intensity_max)? {
                Some(most) => self.settled("points.intensity_max", most),
                None => self.left_out(
                    "intensity_max = 255.0",
                    "of the training data: another scale is then noticed",
                ),
            }
        }
        match self.settle("points.model_ground", |facts| facts.model_ground)? {
            Some(height) => self.settled("points.model_ground", height),
            None => self.left_out(
                "model_ground = 0.0",
                "height of the ground in the training data: another one is then noticed",
            ),
        }
        Ok(())
    }

    fn grid(&mut self) -> Result<(), ModelError> {
        let range = self.need("grid.range", "--range or --like", |facts| facts.range)?;
        let cells = self.settle("grid.size", |facts| facts.cells)?;
        let [x0, y0, z0, x1, y1, z1] = range.value;
        let told = self.settle("grid.voxel_size", |facts| facts.voxel_size)?;
        let voxel_size = match (told, &cells) {
            (Some(told), Some(cells)) if told.from.convention => self.divided(&range.value, cells),
            (Some(told), Some(cells)) => {
                let made = [(x1 - x0) / told.value[0], (y1 - y0) / told.value[1]];
                let fits = |(made, cells): (f64, usize)| (made - cells as f64).abs() < 0.01;
                if made.into_iter().zip(cells.value).all(fits) {
                    told
                } else {
                    return Err(self.error(
                        "grid.voxel_size",
                        format!(
                            "{:?} by {}, and the range {:?} by {}, make {made:?} cells, but the map has {:?} by {}",
                            told.value, told.from.source, range.value, range.from.source, cells.value,
                            cells.from.source
                        ),
                    ));
                }
            }
            (Some(told), None) => told,
            (None, Some(cells)) => self.divided(&range.value, cells),
            (None, None) => {
                return Err(self.error("grid.voxel_size", "missing; add --voxel-size"));
            }
        };
        self.section("[grid]");
        self.value("grid.range", floats(&range.value), range.from);
        let [x, y, _] = voxel_size.value;
        self.value("grid.voxel_size", floats(&[x, y, z1 - z0]), voxel_size.from);
        if let Some(cells) = cells {
            let size: Vec<i64> = cells.value.map(number).into();
            self.value("grid.size", size, cells.from);
        }
        let max_points = self.need("grid.max_points_per_pillar", "--like", |facts| {
            facts.max_points.map(number)
        })?;
        self.settled("grid.max_points_per_pillar", max_points);
        let max_pillars = self.need("grid.max_pillars", "--like", |facts| {
            facts.max_pillars.map(number)
        })?;
        self.settled("grid.max_pillars", max_pillars);
        Ok(())
    }

    /// The voxel size that divides the range into these cells.
    fn divided(
        &self,
        &[x0, y0, _, x1, y1, _]: &[f64; 6],
        cells: &Settled<'a, [usize; 2]>,
    ) -> Settled<'a, [f64; 3]> {
        let [columns, rows] = cells.value.map(|n| n as f64);
        // 102.4 / 512 has more digits in binary than people write.
        let short = |size: f64| (size * 1e9).round() / 1e9;
        Settled {
            value: [short((x1 - x0) / columns), short((y1 - y0) / rows), 0.0],
            from: cells.from,
        }
    }

    fn pfn(&mut self, columns: usize, in_features: Option<usize>) -> Result<(), ModelError> {
        let mean = self.settle("pfn.mean_offset", |facts| facts.mean_offset)?;
        let axes = self.settle("pfn.center_offset_axes", |facts| facts.center_axes)?;
        let mean_offset = mean.as_ref().is_none_or(|mean| mean.value);
        let fixed = columns + if mean_offset { 3 } else { 0 };
        let axes = match (in_features, axes) {
            (Some(found), Some(axes)) if found == fixed + axes.value => axes.value,
            (Some(found), None) if [0, 2, 3].contains(&found.wrapping_sub(fixed)) => found - fixed,
            (None, Some(axes)) => axes.value,
            (Some(found), _) => {
                return Err(self.error(
                    "pfn.in_features",
                    format!(
                        "the PFN has {found} columns, but {columns} point columns, 3 of the mean's offset, and 0, 2 or 3 \
                         of the centre's make other numbers; name the point columns with --columns"
                    ),
                ));
            }
            (None, None) => {
                return Err(self.error(
                    "pfn.center_offset_axes",
                    "missing; add the network with --pfe",
                ));
            }
        };
        self.section("[pfn]");
        if let Some(mean) = mean.filter(|mean| !mean.value) {
            self.settled("pfn.mean_offset", mean);
        }
        let found = in_features.unwrap_or(fixed + axes);
        let comment = format!("{found} columns = {columns} + {} + {axes}", fixed - columns);
        self.lines
            .push((format!("center_offset_axes = {axes}"), comment));
        match self.settle("pfn.legacy", |facts| facts.legacy)? {
            Some(legacy) => self.settled("pfn.legacy", legacy),
            None => self.left_out(
                "legacy = true",
                "if training replaced coordinates by offsets: mmdetection3d's default",
            ),
        }
        let layers = self.need("pfn.layers", "the network with --pfe", |facts| {
            facts.layers.clone()
        })?;
        let widths: Vec<i64> = layers.value.iter().copied().map(number).collect();
        self.value("pfn.layers", widths, layers.from);
        Ok(())
    }

    fn head(&mut self, tasks: &Settled<'_, Vec<Vec<String>>>) -> Result<(), ModelError> {
        self.section("[head]");
        let downsample = self.need("head.downsample", "the network with --rpn", |facts| {
            facts.downsample.map(number)
        })?;
        self.settled("head.downsample", downsample);
        let size_order = self.need("head.size_order", "--like", |facts| facts.size_order)?;
        let word = match size_order.value {
            SizeOrder::Lwh => "lwh",
            SizeOrder::Wlh => "wlh",
        };
        self.value("head.size_order", word, size_order.from);
        let rotation = self.need("head.rotation", "--like", |facts| facts.rotation)?;
        let word = match rotation.value {
            Rotation::SinCos => "sin_cos",
            Rotation::NegCosNegSin => "neg_cos_neg_sin",
        };
        self.value("head.rotation", word, rotation.from);
        let variance = self.settle("head.variance", |facts| facts.variance)?;
        if let Some(variance) = variance.filter(|variance| variance.value) {
            self.settled("head.variance", variance);
        }
        let outputs = self.settle("head.tasks", |facts| facts.outputs.clone())?;
        if tasks.value.len() == 1 && outputs.is_none() {
            return Ok(());
        }
        for (i, classes) in tasks.value.iter().enumerate() {
            self.section("[[head.tasks]]");
            self.value("head.tasks.classes", classes.clone(), tasks.from);
            if let Some(outputs) = &outputs
                && let Some(names) = outputs.value.get(i)
            {
                self.value("head.tasks.outputs", names.to_vec(), outputs.from);
            }
        }
        Ok(())
    }

    fn decode(&mut self, classes: &[String]) -> Result<(), ModelError> {
        self.section("[decode]");
        let candidates = self.need("decode.candidates", "--like", |facts| facts.candidates)?;
        let word = match candidates.value {
            Candidates::BestClass => "best_class",
            Candidates::ClassCell => "class_cell",
        };
        self.value("decode.candidates", word, candidates.from);
        let most = self.need("decode.max_candidates", "--like", |facts| {
            facts.max_candidates.map(number)
        })?;
        self.settled("decode.max_candidates", most);
        let score = self.need("decode.score", "--like", |facts| facts.score)?;
        self.settled("decode.score", score);
        if let Some(norm) = self.settle("decode.yaw_norm", |facts| facts.yaw_norm.clone())? {
            let (least, without) = norm.value;
            let of = |class: &String| if without.contains(class) { 0.0 } else { least };
            let table = by_class(classes, of);
            self.value("decode.yaw_norm", table, norm.from);
        }
        match self.settle("decode.center_range", |facts| facts.center_range)? {
            Some(range) => self.value("decode.center_range", floats(&range.value), range.from),
            None => self.left_out(
                "center_range = [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0]",
                "mmdetection3d's post_center_range",
            ),
        }
        Ok(())
    }

    fn nms(&mut self, tasks: &[Vec<String>]) -> Result<(), ModelError> {
        let steps = self.need("nms", "--like", |facts| facts.nms.clone())?;
        let classes = tasks.concat();
        for step in &steps.value {
            self.section("[[nms]]");
            match &step.kind {
                StepKind::Circle(radius) => {
                    self.value("nms.kind", "circle", steps.from);
                    self.value("nms.radius", *radius, steps.from);
                }
                StepKind::CircleByTask(radii) => {
                    if radii.len() != tasks.len() {
                        return Err(self.error(
                            "nms.radius",
                            format!(
                                "{} radii for {} tasks, by {}",
                                radii.len(),
                                tasks.len(),
                                steps.from.source
                            ),
                        ));
                    }
                    let task = |class: &String| tasks.iter().position(|task| task.contains(class));
                    let radius = |class: &String| {
                        let radius = task(class).and_then(|task| radii.get(task));
                        radius.copied().unwrap_or_default()
                    };
                    self.value("nms.kind", "circle", steps.from);
                    self.value("nms.radius", by_class(&classes, radius), steps.from);
                }
                StepKind::Iou(threshold, distance, suppressors) => {
                    self.value("nms.kind", "iou", steps.from);
                    self.value("nms.threshold", *threshold, steps.from);
                    if let Some(distance) = distance {
                        self.value("nms.search_distance", *distance, steps.from);
                    }
                    if *suppressors == Suppressors::All {
                        self.value("nms.suppressors", "all", steps.from);
                    }
                }
            }
            match &step.scope {
                StepScope::Task => self.value("nms.scope", "task", steps.from),
                StepScope::All => self.value("nms.scope", "all", steps.from),
                StepScope::Apart(apart) => {
                    let (apart, others): (Vec<_>, Vec<_>) = classes
                        .iter()
                        .cloned()
                        .partition(|class| apart.contains(class));
                    let groups: Vec<Vec<String>> = [others, apart]
                        .into_iter()
                        .filter(|group| !group.is_empty())
                        .collect();
                    self.value("nms.groups", groups, steps.from);
                }
            }
            if let Some(most) = step.max_boxes {
                self.value("nms.max_boxes", number(most), steps.from);
            }
        }
        Ok(())
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn floats(values: &[f64]) -> Vec<f64> {
    values.to_vec()
}

/// One number, or a table by class if they differ.
fn by_class(classes: &[String], of: impl Fn(&String) -> f64) -> Value {
    let values: Vec<f64> = classes.iter().map(&of).collect();
    match values.first() {
        Some(first) if values.iter().all(|value| value == first) => (*first).into(),
        _ => {
            let table: BTreeMap<String, Value> = classes
                .iter()
                .map(|class| (class.clone(), of(class).into()))
                .collect();
            Value::from(table)
        }
    }
}
