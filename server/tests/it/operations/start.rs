//! Settings that are wrong refuse the start and are named.

use std::process::Command;

use crate::support::server::text;

/// Runs `zta serve` with these variables; it must refuse with exit code 2, say this, and
/// leave nothing behind.
fn refuses(variables: &[(&str, &str)], says: &[&str]) {
    let made = refuses_at_last(variables, says);
    assert!(!made, "{variables:?}: nothing was made");
}

/// Likewise, for what shows only once the store is open; whether there is one.
fn refuses_at_last(variables: &[(&str, &str)], says: &[&str]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("timeout");
    // A server that does start must not hang the test.
    command
        .args(["20", env!("CARGO_BIN_EXE_zta"), "serve"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ZTA_LISTEN", "127.0.0.1:0")
        .env("ZTA_DATA_DIR", folder.path().join("data"))
        .current_dir(folder.path());
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().expect("zta");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{variables:?}: {said}");
    for says in says {
        assert!(
            said.contains(says),
            "{variables:?}: expected `{says}`: {said}"
        );
    }
    folder.path().join("data/zta.db").exists()
}

#[test]
fn a_setting_that_does_not_exist_is_named() {
    refuses(&[("ZTA_LISTNE", "127.0.0.1:0")], &["listne"]);
    refuses(&[("ZTA_LIMITS__MESSAGE_BYTES", "1")], &["message_bytes"]);
}

#[test]
fn a_value_that_cannot_be_used_says_what_to_do() {
    refuses(&[("ZTA_LISTEN", "everywhere")], &["listen"]);
    refuses(
        &[("ZTA_PLAINTEXT", "true"), ("ZTA_LISTEN", "0.0.0.0:0")],
        &["plaintext", "loopback only"],
    );
    refuses(
        &[("ZTA_PLAINTEXT", "true"), ("ZTA_LISTEN", "[::]:0")],
        &["plaintext", "loopback only"],
    );
    refuses(
        &[("ZTA_TOKEN_LIFETIME_S", "601")],
        &["token_lifetime_s", "10 to 600"],
    );
    refuses(
        &[("ZTA_CERTIFICATE_LIFETIME_S", "1")],
        &["certificate_lifetime_s"],
    );
    refuses(&[("ZTA_LOG_FORMAT", "xml")], &["log_format"]);
    refuses(&[("ZTA_LOG_LEVEL", "a=b=c")], &["log_level"]);
    refuses_at_last(&[("ZTA_TRUST_DOMAIN", "Not A Domain")], &["trust_domain"]);
    refuses_at_last(&[("ZTA_POLICY_DIR", "/nowhere")], &["/nowhere"]);
}

#[test]
fn a_placeholder_or_a_missing_secret_is_no_secret() {
    let url = "postgres://zta:changeme@localhost/zta";
    refuses(
        &[("ZTA_DATABASE_URL", url)],
        &["database_url", "placeholder"],
    );
    let both = [
        ("ZTA_DATABASE_URL", "postgres://x@y/z"),
        ("ZTA_DATABASE_URL_FILE", "/x"),
    ];
    refuses(&both, &["database_url_file"]);
    refuses(
        &[("ZTA_DATABASE_URL_FILE", "/nowhere")],
        &["database_url_file", "/nowhere"],
    );
    refuses(
        &[("ZTA_DATABASE_URL", "mysql://x@y/z")],
        &["database_url", "postgres://"],
    );
}

#[tokio::test]
async fn a_fleets_keyring_must_be_a_real_secret() {
    use crate::support::{Database, Setup};
    let mut server = Setup::on(Database::postgres().await).start().await;
    assert!(server.stop().await.success());
    let Database::Postgres(database) = &*server.database else {
        panic!("postgres")
    };
    let url = database.server_url();
    let folder = tempfile::tempdir().expect("a folder");
    for (secret, says) in [
        (None, "keyring_file"),
        (Some("short"), "shorter than 32 bytes"),
        (
            Some("changeme-changeme-0123456789-abcdefghij"),
            "placeholder",
        ),
        (
            Some("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "repeats",
        ),
        (Some("another good secret, 0123456789 abcdefghijk"), "ca"),
    ] {
        let file = folder.path().join("keyring");
        let file = file.to_str().expect("a path");
        let mut variables = vec![("ZTA_DATABASE_URL", url.as_str())];
        if let Some(secret) = secret {
            std::fs::write(file, secret).expect("keyring");
            variables.push(("ZTA_KEYRING_FILE", file));
        }
        refuses(&variables, &[says]);
    }
    server.start().await;
}

#[test]
fn a_configuration_file_is_read_and_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("zta.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, "log_format = \"json\"\nlistne = \"127.0.0.1:0\"\n").expect("toml");
    refuses(&[("ZTA_CONFIG", path)], &["listne"]);
    std::fs::write(&file, "listen = [\n").expect("toml");
    refuses(&[("ZTA_CONFIG", path)], &["zta.toml"]);
    refuses(&[("ZTA_CONFIG", "/nowhere.toml")], &["/nowhere.toml"]);
}
