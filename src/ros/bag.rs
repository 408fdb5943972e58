//! ROS 2 bags (rosbag2, MCAP) as frames: the clouds of a topic, with past sweeps where the bag has transforms.
//!
//! [`Bag::open`] takes a file or a folder, as `ros2 bag record` writes it; [`Frames`] gives one frame after the
//! other. A bag of any size is read chunk by chunk, in the order of the log times. A folder's files
//! are one bag whatever they are called: they are merged by time, and `metadata.yaml`, which a recording
//! that was cut off does not have, is not needed.
//!
//! Chunks may be compressed by zstd or lz4; messages are CDR in either order of bytes.

mod cdr;
mod frames;
mod index;
mod messages;
mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use cdr::CdrError;
pub use frames::{BagFrame, FrameOptions, Frames};
pub use index::BlockError;
use index::{Index, Source};

use crate::points::RecordError;

/// Type of the topics that frames are made of.
pub const POINT_CLOUD: &str = "sensor_msgs/msg/PointCloud2";
/// Type of `/tf` and `/tf_static`.
const TRANSFORMS: &str = "tf2_msgs/msg/TFMessage";
/// How messages of ROS 2 are encoded.
const CDR: &str = "cdr";

/// An opened bag.
#[derive(Debug)]
pub struct Bag {
    path: PathBuf,
    files: Vec<(Source, Index)>,
    topics: Vec<Topic>,
}

/// A topic of a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Type of its messages, such as `sensor_msgs/msg/PointCloud2`.
    pub type_name: String,
    /// How they are encoded; `cdr` in a bag of ROS 2.
    pub encoding: String,
    /// Number of its messages.
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
    /// Opens a `.mcap`, or a folder of them. Files that end before their recording was closed are read as far
    /// as they go, with a warning.
    ///
    /// # Errors
    /// [`BagError::Io`], [`BagError::Foreign`] for other kinds of files, [`BagError::NoFiles`] and
    /// [`BagError::Damaged`] where nothing can be read.
    pub fn open(path: &Path) -> Result<Self, BagError> {
        let paths = match path.is_dir() {
            true => files_in(path)?,
            false => vec![path.to_path_buf()],
        };
        let mut files = Vec::new();
        let mut topics = BTreeMap::new();
        for path in &paths {
            let (source, index) = open(path)?;
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
            files.push((source, index));
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

    /// The topics, by name.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The topic of clouds that is meant: the one of that name, or the only one.
    ///
    /// # Errors
    /// [`BagError::Topic`] where there is none of that name, or it has no clouds; [`BagError::Choose`] without
    /// a name, where there are several or none.
    pub fn cloud_topic(&self, name: Option<&str>) -> Result<&Topic, BagError> {
        let clouds = |topic: &&Topic| topic.type_name == POINT_CLOUD && topic.encoding == CDR;
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

/// Topics for a message, a line for each.
fn list<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> String {
    let lines: Vec<String> = topics
        .into_iter()
        .map(|topic| format!("\n  {topic}"))
        .collect();
    match lines.is_empty() {
        true => " none".into(),
        false => lines.concat(),
    }
}

/// The bag's files in a folder, by name.
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
            Some(name) => other = other.or_else(|| Kind::of_name(&name).map(|kind| (path, kind))),
            None => {}
        }
    }
    files.sort_unstable();
    match (files.is_empty(), other) {
        (false, _) => Ok(files),
        (true, Some((path, kind))) => Err(BagError::Foreign { path, kind }),
        (true, None) => Err(BagError::NoFiles(folder.into())),
    }
}

/// Opens a file, and says where it is cut off.
fn open(path: &Path) -> Result<(Source, Index), BagError> {
    let io = |source| BagError::Io {
        path: path.into(),
        source,
    };
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(BagError::Foreign {
            path: path.into(),
            kind: Kind::NotAFile,
        });
    }
    let source = Source::open(path).map_err(io)?;
    let mut begin = vec![0; source.length.min(16) as usize];
    source.read(0, &mut begin).map_err(io)?;
    if !begin.starts_with(mcap::MAGIC) {
        return Err(BagError::Foreign {
            path: path.into(),
            kind: Kind::of_bytes(&begin),
        });
    }
    let index = Index::read(&source).map_err(io)?;
    if let Some(offset) = index.cut {
        if index.blocks.is_empty() {
            return Err(BagError::Damaged {
                path: path.into(),
                offset,
                bytes: source.length,
            });
        }
        log::warn!(
            "{}: the recording was cut off: no whole record at byte {offset} of {}; what comes before is read",
            path.display(),
            source.length
        );
    }
    Ok((source, index))
}

/// What a file is instead of MCAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A rosbag2 in a database.
    Sqlite,
    /// A bag of ROS 1.
    Ros1,
    /// A rosbag2 file compressed as a whole.
    Zstd,
    /// A folder, pipe or device.
    NotAFile,
    /// Something else.
    Unknown,
}

impl Kind {
    fn of_name(name: &str) -> Option<Self> {
        [
            (".db3", Kind::Sqlite),
            (".bag", Kind::Ros1),
            (".zstd", Kind::Zstd),
        ]
        .into_iter()
        .find_map(|(ending, kind)| name.ends_with(ending).then_some(kind))
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let kinds: [(&[u8], Kind); 3] = [
            (b"SQLite format 3", Kind::Sqlite),
            (b"#ROSBAG", Kind::Ros1),
            (&[0x28, 0xB5, 0x2F, 0xFD], Kind::Zstd),
        ];
        let found = kinds.iter().find(|(begin, _)| bytes.starts_with(begin));
        found.map_or(Kind::Unknown, |(_, kind)| *kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Sqlite => {
                "a bag in a sqlite3 database; convert it by `ros2 bag convert -i DRIVE -o mcap.yaml`, where \
                 mcap.yaml is `output_bags: [{uri: DRIVE_MCAP, storage_id: mcap, all: true}]`, or without \
                 ROS by `rosbags-convert --src DRIVE --dst DRIVE_MCAP --dst-storage mcap`"
            }
            Kind::Ros1 => {
                "a bag of ROS 1; convert it by `rosbags-convert --src DRIVE.bag --dst DRIVE_MCAP \
                 --dst-storage mcap`"
            }
            Kind::Zstd => "a file that is compressed as a whole; unpack it by `zstd -d`",
            Kind::NotAFile => "not a regular file",
            Kind::Unknown => "not an MCAP file",
        })
    }
}

/// Why a bag, or a frame of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BagError {
    /// The file or folder cannot be read.
    #[error("{path}: cannot read the bag: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Another kind of file.
    #[error("{path}: {kind}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// A folder without bags.
    #[error("{0}: no .mcap in this folder")]
    NoFiles(PathBuf),
    /// Not one whole record with messages.
    #[error(
        "{path}: nothing to be read: no whole record at byte {offset} of {bytes}, and no message before"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the readable part ends.
        offset: u64,
        /// The file's length.
        bytes: u64,
    },
    /// No such topic, or one of another type.
    #[error("{path}: {}; topics of clouds:{clouds}", wrong(.name, .found.as_deref()))]
    Topic {
        /// The bag.
        path: PathBuf,
        /// The topic asked for.
        name: String,
        /// What it is, if it is there.
        found: Option<Box<Topic>>,
        /// The topics that can be had.
        clouds: String,
    },
    /// No topic was asked for, and there is not just one.
    #[error("{path}: choose one with --topic; topics of clouds:{clouds}\nall topics:{topics}")]
    Choose {
        /// The bag.
        path: PathBuf,
        /// The topics that can be had.
        clouds: String,
        /// All of them.
        topics: String,
    },
    /// A chunk is damaged; its messages are lost.
    #[error("{path}: the chunk at byte {offset} is lost: {reason}")]
    Chunk {
        /// The file.
        path: PathBuf,
        /// Where it is.
        offset: u64,
        /// What is wrong with it.
        reason: BlockError,
    },
    /// A message is not what its type says.
    #[error("{path}: {topic} at {log_time} ns: {reason}")]
    Message {
        /// The file.
        path: PathBuf,
        /// The topic.
        topic: String,
        /// When it was recorded.
        log_time: u64,
        /// What is wrong with it.
        reason: CdrError,
    },
    /// A cloud contradicts itself.
    #[error("{path}: {frame}: {reason}")]
    Cloud {
        /// The file.
        path: PathBuf,
        /// The frame's name: topic and stamp.
        frame: String,
        /// What is wrong with it.
        reason: RecordError,
    },
}

impl BagError {
    /// Whether the arguments are wrong, not the bag.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Topic { .. } | Self::Choose { .. })
    }
}

/// What is wrong with a topic that was asked for.
fn wrong(name: &str, found: Option<&Topic>) -> String {
    match found {
        None => format!("there is no topic {name}"),
        Some(topic) if topic.type_name == POINT_CLOUD => {
            format!(
                "the topic {name} is encoded as `{}`, not `{CDR}`",
                topic.encoding
            )
        }
        Some(topic) => format!("the topic {name} is of the type {}", topic.type_name),
    }
}
