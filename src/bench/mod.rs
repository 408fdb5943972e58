//! Latency of a plan, measured in the manner of NVIDIA's `trtexec` and reported with what it depends on.
//!
//! ```text
//! input ─ run ─ stats ─ report ─ text, JSON, pictures
//!          └ deadline    └ machine, memory
//! ```
//!
//! [`run::measure`] warms up, then runs frames one after the other, or at a scanner's rate; with several
//! plans in turn, so that whatever else the machine does hits all of them alike. The program is `cp-bench`.
//! Times are milliseconds unless a name says otherwise.

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
