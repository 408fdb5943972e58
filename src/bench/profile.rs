//! The times of a network's layers over all frames, as a table like `trtexec --dumpProfile` and as the JSON of
//! `--exportProfile`.

use std::fmt;

use serde::Serialize;

use super::stats::median;
use crate::engine::LayerTime;

/// Times of each layer in ms, one value per frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    frames: usize,
    /// In execution order; names need not be unique.
    layers: Vec<(String, Vec<f64>)>,
}

/// A layer over all frames, with the keys of `trtexec`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: &'a str,
    time_ms: f64,
    average_ms: f64,
    median_ms: f64,
    percentage: f64,
}

impl Profile {
    /// Adds a frame; a network has the same layers in every frame.
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

    /// The JSON of `trtexec --exportProfile`: `{"count": frames}`, then one object per layer.
    pub(crate) fn json(&self) -> serde_json::Value {
        let count = serde_json::json!({ "count": self.frames });
        let mut layers = self.rows();
        layers.pop();
        let layers = layers.iter().map(|row| serde_json::json!(row));
        std::iter::once(count).chain(layers).collect()
    }

    /// The layers, followed by their sum.
    fn rows(&self) -> Vec<Row<'_>> {
        // Sum of all layers, frame by frame.
        let mut sums = vec![0.0; self.frames];
        for (_, ms) in &self.layers {
            sums.iter_mut().zip(ms).for_each(|(sum, ms)| *sum += ms);
        }
        let all: f64 = sums.iter().sum();
        let layers = self.layers.iter().map(|(name, ms)| (name.as_str(), ms));
        let rows = layers.chain([("total", &sums)]).map(|(name, ms)| {
            let time_ms: f64 = ms.iter().sum();
            let mut sorted = ms.clone();
            sorted.sort_by(f64::total_cmp);
            Row {
                name,
                time_ms,
                average_ms: time_ms / self.frames as f64,
                median_ms: median(&sorted),
                percentage: if all > 0.0 {
                    time_ms / all * 100.0
                } else {
                    0.0
                },
            }
        });
        rows.collect()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.frames == 0 {
            return writeln!(f, "profile: no frames were run");
        }
        let plural = if self.frames == 1 { "" } else { "s" };
        writeln!(f, "profile of {} frame{plural}:", self.frames)?;
        writeln!(f, "    time ms     avg. ms   median ms   time %   layer")?;
        for row in self.rows() {
            let (total, average, median) = (row.time_ms, row.average_ms, row.median_ms);
            let (share, name) = (row.percentage, row.name);
            writeln!(
                f,
                "{total:11.3} {average:11.4} {median:11.4} {share:8.1}   {name}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_by_layer() {
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
        let json = profile.json();
        let conv_a = serde_json::json!({
            "name": "conv a", "timeMs": 6.0, "averageMs": 2.0, "medianMs": 1.0, "percentage": 75.0,
        });
        assert_eq!((&json[0]["count"], &json[1]), (&3.into(), &conv_a));
        assert_eq!(json.as_array().map(Vec::len), Some(3));
        let none = Profile::default().to_string();
        assert_eq!(none, "profile: no frames were run\n");
    }
}
