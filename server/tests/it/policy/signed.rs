//! Signed policies: what nobody signed never comes into force, whoever asks.

use zta_client::{Client, v1};

use super::rollback::rollback;
use super::{file, in_force};
use crate::support::rpc::{events, refused};
use crate::support::server::text;
use crate::support::{Database, Server, Setup};

const KEY: &str = "release.key";

/// Makes a key below the server's folder before the server is there.
fn keygen(folder: &std::path::Path, file: &str, name: &str) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_zta"))
        .args(["policy", "keygen", file, "--name", name])
        .env_clear()
        .current_dir(folder)
        .output()
        .expect("zta runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// Signs what the folder holds, to change the revision in force.
fn sign(server: &Server, keys: &std::path::Path, key: &str, folder: &str) -> String {
    let key = keys.join(key).to_string_lossy().into_owned();
    let output = server.zta(&["policy", "sign", folder, "--key", &key]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

async fn apply(
    client: &Client,
    more: &str,
    expected_revision: u64,
    signature: &str,
) -> Result<v1::Revision, tonic::Status> {
    let request = v1::ApplyRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![file("more.cedar", more)],
            ..Default::default()
        }),
        expected_revision,
        signature: signature.to_owned(),
        ..Default::default()
    };
    let answer = client.policies().apply(request).await?.into_inner();
    Ok(answer.revision.expect("a revision"))
}

#[tokio::test]
async fn what_nobody_signed_never_comes_into_force() {
    for database in Database::both().await {
        let keys = tempfile::tempdir().expect("a folder");
        let vkey = keygen(keys.path(), KEY, "release.example.com");
        keygen(keys.path(), "other.key", "release.example.com");
        let server = Setup::on(database)
            .config(&format!(
                "[policy]\nsigning_keys = [\"{vkey}\"]\nrequire_signed = true"
            ))
            .start()
            .await;
        let admin = server.admin();
        let folder = server.folder().join("policies");
        let name = folder.to_string_lossy().into_owned();
        let put = |text: &str| std::fs::write(folder.join("more.cedar"), text).expect("a file");

        put("// two");
        let (two, stranger) = (
            sign(&server, keys.path(), KEY, &name),
            sign(&server, keys.path(), "other.key", &name),
        );
        assert_eq!(
            refused(apply(&admin, "// two", 1, "").await),
            "POLICY_UNSIGNED"
        );
        let propose = v1::ProposeRequest {
            patch: Some(v1::PolicyPatch {
                put_policies: vec![file("more.cedar", "// two")],
                ..Default::default()
            }),
            expected_revision: 1,
            ..Default::default()
        };
        assert_eq!(
            refused(admin.policies().propose(propose).await),
            "POLICY_UNSIGNED"
        );
        const INVALID: &str = "POLICY_SIGNATURE_INVALID";
        for (text, signature) in [
            ("// other", two.as_str()),
            ("// two", stranger.as_str()),
            ("// two", "no note"),
            ("// two", &two.replacen("over 1", "over 2", 1)),
            ("// two", &"x".repeat(4097)),
        ] {
            assert_eq!(
                refused(apply(&admin, text, 1, signature).await),
                INVALID,
                "{signature}"
            );
        }
        let applied = apply(&admin, "// two", 1, &two).await.expect("applied");
        assert_eq!(
            (applied.number, applied.signed_by.as_str()),
            (2, "release.example.com")
        );
        put("// three");
        let three = sign(&server, keys.path(), KEY, &name);
        assert_eq!(
            apply(&admin, "// three", 2, &three)
                .await
                .expect("applied")
                .number,
            3
        );

        // An old signature is no way back; a rollback is, for what was signed.
        assert_eq!(refused(apply(&admin, "// two", 3, &two).await), INVALID);
        let back = rollback(&admin, 2, 3).await.expect("rolled back");
        assert_eq!(back.signed_by, "release.example.com");
        assert_eq!(refused(rollback(&admin, 1, 4).await), "POLICY_UNSIGNED");
        assert_eq!(in_force(&admin).await.0, 4);

        let acts = events(&admin, &["admin"]).await;
        let applied = acts.iter().find(|e| e.1["detail"]["revision"] == "2");
        assert_eq!(
            applied.expect("on record").1["detail"]["signature"],
            two.trim_end().to_owned() + "\n"
        );
        server.assert_verifies();
    }
}

#[tokio::test]
async fn the_command_line_signs_and_applies() {
    let keys = tempfile::tempdir().expect("a folder");
    let vkey = keygen(keys.path(), KEY, "release");
    let mode = std::fs::metadata(keys.path().join(KEY)).expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o777, 0o600);
    let server = Setup::sqlite()
        .config(&format!(
            "[policy]\nsigning_keys = [\"{vkey}\"]\nrequire_signed = true"
        ))
        .start()
        .await;
    let folder = server.folder().join("policies");
    let name = folder.to_string_lossy().into_owned();
    std::fs::write(folder.join("more.cedar"), "// more").expect("a file");
    let unsigned = server.zta(&["policy", "apply", &name]);
    assert_eq!(unsigned.status.code(), Some(1));
    assert!(
        text(&unsigned.stderr).contains("(POLICY_UNSIGNED)"),
        "{}",
        text(&unsigned.stderr)
    );
    let note = server.folder().join("policies.sig");
    std::fs::write(&note, sign(&server, keys.path(), KEY, &name)).expect("a file");
    let note = note.to_string_lossy().into_owned();
    let applied = server.zta(&["policy", "apply", &name, "--signature", &note]);
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let log = text(&server.zta(&["policy", "log"]).stdout);
    assert!(log.contains("signed by release"), "{log}");
    // No key is ever written over, and none is printed.
    let again = server.zta(&["policy", "keygen", &note, "--name", "release"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(!text(&again.stdout).contains("PRIVATE"));
}

#[tokio::test]
async fn a_signature_that_is_not_needed_is_still_verified() {
    let server = Setup::sqlite().start().await;
    let answer = apply(&server.admin(), "// two", 1, "made up").await;
    assert_eq!(refused(answer), "POLICY_SIGNATURE_INVALID");
}

#[test]
fn a_server_that_demands_signatures_of_nobody_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    for (settings, why) in [
        (
            &[("ZTA_POLICY__REQUIRE_SIGNED", "true")][..],
            "nobody could sign",
        ),
        (&[("ZTA_POLICY__SIGNING_KEYS", "a+b+c")], "signing_keys"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_zta"))
            .arg("serve")
            .env_clear()
            .envs(settings.iter().copied())
            .env("ZTA_LISTEN", "127.0.0.1:0")
            .current_dir(folder.path())
            .output()
            .expect("zta runs");
        assert_eq!(output.status.code(), Some(2), "{settings:?}");
        assert!(
            text(&output.stderr).contains(why),
            "{}",
            text(&output.stderr)
        );
    }
}
