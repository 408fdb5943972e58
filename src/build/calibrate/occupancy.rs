//! Finds the cells of a feature map that lie under a pillar.
//!
//! A BEV map is mostly empty, so the background dominates a histogram of all cells. A cell of a map that is
//! s times smaller than the grid is *occupied* if any of the s × s grid cells below it has a pillar. A cell of
//! a larger map is occupied if the grid cell that contains it has a pillar.

use crate::model::Grid;

/// The occupied cells of one frame, for maps of any size.
#[derive(Clone, Debug)]
pub(crate) struct Occupancy {
    /// Rows and columns of the grid.
    size: [usize; 2],
    /// Occupied grid cells, `y · nx + x`.
    grid: Vec<bool>,
    /// Occupied cells by map size, computed on request.
    maps: Vec<([usize; 2], Vec<bool>)>,
}

impl Occupancy {
    /// An empty grid.
    pub(crate) fn new(grid: &Grid) -> Self {
        Self {
            size: [grid.ny, grid.nx],
            grid: vec![false; grid.cells()],
            maps: Vec::new(),
        }
    }

    /// Replaces the pillars by those of another frame, each `y · nx + x`.
    pub(crate) fn set(&mut self, cells: &[u32]) {
        self.grid.fill(false);
        for &cell in cells {
            if let Some(filled) = self.grid.get_mut(cell as usize) {
                *filled = true;
            }
        }
        self.maps.clear();
    }

    /// Occupied cells of a map with `height` rows and `width` columns, `y · width + x`.
    pub(crate) fn of_size(&mut self, height: usize, width: usize) -> &[bool] {
        let size = [height, width];
        let known = self.maps.iter().position(|(known, _)| *known == size);
        let index = known.unwrap_or_else(|| {
            self.maps.push((size, self.reduce(size)));
            self.maps.len() - 1
        });
        self.maps.get(index).map_or(&[], |(_, cells)| cells)
    }

    fn reduce(&self, [height, width]: [usize; 2]) -> Vec<bool> {
        let [ny, nx] = self.size;
        // Grid cells covered by cell `i` of `n`, along an axis of `all` cells.
        let covered = |i: usize, n: usize, all: usize| i * all / n..((i + 1) * all).div_ceil(n);
        let mut cells = Vec::with_capacity(height * width);
        for y in 0..height {
            for x in 0..width {
                let mut rows = covered(y, height, ny);
                cells.push(rows.any(|row| {
                    let columns = covered(x, width, nx);
                    let columns = row * nx + columns.start..row * nx + columns.end;
                    self.grid
                        .get(columns)
                        .is_some_and(|part| part.contains(&true))
                }));
            }
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupied(cells: &[bool]) -> Vec<usize> {
        let all = cells.iter().enumerate();
        all.filter(|(_, filled)| **filled)
            .map(|(cell, _)| cell)
            .collect()
    }

    #[test]
    fn a_cell_covers_its_block() {
        let grid = Grid {
            ignore_box: None,
            min: [0.0; 3],
            max: [8.0, 4.0, 1.0],
            voxel: [1.0; 3],
            nx: 8,
            ny: 4,
            max_points_per_pillar: 1,
            max_pillars: 32,
        };
        let mut occupancy = Occupancy::new(&grid);
        occupancy.set(&[0, 1, 21, 31]);
        assert_eq!(occupied(occupancy.of_size(4, 8)), [0, 1, 21, 31]);
        // (0, 0), (0, 1), (2, 5), (3, 7) in blocks of 2 × 2 and 4 × 4.
        assert_eq!(occupied(occupancy.of_size(2, 4)), [0, 6, 7]);
        assert_eq!(occupied(occupancy.of_size(1, 2)), [0, 1]);
        // Twice as large: each cell becomes four.
        assert_eq!(occupied(occupancy.of_size(8, 16))[..4], [0, 1, 2, 3]);
        assert_eq!(occupied(occupancy.of_size(8, 16)).len(), 16);
        // Grid rows 0..1.34, 1.33..2.67, 2.67..4: a cell that is cut belongs to both.
        assert_eq!(occupied(occupancy.of_size(3, 1)), [0, 1, 2]);

        occupancy.set(&[9]);
        assert_eq!(occupied(occupancy.of_size(4, 8)), [9]);
        assert_eq!(occupied(occupancy.of_size(2, 4)), [0]);
    }
}
