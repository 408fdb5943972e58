//! The table of one comparison.

use crate::Engine;
use crate::runner::Figures;

/// Prints a row for each engine. Ratios are of smallest times. Differences of outputs are from ours of
/// the same precision, whose INT8 is exact Q/DQ arithmetic; in the row of our INT8, from our FP32: what
/// quantisation costs.
pub(crate) fn print(engines: &[Engine], figures: &[Figures], outputs: &[Vec<f32>], macs: f64) {
    println!(
        "{:26} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9}",
        "", "smallest", "median", "CPU", "", "peak", "own", "/ ours", "/ ours", "largest", "rms"
    );
    println!(
        "{:26} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9}",
        "", "ms", "ms", "ms", "GMAC/s", "MB", "MB", "FP32", "INT8", "difference", ""
    );
    let position = |engine: Engine| engines.iter().position(|other| *other == engine);
    for (i, (engine, f)) in engines.iter().zip(figures).enumerate() {
        let ratio = |ours| position(ours).map_or(f64::NAN, |at| f.smallest / figures[at].smallest);
        let exact = if *engine == Engine::Int8 {
            Engine::Fp32
        } else {
            engine.ours()
        };
        let (largest, rms) = position(exact).map_or((f64::NAN, f64::NAN), |at| {
            difference(&outputs[i], &outputs[at])
        });
        println!(
            "{:26} {:8.1} {:8.1} {:8.1} {:7.0} {:7.0} {:7.0} {:7.2} {:7.2} {largest:9.1e} {rms:9.1e}",
            engine.name(),
            f.smallest,
            f.median,
            f.mean_processor,
            macs / f.smallest / 1e6,
            f.peak,
            f.own,
            ratio(Engine::Fp32),
            ratio(Engine::Int8),
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
