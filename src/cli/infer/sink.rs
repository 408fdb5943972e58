//! The output of `cp-infer`: a text stream, a nuScenes file, a folder, pictures, or an MCAP file.

use std::collections::BTreeMap;
use std::io::{self, StdoutLock, Write, stdout};
use std::path::{Path, PathBuf};

use crate::draw::bev::{self, BevOptions};
use crate::files::{self, FileError, OutputFile};
#[cfg(feature = "mcap")]
use crate::results::mcap::{McapFile, Stamp};
use crate::results::nuscenes::{Results, SampleBox, sample_token};
use crate::results::{FrameResult, ResultsError, json, kitti, table};
use crate::{Detector, Error};

use crate::cli;
use crate::cli::infer::args::{Args, Format};
use crate::cli::input::{Input, InputFrame};

/// Stands for a path in errors.
const STDOUT: &str = "standard output";

/// The destination of text.
enum Stream {
    File(OutputFile),
    Stdout(StdoutLock<'static>),
}

impl Stream {
    /// Writes with `text`, and names the stream in errors.
    fn write(
        &mut self,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), FileError> {
        match self {
            Self::File(file) => text(file).map_err(FileError::new(file.path(), "write")),
            Self::Stdout(out) => text(out).map_err(FileError::new(Path::new(STDOUT), "write")),
        }
    }

    fn finish(self) -> Result<(), FileError> {
        match self {
            Self::File(file) => file.finish(),
            Self::Stdout(mut out) => out
                .flush()
                .map_err(FileError::new(Path::new(STDOUT), "write")),
        }
    }
}

/// Writes the frames' results one after the other.
pub(crate) struct Sink {
    format: Format,
    classes: Vec<String>,
    /// `[min_x, min_y, max_x, max_y]` of the pictures.
    range: [f32; 4],
    stream: Stream,
    /// Folder for one KITTI file per frame.
    folder: Option<PathBuf>,
    /// Picture, or folder for one per frame.
    bev: Option<PathBuf>,
    many: bool,
    results: Results,
    #[cfg(feature = "mcap")]
    mcap: Option<McapFile>,
}

impl Sink {
    /// Opens all outputs, before the first frame is read.
    pub(crate) fn open(args: &Args, detector: &Detector, input: &Input) -> Result<Self, Error> {
        let (format, many) = (args.format(), input.many());
        if args.bev.is_some() || matches!(format, Format::Kitti | Format::Nuscenes) {
            check_names(input.paths())?;
        }
        if let Some(picture) = args.bev.as_ref().filter(|_| !many) {
            cli::check_picture(picture, &["png"])?;
        }
        let folder = args.out.clone().filter(|_| format == Format::Kitti && many);
        let folders = folder.iter().chain(args.bev.iter().filter(|_| many));
        for path in folders {
            std::fs::create_dir_all(path).map_err(FileError::new(path, "create"))?;
        }
        #[cfg(feature = "mcap")]
        let mcap = match &args.out {
            Some(path) if format == Format::Mcap => Some(McapFile::create(path)?),
            _ => None,
        };
        let stream = match &args.out {
            Some(path) if folder.is_none() && format != Format::Mcap => {
                Stream::File(OutputFile::create(path)?)
            }
            _ => Stream::Stdout(stdout().lock()),
        };
        let model = detector.model();
        let (min, max) = (model.grid.min, model.grid.max);
        Ok(Self {
            format,
            classes: model.classes.clone(),
            range: [min[0], min[1], max[0], max[1]],
            stream,
            folder,
            bev: args.bev.clone(),
            many,
            results: Results::default(),
            #[cfg(feature = "mcap")]
            mcap,
        })
    }

    /// Writes one frame.
    pub(crate) fn write(
        &mut self,
        frame: &InputFrame<'_>,
        result: &FrameResult<'_>,
    ) -> Result<(), Error> {
        self.draw(frame, result)?;
        let text = match self.format {
            Format::Table => table::text(result, &self.classes),
            Format::Json => json::line(result, &self.classes)?,
            Format::Kitti => kitti::text(result, &self.classes)?,
            Format::Mcap => return self.write_mcap(frame, result),
            Format::Nuscenes => {
                let token = frame.token.clone();
                let boxes = result
                    .boxes
                    .iter()
                    .filter_map(|b| {
                        let class = self.classes.get(b.class as usize)?;
                        Some(SampleBox::from_box3d(b, &token, class))
                    })
                    .collect();
                self.results.results.insert(token, boxes);
                return Ok(());
            }
        };
        match &self.folder {
            Some(folder) => {
                let file = folder.join(format!("{}.txt", frame.token));
                files::write(&file, text.as_bytes())?;
            }
            None => self.stream.write(|out| out.write_all(text.as_bytes()))?,
        }
        Ok(())
    }

    /// Writes what needs all frames, and completes the files.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        if self.format == Format::Nuscenes {
            self.results.meta.insert("use_lidar".into(), true.into());
            self.stream.write(|out| self.results.write_to(out))?;
        }
        #[cfg(feature = "mcap")]
        if let Some(mcap) = self.mcap {
            mcap.finish()?;
        }
        Ok(self.stream.finish()?)
    }

    #[cfg(feature = "mcap")]
    fn write_mcap(
        &mut self,
        frame: &InputFrame<'_>,
        result: &FrameResult<'_>,
    ) -> Result<(), Error> {
        let Some(mcap) = &mut self.mcap else {
            return Ok(());
        };
        let stamp = Stamp {
            ns: frame.stamp_ns,
            frame_id: &frame.frame_id,
        };
        Ok(mcap.write(stamp, frame.cloud, result, &self.classes)?)
    }

    /// Unreachable: the arguments are rejected without MCAP.
    #[cfg(not(feature = "mcap"))]
    fn write_mcap(
        &mut self,
        _frame: &InputFrame<'_>,
        _result: &FrameResult<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn draw(&self, frame: &InputFrame<'_>, result: &FrameResult<'_>) -> Result<(), Error> {
        let Some(bev) = &self.bev else { return Ok(()) };
        let title = &frame.token;
        let file = if self.many {
            bev.join(format!("{title}.png"))
        } else {
            bev.clone()
        };
        let options = BevOptions {
            range: self.range,
            classes: &self.classes,
            title,
            total_ms: result.times.map(|times| times.total),
            ..BevOptions::default()
        };
        Ok(bev::render(frame.cloud, result.boxes, None, &options)?.write_png(&file)?)
    }
}

/// Checks that the frames' stems differ: results of `a/0.bin` and `b/0.bin` would overwrite each other.
fn check_names(frames: &[PathBuf]) -> Result<(), ResultsError> {
    let mut names = BTreeMap::new();
    for second in frames {
        let name = sample_token(second);
        if let Some(first) = names.insert(name.clone(), second) {
            let (first, second) = (first.clone(), second.clone());
            return Err(ResultsError::SameName {
                name,
                first,
                second,
            });
        }
    }
    Ok(())
}
