//! Scatter: each layout that an engine may use, and the clearing of the last frame.

use centerpoint::internals::cpu::scatter::{Scatter, scatter};
use centerpoint::map::{MapDataMut, MapLayout, MapViewMut};

const CHANNELS: usize = 3;
const HEIGHT: usize = 4;
const WIDTH: usize = 5;

/// Dense NCHW, and NHWC with a one-cell border, as channels 2..5 of an 8-channel tensor.
fn layouts() -> [(MapLayout, usize); 2] {
    let dense = MapLayout::nchw(CHANNELS, HEIGHT, WIDTH);
    let bordered = MapLayout {
        offset: (WIDTH + 2) * 8 + 8 + 2,
        stride_c: 1,
        stride_y: (WIDTH + 2) * 8,
        stride_x: 8,
        ..dense
    };
    [
        (dense, CHANNELS * HEIGHT * WIDTH),
        (bordered, (HEIGHT + 2) * (WIDTH + 2) * 8),
    ]
}

#[test]
fn the_map_holds_only_the_frames_pillars() {
    // Frames that share cells, are empty, and grow again.
    let frames: [&[u32]; 4] = [&[7, 0, 19], &[19, 3], &[], &[1, 2, 7, 12]];
    for (layout, len) in layouts() {
        let mut data = vec![0.0; len];
        let mut state = Scatter::new(8);
        for (f, cells) in frames.into_iter().enumerate() {
            let value = |pillar: usize, c: usize| (100 * (f + 1) + 10 * pillar + c) as f32;
            let features: Vec<f32> = (0..cells.len() * CHANNELS)
                .map(|i| value(i / CHANNELS, i % CHANNELS))
                .collect();
            let map = &mut MapViewMut {
                data: MapDataMut::F32(&mut data),
                layout,
            };
            scatter(&features, cells, &mut state, map);

            let mut expected = vec![0.0; len];
            for (pillar, &cell) in cells.iter().enumerate() {
                let (y, x) = (cell as usize / WIDTH, cell as usize % WIDTH);
                for c in 0..CHANNELS {
                    expected[layout.index(c, y, x)] = value(pillar, c);
                }
            }
            assert_eq!(data, expected, "frame {f}");
        }
    }
}
