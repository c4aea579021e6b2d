//! Exchanges a join token for an identity.
//!
//! The token carries the fingerprint of the server's CA. The CA bundle is fetched over a
//! connection that is not verified and compared with the fingerprint; only the
//! certificate that matches is trusted for the call that shows the token's secret.

use std::{path::Path, time::Duration};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use zta_proto::v1::{self, agent_service_client::AgentServiceClient};

use crate::{
    connection::Connection, credential::Credential, error::Error, folder, key::NewKey, pinned, tls,
};

const PREFIX: &str = "zta-join-1";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a key, exchanges the join token for its first certificate and writes a
/// credential folder.
///
/// `server` is `host:port`. The folder is made; it must not hold a key yet. A token is
/// good for one use: after an error that came from the server, ask for a new one.
///
/// ```no_run
/// # async fn example(token: &str) -> Result<(), zta_client::Error> {
/// let credential = zta_client::enroll("localhost:7443", token, "identities/research").await?;
/// println!("enrolled {}", credential.spiffe_id());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The token is malformed, the server is not the one that made it or refuses it, or the
/// folder cannot be written. The token's secret is shown to no other server.
pub async fn enroll(
    server: &str,
    join_token: &str,
    out_dir: impl AsRef<Path>,
) -> Result<Credential, Error> {
    let join_token = join_token.trim();
    let fingerprint = fingerprint_of(join_token)?;
    let address: tls::Address = server.parse()?;
    let root = pinned_root(&address, &fingerprint).await?;
    let path = out_dir.as_ref();
    let key = NewKey::generate().map_err(|problem| Error::credential(path, problem))?;
    // Before the token is spent: a folder that cannot be written must not cost it.
    folder::create(path, key.key_pem.as_bytes())?;
    let enrolled = async {
        let issued = request(&address, root, join_token, key.csr_der).await?;
        Credential::write(path, &address.to_string(), &issued)
    };
    let unfinished = Unfinished(Some(path));
    let credential = enrolled.await?;
    unfinished.finish();
    Ok(credential)
}

/// Removes the key of a folder that got no certificate, also when the caller gives up.
struct Unfinished<'a>(Option<&'a Path>);

impl Unfinished<'_> {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // A key that stays is refused as a target for the next attempt, which says so.
            let _ = std::fs::remove_file(path.join(folder::KEY));
        }
    }
}

fn fingerprint_of(join_token: &str) -> Result<Vec<u8>, Error> {
    let parts: Vec<&str> = join_token.split('.').collect();
    let [PREFIX, id, secret, fingerprint] = parts.as_slice() else {
        return Err(Error::JoinToken("is not of the form zta-join-1.….….…"));
    };
    let decode = |part: &str| {
        let decoded = URL_SAFE_NO_PAD.decode(part).ok();
        decoded.filter(|bytes| !bytes.is_empty())
    };
    if decode(id).is_none() || decode(secret).is_none() {
        return Err(Error::JoinToken("has a part that is not base64url"));
    }
    decode(fingerprint)
        .filter(|bytes| bytes.len() == digest::SHA256_OUTPUT_LEN)
        .ok_or(Error::JoinToken("has a fingerprint that is not a SHA-256"))
}

/// The CA certificate that the token names.
async fn pinned_root(
    address: &tls::Address,
    fingerprint: &[u8],
) -> Result<CertificateDer<'static>, Error> {
    let fetched = tokio::time::timeout(TIMEOUT, pinned::fetch_bundle(address));
    let bundle = fetched
        .await
        .map_err(|e| Error::unreachable(address, e))??;
    bundle
        .into_iter()
        .find(|der| {
            let found = digest::digest(&digest::SHA256, der);
            verify_slices_are_equal(found.as_ref(), fingerprint).is_ok()
        })
        .ok_or_else(|| Error::WrongServer {
            server: address.to_string(),
        })
}

async fn request(
    address: &tls::Address,
    root: CertificateDer<'static>,
    join_token: &str,
    csr_der: Vec<u8>,
) -> Result<v1::Certificate, Error> {
    let channel = tls::anonymous_channel(address, root)?;
    let request = v1::EnrollRequest {
        join_token: join_token.to_owned(),
        csr_der,
    };
    let answer = AgentServiceClient::new(Connection::new(channel, TIMEOUT))
        .enroll(request)
        .await?;
    answer
        .into_inner()
        .certificate
        .filter(|issued| !issued.certificate_pem.is_empty() && !issued.ca_bundle_pem.is_empty())
        .ok_or(Error::Answer("no certificate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_token_is_refused_before_anything_is_sent() {
        let fingerprint = URL_SAFE_NO_PAD.encode([7; 32]);
        let good = format!("zta-join-1.aWQ.c2VjcmV0.{fingerprint}");
        assert_eq!(fingerprint_of(&good).expect("good"), [7; 32]);
        for bad in [
            String::new(),
            format!("zta-join-2.aWQ.c2VjcmV0.{fingerprint}"),
            format!("zta-join-1.aWQ.{fingerprint}"),
            format!("zta-join-1..c2VjcmV0.{fingerprint}"),
            format!("zta-join-1.aWQ.a+b/.{fingerprint}"),
            format!("{good}."),
            format!("{good}="),
            "zta-join-1.aWQ.c2VjcmV0.c2hvcnQ".to_owned(),
        ] {
            let error = fingerprint_of(&bad).expect_err(&bad);
            assert!(matches!(error, Error::JoinToken(_)), "{bad}");
            assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
        }
    }
}
