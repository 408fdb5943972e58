//! Chooses the shim that fits a library.
//!
//! A shim calls C++ interfaces by their position in the vtables that its headers define. No library checks this, and a
//! wrong shim crashes. Within a major version vtables only grow, so a shim fits libraries of its major version that are as
//! old as its headers or newer. TensorRT-RTX 1.5 changed its vtables. This was verified by comparing the headers of
//! TensorRT 10.0, 10.3, 10.16, 11.1, 11.4 and TensorRT-RTX 1.3 to 1.7.

use super::{Family, Version};

/// The first TensorRT-RTX with its current interfaces; `build/tensorrt.rs` has the same constant.
const RTX_BREAK: (u32, u32) = (1, 5);

/// Chooses the shim for the library `found`. `shims` are header versions; returns the index of the newest that fits.
///
/// # Errors
/// If none fits, what to do.
pub fn choose(found: Version, shims: &[Version]) -> Result<usize, String> {
    let best = shims
        .iter()
        .enumerate()
        .filter(|(_, shim)| fits(found, **shim))
        .max_by_key(|(_, shim)| **shim);
    match best {
        Some((at, _)) => Ok(at),
        None => Err(advice(found, shims)),
    }
}

fn fits(library: Version, shim: Version) -> bool {
    let interfaces = |v: Version| v.family == Family::TensorRt || (v.major, v.minor) >= RTX_BREAK;
    library.family == shim.family
        && library.major == shim.major
        && library.minor >= shim.minor
        && interfaces(library) == interfaces(shim)
}

fn advice(found: Version, shims: &[Version]) -> String {
    let Version { major, minor, .. } = found;
    if found.family == Family::TensorRt && !(10..=11).contains(&major) {
        return "use TensorRT 10 or 11; on a Jetson they come with JetPack 6 and 7".into();
    }
    if found.family == Family::TensorRtRtx && major != 1 {
        return "use TensorRT-RTX 1".into();
    }
    let family = match found.family {
        Family::TensorRt => "TensorRT",
        Family::TensorRtRtx => "TensorRT-RTX",
    };
    let rebuild = format!(
        "build this program with the headers of {family} {major}.{minor} (their folder in \
         TENSORRT_INCLUDE_DIR)"
    );
    let newer = shims
        .iter()
        .find(|shim| shim.family == found.family && shim.major == major);
    match newer {
        Some(shim) => format!(
            "{rebuild}, or use {family} {}.{} or newer",
            shim.major, shim.minor
        ),
        None => rebuild,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trt(major: u32, minor: u32, patch: u32) -> Version {
        Version::new(Family::TensorRt, major, minor, patch)
    }

    fn rtx(minor: u32) -> Version {
        Version::new(Family::TensorRtRtx, 1, minor, 0)
    }

    #[test]
    fn a_shim_serves_its_own_and_later_libraries_of_its_major_version() {
        let shims = [trt(10, 3, 0), trt(11, 1, 0), rtx(5)];
        assert_eq!(choose(trt(10, 3, 0), &shims), Ok(0));
        assert_eq!(choose(trt(10, 16, 1), &shims), Ok(0));
        assert_eq!(choose(trt(11, 4, 0), &shims), Ok(1));
        assert_eq!(choose(rtx(5), &shims), Ok(2));
        assert_eq!(choose(rtx(7), &shims), Ok(2));
        // If two fit, the newer one is chosen.
        assert_eq!(
            choose(
                trt(10, 9, 0),
                &[trt(10, 0, 1), trt(10, 8, 0), trt(10, 12, 0)]
            ),
            Ok(1)
        );
    }

    #[test]
    fn other_libraries_are_refused_with_advice() {
        let shims = [trt(10, 3, 0), trt(11, 1, 0), rtx(5)];
        for (found, expected) in [
            (trt(10, 0, 1), "use TensorRT 10.3 or newer"),
            (trt(11, 0, 0), "use TensorRT 11.1 or newer"),
            (trt(12, 0, 0), "use TensorRT 10 or 11"),
            (trt(8, 6, 1), "JetPack 6"),
            (rtx(3), "use TensorRT-RTX 1.5 or newer"),
        ] {
            let advice = choose(found, &shims).unwrap_err();
            assert!(advice.contains(expected), "{found}: {advice}");
        }
        let advice = choose(trt(10, 16, 1), &[trt(11, 4, 0), rtx(5)]).unwrap_err();
        assert!(advice.contains("headers of TensorRT 10.16"), "{advice}");
        let advice = choose(trt(11, 4, 0), &[]).unwrap_err();
        assert!(advice.contains("TENSORRT_INCLUDE_DIR"), "{advice}");
    }

    #[test]
    fn the_break_in_tensorrt_rtx_is_not_crossed() {
        assert!(choose(rtx(7), &[rtx(3)]).is_err());
        assert!(choose(rtx(7), &[rtx(4)]).is_err());
        assert_eq!(choose(rtx(4), &[rtx(3)]), Ok(0));
        assert!(choose(rtx(4), &[rtx(5)]).is_err());
    }
}
