//! The result of a call: the status, and the text of `cp_last_error`, which is per thread.
#![allow(non_camel_case_types)]

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Error;
use crate::cuda::CudaError;
use crate::detector::DetectorError;
use crate::engine::EngineError;
use crate::engine::tensorrt::TensorRtError;
use crate::points::{PoseError, SweepError};

/// `cp_status` of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub enum cp_status {
    CP_OK = 0,
    CP_ERROR_ARGUMENT = 1,
    CP_ERROR_PLAN = 2,
    CP_ERROR_DEVICE = 3,
    CP_ERROR_CLOUD = 4,
    CP_ERROR_SWEEP = 5,
    CP_ERROR_UNSUPPORTED = 6,
    CP_ERROR_BUSY = 7,
    CP_ERROR_PANIC = 8,
}

/// The error of a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("`{0}` is NULL")]
    Null(&'static str),
    #[error("`{0}` is not aligned to {1} bytes")]
    Unaligned(&'static str, usize),
    #[error("`{0}` has {1} elements, more than fit into memory")]
    Length(&'static str, usize),
    #[error(
        "the struct_size of `{name}` is {found}, but the library's is {expected}; initialize with CP_INIT(x)"
    )]
    StructSize {
        name: &'static str,
        found: usize,
        expected: usize,
    },
    #[error(
        "`{0}` has members set that this library ({version}), which is older than the header, does not know",
        version = env!("CARGO_PKG_VERSION")
    )]
    Newer(&'static str),
    #[error("`{name}` is {found}; expected {expected}")]
    Value {
        name: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("{what} {index} does not exist; there are {count}")]
    Index {
        what: &'static str,
        index: usize,
        count: usize,
    },
    #[error("no sweep has been pushed; call cp_push_sweep() first")]
    NoSweep,
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    Pose(#[from] PoseError),
    #[error("another thread is using the detector; give each thread its own")]
    Busy,
    #[error("an earlier call failed with an internal error; free this detector and load another")]
    Poisoned,
    #[error(transparent)]
    Library(#[from] Error),
}

impl Failure {
    fn status(&self) -> cp_status {
        match self {
            Self::Null(_)
            | Self::Unaligned(..)
            | Self::Length(..)
            | Self::StructSize { .. }
            | Self::Newer(_)
            | Self::Value { .. }
            | Self::Index { .. } => cp_status::CP_ERROR_ARGUMENT,
            Self::NoSweep | Self::Sweep(_) | Self::Pose(_) => cp_status::CP_ERROR_SWEEP,
            Self::Busy => cp_status::CP_ERROR_BUSY,
            Self::Poisoned => cp_status::CP_ERROR_PANIC,
            Self::Library(error) => library_status(error),
        }
    }
}

fn library_status(error: &Error) -> cp_status {
    match error {
        Error::Frame(_) => cp_status::CP_ERROR_CLOUD,
        Error::Cuda(CudaError::HostStages) => cp_status::CP_ERROR_UNSUPPORTED,
        Error::Cuda(_)
        | Error::Engine(EngineError::Device { .. })
        | Error::TensorRt(TensorRtError::Unavailable { .. } | TensorRtError::Cuda(_)) => {
            cp_status::CP_ERROR_DEVICE
        }
        // The remaining errors of loading and running concern the plan.
        _ => cp_status::CP_ERROR_PLAN,
    }
}

impl From<DetectorError> for Failure {
    fn from(error: DetectorError) -> Self {
        Self::Library(error.into())
    }
}

thread_local! {
    /// Ends with a NUL; empty if there was no error.
    static LAST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs the body of an entry. No panic leaves it, and its error becomes the thread's last error.
pub(super) fn call(body: impl FnOnce() -> Result<(), Failure>) -> cp_status {
    // A panic poisons the mutex of its detector.
    let done = catch_unwind(AssertUnwindSafe(|| {
        body().map_err(|failure| (failure.status(), failure.to_string()))
    }));
    let (status, text) = match done {
        Ok(Ok(())) => (cp_status::CP_OK, String::new()),
        Ok(Err(failed)) => failed,
        Err(panic) => (
            cp_status::CP_ERROR_PANIC,
            format!("internal error: {}; please report it", message(&*panic)),
        ),
    };
    set(&text);
    status
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

fn set(text: &str) {
    // A thread that is exiting no longer has a text.
    let _ = LAST.try_with(|last| {
        let mut last = last.borrow_mut();
        last.clear();
        if !text.is_empty() {
            // Keep it on one line, without NULs, which would end it early.
            let bytes = text.bytes().map(|byte| match byte {
                0 | b'\n' | b'\r' => b' ',
                other => other,
            });
            last.extend(bytes.chain([0]));
        }
    });
}

/// The text; valid until the next [`call`] on this thread.
pub(super) fn last() -> *const c_char {
    LAST.try_with(|last| {
        let last = last.borrow();
        CStr::from_bytes_until_nul(&last).map_or(c"".as_ptr(), CStr::as_ptr)
    })
    .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        #[allow(unsafe_code)]
        // SAFETY: the text ends with a NUL and is valid until the next call.
        let text = unsafe { CStr::from_ptr(last()) };
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_status_and_a_text() {
        let status = call(|| panic!("planted"));
        assert_eq!(status, cp_status::CP_ERROR_PANIC);
        assert_eq!(text(), "internal error: planted; please report it");
        let number = 3;
        let _ = call(|| panic!("planted\n{number}\0"));
        assert_eq!(text(), "internal error: planted 3 ; please report it");
        let _ = call(|| std::panic::panic_any(7));
        assert!(text().contains("no message"));
        assert_eq!(call(|| Ok(())), cp_status::CP_OK);
        assert_eq!(text(), "");
    }

    #[test]
    fn each_thread_has_its_own_text() {
        let _ = call(|| Err(Failure::Busy));
        let other = std::thread::spawn(|| {
            let before = text();
            let _ = call(|| Err(Failure::Null("cloud")));
            (before, text())
        });
        let other = other.join().unwrap();
        assert_eq!(other, (String::new(), "`cloud` is NULL".to_owned()));
        assert!(text().contains("another thread"), "{}", text());
    }
}
