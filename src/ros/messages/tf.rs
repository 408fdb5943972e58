//! `tf2_msgs`: where frames are.

use serde::{Deserialize, Serialize};

use super::geometry::TransformStamped;

/// `tf2_msgs/TFMessage`, of the topics `/tf` and `/tf_static`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TFMessage {
    /// The transforms, each of another child.
    pub transforms: Vec<TransformStamped>,
}
