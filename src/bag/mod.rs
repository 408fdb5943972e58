//! ROS 2 bags (rosbag2, MCAP) as frames: the clouds of a topic, with past sweeps where the bag has transforms.
//!
//! [`Bag::open`] takes a file, or a folder as written by `ros2 bag record`; [`Frames`] returns frame after frame.
//! Bags are read chunk by chunk in log time order, so their size does not matter. All `.mcap` files of a folder are
//! one bag, whatever their names: they are merged by time. `metadata.yaml` is ignored, because an interrupted
//! recording does not have one.
//!
//! Chunks may be compressed with zstd or lz4; messages are CDR in either byte order.
//!
//! [`messages`], [`cloud`] and [`tf`] (message types, conversion of clouds, transform buffer) also serve the ROS 2
//! node in `ros2/`.

mod cdr;
pub(crate) mod cloud;
mod foxglove;
mod frames;
mod index;
pub(crate) mod messages;
mod reader;
mod record;
pub(crate) mod tf;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use cdr::CdrError;
pub(crate) use frames::BagFrame;
pub use frames::{FrameOptions, Frames};
pub(crate) use index::BlockError;
use index::{BagFile, Index};

use crate::chain::Chain;
use crate::points::RecordError;

/// Type of cloud topics.
pub const POINT_CLOUD: &str = "sensor_msgs/msg/PointCloud2";
/// Type of `/tf` and `/tf_static`.
const TRANSFORMS: &str = "tf2_msgs/msg/TFMessage";
/// Encoding of ROS 2 messages.
const CDR: &str = "cdr";
/// The type of clouds in this program's own files, and its encoding.
const FOXGLOVE_CLOUD: &str = "foxglove.PointCloud";
const PROTOBUF: &str = "protobuf";

/// An opened bag.
#[derive(Debug)]
pub struct Bag {
    path: PathBuf,
    files: Vec<(BagFile, Index)>,
    topics: Vec<Topic>,
}

/// A topic of a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: String,
    /// Message type, such as `sensor_msgs/msg/PointCloud2`.
    pub type_name: String,
    /// Message encoding; `cdr` in a ROS 2 bag.
    pub encoding: String,
    /// Number of messages.
    pub messages: u64,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, {} messages)",
            self.name, self.type_name, self.messages
        )
    }
}

impl Bag {
    /// Opens an `.mcap` file or a folder of them. A truncated file is read up to its last whole record, with a
    /// warning.
    ///
    /// # Errors
    /// [`BagError::Io`], [`BagError::Foreign`] for other file formats, [`BagError::NoFiles`], and
    /// [`BagError::Damaged`] if a file contains nothing readable.
    pub fn open(path: &Path) -> Result<Self, BagError> {
        let paths = if path.is_dir() {
            files_in(path)?
        } else {
            vec![path.to_path_buf()]
        };
        let mut files = Vec::new();
        let mut topics = BTreeMap::new();
        for path in &paths {
            let (file, index) = open(path)?;
            for channel in index.channels.values() {
                let key = (
                    channel.topic.clone(),
                    index.type_name(channel).to_owned(),
                    channel.encoding.clone(),
                );
                let messages = index.counts.get(&channel.id).copied().unwrap_or(0);
                let all: &mut u64 = topics.entry(key).or_insert(0);
                *all = all.saturating_add(messages);
            }
            files.push((file, index));
        }
        let topics = topics.into_iter();
        let topics = topics.map(|((name, type_name, encoding), messages)| Topic {
            name,
            type_name,
            encoding,
            messages,
        });
        Ok(Self {
            path: path.into(),
            files,
            topics: topics.collect(),
        })
    }

    /// The topics, sorted by name.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The cloud topic called `name`, or the only one if there is no name.
    ///
    /// # Errors
    /// [`BagError::Topic`] if no topic has that name or it has no clouds; [`BagError::Choose`] without a name if the
    /// bag has no cloud topic or several.
    pub fn cloud_topic(&self, name: Option<&str>) -> Result<&Topic, BagError> {
        let readable = [(POINT_CLOUD, CDR), (FOXGLOVE_CLOUD, PROTOBUF)];
        let clouds = |topic: &&Topic| readable.contains(&(&*topic.type_name, &*topic.encoding));
        let all: Vec<&Topic> = self.topics.iter().filter(clouds).collect();
        match name {
            None => match all[..] {
                [topic] => Ok(topic),
                _ => Err(BagError::Choose {
                    path: self.path.clone(),
                    clouds: list(all),
                    topics: list(&self.topics),
                }),
            },
            Some(name) => {
                let found = all.iter().find(|topic| topic.name == name);
                found.copied().ok_or_else(|| BagError::Topic {
                    path: self.path.clone(),
                    found: self
                        .topics
                        .iter()
                        .find(|topic| topic.name == name)
                        .map(|topic| Box::new(topic.clone())),
                    name: name.into(),
                    clouds: list(all),
                })
            }
        }
    }

    fn has(&self, name: &str, type_name: &str) -> bool {
        let mut topics = self.topics.iter();
        topics.any(|topic| topic.name == name && topic.type_name == type_name && topic.messages > 0)
    }
}

/// Topics for an error message, one per line.
fn list<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> String {
    let lines: Vec<String> = topics
        .into_iter()
        .map(|topic| format!("\n  {topic}"))
        .collect();
    if lines.is_empty() {
        " none".into()
    } else {
        lines.concat()
    }
}

/// The `.mcap` files of a folder, sorted by name.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, BagError> {
    let io = |source| BagError::Io {
        path: folder.into(),
        source,
    };
    let (mut files, mut other) = (Vec::new(), None);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().to_ascii_lowercase());
        match name {
            Some(name) if name.ends_with(".mcap") => files.push(path),
            Some(name) => {
                let format = ForeignFormat::from_name(&name);
                other = other.or_else(|| format.map(|format| (path, format)));
            }
            None => {}
        }
    }
    files.sort_unstable();
    match (files.is_empty(), other) {
        (false, _) => Ok(files),
        (true, Some((path, format))) => Err(BagError::Foreign { path, format }),
        (true, None) => Err(BagError::NoFiles(folder.into())),
    }
}

/// Opens a file; warns if it is truncated.
fn open(path: &Path) -> Result<(BagFile, Index), BagError> {
    let io = |source| BagError::Io {
        path: path.into(),
        source,
    };
    // Checked before opening, because opening a pipe would block until it has a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(BagError::Foreign {
            path: path.into(),
            format: ForeignFormat::NotAFile,
        });
    }
    let file = BagFile::open(path).map_err(io)?;
    let mut start = vec![0; file.length.min(16) as usize];
    file.read(0, &mut start).map_err(io)?;
    if !start.starts_with(mcap::MAGIC) {
        return Err(BagError::Foreign {
            path: path.into(),
            format: ForeignFormat::from_start(&start),
        });
    }
    let index = Index::read(&file).map_err(io)?;
    if let Some(offset) = index.cut {
        if index.blocks.is_empty() {
            return Err(BagError::Damaged {
                path: path.into(),
                offset,
                bytes: file.length,
            });
        }
        log::warn!(
            "{}: the recording is truncated: it has no whole record at byte {offset} of {}; reading what comes before",
            path.display(),
            file.length
        );
    }
    Ok((file, index))
}

/// The format of a file that is not MCAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignFormat {
    /// A rosbag2 database.
    Sqlite,
    /// A ROS 1 bag.
    Ros1,
    /// A rosbag2 file compressed as a whole.
    Zstd,
    /// A folder, pipe or device.
    NotAFile,
    /// Something else.
    Unknown,
}

impl ForeignFormat {
    fn from_name(name: &str) -> Option<Self> {
        [
            (".db3", Self::Sqlite),
            (".bag", Self::Ros1),
            (".zstd", Self::Zstd),
        ]
        .into_iter()
        .find_map(|(extension, format)| name.ends_with(extension).then_some(format))
    }

    /// The format of a file that starts with these bytes.
    fn from_start(bytes: &[u8]) -> Self {
        let formats: [(&[u8], Self); 3] = [
            (b"SQLite format 3", Self::Sqlite),
            (b"#ROSBAG", Self::Ros1),
            (&cdr::ZSTD, Self::Zstd),
        ];
        let found = formats.iter().find(|(magic, _)| bytes.starts_with(magic));
        found.map_or(Self::Unknown, |(_, format)| *format)
    }
}

impl fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => {
                "a bag in an SQLite database; convert it with `ros2 bag convert -i DRIVE -o mcap.yaml`, where \
                 mcap.yaml is `output_bags: [{uri: DRIVE_MCAP, storage_id: mcap, all: true}]`, or without \
                 ROS with `rosbags-convert --src DRIVE --dst DRIVE_MCAP --dst-storage mcap`"
            }
            Self::Ros1 => {
                "a ROS 1 bag; convert it with `rosbags-convert --src DRIVE.bag --dst DRIVE_MCAP \
                 --dst-storage mcap`"
            }
            Self::Zstd => "compressed as a whole; decompress it with `zstd -d`",
            Self::NotAFile => "not a regular file",
            Self::Unknown => "not an MCAP file",
        })
    }
}

/// Why a bag or one of its frames cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BagError {
    /// The file or folder cannot be read.
    #[error("{path}: cannot read the bag")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Not an MCAP file.
    #[error("{path}: {format}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: ForeignFormat,
    },
    /// A folder without bags.
    #[error("{0}: no .mcap in this folder")]
    NoFiles(PathBuf),
    /// A truncated file without a single message.
    #[error(
        "{path}: nothing to read: no whole record at byte {offset} of {bytes}, and no message before it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the readable part ends.
        offset: u64,
        /// The file's length.
        bytes: u64,
    },
    /// The topic does not exist or has no clouds.
    #[error("{path}: {}; cloud topics:{clouds}", wrong(.name, .found.as_deref()))]
    Topic {
        /// The bag.
        path: PathBuf,
        /// The requested topic.
        name: String,
        /// The topic of that name, if there is one.
        found: Option<Box<Topic>>,
        /// The cloud topics, one per line.
        clouds: String,
    },
    /// No topic was requested, and the bag does not have exactly one.
    #[error("{path}: choose a topic with --topic; cloud topics:{clouds}\nall topics:{topics}")]
    Choose {
        /// The bag.
        path: PathBuf,
        /// The cloud topics, one per line.
        clouds: String,
        /// All topics, one per line.
        topics: String,
    },
    /// A chunk is damaged; its messages are lost.
    #[error("{path}: the chunk at byte {offset} is lost: {}", Chain(.reason))]
    Chunk {
        /// The file.
        path: PathBuf,
        /// Its position.
        offset: u64,
        /// What is wrong with it.
        reason: BlockError,
    },
    /// A message does not match its type.
    #[error("{path}: {topic} at {log_time} ns: {}", Chain(.reason))]
    Message {
        /// The file.
        path: PathBuf,
        /// The topic.
        topic: String,
        /// When it was recorded, in ns.
        log_time: u64,
        /// What is wrong with it.
        reason: CdrError,
    },
    /// A `foxglove.PointCloud` is invalid.
    #[error("{path}: {topic} at {log_time} ns: {reason}")]
    Foxglove {
        /// The file.
        path: PathBuf,
        /// The topic.
        topic: String,
        /// When it was recorded, in ns.
        log_time: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A cloud is inconsistent.
    #[error("{path}: {frame}: {}", Chain(.reason))]
    Cloud {
        /// The file.
        path: PathBuf,
        /// The frame's name: `TOPIC@STAMP`.
        frame: String,
        /// What is wrong with it.
        reason: RecordError,
    },
}

impl BagError {
    /// Whether the request is wrong rather than the bag.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Topic { .. } | Self::Choose { .. })
    }
}

/// What is wrong with the requested topic.
fn wrong(name: &str, found: Option<&Topic>) -> String {
    match found {
        None => format!("there is no topic {name}"),
        Some(topic) if topic.type_name == POINT_CLOUD => {
            format!(
                "the topic {name} is encoded as `{}`, not `{CDR}`",
                topic.encoding
            )
        }
        Some(topic) => format!("the topic {name} has the type {}", topic.type_name),
    }
}
