//! What a backbone-neck-head network says about its model without a description: the size of its map, and its heads.

use std::path::Path;

use super::outputs::tasks_of;
use crate::build::fuse::fuse;
use crate::build::onnx::shapes::text;
use crate::build::onnx::{Graph, Shapes};
use crate::build::{BuildError, Result};
use crate::map::HeadMaps;

/// The heads of a network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heads {
    /// Columns and rows of the input map.
    pub(crate) cells: [usize; 2],
    /// Input cells by output cell and axis.
    pub(crate) downsample: usize,
    /// Name and channels of each task's outputs.
    pub(crate) tasks: Vec<HeadMaps<(String, usize)>>,
    /// Whether regression outputs have as many variance channels as values.
    pub(crate) variance: bool,
}

/// Reads the network at `path`. `cells` are the columns and rows of a map whose size the file leaves open.
///
/// # Errors
/// [`BuildError`] with the path: the map's size is open and `cells` is `None`, or the outputs are no heads.
pub(crate) fn read_heads(path: &Path, cells: Option<[usize; 2]>) -> Result<Heads> {
    let mut graph = Graph::read(path)?;
    let error = |what: String| BuildError::graph(path, what);
    let inputs = graph.inputs()?;
    let [input] = &inputs[..] else {
        let names: Vec<&str> = inputs.iter().map(|value| value.name.as_str()).collect();
        return Err(error(format!(
            "expected one input, the BEV map, but it has {names:?}"
        )));
    };
    let Some(&[_, Some(channels), rows, columns]) = input.dims.as_deref() else {
        return Err(error(format!(
            "input \"{}\" has shape {}, expected [batch, channels, rows, columns]",
            input.name,
            input.shape()
        )));
    };
    let (Some(rows), Some(columns)) = (
        rows.or(cells.map(|[_, rows]| rows)),
        columns.or(cells.map(|[columns, _]| columns)),
    ) else {
        return Err(error(
            "it leaves the size of the map open; give --range and --voxel-size".into(),
        ));
    };
    let name = input.name.clone();
    let dims = [1, channels, rows, columns];
    fuse(&mut graph, &[(&name, &dims)])?;
    let shapes = Shapes::infer(&graph, &[(&name, &dims)])?;
    let mut outputs = Vec::new();
    let mut size = None;
    for output in graph.outputs()? {
        let Some(&[1, channels, rows, columns]) = shapes.get(&output.name) else {
            return Err(error(format!(
                "output \"{}\" has shape {}, expected a map",
                output.name,
                text(shapes.get(&output.name))
            )));
        };
        if *size.get_or_insert([columns, rows]) != [columns, rows] {
            return Err(error(format!(
                "output \"{}\" has another size than the others",
                output.name
            )));
        }
        outputs.push((output.name, channels));
    }
    let Some(tasks) = tasks_of(&outputs) else {
        let described =
            |(name, channels): &(String, usize)| format!("\"{name}\" ({channels} channels)");
        let described: Vec<String> = outputs.iter().map(described).collect();
        return Err(error(format!(
            "its outputs are {}, expected heatmap, reg, height, dim, rot and vel of each task",
            described.join(", ")
        )));
    };
    let variances = tasks.iter().map(|task| task.reg.1 == 4);
    let (with, without): (Vec<bool>, Vec<bool>) = variances.partition(|&variance| variance);
    if !with.is_empty() && !without.is_empty() {
        return Err(error("only some tasks have variances".into()));
    }
    let [head_columns, head_rows] = size.unwrap_or([0; 2]);
    let downsample = rows.checked_div(head_rows).unwrap_or(0);
    if [head_columns * downsample, head_rows * downsample] != [columns, rows] {
        return Err(error(format!(
            "its outputs have {head_columns} × {head_rows} cells, which do not divide the {columns} × {rows} of its \
             input"
        )));
    }
    Ok(Heads {
        cells: [columns, rows],
        downsample,
        tasks,
        variance: without.is_empty(),
    })
}
