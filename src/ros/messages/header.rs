//! `builtin_interfaces` and `std_msgs`: time, and the header of stamped messages.

use serde::{Deserialize, Serialize};

/// `builtin_interfaces/Time`: time since an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Seconds.
    pub sec: i32,
    /// Nanoseconds, 0 to 999 999 999.
    pub nanosec: u32,
}

impl Time {
    /// A time of `nanoseconds`; what does not fit is cut to the nearest that does.
    pub fn from_nanoseconds(nanoseconds: i64) -> Self {
        const SECOND: i64 = 1_000_000_000;
        match i32::try_from(nanoseconds.div_euclid(SECOND)) {
            Ok(sec) => Self {
                sec,
                nanosec: nanoseconds.rem_euclid(SECOND) as u32,
            },
            Err(_) if nanoseconds < 0 => Self {
                sec: i32::MIN,
                nanosec: 0,
            },
            Err(_) => Self {
                sec: i32::MAX,
                nanosec: 999_999_999,
            },
        }
    }

    /// Nanoseconds since the epoch.
    pub fn nanoseconds(self) -> i64 {
        i64::from(self.sec) * 1_000_000_000 + i64::from(self.nanosec)
    }
}

/// `std_msgs/Header`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When the data were taken.
    pub stamp: Time,
    /// The coordinate frame that they are in.
    pub frame_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for nanoseconds in [
            0,
            1,
            -1,
            1_700_000_000_123_456_789,
            -5_000_000_000,
            i64::from(i32::MAX) * 1_000_000_000,
        ] {
            let time = Time::from_nanoseconds(nanoseconds);
            assert_eq!(time.nanoseconds(), nanoseconds);
            assert!(time.nanosec < 1_000_000_000);
        }
        assert_eq!(Time::from_nanoseconds(i64::MAX).sec, i32::MAX);
        assert_eq!(Time::from_nanoseconds(i64::MIN).sec, i32::MIN);
    }
}
