//! `zta policy keygen` and `zta policy sign`.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;
use zta_client::v1;
use zta_server::model::note::NoteSigner;
use zta_server::policy::{Bundle, PolicySource, content_sha256};

use crate::cli::{Failure, Options, line};

/// Makes a key: the private half into a file that only its owner reads, the public half onto
/// standard output, for `policy.signing_keys`.
pub(super) fn keygen(options: &Options, file: &Path, name: &str) -> Result<(), Failure> {
    let bad = |why: String| Failure::CouldNotRun(why);
    let signer = NoteSigner::generate(name).map_err(|_| {
        let text = "a key's name has 1 to 255 characters, no spaces and no `+`";
        bad(text.to_owned())
    })?;
    let secret = signer.skey();
    // Never over another key.
    let created = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    let written = created.and_then(|mut out| {
        out.write_all(secret.as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()
    });
    written.map_err(|e| bad(format!("`{}`: {e}", file.display())))?;
    let vkey = signer.key().vkey();
    match options.json {
        true => line(json!({ "key": vkey, "file": file })),
        false => line(vkey),
    }
}

/// Signs policy folders for the revision that they are to change.
pub(super) async fn sign(
    options: &Options,
    folders: &[PathBuf],
    key: &Path,
    expected: Option<u64>,
) -> Result<(), Failure> {
    let bad = |why: String| Failure::CouldNotRun(why);
    let secret = std::fs::read_to_string(key).map(Zeroizing::new);
    let secret = secret.map_err(|e| bad(format!("cannot read `{}`: {e}", key.display())))?;
    let signer =
        NoteSigner::from_skey(&secret).map_err(|e| bad(format!("`{}`: {e}", key.display())))?;
    let source = PolicySource::read(folders).map_err(bad)?;
    let client = options.client()?;
    let request = v1::GetRevisionRequest {
        number: expected.unwrap_or(0),
        digests_only: true,
    };
    let base = client.policies().get_revision(request).await?.into_inner();
    let base = base.revision.unwrap_or_default();
    let base_sha256 = hex::decode(&base.content_sha256).ok();
    let base_sha256 = base_sha256.and_then(|bytes| bytes.try_into().ok());
    let bundle = Bundle {
        zone: options.trust_domain()?,
        base: base.number,
        base_sha256: base_sha256
            .ok_or_else(|| bad("the server's answer has no SHA-256".to_owned()))?,
        sha256: content_sha256(&source),
    };
    let note = signer.sign(&bundle.text());
    match options.json {
        true => line(json!({ "signature": note, "changes": bundle.base })),
        false => line(note.trim_end()),
    }
}
