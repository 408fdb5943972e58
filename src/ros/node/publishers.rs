//! The node's publishers, and which of them somebody listens to.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ros2_client::qos::{Durability, History, QosProfile, WhenFull};
use ros2_client::{Context, MessageTypeName, Node, Publisher, WriteError};
use serde::Serialize;

use super::NodeError;
use super::names::Names;
use super::throttle::Throttle;
use crate::ros::messages::autoware::{DetectedObjects, Float64Stamped};
use crate::ros::messages::diagnostic::DiagnosticArray;
use crate::ros::messages::vision::Detection3DArray;
use crate::ros::messages::visualization::MarkerArray;

/// How often the subscribers are counted.
const COUNT_PERIOD: Duration = Duration::from_millis(500);

/// Messages of boxes that wait for slow subscribers.
const DEPTH: usize = 10;

/// How long a full queue of a slow subscriber may hold up a frame.
const WHEN_FULL: WhenFull = WhenFull::Wait(Duration::from_millis(10));

/// Reliable, the last `depth` messages: `rclcpp::QoS{depth}`.
pub(super) fn reliable(depth: usize) -> QosProfile {
    QosProfile::publisher_default()
        .reliability_reliable(WHEN_FULL)
        .durability(Durability::Volatile)
        .history(History::KeepLast { depth })
}

/// A publisher and whether it has subscribers.
pub(super) struct Topic<M: Serialize> {
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
        (package, kind): (&str, &str),
        depth: usize,
    ) -> Result<Self, NodeError> {
        let name = dds_name(topic);
        let failed = |e: ros2_client::CreateError| NodeError::ros(topic, e);
        let qos = reliable(depth);
        let dds = context
            .create_topic(name.clone(), MessageTypeName::new(package, kind), &qos)
            .map_err(failed)?;
        let publisher = node.create_publisher(&dds, Some(qos)).map_err(failed)?;
        Ok(Self {
            publisher,
            name,
            wanted: false,
            failed: Throttle::default(),
        })
    }

    pub(super) fn wanted(&self) -> bool {
        self.wanted
    }

    /// Makes and sends a message, if somebody listens.
    pub(super) fn send(&mut self, message: impl FnOnce() -> M) {
        if !self.wanted {
            return;
        }
        if let Err(error) = self.publisher.publish(message()) {
            // The error holds the message, which would be printed.
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
                .warn(|| format!("{name}: a message was not sent: {reason}"));
        }
    }
}

/// A topic's name as DDS has it.
pub(super) fn dds_name(topic: &str) -> String {
    format!("rt{topic}")
}

/// All of them.
pub(super) struct Publishers {
    pub(super) vision: Option<Topic<Detection3DArray>>,
    pub(super) autoware: Option<Topic<DetectedObjects>>,
    pub(super) markers: Topic<MarkerArray>,
    pub(super) diagnostics: Topic<DiagnosticArray>,
    pub(super) processing_time: Topic<Float64Stamped>,
    pub(super) cyclic_time: Topic<Float64Stamped>,
    pub(super) latency: Topic<Float64Stamped>,
    context: Context,
    counted: Option<Instant>,
}

impl Publishers {
    pub(super) fn new(
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
        let vision = match vision {
            true => {
                let topic = names.topic("~/output/detections")?;
                let kind = ("vision_msgs", "Detection3DArray");
                Some(Topic::new(context, node, &topic, kind, DEPTH)?)
            }
            false => None,
        };
        let autoware = match autoware {
            true => {
                let topic = names.topic("~/output/objects")?;
                let kind = ("autoware_perception_msgs", "DetectedObjects");
                Some(Topic::new(context, node, &topic, kind, DEPTH)?)
            }
            false => None,
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
            counted: None,
        })
    }

    /// Whether somebody listens to boxes, in whatever form.
    pub(super) fn boxes_wanted(&self) -> bool {
        self.vision.as_ref().is_some_and(Topic::wanted)
            || self.autoware.as_ref().is_some_and(Topic::wanted)
            || self.markers.wanted()
    }

    /// Looks who listens, if the last look is some time ago. Asks the middleware's list of readers: its events of
    /// matches may be lost when many come at once.
    pub(super) fn count(&mut self, now: Instant) {
        if self.counted.is_some_and(|last| now - last < COUNT_PERIOD) {
            return;
        }
        self.counted = Some(now);
        let readers = self.context.domain_participant().discovered_readers();
        let names: BTreeSet<&str> = readers
            .iter()
            .map(|reader| reader.subscription_topic_data.topic_name().as_str())
            .collect();
        fn look<M: Serialize>(topic: &mut Topic<M>, names: &BTreeSet<&str>) {
            topic.wanted = names.contains(topic.name.as_str());
        }
        self.vision.iter_mut().for_each(|topic| look(topic, &names));
        self.autoware
            .iter_mut()
            .for_each(|topic| look(topic, &names));
        look(&mut self.markers, &names);
        look(&mut self.diagnostics, &names);
        for topic in [
            &mut self.processing_time,
            &mut self.cyclic_time,
            &mut self.latency,
        ] {
            look(topic, &names);
        }
    }
}
