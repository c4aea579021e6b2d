//! A Postgres of a test's own, to be killed and starved.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A Postgres server. It ends with this value.
pub(crate) struct Cluster {
    folder: TempDir,
}

impl Cluster {
    /// A new one, running. Its WAL segments have 1 MiB, so that tables outgrow them soon.
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("zta-pg-")
            .tempdir()
            .expect("a folder");
        let cluster = Self { folder };
        cluster.run("create", &["--wal-segsize=1"]);
        cluster.run("start", &[]);
        cluster.run("roles", &[]);
        cluster
    }

    /// The superuser's URL.
    pub(crate) fn url(&self) -> String {
        let folder = self.folder.path().display();
        format!("postgres://postgres@localhost/postgres?host={folder}")
    }

    /// kill -9 of all its processes.
    pub(crate) fn kill(&self) {
        self.run("kill", &[]);
    }

    /// Starts it again, whether it ended by itself or was killed.
    pub(crate) fn start_again(&self) {
        self.run("kill", &[]);
        self.run("start", &[]);
    }

    /// No file of it may be written beyond these bytes, as if the disk were full there.
    pub(crate) fn limit_files(&self, bytes: &str) {
        self.run("limit", &[bytes]);
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("data/server.log"));
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    fn run(&self, action: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/postgres-cluster.sh");
        let output = Command::new(script)
            .arg(action)
            .arg(self.folder.path())
            .args(arguments)
            .output()
            .expect("postgres-cluster.sh");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{action}: {said}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/postgres-cluster.sh");
        let _ = Command::new(script)
            .arg("kill")
            .arg(self.folder.path())
            .output();
    }
}
