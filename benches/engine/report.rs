//! The table of one comparison.

use crate::Engine;
use crate::runner::Figures;

/// Prints a row for each engine. Ratios are of smallest times, to our engine's.
pub(crate) fn print(engines: &[Engine], figures: &[Figures], outputs: &[Vec<f32>], macs: f64) {
    let ours = |engine| engines.iter().position(|e| *e == engine);
    let fp32 = ours(Engine::Fp32);
    println!(
        "{:26} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7}  difference",
        "", "smallest", "median", "CPU", "GMAC/s", "peak", "own", "/ FP32"
    );
    println!(
        "{:26} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7}  largest   rms",
        "", "ms", "ms", "ms", "", "MB", "MB", ""
    );
    for ((engine, f), output) in engines.iter().zip(figures).zip(outputs) {
        let ratio = fp32.map_or(f64::NAN, |i| f.smallest / figures[i].smallest);
        let speed = macs / f.smallest / 1e6;
        let (largest, rms) = fp32.map_or((f64::NAN, f64::NAN), |i| difference(output, &outputs[i]));
        println!(
            "{:26} {:8.1} {:8.1} {:8.1} {speed:7.0} {:7.0} {:7.0} {ratio:7.2}  {largest:7.1e} {rms:7.1e}",
            engine.name(),
            f.smallest,
            f.median,
            f.mean_processor,
            f.peak,
            f.own
        );
    }
}

/// Largest and root mean square difference.
fn difference(a: &[f32], b: &[f32]) -> (f64, f64) {
    if a.len() != b.len() {
        return (f64::NAN, f64::NAN);
    }
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    let largest = differences.clone().fold(0.0, f64::max);
    let squares: f64 = differences.map(|d| d * d).sum();
    (largest, (squares / a.len() as f64).sqrt())
}
