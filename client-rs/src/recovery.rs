//! A certificate for a key whose last one has ended: no connection can be made with that,
//! so the key is proved in the metadata of the call instead (DPoP, RFC 9449).

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tonic::{Request, metadata::MetadataValue};
use zta_proto::v1::{self, agent_service_client::AgentServiceClient};

use crate::{connection::Connection, credential::Credential, error::Error, renewal, tls};

const METHOD: &str = "/zta.v1.AgentService/Recover";
const TIMEOUT: Duration = Duration::from_secs(10);
/// The first proof has no nonce, the second has the server's.
const ATTEMPTS: u32 = 2;

/// Asks for the next certificate of the credential's key.
pub(crate) async fn recover(
    address: &tls::Address,
    credential: &Credential,
) -> Result<v1::Certificate, Error> {
    let channel = tls::anonymous_channel(address, credential.roots())?;
    let mut agents = AgentServiceClient::new(Connection::new(channel, TIMEOUT));
    let mut nonce = None;
    let mut attempt = 1;
    loop {
        let mut request = Request::new(v1::RecoverRequest {
            certificate_der: credential.leaf().to_vec(),
        });
        let proof = proof(address, credential, nonce.as_deref())?;
        let proof = MetadataValue::try_from(proof).map_err(|_| Error::Answer("a bad nonce"))?;
        request.metadata_mut().insert("dpop", proof);
        let status = match agents.recover(request).await {
            Ok(answer) => {
                let issued = answer.into_inner().certificate;
                return issued.ok_or(Error::Answer("no certificate"));
            }
            Err(status) => status,
        };
        let given = status.metadata().get("dpop-nonce");
        nonce = given.and_then(|n| n.to_str().ok()).map(str::to_owned);
        let error = Error::from(status);
        let wants_nonce = nonce.is_some() && error.reason() == Some("NONCE_REQUIRED");
        if attempt == ATTEMPTS || !wants_nonce {
            return Err(error);
        }
        attempt += 1;
    }
}

/// A proof of the key for this call, now.
fn proof(
    address: &tls::Address,
    credential: &Credential,
    nonce: Option<&str>,
) -> Result<String, Error> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let [x, y] = credential.public_coordinates();
    let header = json!({
        "typ": "dpop+jwt",
        "alg": "ES256",
        "jwk": {"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)},
    });
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| Error::credential("", "no randomness"))?;
    let now = renewal::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut claims = json!({
        "jti": encode(&id),
        "htm": "POST",
        "htu": format!("https://{address}{METHOD}"),
        "iat": now.as_secs(),
    });
    if let Some(nonce) = nonce {
        claims["nonce"] = Value::from(nonce);
    }
    let part = |value: &Value| encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = credential.sign_proof(text.as_bytes())?;
    Ok(format!("{text}.{}", encode(&signature)))
}
