//! Text as outlines of a bundled font: Roboto Regular, Apache-2.0 (`font/LICENSE.txt`).
//!
//! System fonts differ between machines, and so would the pictures' bytes. The file holds Basic Latin, Latin-1,
//! Greek and mathematical signs, without hinting and kerning. fontTools makes it from Debian's
//! `fonts-roboto-unhinted`:
//!
//! ```text
//! pyftsubset Roboto-Regular.ttf --layout-features='' --no-hinting --notdef-outline --no-recalc-timestamp
//!   --name-IDs=0,1,2,3,4,5,6,13,14
//!   --unicodes=20-7E,A0-FF,370-3FF,2010-2015,2018-201E,2026,2030,2032,2033,2202,2206,2211,2212,221A,221E,2248,2260,2264,2265
//!   --drop-tables+=GSUB,GPOS,GDEF,kern,DSIG,gasp,fpgm,prep,cvt,hdmx,VDMX,LTSH
//! ```
//!
//! `ttf-parser` reads the outlines and tiny-skia fills them, as it does all other shapes: the rasterisers of
//! `ab_glyph` and `fontdue`, both built on `ttf-parser`, are not needed.

use std::sync::LazyLock;

use tiny_skia::{Path, PathBuilder};
use ttf_parser::{Face, OutlineBuilder};

/// Family name, for SVG.
pub(super) const FAMILY: &str = "Roboto";
/// Font size (em) in heights of a capital letter.
pub(super) const EM: f32 = 2048.0 / CAPITAL_HEIGHT;
/// Height of a capital letter in font units.
const CAPITAL_HEIGHT: f32 = 1456.0;

/// Never `None`, as a test shows.
static FACE: LazyLock<Option<Face<'static>>> =
    LazyLock::new(|| Face::parse(include_bytes!("font/Roboto-Regular.ttf"), 0).ok());

/// Width of `text` in heights of a capital letter.
pub(super) fn width(text: &str) -> f32 {
    let advance: f32 = FACE.iter().flat_map(|face| advances(face, text)).sum();
    advance / CAPITAL_HEIGHT
}

/// Outline of `text` in pixels, y down. The baseline starts at `at`; capital letters are `size` high.
/// `None` if nothing is visible.
pub(super) fn outline(text: &str, at: [f32; 2], size: f32) -> Option<Path> {
    let face = FACE.as_ref()?;
    let mut pen = Pen {
        path: PathBuilder::new(),
        at,
        scale: size / CAPITAL_HEIGHT,
    };
    for (c, advance) in text.chars().zip(advances(face, text)) {
        face.outline_glyph(face.glyph_index(c).unwrap_or_default(), &mut pen);
        pen.at[0] += advance * pen.scale;
    }
    pen.path.finish()
}

/// The width of each character in font units. Characters without a glyph are drawn as an empty box.
fn advances<'a>(face: &'a Face<'_>, text: &'a str) -> impl Iterator<Item = f32> + 'a {
    text.chars().map(|c| {
        let glyph = face.glyph_index(c).unwrap_or_default();
        f32::from(face.glyph_hor_advance(glyph).unwrap_or(0))
    })
}

/// Draws font units, y up, into a path of pixels, y down.
struct Pen {
    path: PathBuilder,
    at: [f32; 2],
    scale: f32,
}

impl Pen {
    fn pixel(&self, x: f32, y: f32) -> [f32; 2] {
        [self.at[0] + x * self.scale, self.at[1] - y * self.scale]
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let [x, y] = self.pixel(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let [x, y] = self.pixel(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ([x1, y1], [x, y]) = (self.pixel(x1, y1), self.pixel(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ([x1, y1], [x2, y2]) = (self.pixel(x1, y1), self.pixel(x2, y2));
        let [x, y] = self.pixel(x, y);
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_font_has_the_characters_in_use_and_the_stated_size() {
        let face = FACE.as_ref().unwrap();
        assert_eq!(face.capital_height().map(f32::from), Some(CAPITAL_HEIGHT));
        assert_eq!(f32::from(face.units_per_em()), EM * CAPITAL_HEIGHT);
        for c in (' '..='~').chain("äöüßéñ°·×±−µαβμσ≤≥≈…".chars()) {
            assert!(face.glyph_index(c).is_some(), "{c:?}");
        }
    }

    #[test]
    fn outlines_lie_where_they_belong() {
        let bounds = outline("H", [100.0, 50.0], 14.0).unwrap().bounds();
        assert_eq!((bounds.top(), bounds.bottom()), (36.0, 50.0));
        assert!(bounds.left() > 100.0 && bounds.right() < 100.0 + 14.0 * width("H"));
        // Descenders are below the baseline; a second letter starts after the first.
        assert!(outline("p", [0.0; 2], 14.0).unwrap().bounds().bottom() > 2.0);
        let two = outline("HH", [100.0, 50.0], 14.0).unwrap().bounds();
        assert!((two.right() - bounds.right() - 14.0 * width("H")).abs() < 1e-3);
        assert!(outline("", [0.0; 2], 14.0).is_none());
        assert!(outline(" ", [0.0; 2], 14.0).is_none());
        assert!(outline("\u{fffd}", [0.0; 2], 14.0).is_some());
    }

    #[test]
    fn digits_have_one_width() {
        let widths = ('0'..='9').map(|c| width(&c.to_string()));
        assert!(widths.clone().all(|w| Some(w) == widths.clone().next()));
        assert!((width("10") - 2.0 * width("1")).abs() < 1e-6);
    }
}
