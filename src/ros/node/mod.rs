//! The node of `cp-ros2`: clouds in, boxes out, on ros2-client, without an installation of ROS.
//!
//! ```text
//! ~/input/pointcloud ─ reception (thread) ─ mailbox, the latest wins ─ worker ─ publishers ─ ~/output/…
//! /tf, /tf_static    ─┘                     transforms ────────────────┘       └ ~/debug/…, /diagnostics
//! ```
//!
//! Topics, parameters and diagnostics are named as Autoware's `lidar_centerpoint` names them. Boxes go out in
//! one type a topic: `~/output/detections` (`vision_msgs`), `~/output/objects` (Autoware), `~/output/markers`.

pub mod args;
mod counts;
mod diagnostics;
mod mailbox;
pub mod names;
pub mod parameters;
mod publishers;
mod read;
mod reception;
pub mod settings;
mod throttle;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub use counts::Counts;
use futures::channel::oneshot;
use futures::executor::block_on;
use ros2_client::qos::{Durability, History, QosProfile, WhenFull};
use ros2_client::{
    Context, ContextOptions, CreateError, MessageTypeName, Node, NodeName, NodeOptions,
    Subscription,
};

use super::boxes;
use super::messages::autoware::Float64Stamped;
use super::messages::header::Time;
use crate::deadline::Deadline;
use crate::detector::{Detector, Options};
use crate::plan::Plan;
use args::RosArgs;
use counts::{Counters, count};
use mailbox::Mailbox;
use names::Names;
use publishers::{Publishers, dds_name, reliable};
use reception::{Shared, Subscriptions};
use settings::{CloudQos, Settings};
use throttle::Throttle;
use worker::{Frame, Transforms, Worker};

/// The node's name where the command line says none: that of Autoware's launch files.
pub const NODE: &str = "lidar_centerpoint";

/// Whose messages the log's are.
const TARGET: &str = "cp-ros2";

/// How long the worker sleeps at most, so that it sees a request to stop.
const NAP: Duration = Duration::from_millis(100);

/// What the node runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The plan.
    pub engine: PathBuf,
    /// How it is run; thresholds and budget are the parameters'.
    pub options: Options,
    /// The command line's ROS part.
    pub ros: RosArgs,
    /// The DDS domain: `ROS_DOMAIN_ID`.
    pub domain: u16,
}

/// Why the node does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A name is none of ROS.
    #[error(transparent)]
    Name(#[from] names::NameError),
    /// The parameters cannot be used.
    #[error(transparent)]
    Parameter(#[from] parameters::ParameterError),
    /// The plan cannot be used, or the detector failed for good.
    #[error(transparent)]
    Detector(#[from] crate::Error),
    /// The middleware failed.
    #[error("{what}: ROS 2 failed: {reason}")]
    Ros {
        /// What was to be made: a topic, the node.
        what: String,
        /// The middleware's reason.
        reason: String,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

impl NodeError {
    fn ros(what: &str, reason: impl ToString) -> Self {
        Self::Ros {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}

/// Runs the node until `stop` is set. With the parameter `build_only` it only loads the plan.
///
/// # Errors
/// [`NodeError`] where it cannot begin, or where the detector fails for good.
pub fn run(config: &Config, stop: &AtomicBool) -> Result<Counts, NodeError> {
    let names = Names::new(&config.ros, NODE)?;
    let topic = names.topic("~/input/pointcloud")?;
    let parameters = parameters::read(&config.ros, &names)?;
    let plan = Plan::open(&config.engine).map_err(crate::Error::from)?;
    let settings = Settings::new(parameters, plan.model(), &topic)?;
    let options = Options {
        decode: Some(settings.decode.clone()),
        nms: Some(settings.nms.clone()),
        budget: settings.budget,
        ..config.options.clone()
    };
    let detector = Detector::new(&plan, &options)?;
    if settings.build_only {
        log::info!(target: TARGET, "{}: loaded, as build_only asks", config.engine.display());
        return Ok(Counts::default());
    }
    let context = Context::with_options(ContextOptions::new().domain_id(config.domain))
        .map_err(|e| NodeError::ros("the DDS participant", e))?;
    let name = NodeName::new(names.namespace(), names.node())
        .map_err(|e| NodeError::ros(&names.fully_qualified(), e))?;
    let mut node = context
        .new_node(name, NodeOptions::new().enable_rosout(false))
        .map_err(|e| NodeError::ros(&names.fully_qualified(), e))?;
    let publishers = Publishers::new(
        &context,
        &mut node,
        &names,
        settings.vision,
        settings.autoware,
    )?;
    let subscriptions = subscribe(&context, &mut node, &names, &topic, settings.clouds)?;

    let shared = Arc::new(Shared {
        frames: Mailbox::new(),
        transforms: Transforms::default(),
        counters: Counters::default(),
    });
    let (end, ended) = oneshot::channel();
    let reception = {
        let shared = Arc::clone(&shared);
        thread::Builder::new()
            .name("reception".into())
            .spawn(move || block_on(reception::receive(subscriptions, shared, ended)))
            .map_err(NodeError::Thread)?
    };
    log::info!(target: TARGET, "{}: waiting for clouds on {topic}", names.fully_qualified());
    let mut life = Life {
        classes: detector.model().classes.clone(),
        worker: Worker::new(detector, settings.past, settings.world_frame.clone()),
        publishers,
        deadline: Deadline::new(settings.budget),
        node: names.node().into(),
        last: None,
        unreadable: Throttle::default(),
        settings,
    };
    let done = life.run(&shared, stop);
    // The thread ends by this or by its own panic, which has been printed.
    let _ = end.send(());
    let _ = reception.join();
    if shared.frames.take(Duration::ZERO).is_some() {
        count(&shared.counters.dropped);
    }
    done.map(|()| shared.counters.read())
}

fn subscribe(
    context: &Context,
    node: &mut Node,
    names: &Names,
    clouds: &str,
    qos: CloudQos,
) -> Result<Subscriptions, NodeError> {
    let history = History::KeepLast { depth: qos.depth };
    let cloud_qos = QosProfile::subscription_default().history(history);
    let cloud_qos = match qos.reliable {
        true => cloud_qos.reliability_reliable(WhenFull::DEFAULT),
        false => cloud_qos,
    };
    let tf = names.topic("/tf")?;
    let tf_static = names.topic("/tf_static")?;
    let latched = reliable(100).durability(Durability::TransientLocal);
    let message = ("tf2_msgs", "TFMessage");
    let cloud = ("sensor_msgs", "PointCloud2");
    Ok(Subscriptions {
        clouds: subscription(context, node, clouds, cloud, cloud_qos)?,
        tf: subscription(context, node, &tf, message, reliable(100))?,
        tf_static: subscription(context, node, &tf_static, message, latched)?,
    })
}

fn subscription<M: 'static>(
    context: &Context,
    node: &mut Node,
    topic: &str,
    (package, kind): (&str, &str),
    qos: QosProfile,
) -> Result<Subscription<M>, NodeError> {
    let failed = |e: CreateError| NodeError::ros(topic, e);
    let kind = MessageTypeName::new(package, kind);
    let dds = context
        .create_topic(dds_name(topic), kind, &qos)
        .map_err(failed)?;
    node.create_subscription(&dds, Some(qos)).map_err(failed)
}

/// The worker's thread: frame by frame, and the report by the clock.
struct Life {
    worker: Worker,
    classes: Vec<String>,
    publishers: Publishers,
    settings: Settings,
    /// Of whole frames, publishing included, as Autoware counts.
    deadline: Deadline,
    node: String,
    /// When the last frame was done.
    last: Option<Instant>,
    unreadable: Throttle,
}

impl Life {
    fn run(&mut self, shared: &Shared, stop: &AtomicBool) -> Result<(), NodeError> {
        let mut report = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let wait = report.saturating_duration_since(Instant::now()).min(NAP);
            let frame = shared.frames.take(wait);
            self.publishers.count(Instant::now());
            if let Some(frame) = frame {
                let done = self.frame(&frame, shared);
                shared.frames.give_back(frame);
                done?;
            }
            let now = Instant::now();
            if now >= report {
                report = now + self.settings.status_period;
                let (node, deadline) = (&self.node, &self.deadline);
                self.publishers
                    .diagnostics
                    .send(|| diagnostics::processing_time(self::now(), node, deadline, now));
            }
        }
        Ok(())
    }

    /// One frame from the cloud to all that is published of it.
    fn frame(&mut self, frame: &Frame, shared: &Shared) -> Result<(), NodeError> {
        if !self.publishers.boxes_wanted() {
            count(&shared.counters.unwanted);
            return Ok(());
        }
        let begin = Instant::now();
        let detection = match self.worker.detect(frame, &shared.transforms) {
            Ok(detection) => detection,
            // A cloud without a column that the model needs: the next one may have it.
            Err(crate::Error::Frame(error)) => {
                count(&shared.counters.malformed);
                self.unreadable
                    .warn(|| format!("a cloud was left out: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (header, found) = (&frame.header, detection.boxes);
        let (classes, twist) = (&self.classes, self.settings.twist);
        let publishers = &mut self.publishers;
        if let Some(topic) = &mut publishers.vision {
            topic.send(|| boxes::vision(header, found, classes));
        }
        if let Some(topic) = &mut publishers.autoware {
            topic.send(|| boxes::autoware(header, found, classes, twist));
        }
        publishers
            .markers
            .send(|| boxes::markers(header, found, classes));
        let dropped = detection.dropped;
        count(&shared.counters.processed);

        let end = Instant::now();
        let ms = |from: Instant| (end - from).as_secs_f64() * 1e3;
        self.deadline.add(ms(begin), end);
        let stamp = now();
        let number = |data| Float64Stamped { stamp, data };
        if let Some(last) = self.last.replace(end) {
            publishers.cyclic_time.send(|| number(ms(last)));
        }
        publishers.processing_time.send(|| number(ms(begin)));
        if !self.settings.sim_time {
            let latency = stamp.nanoseconds() - header.stamp.nanoseconds();
            publishers.latency.send(|| number(latency as f64 / 1e6));
        }
        let counts = shared.counters.read();
        let node = &self.node;
        publishers
            .diagnostics
            .send(|| diagnostics::frame(header.stamp, node, &dropped, &counts));
        Ok(())
    }
}

/// The time of day.
fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default().as_nanos();
    Time::from_nanoseconds(i64::try_from(since).unwrap_or(i64::MAX))
}
