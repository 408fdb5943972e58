//! The C library: what `centerpoint.h` declares, for C, C++ and whatever calls C.
//!
//! ```text
//! caller ─ capi.rs ─ handle.rs ─ Detector      entries: pointers become references, errors a status and a text
//!          types.rs, status.rs                 structs that may grow; the error of each thread
//! ```
//!
//! The header (`src/capi/include/centerpoint/centerpoint.h`) is written by hand and is the documentation; a test
//! compares it with the code. `cp-build install` puts it beside the library, with what CMake and pkg-config need.
//! No panic leaves an entry; a call on a detector that another thread is using is refused.
//!
//! # Safety
//! Of every function here: each pointer is NULL or points to what the header says, for the length of the call;
//! a detector is one that [`cp_load`] gave and [`cp_free`] has not had.
#![allow(unsafe_code, non_camel_case_types)]
#![allow(clippy::missing_safety_doc)] // the same for all: above

mod handle;
mod status;
mod types;

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::time::Instant;

pub use handle::cp_detector;
pub use status::cp_status;
pub use types::{
    cp_box, cp_cloud, cp_deadline_info, cp_field, cp_frame_info, cp_model_info, cp_options, cp_pose,
};

use crate::cuda::DevicePtr;
use crate::deadline::{Budget, Level};
use crate::detector::{Detector, Device, Options};
use crate::points::Pose;
use handle::State;
use status::{Failure, call};
use types::{Out, check, read, write};

/// The number in the library's SONAME.
const ABI_VERSION: &str = env!("CENTERPOINT_ABI_VERSION");
const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };

/// The crate's version.
#[unsafe(no_mangle)]
pub extern "C" fn cp_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The number in the library's SONAME.
#[unsafe(no_mangle)]
pub extern "C" fn cp_abi_version() -> u32 {
    ABI_VERSION.parse().unwrap_or(u32::MAX)
}

/// What the last call on this thread failed with.
#[unsafe(no_mangle)]
pub extern "C" fn cp_last_error() -> *const c_char {
    status::last()
}

/// [`Detector::load`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_load(
    path: *const c_char,
    options: *const cp_options,
    detector: *mut *mut cp_detector,
) -> cp_status {
    call(|| {
        check(detector.cast_const(), "detector")?;
        // SAFETY: checked; the module's promise.
        unsafe { detector.write(std::ptr::null_mut()) };
        // SAFETY: the module's promise.
        let path = unsafe { path_of(path, "path") }?;
        let options = match options.is_null() {
            true => Options::default(),
            // SAFETY: the module's promise.
            false => unsafe { options_of(&read(options)?) }?,
        };
        let loaded = Box::new(cp_detector::new(Detector::load(&path, &options)?));
        // SAFETY: checked above; the module's promise.
        unsafe { detector.write(Box::into_raw(loaded)) };
        Ok(())
    })
}

/// Frees a detector.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_free(detector: *mut cp_detector) {
    if detector.is_null() {
        return;
    }
    call(|| {
        check(detector.cast_const(), "detector")?;
        // SAFETY: `cp_load` made it with `Box::into_raw`, and nobody uses it any more.
        drop(unsafe { Box::from_raw(detector) });
        Ok(())
    });
}

/// [`Detector::model`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_model(
    detector: *const cp_detector,
    info: *mut cp_model_info,
) -> cp_status {
    // SAFETY: the module's promise.
    call(|| unsafe { write(info, &of(detector)?.lock()?.model()) })
}

/// Name of a class.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_class_name(
    detector: *const cp_detector,
    index: usize,
) -> *const c_char {
    // SAFETY: the module's promise.
    name("class", index, || Ok(&unsafe { of(detector) }?.classes))
}

/// Name of a column of the model's points.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_column_name(
    detector: *const cp_detector,
    index: usize,
) -> *const c_char {
    // SAFETY: the module's promise.
    name("column", index, || Ok(&unsafe { of(detector) }?.columns))
}

/// [`Detector::detect`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_detect(
    detector: *mut cp_detector,
    cloud: *const cp_cloud,
    boxes: *mut cp_box,
    capacity: usize,
    found: *mut usize,
) -> cp_status {
    // SAFETY: the module's promise.
    call(|| unsafe {
        frame(detector, Out::new(boxes, capacity, found)?, |state| {
            state.read(&read(cloud)?)?;
            state.detect()
        })
    })
}

/// [`Detector::detect_device`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_detect_device(
    detector: *mut cp_detector,
    points: *const c_void,
    count: usize,
    boxes: *mut cp_box,
    capacity: usize,
    found: *mut usize,
) -> cp_status {
    // SAFETY: the module's promise.
    call(|| unsafe {
        frame(detector, Out::new(boxes, capacity, found)?, |state| {
            if count > 0 {
                check(points.cast::<f32>(), "points")?;
            }
            let points = DevicePtr::from_address(points.addr() as u64);
            state.detect_device(points, count)
        })
    })
}

/// [`SweepBuffer::push`](crate::points::SweepBuffer::push).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_push_sweep(
    detector: *mut cp_detector,
    cloud: *const cp_cloud,
    stamp_ns: i64,
    pose: *const cp_pose,
) -> cp_status {
    call(|| {
        // SAFETY: the module's promise.
        let mut state = unsafe { of(detector) }?.lock()?;
        // SAFETY: the module's promise.
        let cloud = unsafe { read(cloud) }?;
        let pose = match pose.is_null() {
            true => None,
            false => {
                check(pose, "pose")?;
                // SAFETY: checked; the module's promise.
                let p = unsafe { pose.read() };
                Some(Pose::new([p.x, p.y, p.z], [p.qw, p.qx, p.qy, p.qz])?)
            }
        };
        // SAFETY: the module's promise.
        unsafe { state.read(&cloud) }?;
        state.push(stamp_ns, pose)
    })
}

/// [`SweepBuffer::clear`](crate::points::SweepBuffer::clear).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_clear_sweeps(detector: *mut cp_detector) -> cp_status {
    call(|| {
        // SAFETY: the module's promise.
        unsafe { of(detector) }?.lock()?.clear();
        Ok(())
    })
}

/// [`Detector::detect_sweeps`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_detect_sweeps(
    detector: *mut cp_detector,
    boxes: *mut cp_box,
    capacity: usize,
    found: *mut usize,
) -> cp_status {
    // SAFETY: the module's promise.
    call(|| unsafe {
        let out = Out::new(boxes, capacity, found)?;
        frame(detector, out, State::detect_sweeps)
    })
}

/// [`Detector::boxes`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_last_boxes(
    detector: *const cp_detector,
    boxes: *mut cp_box,
    capacity: usize,
    found: *mut usize,
) -> cp_status {
    call(|| {
        // SAFETY: the module's promise.
        let out = unsafe { Out::new(boxes, capacity, found) }?;
        // SAFETY: the module's promise.
        let state = unsafe { of(detector) }?.lock()?;
        if state.last().is_some() {
            out.write(state.detector.boxes());
        }
        Ok(())
    })
}

/// Counters and times of the last frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_last_frame(
    detector: *const cp_detector,
    info: *mut cp_frame_info,
) -> cp_status {
    // SAFETY: the module's promise.
    call(|| unsafe {
        let last = of(detector)?.lock()?.last().copied();
        write(info, &last.unwrap_or_default())
    })
}

/// [`Detector::deadline`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_deadline(
    detector: *const cp_detector,
    info: *mut cp_deadline_info,
) -> cp_status {
    call(|| {
        // SAFETY: the module's promise.
        let deadline = *unsafe { of(detector) }?.lock()?.detector.deadline();
        let (now, budget, counts) = (Instant::now(), deadline.budget(), deadline.counts());
        let value = cp_deadline_info {
            struct_size: 0,
            budget_ms: budget.frame_ms,
            budget_delay_ms: budget.delay_ms,
            frames: counts.frames,
            misses: counts.misses,
            consecutive: counts.consecutive,
            longest: counts.longest,
            last_ms: counts.last_ms,
            delay_ms: deadline.delay(now).as_secs_f64() * 1e3,
            level: match deadline.level(now) {
                Level::Ok => 0,
                Level::Warn => 1,
                Level::Error => 2,
            },
            reserved: 0,
        };
        // SAFETY: the module's promise.
        unsafe { write(info, &value) }
    })
}

/// One frame: what `detect` finds goes to the caller.
///
/// # Safety
/// The module's.
unsafe fn frame(
    detector: *mut cp_detector,
    out: Out,
    detect: impl FnOnce(&mut State) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let mut state = unsafe { of(detector) }?.lock()?;
    state.begin();
    detect(&mut state)?;
    out.write(state.detector.boxes());
    Ok(())
}

/// The detector behind a pointer.
///
/// # Safety
/// The module's.
unsafe fn of<'a>(detector: *const cp_detector) -> Result<&'a cp_detector, Failure> {
    check(detector, "detector")?;
    // SAFETY: checked; the caller's promise.
    Ok(unsafe { &*detector })
}

/// The name at `index`; NULL and an error where there is none.
fn name<'a>(
    what: &'static str,
    index: usize,
    names: impl FnOnce() -> Result<&'a Vec<std::ffi::CString>, Failure>,
) -> *const c_char {
    let mut found = std::ptr::null();
    call(|| {
        let names = names()?;
        let count = names.len();
        let name = names
            .get(index)
            .ok_or(Failure::Index { what, index, count })?;
        found = name.as_ptr();
        Ok(())
    });
    found
}

/// Checked options.
///
/// # Safety
/// The strings are NULL or C strings.
unsafe fn options_of(raw: &cp_options) -> Result<Options, Failure> {
    let number = |name: &'static str, value: f64, most: f64, expected: &'static str| {
        // 0 is "not given"; a NaN is in no range.
        match (0.0..=most).contains(&value) {
            true => Ok((value > 0.0).then_some(value)),
            false => Err(Failure::Value {
                name,
                found: value.to_string(),
                expected,
            }),
        }
    };
    const TIME: &str = "a time in ms, or 0 for the default";
    number("score", raw.score.into(), 1.0, "0 to 1")?;
    number(
        "intensity_scale",
        raw.intensity_scale.into(),
        f32::MAX.into(),
        "a factor above 0, or 0 for the plan's",
    )?;
    let budget = Budget::default();
    Ok(Options {
        threads: raw.threads as usize,
        device: match raw.device {
            0 => Device::Auto,
            1 => Device::Cpu,
            2 => Device::Cuda,
            other => {
                return Err(Failure::Value {
                    name: "device",
                    found: other.to_string(),
                    expected: "CP_DEVICE_AUTO (0), CP_DEVICE_CPU (1) or CP_DEVICE_CUDA (2)",
                });
            }
        },
        score: (raw.score > 0.0).then_some(raw.score),
        intensity_scale: (raw.intensity_scale > 0.0).then_some(raw.intensity_scale),
        tensorrt: match raw.tensorrt.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(unsafe { path_of(raw.tensorrt, "tensorrt") }?),
        },
        budget: Budget {
            frame_ms: number("budget_ms", raw.budget_ms, f64::MAX, TIME)?
                .unwrap_or(budget.frame_ms),
            delay_ms: number("delay_ms", raw.delay_ms, f64::MAX, TIME)?.unwrap_or(budget.delay_ms),
        },
        ..Options::default()
    })
}

/// A path of any bytes on unix; UTF-8 elsewhere.
///
/// # Safety
/// NULL or a C string.
unsafe fn path_of(path: *const c_char, name: &'static str) -> Result<PathBuf, Failure> {
    check(path, name)?;
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(path) };
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(std::ffi::OsStr::from_bytes(text.to_bytes()).into())
    }
    #[cfg(not(unix))]
    match text.to_str() {
        Ok(text) => Ok(text.into()),
        Err(error) => Err(Failure::Value {
            name,
            found: error.to_string(),
            expected: "UTF-8",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cp_status::{CP_ERROR_BUSY, CP_ERROR_PANIC, CP_OK};

    fn load() -> *mut cp_detector {
        let mut detector = std::ptr::null_mut();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/demo/fp32.plan\0");
        // SAFETY: a C string, no options, a place for the detector.
        let status = unsafe { cp_load(path.as_ptr().cast(), std::ptr::null(), &mut detector) };
        assert_eq!(status, CP_OK);
        detector
    }

    fn last_error() -> String {
        // SAFETY: the text stays until the next call.
        unsafe { CStr::from_ptr(cp_last_error()) }
            .to_string_lossy()
            .into_owned()
    }

    #[test]
    fn a_detector_that_panicked_says_so_and_nothing_else_does() {
        let (broken, other) = (load(), load());
        let mut found = 7;
        // SAFETY: live detectors, a place for the number.
        unsafe {
            let status = call(|| {
                let out = Out::new(std::ptr::null_mut(), 0, &mut found)?;
                frame(broken, out, |_| panic!("planted"))
            });
            assert_eq!((status, found), (CP_ERROR_PANIC, 0));
            assert!(last_error().contains("planted"), "{}", last_error());
            for _ in 0..2 {
                assert_eq!(cp_clear_sweeps(broken), CP_ERROR_PANIC);
                assert!(last_error().contains("load another"), "{}", last_error());
            }
            assert_eq!(cp_clear_sweeps(other), CP_OK);
            cp_free(broken);
            cp_free(other);
        }
    }

    #[test]
    fn a_detector_serves_one_call_at_a_time() {
        let detector = load();
        // SAFETY: a live detector.
        unsafe {
            let held = of(detector).unwrap().lock().unwrap();
            assert_eq!(cp_clear_sweeps(detector), CP_ERROR_BUSY);
            drop(held);
            assert_eq!(cp_clear_sweeps(detector), CP_OK);
            cp_free(detector);
        }
    }
}
