//! The node's two reports on `/diagnostics`, with the names, values and limits of Autoware's `lidar_centerpoint`:
//! `centerpoint_trt` after every frame, `processing_time_status` periodically.

use std::time::Instant;

use centerpoint::internals::bag::messages::{Header, Time};
use centerpoint::{Deadline, Dropped, Level};

use crate::counts::Counts;
use crate::messages::{DiagnosticArray, DiagnosticStatus, KeyValue};

fn value(key: &str, value: impl ToString) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.to_string(),
    }
}

/// Formats a boolean as Autoware does.
fn python(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn array(
    stamp: Time,
    node: &str,
    name: &str,
    level: u8,
    message: String,
    values: Vec<KeyValue>,
) -> DiagnosticArray {
    DiagnosticArray {
        header: Header {
            stamp,
            ..Header::default()
        },
        status: vec![DiagnosticStatus {
            level,
            name: format!("{node}: {name}"),
            message,
            hardware_id: node.into(),
            values,
        }],
    }
}

/// Reports on a frame: whether all pillars fit, and the counters of clouds and dropped points; and, if anything is
/// probably wrong with the clouds, a status `input` with that.
pub(crate) fn frame(
    stamp: Time,
    node: &str,
    dropped: &Dropped,
    counts: &Counts,
    warnings: &[String],
) -> DiagnosticArray {
    let within = dropped.pillars == 0;
    let (level, message) = if within {
        (DiagnosticStatus::OK, "OK".to_owned())
    } else {
        (
            DiagnosticStatus::WARN,
            format!(
                "The number of pillars exceeds its maximum, which may limit the detection: {} points were \
                 dropped.",
                dropped.pillars
            ),
        )
    };
    let mut values = vec![value("is_num_pillars_within_range", python(within))];
    let clouds = counts
        .counters()
        .map(|(name, n)| value(&format!("clouds_{name}"), n));
    let points = dropped
        .counters()
        .map(|(name, n)| value(&format!("dropped_{name}"), n));
    values.extend(clouds.into_iter().chain(points));
    let mut report = array(stamp, node, "centerpoint_trt", level, message, values);
    if !warnings.is_empty() {
        let (level, message) = (DiagnosticStatus::WARN, warnings.join("; "));
        report
            .status
            .extend(array(stamp, node, "input", level, message, Vec::new()).status);
    }
    report
}

/// Reports on time: that of the last frame, and how long frames have been late.
pub(crate) fn processing_time(
    stamp: Time,
    node: &str,
    deadline: &Deadline,
    now: Instant,
) -> DiagnosticArray {
    let (budget, counts) = (deadline.budget(), deadline.counts());
    let state = deadline.level(now);
    let late = format!(
        "Processing time exceeds the acceptable limit of {} ms by {} ms.",
        budget.frame_ms,
        counts.last_ms - budget.frame_ms
    );
    let (level, message) = match state {
        Level::Ok if counts.frames == 0 => (
            DiagnosticStatus::OK,
            "Waiting for the node to perform inference.".to_owned(),
        ),
        Level::Ok => (DiagnosticStatus::OK, "OK".to_owned()),
        Level::Warn => (DiagnosticStatus::WARN, late),
        Level::Error => (
            DiagnosticStatus::ERROR,
            late + " Processing delay has consecutively exceeded the acceptable limit.",
        ),
    };
    let delay_ms = deadline.delay(now).as_micros() as f64 / 1e3;
    let values = vec![
        value(
            "is_processing_time_ms_in_expected_range",
            python(state == Level::Ok),
        ),
        value("processing_time_ms", counts.last_ms),
        value(
            "is_consecutive_processing_delay_in_range",
            python(state != Level::Error),
        ),
        value("consecutive_processing_delay_ms", delay_ms),
    ];
    array(
        stamp,
        node,
        "processing_time_status",
        level,
        message,
        values,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use centerpoint::Budget;
    use std::time::Duration;

    fn get<'a>(array: &'a DiagnosticArray, key: &str) -> &'a str {
        let values = &array.status[0].values;
        &values.iter().find(|value| value.key == key).unwrap().value
    }

    #[test]
    fn too_many_pillars_cause_a_warning() {
        let counts = Counts {
            dropped: 3,
            ..Counts::default()
        };
        let fine = frame(Time::default(), "n", &Dropped::default(), &counts, &[]);
        assert_eq!(fine.status[0].level, DiagnosticStatus::OK);
        assert_eq!(fine.status[0].name, "n: centerpoint_trt");
        assert_eq!(get(&fine, "is_num_pillars_within_range"), "True");
        assert_eq!(get(&fine, "clouds_dropped"), "3");
        let lost = Dropped {
            pillars: 9,
            ..Dropped::default()
        };
        let warnings = ["the ground is low".to_owned(), "one sweep".to_owned()];
        let doubtful = frame(
            Time::default(),
            "n",
            &Dropped::default(),
            &counts,
            &warnings,
        );
        assert_eq!(doubtful.status[0], fine.status[0]);
        let input = &doubtful.status[1];
        assert_eq!(
            (&*input.name, input.level),
            ("n: input", DiagnosticStatus::WARN)
        );
        assert_eq!(input.message, "the ground is low; one sweep");
        let full = frame(Time::default(), "n", &lost, &counts, &[]);
        assert_eq!(full.status[0].level, DiagnosticStatus::WARN);
        assert_eq!(get(&full, "is_num_pillars_within_range"), "False");
        assert_eq!(get(&full, "dropped_pillars"), "9");
    }

    #[test]
    fn late_frames_cause_a_warning_and_a_long_delay_an_error() {
        let start = Instant::now();
        let mut deadline = Deadline::new(Budget::default());
        let report = |deadline: &Deadline, ms| {
            let now = start + Duration::from_millis(ms);
            processing_time(Time::default(), "n", deadline, now)
        };
        let waiting = report(&deadline, 0);
        assert_eq!(waiting.status[0].level, 0);
        assert!(waiting.status[0].message.contains("Waiting"));
        deadline.add(200.0, start);
        assert_eq!(report(&deadline, 0).status[0].message, "OK");
        deadline.add(250.0, start + Duration::from_millis(900));
        let late = report(&deadline, 1000);
        assert_eq!(late.status[0].level, DiagnosticStatus::WARN);
        assert!(late.status[0].message.contains("200 ms by 50 ms"));
        assert_eq!(
            get(&late, "is_processing_time_ms_in_expected_range"),
            "False"
        );
        assert_eq!(
            get(&late, "is_consecutive_processing_delay_in_range"),
            "True"
        );
        let longer = report(&deadline, 1001);
        assert_eq!(longer.status[0].level, DiagnosticStatus::ERROR);
        assert_eq!(get(&longer, "consecutive_processing_delay_ms"), "1001");
    }
}
