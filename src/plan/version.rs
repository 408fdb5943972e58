//! Versions of TensorRT and of its plans.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A line of libraries with one set of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// TensorRT (libnvinfer).
    TensorRt,
    /// TensorRT-RTX (libtensorrt_rtx): its numbers are its own.
    TensorRtRtx,
}

/// A version of TensorRT, such as 10.3.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Whose numbers these are.
    pub family: Family,
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// That of these numbers.
    pub fn new(family: Family, major: u32, minor: u32, patch: u32) -> Self {
        Self {
            family,
            major,
            minor,
            patch,
        }
    }

    /// What a library's `getInferLibVersion` says: 8601 is TensorRT 8.6.1, 101601 TensorRT 10.16.1, and 10701
    /// TensorRT-RTX 1.7.1. `None` for other numbers.
    pub fn of_library(number: i32) -> Option<Self> {
        let number = u32::try_from(number).ok()?;
        let (minor, patch) = (number / 100 % 100, number % 100);
        match number {
            1_000..10_000 => Some(Self::new(
                Family::TensorRt,
                number / 1000,
                minor % 10,
                patch,
            )),
            10_000..100_000 => Some(Self::new(
                Family::TensorRtRtx,
                number / 10_000,
                minor,
                patch,
            )),
            100_000..1_000_000 => Some(Self::new(Family::TensorRt, number / 10_000, minor, patch)),
            _ => None,
        }
    }

    /// Two or three numbers, such as `10.3.0`. Those from 8 on are TensorRT's, smaller ones TensorRT-RTX's.
    /// `None` for another text.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Option<Vec<u32>> = text.split('.').map(|n| n.parse().ok()).collect();
        let (major, minor, patch) = match numbers?[..] {
            [major, minor] => (major, minor, 0),
            [major, minor, patch] => (major, minor, patch),
            _ => return None,
        };
        let family = match major {
            8.. => Family::TensorRt,
            _ => Family::TensorRtRtx,
        };
        Some(Self::new(family, major, minor, patch))
    }

    /// The library that wrote a plan, by the plan's header: a tag of which the last three letters are `trt`,
    /// and from byte 24 on major, minor and patch, one byte each. `None` for what is no plan, or has another
    /// header.
    ///
    /// No document of NVIDIA's tells this format. For TensorRT-RTX 1.7 it was seen in plans of ours; for
    /// TensorRT it is what NVIDIA said in a [public thread] and what Autoware relies on, and has not been tried
    /// by us. So it is good for a clear message, and no more: the library has the last word on a plan.
    ///
    /// [public thread]: https://github.com/NVIDIA/TensorRT/issues/3073
    pub fn of_plan(bytes: &[u8]) -> Option<Self> {
        if bytes.get(1..4)? != b"trt" {
            return None;
        }
        let &[major, minor, patch] = bytes.get(24..27)? else {
            return None;
        };
        let family = match major {
            1..=4 => Family::TensorRtRtx,
            8..=20 => Family::TensorRt,
            _ => return None,
        };
        Some(Self::new(family, major.into(), minor.into(), patch.into()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.family {
            Family::TensorRt => "TensorRT",
            Family::TensorRtRtx => "TensorRT-RTX",
        };
        write!(f, "{name} {}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_libraries() {
        for (number, version) in [
            (8601, "TensorRT 8.6.1"),
            (9300, "TensorRT 9.3.0"),
            (10300, "TensorRT-RTX 1.3.0"),
            (10701, "TensorRT-RTX 1.7.1"),
            (100300, "TensorRT 10.3.0"),
            (101601, "TensorRT 10.16.1"),
            (110400, "TensorRT 11.4.0"),
        ] {
            let found = Version::of_library(number).map(|v| v.to_string());
            assert_eq!(found.as_deref(), Some(version), "{number}");
        }
        for number in [-1, 0, 999, 1_000_000, i32::MAX] {
            assert_eq!(Version::of_library(number), None, "{number}");
        }
    }

    #[test]
    fn numbers_of_people() {
        let of = |text: &str| Version::parse(text).map(|v| v.to_string());
        assert_eq!(of("10.3.0").as_deref(), Some("TensorRT 10.3.0"));
        assert_eq!(of("11.4").as_deref(), Some("TensorRT 11.4.0"));
        assert_eq!(of("1.7.1").as_deref(), Some("TensorRT-RTX 1.7.1"));
        for text in ["", "10", "10.", "10.x", "10.3.0.26", "-1.2"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn headers_of_plans() {
        let plan = |tag: &[u8], version: [u8; 4]| {
            let mut bytes = vec![0; 64];
            bytes[..tag.len()].copy_from_slice(tag);
            bytes[24..28].copy_from_slice(&version);
            bytes
        };
        let of = |bytes: &[u8]| Version::of_plan(bytes).map(|v| v.to_string());
        let rtx = plan(b"vtrt", [1, 7, 1, 116]);
        assert_eq!(of(&rtx).as_deref(), Some("TensorRT-RTX 1.7.1"));
        let jetson = plan(b"ftrt", [10, 3, 0, 26]);
        assert_eq!(of(&jetson).as_deref(), Some("TensorRT 10.3.0"));
        for length in [0, 3, 4, 24, 26] {
            assert_eq!(of(&rtx[..length]), None, "{length}");
        }
        assert_eq!(of(&plan(b"ONNX", [10, 3, 0, 26])), None);
        assert_eq!(of(&plan(b"ftrt", [0, 3, 0, 26])), None);
    }
}
