//! An MCAP file of clouds and boxes, for Foxglove, Lichtblick and rerun.
//!
//! | topic | message |
//! |---|---|
//! | `/points` | `foxglove.PointCloud`: the detector's input points |
//! | `/boxes` | `foxglove.SceneUpdate`: the boxes, replacing those of the previous frame |
//!
//! Log time and publish time of both are the frame's stamp, so equal frames make equal bytes. Chunks are
//! compressed with zstd. Frames are streamed: memory holds one chunk, and 100 bytes for each chunk already
//! written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use foxglove::Encode;
use mcap::records::MessageHeader;
use mcap::{Compression, McapError, WriteOptions, Writer};
use prost::Message;

use super::foxglove::{points, scene};
use super::{FrameResult, ResultsError};
use crate::files::{FileError, OutputFile};
use crate::points::PointCloud;

/// The time and coordinate frame of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp<'a> {
    /// Nanoseconds since the epoch of the source's clock.
    pub ns: i64,
    /// The coordinate frame.
    pub frame_id: &'a str,
}

/// A writer of one MCAP file.
pub(crate) struct McapFile {
    writer: Writer<OutputFile>,
    path: PathBuf,
    /// Channel ids of points and boxes.
    channels: [u16; 2],
    frames: u32,
    bytes: Vec<u8>,
}

impl McapFile {
    /// Creates the file.
    ///
    /// # Errors
    /// [`ResultsError::File`].
    pub(crate) fn create(path: &Path) -> Result<Self, ResultsError> {
        let file = OutputFile::create(path)?;
        let options = WriteOptions::new()
            .compression(Some(Compression::Zstd))
            // Several threads split the data differently, which changes the bytes.
            .compression_threads(0)
            .library(concat!("centerpoint ", env!("CARGO_PKG_VERSION")));
        let start = || {
            let mut writer = options.create(file)?;
            let channels = [
                channel::<foxglove::messages::PointCloud>(&mut writer, "/points")?,
                channel::<foxglove::messages::SceneUpdate>(&mut writer, "/boxes")?,
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
            bytes: Vec::new(),
        })
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// [`ResultsError::NonFinite`] or [`ResultsError::UnknownClass`], before any of the frame is written;
    /// [`ResultsError::File`].
    pub(crate) fn write(
        &mut self,
        stamp: Stamp<'_>,
        cloud: &PointCloud,
        result: &FrameResult<'_>,
        classes: &[String],
    ) -> Result<(), ResultsError> {
        let boxes = scene(result, classes, stamp.ns, stamp.frame_id)?;
        let [points_channel, boxes_channel] = self.channels;
        let cloud = points(cloud, stamp.ns, stamp.frame_id);
        self.message(points_channel, stamp.ns, &cloud)?;
        self.message(boxes_channel, stamp.ns, &boxes)?;
        self.frames = self.frames.wrapping_add(1);
        Ok(())
    }

    fn message(
        &mut self,
        channel_id: u16,
        stamp_ns: i64,
        message: &impl Message,
    ) -> Result<(), ResultsError> {
        self.bytes.clear();
        message.encode_raw(&mut self.bytes);
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
            .map_err(FileError::new(&self.path, "write"))?;
        Ok(())
    }

    /// Writes the summary and closes the file. Readers treat a file without a summary as truncated.
    ///
    /// # Errors
    /// [`ResultsError::File`].
    pub(crate) fn finish(mut self) -> Result<(), ResultsError> {
        let done = self.writer.finish().map_err(io_error);
        done.map_err(FileError::new(&self.path, "write"))?;
        Ok(self.writer.into_inner().finish()?)
    }
}

/// Adds the channel of a topic with messages of type `M`.
fn channel<M: Encode>(writer: &mut Writer<OutputFile>, topic: &str) -> Result<u16, McapError> {
    let schema = match M::get_schema() {
        Some(schema) => writer.add_schema(&schema.name, &schema.encoding, &schema.data)?,
        // "No schema" in MCAP. Foxglove's own messages all have one.
        None => 0,
    };
    writer.add_channel(schema, topic, &M::get_message_encoding(), &BTreeMap::new())
}

fn io_error(error: McapError) -> io::Error {
    match error {
        McapError::Io(error) => error,
        other => io::Error::other(other),
    }
}
