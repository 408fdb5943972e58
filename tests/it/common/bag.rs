//! Small bags written by the `mcap` crate, with clouds that move slightly from frame to frame.

use std::collections::BTreeMap;
use std::io::Cursor;

use byteorder::LittleEndian;
use centerpoint::internals::bag::POINT_CLOUD;
use centerpoint::internals::bag::messages::{Header, PointCloud2, PointField, Time};
use mcap::records::MessageHeader;
use mcap::{Compression, WriteOptions, Writer};
use serde::Serialize;

/// Time between frames in ns.
pub(crate) const STEP: u64 = 100_000_000;
/// Delay from stamp to log time in ns.
pub(crate) const LOG_DELAY: u64 = 20_000_000;

/// A message: topic, type, log time, data.
pub(crate) type Entry = (&'static str, &'static str, u64, Vec<u8>);

/// Encodes a message as ROS 2 does.
pub(crate) fn cdr(message: &impl Serialize) -> Vec<u8> {
    let body = cdr_encoding::to_vec::<_, LittleEndian>(message).unwrap();
    [&[0, 1, 0, 0][..], &body].concat()
}

/// A cloud of `points` points (x, y, z, intensity), stamped `index` × [`STEP`].
pub(crate) fn cloud(index: u64, points: u32) -> PointCloud2 {
    let fields = ["x", "y", "z", "intensity"].iter().zip(0..);
    let fields = fields.map(|(name, place)| PointField {
        name: (*name).into(),
        offset: 4 * place,
        datatype: 7,
        count: 1,
    });
    let value = |point: u32, column: u32| (index as f32) + 0.25 * point as f32 - column as f32;
    let values = (0..points).flat_map(|point| (0..4).map(move |column| value(point, column)));
    PointCloud2 {
        header: Header {
            stamp: Time::from_nanoseconds((index * STEP) as i64),
            frame_id: "lidar".into(),
        },
        height: 1,
        width: points,
        fields: fields.collect(),
        point_step: 16,
        row_step: 16 * points,
        data: values.flat_map(f32::to_le_bytes).collect(),
        ..PointCloud2::default()
    }
}

/// Messages of `frames` clouds on `/points`.
pub(crate) fn clouds(frames: u64, points: u32) -> Vec<Entry> {
    let frames = (0..frames).map(|index| {
        let data = cdr(&cloud(index, points));
        ("/points", POINT_CLOUD, index * STEP + LOG_DELAY, data)
    });
    frames.collect()
}

/// Options for writing a bag.
pub(crate) fn options(compression: Option<Compression>, chunk: u64) -> WriteOptions {
    WriteOptions::new()
        .compression(compression)
        .compression_threads(0)
        .chunk_size(Some(chunk))
}

/// A bag with these messages.
pub(crate) fn bag(entries: &[Entry], options: WriteOptions) -> Vec<u8> {
    encoded(entries, "cdr", options)
}

/// A bag with these messages and another name for their encoding.
pub(crate) fn encoded(entries: &[Entry], encoding: &str, options: WriteOptions) -> Vec<u8> {
    let mut writer = Writer::with_options(Cursor::new(Vec::new()), options).unwrap();
    for (sequence, (topic, type_name, log_time, data)) in entries.iter().enumerate() {
        let schema = writer.add_schema(type_name, "ros2msg", b"").unwrap();
        let channel_id = writer
            .add_channel(schema, topic, encoding, &BTreeMap::new())
            .unwrap();
        let header = MessageHeader {
            channel_id,
            sequence: sequence as u32,
            log_time: *log_time,
            publish_time: *log_time,
        };
        writer.write_to_known_channel(&header, data).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner().into_inner()
}
