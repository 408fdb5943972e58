//! What all entry points have in common: counting, faults to inject, the report, settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// A number of the environment, or `default`.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// A call that is to fail.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    function: String,
    number: u64,
    error: u32,
}

impl Failure {
    /// Reads `function:number:error`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        Some(Self {
            function: parts.next()?.to_owned(),
            number: parts.next()?.parse().ok()?,
            error: parts.next()?.parse().ok()?,
        })
    }
}

/// Calls by function, and what was wrong.
#[derive(Default)]
pub(crate) struct Record {
    calls: BTreeMap<&'static str, u64>,
    faults: Vec<String>,
    failure: Option<Failure>,
    /// By kernel: launches, and the counts that [`executed`] adds.
    executed: BTreeMap<String, [u64; 5]>,
}

static RECORD: LazyLock<Mutex<Record>> = LazyLock::new(|| {
    let failure = std::env::var("CENTERPOINT_STANDIN_FAIL").ok();
    Mutex::new(Record {
        failure: failure.as_deref().and_then(Failure::parse),
        ..Record::default()
    })
});

fn record() -> MutexGuard<'static, Record> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a call. Returns the error that it is to fail with, if it is.
pub(crate) fn enter(function: &'static str) -> Result<(), u32> {
    let mut record = record();
    let count = record.calls.entry(function).or_default();
    *count += 1;
    let count = *count;
    let fails = |failure: &&Failure| failure.function == function && failure.number == count;
    match record.failure.as_ref().filter(fails) {
        Some(failure) => Err(failure.error),
        None => Ok(()),
    }
}

/// Reports a fault of the program.
pub(crate) fn fault(text: String) {
    record().faults.push(text);
}

/// Adds a launch's instructions, of warps and of threads, its bytes of global memory and its `mma`s.
pub(crate) fn executed(kernel: &str, counts: &ptx::Counts) {
    let mut record = record();
    let sums = record.executed.entry(kernel.to_owned()).or_default();
    let launch = [
        1,
        counts.instructions,
        counts.thread_instructions,
        counts.global_bytes,
        counts.mma,
    ];
    for (sum, more) in sums.iter_mut().zip(launch) {
        *sum += more;
    }
}

/// The report: a line for each fault and leak, then one for each kernel that ran as PTX with what it executed, and one for
/// each function with its number of calls.
pub(crate) fn report(leaks: &[String]) -> String {
    let record = record();
    let mut text = String::new();
    for fault in &record.faults {
        _ = writeln!(text, "fault: {fault}");
    }
    for leak in leaks {
        _ = writeln!(text, "leak: {leak}");
    }
    for (kernel, [launches, warps, threads, bytes, mma]) in &record.executed {
        _ = writeln!(
            text,
            "executed: {kernel} {launches} launches {warps} warp instructions {threads} thread instructions \
             {bytes} global bytes {mma} mma"
        );
    }
    for (function, count) in &record.calls {
        _ = writeln!(text, "calls: {function} {count}");
    }
    text
}

/// Writes the report to the file that the environment names.
pub(crate) fn write_report(leaks: &[String]) {
    let Some(path) = std::env::var_os("CENTERPOINT_STANDIN_LOG") else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path);
    let written = file.and_then(|mut file| file.write_all(report(leaks).as_bytes()));
    if let Err(error) = written {
        eprintln!("stand-in: {}: {error}", path.display());
    }
}

/// Forgets calls and faults, and sets the call that is to fail.
pub(crate) fn reset(failure: Option<&str>) {
    *record() = Record {
        failure: failure.and_then(Failure::parse),
        ..Record::default()
    };
}
