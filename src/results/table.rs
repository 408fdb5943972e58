//! A table for the terminal: a summary line, stage times if measured, and one row per box with aligned
//! columns. Metres, degrees, m/s.

use std::fmt::Write;

use super::FrameResult;
use crate::boxes::class_name;
use crate::points::Ground;

/// Formats the frame as a table; the last line ends with a line break too. Unlike the formats for machines
/// this never fails: it shows NaN and infinity as they are, and a class without a name by its index.
pub fn text(result: &FrameResult<'_>, classes: &[String]) -> String {
    let mut out = summary(result);
    out.push('\n');
    if let Some(times) = &result.times {
        out.push_str("times ms:");
        for (stage, ms) in times.stages() {
            // Writing to a String cannot fail, here and below.
            let _ = write!(out, "  {stage} {ms:.2}");
        }
        out.push('\n');
    }
    if let Some(Ground {
        height,
        cells,
        spread,
    }) = result.ground
    {
        let _ = writeln!(
            out,
            "ground: {height:.2} m, seen in {cells} m², within ±{spread:.2} m"
        );
    }
    if result.boxes.is_empty() {
        return out;
    }
    let names: Vec<String> = result
        .boxes
        .iter()
        .map(|b| class_name(b.class, classes))
        .collect();
    let width = names.iter().map(|n| n.chars().count()).max();
    let width = width.unwrap_or(0).max("class".len());
    let _ = writeln!(
        out,
        "{:<width$}  score        x        y       z       l       w       h    yaw°      vx      vy",
        "class"
    );
    for (b, name) in result.boxes.iter().zip(&names) {
        let [x, y, z] = b.center;
        let [l, w, h] = b.size;
        let [vx, vy] = b.velocity;
        let _ = writeln!(
            out,
            "{name:<width$}  {:5.3} {x:8.2} {y:8.2} {z:7.2} {l:7.2} {w:7.2} {h:7.2} {:7.1} {vx:7.2} {vy:7.2}",
            b.score,
            b.yaw.to_degrees(),
        );
    }
    out
}

/// `frame: 34688 points, 12 boxes, dropped 3 non_finite, 63.2 ms`, without counters that are zero and times
/// that are unknown.
fn summary(result: &FrameResult<'_>) -> String {
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let (points, boxes) = (result.points, result.boxes.len());
    let mut out = format!(
        "{}: {points} point{}, {boxes} box{}",
        result.frame,
        plural(points),
        if boxes == 1 { "" } else { "es" },
    );
    let mut separator = ", dropped";
    for (counter, n) in result.dropped.counters() {
        if n > 0 {
            let _ = write!(out, "{separator} {n} {counter}");
            separator = ",";
        }
    }
    if let Some(times) = &result.times {
        let _ = write!(out, ", {:.1} ms", times.total);
    }
    out
}
