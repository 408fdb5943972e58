//! The index of one MCAP file: its topics, and the blocks in which messages are read.
//!
//! A properly closed file ends with a summary that contains the index. A file without a summary (interrupted by a power
//! cut, or recorded without an index) is scanned once; only what follows the last whole record is lost.

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

/// Maximum size of a decompressed chunk; recorders write chunks of a few megabytes.
pub(super) const MAX_CHUNK: u64 = 1 << 28;
/// Maximum size of a record outside chunks.
const MAX_RECORD: u64 = 1 << 30;
/// Maximum size of a summary: about 2 million chunks at 100 bytes each.
const MAX_SUMMARY: u64 = 1 << 28;
/// Messages outside chunks are read in blocks of this many bytes, plus at most one message.
const RUN_BYTES: u64 = 4 << 20;
/// Minimum size of a read, unless less is left.
const READ_BYTES: u64 = 256 << 10;
/// Bytes of the footer record and the magic at the end of a file.
const FOOTER: u64 = HEAD + 20 + mcap::MAGIC.len() as u64;
/// Bytes of the record before the summary.
const DATA_END: u64 = HEAD + 4;

/// An open MCAP file.
#[derive(Debug)]
pub(super) struct BagFile {
    file: File,
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

/// The contents of a file.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) channels: BTreeMap<u16, Channel>,
    /// Message types by schema id.
    schemas: BTreeMap<u16, String>,
    /// Number of messages by channel.
    pub(super) counts: BTreeMap<u16, u64>,
    /// In file order.
    pub(super) blocks: Vec<Block>,
    /// Where the readable part ends, if the file is truncated.
    pub(super) cut: Option<u64>,
}

/// A contiguous range of records: a chunk, or messages outside chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Offset of the first record.
    pub(super) offset: u64,
    /// Bytes of all records.
    pub(super) length: u64,
    /// Log time of the earliest message.
    pub(super) start: u64,
    /// Channels of the messages; empty if unknown.
    pub(super) channels: Vec<u16>,
}

impl Block {
    /// Whether the block may have messages of the wanted channels.
    pub(super) fn may_hold(&self, mut wanted: impl FnMut(u16) -> bool) -> bool {
        self.channels.is_empty() || self.channels.iter().any(|&channel| wanted(channel))
    }
}

/// Why a block cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The operating system's reason.
    #[error("cannot read")]
    Io(#[from] std::io::Error),
    /// A malformed chunk, a wrong checksum, or data that do not decompress.
    #[error(transparent)]
    Mcap(#[from] McapError),
    /// Another record where the index has a chunk.
    #[error("there is no chunk at this offset")]
    NotAChunk,
    /// A chunk with contradictory lengths.
    #[error("its lengths contradict each other")]
    Lengths,
    /// A chunk that claims an implausible size.
    #[error("its decompressed size is {0} bytes; at most {MAX_CHUNK} are supported")]
    TooLarge(u64),
}

impl BagFile {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            file,
            path: path.into(),
            length,
        })
    }

    /// Fills `bytes` with the file's contents at `offset`.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }

    /// The record at `offset`: its opcode, its length including the head, and at most `limit` bytes of its body.
    /// `None` if the file ends before the record does.
    fn peek(&self, offset: u64, limit: u64) -> std::io::Result<Option<(u8, u64, Vec<u8>)>> {
        let rest = self.length.saturating_sub(offset);
        let mut bytes = vec![0; rest.min(HEAD + limit) as usize];
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

    /// Passes opcode and body of each record in a block to `take`, decompressing chunks. An error may come after some
    /// records, because a checksum is only known at the end.
    pub(super) fn block(
        &self,
        block: &Block,
        take: impl FnMut(u8, &[u8]),
    ) -> Result<(), BlockError> {
        let (opcode, length, start) = self
            .peek(block.offset, ChunkHead::MAX_BYTES)?
            .ok_or(BlockError::NotAChunk)?;
        let longest = match opcode {
            op::CHUNK => {
                let chunk = ChunkHead::read(&start).ok_or(BlockError::Lengths)?;
                let whole = HEAD
                    .checked_add(chunk.bytes)
                    .and_then(|head| head.checked_add(chunk.compressed));
                if length != block.length || whole != Some(length) {
                    return Err(BlockError::Lengths);
                }
                if chunk.uncompressed > MAX_CHUNK {
                    return Err(BlockError::TooLarge(chunk.uncompressed));
                }
                // A record is never longer than its chunk. The limit also covers other parts, so it has a minimum.
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

    /// Passes the records of a range of the file to `take`.
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
                LinearReadEvent::ReadRequest(bytes) => {
                    // A read of 0 bytes tells the reader that this is the end.
                    let bytes = (bytes as u64).max(READ_BYTES).min(end - at);
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
    /// Indexes a file, which starts with the magic.
    pub(super) fn read(file: &BagFile) -> std::io::Result<Self> {
        match Self::from_summary(file)? {
            Some(index) => Ok(index),
            None => Self::scan(file),
        }
    }

    /// Message type of a channel.
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

    /// The index in the summary; `None` if the summary is missing or inconsistent.
    fn from_summary(file: &BagFile) -> std::io::Result<Option<Self>> {
        let Some(footer) = file.length.checked_sub(FOOTER) else {
            return Ok(None);
        };
        let mut bytes = [0; FOOTER as usize];
        file.read(footer, &mut bytes)?;
        let Some((op::FOOTER, body)) = records(&bytes).next() else {
            return Ok(None);
        };
        let summary = Fields(body).u64().unwrap_or(0);
        let Some(data_end) = summary.checked_sub(DATA_END) else {
            return Ok(None);
        };
        if !bytes.ends_with(mcap::MAGIC) || summary > footer || footer - summary > MAX_SUMMARY {
            return Ok(None);
        }
        let mut index = Self::default();
        let mut statistics = None;
        let options = LinearReaderOptions::default()
            .with_validate_summary_section_crc(true)
            .with_record_length_limit(MAX_SUMMARY as usize);
        let length = file.length - data_end - mcap::MAGIC.len() as u64;
        let found = file.records(data_end, length, options, |opcode, body| match opcode {
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
        let complete = index.blocks.len() == statistics.chunks as usize
            && index.blocks.iter().all(within)
            && (statistics.messages == 0 || !index.blocks.is_empty())
            && (statistics.messages == 0 || !index.channels.is_empty());
        index.counts = statistics.counts.into_iter().collect();
        Ok(complete.then_some(index))
    }

    /// Indexes the file by reading it.
    fn scan(file: &BagFile) -> std::io::Result<Self> {
        let mut index = Self::default();
        let mut run: Option<Run> = None;
        let mut at = mcap::MAGIC.len() as u64;
        loop {
            let limit = ChunkHead::MAX_BYTES.max(MessageHead::BYTES);
            let Some((opcode, length, start)) = file.peek(at, limit)? else {
                index.cut = Some(at);
                break;
            };
            if ends_data(opcode) {
                break;
            }
            let loose = matches!(opcode, op::MESSAGE | op::CHANNEL | op::SCHEMA);
            if run
                .as_ref()
                .is_some_and(|run| !loose || run.length >= RUN_BYTES)
            {
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
                        file.read(at + HEAD, &mut body)?;
                        index.add(opcode, &body);
                    }
                }
            }
            if opcode == op::CHUNK {
                index.scan_chunk(file, at, length)?;
            }
            at += length;
        }
        index.blocks.extend(run.and_then(Run::block));
        Ok(index)
    }

    /// Indexes a chunk by reading it. A damaged chunk is added too, so that reading it reports the loss.
    fn scan_chunk(&mut self, file: &BagFile, offset: u64, length: u64) -> std::io::Result<()> {
        let mut block = Block {
            offset,
            length,
            start: 0,
            channels: Vec::new(),
        };
        let mut run = Run::new(offset);
        let found = file.block(&block, |opcode, body| match MessageHead::read(body) {
            Some((message, _)) if opcode == op::MESSAGE => {
                *self.counts.entry(message.channel).or_insert(0) += 1;
                run.add(message);
            }
            _ => self.add(opcode, body),
        });
        match found {
            Err(BlockError::Io(error)) => return Err(error),
            Ok(()) if run.channels.is_empty() => return Ok(()),
            // The contents of a damaged chunk are unknown.
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

/// Consecutive messages outside chunks.
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

    /// The block, if it has any messages.
    fn block(self) -> Option<Block> {
        (!self.channels.is_empty()).then(|| Block {
            offset: self.offset,
            length: self.length,
            start: self.start,
            channels: self.channels.into_iter().collect(),
        })
    }
}
