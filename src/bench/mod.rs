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

pub mod compare;
pub mod input;
pub mod machine;
pub mod memory;
pub mod pictures;
mod profile;
pub mod report;
pub mod run;
pub mod stats;
mod text;

pub use compare::Comparison;
pub use input::{Feed, Input};
pub use machine::{Machine, State};
pub use profile::Profile;
pub use report::{Report, Run};
pub use run::{Recording, Sample, Settings, Subject, measure};
pub use stats::Summary;
