//! A small stroke font, drawn for the BEV picture: printable ASCII and a few signs.
//!
//! Glyphs are strokes on a grid: each point is two digits, x then y, with the baseline at y = 2, the
//! height of small letters at 7, of capitals and digits at 9, and descenders at 0. Strokes are apart
//! by a space; the first letter of one says how its points are joined:
//!
//! | begins with | joined by |
//! |---|---|
//! | a digit | straight lines (a single point is a dot) |
//! | `~` | an open quadratic B-spline through the first and the last point |
//! | `o` | a closed quadratic B-spline |

/// Height of capitals and digits in grid units; [`layout`] scales it to 1.
const CAP_HEIGHT: f32 = 7.0;
const BASELINE: f32 = 2.0;
/// Space between two glyphs in grid units.
const TRACKING: f32 = 2.2;
/// Straight pieces per quadratic piece of a spline.
const SPLINE_STEPS: usize = 6;

/// A glyph's polylines, with capital height 1, baseline at y = 0, and y **down** as in the picture.
pub(super) type Strokes = Vec<Vec<[f32; 2]>>;

/// Width of `text` where capitals are 1 high.
pub(super) fn width(text: &str) -> f32 {
    let advance: f32 = text.chars().map(|c| f32::from(glyph(c).0) + TRACKING).sum();
    ((advance - TRACKING) / CAP_HEIGHT).max(0.0)
}

/// The glyphs of `text` and the x at which each begins, where capitals are 1 high.
pub(super) fn layout(text: &str) -> impl Iterator<Item = (f32, Strokes)> {
    let mut x = 0.0;
    text.chars().map(move |c| {
        let (width, strokes) = glyph(c);
        let at = x / CAP_HEIGHT;
        x += f32::from(width) + TRACKING;
        (at, strokes.split_whitespace().map(stroke).collect())
    })
}

fn stroke(code: &str) -> Vec<[f32; 2]> {
    let digits: Vec<f32> = code
        .bytes()
        .filter(u8::is_ascii_digit)
        .map(|d| f32::from(d - b'0'))
        .collect();
    let points: Vec<[f32; 2]> = digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[x, y]| [x / CAP_HEIGHT, (BASELINE - y) / CAP_HEIGHT])
        .collect();
    match code.as_bytes().first() {
        Some(b'~') => spline(&points, false),
        Some(b'o') => spline(&points, true),
        _ => points,
    }
}

/// The quadratic B-spline with control polygon `points`: its pieces meet at the middles of the
/// polygon's edges; an open one begins and ends at the polygon's ends.
fn spline(points: &[[f32; 2]], closed: bool) -> Vec<[f32; 2]> {
    let n = points.len();
    if n < 3 {
        return points.to_vec();
    }
    let middle = |a: [f32; 2], b: [f32; 2]| [(a[0] + b[0]) * 0.5, (a[1] + b[1]) * 0.5];
    let mut pieces = Vec::new();
    if closed {
        for i in 0..n {
            let (before, at, after) = (points[(i + n - 1) % n], points[i], points[(i + 1) % n]);
            pieces.push((middle(before, at), at, middle(at, after)));
        }
    } else {
        let mut from = points[0];
        for i in 1..n - 1 {
            let to = match i + 2 == n {
                true => points[n - 1],
                false => middle(points[i], points[i + 1]),
            };
            pieces.push((from, points[i], to));
            from = to;
        }
    }
    let mut line = Vec::with_capacity(pieces.len() * SPLINE_STEPS + 1);
    line.push(pieces[0].0);
    for (a, b, c) in pieces {
        for step in 1..=SPLINE_STEPS {
            let t = step as f32 / SPLINE_STEPS as f32;
            let (wa, wb, wc) = ((1.0 - t) * (1.0 - t), 2.0 * t * (1.0 - t), t * t);
            line.push([0, 1].map(|k| wa * a[k] + wb * b[k] + wc * c[k]));
        }
    }
    line
}

/// Width in grid units and the strokes of `c`; an empty box for a sign that is not drawn.
#[rustfmt::skip]
fn glyph(c: char) -> (u8, &'static str) {
    match c {
        ' ' => (2, ""),
        'A' => (6, "023962 1454"),
        'B' => (6, "0209 ~092959562606 ~063666623202"),
        'C' => (6, "~676909026264"),
        'D' => (6, "0209 ~093969623202"),
        'E' => (5, "59090252 0646"),
        'F' => (5, "590902 0646"),
        'G' => (6, "~676909026265 6545"),
        'H' => (6, "0209 6269 0666"),
        'I' => (0, "0209"),
        'J' => (4, "~4944420204"),
        'K' => (5, "0209 5904 2652"),
        'L' => (5, "090252"),
        'M' => (7, "0209356972"),
        'N' => (6, "02096269"),
        'O' => (6, "o09696202"),
        'P' => (6, "0209 ~093969653505"),
        'Q' => (6, "o09696202 4461"),
        'R' => (6, "0209 ~093969653505 3562"),
        'S' => (5, "~5759090655520204"),
        'T' => (6, "0969 3932"),
        'U' => (6, "~090402626469"),
        'V' => (6, "093269"),
        'W' => (8, "0922476289"),
        'X' => (6, "0962 0269"),
        'Y' => (6, "093669 3632"),
        'Z' => (6, "09690262"),
        'a' => (4, "o07474202 4742"),
        'b' => (4, "0902 o07474202"),
        'c' => (4, "~464707024243"),
        'd' => (4, "4942 o07474202"),
        'e' => (4, "0545 ~454707024243"),
        'f' => (3, "~39191712 0737"),
        'g' => (4, "o07474202 ~4742400001"),
        'h' => (4, "0902 ~0507474542"),
        'i' => (0, "0702 0909"),
        'j' => (1, "~17111000 1919"),
        'k' => (4, "0902 4704 1542"),
        'l' => (0, "0902"),
        'm' => (6, "0702 ~0507373532 ~3537676562"),
        'n' => (4, "0702 ~0507474542"),
        'o' => (4, "o07474202"),
        'p' => (4, "0700 o07474202"),
        'q' => (4, "4740 o07474202"),
        'r' => (3, "0702 ~050737"),
        's' => (4, "~4647070544420203"),
        't' => (3, "~19131232 0737"),
        'u' => (4, "~070402424447 4742"),
        'v' => (4, "072247"),
        'w' => (6, "0722374267"),
        'x' => (4, "0742 0247"),
        'y' => (4, "0722 4710"),
        'z' => (4, "07470242"),
        '0' => (4, "o0709494744420204"),
        '1' => (4, "072922"),
        '2' => (4, "~0709494602 0242"),
        '3' => (4, "~0809494616 ~1646420203"),
        '4' => (4, "32390444"),
        '5' => (4, "490906 ~061747420203"),
        '6' => (4, "~48490904 o06464202"),
        '7' => (4, "094912"),
        '8' => (4, "o09494606 o06464202"),
        '9' => (4, "o09494505 ~47420203"),
        '.' => (0, "0202"),
        ',' => (1, "1201"),
        ':' => (0, "0303 0606"),
        ';' => (1, "1606 1201"),
        '-' => (3, "0535"),
        '_' => (5, "0151"),
        '+' => (4, "0545 2327"),
        '=' => (4, "0444 0646"),
        '<' => (3, "370533"),
        '>' => (3, "073503"),
        '(' => (2, "~29070421"),
        ')' => (2, "~09272401"),
        '[' => (2, "29090121"),
        ']' => (2, "09292101"),
        '{' => (3, "~39191605 ~05141131"),
        '}' => (3, "~09292635 ~35242101"),
        '|' => (0, "0901"),
        '/' => (3, "0139"),
        '\\' => (3, "0931"),
        '%' => (6, "o09292606 o45656242 5912"),
        '\'' => (0, "0907"),
        '"' => (2, "0907 2927"),
        '!' => (0, "0904 0202"),
        '?' => (4, "~08094946242624 2222"),
        '*' => (4, "2529 0846 0648"),
        '#' => (5, "1318 4348 0454 0757"),
        '~' => (4, "~05172545"),
        '^' => (4, "072947"),
        '`' => (1, "0917"),
        '$' => (4, "~4748080645430304 2921"),
        '&' => (5, "5208 ~0809393606 ~1603025255"),
        '@' => (6, "~520209696343 o26464424"),
        '°' => (2, "o09292707"),
        '·' => (0, "0505"),
        '×' => (4, "0337 0733"),
        '±' => (4, "0646 2428 0242"),
        _ => (4, "0209494202"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_are_on_the_grid_and_whole() {
        let signs = (' '..='~').chain("°·×±\u{fffd}".chars());
        for c in signs {
            let (width, strokes) = glyph(c);
            for code in strokes.split_whitespace() {
                let digits = code.trim_start_matches(['~', 'o']);
                assert!(digits.bytes().all(|d| d.is_ascii_digit()), "{c:?}: {code}");
                assert_eq!(digits.len() % 2, 0, "{c:?}: {code}");
                assert!(digits.len() >= 4, "{c:?}: {code}");
                for [x, y] in stroke(code) {
                    assert!((0.0..=f32::from(width) / 7.0 + 1e-6).contains(&x), "{c:?}");
                    assert!((-1.0 - 1e-6..=2.0 / 7.0 + 1e-6).contains(&y), "{c:?}");
                }
            }
        }
    }

    #[test]
    fn a_closed_spline_touches_the_middles_of_its_edges() {
        let circle = spline(&[[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]], true);
        for touched in [[1.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 1.0]] {
            assert!(circle.contains(&touched), "{circle:?}");
        }
    }

    #[test]
    fn width_is_the_sum_of_the_glyphs() {
        // H is 6 wide, I 0, with 2.2 between them.
        assert!((width("HI") - 8.2 / 7.0).abs() < 1e-6);
        assert_eq!(width(""), 0.0);
    }
}
