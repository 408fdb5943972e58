//! The output files of `cp-bench`: JSON and pictures.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::bench::report::FrameTimes;
use crate::bench::{Profile, Recording, Report, pictures};
use crate::files::{FileError, OutputFile};

use crate::cli;
use crate::cli::bench::args::Args;

/// The files that the arguments name.
pub(crate) struct Files<'a> {
    args: &'a Args,
    json: Option<OutputFile>,
    times: Option<OutputFile>,
    profile: Option<OutputFile>,
}

impl<'a> Files<'a> {
    /// Opens the text files: a bad path fails before the measurement, not after it.
    pub(crate) fn create(args: &'a Args) -> Result<Self, Error> {
        for picture in args.histogram.iter().chain(&args.curve) {
            cli::check_picture(picture, &["png", "svg"])?;
        }
        let open = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::create).transpose();
        Ok(Self {
            args,
            json: open(&args.json)?,
            times: open(&args.export_times)?,
            profile: open(&args.export_profile)?,
        })
    }

    /// Writes all files.
    pub(crate) fn write(
        self,
        report: &Report,
        recordings: &[Recording],
        times: &[FrameTimes],
        profiles: &[Profile],
    ) -> Result<(), Error> {
        if let Some(file) = self.json {
            write(file, serde_json::to_string_pretty(report))?;
        }
        if let Some(file) = self.times {
            // One frame per line, as trtexec writes them.
            let lines: serde_json::Result<Vec<String>> =
                times.iter().map(serde_json::to_string).collect();
            write(
                file,
                lines.map(|lines| format!("[\n{}\n]", lines.join(",\n"))),
            )?;
        }
        if let Some(file) = self.profile {
            let all: Vec<_> = profiles.iter().map(Profile::json).collect();
            // A single plan has the same form as in trtexec.
            let text = match all.as_slice() {
                [one] => serde_json::to_string_pretty(one),
                all => serde_json::to_string_pretty(all),
            };
            write(file, text)?;
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

fn write(mut file: OutputFile, text: serde_json::Result<String>) -> Result<(), Error> {
    text.map_err(std::io::Error::from)
        .and_then(|text| file.write_all((text + "\n").as_bytes()))
        .map_err(FileError::new(file.path(), "write"))?;
    Ok(file.finish()?)
}

/// Inserts a number into a file name: `latency.2.png` for `latency.png`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let extension = path.extension().unwrap_or("png".as_ref());
    path.with_extension(format!("{number}.{}", extension.display()))
}
