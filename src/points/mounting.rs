//! Where the sensor is: the transform from a cloud's frame to the model's.
//!
//! ```text
//! model = lift · extrinsic · sensor
//! ```
//! The extrinsic moves the points into the vehicle's frame (x forward, y left, z up). The lift moves them up or down until
//! the ground is where the model expects it. Boxes go the other way, so they are in the frame of the input.
//!
//! Metres. The transform is composed in f64 with the motion of past sweeps, and applied in f32.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nalgebra::{Isometry3, Matrix3, Rotation3, Translation3, UnitQuaternion, Vector3};
use serde::{Deserialize, Serialize};

use super::ground::{Ground, GroundFinder};
use super::sweeps::{moved, rows};
use super::{FrameError, Layout};
use crate::boxes::{Box3d, Variances};

/// Longest file of an extrinsic, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 16;
/// Most steps to the nearest rotation; a matrix of six digits takes a handful.
const MAX_STEPS: usize = 100;

/// The pose of the sensor on the vehicle: x, y, z in metres, then roll, pitch, yaw in degrees about the vehicle's fixed
/// axes x, y, z, in this order (the rotation is `Rz(yaw) · Ry(pitch) · Rx(roll)`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 6]", into = "[f64; 6]")]
pub struct Extrinsic([f64; 6]);

/// An extrinsic cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtrinsicError {
    /// A number is not finite.
    #[error("the extrinsic contains a number that is not finite")]
    NotFinite,
    /// The text has other numbers than expected.
    #[error(
        "`{0}` is not an extrinsic: expected x,y,z,roll,pitch,yaw (metres, degrees), or a file with these or with a \
         matrix of 3 or 4 rows of 4 numbers"
    )]
    Numbers(String),
    /// The matrix is not a rotation with a translation.
    #[error(
        "the matrix does not rotate and translate: its columns are not of length 1 and at right angles"
    )]
    Matrix,
    /// The file cannot be read.
    #[error("{path}: cannot read the extrinsic")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Extrinsic {
    /// An extrinsic from x, y, z in metres and roll, pitch, yaw in degrees.
    ///
    /// # Errors
    /// [`ExtrinsicError::NotFinite`].
    pub fn new(numbers: [f64; 6]) -> Result<Self, ExtrinsicError> {
        if numbers.iter().all(|number| number.is_finite()) {
            Ok(Self(numbers))
        } else {
            Err(ExtrinsicError::NotFinite)
        }
    }

    /// Parses `x,y,z,roll,pitch,yaw`, or reads the file of that name: the same six numbers, or a matrix `[R | t]` of 3 or
    /// 4 rows. Numbers in a file are separated by commas or spaces; `#` starts a comment.
    ///
    /// # Errors
    /// [`ExtrinsicError`].
    pub fn parse_or_read(text: &str) -> Result<Self, ExtrinsicError> {
        if let Ok(parsed) = text.parse() {
            return Ok(parsed);
        }
        let path = Path::new(text);
        let io = |source| ExtrinsicError::Io {
            path: path.into(),
            source,
        };
        if !path.exists() {
            return Err(ExtrinsicError::Numbers(text.into()));
        }
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(io(std::io::ErrorKind::FileTooLarge.into()));
        }
        let contents = std::fs::read_to_string(path).map_err(io)?;
        let lines = contents
            .lines()
            .map(|line| line.split('#').next().unwrap_or(""));
        let numbers: Option<Vec<f64>> = lines
            .flat_map(|line| line.split([',', ' ', '\t', '[', ']']))
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().ok())
            .collect();
        match numbers.as_deref() {
            Some(&[x, y, z, roll, pitch, yaw]) => Self::new([x, y, z, roll, pitch, yaw]),
            Some(rows @ [_, _, _, _, _, _, _, _, _, _, _, _])
            | Some([rows @ .., 0.0, 0.0, 0.0, 1.0])
                if rows.len() == 12 =>
            {
                Self::from_rows(rows)
            }
            _ => Err(ExtrinsicError::Numbers(text.into())),
        }
    }

    /// From the three rows of `[R | t]`.
    fn from_rows(rows: &[f64]) -> Result<Self, ExtrinsicError> {
        if !rows.iter().all(|number| number.is_finite()) {
            return Err(ExtrinsicError::NotFinite);
        }
        let matrix = Matrix3::from_fn(|row, column| rows[row * 4 + column]);
        let off = (matrix.transpose() * matrix - Matrix3::identity()).amax();
        if !(off <= 1e-3 && matrix.determinant() > 0.0) {
            return Err(ExtrinsicError::Matrix);
        }
        // The nearest rotation, in a bounded number of steps: without a bound, some matrices take forever.
        let guess = Rotation3::identity();
        let nearest = Rotation3::from_matrix_eps(&matrix, f64::EPSILON, MAX_STEPS, guess);
        let (roll, pitch, yaw) = nearest.euler_angles();
        let [roll, pitch, yaw] = [roll, pitch, yaw].map(f64::to_degrees);
        Self::new([rows[3], rows[7], rows[11], roll, pitch, yaw])
    }

    fn isometry(&self) -> Isometry3<f64> {
        let [x, y, z, roll, pitch, yaw] = self.0;
        let [roll, pitch, yaw] = [roll, pitch, yaw].map(f64::to_radians);
        let rotation = UnitQuaternion::from_euler_angles(roll, pitch, yaw);
        Isometry3::from_parts(Translation3::new(x, y, z), rotation)
    }
}

impl TryFrom<[f64; 6]> for Extrinsic {
    type Error = ExtrinsicError;

    fn try_from(numbers: [f64; 6]) -> Result<Self, ExtrinsicError> {
        Self::new(numbers)
    }
}

impl From<Extrinsic> for [f64; 6] {
    fn from(extrinsic: Extrinsic) -> Self {
        extrinsic.0
    }
}

impl FromStr for Extrinsic {
    type Err = ExtrinsicError;

    fn from_str(text: &str) -> Result<Self, ExtrinsicError> {
        let numbers: Result<Vec<f64>, _> = text.split(',').map(|n| n.trim().parse()).collect();
        let numbers = numbers
            .ok()
            .and_then(|numbers| <[f64; 6]>::try_from(numbers).ok());
        Self::new(numbers.ok_or_else(|| ExtrinsicError::Numbers(text.into()))?)
    }
}

/// Where the ground is in the input.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawGround", into = "RawGround")]
pub enum GroundHeight {
    /// Found in each frame.
    Auto,
    /// At this height in metres, in the vehicle's frame.
    At(f64),
}

/// `"auto"` or a number.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawGround {
    Height(f64),
    Word(String),
}

impl TryFrom<RawGround> for GroundHeight {
    type Error = String;

    fn try_from(raw: RawGround) -> Result<Self, String> {
        match raw {
            RawGround::Height(height) => height.to_string().parse(),
            RawGround::Word(word) => word.parse(),
        }
    }
}

impl From<GroundHeight> for RawGround {
    fn from(ground: GroundHeight) -> Self {
        match ground {
            GroundHeight::Auto => Self::Word("auto".into()),
            GroundHeight::At(height) => Self::Height(height),
        }
    }
}

impl FromStr for GroundHeight {
    type Err = String;

    /// Parses `auto` or a number of metres.
    fn from_str(text: &str) -> Result<Self, String> {
        let height = text.parse().ok().and_then(Self::at);
        let parsed = height.or((text == "auto").then_some(Self::Auto));
        parsed.ok_or_else(|| {
            format!("`{text}` is neither `auto` nor a height in metres (-100 to 100)")
        })
    }
}

impl GroundHeight {
    /// A height in metres; `None` beyond -100 to 100.
    pub(crate) fn at(height: f64) -> Option<Self> {
        (height.abs() <= 100.0).then_some(Self::At(height))
    }
}

impl fmt::Display for GroundHeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::At(height) => write!(f, "{height}"),
        }
    }
}

/// A transform from the input's frame to the model's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Transform(Isometry3<f64>);

impl Transform {
    /// The rows of `[R | t]`, after `motion` (from a past sweep's frame to the newest one's).
    pub(crate) fn after(&self, motion: Option<&Isometry3<f64>>) -> [[f32; 4]; 3] {
        let whole = motion.map_or(self.0, |motion| self.0 * motion);
        rows(&whole)
    }

    /// Moves a box from the model's frame to the input's. A box turns about the vertical axis only, so a tilted sensor's
    /// boxes keep the direction that they have in its horizontal plane.
    pub(crate) fn place(&self, bbox: &Box3d) -> Box3d {
        let back = self.0.inverse();
        let center = Vector3::from(bbox.center.map(f64::from));
        let center = (back * nalgebra::Point3::from(center)).coords;
        let mut placed = *bbox;
        placed.center = [center.x, center.y, center.z].map(|v| v as f32);
        // A lift alone changes no direction, not by a bit.
        if self.0.rotation != UnitQuaternion::identity() {
            let yaw = f64::from(bbox.yaw);
            let heading = back.rotation * Vector3::new(yaw.cos(), yaw.sin(), 0.0);
            placed.yaw = heading.y.atan2(heading.x) as f32;
            let [vx, vy] = bbox.velocity.map(f64::from);
            let velocity = back.rotation * Vector3::new(vx, vy, 0.0);
            placed.velocity = [velocity.x as f32, velocity.y as f32];
        }
        placed
    }

    /// The transform back, whose [`Transform::place`] moves labels from the input's frame to the model's.
    pub(crate) fn inverse(&self) -> Self {
        Self(self.0.inverse())
    }

    /// The variances of a box that [`Transform::place`] moves: the diagonal of the turned covariances.
    pub(crate) fn place_variances(&self, variances: &Variances) -> Variances {
        if self.0.rotation == UnitQuaternion::identity() {
            return *variances;
        }
        // Var(Σ r·v) = Σ r²·var(v) for independent values.
        let back = self.0.rotation.inverse().to_rotation_matrix();
        let squares = back.matrix().component_mul(back.matrix());
        let [vx, vy] = variances.velocity.map(f64::from);
        let center = squares * Vector3::from(variances.center.map(f64::from));
        let velocity = squares * Vector3::new(vx, vy, 0.0);
        Variances {
            center: [center.x, center.y, center.z].map(|v| v as f32),
            velocity: [velocity.x as f32, velocity.y as f32],
            ..*variances
        }
    }
}

/// The mounting of a sensor, for one frame after the other. Allocated once.
#[derive(Clone, Debug)]
pub(crate) struct Mounting {
    extrinsic: Isometry3<f64>,
    ground: Option<GroundHeight>,
    /// Height at which the model expects the ground.
    model_ground: f64,
    finder: GroundFinder,
    /// Points of a frame in the vehicle's frame: x, y, z.
    moved: Vec<f32>,
    found: Option<Ground>,
}

impl Mounting {
    /// A mounting; `None` if no point moves.
    pub(crate) fn new(
        extrinsic: Option<Extrinsic>,
        ground: Option<GroundHeight>,
        model_ground: f32,
    ) -> Option<Self> {
        if extrinsic.is_none() && ground.is_none() {
            return None;
        }
        Some(Self {
            extrinsic: extrinsic.map_or_else(Isometry3::identity, |e| e.isometry()),
            ground,
            model_ground: model_ground.into(),
            finder: GroundFinder::new(),
            moved: Vec::new(),
            found: None,
        })
    }

    /// The transform of a frame whose newest sweep is `points`.
    ///
    /// # Errors
    /// [`FrameError::NoGround`] if the ground is to be found and cannot be.
    pub(crate) fn transform(
        &mut self,
        points: &[f32],
        layout: Layout,
    ) -> Result<Transform, FrameError> {
        let height = match self.ground {
            None => return Ok(Transform(self.extrinsic)),
            Some(GroundHeight::At(height)) => height,
            // Nothing to detect, and nothing to lift.
            Some(GroundHeight::Auto) if points.is_empty() => self.model_ground,
            Some(GroundHeight::Auto) => {
                self.found = self.find(points, layout);
                self.found
                    .map(|ground| ground.height.into())
                    .ok_or(FrameError::NoGround)?
            }
        };
        let lift = Translation3::new(0.0, 0.0, self.model_ground - height);
        Ok(Transform(lift * self.extrinsic))
    }

    /// The transform of every frame; `None` if it differs from frame to frame.
    pub(crate) fn fixed(&mut self) -> Option<Transform> {
        match self.ground {
            Some(GroundHeight::Auto) => None,
            _ => self.transform(&[], Layout::XYZ).ok(),
        }
    }

    /// The ground that the last frame showed, if it was looked for.
    pub(crate) fn found(&self) -> Option<Ground> {
        self.found
    }

    fn find(&mut self, points: &[f32], layout: Layout) -> Option<Ground> {
        if self.extrinsic == Isometry3::identity() {
            return self.finder.find(points, layout);
        }
        let rows = rows(&self.extrinsic);
        let places = layout.coordinates();
        self.moved.clear();
        self.moved
            .extend(points.chunks_exact(layout.stride()).flat_map(|row| {
                let point = places.map(|place| row[place]);
                rows.map(|row| moved(row, point))
            }));
        self.finder.find(&self.moved, Layout::XYZ)
    }
}
