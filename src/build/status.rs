//! What is known of quantisers, as text for people: ranges of activations, of each channel of weights,
//! how much of the calibration's values is beyond, and where the ranges came from. TensorRT's engines are
//! in [`engine`].

pub mod engine;

use std::fmt::Write;

use super::calibrate::{Calibration, Method, TensorStats};
use super::quantize::{Quantizer, QuantizerKind as Kind};
use crate::eval::report::aligned;

/// Methods that the table of a calibration shows, as they are called on the command line.
const METHODS: [Method; 4] = [
    Method::Max,
    Method::Mse,
    Method::Entropy,
    Method::Percentile(99.999),
];

/// The quantisers: activations with their amax, then weights with the number of their channels and the
/// least, the median and the largest amax of them.
///
/// *Own amax* is that of a tensor which shares the scale of a tensor with a larger one. *Beyond* is the
/// share of calibration values that the range cuts off, where that was kept.
pub fn quantizers(quantizers: &[Quantizer]) -> String {
    let of = |kind: Kind| quantizers.iter().filter(move |q| q.kind == kind);
    let (activations, weights) = (of(Kind::Activation).count(), of(Kind::Weight).count());
    let mut text = format!("---- {activations} Activation Quantizer(s) ----\n");
    let mut rows = vec![row(["tensor", "amax", "own amax", "beyond", "read by"])];
    for quantizer in of(Kind::Activation) {
        let own = quantizer.own_amax.map_or("-".to_owned(), number);
        rows.push(vec![
            quantizer.tensor.clone(),
            range(&quantizer.amax),
            own,
            quantizer.saturated.map_or("-".to_owned(), share),
            readers(&quantizer.readers),
        ]);
    }
    text += &aligned(&rows);
    let _ = writeln!(text, "\n---- {weights} Weight Quantizer(s) ----");
    let mut rows = vec![row(["layer", "axis", "channels", "min", "median", "max"])];
    for quantizer in of(Kind::Weight) {
        let layer = quantizer.layer.as_ref().unwrap_or(&quantizer.tensor);
        let axis = quantizer
            .axis
            .map_or("-".to_owned(), |axis| axis.to_string());
        let mut cells = vec![layer.clone(), axis];
        cells.extend(channels(&quantizer.amax));
        rows.push(cells);
    }
    text + &aligned(&rows)
}

/// The tensors of a calibration: for each method the amax, and behind it the share of the values that
/// are beyond; then the number of channels and the least, the median and the largest maximum of them.
/// `occupied`: over the cells with a pillar only.
pub fn calibration(calibration: &Calibration, occupied: bool) -> String {
    let key = &calibration.key;
    let cells = if occupied { "occupied" } else { "all" };
    let mut text = format!(
        "[I] ==== Calibration ====\nNetwork: sha256:{}\nFrames: sha256:{}\nOptions: sha256:{}\n\n\
         ---- {} Tensor(s), {cells} cells ----\n",
        key.model,
        key.frames,
        key.options,
        calibration.tensors.len()
    );
    let mut head = row(["tensor", "values"]);
    for method in METHODS {
        head.extend([method.to_string(), "beyond".to_owned()]);
    }
    head.extend(row(["channels", "min", "median", "max"]));
    let mut rows = vec![head];
    for (name, stats) in &calibration.tensors {
        let histogram = histogram(stats, occupied);
        let mut cells = vec![name.clone(), histogram.total().to_string()];
        for method in METHODS {
            match histogram.amax(method) {
                Ok(found) => {
                    cells.push(number(found.amax));
                    cells.push(share(histogram.share_beyond(found.amax)));
                }
                Err(_) => cells.extend(row(["-", "-"])),
            }
        }
        cells.extend(channels(match occupied {
            true => &stats.occupied_channel_max,
            false => &stats.channel_max,
        }));
        rows.push(cells);
    }
    text += &aligned(&rows);
    text
}

/// The first reader, and how many more there are.
fn readers(names: &[String]) -> String {
    match names {
        [] => "-".to_owned(),
        [one] => one.clone(),
        [first, more @ ..] => format!("{first} +{}", more.len()),
    }
}

fn histogram(stats: &TensorStats, occupied: bool) -> &super::calibrate::Histogram {
    match occupied {
        true => &stats.occupied,
        false => &stats.all,
    }
}

/// Number, least, median and largest of the amax of channels.
fn channels(amax: &[f32]) -> [String; 4] {
    let mut sorted = amax.to_vec();
    sorted.sort_by(f32::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() % 2 {
        0 => sorted.get(middle.wrapping_sub(1)).zip(sorted.get(middle)),
        _ => sorted.get(middle).zip(sorted.get(middle)),
    };
    let median = median.map(|(a, b)| (a + b) / 2.0);
    let cell = |value: Option<f32>| value.map_or("-".to_owned(), number);
    [
        amax.len().to_string(),
        cell(sorted.first().copied()),
        cell(median),
        cell(sorted.last().copied()),
    ]
}

/// One amax, or the least to the largest of several.
fn range(amax: &[f32]) -> String {
    match amax {
        [one] => number(*one),
        _ => {
            let [count, least, _, largest] = channels(amax);
            format!("{least} to {largest} in {count} channels")
        }
    }
}

/// Four significant digits.
fn number(value: f32) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (1e-3..1e5).contains(&magnitude) {
        let whole = magnitude.max(1.0).log10() as usize;
        format!("{value:.*}", 4_usize.saturating_sub(whole))
    } else {
        format!("{value:.3e}")
    }
}

/// A share in percent.
fn share(share: f64) -> String {
    match share {
        0.0 => "0".to_owned(),
        _ => format!("{:.4} %", 100.0 * share),
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(amax: &[f32]) -> Quantizer {
        Quantizer {
            tensor: "conv.weight".into(),
            layer: Some("conv".into()),
            kind: Kind::Weight,
            axis: Some(0),
            amax: amax.to_vec(),
            own_amax: None,
            saturated: None,
            readers: vec!["conv".into()],
        }
    }

    /// "a Tensor with 16 elements cannot be converted to Scalar": what printing such a quantiser came to
    /// elsewhere.
    #[test]
    fn an_amax_per_channel_is_shown_by_count_and_spread() {
        let amax: Vec<f32> = (0..16).map(|i| 0.25 * i as f32).collect();
        let text = quantizers(&[weight(&amax)]);
        let line = text.lines().find(|l| l.starts_with("conv")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["conv", "0", "16", "0.0000", "1.8750", "3.7500"]);
        // Even one that a weight cannot have, of no or of several activations' channels.
        let odd = Quantizer {
            kind: Kind::Activation,
            ..weight(&[1.0, 20.0])
        };
        let text = quantizers(&[odd, weight(&[])]);
        assert!(text.contains("1.0000 to 20.000 in 2 channels"), "{text}");
        assert!(text.contains("1 Activation Quantizer(s)"), "{text}");
    }

    #[test]
    fn a_shared_scale_shows_the_tensors_own_range() {
        let shared = Quantizer {
            tensor: "a".into(),
            layer: None,
            kind: Kind::Activation,
            axis: None,
            amax: vec![5.0],
            own_amax: Some(1e-9),
            saturated: Some(1.25e-4),
            readers: vec!["one".into(), "two".into()],
        };
        let text = quantizers(&[shared]);
        let line = text.lines().find(|l| l.starts_with("a ")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            cells,
            ["a", "5.0000", "1.000e-9", "0.0125", "%", "one", "+1"]
        );
    }
}
