//! The node: receives clouds and transforms, publishes boxes and diagnostics.
//!
//! ```text
//! ~/input/pointcloud ─ reception (thread) ─ mailbox (latest wins) ─ worker ─ publishers ─ ~/output/…
//! /tf, /tf_static    ─┘                     transforms ─────────────┘       └ ~/debug/…, /diagnostics
//! ```
//!
//! Topics, parameters and diagnostics have the names of Autoware's `lidar_centerpoint`. Boxes are published on one
//! topic per message type: `~/output/detections` (`vision_msgs`), `~/output/objects` (Autoware), `~/output/markers`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use centerpoint::internals::bag::messages::Time;
use centerpoint::internals::chain::Chain;
use centerpoint::{Deadline, Detector, DetectorError, Options, Plan};
use futures::channel::oneshot;
use futures::executor::block_on;
use ros2_client::qos::{Durability, History, QosProfile, WhenFull};
use ros2_client::{
    Context, ContextOptions, CreateError, MessageTypeName, Node, NodeName, NodeOptions,
    Subscription,
};

use crate::boxes;
use crate::counts::{Counters, Counts, count};
use crate::diagnostics;
use crate::mailbox::Mailbox;
use crate::messages::Float64Stamped;
use crate::names::{NameError, Names};
use crate::parameters::{self, ParameterError};
use crate::publishers::{Publishers, dds_name, reliable};
use crate::reception::{self, Shared, Subscriptions};
use crate::ros_args::RosArgs;
use crate::settings::{CloudQos, Settings};
use crate::throttle::Throttle;
use crate::worker::{StampedCloud, Transforms, Worker};

/// Default name of the node, as in Autoware's launch files.
const NODE: &str = "lidar_centerpoint";

/// Target of log messages.
pub(crate) const TARGET: &str = "cp-ros2";

/// How long the worker waits at most before it checks for a request to stop.
const STOP_CHECK_PERIOD: Duration = Duration::from_millis(100);

/// What the node runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    /// The plan.
    pub(crate) engine: PathBuf,
    /// The detector's options; parameters override thresholds and budget.
    pub(crate) options: Options,
    /// The ROS arguments of the command line.
    pub(crate) ros: RosArgs,
    /// The DDS domain: `ROS_DOMAIN_ID`.
    pub(crate) domain: u16,
}

/// Why the node cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// A name is not a valid ROS name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The parameters cannot be used.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The plan cannot be used, or the detector failed permanently.
    #[error(transparent)]
    Detector(#[from] centerpoint::Error),
    /// The middleware failed.
    #[error("{what}: ROS 2 failed: {reason}")]
    Ros {
        /// The node or topic that was to be created.
        what: String,
        /// The middleware's reason.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl NodeError {
    pub(crate) fn ros(what: &str, reason: impl ToString) -> Self {
        Self::Ros {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}

/// Runs the node until `stop` is set. With the parameter `build_only`, only loads the plan.
///
/// # Errors
/// [`NodeError`] if it cannot start, or if the detector fails permanently.
pub(crate) fn run(config: &Config, stop: &AtomicBool) -> Result<Counts, NodeError> {
    let names = Names::new(&config.ros, NODE)?;
    let topic = names.topic("~/input/pointcloud")?;
    let parameters = parameters::read(&config.ros, &names).map_err(ParameterError::from)?;
    let plan = Plan::open(&config.engine).map_err(centerpoint::Error::from)?;
    let settings = Settings::new(parameters, plan.model(), &topic)?;
    let options = Options {
        decode: Some(settings.decode.clone()),
        nms: Some(settings.nms.clone()),
        budget: settings.budget,
        extrinsic: settings.extrinsic,
        ground: settings.ground,
        ignore_box: settings.ignore_box,
        ..config.options.clone()
    };
    let detector = Detector::new(&plan, &options).map_err(centerpoint::Error::from)?;
    if settings.build_only {
        log::info!(target: TARGET, "{}: loaded; exiting because build_only is set", config.engine.display());
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
        clouds: Mailbox::new(),
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
    let mut node_loop = Loop {
        classes: detector.model().classes.clone(),
        worker: Worker::new(
            detector,
            settings.past,
            settings.world_frame.clone(),
            settings.without_pose,
        ),
        publishers,
        deadline: Deadline::new(settings.budget),
        node: names.node().into(),
        last: None,
        unreadable: Throttle::default(),
        warnings: Vec::new(),
        checked: false,
        settings,
    };
    let done = node_loop.run(&shared, stop);
    // The thread ends by this message or by a panic, which is already printed.
    let _ = end.send(());
    let _ = reception.join();
    if shared.clouds.take(Duration::ZERO).is_some() {
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
    let cloud_qos = if qos.reliable {
        cloud_qos.reliability_reliable(WhenFull::DEFAULT)
    } else {
        cloud_qos
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
    (package, message): (&str, &str),
    qos: QosProfile,
) -> Result<Subscription<M>, NodeError> {
    let failed = |e: CreateError| NodeError::ros(topic, e);
    let message = MessageTypeName::new(package, message);
    let dds = context
        .create_topic(dds_name(topic), message, &qos)
        .map_err(failed)?;
    node.create_subscription(&dds, Some(qos)).map_err(failed)
}

/// The main thread's loop: processes frames and reports periodically.
struct Loop {
    worker: Worker,
    classes: Vec<String>,
    publishers: Publishers,
    settings: Settings,
    /// Measures whole frames including publishing, like Autoware.
    deadline: Deadline,
    node: String,
    /// When the last frame ended.
    last: Option<Instant>,
    unreadable: Throttle,
    /// What is probably wrong with the clouds, by the first one.
    warnings: Vec<String>,
    checked: bool,
}

impl Loop {
    fn run(&mut self, shared: &Shared, stop: &AtomicBool) -> Result<(), NodeError> {
        let mut report = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let wait = report
                .saturating_duration_since(Instant::now())
                .min(STOP_CHECK_PERIOD);
            let cloud = shared.clouds.take(wait);
            self.publishers.update_wanted(Instant::now());
            if let Some(cloud) = cloud {
                let done = self.frame(&cloud, shared);
                shared.clouds.recycle(cloud);
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

    /// Processes one cloud and publishes the results.
    fn frame(&mut self, cloud: &StampedCloud, shared: &Shared) -> Result<(), NodeError> {
        if !self.publishers.boxes_wanted() {
            count(&shared.counters.unwanted);
            return Ok(());
        }
        if !std::mem::replace(&mut self.checked, true) {
            self.warnings = self.worker.check(&cloud.points);
            for warning in &self.warnings {
                log::warn!(target: TARGET, "the first cloud: {warning}");
            }
        }
        let start = Instant::now();
        let detection = match self.worker.detect(cloud, &shared.transforms) {
            Ok(Some(detection)) => detection,
            Ok(None) => {
                count(&shared.counters.unplaced);
                return Ok(());
            }
            // The cloud lacks a column that the model needs; the next one may have it.
            Err(DetectorError::Frame(error)) => {
                count(&shared.counters.malformed);
                self.unreadable
                    .warn(|| format!("skipped a cloud: {}", Chain(&error)));
                return Ok(());
            }
            Err(error) => return Err(centerpoint::Error::from(error).into()),
        };
        let (header, found) = (&cloud.header, detection.boxes);
        let variances = detection.variances;
        let (classes, twist) = (&self.classes, self.settings.twist);
        let publishers = &mut self.publishers;
        if let Some(topic) = &mut publishers.vision {
            topic.send(|| boxes::vision(header, found, variances, classes));
        }
        if let Some(topic) = &mut publishers.autoware {
            topic.send(|| boxes::autoware(header, found, variances, classes, twist));
        }
        publishers
            .markers
            .send(|| boxes::markers(header, found, classes));
        let dropped = detection.dropped;
        count(&shared.counters.processed);

        let end = Instant::now();
        let ms = |from: Instant| (end - from).as_secs_f64() * 1e3;
        self.deadline.add(ms(start), end);
        let stamp = now();
        let number = |data| Float64Stamped { stamp, data };
        if let Some(last) = self.last.replace(end) {
            publishers.cyclic_time.send(|| number(ms(last)));
        }
        publishers.processing_time.send(|| number(ms(start)));
        if !self.settings.sim_time {
            let latency = stamp.nanoseconds() - header.stamp.nanoseconds();
            publishers.latency.send(|| number(latency as f64 / 1e6));
        }
        let counts = shared.counters.read();
        let (node, warnings) = (&self.node, &*self.warnings);
        publishers
            .diagnostics
            .send(|| diagnostics::frame(header.stamp, node, &dropped, &counts, warnings));
        Ok(())
    }
}

/// The current time.
fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default().as_nanos();
    Time::from_nanoseconds(i64::try_from(since).unwrap_or(i64::MAX))
}
