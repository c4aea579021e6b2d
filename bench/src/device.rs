//! What the machine can do, so that a number can be read.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{Result, load::median};

const WRITES: usize = 200;
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// The median time of appending 4 KiB and making it durable, in microseconds.
///
/// # Errors
/// The folder cannot be written.
pub fn fsync_us_p50(dir: &Path) -> Result<f64> {
    let path = dir.join("fsync.probe");
    let mut file = File::create_new(&path)?;
    let mut times_us = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let begin = Instant::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        times_us.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    Ok(median(times_us))
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The kernel's version, where it can be read.
#[must_use]
pub fn kernel() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/osrelease");
    read.map_or_else(|_| std::env::consts::OS.to_owned(), |v| v.trim().to_owned())
}

/// The kind of file system that holds `dir`, where it can be read.
#[must_use]
pub fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    kind_of(&mounts, &dir)
}

fn kind_of(mounts: &str, dir: &Path) -> String {
    mounts
        .lines()
        .filter_map(|line| {
            let mut columns = line.split(' ').skip(1);
            Some((Path::new(columns.next()?), columns.next()?))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.as_os_str().len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// A folder for the stores on a real device: a memory file system would make durability
/// free and the benchmark a fiction.
#[must_use]
pub fn durable_dir() -> PathBuf {
    let usual = std::env::temp_dir();
    match file_system(&usual).as_str() {
        "tmpfs" | "ramfs" => PathBuf::from("/var/tmp"),
        _ => usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_tells_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(kind_of(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(kind_of(mounts, Path::new("/tmpx")), "ext4");
        assert_eq!(kind_of("", Path::new("/")), "unknown");
    }

    #[test]
    fn the_probe_writes_and_cleans_up() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(fsync_us_p50(dir.path()).expect("measured") > 0.0);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
