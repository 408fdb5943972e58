//! Aligns the background with the codes.
//!
//! Most of a BEV map is empty. In cells that only depend on empty input, each channel of each layer has
//! one *background* value: what biases and ReLUs make of zeros. Rounding shifts all of these cells by
//! the same error, which does not average out over a kernel and grows from layer to layer; it is by far
//! the largest error of such an INT8 network. A factor per channel is free (see [`super`]), so this
//! pass picks one that makes the background value a whole number of codes:
//!
//! ```text
//! f_c = background_c / (k · scale)      k: the nearest whole number ≥ 1 that keeps the channel's
//!                                          largest value in range
//! ```
//!
//! The background is then exact in every activation. This costs at most half a bit, in channels whose
//! background is about one code. If a channel has several background values (a DepthToSpace repeats the
//! s² values of its kernel), k is the nearby number with the least squared error over all of them.

use std::collections::BTreeMap;

use super::channels::Channels;
use super::fold;
use crate::build::Result;
use crate::build::onnx::Graph;
use crate::model::Pfn;

/// Factors outside of 1/8 ..= 8 cost a channel more levels than an exact background is worth.
const MAX_FACTOR: f64 = 8.0;
/// How far the largest value may exceed the range: by 2 of 127 codes.
const SLACK: f64 = 1.02;
/// Mean squared errors, in codes², within this distance count as equal; rounding alone has 1/12.
const SAME: f64 = 1e-4;

/// Background and range of a quantised tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Levels {
    /// The values of each channel in cells that nothing in the frame reaches.
    pub background: Vec<Vec<f32>>,
    /// Largest magnitude of each channel on real frames.
    pub channel_amax: Vec<f32>,
    /// The value of code 1.
    pub scale: f32,
}

/// Scales a network's channels so that the background of each of `tensors` becomes a whole number of
/// codes. The results do not change, up to rounding.
///
/// # Errors
/// [`BuildError`](crate::build::BuildError) for malformed nodes and weights that would not be finite.
pub(crate) fn align(
    graph: &Graph,
    pfn: &Pfn,
    tensors: &BTreeMap<String, Levels>,
) -> Result<(Graph, Pfn)> {
    let channels = Channels::new(graph, pfn)?;
    let factors = channels.choose_factors(graph, |members| {
        let members = members.iter().filter_map(|&(tensor, channel)| {
            let levels = tensors.get(tensor)?;
            let in_codes = |v: &f32| f64::from(*v) / f64::from(levels.scale);
            let background: Vec<f64> = levels
                .background
                .get(channel)?
                .iter()
                .map(in_codes)
                .collect();
            let amax = levels.channel_amax.get(channel).map(in_codes)?;
            Some((background, amax))
        });
        factor(&members.collect::<Vec<_>>())
    })?;
    fold::fold(graph, pfn, &factors)
}

/// The factor for channels that share one; a member is a channel's background and its maximum, in
/// codes.
fn factor(members: &[(Vec<f64>, f64)]) -> Option<f64> {
    let all = || members.iter().flat_map(|(background, _)| background);
    let level = all().map(|v| v.abs()).sum::<f64>() / all().count().max(1) as f64;
    if !(level.is_finite() && level > 1e-6) {
        return None;
    }
    // A channel that already clips may not clip more.
    let headroom = members.iter().map(|(_, amax)| (127.0 / amax).max(1.0));
    let most = SLACK * level * headroom.fold(f64::INFINITY, f64::min);
    let nearest = level.round().max(1.0);
    let candidates = (-2..=2).map(|step| nearest + f64::from(step));
    let candidates = candidates.filter(|&k| k >= 1.0 && k <= most);
    let costs = candidates.filter_map(|k| {
        let factor = level / k;
        let error = |v: &f64| ((v / factor).round_ties_even() * factor - v).powi(2);
        let near = (1.0 / MAX_FACTOR..=MAX_FACTOR).contains(&factor);
        near.then(|| (factor, all().map(error).sum::<f64>() / all().count() as f64))
    });
    let costs: Vec<(f64, f64)> = costs.collect();
    let least = costs
        .iter()
        .map(|(_, cost)| *cost)
        .fold(f64::INFINITY, f64::min);
    let good = costs.iter().filter(|(_, cost)| *cost <= least + SAME);
    let distance = |factor: f64| factor.ln().abs();
    good.map(|(factor, _)| *factor)
        .min_by(|a, b| distance(*a).total_cmp(&distance(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(background: &[f64], amax: f64) -> Option<f64> {
        factor(&[(background.to_vec(), amax)])
    }

    #[test]
    fn the_background_becomes_the_nearest_number_of_codes_in_range() {
        assert_eq!(single(&[3.3], 60.0), Some(3.3 / 3.0));
        assert_eq!(single(&[3.6], 60.0), Some(3.6 / 4.0));
        // 4 codes would push the largest value to 141.
        assert_eq!(single(&[3.6], 127.0), Some(3.6 / 3.0));
        // Less than a code becomes one code if there is room.
        assert_eq!(single(&[0.3], 20.0), Some(0.3));
        assert_eq!(single(&[0.3], 120.0), None);
        // The factor would be too small.
        assert_eq!(single(&[0.05], 1.0), None);
        // The background is zero or unknown.
        assert_eq!(single(&[0.0; 4], 60.0), None);
        assert_eq!(single(&[], 60.0), None);
        assert_eq!(single(&[f64::NAN], 60.0), None);
        // A channel that already clips does not clip more.
        assert_eq!(single(&[3.6], 200.0), Some(3.6 / 3.0));
    }

    #[test]
    fn the_error_over_all_background_values_counts() {
        // Mean 3: factor 1 would put 2.5 and 3.5 halfway between codes, 6/5 puts them on 2 and 3.
        let found = single(&[2.4, 3.6], 30.0).unwrap();
        let error = |f: f64| {
            let at = |v: f64| ((v / f).round_ties_even() * f - v).powi(2);
            at(2.4) + at(3.6)
        };
        assert!(error(found) < error(1.0) / 4.0, "{found}");
        // If two tensors share a factor, the one with less room decides.
        let two = [(vec![3.6], 30.0), (vec![3.6], 126.0)];
        assert_eq!(factor(&two), Some(3.6 / 3.0));
    }
}
