//! Private keys in files: encrypted, or refused.

use std::path::Path;

use crate::support::server::text;
use crate::support::{Server, Setup};

const PASSPHRASE: &str = "correct horse battery staple";
const ENCRYPTED: &str = "-----BEGIN ZTA ENCRYPTED PRIVATE KEY-----";

/// Runs `zta serve`, which must refuse and say so without the passphrase.
fn refuses(server: &Server, variables: &[(&str, &Path)], says: &str) {
    let mut command = std::process::Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_zta"), "serve"]);
    command
        .env_clear()
        .env("ZTA_DATA_DIR", server.data())
        .env("ZTA_LISTEN", "127.0.0.1:0");
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().expect("zta");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(says), "expected `{says}`: {said}");
    assert!(!said.contains(PASSPHRASE), "{said}");
}

fn key_files(server: &Server) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(server.data().join("keys"))
        .expect("keys")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a key");
            (path.to_string_lossy().into_owned(), text)
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn with_a_passphrase_no_key_lies_in_clear_text_and_none_starts_without_it() {
    let secrets = tempfile::tempdir().expect("a folder");
    let file = secrets.path().join("passphrase");
    std::fs::write(&file, format!("{PASSPHRASE}\n")).expect("written");
    let mut server = Setup::sqlite()
        .set("ZTA_KEY_PASSPHRASE_FILE", file.display())
        .set("ZTA_LOG_LEVEL", "trace")
        .start()
        .await;
    let made = key_files(&server);
    assert_eq!(made.len(), 5);
    assert!(made.iter().all(|(_, text)| text.starts_with(ENCRYPTED)));
    let agent = server.agent("research", &["researcher"]).await;
    assert!(server.stop().await.success());
    assert!(!server.log().contains(PASSPHRASE));

    refuses(&server, &[], "key_passphrase_file");
    let variable = "ZTA_KEY_PASSPHRASE_FILE";
    for (passphrase, says) in [
        ("correct horse battery stable", "does not open"),
        ("elevenchars", "shorter than 12 characters"),
        ("changeme changeme", "placeholder"),
    ] {
        let other = secrets.path().join("other");
        std::fs::write(&other, passphrase).expect("written");
        refuses(&server, &[(variable, &other)], says);
    }
    refuses(&server, &[(variable, Path::new("/nowhere"))], "/nowhere");
    assert_eq!(key_files(&server), made, "a refused key is kept");

    // Flipped in the middle, still base64.
    let (ca, original) = &made[0];
    let altered = match &original[100..101] {
        "A" => format!("{}B{}", &original[..100], &original[101..]),
        _ => format!("{}A{}", &original[..100], &original[101..]),
    };
    std::fs::write(ca, &altered).expect("written");
    refuses(&server, &[(variable, &file)], "does not open");
    assert_eq!(std::fs::read_to_string(ca).expect("kept"), altered);
    std::fs::write(ca, original).expect("restored");

    server.start().await;
    agent.renew().await.expect("the same keys as before");
}

#[tokio::test]
async fn clear_keys_are_encrypted_by_the_operators_command_and_by_nothing_else() {
    let mut server = Setup::sqlite().start().await;
    let agent = server.agent("research", &["researcher"]).await;
    assert!(server.stop().await.success());
    let clear = key_files(&server);

    // A passphrase by way of systemd.
    let credentials = tempfile::tempdir().expect("a folder");
    std::fs::write(credentials.path().join("zta-key-passphrase"), PASSPHRASE).expect("written");
    let variable = ("CREDENTIALS_DIRECTORY", credentials.path());
    refuses(&server, &[variable], "zta keys encrypt");
    assert_eq!(key_files(&server), clear);

    let encrypt = |passphrase: bool| {
        let mut command = server.command(&["keys", "encrypt", "--json"]);
        if passphrase {
            command.env(variable.0, variable.1);
        }
        let output = command.output().expect("zta");
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = encrypt(false);
    assert_eq!(code, Some(2));
    assert!(said.contains("key_passphrase_file"), "{said}");
    let (code, said) = encrypt(true);
    assert_eq!(code, Some(0), "{said}");
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["encrypted"].as_array().map(Vec::len), Some(5));
    let encrypted = key_files(&server);
    assert_eq!(encrypted.len(), 5);
    assert!(
        encrypted
            .iter()
            .all(|(_, text)| text.starts_with(ENCRYPTED))
    );
    let (code, said) = encrypt(true);
    assert_eq!((code, said.trim()), (Some(0), r#"{"encrypted":[]}"#));
    assert_eq!(key_files(&server), encrypted, "once is enough");

    server.set("CREDENTIALS_DIRECTORY", credentials.path().display());
    server.start().await;
    agent.renew().await.expect("the same keys as before");
    server.assert_verifies();
}
