//! Readable tables of quantisers and calibrations: the ranges of activations and of weight channels, the share of
//! calibration values beyond them, and their origin. TensorRT engines are in [`engine`].

pub(crate) mod engine;

use std::fmt::Write;

use super::calibrate::{AmaxMethod, Calibration, TensorStats};
use super::quantize::{Quantizer, QuantizerKind};
use crate::eval::report::{aligned, median};

/// Methods in the table of a calibration, as named on the command line.
const METHODS: [AmaxMethod; 4] = [
    AmaxMethod::Max,
    AmaxMethod::Mse,
    AmaxMethod::Entropy,
    AmaxMethod::Percentile(99.999),
];

/// Tables of the quantisers: activations with their amax, then weights with their number of channels and the
/// minimum, median and maximum amax of the channels.
///
/// *Own amax* is the amax of a tensor that shares the scale of a tensor with a larger one. *Beyond* is the share of
/// calibration values that the range clips, if recorded.
pub(crate) fn quantizers(quantizers: &[Quantizer]) -> String {
    let select = |kind: QuantizerKind| quantizers.iter().filter(move |q| q.kind == kind);
    let activations = select(QuantizerKind::Activation).count();
    let weights = select(QuantizerKind::Weight).count();
    let mut text = format!("---- {activations} Activation Quantizer(s) ----\n");
    let mut rows = vec![row(["tensor", "amax", "own amax", "beyond", "read by"])];
    for quantizer in select(QuantizerKind::Activation) {
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
    let mut rows = vec![row([
        "layer", "axis", "channels", "min", "median", "max", "bits",
    ])];
    for quantizer in select(QuantizerKind::Weight) {
        let layer = quantizer.layer.as_ref().unwrap_or(&quantizer.tensor);
        let axis = quantizer
            .axis
            .map_or("-".to_owned(), |axis| axis.to_string());
        let mut cells = vec![layer.clone(), axis];
        cells.extend(channels(&quantizer.amax));
        cells.push(quantizer.bits.to_string());
        rows.push(cells);
    }
    text + &aligned(&rows)
}

/// A table of the tensors of a calibration: for each method the amax and the share of values beyond it, then the
/// number of channels and the minimum, median and maximum of their greatest values. `occupied` selects the cells
/// with a pillar.
pub(crate) fn calibration(calibration: &Calibration, occupied: bool) -> String {
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
        cells.extend(channels(if occupied {
            &stats.occupied_channel_max
        } else {
            &stats.channel_max
        }));
        rows.push(cells);
    }
    text += &aligned(&rows);
    text
}

/// The first reader and the number of others.
fn readers(names: &[String]) -> String {
    match names {
        [] => "-".to_owned(),
        [one] => one.clone(),
        [first, more @ ..] => format!("{first} +{}", more.len()),
    }
}

fn histogram(stats: &TensorStats, occupied: bool) -> &super::calibrate::Histogram {
    if occupied {
        &stats.occupied
    } else {
        &stats.all
    }
}

/// Number of channels, and the minimum, median and maximum of their amax.
fn channels(amax: &[f32]) -> [String; 4] {
    let mut sorted: Vec<f64> = amax.iter().copied().map(f64::from).collect();
    sorted.sort_by(f64::total_cmp);
    let count = amax.len().to_string();
    match sorted[..] {
        [] => [count, "-".into(), "-".into(), "-".into()],
        [min, ..] => {
            let max = sorted[sorted.len() - 1];
            let [min, median, max] = [min, median(&sorted), max].map(|v| number(v as f32));
            [count, min, median, max]
        }
    }
}

/// One amax, or the range of several.
fn range(amax: &[f32]) -> String {
    match amax {
        [one] => number(*one),
        _ => {
            let [count, min, _, max] = channels(amax);
            format!("{min} to {max} in {count} channels")
        }
    }
}

/// Formats a value with four decimals at most and about five significant digits.
fn number(value: f32) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (1e-3..1e5).contains(&magnitude) {
        let whole = magnitude.max(1.0).log10() as usize;
        format!("{value:.*}", 4_usize.saturating_sub(whole))
    } else {
        format!("{value:.3e}")
    }
}

/// Formats a share in percent.
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
            kind: QuantizerKind::Weight,
            bits: 8,
            axis: Some(0),
            amax: amax.to_vec(),
            own_amax: None,
            saturated: None,
            readers: vec!["conv".into()],
        }
    }

    /// Elsewhere, printing such a quantiser failed: "a Tensor with 16 elements cannot be converted to Scalar".
    #[test]
    fn an_amax_per_channel_is_shown_by_count_and_spread() {
        let amax: Vec<f32> = (0..16).map(|i| 0.25 * i as f32).collect();
        let text = quantizers(&[weight(&amax)]);
        let line = text.lines().find(|l| l.starts_with("conv")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            cells,
            ["conv", "0", "16", "0.0000", "1.8750", "3.7500", "8"]
        );
        // Even impossible ones: an activation with several channels, a weight without any.
        let odd = Quantizer {
            kind: QuantizerKind::Activation,
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
            kind: QuantizerKind::Activation,
            bits: 8,
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
