//! What a process takes of the machine: memory and processor time.

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

/// The processor time of a process since it started, in seconds: what a busy machine does
/// not stretch.
///
/// # Errors
/// It is gone, or the system has no `/proc`.
pub fn cpu_s(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|e| format!("cannot read `{path}`: {e}"))?;
    Ok(parse_stat(&stat).ok_or_else(|| format!("`{path}` does not name the time"))?)
}

/// User and system time are fields 14 and 15, in ticks of which Linux has 100 a second.
/// The name before them may hold anything.
fn parse_stat(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
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
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(parse_stat(stat), Some(3.0));
        assert!(cpu_s(std::process::id()).is_ok());
    }
}
