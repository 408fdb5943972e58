//! An MCAP file of clouds and boxes, for Foxglove, Lichtblick and rerun.
//!
//! | topic | message |
//! |---|---|
//! | `/points` | `foxglove.PointCloud`: the points that the detector was given |
//! | `/boxes` | `foxglove.SceneUpdate`: the boxes, in place of those of the frame before |
//!
//! Both have the frame's stamp as log time and publish time: the same frames make the same bytes. Chunks are
//! compressed by zstd. Frames are written as they come; in memory is one chunk, and 100 bytes for each that
//! was written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use mcap::records::MessageHeader;
use mcap::{Compression, McapError, WriteOptions, Writer};
use prost::Message;

use super::FrameResult;
use super::foxglove::{FoxglovePoints, SceneUpdate, schema};
use crate::error::{Error, Result};
use crate::files::{FileError, OutputFile};
use crate::points::PointCloud;

/// When and where the points of a frame were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// Nanoseconds since an epoch.
    pub ns: i64,
    /// The coordinate frame.
    pub frame_id: &'a str,
}

/// A file that is being written.
pub struct McapFile {
    writer: Writer<OutputFile>,
    path: PathBuf,
    /// Channels of points and boxes.
    channels: [u16; 2],
    frames: u32,
    points: FoxglovePoints,
    bytes: Vec<u8>,
}

impl McapFile {
    /// Creates the file.
    ///
    /// # Errors
    /// [`FileError`] with the operating system's reason.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OutputFile::create(path)?;
        let options = WriteOptions::new()
            .compression(Some(Compression::Zstd))
            // Several threads cut the data otherwise, and give other bytes.
            .compression_threads(0)
            .library(concat!("centerpoint ", env!("CARGO_PKG_VERSION")));
        let start = || {
            let mut writer = options.create(file)?;
            let set = schema::file_descriptor_set();
            let mut channel = |topic, name| {
                let schema = writer.add_schema(name, "protobuf", &set)?;
                writer.add_channel(schema, topic, "protobuf", &BTreeMap::new())
            };
            let channels = [
                channel("/points", "foxglove.PointCloud")?,
                channel("/boxes", "foxglove.SceneUpdate")?,
            ];
            Ok((writer, channels))
        };
        let (writer, channels) = start()
            .map_err(io_error)
            .map_err(FileError::new(path, "write"))?;
        Ok(Self {
            writer,
            path: path.into(),
            channels,
            frames: 0,
            points: FoxglovePoints::default(),
            bytes: Vec::new(),
        })
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// [`Error::Output`] for boxes that cannot be drawn, before anything of the frame is written; [`FileError`].
    pub fn write(
        &mut self,
        stamp: Stamp<'_>,
        cloud: &PointCloud,
        result: &FrameResult<'_>,
        classes: &[String],
    ) -> Result<()> {
        let boxes = SceneUpdate::new(result, classes, stamp.ns, stamp.frame_id)?;
        self.points.set(cloud, stamp.ns, stamp.frame_id);
        let [points_channel, boxes_channel] = self.channels;
        self.bytes.clear();
        self.points.encode_raw(&mut self.bytes);
        self.message(points_channel, stamp.ns)?;
        self.bytes.clear();
        boxes.encode_raw(&mut self.bytes);
        self.message(boxes_channel, stamp.ns)?;
        self.frames = self.frames.wrapping_add(1);
        Ok(())
    }

    /// Writes what is in `bytes` as a message.
    fn message(&mut self, channel_id: u16, stamp_ns: i64) -> Result<()> {
        let time = u64::try_from(stamp_ns).unwrap_or(0);
        let header = MessageHeader {
            channel_id,
            sequence: self.frames,
            log_time: time,
            publish_time: time,
        };
        self.writer
            .write_to_known_channel(&header, &self.bytes)
            .map_err(io_error)
            .map_err(FileError::new(&self.path, "write"))
    }

    /// Writes the summary. A file without it is cut off.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn finish(mut self) -> Result<()> {
        let done = self.writer.finish().map_err(io_error);
        done.map_err(FileError::new(&self.path, "write"))?;
        Ok(self.writer.into_inner().finish()?)
    }
}

fn io_error(error: McapError) -> io::Error {
    match error {
        McapError::Io(error) => error,
        other => io::Error::other(other),
    }
}
