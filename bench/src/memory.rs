//! What a process takes of the machine's memory.

use std::fs;

use crate::Result;

/// Memory of a process, in MB of 1,000,000 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Resident now (`VmRSS`).
    pub rss_mb: f64,
    /// The most that was resident since it started (`VmHWM`).
    pub peak_mb: f64,
}

/// The memory of a process.
///
/// # Errors
/// It is gone, or the system has no `/proc`.
pub fn of_process(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|e| format!("cannot read `{path}`: {e}"))?;
    Ok(parse(&status).ok_or_else(|| format!("`{path}` does not name the memory"))?)
}

fn parse(status: &str) -> Option<Memory> {
    let mb = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    Some(Memory {
        rss_mb: mb("VmRSS:")?,
        peak_mb: mb("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_read() {
        let status = "Name:\tzta\nVmHWM:\t  250000 kB\nVmRSS:\t  125000 kB\n";
        let expected = Memory {
            rss_mb: 128.0,
            peak_mb: 256.0,
        };
        assert_eq!(parse(status), Some(expected));
        assert_eq!(parse("Name:\tzta\n"), None);
        assert!(of_process(std::process::id()).expect("ours").rss_mb > 0.0);
    }
}
