//! The memory of this process, from Linux's `/proc/self/status`.

use std::path::Path;

use serde::Serialize;

/// Resident memory of this process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Resident {
    /// Current (`VmRSS`).
    pub now: u64,
    /// Peak (`VmHWM`).
    pub peak: u64,
}

impl Resident {
    /// Reads the files under `root` (`/` except in tests); `None` if unavailable.
    pub(crate) fn read(root: &Path) -> Option<Self> {
        let status = std::fs::read_to_string(root.join("proc/self/status")).ok()?;
        Some(Self {
            now: kilobytes(&status, "VmRSS:")?,
            peak: kilobytes(&status, "VmHWM:")?,
        })
    }
}

/// The value of the line `key  123 kB`, in bytes.
pub(super) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_bytes() {
        let status = "Name:\tcp-bench\nVmHWM:\t    2048 kB\nVmRSS:\t  10 kB\n";
        assert_eq!(kilobytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(kilobytes(status, "VmRSS:"), Some(10240));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
        assert_eq!(kilobytes("VmRSS: 99999999999999999999 kB", "VmRSS:"), None);
        assert_eq!(kilobytes("VmRSS: 18446744073709551615 kB", "VmRSS:"), None);
    }

    #[test]
    fn memory_matches_the_system() {
        let found = Resident::read(Path::new("/")).unwrap();
        assert!(found.peak >= found.now && found.now > 1 << 20, "{found:?}");
        // Compare with pages in /proc/self/statm, while nothing large is allocated or freed.
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
        let page = std::process::Command::new("getconf")
            .arg("PAGESIZE")
            .output()
            .unwrap();
        let page: u64 = String::from_utf8(page.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let differ = found.now.abs_diff(pages * page);
        assert!(differ < 512 << 20, "{found:?}, {pages} pages of {page}");
    }
}
