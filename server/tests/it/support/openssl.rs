//! OpenSSL as the counterpart: certificates that this server did not make, and a verifier
//! that shares no code with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::server::text;

/// What an intermediate of ours needs.
pub(crate) const INTERMEDIATE: &str =
    "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// A folder in which OpenSSL works.
pub(crate) struct OpenSsl(TempDir);

impl OpenSsl {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\n";
        std::fs::write(folder.path().join("openssl.cnf"), config).expect("written");
        Self(folder)
    }

    /// A root (`<name>.pem`, `<name>.key`), with one public CA's usual extensions.
    pub(crate) fn root(&self, name: &str) {
        self.key(name);
        self.run(&format!(
            "req -x509 -config openssl.cnf -key {name}.key -out {name}.pem -days 3650 \
             -subj /O=Example/CN={name} -addext basicConstraints=critical,CA:TRUE \
             -addext keyUsage=critical,keyCertSign,cRLSign"
        ));
    }

    /// A private key, P-256, mode 0600.
    pub(crate) fn key(&self, name: &str) {
        self.run(&format!(
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"
        ));
        self.private(&format!("{name}.key"));
    }

    /// Makes a file readable by its owner alone.
    pub(crate) fn private(&self, file: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(self.path(file), std::fs::Permissions::from_mode(0o600))
            .expect("chmod");
    }

    /// A certificate for the key `<name>.key`, by `issuer`, with these extensions.
    pub(crate) fn issue(&self, name: &str, issuer: &str, extensions: &str, days: i32) {
        self.run(&format!(
            "req -new -config openssl.cnf -key {name}.key -out {name}.csr -subj /O=Example/CN={name}"
        ));
        std::fs::write(self.path("extensions"), extensions).expect("written");
        self.run(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial \
             -extfile extensions -days {days} -out {name}.pem"
        ));
    }

    /// An intermediate with its key, and its chain in `<name>-chain.pem`.
    pub(crate) fn intermediate(&self, name: &str, issuer: &str, extensions: &str) -> PathBuf {
        self.key(name);
        self.issue(name, issuer, extensions, 365);
        self.chain(&format!("{name}-chain.pem"), &[name, issuer])
    }

    /// A file of several certificates.
    pub(crate) fn chain(&self, file: &str, names: &[&str]) -> PathBuf {
        let read = |name: &&str| std::fs::read_to_string(self.path(&format!("{name}.pem")));
        let chain: Result<String, _> = names.iter().map(read).collect();
        std::fs::write(self.path(file), chain.expect("certificates")).expect("written");
        self.path(file)
    }

    /// A file in the folder.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Runs `openssl`, which must succeed; what it printed.
    pub(crate) fn run(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
        said
    }

    /// Runs `openssl`, which must fail; what it printed.
    pub(crate) fn fails(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "openssl {arguments}: {said}");
        said
    }

    /// Runs `openssl`, with nothing to read.
    pub(crate) fn output(&self, arguments: &str) -> Output {
        Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl runs")
    }
}

/// The first certificate of a file, in a file of its own.
pub(crate) fn leaf_of(file: &Path, target: &Path) {
    let text = std::fs::read_to_string(file).expect("certificates");
    let end = "-----END CERTIFICATE-----\n";
    let at = text.find(end).expect("a certificate") + end.len();
    std::fs::write(target, &text[..at]).expect("written");
}
