//! The columns of a point row, and their notation for users.
//!
//! A `.bin` or `.npy` holds only numbers; `--layout` names their columns, as a list (`x,y,z,intensity,t`) or as
//! one of the aliases in [`ALIASES`]. Every [`Layout`] is valid: it has x, y and z, no column twice, and at
//! most [`MAX_COLUMNS`] columns.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most columns in a point row.
pub(crate) const MAX_COLUMNS: usize = 16;

/// Named layouts.
pub(crate) const ALIASES: [(&str, Layout); 6] = [
    ("kitti", Layout::KITTI),
    ("nuscenes", Layout::NUSCENES),
    ("waymo", Layout::WAYMO),
    ("xyzi", Layout::KITTI),
    ("xyzir", Layout::NUSCENES),
    ("xyzit", Layout::XYZIT),
];

/// The meaning of one column of a point row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Column {
    /// Metres forward.
    X,
    /// Metres to the left.
    Y,
    /// Metres up.
    Z,
    /// Return strength in the file's own scale.
    Intensity,
    /// Age of the point's sweep in seconds; 0 for the newest.
    T,
    /// Laser (beam) number.
    Ring,
    /// Waymo's pulse elongation.
    Elongation,
    /// A column to ignore.
    Skip,
}

impl Column {
    /// The columns that every layout has.
    pub(crate) const COORDINATES: [Column; 3] = [Column::X, Column::Y, Column::Z];

    const ALL: [Column; 8] = [
        Column::X,
        Column::Y,
        Column::Z,
        Column::Intensity,
        Column::T,
        Column::Ring,
        Column::Elongation,
        Column::Skip,
    ];

    /// The first coordinate that is not among `columns`.
    pub(super) fn missing_from(columns: impl Iterator<Item = Column> + Clone) -> Option<Column> {
        let mut coordinates = Self::COORDINATES.into_iter();
        coordinates.find(|&wanted| !columns.clone().any(|column| column == wanted))
    }

    /// The column's name in layouts and model descriptions.
    pub fn name(self) -> &'static str {
        match self {
            Column::X => "x",
            Column::Y => "y",
            Column::Z => "z",
            Column::Intensity => "intensity",
            Column::T => "t",
            Column::Ring => "ring",
            Column::Elongation => "elongation",
            Column::Skip => "skip",
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Column {
    type Err = LayoutError;

    /// Parses a column's name; `_` is short for `skip`.
    fn from_str(text: &str) -> Result<Self, LayoutError> {
        if text == "_" {
            return Ok(Column::Skip);
        }
        Column::ALL
            .into_iter()
            .find(|column| column.name() == text)
            .ok_or_else(|| LayoutError::UnknownColumn(text.to_owned()))
    }
}

/// The meaning of each column of a point row, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Slots past `count` are [`Column::Skip`], which makes derived equality correct.
    columns: [Column; MAX_COLUMNS],
    count: u8,
}

impl Layout {
    /// KITTI's `.bin`: x y z intensity.
    pub const KITTI: Layout = Layout::constant(&[Column::Intensity]);
    /// nuScenes' `.pcd.bin`: x y z intensity ring.
    pub const NUSCENES: Layout = Layout::constant(&[Column::Intensity, Column::Ring]);
    /// Waymo frames as mmdetection3d stores them: x y z intensity elongation.
    pub const WAYMO: Layout = Layout::constant(&[Column::Intensity, Column::Elongation]);
    /// Accumulated sweeps: x y z intensity t.
    pub const XYZIT: Layout = Layout::constant(&[Column::Intensity, Column::T]);

    /// Coordinates alone.
    pub(super) const XYZ: Layout = Layout::constant(&[]);

    /// x y z and `rest`, without duplicates.
    const fn constant(rest: &[Column]) -> Layout {
        let mut columns = [Column::Skip; MAX_COLUMNS];
        columns[0] = Column::X;
        columns[1] = Column::Y;
        columns[2] = Column::Z;
        let mut i = 0;
        while i < rest.len() {
            columns[3 + i] = rest[i];
            i += 1;
        }
        Layout {
            columns,
            count: 3 + rest.len() as u8,
        }
    }

    /// Creates a layout from `columns`.
    ///
    /// # Errors
    /// More than `MAX_COLUMNS` columns, one of x, y, z missing, or a column other than
    /// [`Column::Skip`] given twice.
    pub fn new(columns: &[Column]) -> Result<Layout, LayoutError> {
        let mut layout = Layout {
            columns: [Column::Skip; MAX_COLUMNS],
            count: 0,
        };
        if columns.len() > MAX_COLUMNS {
            return Err(LayoutError::TooMany(columns.len()));
        }
        for (slot, &column) in layout.columns.iter_mut().zip(columns) {
            *slot = column;
            layout.count += 1;
        }
        for column in Column::ALL {
            match columns.iter().filter(|&&c| c == column).count() {
                0 if Column::COORDINATES.contains(&column) => {
                    return Err(LayoutError::Missing { column, layout });
                }
                2.. if column != Column::Skip => {
                    return Err(LayoutError::Duplicate { column, layout });
                }
                _ => {}
            }
        }
        Ok(layout)
    }

    /// The columns in order.
    pub fn columns(&self) -> &[Column] {
        &self.columns[..usize::from(self.count)]
    }

    /// Values per point.
    pub fn stride(&self) -> usize {
        usize::from(self.count)
    }

    /// Index of `column` in a row, if present.
    pub fn position(&self, column: Column) -> Option<usize> {
        self.columns().iter().position(|&c| c == column)
    }

    /// Indices of x, y and z in a row.
    pub(crate) fn coordinates(&self) -> [usize; 3] {
        // Every layout has them, so the 0 is never used.
        Column::COORDINATES.map(|column| self.position(column).unwrap_or(0))
    }

    /// This layout with a [`Column::T`], which is appended if missing.
    ///
    /// # Errors
    /// The layout already has `MAX_COLUMNS` columns.
    pub fn with_t(self) -> Result<Layout, LayoutError> {
        if self.position(Column::T).is_some() {
            return Ok(self);
        }
        let mut layout = self;
        match layout.columns.get_mut(self.stride()) {
            Some(slot) => *slot = Column::T,
            None => return Err(LayoutError::TooMany(MAX_COLUMNS + 1)),
        }
        layout.count += 1;
        Ok(layout)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, column) in self.columns().iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{column}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({self})")
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    /// Parses an alias or a comma-separated list of columns; ignores case and spaces around names.
    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let text = text.trim().to_ascii_lowercase();
        if let Some((_, layout)) = ALIASES.iter().find(|(alias, _)| *alias == text) {
            return Ok(*layout);
        }
        let columns = text
            .split(',')
            .map(|name| name.trim().parse())
            .collect::<Result<Vec<Column>, _>>()?;
        Layout::new(&columns)
    }
}

/// The columns do not form a layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A name is not a column.
    #[error(
        "`{0}` is not a column; a layout is a list such as `x,y,z,intensity,t` of the columns x, y, z, \
         intensity, t, ring, elongation and skip (or _), or one of kitti, nuscenes, waymo, xyzi, \
         xyzir, xyzit"
    )]
    UnknownColumn(String),
    /// A column occurs twice.
    #[error("layout `{layout}` has the column {column} twice; use `skip` for the one to ignore")]
    Duplicate {
        /// The column.
        column: Column,
        /// All columns as given.
        layout: Layout,
    },
    /// A coordinate is missing.
    #[error("layout `{layout}` lacks the column {column}; x, y and z are required")]
    Missing {
        /// The coordinate.
        column: Column,
        /// All columns as given.
        layout: Layout,
    },
    /// Too many columns.
    #[error("the layout has {0} columns; the limit is {MAX_COLUMNS}")]
    TooMany(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_their_column_lists_agree() {
        for (alias, layout) in ALIASES {
            assert_eq!(alias.parse(), Ok(layout));
            assert_eq!(layout.to_string().parse(), Ok(layout), "{alias}");
        }
        assert_eq!(Layout::WAYMO.to_string(), "x,y,z,intensity,elongation");
        assert_eq!(" KITTI ".parse(), Ok(Layout::KITTI));
    }

    #[test]
    fn a_list_keeps_its_order_and_skipped_columns() {
        let layout: Layout = "_, x,y, z,skip,t".parse().unwrap();
        use Column::*;
        assert_eq!(layout.columns(), [Skip, X, Y, Z, Skip, T]);
        assert_eq!(layout.position(T), Some(5));
        assert_eq!(layout.position(Ring), None);
        assert_eq!(layout.to_string(), "skip,x,y,z,skip,t");
    }

    #[test]
    fn invalid_lists_are_rejected() {
        use LayoutError::*;
        let parse = |text: &str| text.parse::<Layout>().unwrap_err();
        assert_eq!(parse("x,y,z,speed"), UnknownColumn("speed".into()));
        assert_eq!(parse(""), UnknownColumn(String::new()));
        assert!(matches!(
            parse("x,y,z,x"),
            Duplicate {
                column: Column::X,
                ..
            }
        ));
        assert!(matches!(
            parse("x,y,t"),
            Missing {
                column: Column::Z,
                ..
            }
        ));
        assert_eq!(parse("x,y,z,_,_,_,_,_,_,_,_,_,_,_,_,_,_"), TooMany(17));
        assert!(parse("x,y,z,t,t").to_string().contains("x,y,z,t,t"));
    }

    #[test]
    fn t_is_appended_once_and_only_if_there_is_room() {
        let with_t = Layout::KITTI.with_t().unwrap();
        assert_eq!(with_t, Layout::XYZIT);
        assert_eq!(with_t.with_t(), Ok(with_t));
        let full: Layout = "x,y,z,_,_,_,_,_,_,_,_,_,_,_,_,_".parse().unwrap();
        assert_eq!(full.with_t(), Err(LayoutError::TooMany(17)));
    }

    #[test]
    fn model_files_and_layouts_use_the_same_names() {
        for column in Column::ALL {
            assert_eq!(column.name().parse(), Ok(column));
            assert_eq!(
                serde_json::to_value(column).unwrap(),
                serde_json::json!(column.name())
            );
        }
    }
}
