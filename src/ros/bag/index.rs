//! What is where in one MCAP file: its topics, and the blocks that messages are read in.
//!
//! A file that was closed has a summary at its end, which says so. Without one (a recording that a power cut
//! ended, or one made without index) the file is read through once; what comes after the last whole record is
//! lost, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use mcap::McapError;
use mcap::records::op;
use mcap::sans_io::{LinearReadEvent, LinearReader, LinearReaderOptions};

use super::record::{
    Channel, ChunkHead, ChunkIndex, Fields, HEAD, MessageHead, Schema, Statistics, ends_data, head,
    records,
};

/// Most bytes of a chunk when it is decompressed; recorders make chunks of some megabytes.
pub(super) const MAX_CHUNK: u64 = 1 << 28;
/// Largest record outside of chunks.
const MAX_RECORD: u64 = 1 << 30;
/// Largest summary that is read: 100 bytes a chunk are 2 million chunks.
const MAX_SUMMARY: u64 = 1 << 28;
/// Messages outside of chunks are read in blocks of this many bytes, and up to one message more.
const RUN: u64 = 4 << 20;
/// Read at once, if that much is wanted.
const PIECE: u64 = 256 << 10;
/// Footer and the bytes that end a file.
const FOOTER: u64 = HEAD + 20 + mcap::MAGIC.len() as u64;
/// The record before the summary.
const DATA_END: u64 = HEAD + 4;

/// An opened file.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

/// What is in a file.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) channels: BTreeMap<u16, Channel>,
    /// Names of the message types by the schemas' ids.
    schemas: BTreeMap<u16, String>,
    /// Messages by channel.
    pub(super) counts: BTreeMap<u16, u64>,
    /// In the order of the file.
    pub(super) blocks: Vec<Block>,
    /// Where the readable part ends, if that is not the end of the file.
    pub(super) cut: Option<u64>,
}

/// Records that lie together in a file: a chunk, or messages outside of chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Place of the first record.
    pub(super) offset: u64,
    /// Bytes of all records.
    pub(super) length: u64,
    /// Log time of the earliest message.
    pub(super) start: u64,
    /// Channels of the messages; empty where that is not known.
    pub(super) channels: Vec<u16>,
}

impl Block {
    /// Whether there may be messages of these channels.
    pub(super) fn may_hold(&self, mut wanted: impl FnMut(u16) -> bool) -> bool {
        self.channels.is_empty() || self.channels.iter().any(|&channel| wanted(channel))
    }
}

/// Why a block cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The operating system's reason.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// Not what a chunk is, a wrong checksum, or data that do not decompress.
    #[error("{0}")]
    Mcap(#[from] McapError),
    /// No record of the kind that should be there.
    #[error("there is no chunk at this place")]
    NotAChunk,
    /// A chunk whose lengths do not fit together.
    #[error("its lengths contradict each other")]
    Lengths,
    /// A chunk that claims to be larger than any is.
    #[error("it claims {0} bytes; a chunk may have {MAX_CHUNK}")]
    TooLarge(u64),
}

impl Source {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            file,
            path: path.into(),
            length,
        })
    }

    /// Fills `bytes` from `offset` on.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }

    /// The record at `offset`: opcode, length with its head, and the first bytes of its body, at most
    /// `wanted`. `None` where the file ends before the record does.
    fn peek(&self, offset: u64, wanted: u64) -> std::io::Result<Option<(u8, u64, Vec<u8>)>> {
        let rest = self.length.saturating_sub(offset);
        let mut bytes = vec![0; rest.min(HEAD + wanted) as usize];
        self.read(offset, &mut bytes)?;
        let Some((&first, _)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let (opcode, length) = head(first);
        let Some(length) = length.checked_add(HEAD).filter(|length| *length <= rest) else {
            return Ok(None);
        };
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(Some((opcode, length, bytes.split_off(HEAD as usize))))
    }

    /// Gives `take` the records of a block, those of a chunk decompressed: opcode and body. An error may come
    /// after some of them: a checksum is known at the end.
    pub(super) fn block(
        &self,
        block: &Block,
        take: impl FnMut(u8, &[u8]),
    ) -> Result<(), BlockError> {
        let (opcode, length, start) = self
            .peek(block.offset, ChunkHead::MOST)?
            .ok_or(BlockError::NotAChunk)?;
        let longest = match opcode {
            op::CHUNK => {
                let chunk = ChunkHead::read(&start).ok_or(BlockError::Lengths)?;
                if length != block.length || HEAD + chunk.bytes + chunk.compressed != length {
                    return Err(BlockError::Lengths);
                }
                if chunk.uncompressed > MAX_CHUNK {
                    return Err(BlockError::TooLarge(chunk.uncompressed));
                }
                // No record is longer than its chunk; but for small ones the limit is that of other parts, too.
                chunk.uncompressed.max(1 << 16)
            }
            op::MESSAGE | op::CHANNEL | op::SCHEMA => MAX_RECORD,
            _ => return Err(BlockError::NotAChunk),
        };
        let options = LinearReaderOptions::default()
            .with_validate_chunk_crcs(true)
            .with_record_length_limit(longest as usize);
        self.records(block.offset, block.length, options, take)
    }

    /// Gives `take` the records of a part of the file.
    fn records(
        &self,
        offset: u64,
        length: u64,
        options: LinearReaderOptions,
        mut take: impl FnMut(u8, &[u8]),
    ) -> Result<(), BlockError> {
        let options = options
            .with_skip_start_magic(true)
            .with_skip_end_magic(true);
        let mut reader = LinearReader::new_with_options(options);
        let (mut at, end) = (offset, offset.saturating_add(length));
        while let Some(event) = reader.next_event() {
            match event? {
                LinearReadEvent::ReadRequest(wanted) => {
                    // Nothing at all tells the reader that this is the end.
                    let bytes = (wanted as u64).max(PIECE).min(end - at);
                    self.read(at, reader.insert(bytes as usize))?;
                    reader.notify_read(bytes as usize);
                    at += bytes;
                }
                LinearReadEvent::Record { data, opcode } => take(opcode, data),
            }
        }
        Ok(())
    }
}

impl Index {
    /// Finds out what is in a file, whose first bytes were looked at.
    pub(super) fn read(source: &Source) -> std::io::Result<Self> {
        match Self::from_summary(source)? {
            Some(index) => Ok(index),
            None => Self::scan(source),
        }
    }

    /// The type of a channel's messages.
    pub(super) fn type_name(&self, channel: &Channel) -> &str {
        self.schemas
            .get(&channel.schema)
            .map_or("", |name| name.as_str())
    }

    fn add(&mut self, opcode: u8, body: &[u8]) {
        match opcode {
            op::SCHEMA => {
                if let Some(schema) = Schema::read(body) {
                    self.schemas.entry(schema.id).or_insert(schema.name);
                }
            }
            op::CHANNEL => {
                if let Some(channel) = Channel::read(body) {
                    self.channels.entry(channel.id).or_insert(channel);
                }
            }
            _ => {}
        }
    }

    /// What the summary says; `None` where there is none, or one that cannot be right.
    fn from_summary(source: &Source) -> std::io::Result<Option<Self>> {
        let Some(footer) = source.length.checked_sub(FOOTER) else {
            return Ok(None);
        };
        let mut bytes = [0; FOOTER as usize];
        source.read(footer, &mut bytes)?;
        let Some((op::FOOTER, body)) = records(&bytes).next() else {
            return Ok(None);
        };
        let begin = Fields(body).u64().unwrap_or(0);
        let Some(data_end) = begin.checked_sub(DATA_END) else {
            return Ok(None);
        };
        if !bytes.ends_with(mcap::MAGIC) || begin > footer || footer - begin > MAX_SUMMARY {
            return Ok(None);
        }
        let mut index = Self::default();
        let mut statistics = None;
        let options = LinearReaderOptions::default()
            .with_validate_summary_section_crc(true)
            .with_record_length_limit(MAX_SUMMARY as usize);
        let length = source.length - data_end - mcap::MAGIC.len() as u64;
        let found = source.records(data_end, length, options, |opcode, body| match opcode {
            op::CHUNK_INDEX => {
                index
                    .blocks
                    .extend(ChunkIndex::read(body).map(|chunk| Block {
                        offset: chunk.offset,
                        length: chunk.length,
                        start: chunk.start,
                        channels: chunk.channels,
                    }));
            }
            op::STATISTICS => statistics = Statistics::read(body),
            _ => index.add(opcode, body),
        });
        match found {
            Err(BlockError::Io(error)) => return Err(error),
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        let Some(statistics) = statistics else {
            return Ok(None);
        };
        let within = |block: &Block| {
            let end = block.offset.checked_add(block.length);
            end.is_some_and(|end| end <= data_end)
        };
        let all = index.blocks.len() == statistics.chunks as usize
            && index.blocks.iter().all(within)
            && (statistics.messages == 0 || !index.blocks.is_empty())
            && (statistics.messages == 0 || !index.channels.is_empty());
        index.counts = statistics.counts.into_iter().collect();
        Ok(all.then_some(index))
    }

    /// Reads the file through.
    fn scan(source: &Source) -> std::io::Result<Self> {
        let mut index = Self::default();
        let mut run: Option<Run> = None;
        let mut at = mcap::MAGIC.len() as u64;
        loop {
            let wanted = ChunkHead::MOST.max(MessageHead::BYTES);
            let Some((opcode, length, start)) = source.peek(at, wanted)? else {
                index.cut = Some(at);
                break;
            };
            if ends_data(opcode) {
                break;
            }
            let loose = matches!(opcode, op::MESSAGE | op::CHANNEL | op::SCHEMA);
            if run.as_ref().is_some_and(|run| !loose || run.length >= RUN) {
                index.blocks.extend(run.take().and_then(Run::block));
            }
            if loose {
                let run = run.get_or_insert_with(|| Run::new(at));
                run.length += length;
                match (opcode, MessageHead::read(&start)) {
                    (op::MESSAGE, Some((message, _))) => {
                        *index.counts.entry(message.channel).or_insert(0) += 1;
                        run.add(message);
                    }
                    (op::MESSAGE, None) => {}
                    _ if length > MAX_SUMMARY => {}
                    _ => {
                        let mut body = vec![0; (length - HEAD) as usize];
                        source.read(at + HEAD, &mut body)?;
                        index.add(opcode, &body);
                    }
                }
            }
            if opcode == op::CHUNK {
                index.scan_chunk(source, at, length)?;
            }
            at += length;
        }
        index.blocks.extend(run.and_then(Run::block));
        Ok(index)
    }

    /// Adds a chunk by reading it. One that is damaged is added too, so that it is missed later.
    fn scan_chunk(&mut self, source: &Source, offset: u64, length: u64) -> std::io::Result<()> {
        let mut block = Block {
            offset,
            length,
            start: 0,
            channels: Vec::new(),
        };
        let mut run = Run::new(offset);
        let found = source.block(&block, |opcode, body| match MessageHead::read(body) {
            Some((message, _)) if opcode == op::MESSAGE => {
                *self.counts.entry(message.channel).or_insert(0) += 1;
                run.add(message);
            }
            _ => self.add(opcode, body),
        });
        match found {
            Err(BlockError::Io(error)) => return Err(error),
            Ok(()) if run.channels.is_empty() => return Ok(()),
            // What a damaged chunk holds is not known.
            Err(_) => run.channels.clear(),
            Ok(()) => {}
        }
        if run.start != u64::MAX {
            block.start = run.start;
        }
        block.channels = run.channels.into_iter().collect();
        self.blocks.push(block);
        Ok(())
    }
}

/// Messages that follow each other.
struct Run {
    offset: u64,
    length: u64,
    start: u64,
    channels: BTreeSet<u16>,
}

impl Run {
    fn new(offset: u64) -> Self {
        Self {
            offset,
            length: 0,
            start: u64::MAX,
            channels: BTreeSet::new(),
        }
    }

    fn add(&mut self, message: MessageHead) {
        self.start = self.start.min(message.log_time);
        self.channels.insert(message.channel);
    }

    /// The block, if there is a message.
    fn block(self) -> Option<Block> {
        (!self.channels.is_empty()).then(|| Block {
            offset: self.offset,
            length: self.length,
            start: self.start,
            channels: self.channels.into_iter().collect(),
        })
    }
}
