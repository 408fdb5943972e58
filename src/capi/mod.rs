//! The C library: the functions declared by `centerpoint.h`, for C, C++ and any language that calls C.
//!
//! ```text
//! caller ─ capi.rs ─ handle.rs ─ Detector      entries: pointers to references, errors to a status and a text
//!          types.rs, status.rs                 extensible structs; each thread's last error
//! ```
//!
//! The header (`src/capi/include/centerpoint/centerpoint.h`) is written by hand and is the documentation; a
//! test compares it with the code. `cp-build install` installs it with the library and the files for CMake and
//! pkg-config. No panic leaves an entry; calls on a detector in use by another thread fail.
//!
//! # Safety
//! For every function here: each pointer is NULL or points to what the header says, for the duration of the
//! call; a detector comes from [`cp_load`] and has not been passed to [`cp_free`].
#![allow(unsafe_code, non_camel_case_types)]
#![allow(clippy::missing_safety_doc)] // the same for all: see above
#![allow(unreachable_pub)] // C reaches all of it

mod handle;
// Where C's char is unsigned, as on aarch64, Rust cannot tell it from uint8_t, which the comparison of types needs.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod header;
#[cfg(feature = "build")]
pub(crate) mod install;
mod status;
mod types;

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::time::Instant;

pub use handle::cp_detector;
pub use status::cp_status;
pub use types::{
    cp_box, cp_cloud, cp_deadline_info, cp_field, cp_frame_info, cp_model_info, cp_options,
    cp_pose, cp_variances,
};

use crate::cuda::DevicePtr;
use crate::deadline::{Budget, Level};
use crate::detector::{Detector, Device, Options};
use crate::model::{corners as box_corners, is_box};
use crate::points::{Extrinsic, GroundHeight, Pose};
use handle::State;
use status::{Failure, call};
use types::{Output, check, read, write};

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

/// The error of the last call on this thread.
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
        // SAFETY: checked; the module's contract.
        unsafe { detector.write(std::ptr::null_mut()) };
        // SAFETY: the module's contract.
        let path = unsafe { read_path(path, "path") }?;
        let options = if options.is_null() {
            Options::default()
        } else {
            // SAFETY: the module's contract.
            unsafe { read_options(&read(options)?) }?
        };
        let loaded = Box::new(cp_detector::new(Detector::load(&path, &options)?));
        // SAFETY: checked above; the module's contract.
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
        // SAFETY: `cp_load` made it with `Box::into_raw`, and it is no longer in use.
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
    // SAFETY: the module's contract.
    call(|| unsafe { write(info, &detector_ref(detector)?.lock()?.model()) })
}

/// Name of a class.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_class_name(
    detector: *const cp_detector,
    index: usize,
) -> *const c_char {
    name("class", index, || {
        // SAFETY: the module's contract.
        Ok(&unsafe { detector_ref(detector) }?.classes)
    })
}

/// Name of a column of the model's points.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_column_name(
    detector: *const cp_detector,
    index: usize,
) -> *const c_char {
    name("column", index, || {
        // SAFETY: the module's contract.
        Ok(&unsafe { detector_ref(detector) }?.columns)
    })
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
    // SAFETY: the module's contract.
    call(|| unsafe {
        frame(
            detector,
            Output::new(boxes, "boxes", capacity, found)?,
            |state| {
                state.read(&read(cloud)?)?;
                state.detect()
            },
        )
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
    // SAFETY: the module's contract.
    call(|| unsafe {
        frame(
            detector,
            Output::new(boxes, "boxes", capacity, found)?,
            |state| {
                if count > 0 {
                    check(points.cast::<f32>(), "points")?;
                }
                let points = DevicePtr::from_address(points.addr() as u64);
                state.detect_device(points, count)
            },
        )
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
        // SAFETY: the module's contract.
        let mut state = unsafe { detector_ref(detector) }?.lock()?;
        // SAFETY: the module's contract.
        let cloud = unsafe { read(cloud) }?;
        let pose = if pose.is_null() {
            None
        } else {
            check(pose, "pose")?;
            // SAFETY: checked; the module's contract.
            let p = unsafe { pose.read() };
            Some(Pose::new([p.x, p.y, p.z], [p.qw, p.qx, p.qy, p.qz])?)
        };
        // SAFETY: the module's contract.
        unsafe { state.read(&cloud) }?;
        state.push(stamp_ns, pose)
    })
}

/// [`SweepBuffer::clear`](crate::points::SweepBuffer::clear).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_clear_sweeps(detector: *mut cp_detector) -> cp_status {
    call(|| {
        // SAFETY: the module's contract.
        unsafe { detector_ref(detector) }?.lock()?.clear();
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
    // SAFETY: the module's contract.
    call(|| unsafe {
        let out = Output::new(boxes, "boxes", capacity, found)?;
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
        // SAFETY: the module's contract.
        let out = unsafe { Output::new(boxes, "boxes", capacity, found) }?;
        // SAFETY: the module's contract.
        let state = unsafe { detector_ref(detector) }?.lock()?;
        if state.last().is_some() {
            out.write(state.detector.boxes());
        }
        Ok(())
    })
}

/// [`Detector::variances`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_last_variances(
    detector: *const cp_detector,
    variances: *mut cp_variances,
    capacity: usize,
    found: *mut usize,
) -> cp_status {
    call(|| {
        // SAFETY: the module's contract.
        let out = unsafe { Output::new(variances, "variances", capacity, found) }?;
        // SAFETY: the module's contract.
        let state = unsafe { detector_ref(detector) }?.lock()?;
        if state.last().is_some() {
            out.write(state.detector.variances());
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
    // SAFETY: the module's contract.
    call(|| unsafe {
        let last = detector_ref(detector)?.lock()?.last().copied();
        write(info, &last.unwrap_or_default())
    })
}

/// [`Detector::check`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_check(
    detector: *mut cp_detector,
    cloud: *const cp_cloud,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> cp_status {
    call(|| {
        check(length.cast_const(), "length")?;
        if capacity > 0 {
            check(text.cast_const(), "text")?;
        }
        // SAFETY: checked; the module's contract.
        unsafe { length.write(0) };
        // SAFETY: the module's contract.
        let mut state = unsafe { detector_ref(detector) }?.lock()?;
        // SAFETY: the module's contract.
        let cloud = unsafe { read(cloud) }?;
        // SAFETY: the module's contract.
        unsafe { state.read(&cloud) }?;
        let found = state.check();
        let kept = found.len().min(capacity.saturating_sub(1));
        // SAFETY: checked; the module's contract.
        unsafe { length.write(found.len()) };
        if capacity > 0 {
            // SAFETY: `text` has room for `capacity` bytes, which are more than `kept`.
            unsafe {
                text.copy_from_nonoverlapping(found.as_ptr().cast(), kept);
                text.add(kept).write(0);
            }
        }
        Ok(())
    })
}

/// [`Detector::deadline`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cp_deadline(
    detector: *const cp_detector,
    info: *mut cp_deadline_info,
) -> cp_status {
    call(|| {
        // SAFETY: the module's contract.
        let detector = unsafe { detector_ref(detector) }?;
        let deadline = *detector.lock()?.detector.deadline();
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
        // SAFETY: the module's contract.
        unsafe { write(info, &value) }
    })
}

/// Runs one frame with `detect` and writes the boxes to the caller's array.
///
/// # Safety
/// As for the module.
unsafe fn frame(
    detector: *mut cp_detector,
    out: Output<cp_box>,
    detect: impl FnOnce(&mut State) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    let mut state = unsafe { detector_ref(detector) }?.lock()?;
    state.begin();
    detect(&mut state)?;
    out.write(state.detector.boxes());
    Ok(())
}

/// The detector behind a pointer.
///
/// # Safety
/// As for the module.
unsafe fn detector_ref<'a>(detector: *const cp_detector) -> Result<&'a cp_detector, Failure> {
    check(detector, "detector")?;
    // SAFETY: checked; the caller's contract.
    Ok(unsafe { &*detector })
}

/// The name at `index`, or NULL and an error if there is none.
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

/// Checks the caller's options.
///
/// # Safety
/// The strings in `raw` are NULL or C strings.
unsafe fn read_options(raw: &cp_options) -> Result<Options, Failure> {
    let number = |name: &'static str, value: f64, most: f64, expected: &'static str| {
        // 0 means "not set"; NaN is outside every range.
        if (0.0..=most).contains(&value) {
            Ok((value > 0.0).then_some(value))
        } else {
            Err(Failure::Value {
                name,
                found: value.to_string(),
                expected,
            })
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
    if raw.reserved != 0 {
        return Err(Failure::Newer("cp_options"));
    }
    let wrong = |name, found: String, expected| Failure::Value {
        name,
        found,
        expected,
    };
    let ground = match raw.ground {
        0 => None,
        1 => Some(GroundHeight::Auto),
        2 => {
            let height = GroundHeight::at(raw.ground_height.into());
            let found = || raw.ground_height.to_string();
            Some(height.ok_or_else(|| wrong("ground_height", found(), "-100 to 100 m"))?)
        }
        other => {
            let expected = "CP_GROUND_PLAN (0), CP_GROUND_AUTO (1) or CP_GROUND_HEIGHT (2)";
            return Err(wrong("ground", other.to_string(), expected));
        }
    };
    let extrinsic = match raw.has_extrinsic {
        0 => None,
        _ => Some(Extrinsic::new(raw.extrinsic).map_err(|_| {
            let found = format!("{:?}", raw.extrinsic);
            wrong("extrinsic", found, "six finite numbers")
        })?),
    };
    let corners = raw.ignore_box.map(f64::from);
    let ignore_box = match corners {
        _ if corners == [0.0; 6] => None,
        _ if is_box(&corners) => Some(box_corners(corners)),
        _ => {
            let expected = "minimum x, y, z, then maximum x, y, z";
            return Err(wrong("ignore_box", format!("{corners:?}"), expected));
        }
    };
    let budget = Budget::default();
    Ok(Options {
        extrinsic,
        ground,
        ignore_box,
        threads: raw.threads as usize,
        stage_times: true,
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
        tensorrt: if raw.tensorrt.is_null() {
            None
        } else {
            // SAFETY: the caller's contract.
            Some(unsafe { read_path(raw.tensorrt, "tensorrt") }?)
        },
        budget: Budget {
            frame_ms: number("budget_ms", raw.budget_ms, f64::MAX, TIME)?
                .unwrap_or(budget.frame_ms),
            delay_ms: number("delay_ms", raw.delay_ms, f64::MAX, TIME)?.unwrap_or(budget.delay_ms),
        },
        ..Options::default()
    })
}

/// Reads a path: any bytes on Unix, UTF-8 elsewhere.
///
/// # Safety
/// `path` is NULL or a C string.
unsafe fn read_path(path: *const c_char, name: &'static str) -> Result<PathBuf, Failure> {
    check(path, name)?;
    // SAFETY: the caller's contract.
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
        // SAFETY: a C string, no options, a valid place for the detector.
        let status = unsafe { cp_load(path.as_ptr().cast(), std::ptr::null(), &mut detector) };
        assert_eq!(status, CP_OK);
        detector
    }

    fn last_error() -> String {
        // SAFETY: the text is valid until the next call.
        unsafe { CStr::from_ptr(cp_last_error()) }
            .to_string_lossy()
            .into_owned()
    }

    #[test]
    fn only_the_detector_that_panicked_is_poisoned() {
        let (broken, other) = (load(), load());
        let mut found = 7;
        // SAFETY: live detectors, and a valid place for the number.
        unsafe {
            let status = call(|| {
                let out = Output::new(std::ptr::null_mut(), "boxes", 0, &mut found)?;
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
            let held = detector_ref(detector).unwrap().lock().unwrap();
            assert_eq!(cp_clear_sweeps(detector), CP_ERROR_BUSY);
            drop(held);
            assert_eq!(cp_clear_sweeps(detector), CP_OK);
            cp_free(detector);
        }
    }
}
