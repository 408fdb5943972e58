//! The thread that takes messages: clouds into the mailbox, transforms into their buffer.
//!
//! A cloud is read out of its message here, so that one that cannot be read replaces none that can.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::channel::oneshot;
use futures::{FutureExt, StreamExt, pin_mut, select_biased};
use ros2_client::{Gid, MessageInfo, ReadError, Subscription};

use super::counts::{Counters, count};
use super::mailbox::Mailbox;
use super::throttle::Throttle;
use super::worker::{Frame, Transforms};
use crate::ros::cloud;
use crate::ros::messages::sensor::PointCloud2;
use crate::ros::messages::tf::TFMessage;

/// What both threads know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) frames: Mailbox<Frame>,
    pub(super) transforms: Transforms,
    pub(super) counters: Counters,
}

/// The node's subscriptions.
pub(super) struct Subscriptions {
    pub(super) clouds: Subscription<PointCloud2>,
    pub(super) tf: Subscription<TFMessage>,
    pub(super) tf_static: Subscription<TFMessage>,
}

/// Takes messages until `stop` says something.
pub(super) async fn receive(
    subscriptions: Subscriptions,
    shared: Arc<Shared>,
    stop: oneshot::Receiver<()>,
) {
    let mut reception = Reception {
        shared,
        newest: BTreeMap::new(),
        malformed: Throttle::default(),
        transforms: Throttle::default(),
        lost: Throttle::default(),
    };
    let clouds = subscriptions.clouds.async_stream();
    let tf = subscriptions.tf.async_stream();
    let tf_static = subscriptions.tf_static.async_stream();
    pin_mut!(clouds, tf, tf_static);
    let mut stop = stop.fuse();
    loop {
        // Transforms first: a cloud may need what came with it.
        select_biased! {
            _ = stop => break,
            message = tf_static.select_next_some() => reception.transforms(message, true),
            message = tf.select_next_some() => reception.transforms(message, false),
            message = clouds.select_next_some() => reception.cloud(message),
        }
    }
}

type Received<M> = Result<(M, MessageInfo), ReadError>;

struct Reception {
    shared: Arc<Shared>,
    /// The newest number of each publisher.
    newest: BTreeMap<Gid, i64>,
    malformed: Throttle,
    transforms: Throttle,
    lost: Throttle,
}

impl Reception {
    fn transforms(&mut self, message: Received<TFMessage>, fixed: bool) {
        let done = match message {
            Ok((message, _)) => self
                .shared
                .transforms
                .extend(&message, fixed)
                .map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = done {
            self.transforms
                .warn(|| format!("a message of transforms was left out: {error}"));
        }
    }

    fn cloud(&mut self, message: Received<PointCloud2>) {
        let shared = Arc::clone(&self.shared);
        count(&shared.counters.received);
        let mut frame = shared.frames.spare().unwrap_or_else(Frame::empty);
        let read = match message {
            Ok((message, info)) => {
                self.number(&info);
                cloud::read(&message, &mut frame.cloud)
                    .map(|()| frame.header = message.header)
                    .map_err(|e| e.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(()) => {
                if shared.frames.put(frame) {
                    count(&shared.counters.dropped);
                }
            }
            Err(error) => {
                count(&shared.counters.malformed);
                shared.frames.give_back(frame);
                self.malformed
                    .warn(|| format!("a cloud was left out: {error}"));
            }
        }
    }

    /// Counts the gap before this message in its publisher's numbers.
    fn number(&mut self, info: &MessageInfo) {
        let number = info.sequence_number();
        let newest = self.newest.insert(info.publisher_gid(), number);
        let gap = newest.map_or(0, |newest| (number - newest - 1).max(0));
        if gap > 0 {
            let lost = &self.shared.counters.lost;
            lost.fetch_add(gap as u64, std::sync::atomic::Ordering::Relaxed);
            self.lost
                .warn(|| format!("{gap} clouds were lost on their way"));
        }
    }
}
