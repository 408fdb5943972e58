//! The point cloud in memory: rows of `f32` in a [`Layout`], and their conversion to a model's columns.

use super::sweeps::move_row;
use super::{Column, FrameError, FrameWarning, Layout, MAX_COLUMNS, Transform};

/// A cloud: rows of `layout.stride()` values, in the file's order and scale.
///
/// NaN and infinite values are kept; the voxeliser drops and counts such points.
#[derive(Clone, Debug)]
pub struct PointCloud {
    pub(super) layout: Layout,
    pub(super) data: Vec<f32>,
    pub(super) notes: Notes,
}

/// What a reader saw in a file and the values do not show.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// Names of the file's fields that are no columns.
    pub(super) unused: Vec<String>,
    pub(super) warnings: Vec<FrameWarning>,
}

impl Notes {
    pub(super) fn clear(&mut self) {
        self.unused.clear();
        self.warnings.clear();
    }
}

/// Clouds are equal if their columns and values are, from whatever file they come.
impl PartialEq for PointCloud {
    fn eq(&self, other: &Self) -> bool {
        (self.layout, &self.data) == (other.layout, &other.data)
    }
}

impl PointCloud {
    /// Creates a cloud from row-major `data`, `n × layout.stride()` values.
    ///
    /// # Errors
    /// [`FrameError::Ragged`] if the values do not fill whole rows.
    pub fn new(layout: Layout, data: Vec<f32>) -> Result<Self, FrameError> {
        if !data.len().is_multiple_of(layout.stride()) {
            return Err(FrameError::Ragged {
                values: data.len(),
                layout,
            });
        }
        Ok(Self::from_parts(layout, data))
    }

    /// A cloud of whole rows.
    pub(super) fn from_parts(layout: Layout, data: Vec<f32>) -> Self {
        Self {
            layout,
            data,
            notes: Notes::default(),
        }
    }

    /// Creates a cloud without points.
    pub fn empty(layout: Layout) -> Self {
        Self::from_parts(layout, Vec::new())
    }

    /// Meaning of the columns.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What the reader of the file found that may be wrong.
    pub fn warnings(&self) -> &[FrameWarning] {
        &self.notes.warnings
    }

    /// The error for a column that the model needs and the cloud lacks.
    pub(crate) fn missing(&self, column: Column) -> FrameError {
        FrameError::MissingColumn {
            column,
            layout: self.layout,
            unused: self.notes.unused.clone(),
        }
    }

    /// All values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.data.len() / self.layout.stride()
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The points, each a slice of `layout.stride()` values.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(self.layout.stride())
    }

    /// Returns the points in a model's column order, with intensities multiplied by `intensity_scale`.
    ///
    /// Returns the cloud's own values if they already have that form; otherwise writes them to `scratch`, which
    /// does not reallocate once it has the capacity. A missing [`Column::T`] becomes 0 (a single, newest
    /// sweep), and so does a missing [`Column::Intensity`], which sets `Selected::missing_intensity`.
    /// [`Column::Skip`] in `columns` becomes 0.
    ///
    /// # Errors
    /// [`FrameError::MissingColumn`] if the cloud lacks any other of `columns`.
    pub fn select<'a>(
        &'a self,
        columns: &[Column],
        intensity_scale: f32,
        scratch: &'a mut Vec<f32>,
    ) -> Result<Selected<'a>, FrameError> {
        self.select_placed(columns, intensity_scale, None, scratch)
    }

    /// Like [`select`](Self::select), then moved by `place`.
    ///
    /// # Errors
    /// The same as [`select`](Self::select).
    pub(crate) fn select_placed<'a>(
        &'a self,
        columns: &[Column],
        intensity_scale: f32,
        place: Option<&Transform>,
        scratch: &'a mut Vec<f32>,
    ) -> Result<Selected<'a>, FrameError> {
        if place.is_none()
            && columns == self.layout.columns()
            && !columns.contains(&Column::Skip)
            && (intensity_scale == 1.0 || !columns.contains(&Column::Intensity))
        {
            return Ok(Selected {
                points: &self.data,
                missing_intensity: false,
            });
        }
        // Source position and factor of each wanted value; a value without a source is 0.
        let mut sources = [(None, 1.0f32); MAX_COLUMNS];
        let Some(sources) = sources.get_mut(..columns.len()) else {
            return Err(super::LayoutError::TooMany(columns.len()).into());
        };
        let mut missing_intensity = false;
        for (source, &column) in sources.iter_mut().zip(columns) {
            let position = match column {
                Column::Skip => None,
                other => self.layout.position(other),
            };
            match (column, position) {
                (Column::Skip | Column::T, _) | (_, Some(_)) => {}
                (Column::Intensity, None) => missing_intensity = true,
                (column, None) => {
                    return Err(self.missing(column));
                }
            }
            let factor = if column == Column::Intensity {
                intensity_scale
            } else {
                1.0
            };
            *source = (position, factor);
        }
        scratch.clear();
        scratch.reserve(self.len() * columns.len());
        for row in self.rows() {
            scratch.extend(sources.iter().map(|&(position, factor)| {
                position
                    .and_then(|p| row.get(p))
                    .map_or(0.0, |v| v * factor)
            }));
        }
        if let Some(place) = place {
            let motion = place.after(None);
            let position = |wanted| columns.iter().position(|&column| column == wanted);
            if let [Some(x), Some(y), Some(z)] = Column::COORDINATES.map(position) {
                let rows = scratch.chunks_exact_mut(columns.len());
                rows.for_each(|row| move_row(row, [x, y, z], &motion));
            }
        }
        Ok(Selected {
            points: scratch,
            missing_intensity,
        })
    }
}

/// The result of [`PointCloud::select`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selected<'a> {
    /// Row-major values in the wanted columns.
    pub points: &'a [f32],
    /// The model wants intensities but the cloud has none: they are 0, and the caller should warn once.
    pub missing_intensity: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use Column::*;

    fn cloud() -> PointCloud {
        let data = vec![1., 2., 3., 40., 5., 6., 7., 8., 90., 10.];
        PointCloud::new(Layout::NUSCENES, data).unwrap()
    }

    #[test]
    fn partial_rows_are_rejected() {
        let error = PointCloud::new(Layout::KITTI, vec![0.0; 9]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains('9') && text.contains('4'), "{text}");
        assert_eq!(cloud().len(), 2);
        assert_eq!(cloud().rows().nth(1), Some(&[6., 7., 8., 90., 10.][..]));
        assert!(PointCloud::empty(Layout::KITTI).is_empty());
    }

    #[test]
    fn the_same_columns_are_not_copied() {
        let (cloud, mut scratch) = (cloud(), vec![]);
        let selected = cloud
            .select(Layout::NUSCENES.columns(), 1.0, &mut scratch)
            .unwrap();
        assert_eq!(selected.points.as_ptr(), cloud.data().as_ptr());
        let scaled = cloud
            .select(Layout::NUSCENES.columns(), 0.5, &mut scratch)
            .unwrap();
        assert_eq!(scaled.points, [1., 2., 3., 20., 5., 6., 7., 8., 45., 10.]);
    }

    #[test]
    fn columns_move_and_time_is_zero() {
        let (cloud, mut scratch) = (cloud(), vec![9.0]);
        let selected = cloud.select(&[Z, X, Y, T], 7.0, &mut scratch).unwrap();
        assert_eq!(selected.points, [3., 1., 2., 0., 8., 6., 7., 0.]);
        assert!(!selected.missing_intensity);
    }

    #[test]
    fn missing_intensity_is_flagged_and_other_missing_columns_are_errors() {
        let cloud = PointCloud::new("x,y,z,_".parse().unwrap(), vec![1., 2., 3., 4.]).unwrap();
        let mut scratch = vec![];
        let selected = cloud
            .select(Layout::XYZIT.columns(), 2.0, &mut scratch)
            .unwrap();
        assert_eq!(selected.points, [1., 2., 3., 0., 0.]);
        assert!(selected.missing_intensity);
        let error = cloud
            .select(&[X, Y, Z, Ring], 1.0, &mut scratch)
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("ring") && text.contains("x,y,z,skip"),
            "{text}"
        );
        // A column skipped in the file does not leak into the model.
        let skipped = cloud.select(&[X, Y, Z, Skip], 1.0, &mut scratch).unwrap();
        assert_eq!(skipped.points, [1., 2., 3., 0.]);
    }
}
