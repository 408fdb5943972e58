//! Alignment of the background with the codes.
//!
//! Most of a BEV map is empty, and behind an empty input every channel of every layer has the same
//! *background* value in all of those cells: what biases and ReLUs make of zeros. Rounding gives all of
//! them one and the same error, which does not average out over a kernel and grows from layer to layer;
//! it is by far the largest error of an INT8 network of this kind. A factor per channel is free (see
//! [`super`]), so it is chosen such that the background value is a whole number of codes:
//!
//! ```text
//! f_c = background_c / (k · scale)      k: the nearest whole number ≥ 1 for which the channel's
//!                                          largest value is still in range
//! ```
//!
//! The background is then exact in every activation, at the price of at most half a bit in channels whose
//! background is about one code. Where the background has several values (a DepthToSpace repeats the
//! s² values of its kernel), k is the number near it with the least squared error over them.

use std::collections::BTreeMap;

use super::channels::Channels;
use super::fold;
use crate::build::Result;
use crate::build::onnx::Graph;
use crate::model::Pfn;

/// Factors beyond 1/8 to 8 cost the channel more levels than its background is worth.
const MAX_FACTOR: f64 = 8.0;
/// By how much the range may be exceeded: 2 of 127 codes.
const SLACK: f64 = 1.02;
/// Mean squared errors, in codes, that count as equal: rounding itself has 1/12.
const SAME: f64 = 1e-4;

/// A quantised tensor: its background and its range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Levels {
    /// Values of each channel in cells that nothing in the frame reaches.
    pub background: Vec<Vec<f32>>,
    /// Largest magnitude of each channel on real frames.
    pub channel_amax: Vec<f32>,
    /// The value of code 1.
    pub scale: f32,
}

/// Gives a network factors with which the background of each of `tensors` is whole numbers of codes. The
/// result is the network's, up to rounding.
///
/// # Errors
/// [`BuildError`](crate::build::BuildError) for malformed nodes and weights that would not be finite.
pub fn align(graph: &Graph, pfn: &Pfn, tensors: &BTreeMap<String, Levels>) -> Result<(Graph, Pfn)> {
    let channels = Channels::of(graph, pfn)?;
    let factors = channels.chosen(graph, |members| {
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

/// The factor of channels that share one, each with its background and its maximum in codes.
fn factor(members: &[(Vec<f64>, f64)]) -> Option<f64> {
    let all = || members.iter().flat_map(|(background, _)| background);
    let level = all().map(|v| v.abs()).sum::<f64>() / all().count().max(1) as f64;
    if !(level.is_finite() && level > 1e-6) {
        return None;
    }
    // A channel that is clipped already may not be clipped more.
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

    fn of_one(background: &[f64], amax: f64) -> Option<f64> {
        factor(&[(background.to_vec(), amax)])
    }

    #[test]
    fn the_background_becomes_the_nearest_number_of_codes_in_range() {
        assert_eq!(of_one(&[3.3], 60.0), Some(3.3 / 3.0));
        assert_eq!(of_one(&[3.6], 60.0), Some(3.6 / 4.0));
        // 4 codes would push the largest value to 141.
        assert_eq!(of_one(&[3.6], 127.0), Some(3.6 / 3.0));
        // Less than a code becomes one where there is room, and only there.
        assert_eq!(of_one(&[0.3], 20.0), Some(0.3));
        assert_eq!(of_one(&[0.3], 120.0), None);
        // Not at any price.
        assert_eq!(of_one(&[0.05], 1.0), None);
        // No background, or none that is known.
        assert_eq!(of_one(&[0.0; 4], 60.0), None);
        assert_eq!(of_one(&[], 60.0), None);
        assert_eq!(of_one(&[f64::NAN], 60.0), None);
        // A channel that is clipped keeps the share that is.
        assert_eq!(of_one(&[3.6], 200.0), Some(3.6 / 3.0));
    }

    #[test]
    fn of_several_values_the_error_of_all_counts() {
        // Mean 3: factor 1 would put 2.5 and 3.5 halfway between codes, 6/5 puts them on 2 and 3.
        let found = of_one(&[2.4, 3.6], 30.0).unwrap();
        let error = |f: f64| {
            let at = |v: f64| ((v / f).round_ties_even() * f - v).powi(2);
            at(2.4) + at(3.6)
        };
        assert!(error(found) < error(1.0) / 4.0, "{found}");
        // Two tensors that share the factor: the one with less room decides.
        let two = [(vec![3.6], 30.0), (vec![3.6], 126.0)];
        assert_eq!(factor(&two), Some(3.6 / 3.0));
    }
}
