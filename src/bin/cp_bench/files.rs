//! The files that `cp-bench` writes: JSON and pictures.

use std::path::{Path, PathBuf};

use centerpoint::Error;
use centerpoint::bench::report::FrameTimes;
use centerpoint::bench::{Profile, Recording, Report, pictures};

use crate::args::Args;

/// Where everything goes.
pub(crate) struct Files<'a> {
    args: &'a Args,
}

impl<'a> Files<'a> {
    /// Makes sure that all files can be written: an empty one each.
    pub(crate) fn create(args: &'a Args) -> Result<Self, Error> {
        let texts = [&args.json, &args.export_times, &args.export_profile];
        for path in texts.into_iter().flatten() {
            std::fs::write(path, "").map_err(Error::io(path, "create"))?;
        }
        Ok(Self { args })
    }

    /// Writes what was asked for.
    pub(crate) fn write(
        &self,
        report: &Report,
        recordings: &[Recording],
        times: &[FrameTimes],
        profiles: &[Profile],
    ) -> Result<(), Error> {
        if let Some(path) = &self.args.json {
            write(path, serde_json::to_string_pretty(report))?;
        }
        if let Some(path) = &self.args.export_times {
            // A line a frame, as trtexec has it.
            let lines: serde_json::Result<Vec<String>> =
                times.iter().map(serde_json::to_string).collect();
            write(
                path,
                lines.map(|lines| format!("[\n{}\n]", lines.join(",\n"))),
            )?;
        }
        if let Some(path) = &self.args.export_profile {
            let all: Vec<_> = profiles.iter().map(Profile::json).collect();
            // One plan's is what trtexec writes.
            match all.as_slice() {
                [one] => write(path, serde_json::to_string_pretty(one))?,
                all => write(path, serde_json::to_string_pretty(all))?,
            }
        }
        if let Some(path) = &self.args.histogram {
            let many = report.runs.len() > 1;
            for (i, (run, recording)) in report.runs.iter().zip(recordings).enumerate() {
                let path = if many {
                    numbered(path, i + 1)
                } else {
                    path.clone()
                };
                pictures::histogram(run, recording, &report.machine).write(&path)?;
            }
        }
        if let Some(path) = &self.args.curve {
            pictures::curve(&report.runs, &report.machine).write(path)?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: serde_json::Result<String>) -> Result<(), Error> {
    text.map_err(std::io::Error::from)
        .and_then(|text| std::fs::write(path, text + "\n"))
        .map_err(Error::io(path, "write"))
}

/// `latency.png` as `latency.2.png`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let extension = path.extension().unwrap_or("png".as_ref());
    path.with_extension(format!("{number}.{}", extension.display()))
}
