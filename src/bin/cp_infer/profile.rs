//! The times of a network's layers over all frames, as a table in the manner of `trtexec --dumpProfile`.

use std::fmt;

use centerpoint::engine::LayerTime;

/// Times of each layer in ms, a value for each frame.
#[derive(Default)]
pub(crate) struct Profile {
    frames: usize,
    /// In the order in which they ran: names need not be unique.
    layers: Vec<(String, Vec<f64>)>,
}

impl Profile {
    /// Adds a frame. A network has the same layers in every one.
    pub(crate) fn add(&mut self, times: &[LayerTime]) {
        self.frames += 1;
        if self.layers.is_empty() {
            let layers = times.iter().map(|layer| (layer.name.clone(), Vec::new()));
            self.layers = layers.collect();
        }
        for ((_, ms), layer) in self.layers.iter_mut().zip(times) {
            ms.push(layer.ms);
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.frames == 1 { "" } else { "s" };
        writeln!(f, "profile of {} frame{plural}:", self.frames)?;
        writeln!(f, "    time ms     avg. ms   median ms   time %   layer")?;
        // Of all layers, frame by frame.
        let mut sums = vec![0.0; self.frames];
        for (_, ms) in &self.layers {
            sums.iter_mut().zip(ms).for_each(|(sum, ms)| *sum += ms);
        }
        let all: f64 = sums.iter().sum();
        let layers = self.layers.iter().map(|(name, ms)| (name.as_str(), ms));
        for (name, ms) in layers.chain([("total", &sums)]) {
            let total: f64 = ms.iter().sum();
            let share = if all > 0.0 { total / all * 100.0 } else { 0.0 };
            let average = total / ms.len().max(1) as f64;
            let median = median(ms);
            writeln!(
                f,
                "{total:11.3} {average:11.4} {median:11.4} {share:8.1}   {name}"
            )?;
        }
        Ok(())
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + sorted[middle - 1]) / 2.0,
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up_by_layer() {
        let mut profile = Profile::default();
        for (a, b) in [(1.0, 0.5), (4.0, 0.5), (1.0, 1.0)] {
            profile.add(&[("conv a", a), ("conv b", b)].map(|(name, ms)| LayerTime {
                name: name.into(),
                ms,
            }));
        }
        assert_eq!(
            profile.to_string(),
            "profile of 3 frames:\n\
             \x20   time ms     avg. ms   median ms   time %   layer\n\
             \x20     6.000      2.0000      1.0000     75.0   conv a\n\
             \x20     2.000      0.6667      0.5000     25.0   conv b\n\
             \x20     8.000      2.6667      2.0000    100.0   total\n"
        );
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        let none = Profile::default().to_string();
        assert!(
            none.ends_with("0.000      0.0000      0.0000      0.0   total\n"),
            "{none}"
        );
    }
}
