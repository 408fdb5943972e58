//! The messages of one topic of a bag in log time order, with only a few chunks in memory.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use mcap::records::op;

use super::record::MessageHead;
use super::{Bag, BagError};

/// Maximum bytes of messages read ahead. Chunks overlap in time by a few messages; if they overlap by more than this,
/// messages are ordered only within this window.
const MAX_HELD: usize = 256 << 20;

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// When it was recorded: nanoseconds since an epoch.
    pub(super) log_time: u64,
    /// Index of its file in the bag.
    pub(super) file: usize,
    /// The encoded message.
    pub(super) data: Vec<u8>,
    /// Keeps messages with equal log times in the order in which they were read.
    serial: u64,
}

/// Iterates over a topic's messages.
pub(super) struct TopicReader {
    bag: Arc<Bag>,
    /// The topic's channels in each file.
    wanted: Vec<BTreeSet<u16>>,
    /// Unread blocks as (file, index), earliest last.
    blocks: Vec<(usize, usize)>,
    /// Messages that were read but not returned, earliest on top.
    waiting: BinaryHeap<Reverse<Message>>,
    /// Their bytes.
    held: usize,
    serial: u64,
}

impl TopicReader {
    /// A reader of the topic with this name and type.
    pub(super) fn new(bag: Arc<Bag>, topic: &str, type_name: &str) -> Self {
        let wanted: Vec<BTreeSet<u16>> = bag
            .files
            .iter()
            .map(|(_, index)| {
                let channels = index.channels.values().filter(|channel| {
                    channel.topic == topic && index.type_name(channel) == type_name
                });
                channels.map(|channel| channel.id).collect()
            })
            .collect();
        let mut blocks = Vec::new();
        for (file, ((_, index), wanted)) in bag.files.iter().zip(&wanted).enumerate() {
            for (number, block) in index.blocks.iter().enumerate() {
                if !wanted.is_empty() && block.may_hold(|id| wanted.contains(&id)) {
                    blocks.push((block.start, file, number));
                }
            }
        }
        blocks.sort_unstable();
        let blocks = blocks.into_iter().rev();
        Self {
            wanted,
            blocks: blocks.map(|(_, file, number)| (file, number)).collect(),
            bag,
            waiting: BinaryHeap::new(),
            held: 0,
            serial: 0,
        }
    }

    /// The next message. An error means that one chunk is damaged and its messages are lost; later messages can
    /// still be read.
    pub(super) fn next(&mut self) -> Option<Result<Message, BagError>> {
        while let Some(&(file, number)) = self.blocks.last() {
            let start = self.bag.files.get(file)?.1.blocks.get(number)?.start;
            let earliest = self.waiting.peek().map(|Reverse(message)| message.log_time);
            if self.held > MAX_HELD || earliest.is_some_and(|earliest| earliest < start) {
                break;
            }
            self.blocks.pop();
            if let Err(error) = self.load(file, number) {
                return Some(Err(error));
            }
        }
        let Reverse(message) = self.waiting.pop()?;
        self.held -= message.data.len();
        Some(Ok(message))
    }

    /// Reads the topic's messages in a block: all of them, or none if the block is damaged.
    fn load(&mut self, file: usize, number: usize) -> Result<(), BagError> {
        let (Some((bag_file, index)), Some(wanted)) =
            (self.bag.files.get(file), self.wanted.get(file))
        else {
            return Ok(());
        };
        let Some(block) = index.blocks.get(number) else {
            return Ok(());
        };
        let mut read = Vec::new();
        bag_file
            .block(block, |opcode, body| {
                if opcode != op::MESSAGE {
                    return;
                }
                if let Some((head, data)) = MessageHead::read(body)
                    && wanted.contains(&head.channel)
                {
                    self.serial += 1;
                    read.push(Message {
                        log_time: head.log_time,
                        file,
                        data: data.into(),
                        serial: self.serial,
                    });
                }
            })
            .map_err(|reason| BagError::Chunk {
                path: bag_file.path.clone(),
                offset: block.offset,
                reason,
            })?;
        self.held += read.iter().map(|message| message.data.len()).sum::<usize>();
        self.waiting.extend(read.into_iter().map(Reverse));
        Ok(())
    }
}

impl Message {
    fn key(&self) -> (u64, u64) {
        (self.log_time, self.serial)
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Message {}

impl PartialOrd for Message {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Message {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
