//! Versions of TensorRT and of its serialised engines.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A family of libraries that share one set of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// TensorRT (libnvinfer).
    TensorRt,
    /// TensorRT-RTX (libtensorrt_rtx), which has its own version numbers.
    TensorRtRtx,
}

/// A version of TensorRT, such as 10.3.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The family that the numbers belong to.
    pub family: Family,
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// Creates a version.
    pub fn new(family: Family, major: u32, minor: u32, patch: u32) -> Self {
        Self {
            family,
            major,
            minor,
            patch,
        }
    }

    /// Decodes the result of a library's `getInferLibVersion`: 8601 is TensorRT 8.6.1, 101601 is TensorRT 10.16.1, and
    /// 10701 is TensorRT-RTX 1.7.1. `None` for other numbers.
    pub fn from_library_number(number: i32) -> Option<Self> {
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

    /// Parses two or three numbers, such as `10.3.0`. Major versions from 8 on are TensorRT's, smaller ones
    /// TensorRT-RTX's. `None` for any other text.
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

    /// Reads the version of the library that wrote a serialised engine from its header: a tag that ends in `trt`, and
    /// from byte 24 on major, minor and patch, one byte each. `None` for other data or another header.
    ///
    /// NVIDIA does not document this format. For TensorRT-RTX 1.7 it was observed in our own engines. For TensorRT it rests
    /// on NVIDIA's statement in a [public thread] and on Autoware, which relies on it; we have not tried it. Use it for error
    /// messages only: the library has the last word on an engine.
    ///
    /// [public thread]: https://github.com/NVIDIA/TensorRT/issues/3073
    pub fn from_plan_header(bytes: &[u8]) -> Option<Self> {
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
    fn library_numbers_become_versions() {
        for (number, version) in [
            (8601, "TensorRT 8.6.1"),
            (9300, "TensorRT 9.3.0"),
            (10300, "TensorRT-RTX 1.3.0"),
            (10701, "TensorRT-RTX 1.7.1"),
            (100300, "TensorRT 10.3.0"),
            (101601, "TensorRT 10.16.1"),
            (110400, "TensorRT 11.4.0"),
        ] {
            let found = Version::from_library_number(number).map(|v| v.to_string());
            assert_eq!(found.as_deref(), Some(version), "{number}");
        }
        for number in [-1, 0, 999, 1_000_000, i32::MAX] {
            assert_eq!(Version::from_library_number(number), None, "{number}");
        }
    }

    #[test]
    fn written_versions_are_parsed() {
        let parsed = |text: &str| Version::parse(text).map(|v| v.to_string());
        assert_eq!(parsed("10.3.0").as_deref(), Some("TensorRT 10.3.0"));
        assert_eq!(parsed("11.4").as_deref(), Some("TensorRT 11.4.0"));
        assert_eq!(parsed("1.7.1").as_deref(), Some("TensorRT-RTX 1.7.1"));
        for text in ["", "10", "10.", "10.x", "10.3.0.26", "-1.2"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn plan_headers_become_versions() {
        let plan = |tag: &[u8], version: [u8; 4]| {
            let mut bytes = vec![0; 64];
            bytes[..tag.len()].copy_from_slice(tag);
            bytes[24..28].copy_from_slice(&version);
            bytes
        };
        let read = |bytes: &[u8]| Version::from_plan_header(bytes).map(|v| v.to_string());
        let rtx = plan(b"vtrt", [1, 7, 1, 116]);
        assert_eq!(read(&rtx).as_deref(), Some("TensorRT-RTX 1.7.1"));
        let jetson = plan(b"ftrt", [10, 3, 0, 26]);
        assert_eq!(read(&jetson).as_deref(), Some("TensorRT 10.3.0"));
        for length in [0, 3, 4, 24, 26] {
            assert_eq!(read(&rtx[..length]), None, "{length}");
        }
        assert_eq!(read(&plan(b"ONNX", [10, 3, 0, 26])), None);
        assert_eq!(read(&plan(b"ftrt", [0, 3, 0, 26])), None);
    }
}
