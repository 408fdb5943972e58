//! The top layer: names beside the boxes, the legend, the height scale, the title bar.

use super::{BevOptions, FAINT_TEXT, GRID, Picture, TEXT, TITLE_BACKGROUND, View};
use crate::boxes::Box3d;
use crate::boxes::class_name;
use crate::draw::canvas::{Rect, paint};
use crate::draw::color::{self, SCALE_STEPS};
use crate::draw::font;

/// Most names drawn; more would hide the boxes.
const MAX_NAMES: usize = 80;
/// A legend with more classes lists only those that occur, at most this many.
const MAX_LEGEND_CLASSES: usize = 10;

/// The symbol in a row of the legend.
enum Symbol {
    Class(u32),
    Label,
    Arrow,
}

impl Picture {
    /// Draws class and score beside each box, best first. `taken` are the rectangles to avoid, those of the boxes
    /// first; a name without a free place is skipped.
    pub(super) fn names(&mut self, boxes: &[&Box3d], classes: &[String], mut taken: Vec<Rect>) {
        let unit = self.view.unit;
        let size = 9.0 * unit;
        let [left, top, right, bottom] = self.view.map();
        for (i, b) in boxes.iter().enumerate().take(MAX_NAMES) {
            let name = class_name(b.class, classes);
            let text = format!("{name} {:.2}", b.score);
            let (width, gap) = (font::width(&text) * size, 4.0 * unit);
            let own = taken[i];
            let place = [
                [own[2] + gap, own[1]],
                [own[0] - gap - width, own[1]],
                [own[2] + gap, own[3] - size],
                [own[0] - gap - width, own[3] - size],
                [own[0], own[1] - gap - size],
                [own[0], own[3] + gap],
            ]
            .into_iter()
            .map(|[x, y]| [x, y, x + width, y + size])
            .find(|r| {
                r[0] >= left
                    && r[1] >= top
                    && r[2] <= right
                    && r[3] <= bottom
                    && !taken.iter().any(|t| overlap(r, t))
            });
            if let Some(r) = place {
                self.haloed_text([r[0], r[3]], size, color::class(b.class), &text);
                let margin = 0.5 * gap;
                taken.push([r[0] - margin, r[1] - margin, r[2] + margin, r[3] + margin]);
            }
        }
    }

    /// Draws the background of a panel.
    fn panel(&mut self, rect: Rect) {
        let unit = self.view.unit;
        let edge = paint(GRID, 0.25);
        let inner = paint(TITLE_BACKGROUND, 0.88);
        let outer = [
            rect[0] - unit,
            rect[1] - unit,
            rect[2] + unit,
            rect[3] + unit,
        ];
        self.canvas.rounded_rect(outer, 9.0 * unit, edge);
        self.canvas.rounded_rect(rect, 8.0 * unit, inner);
    }

    /// Draws the legend at the bottom left: classes with colour and count, labels, arrows. Returns its rectangle.
    pub(super) fn legend(
        &mut self,
        boxes: &[&Box3d],
        labels: Option<&[&Box3d]>,
        classes: &[String],
    ) -> Rect {
        let count = |class: u32| boxes.iter().filter(|b| b.class == class).count();
        let mut listed: Vec<(u32, usize)> = (0..)
            .take(classes.len())
            .map(|class| (class, count(class)))
            .collect();
        if listed.len() > MAX_LEGEND_CLASSES {
            listed.retain(|&(_, n)| n > 0);
            listed.truncate(MAX_LEGEND_CLASSES);
        }
        let mut rows: Vec<(Symbol, String, Option<usize>)> = listed
            .into_iter()
            .map(|(class, n)| (Symbol::Class(class), class_name(class, classes), Some(n)))
            .collect();
        if let Some(labels) = labels {
            rows.push((Symbol::Label, "label".to_owned(), Some(labels.len())));
        }
        if !boxes.is_empty() {
            rows.push((Symbol::Arrow, "in 1 s".to_owned(), None));
        }
        if rows.is_empty() {
            return [0.0; 4];
        }

        let unit = self.view.unit;
        let (size, line, pad) = (10.5 * unit, 24.0 * unit, 15.0 * unit);
        let widest = rows.iter().map(|row| font::width(&row.1));
        let widest = widest.fold(0.0, f32::max) * size;
        let bottom = self.view.height - pad;
        let panel = [
            pad,
            bottom - rows.len() as f32 * line - pad,
            3.0 * pad + 76.0 * unit + widest,
            bottom,
        ];
        self.panel(panel);
        let mut middle = panel[1] + 0.5 * pad + 0.5 * line;
        for (symbol, name, n) in rows {
            self.symbol(symbol, [2.0 * pad, middle]);
            let rgb = if n == Some(0) { FAINT_TEXT } else { TEXT };
            let baseline = middle + size * 0.5;
            self.text([2.0 * pad + 30.0 * unit, baseline], size, rgb, &name);
            if let Some(n) = n {
                let n = thousands(n);
                let x = panel[2] - pad - font::width(&n) * size;
                self.text([x, baseline], size, rgb, &n);
            }
            middle += line;
        }
        panel
    }

    /// Draws a symbol of the legend; its left end is at `x`, its middle at `y`.
    fn symbol(&mut self, symbol: Symbol, [x, y]: [f32; 2]) {
        let unit = self.view.unit;
        let (right, half) = (x + 18.0 * unit, 5.5 * unit);
        let corners = [
            [x, y - half],
            [right, y - half],
            [right, y + half],
            [x, y + half],
        ];
        match symbol {
            Symbol::Class(class) => {
                let rgb = color::class(class);
                self.canvas.polygon(&corners, paint(rgb, 0.3));
                self.canvas.outline(&corners, 1.7 * unit, paint(rgb, 1.0));
            }
            Symbol::Label => {
                let line = paint(TEXT, 0.75);
                self.canvas.dashed(&corners, 1.1 * unit, 4.0 * unit, line);
            }
            Symbol::Arrow => self.arrow([x, y], [right, y], paint(TEXT, 1.0)),
        }
    }

    /// Draws the height scale at the bottom right. Returns its rectangle.
    pub(super) fn height_scale(&mut self, [low, high]: [f32; 2]) -> Rect {
        let unit = self.view.unit;
        let (size, pad, long, thick) = (9.5 * unit, 15.0 * unit, 210.0 * unit, 10.0 * unit);
        let panel = [
            self.view.width - 3.0 * pad - long,
            self.view.height - pad - 62.0 * unit,
            self.view.width - pad,
            self.view.height - pad,
        ];
        self.panel(panel);
        let left = panel[0] + pad;
        let top = panel[1] + 27.0 * unit;
        self.text(
            [left, panel[1] + 19.0 * unit],
            size,
            FAINT_TEXT,
            "height z (m)",
        );
        let colors = color::height_scale();
        let step = long / SCALE_STEPS as f32;
        for (i, &rgb) in colors.iter().enumerate() {
            let x = left + i as f32 * step;
            // Each step reaches the end and is covered by the next, which avoids seams.
            let rect = [x, top, left + long, top + thick];
            self.canvas.rect(rect, paint(rgb, 1.0));
        }
        for (share, align) in [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)] {
            let text = format!("{:.1}", low + (high - low) * share);
            let x = left + long * share - font::width(&text) * size * align;
            self.text([x, top + thick + 15.5 * unit], size, TEXT, &text);
        }
        panel
    }

    /// Draws the title bar.
    pub(super) fn title(&mut self, points: usize, boxes: usize, options: &BevOptions<'_>) {
        let View {
            unit, bar, width, ..
        } = self.view;
        let background = paint(TITLE_BACKGROUND, 1.0);
        self.canvas.rect([0.0, 0.0, width, bar], background);
        let rule = paint(GRID, 0.3);
        self.canvas.line(&[[0.0, bar], [width, bar]], unit, rule);

        let size = 13.0 * unit;
        let (pad, baseline) = (18.0 * unit, (bar + size) * 0.5);
        let mut facts = format!(
            "{} points  ·  {} box{}",
            thousands(points),
            thousands(boxes),
            if boxes == 1 { "" } else { "es" }
        );
        if let Some(ms) = options.total_ms {
            facts.push_str(&format!("  ·  {ms:.1} ms"));
        }
        let facts_at = width - pad - font::width(&facts) * size;
        self.text([facts_at, baseline], size, FAINT_TEXT, &facts);
        let room = (facts_at - 2.0 * pad) / size;
        self.text([pad, baseline], size, TEXT, &shortened(options.title, room));
    }
}

/// Cuts off the start of `text`, so that a path keeps its file, to fit `room` heights of a capital letter.
fn shortened(text: &str, room: f32) -> String {
    // Bounds the quadratic work below.
    const MOST: usize = 200;
    let skip = text.chars().count().saturating_sub(MOST);
    let mut rest: String = text.chars().skip(skip).collect();
    let mut cut = skip > 0;
    loop {
        let shown = if cut {
            format!("…{rest}")
        } else {
            rest.clone()
        };
        if rest.is_empty() || font::width(&shown) <= room {
            return shown;
        }
        rest.remove(0);
        cut = true;
    }
}

/// Formats a number with a space between groups of three digits.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Whether two rectangles overlap.
pub(super) fn overlap(a: &Rect, b: &Rect) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 34_688, 1_234_567].map(thousands),
            ["0", "999", "1 000", "34 688", "1 234 567"]
        );
    }

    #[test]
    fn a_long_title_keeps_its_end() {
        let path = format!("{}/frames/000000.bin", "long/".repeat(1000));
        let room = font::width("…frames/000000.bin") + 1e-3;
        assert_eq!(shortened(&path, room), "…frames/000000.bin");
        assert_eq!(shortened("short", 100.0), "short");
        assert_eq!(shortened("short", -1.0), "…");
    }
}
