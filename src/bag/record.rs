//! The MCAP records needed for reading (<https://mcap.dev/spec>).
//!
//! A record is an opcode, an 8-byte length and a body of little-endian fields. Bodies are parsed here, never past their
//! end, because the `mcap` crate's parser allocates a string before it checks that the file has that many bytes.

use mcap::records::op;

/// Bytes of opcode and length before a record's body.
pub(super) const HEAD: u64 = 9;

/// Splits a record's head into its opcode and the length of its body.
pub(super) fn head(head: [u8; HEAD as usize]) -> (u8, u64) {
    let [opcode, length @ ..] = head;
    (opcode, u64::from_le_bytes(length))
}

/// The unread fields of a body. Methods return `None` past its end.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes prefixed with their number.
    fn block(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.bytes(count as usize)
    }

    pub(super) fn string(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.block()?).ok()
    }
}

/// A message type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schema {
    pub(super) id: u16,
    pub(super) name: String,
}

impl Schema {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        Some(Self {
            id: fields.u16()?,
            name: fields.string()?.into(),
        })
    }
}

/// One writer's view of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) id: u16,
    pub(super) schema: u16,
    pub(super) topic: String,
    /// Message encoding: `cdr` in a rosbag2.
    pub(super) encoding: String,
}

impl Channel {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        Some(Self {
            id: fields.u16()?,
            schema: fields.u16()?,
            topic: fields.string()?.into(),
            encoding: fields.string()?.into(),
        })
    }
}

/// The fields of a message that precede its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageHead {
    pub(super) channel: u16,
    /// When it was recorded: nanoseconds since an epoch.
    pub(super) log_time: u64,
}

impl MessageHead {
    /// Bytes before the data.
    pub(super) const BYTES: u64 = 22;

    /// Splits a message's body into head and data.
    pub(super) fn read(body: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = Fields(body);
        let channel = fields.u16()?;
        let _sequence = fields.u32()?;
        let log_time = fields.u64()?;
        let _publish_time = fields.u64()?;
        Some((Self { channel, log_time }, fields.0))
    }
}

/// The fields of a chunk that precede its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHead {
    /// Log time of the earliest message.
    pub(super) start: u64,
    pub(super) uncompressed: u64,
    pub(super) compressed: u64,
    /// Bytes of the head.
    pub(super) bytes: u64,
}

impl ChunkHead {
    /// Bytes of the longest supported head: names of compressions are short.
    pub(super) const MAX_BYTES: u64 = 40 + 32;

    /// Reads the head at the start of `body`, which may be truncated after it.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let start = fields.u64()?;
        let _end = fields.u64()?;
        let uncompressed = fields.u64()?;
        let _crc = fields.u32()?;
        let _compression = fields.string()?;
        let compressed = fields.u64()?;
        Some(Self {
            start,
            uncompressed,
            compressed,
            bytes: (body.len() - fields.0.len()) as u64,
        })
    }
}

/// Position of a chunk, from a file's summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChunkIndex {
    /// Log time of the earliest message.
    pub(super) start: u64,
    /// Offset of the chunk's record in the file.
    pub(super) offset: u64,
    /// Bytes of the record, including its head.
    pub(super) length: u64,
    /// Channels with messages in the chunk; empty if the writer did not index messages.
    pub(super) channels: Vec<u16>,
}

impl ChunkIndex {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let start = fields.u64()?;
        let _end = fields.u64()?;
        let offset = fields.u64()?;
        let length = fields.u64()?;
        let entries = fields.block()?.chunks_exact(2 + 8);
        let channels = entries.filter_map(|entry| Fields(entry).u16()).collect();
        Some(Self {
            start,
            offset,
            length,
            channels,
        })
    }
}

/// Message counts, from a file's summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statistics {
    pub(super) messages: u64,
    pub(super) chunks: u32,
    /// Channels and their numbers of messages.
    pub(super) counts: Vec<(u16, u64)>,
}

impl Statistics {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let messages = fields.u64()?;
        let _schemas = fields.u16()?;
        let [_channels, _attachments, _metadata, chunks] =
            [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
        let _times = (fields.u64()?, fields.u64()?);
        let entries = fields.block()?.chunks_exact(2 + 8);
        let counts = entries.filter_map(|entry| {
            let mut fields = Fields(entry);
            Some((fields.u16()?, fields.u64()?))
        });
        Some(Self {
            messages,
            chunks,
            counts: counts.collect(),
        })
    }
}

/// Iterates over records in memory as (opcode, body). Stops before an incomplete record.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (start, rest) = bytes.split_first_chunk()?;
        let (opcode, length) = head(*start);
        let (body, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        bytes = rest;
        Some((opcode, body))
    })
}

/// Whether a record with this opcode ends a file's data section.
pub(super) fn ends_data(opcode: u8) -> bool {
    matches!(opcode, op::DATA_END | op::FOOTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_never_read_past_the_end() {
        let mut fields = Fields(&[1, 0, 255, 255, 255, 255, b'a']);
        assert_eq!(fields.u16(), Some(1));
        assert_eq!(fields.string(), None);
        assert_eq!(Fields(&[2, 0, 0, 0, b'a', b'b']).string(), Some("ab"));
        assert_eq!(Fields(&[2, 0, 0, 0, 0xC3, 0x28]).string(), None);
        let whole = [
            7, 2, 0, 0, 0, 0, 0, 0, 0, 8, 9, 5, 9, 0, 0, 0, 0, 0, 0, 0, 1,
        ];
        let found: Vec<_> = records(&whole).collect();
        assert_eq!(found, [(7, &[8, 9][..])]);
    }
}
