//! A certified OpenID provider (`oidc-provider`), run by node on loopback, over HTTPS with a
//! certificate of a CA of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::http::dial;
use super::proxy::WebPki;
use super::repository;

/// A running provider; it ends with the test.
pub(crate) struct Provider {
    folder: TempDir,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Its `iss`.
    pub(crate) issuer: String,
}

impl Provider {
    pub(crate) fn start() -> Self {
        let modules = std::env::var("ZTA_TEST_OIDC_PROVIDER").expect(
            "ZTA_TEST_OIDC_PROVIDER is not set: run `make test`, or this test under \
             tools/with-postgres.sh",
        );
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(modules, at("node_modules")).expect("a link");
        let script = repository("server/tests/it/identity/provider.mjs");
        std::fs::copy(script, at("provider.mjs")).expect("copied");
        let pki = WebPki::new();
        for (name, text) in [
            ("ca.pem", pki.ca_pem.clone()),
            ("web.pem", pki.certificate.pem()),
            ("web.key", pki.key.serialize_pem()),
        ] {
            std::fs::write(at(name), text).expect("written");
        }
        let mut child = Command::new("node")
            .arg("provider.mjs")
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It warns of being for development.
            .stderr(Stdio::null())
            .spawn()
            .expect("node runs");
        let input = child.stdin.take().expect("stdin");
        let output = BufReader::new(child.stdout.take().expect("stdout"));
        let mut provider = Self {
            folder,
            child,
            input,
            output,
            issuer: String::new(),
        };
        let started = provider.answer();
        provider.issuer = started["issuer"].as_str().expect("an issuer").to_owned();
        provider
    }

    /// The file with its CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        // It says on standard output, too, that it is for development.
        while !line.starts_with('{') {
            line.clear();
            let read = self.output.read_line(&mut line).expect("a line");
            assert!(read > 0, "the provider ended");
        }
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert!(answer.get("error").is_none(), "{answer}");
        answer
    }

    /// Has it do something.
    pub(crate) fn act(&mut self, request: Value) -> Value {
        writeln!(self.input, "{request}").expect("written");
        self.answer()
    }

    /// A token that it signs.
    pub(crate) fn sign(&mut self, header: Value, claims: Value) -> String {
        let answer = self.act(json!({"act": "sign", "header": header, "claims": claims}));
        answer["token"].as_str().expect("a token").to_owned()
    }

    /// How often its keys were asked for.
    pub(crate) fn keys_asked(&mut self) -> u64 {
        self.act(json!({"act": "counts"}))["jwks"]
            .as_u64()
            .expect("a count")
    }

    /// A service's access token (client credentials), by the wire.
    pub(crate) async fn access_token(&self, client: &str) -> String {
        let endpoint = self.issuer.strip_prefix("https://").expect("https");
        let mut stream = dial(endpoint, &self.ca(), None, b"http/1.1")
            .await
            .expect("connects");
        let body = format!(
            "grant_type=client_credentials&client_id={client}&client_secret=for-tests-only"
        );
        let request = format!(
            "POST /token HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).expect("text");
        let json = &answer[answer.find('{').expect("JSON")..=answer.rfind('}').expect("JSON")];
        let json: Value = serde_json::from_str(json).expect("JSON");
        json["access_token"].as_str().expect("a token").to_owned()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
