//! Patterns over layer names: `*` stands for any characters, `?` for one.

/// Whether `pattern` matches all of `name`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Behind the last star, and the first character that it does not stand for yet.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == '?' || Some(&c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match &mut star {
                Some((behind, taken)) => {
                    *taken += 1;
                    (p, n) = (*behind, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// Expected values from Python's `fnmatch.fnmatchcase`.
    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, expected) in [
            ("pts_neck.deblocks.*", "pts_neck.deblocks.1.0", true),
            ("pts_neck.deblocks.*", "pts_neck.blocks.1.0", false),
            ("pts_neck.deblocks.?.0", "pts_neck.deblocks.12.0", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
            ("*.0", "blocks.0.10", false),
            ("*.0", "blocks.0.0", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("*ab", "aab", true),
            ("**a**", "ba", true),
            ("blocks.0", "blocks.0.1", false),
            ("größe.?", "größe.ß", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
