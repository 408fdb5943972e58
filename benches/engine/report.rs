//! The table of one comparison.

use crate::runner::Figures;
use crate::{Engine, Saving};

/// Column titles after the engine's name, in two lines.
const TITLES: [[&str; 10]; 2] = [
    [
        "smallest", "median", "CPU", "", "peak", "own", "ratio to", "ratio to", "largest", "rms",
    ],
    [
        "ms", "ms", "ms", "GMAC/s", "MB", "MB", "our FP32", "our INT8", "differ.", "differ.",
    ],
];

/// Prints a row for each engine.
///
/// Ratios compare smallest times. Own memory excludes the memory before the network was loaded. Differences of
/// outputs are relative to our engine of the same precision, whose INT8 is exact Q/DQ arithmetic; the row of
/// our INT8 shows the difference from our FP32, the cost of quantisation.
pub(crate) fn print(engines: &[Engine], figures: &[Figures], outputs: &[Vec<f32>], macs: f64) {
    for titles in TITLES {
        print_row("", &titles.map(str::to_owned));
    }
    let position = |engine: Engine| engines.iter().position(|other| *other == engine);
    for (i, (engine, f)) in engines.iter().zip(figures).enumerate() {
        let ratio = |ours| match position(ours) {
            Some(at) => format!("{:.2}", f.smallest / figures[at].smallest),
            None => "-".to_owned(),
        };
        let exact = match engine {
            Engine::Int8 => Engine::Fp32,
            other => other.ours(),
        };
        let [largest, rms] = match position(exact) {
            // Lazy maps hold their values only where they are read.
            _ if engine.saving() == Some(Saving::Lazy) => ["-".to_owned(), "-".to_owned()],
            Some(at) if at != i => {
                difference(&outputs[i], &outputs[at]).map(|difference| format!("{difference:.1e}"))
            }
            _ => ["-".to_owned(), "-".to_owned()],
        };
        let cells = [
            format!("{:.1}", f.smallest),
            format!("{:.1}", f.median),
            format!("{:.1}", f.mean_processor),
            format!("{:.0}", macs / f.smallest / 1e6),
            format!("{:.0}", f.peak),
            format!("{:.0}", f.own),
            ratio(Engine::Fp32),
            ratio(Engine::Int8),
            largest,
            rms,
        ];
        print_row(engine.name(), &cells);
    }
}

fn print_row(name: &str, cells: &[String]) {
    let cells: String = cells.iter().map(|cell| format!(" {cell:>8}")).collect();
    println!("{name:26}{cells}");
}

/// Largest and root mean square difference; NaN if the numbers of outputs differ.
fn difference(a: &[f32], b: &[f32]) -> [f64; 2] {
    if a.len() != b.len() {
        return [f64::NAN; 2];
    }
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    let largest = differences.clone().fold(0.0, f64::max);
    let squares: f64 = differences.map(|d| d * d).sum();
    [largest, (squares / a.len() as f64).sqrt()]
}
