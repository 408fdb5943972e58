//! `diagnostic_msgs`: how a node is.

use serde::{Deserialize, Serialize};

use super::header::Header;

/// `diagnostic_msgs/KeyValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// What is told.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// `diagnostic_msgs/DiagnosticStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosticStatus {
    /// One of its constants.
    pub level: u8,
    /// Node and component.
    pub name: String,
    /// What is the matter.
    pub message: String,
    /// What it is about.
    pub hardware_id: String,
    /// Values that go with it.
    pub values: Vec<KeyValue>,
}

impl DiagnosticStatus {
    /// All is well.
    pub const OK: u8 = 0;
    /// Something is not as it should be.
    pub const WARN: u8 = 1;
    /// Something does not work.
    pub const ERROR: u8 = 2;
}

/// `diagnostic_msgs/DiagnosticArray`, of the topic `/diagnostics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosticArray {
    /// When.
    pub header: Header,
    /// How the components are.
    pub status: Vec<DiagnosticStatus>,
}
