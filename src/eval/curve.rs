//! Resampling over recall, shared by both metrics. Follows NumPy's rules where they affect the result.

/// Number of recall levels, 0 % to 100 % (`DetectionMetricData.nelem` of the devkit).
pub(super) const LEVELS: usize = 101;

/// A value at each of the [`LEVELS`] recall levels.
pub(super) type Curve = [f64; LEVELS];

/// Recall level `i` of 0..[`LEVELS`], as in `np.linspace(0, 1, 101)`: 35 % is 0.35000000000000003, which is above a
/// recall of 35 / 100.
pub(super) fn recall_level(i: usize) -> f64 {
    if i + 1 == LEVELS {
        1.0
    } else {
        i as f64 * 0.01
    }
}

/// `np.interp(x, xp, fp)` for a single `x`: linear between the points, constant outside.
///
/// `xp` must not decrease. Of points with equal `xp` the last one counts, and at a point its own value is returned.
/// Returns NaN without points.
pub(super) fn interpolate(x: f64, xp: &[f64], fp: &[f64]) -> f64 {
    let after = xp.partition_point(|p| *p <= x);
    match (after.checked_sub(1), xp.get(after)) {
        (None, _) => fp.first().copied().unwrap_or(f64::NAN),
        (Some(before), None) => fp[before],
        (Some(before), Some(_)) if xp[before] == x => fp[before],
        (Some(before), Some(next)) => {
            let slope = (fp[after] - fp[before]) / (next - xp[before]);
            slope * (x - xp[before]) + fp[before]
        }
    }
}

/// The curve through the points (`recall`, `values`), constant below the lowest recall and 0 above the highest
/// (`np.interp(…, right=0)`).
pub(super) fn over_recall(recall: &[f64], values: &[f64]) -> Curve {
    let reached = recall.last().copied().unwrap_or(f64::NEG_INFINITY);
    std::array::from_fn(|i| {
        let level = recall_level(i);
        if level > reached {
            0.0
        } else {
            interpolate(level, recall, values)
        }
    })
}

/// The first recall level that counts: the one after `min_recall`, which itself is excluded.
pub(super) fn first_level(min_recall: f64) -> usize {
    (100.0 * min_recall).round_ties_even() as usize + 1
}

/// Average precision of a precision curve (the devkit's `calc_ap`): the mean excess over `min_precision` at the
/// levels above `min_recall`, scaled so that a perfect curve has 1.
pub(super) fn average_precision(precision: &Curve, min_recall: f64, min_precision: f64) -> f64 {
    let counted = &precision[first_level(min_recall)..];
    let excess = counted.iter().map(|p| (p - min_precision).max(0.0));
    excess.sum::<f64>() / counted.len() as f64 / (1.0 - min_precision)
}

/// Mean of the values that are not NaN; NaN if there are none (`np.nanmean`).
pub(super) fn nan_mean(values: impl Iterator<Item = f64>) -> f64 {
    let numbers = values.filter(|v| !v.is_nan());
    let (sum, count) = numbers.fold((0.0, 0), |(sum, count), v| (sum + v, count + 1));
    sum / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolation_matches_numpy() {
        // np.interp([-1, 0, 1, 1.5, 2, 9], [0, 1, 1, 2], [5, 10, 20, 30]) with NumPy 2.4.
        let (xp, fp) = ([0.0, 1.0, 1.0, 2.0], [5.0, 10.0, 20.0, 30.0]);
        let at = [-1.0, 0.0, 1.0, 1.5, 2.0, 9.0].map(|x| interpolate(x, &xp, &fp));
        assert_eq!(at, [5.0, 5.0, 20.0, 25.0, 30.0, 30.0]);
        assert_eq!(interpolate(0.5, &xp, &fp), 7.5);
        assert!(interpolate(0.5, &[], &[]).is_nan());
    }

    #[test]
    fn a_recall_of_35_percent_misses_its_own_level() {
        let curve = over_recall(&[35.0 / 100.0], &[1.0]);
        assert_eq!((curve[34], curve[35]), (1.0, 0.0));
        let curve = over_recall(&[36.0 / 100.0], &[1.0]);
        assert_eq!((curve[36], curve[37]), (1.0, 0.0));
        assert_eq!(over_recall(&[1.0], &[0.5])[100], 0.5);
        assert_eq!(over_recall(&[], &[]), [0.0; LEVELS]);
    }

    #[test]
    fn average_precision_clips_both_ends() {
        assert!((average_precision(&[1.0; LEVELS], 0.1, 0.1) - 1.0).abs() < 1e-12);
        assert_eq!(average_precision(&[0.1; LEVELS], 0.1, 0.1), 0.0);
        let mut low = [0.0; LEVELS];
        low[..=10].fill(1.0);
        assert_eq!(average_precision(&low, 0.1, 0.1), 0.0);
        low[11] = 0.55;
        assert!((average_precision(&low, 0.1, 0.1) - 0.5 / 90.0).abs() < 1e-12);
    }

    #[test]
    fn the_mean_ignores_nan() {
        assert_eq!(nan_mean([1.0, f64::NAN, 3.0].into_iter()), 2.0);
        assert!(nan_mean([f64::NAN].into_iter()).is_nan());
        assert!(nan_mean(std::iter::empty()).is_nan());
    }
}
