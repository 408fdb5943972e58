//! The receiving thread: puts clouds into the mailbox and transforms into their buffer.
//!
//! Clouds are decoded here, so that a malformed one never replaces a valid one in the mailbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use centerpoint::internals::bag::cloud;
use centerpoint::internals::bag::messages::{PointCloud2, TFMessage};
use centerpoint::internals::chain::Chain;
use futures::channel::oneshot;
use futures::{FutureExt, StreamExt, pin_mut, select_biased};
use ros2_client::{Gid, MessageInfo, ReadError, Subscription};

use crate::counts::{Counters, count};
use crate::mailbox::Mailbox;
use crate::throttle::Throttle;
use crate::worker::{StampedCloud, Transforms};

/// State shared by both threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clouds: Mailbox<StampedCloud>,
    pub(crate) transforms: Transforms,
    pub(crate) counters: Counters,
}

/// The node's subscriptions.
pub(crate) struct Subscriptions {
    pub(crate) clouds: Subscription<PointCloud2>,
    pub(crate) tf: Subscription<TFMessage>,
    pub(crate) tf_static: Subscription<TFMessage>,
}

/// Receives messages until `stop` fires.
pub(crate) async fn receive(
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
        // Transforms first: a cloud may need one that arrived with it.
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
    /// The latest sequence number of each publisher.
    newest: BTreeMap<Gid, i64>,
    malformed: Throttle,
    transforms: Throttle,
    lost: Throttle,
}

impl Reception {
    fn transforms(&mut self, message: Received<TFMessage>, is_static: bool) {
        let done = match message {
            Ok((message, _)) => self
                .shared
                .transforms
                .extend(&message, is_static)
                .map_err(|e| Chain(&e).to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = done {
            self.transforms
                .warn(|| format!("skipped transforms: {error}"));
        }
    }

    fn cloud(&mut self, message: Received<PointCloud2>) {
        let shared = Arc::clone(&self.shared);
        count(&shared.counters.received);
        let mut cloud = shared.clouds.spare().unwrap_or_else(StampedCloud::empty);
        let read = match message {
            Ok((message, info)) => {
                self.count_lost(&info);
                cloud::read(&message, &mut cloud.points)
                    .map(|()| cloud.header = message.header)
                    .map_err(|e| Chain(&e).to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(()) => {
                if shared.clouds.put(cloud) {
                    count(&shared.counters.dropped);
                }
            }
            Err(error) => {
                count(&shared.counters.malformed);
                shared.clouds.recycle(cloud);
                self.malformed.warn(|| format!("skipped a cloud: {error}"));
            }
        }
    }

    /// Counts the gap before this message in its publisher's sequence numbers.
    fn count_lost(&mut self, info: &MessageInfo) {
        let number = info.sequence_number();
        let newest = self.newest.insert(info.publisher_gid(), number);
        let gap = newest.map_or(0, |newest| (number - newest - 1).max(0));
        if gap > 0 {
            let lost = &self.shared.counters.lost;
            lost.fetch_add(gap as u64, std::sync::atomic::Ordering::Relaxed);
            self.lost
                .warn(|| format!("{gap} clouds were lost in transit"));
        }
    }
}
