//! `cp-build new-model`: a commented model.toml from exported networks or a training configuration.

use std::path::PathBuf;

use crate::Error;
use crate::build::BuildError;
use crate::build::new_model::{self, Like, Request};
use crate::cli;
use crate::files;

/// Arguments of `cp-build new-model`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).multiple(true).args(["pfe", "config"]))]
pub(crate) struct Args {
    /// Pillar feature network (pts_voxel_encoder.onnx).
    #[arg(long, value_name = "FILE.onnx", requires = "rpn")]
    pfe: Option<PathBuf>,
    /// Backbone, neck and head (pts_backbone_neck_head.onnx).
    #[arg(long, value_name = "FILE.onnx", requires = "pfe")]
    rpn: Option<PathBuf>,
    /// Flattened mmengine configuration of mmdetection3d or AWML (`Config.dump`). Nothing of it runs.
    #[arg(long, value_name = "FILE.py")]
    config: Option<PathBuf>,
    /// Whose conventions fill what no file states, such as the meaning of the rotation channels.
    #[arg(long, value_enum)]
    like: Option<LikeArg>,
    /// Class names, in the order of the heatmaps' channels.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    classes: Option<Vec<String>>,
    /// Columns of a point, in training order, such as x,y,z,intensity,t.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Detection range in metres: the least x,y,z, then the greatest.
    #[arg(long, value_name = "X,Y,Z,X,Y,Z", allow_hyphen_values = true, value_parser = cli::numbers::<6>)]
    range: Option<[f64; 6]>,
    /// Voxel size in metres: x,y [default: the range by the map's cells].
    #[arg(long, value_name = "X,Y", value_parser = cli::numbers::<2>)]
    voxel_size: Option<[f64; 2]>,
    /// The description to write.
    #[arg(long, value_name = "FILE.toml")]
    out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LikeArg {
    /// Autoware's lidar_centerpoint, AWML: sizes w, l, h; rotation (−cos, −sin); five classes
    Autoware,
    /// mmdetection3d from 1.0 on: sizes l, w, h; rotation (sin, cos); nuScenes' ten classes in six tasks
    Mmdet3d,
    /// The original CenterPoint, CUDA-CenterPoint: sizes w, l, h; rotation (−cos, −sin); nuScenes
    Nuscenes,
}

/// Runs `cp-build new-model`.
pub(crate) fn run(args: Args) -> crate::Result<()> {
    let inputs = [&args.pfe, &args.rpn, &args.config].into_iter().flatten();
    cli::check_outputs([&*args.out], inputs.map(PathBuf::as_path))?;
    if !args.force && args.out.exists() {
        return Err(BuildError::Exists { path: args.out }.into());
    }
    if args.config.is_none() && args.like.is_none() {
        let message = "networks do not state what their values mean: add --like or --config";
        return Err(Error::Usage(message.into()));
    }
    let request = Request {
        like: args.like.map(|like| match like {
            LikeArg::Autoware => Like::Autoware,
            LikeArg::Mmdet3d => Like::Mmdet3d,
            LikeArg::Nuscenes => Like::Nuscenes,
        }),
        config: args.config,
        networks: args.pfe.zip(args.rpn).map(|(pfe, rpn)| [pfe, rpn]),
        classes: args.classes,
        columns: args.columns,
        range: args.range,
        voxel_size: args.voxel_size,
    };
    let (draft, model) = new_model::new_model(&request, &args.out)?;
    files::write(&args.out, draft.text.as_bytes())?;
    let mut text = format!(
        "{}: {} classes, {} × {} cells, {} outputs\n",
        args.out.display(),
        model.classes.len(),
        model.grid.nx,
        model.grid.ny,
        6 * model.head.tasks.len(),
    );
    if !draft.conventions.is_empty() {
        let keys = draft.conventions.join(", ");
        text += &format!("conventions to check, which no file states: {keys}\n");
    }
    super::print(&text)
}
