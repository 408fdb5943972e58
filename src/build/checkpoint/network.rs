//! Builds the networks of the family from a state dict: the PFN, and SECOND with SECONDFPN and CenterHead.
//!
//! Shapes state channels, kernels and the number of layers. What they do not state comes from the configuration, or else:
//!
//! - **strides of the backbone** from the size of the head's maps, if every block has a branch in the neck: block *k* has the
//!   product of strides `head.downsample` · factor of branch *k*;
//! - **convolution or deconvolution** in the neck from the axis that fits the block's channels. Where both fit, the range of
//!   a quantised weight may tell; else the configuration must.

use super::CheckpointError;
use super::builder::Builder;
use super::layers::{Layer, Reader, Shape};
use super::scales::is_on_axis_1;
use super::state::State;
use crate::build::onnx::proto::{AttributeProto, DimensionProto, ValueInfoProto};
use crate::build::onnx::tensor::from_integers;
use crate::build::onnx::{Graph, make};
use crate::build::{BuildError, Result};
use crate::map::HeadMaps;
use crate::model::Model;
use crate::model::mmengine::Structure;

/// Largest number of layers of a PFN, tasks of a head, and the like: real ones have a few.
pub(super) const MAX_PARTS: usize = 64;
/// Largest stride of a block, and factor of a branch.
const MAX_STRIDE: usize = 64;
/// Names of the PFN's input and output, as AWML exports them.
const PFN_VALUES: [&str; 2] = ["input_features", "pillar_features"];
/// Name of the map that the backbone reads.
const MAP: &str = "spatial_features";

/// ε of the BatchNormalizations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epsilons {
    pub(super) encoder: f64,
    pub(super) backbone: f64,
    pub(super) neck: f64,
    /// In the head's shared convolution.
    pub(super) shared: f64,
    /// In the head's tasks.
    pub(super) tasks: f64,
}

/// The widths of the PFN's layers as the description states them: of what each layer passes on.
///
/// # Errors
/// [`CheckpointError`] for a layer that is missing or no matrix.
pub(super) fn pfn_widths(state: &mut State) -> Result<Vec<usize>> {
    let layers = state.family.encoder.to_owned() + ".pfn_layers.";
    let last = state.last(&layers).unwrap_or_default().min(MAX_PARTS);
    let mut widths = Vec::new();
    for i in 0..=last {
        let weight = state.need(&format!("{layers}{i}.linear.weight"), || "[O, I]".into())?;
        let &[outputs, _] = &weight.dims[..] else {
            let key = format!("{layers}{i}.linear.weight");
            return Err(state.misfit(&key, &weight.dims, "[O, I]".into()).into());
        };
        widths.push(if i == last { outputs } else { 2 * outputs });
    }
    Ok(widths)
}

/// Builds the PFN, in float.
///
/// # Errors
/// [`CheckpointError`] for what is missing or does not fit.
pub(super) fn pfn(reader: &mut Reader<'_>, model: &Model, eps: f64) -> Result<Graph> {
    let layers = reader.state.family.encoder.to_owned() + ".pfn_layers.";
    let count = parts(reader.state, &layers);
    let points = model.grid.max_points_per_pillar;
    let mut builder = Builder::default();
    let mut input = PFN_VALUES[0].to_owned();
    let (mut columns, mut first_columns) = (None, 0);
    for i in 0..count {
        let is_last = i + 1 == count;
        let [linear, norm_key] = ["linear", "norm"].map(|name| format!("{layers}{i}.{name}"));
        let weight_key = format!("{linear}.weight");
        let columns_text = columns.map_or("I".to_owned(), |n: usize| n.to_string());
        let expected = || format!("[O, {columns_text}]");
        let weight = reader.state.need(&weight_key, expected)?;
        let &[outputs, inputs] = &weight.dims[..] else {
            return Err(reader
                .state
                .misfit(&weight_key, &weight.dims, expected())
                .into());
        };
        if columns.is_some_and(|columns| columns != inputs) || outputs == 0 {
            return Err(reader
                .state
                .misfit(&weight_key, &weight.dims, expected())
                .into());
        }
        if i == 0 {
            first_columns = inputs;
        }
        columns = Some(2 * outputs);
        // [I, O], which a row is multiplied with.
        let transposed = (0..inputs * outputs)
            .map(|j| weight.data.get(j % outputs * inputs + j / outputs).copied());
        let transposed: Vec<f32> = transposed.map(Option::unwrap_or_default).collect();
        let name = |end: &str| format!("{layers}{i}.{end}");
        builder.constant(&weight_key, &[inputs, outputs], &transposed);
        builder.add("MatMul", &[&input, &weight_key], &name("product"));
        let mut value = name("product");
        let bias_key = format!("{linear}.bias");
        let norm = reader.norm(&norm_key, outputs, eps)?;
        if norm.is_none() || reader.state.has(&bias_key) {
            let bias = reader.state.need_row(&bias_key, outputs)?;
            builder.constant(&bias_key, &[outputs], &bias);
            builder.add("Add", &[&value, &bias_key], &name("sum"));
            value = name("sum");
        }
        if let Some(norm) = norm {
            // BatchNormalization has the channels on axis 1.
            let [before, after, rows] = ["columns", "scaled", "rows"].map(name);
            let perm = || vec![make::ints("perm", &[0, 2, 1])];
            builder.add("Transpose", &[&value], &before).attribute = perm();
            builder.norm(&norm, &before, &after);
            builder.add("Transpose", &[&after], &rows).attribute = perm();
            value = rows;
        }
        builder.add("Relu", &[&value], &name("relu"));
        let max = if is_last {
            PFN_VALUES[1].to_owned()
        } else {
            name("max")
        };
        let reduce = builder.add("ReduceMax", &[&name("relu")], &max);
        reduce.attribute = vec![
            make::ints("axes", &[1]),
            make::int("keepdims", i64::from(!is_last)),
        ];
        if !is_last {
            let [repeats, tiled, joined] = ["repeats", "tiled", "joined"].map(name);
            builder
                .tensors
                .push(from_integers(&repeats, &[3], &[1, points as i64, 1]));
            builder.add("Tile", &[&max, &repeats], &tiled);
            let concat = builder.add("Concat", &[&name("relu"), &tiled], &joined);
            concat.attribute = vec![make::int("axis", 2)];
            input = joined;
        }
    }
    let width = columns.unwrap_or_default() / 2;
    let value = |name: &str, dims: &[usize]| {
        let mut axes = vec![DimensionProto {
            dim_param: Some("pillars".into()),
            ..Default::default()
        }];
        axes.extend(dims.iter().map(|&n| make::axis(n)));
        make::value(name, Some(axes))
    };
    let ends = (
        value(PFN_VALUES[0], &[points, first_columns]),
        vec![value(PFN_VALUES[1], &[width])],
    );
    builder.graph(reader.state.path(), "pfn", ends.0, ends.1)
}

/// A branch of the neck.
struct Branch {
    layer: Layer,
    /// Output cells by input cell and axis.
    factor: f64,
    op: &'static str,
}

/// Builds backbone, neck and head.
///
/// # Errors
/// [`CheckpointError`] for what is missing or does not fit.
pub(super) fn rpn(
    reader: &mut Reader<'_>,
    model: &Model,
    structure: Option<&Structure>,
    eps: Epsilons,
) -> Result<Graph> {
    let family = reader.state.family;
    let mut channels = model.bev_channels();
    let mut blocks = Vec::new();
    let mut widths = Vec::new();
    for i in 0..parts(reader.state, &format!("{}.blocks.", family.backbone)) {
        let block = block(reader, i, channels, structure, eps.backbone)?;
        channels = block.last().map_or(0, Layer::outputs);
        widths.push(channels);
        blocks.push(block);
    }
    let branches = branches(reader, &widths, structure, eps.neck)?;
    let skipped = widths.len() - branches.len();
    let strides = strides(reader.state, model, structure, widths.len(), &branches)?;

    let mut builder = Builder::default();
    let mut value = MAP.to_owned();
    let mut joined = Vec::new();
    let mut branches = branches.into_iter();
    let mut neck_channels = 0;
    for (i, (block, stride)) in blocks.iter().zip(strides).enumerate() {
        for (j, layer) in block.iter().enumerate() {
            let stride = if j == 0 { stride } else { 1 };
            let window = window(layer.kernel(), stride, true);
            value = conv_relu(&mut builder, layer, "Conv", window, &value);
        }
        if i >= skipped
            && let Some(branch) = branches.next()
        {
            let Branch { layer, op, .. } = &branch;
            let window = window(layer.kernel(), layer.kernel(), false);
            neck_channels += layer.outputs();
            joined.push(conv_relu(&mut builder, layer, op, window, &value));
        }
    }
    value = match &joined[..] {
        [only] => only.clone(),
        _ => {
            let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
            let output = format!("{}.joined", family.neck);
            builder.add("Concat", &joined, &output).attribute = vec![make::int("axis", 1)];
            output
        }
    };
    let outputs = head(reader, &mut builder, &value, neck_channels, model, eps)?;
    let dims = [1, model.bev_channels(), model.grid.ny, model.grid.nx];
    let input = make::value(MAP, Some(dims.map(make::axis).to_vec()));
    builder.graph(reader.state.path(), "backbone_neck_head", input, outputs)
}

/// The number of numbered parts: all up to the largest number must be there.
fn parts(state: &State, start: &str) -> usize {
    state
        .last(start)
        .map_or(1, |last| last.saturating_add(1))
        .min(MAX_PARTS)
}

/// A block of the backbone: 3 × 3 convolutions, each with a BatchNormalization and a ReLU.
fn block(
    reader: &mut Reader<'_>,
    index: usize,
    mut channels: usize,
    structure: Option<&Structure>,
    eps: f64,
) -> Result<Vec<Layer>> {
    let family = reader.state.family;
    let start = format!("{}.blocks.{index}.", family.backbone);
    // A padding comes first in det3d.
    let first = usize::from(family.plain);
    let last = reader.state.last(&start).unwrap_or_default();
    let found = last.saturating_sub(first).min(3 * MAX_PARTS) / 3 + 1;
    let stated = structure.and_then(|s| s.layer_nums.as_ref()?.get(index).copied());
    let count = stated.map_or(found, |stated| found.max(stated.saturating_add(1)));
    let mut layers = Vec::new();
    for j in 0..count {
        let place = first + 3 * j;
        let [conv, norm] = [place, place + 1].map(|place| format!("{start}{place}"));
        let shape = Shape {
            axis: 0,
            inputs: channels,
            kernels: &[3],
        };
        let layer = reader.layer(&conv, Some(&norm), eps, shape)?;
        channels = layer.outputs();
        layers.push(layer);
    }
    Ok(layers)
}

/// The branches of the neck, for the last blocks, whose outputs have these `widths`.
fn branches(
    reader: &mut Reader<'_>,
    widths: &[usize],
    structure: Option<&Structure>,
    eps: f64,
) -> Result<Vec<Branch>> {
    let start = format!("{}.deblocks.", reader.state.family.neck);
    let count = parts(reader.state, &start);
    let Some(of) = widths
        .len()
        .checked_sub(count)
        .and_then(|n| widths.get(n..))
    else {
        let what = format!("{count} branches of the neck for {} blocks", widths.len());
        return Err(strides_error(reader.state, what));
    };
    let factors = structure.and_then(|s| s.upsample.as_ref());
    let mut branches = Vec::new();
    for (k, &inputs) in of.iter().enumerate() {
        let [conv, norm] = [0, 1].map(|place| format!("{start}{k}.{place}"));
        let stated = match factors {
            Some(factors) => match factors.get(k) {
                Some(&factor) => Some((factor, structure.is_some_and(|s| s.conv_for_no_stride))),
                None => {
                    let what = format!("{} factors for {count} branches", factors.len());
                    return Err(strides_error(reader.state, what));
                }
            },
            None => None,
        };
        let (axis, kernel) = branch_shape(reader.state, &conv, inputs, stated)?;
        let shape = Shape {
            axis,
            inputs,
            kernels: &[kernel],
        };
        let layer = reader.layer(&conv, Some(&norm), eps, shape)?;
        branches.push(if axis == 1 {
            Branch {
                layer,
                factor: kernel as f64,
                op: "ConvTranspose",
            }
        } else {
            Branch {
                layer,
                factor: 1.0 / kernel as f64,
                op: "Conv",
            }
        });
    }
    Ok(branches)
}

/// The axis of a branch's output channels, and its kernel, which is its stride. `stated` holds the factor and whether a
/// branch of factor 1 is a convolution.
fn branch_shape(
    state: &State,
    key: &str,
    inputs: usize,
    stated: Option<(f64, bool)>,
) -> Result<(usize, usize)> {
    let plain = state.family.plain;
    if let Some((factor, conv_for_no_stride)) = stated {
        let is_deconvolution = factor > 1.0 || (factor == 1.0 && !conv_for_no_stride && !plain);
        let stride = if is_deconvolution {
            factor
        } else {
            (1.0 / factor).round()
        };
        if !(1.0..=MAX_STRIDE as f64).contains(&stride) || stride.fract() != 0.0 {
            let what = format!("the configuration has the factor {factor} for `{key}`");
            return Err(strides_error(state, what));
        }
        return Ok((usize::from(is_deconvolution), stride as usize));
    }
    let weight = format!("{key}.weight");
    let missing = || format!("[{inputs}, O, k, k] or [O, {inputs}, k, k]");
    let Some(dims) = state.dims(&weight) else {
        return Err(CheckpointError::Missing {
            path: state.path().into(),
            key: state.full(&weight),
            expected: missing(),
        }
        .into());
    };
    let &[a, b, kernel, columns] = dims else {
        return Err(state.misfit(&weight, dims, missing()).into());
    };
    // det3d writes a branch of factor 1 as a convolution.
    let may_be_deconvolution = a == inputs && !(plain && kernel == 1);
    if kernel != columns || !(1..=MAX_STRIDE).contains(&kernel) || (a != inputs && b != inputs) {
        return Err(state.misfit(&weight, dims, missing()).into());
    }
    match (may_be_deconvolution, b == inputs) {
        (true, true) if is_on_axis_1(state, key) => Ok((1, kernel)),
        (true, true) => {
            let what = format!(
                "`{}` of shape {dims:?} may be a convolution or a deconvolution",
                state.full(&weight)
            );
            Err(strides_error(state, what))
        }
        (is_deconvolution, _) => Ok((usize::from(is_deconvolution), kernel)),
    }
}

/// The stride of each of `count` blocks, and a check that all branches give maps of one size.
fn strides(
    state: &State,
    model: &Model,
    structure: Option<&Structure>,
    count: usize,
    branches: &[Branch],
) -> Result<Vec<usize>> {
    let error = |what: String| Err(strides_error(state, what));
    let skipped = count - branches.len();
    let stated = structure.and_then(|s| s.strides.clone());
    let strides = match stated {
        Some(strides) => strides,
        None if skipped > 0 => {
            return error(format!(
                "nothing states the strides of the backbone: only {} of {count} blocks have a branch",
                branches.len()
            ));
        }
        None => {
            let mut before = 1.0;
            let mut strides = Vec::new();
            for (k, branch) in branches.iter().enumerate() {
                let product = model.head.downsample as f64 * branch.factor;
                let stride = product / before;
                if stride.fract() != 0.0 || !(1.0..=MAX_STRIDE as f64).contains(&stride) {
                    return error(format!(
                        "with `{}` of shape {:?}, block {k} would need the stride {stride} for the `head.downsample` {} of \
                         the description",
                        state.full(&format!("{}.weight", branch.layer.key)),
                        branch.layer.weight.dims,
                        model.head.downsample
                    ));
                }
                before = product;
                strides.push(stride as usize);
            }
            strides
        }
    };
    let is_stride = |stride: &usize| (1..=MAX_STRIDE).contains(stride);
    if strides.len() != count || !strides.iter().all(is_stride) {
        return error(format!(
            "the configuration has the strides {strides:?} for {count} blocks"
        ));
    }
    let mut product = 1.0;
    let mut sizes = Vec::new();
    for (i, &stride) in strides.iter().enumerate() {
        product *= stride as f64;
        let branch = i.checked_sub(skipped).and_then(|k| branches.get(k));
        sizes.extend(branch.map(|branch| product / branch.factor));
    }
    let expected = model.head.downsample as f64;
    if sizes.iter().any(|&size| size != expected) {
        let factors: Vec<f64> = branches.iter().map(|branch| branch.factor).collect();
        return error(format!(
            "with the strides {strides:?} and the factors {factors:?} of the neck, a cell of the head covers {sizes:?} \
             cells, but `head.downsample` of the description is {expected}"
        ));
    }
    Ok(strides)
}

fn strides_error(state: &State, what: String) -> BuildError {
    CheckpointError::Strides {
        path: state.path().into(),
        what,
    }
    .into()
}

/// The head: a shared convolution, and convolutions for each map of each task. Returns the graph's outputs.
fn head(
    reader: &mut Reader<'_>,
    builder: &mut Builder,
    value: &str,
    channels: usize,
    model: &Model,
    eps: Epsilons,
) -> Result<Vec<ValueInfoProto>> {
    const KERNELS: [usize; 2] = [1, 3];
    let family = reader.state.family;
    let shared = format!("{}.shared_conv", family.head);
    let (conv, norm) = if family.plain {
        ("0", "1")
    } else {
        ("conv", "bn")
    };
    let [conv, norm] = [conv, norm].map(|name| format!("{shared}.{name}"));
    let shape = |inputs| Shape {
        axis: 0,
        inputs,
        kernels: &KERNELS,
    };
    let layer = reader.layer(&conv, Some(&norm), eps.shared, shape(channels))?;
    let width = layer.outputs();
    let same = |layer: &Layer| window(layer.kernel(), 1, true);
    let shared = conv_relu(builder, &layer, "Conv", same(&layer), value);

    let tasks = format!("{}.{}.", family.head, family.tasks);
    let count = parts(reader.state, &tasks);
    let mut outputs = Vec::new();
    for task in 0..count {
        for name in HeadMaps::NAMES.into_array() {
            let part = if name == "heatmap" {
                family.heatmap
            } else {
                name
            };
            let start = format!("{tasks}{task}.{part}.");
            let last = reader
                .state
                .last(&start)
                .unwrap_or_default()
                .min(3 * MAX_PARTS);
            let (mut value, mut inputs) = (shared.clone(), width);
            // Convolutions with a BatchNormalization, then one without.
            let step = if family.plain { 3 } else { 1 };
            for place in (0..last).step_by(step) {
                let [conv, norm] = if family.plain {
                    [place, place + 1].map(|place| format!("{start}{place}"))
                } else {
                    ["conv", "bn"].map(|end| format!("{start}{place}.{end}"))
                };
                let layer = reader.layer(&conv, Some(&norm), eps.tasks, shape(inputs))?;
                inputs = layer.outputs();
                value = conv_relu(builder, &layer, "Conv", same(&layer), &value);
            }
            let layer = reader.layer(&format!("{start}{last}"), None, eps.tasks, shape(inputs))?;
            let output = if count == 1 {
                name.to_owned()
            } else {
                format!("{name}_{task}")
            };
            builder.layer(&layer, "Conv", same(&layer), &value, &output);
            let (rows, columns) = model.head_size();
            let dims = [1, layer.outputs(), rows, columns].map(make::axis);
            outputs.push(make::value(&output, Some(dims.to_vec())));
        }
    }
    Ok(outputs)
}

/// Adds a layer and its ReLU, and returns the ReLU's output.
fn conv_relu(
    builder: &mut Builder,
    layer: &Layer,
    op: &str,
    window: Vec<AttributeProto>,
    input: &str,
) -> String {
    let [linear, output] = ["linear", "relu"].map(|end| format!("{}.{end}", layer.key));
    builder.layer(layer, op, window, input, &linear);
    builder.add("Relu", &[&linear], &output);
    output
}

/// Kernel, stride, and a padding of half the kernel where it is `padded`.
fn window(kernel: usize, stride: usize, padded: bool) -> Vec<AttributeProto> {
    let pad = if padded { kernel / 2 } else { 0 };
    vec![
        make::ints("kernel_shape", &[kernel as i64; 2]),
        make::ints("strides", &[stride as i64; 2]),
        make::ints("pads", &[pad as i64; 4]),
    ]
}
