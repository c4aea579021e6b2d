//! Proofs of possession (DPoP) as a client makes them, and as a thief would.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use zta_client::v1;
use zta_client::v1::authentication_service_client::AuthenticationServiceClient;
use zta_client::v1::authorization_service_client::AuthorizationServiceClient;

use super::pki::now;
use super::rpc::call;

/// Paths of calls.
pub(crate) const AUTHENTICATE: &str = "/zta.v1.AuthenticationService/Authenticate";
pub(crate) const AUTHORIZE: &str = "/zta.v1.AuthorizationService/Authorize";

/// Somebody with a key, a way to the server, and the last nonce.
pub(crate) struct Holder {
    key: EcdsaKeyPair,
    pub(crate) channel: Channel,
    /// What the caller thinks the server's address is.
    pub(crate) authority: String,
    pub(crate) nonce: Option<String>,
}

impl Holder {
    /// By a private key (PKCS#8 PEM).
    pub(crate) fn new(key_pem: &str, channel: Channel, authority: &str) -> Self {
        let der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der());
        Self {
            key: key.expect("P-256"),
            channel,
            authority: authority.to_owned(),
            nonce: None,
        }
    }

    /// The thumbprint of its key (RFC 7638), as `cnf` has it.
    pub(crate) fn thumbprint(&self) -> String {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, jwk.as_bytes());
        BASE64.encode(digest)
    }

    fn sign(&self, text: &str) -> String {
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes());
        BASE64.encode(signature.expect("signs"))
    }

    /// What a proof for a call says.
    pub(crate) fn claims(&self, path: &str, token: Option<&str>) -> Value {
        let mut claims = json!({
            "jti": uuid::Uuid::new_v4().to_string(),
            "htm": "POST",
            "htu": format!("https://{}{path}", self.authority),
            "iat": now().unix_timestamp(),
        });
        if let Some(nonce) = &self.nonce {
            claims["nonce"] = json!(nonce);
        }
        if let Some(token) = token {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
            claims["ath"] = json!(BASE64.encode(digest));
        }
        claims
    }

    /// A proof with these claims.
    pub(crate) fn proof_of(&self, claims: &Value) -> String {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let jwk =
            json!({"kty": "EC", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y)});
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
        let encode = |value: &Value| BASE64.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(claims));
        format!("{text}.{}", self.sign(&text))
    }

    /// A proof for a call.
    pub(crate) fn proof(&self, path: &str, token: Option<&str>) -> String {
        self.proof_of(&self.claims(path, token))
    }

    /// Takes the nonce of an answer; whether there was one.
    pub(crate) fn learn(&mut self, metadata: &tonic::metadata::MetadataMap) -> bool {
        let nonce = metadata.get("dpop-nonce").and_then(|n| n.to_str().ok());
        self.nonce = nonce.map(str::to_owned).or(self.nonce.take());
        nonce.is_some()
    }

    /// Logs in, with whatever nonce it has.
    pub(crate) async fn try_login(
        &mut self,
        proof: v1::authenticate_request::Proof,
    ) -> Result<v1::AuthenticateResponse, Status> {
        let request = v1::AuthenticateRequest { proof: Some(proof) };
        let request = with(request, None, &self.proof(AUTHENTICATE, None));
        let mut service = AuthenticationServiceClient::new(self.channel.clone());
        let answer = service.authenticate(request).await;
        match answer {
            Ok(answer) => {
                self.learn(answer.metadata());
                Ok(answer.into_inner())
            }
            Err(status) => {
                self.learn(status.metadata());
                Err(status)
            }
        }
    }

    /// Logs in; a nonce that is asked for is given.
    pub(crate) async fn login(
        &mut self,
        proof: v1::authenticate_request::Proof,
    ) -> Result<v1::AuthenticateResponse, Status> {
        if self.nonce.is_none() {
            let first = self.try_login(proof.clone()).await;
            let first = first.expect_err("no nonce yet");
            assert_eq!(super::rpc::reason(&first), "NONCE_REQUIRED");
        }
        self.try_login(proof).await
    }

    /// Has a call decided under a token.
    pub(crate) async fn authorize(
        &mut self,
        tool: &str,
        token: &str,
    ) -> Result<v1::AuthorizeResponse, Status> {
        let proof = self.proof(AUTHORIZE, Some(token));
        self.authorize_by(tool, token, &proof).await
    }

    /// The same with this proof.
    pub(crate) async fn authorize_by(
        &mut self,
        tool: &str,
        token: &str,
        proof: &str,
    ) -> Result<v1::AuthorizeResponse, Status> {
        let request = with(call(tool), Some(&format!("DPoP {token}")), proof);
        let mut service = AuthorizationServiceClient::new(self.channel.clone());
        match service.authorize(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                assert_ne!(status.code(), Code::Internal, "{status:?}");
                self.learn(status.metadata());
                Err(status)
            }
        }
    }
}

/// A request with these metadata.
pub(crate) fn with<T>(message: T, authorization: Option<&str>, proof: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("dpop", proof.parse().expect("a header value"));
    if let Some(text) = authorization {
        metadata.insert("authorization", text.parse().expect("a header value"));
    }
    request
}
