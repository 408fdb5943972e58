//! The node's publishers. Messages are only made for topics that have subscribers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ros2_client::qos::{Durability, History, QosProfile, WhenFull};
use ros2_client::{Context, MessageTypeName, Node, Publisher, WriteError};
use serde::Serialize;

use crate::messages::{
    DetectedObjects, Detection3DArray, DiagnosticArray, Float64Stamped, MarkerArray,
};
use crate::names::Names;
use crate::node::NodeError;
use crate::throttle::Throttle;

/// How often to look for subscribers.
const UPDATE_PERIOD: Duration = Duration::from_millis(500);

/// Queue length for slow subscribers.
const DEPTH: usize = 10;

/// How long a slow subscriber's full queue may delay a frame.
const WHEN_FULL: WhenFull = WhenFull::Wait(Duration::from_millis(10));

/// Reliable, keeps the last `depth` messages: `rclcpp::QoS{depth}`.
pub(crate) fn reliable(depth: usize) -> QosProfile {
    QosProfile::publisher_default()
        .reliability_reliable(WHEN_FULL)
        .durability(Durability::Volatile)
        .history(History::KeepLast { depth })
}

/// A publisher, and whether it has subscribers.
pub(crate) struct Topic<M: Serialize> {
    publisher: Publisher<M>,
    /// The topic's name in DDS.
    name: String,
    wanted: bool,
    failed: Throttle,
}

impl<M: Serialize> Topic<M> {
    fn new(
        context: &Context,
        node: &mut Node,
        topic: &str,
        (package, message): (&str, &str),
        depth: usize,
    ) -> Result<Self, NodeError> {
        let name = dds_name(topic);
        let failed = |e: ros2_client::CreateError| NodeError::ros(topic, e);
        let qos = reliable(depth);
        let dds = context
            .create_topic(name.clone(), MessageTypeName::new(package, message), &qos)
            .map_err(failed)?;
        let publisher = node.create_publisher(&dds, Some(qos)).map_err(failed)?;
        Ok(Self {
            publisher,
            name,
            wanted: false,
            failed: Throttle::default(),
        })
    }

    /// Whether the topic has subscribers.
    pub(crate) fn wanted(&self) -> bool {
        self.wanted
    }

    /// Makes and publishes a message if the topic has subscribers.
    pub(crate) fn send(&mut self, message: impl FnOnce() -> M) {
        if !self.wanted {
            return;
        }
        if let Err(error) = self.publisher.publish(message()) {
            // Printing the error would print the message.
            let reason = match error {
                WriteError::Serialization { reason, .. }
                | WriteError::Poisoned { reason, .. }
                | WriteError::Middleware { reason, .. }
                | WriteError::Internal { reason } => reason,
                WriteError::WouldBlock { .. } => "a subscriber is too slow".into(),
                WriteError::Io(error) => error.to_string(),
            };
            let name = &self.name;
            self.failed
                .warn(|| format!("{name}: cannot publish a message: {reason}"));
        }
    }
}

/// A topic's name in DDS.
pub(crate) fn dds_name(topic: &str) -> String {
    format!("rt{topic}")
}

/// All publishers of the node.
pub(crate) struct Publishers {
    pub(crate) vision: Option<Topic<Detection3DArray>>,
    pub(crate) autoware: Option<Topic<DetectedObjects>>,
    pub(crate) markers: Topic<MarkerArray>,
    pub(crate) diagnostics: Topic<DiagnosticArray>,
    pub(crate) processing_time: Topic<Float64Stamped>,
    pub(crate) cyclic_time: Topic<Float64Stamped>,
    pub(crate) latency: Topic<Float64Stamped>,
    context: Context,
    /// When subscribers were last looked for.
    updated: Option<Instant>,
}

impl Publishers {
    pub(crate) fn new(
        context: &Context,
        node: &mut Node,
        names: &Names,
        vision: bool,
        autoware: bool,
    ) -> Result<Self, NodeError> {
        const DEBUG: (&str, &str) = ("autoware_internal_debug_msgs", "Float64Stamped");
        let mut debug = |name: &str| Topic::new(context, node, &names.topic(name)?, DEBUG, 1);
        let processing_time = debug("~/debug/processing_time_ms")?;
        let cyclic_time = debug("~/debug/cyclic_time_ms")?;
        let latency = debug("~/debug/pipeline_latency_ms")?;
        let vision = if vision {
            let topic = names.topic("~/output/detections")?;
            let message = ("vision_msgs", "Detection3DArray");
            Some(Topic::new(context, node, &topic, message, DEPTH)?)
        } else {
            None
        };
        let autoware = if autoware {
            let topic = names.topic("~/output/objects")?;
            let message = ("autoware_perception_msgs", "DetectedObjects");
            Some(Topic::new(context, node, &topic, message, DEPTH)?)
        } else {
            None
        };
        let markers = names.topic("~/output/markers")?;
        let diagnostics = names.topic("/diagnostics")?;
        Ok(Self {
            vision,
            autoware,
            markers: Topic::new(
                context,
                node,
                &markers,
                ("visualization_msgs", "MarkerArray"),
                DEPTH,
            )?,
            diagnostics: Topic::new(
                context,
                node,
                &diagnostics,
                ("diagnostic_msgs", "DiagnosticArray"),
                10,
            )?,
            processing_time,
            cyclic_time,
            latency,
            context: context.clone(),
            updated: None,
        })
    }

    /// Whether any topic with boxes has subscribers.
    pub(crate) fn boxes_wanted(&self) -> bool {
        self.vision.as_ref().is_some_and(Topic::wanted)
            || self.autoware.as_ref().is_some_and(Topic::wanted)
            || self.markers.wanted()
    }

    /// Updates which topics have subscribers, at most once per [`UPDATE_PERIOD`]. Reads the middleware's list of
    /// readers, because its match events can be lost when many arrive at once.
    pub(crate) fn update_wanted(&mut self, now: Instant) {
        if self.updated.is_some_and(|last| now - last < UPDATE_PERIOD) {
            return;
        }
        self.updated = Some(now);
        let readers = self.context.domain_participant().discovered_readers();
        let names: BTreeSet<&str> = readers
            .iter()
            .map(|reader| reader.subscription_topic_data.topic_name().as_str())
            .collect();
        fn update<M: Serialize>(topic: &mut Topic<M>, names: &BTreeSet<&str>) {
            topic.wanted = names.contains(topic.name.as_str());
        }
        self.vision
            .iter_mut()
            .for_each(|topic| update(topic, &names));
        self.autoware
            .iter_mut()
            .for_each(|topic| update(topic, &names));
        update(&mut self.markers, &names);
        update(&mut self.diagnostics, &names);
        for topic in [
            &mut self.processing_time,
            &mut self.cyclic_time,
            &mut self.latency,
        ] {
            update(topic, &names);
        }
    }
}
