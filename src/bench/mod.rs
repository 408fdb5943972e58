//! Latency of a plan, measured like NVIDIA's `trtexec` and reported with the machine's state.
//!
//! ```text
//! input ─ run ─ stats ─ report ─ text, JSON, pictures
//!          └ deadline    └ machine, memory
//! ```
//!
//! [`run::measure`] warms up, then runs frames back to back or at a scanner's rate. Several plans take turns,
//! so disturbances of the machine affect all of them alike. The program is `cp-bench`. Times are milliseconds
//! unless a name says otherwise.

pub(crate) mod compare;
pub(crate) mod input;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod pictures;
mod profile;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod stats;
mod text;

pub(crate) use compare::Comparison;
pub(crate) use input::{Feed, Input};
pub(crate) use machine::{Machine, State};
pub(crate) use profile::Profile;
pub(crate) use report::{Report, Run};
pub(crate) use run::{Recording, Settings, Subject, measure};
