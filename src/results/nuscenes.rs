//! The nuScenes result format: `synth` writes labels in it, `cp-infer` results, and `eval` scores both.
//!
//! `{"results": {sample_token: [box…]}}` with the field names of nuscenes-devkit's `DetectionBox`.
//! A sample without boxes is an empty list. Lengths are metres, sizes **width, length, height**,
//! rotations quaternions w x y z, velocities m/s.
//!
//! Reading follows the devkit: it ignores keys that are not in [`SampleBox`] (real files have some), accepts
//! Python's bare `NaN` and `Infinity` as "unknown", and checks what the devkit asserts (finite numbers, sizes
//! above 0). Unlike the devkit, it rejects a sample that is listed twice and a box whose `sample_token` differs
//! from the sample it is listed under.

mod meta;
mod read;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::ResultsError;
use crate::boxes::Box3d;
use crate::files;

/// The largest file that [`Results::read`] accepts, in bytes. It holds the nuScenes validation split with the
/// devkit's limit of 500 boxes in every sample.
pub(crate) const MAX_FILE_BYTES: u64 = 2 << 30;

/// The sample token of a frame's file: its name without folder and extension, `a` for `frames/a.bin` and
/// `frames/a.pcd.bin`.
pub(crate) fn sample_token(frame: &Path) -> String {
    let stem = frame.file_stem().unwrap_or(frame.as_os_str());
    let stem = stem.to_string_lossy();
    stem.strip_suffix(".pcd").unwrap_or(&stem).to_owned()
}

/// A result file or a label file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Free-form metadata (`use_lidar`, how the file was made, …), at most 1000 values.
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// The boxes of each sample by its token; see `sample_token`.
    pub results: BTreeMap<String, Vec<SampleBox>>,
}

/// One box: a label, or a detection with its score.
///
/// The first four keys and `detection_name` are required in a file; the others have the devkit's defaults.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleBox {
    /// The sample that the box belongs to.
    pub sample_token: String,
    /// Centre x, y, z in metres.
    pub translation: [f64; 3],
    /// Width, length, height in metres.
    pub size: [f64; 3],
    /// Orientation as a unit quaternion w, x, y, z.
    pub rotation: [f64; 4],
    /// Velocity in m/s; `None` (JSON `null` or `NaN`) if unknown.
    pub velocity: [Option<f64>; 2],
    /// Class name.
    pub detection_name: String,
    /// Confidence 0..=1; −1 for a label, and if missing in the file.
    pub detection_score: f64,
    /// Attribute such as `vehicle.moving`; empty if there is none.
    pub attribute_name: String,
    /// Centre relative to the ego vehicle in metres; all zero if missing in the file.
    pub ego_translation: [f64; 3],
    /// Lidar points inside the box; −1 if unknown.
    pub num_pts: i64,
}

impl Results {
    /// Reads a result or label file.
    ///
    /// Peak memory is below 4 times the file's size.
    ///
    /// # Errors
    /// [`ResultsError::Read`], [`ResultsError::TooLarge`] above [`MAX_FILE_BYTES`], and
    /// [`ResultsError::Format`], which names the file, the sample, the box's index in it and the key.
    pub fn read(path: &Path) -> Result<Results, ResultsError> {
        read::read(path)
    }

    /// Writes the file: samples in the order of their tokens, one box per line, floats with enough digits to
    /// read back exactly.
    ///
    /// # Errors
    /// [`ResultsError::BadBox`] if [`read`](Self::read) would reject a box, [`ResultsError::File`].
    pub fn write(&self, path: &Path) -> Result<(), ResultsError> {
        self.check()?;
        Ok(files::write_with(path, |file| self.write_to(file))?)
    }

    /// Writes the text of [`write`](Self::write) without checking the boxes: NaN and infinity become `null`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        out.write_all(b"{\"meta\":")?;
        serde_json::to_writer(&mut out, &self.meta)?;
        out.write_all(b",\"results\":{")?;
        for (i, (token, boxes)) in self.results.iter().enumerate() {
            out.write_all(if i == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut out, token)?;
            out.write_all(b":[")?;
            for (j, sample_box) in boxes.iter().enumerate() {
                out.write_all(if j == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut out, sample_box)?;
            }
            out.write_all(b"]")?;
        }
        out.write_all(b"\n}}\n")
    }

    /// All boxes, in the order of their samples' tokens.
    pub fn boxes(&self) -> impl Iterator<Item = &SampleBox> {
        self.results.values().flatten()
    }

    /// Checks that the metrics can score every box and that [`read`](Self::read) would accept it.
    ///
    /// # Errors
    /// [`ResultsError::BadBox`] for the first that fails.
    pub fn check(&self) -> Result<(), ResultsError> {
        for (token, boxes) in &self.results {
            for (index, sample_box) in boxes.iter().enumerate() {
                sample_box
                    .check(token)
                    .map_err(|reason| ResultsError::BadBox {
                        sample: token.clone(),
                        index,
                        reason,
                    })?;
            }
        }
        Ok(())
    }
}

impl SampleBox {
    /// Converts a detection in the vehicle frame to a box of sample `token`.
    ///
    /// Its ego translation is its centre. It has no attribute, as the networks do not predict one.
    pub fn from_box3d(detected: &Box3d, token: &str, class_name: &str) -> SampleBox {
        let center = detected.center.map(f64::from);
        let [length, width, height] = detected.size.map(f64::from);
        let (sin, cos) = (f64::from(detected.yaw) * 0.5).sin_cos();
        SampleBox {
            sample_token: token.to_owned(),
            translation: center,
            size: [width, length, height],
            rotation: [cos, 0.0, 0.0, sin],
            velocity: detected
                .velocity
                .map(|v| v.is_finite().then_some(f64::from(v))),
            detection_name: class_name.to_owned(),
            detection_score: f64::from(detected.score),
            attribute_name: String::new(),
            ego_translation: center,
            num_pts: -1,
        }
    }

    /// Converts the box to a detection. `class` is the index of [`detection_name`](Self::detection_name) in
    /// the model's classes. Drops roll and pitch, rounds numbers to f32, and sets an unknown velocity to NaN.
    pub fn to_box3d(&self, class: u32) -> Box3d {
        let [width, length, height] = self.size.map(|v| v as f32);
        Box3d {
            center: self.translation.map(|v| v as f32),
            size: [length, width, height],
            yaw: self.yaw() as f32,
            velocity: self.velocity.map(|v| v.map_or(f32::NAN, |v| v as f32)),
            score: self.detection_score as f32,
            class,
        }
    }

    /// Heading of the box's x axis in the xy plane, radians in (−π, π] (the devkit's `quaternion_yaw`). The
    /// quaternion need not have unit length; if it is all zero, the heading is 0.
    pub fn yaw(&self) -> f64 {
        let [w, x, y, z] = self.rotation;
        (2.0 * (w * z + x * y)).atan2(w * w + x * x - y * y - z * z)
    }

    /// Checks the box as one of sample `token`; the error says what is wrong.
    fn check(&self, token: &str) -> Result<(), String> {
        if self.sample_token != token {
            return Err(format!(
                "sample_token is `{}`, but the box is listed under `{token}`",
                self.sample_token
            ));
        }
        let finite = |key: &str, values: &[f64]| match values.iter().find(|v| !v.is_finite()) {
            Some(value) => Err(format!("{key}: {value}, expected a finite number")),
            None => Ok(()),
        };
        finite("translation", &self.translation)?;
        finite("size", &self.size)?;
        finite("rotation", &self.rotation)?;
        finite("ego_translation", &self.ego_translation)?;
        finite("detection_score", &[self.detection_score])?;
        if let Some(value) = self.velocity.iter().flatten().find(|v| !v.is_finite()) {
            return Err(format!(
                "velocity: {value}, expected a finite number or null"
            ));
        }
        if let Some(value) = self.size.iter().find(|v| **v <= 0.0) {
            return Err(format!("size: {value}, expected a length above 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn detection() -> Box3d {
        Box3d {
            center: [12.5, -3.25, 0.1],
            size: [4.6, 1.9, 1.7],
            yaw: -2.5,
            velocity: [5.0, f32::NAN],
            score: 0.3,
            class: 1,
        }
    }

    #[test]
    fn detections_convert_to_width_length_height_and_back() {
        let label = SampleBox::from_box3d(&detection(), "000001", "truck");
        assert_eq!(label.size, [1.9f32, 4.6, 1.7].map(f64::from));
        assert!((label.rotation[0] - (-1.25f64).cos()).abs() < 1e-12);
        assert!((label.rotation[3] - (-1.25f64).sin()).abs() < 1e-12);
        assert_eq!(label.velocity, [Some(5.0), None]);
        assert_eq!(label.ego_translation, label.translation);

        let back = label.to_box3d(1);
        assert!(back.velocity[1].is_nan());
        assert_eq!(back.velocity[0], 5.0);
        assert_eq!(
            (back.center, back.size),
            (detection().center, detection().size)
        );
        assert_eq!((back.yaw, back.score, back.class), (-2.5, 0.3, 1));
    }

    #[test]
    fn yaw_is_the_heading_of_the_rotated_x_axis() {
        let mut label = SampleBox::from_box3d(&detection(), "s", "car");
        // Scaled and negated, a quaternion is the same rotation.
        label.rotation = label.rotation.map(|v| v * -2.0);
        assert!((label.yaw() - -2.5).abs() < 1e-12);
        // 90° about z after 90° about x, by hand: q = (0.5, 0.5, 0.5, 0.5).
        label.rotation = [0.5; 4];
        assert!((label.yaw() - std::f64::consts::FRAC_PI_2).abs() < 1e-12);
    }

    #[test]
    fn tokens_are_names_without_extensions() {
        let token = |path: &str| sample_token(Path::new(path));
        assert_eq!(token("frames/000012.bin"), "000012");
        assert_eq!(
            token("n015-2018.07.__LIDAR_TOP.pcd.bin"),
            "n015-2018.07.__LIDAR_TOP"
        );
        assert_eq!(token("a.pcd"), "a");
    }

    #[test]
    fn write_rejects_boxes_that_read_would_reject() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        let mut results = Results::default();
        let mut label = SampleBox::from_box3d(&detection(), "a", "car");
        label.translation[1] = f64::NAN;
        results.results.insert("a".to_owned(), vec![label]);
        let error = results.write(&path).unwrap_err().to_string();
        assert!(error.contains("sample `a`, box 0: translation"), "{error}");
        assert!(!path.exists());
    }

    /// nuscenes-devkit's own tests have such boxes.
    #[test]
    fn a_rotation_of_zeros_is_a_heading_of_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        let mut results = Results::default();
        let mut label = SampleBox::from_box3d(&detection(), "a", "car");
        label.rotation = [0.0; 4];
        results.results.insert("a".to_owned(), vec![label]);
        results.write(&path).unwrap();
        let read = Results::read(&path).unwrap();
        assert_eq!(read.boxes().next().unwrap().yaw(), 0.0);
    }

    proptest! {
        #[test]
        fn written_files_read_back_exactly(
            numbers in prop::collection::vec(
                prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 15),
            size in prop::array::uniform3(1e-300f64..1e300),
            known in any::<[bool; 2]>(),
            points in any::<i64>(),
            token in ".{0,8}", name in ".{0,8}", attribute in ".{0,8}",
        ) {
            let n = |i: usize| numbers[i];
            let label = SampleBox {
                sample_token: token.clone(),
                translation: [n(0), n(1), n(2)],
                size,
                rotation: [1.0, n(3), n(4), n(5)],
                velocity: [known[0].then_some(n(6)), known[1].then_some(n(7))],
                detection_name: name,
                detection_score: n(8),
                attribute_name: attribute,
                ego_translation: [n(9), n(10), n(11)],
                num_pts: points,
            };
            let mut results = Results::default();
            results.meta.insert("use_lidar".to_owned(), true.into());
            results.results.insert(token, vec![label.clone(), label]);
            results.results.insert("no boxes".to_owned(), vec![]);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("r.json");
            results.write(&path).unwrap();
            prop_assert_eq!(Results::read(&path).unwrap(), results);
        }
    }
}
