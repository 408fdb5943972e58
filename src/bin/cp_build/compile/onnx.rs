//! `cp-build compile --target onnx`: writes a folder for trtexec.

use std::fmt::Write;
use std::path::Path;

use centerpoint::build::export::write_typed;
use centerpoint::build::folder::{self, Folder};
use centerpoint::build::half::Io;

/// Writes the folder and prints the commands for the next steps.
pub(super) fn run(source: &Folder, io: &Io, out: &Path, force: bool) -> anyhow::Result<()> {
    folder::make(out, force)?;
    let typed = write_typed(source, io, out)?;
    let mut text = format!(
        "{}: network for TensorRT, {}",
        out.display(),
        typed.precision
    );
    for tensor in typed.tensors.iter().filter(|t| t.input) {
        write!(text, ", `{}` is {}", tensor.name, tensor.element)?;
        if let Some(scale) = tensor.scale {
            write!(text, " codes with scale {scale}")?;
        }
    }
    let commands = &typed.commands;
    write!(
        text,
        "\n\nRun in that folder, on the target GPU, with TensorRT 10:\n\n    {}\n\nor with TensorRT \
         11:\n\n    {}\n\nand then:\n\n    {}\n",
        commands.trtexec_10, commands.trtexec_11, commands.pack
    )?;
    crate::print(&text)
}
