//! Where an issuer's keys are (OpenID Connect Discovery 1.0). Two members of one document
//! are read: a crate for the whole protocol would bring another HTTP client and RSA.

use http::Uri;
use serde::Deserialize;

/// Why a discovery document is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DiscoveryError {
    /// It is not one.
    #[error("the document is not provider metadata with `issuer` and `jwks_uri`")]
    Malformed,
    /// It is another issuer's.
    #[error("the document is of another issuer")]
    Issuer,
    /// Its keys are elsewhere.
    #[error("`jwks_uri` is not `https` on the issuer's host or one of `hosts`")]
    Host,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// Where the keys of `issuer` are, by its discovery document.
///
/// # Errors
/// When the document is of another issuer, or leads to a host that is not listed.
pub(crate) fn jwks_uri(
    document: &[u8],
    issuer: &str,
    hosts: &[String],
) -> Result<String, DiscoveryError> {
    let metadata: Metadata =
        serde_json::from_slice(document).map_err(|_| DiscoveryError::Malformed)?;
    if metadata.issuer != issuer {
        return Err(DiscoveryError::Issuer);
    }
    let host = host_of(&metadata.jwks_uri).ok_or(DiscoveryError::Host)?;
    let own = host_of(issuer);
    let listed = |name: &String| host_of(&format!("https://{name}/")).as_ref() == Some(&host);
    match own.as_ref() == Some(&host) || hosts.iter().any(listed) {
        true => Ok(metadata.jwks_uri),
        false => Err(DiscoveryError::Host),
    }
}

/// Host and port of an `https` URL without a user's name or a fragment.
pub(crate) fn host_of(url: &str) -> Option<(String, u16)> {
    if url.contains(['@', '#', '\\']) || !url.starts_with("https://") {
        return None;
    }
    let uri: Uri = url.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    Some((host.to_ascii_lowercase(), uri.port_u16().unwrap_or(443)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://login.example/tenant/v2.0";

    fn found(issuer: &str, uri: &str) -> Result<String, DiscoveryError> {
        let document = serde_json::json!({"issuer": issuer, "jwks_uri": uri, "more": []});
        let hosts = ["keys.example".to_owned(), "other.example:8443".to_owned()];
        jwks_uri(document.to_string().as_bytes(), ISSUER, &hosts)
    }

    #[test]
    fn the_keys_are_on_the_issuers_host_or_a_listed_one() {
        for uri in [
            "https://login.example/tenant/keys",
            "https://LOGIN.example:443/keys?p=1",
            "https://keys.example/a",
            "https://other.example:8443/a",
        ] {
            assert_eq!(found(ISSUER, uri), Ok(uri.to_owned()));
        }
        for uri in [
            "http://login.example/keys",
            "https://evil.example/keys",
            "https://login.example.evil.example/keys",
            "https://login.example@evil.example/keys",
            "https://evil.example/#https://login.example/",
            "https://evil.example\\@login.example/",
            "https://login.example:8443/keys",
            "https://other.example/a",
            "file:///etc/passwd",
            "https:///keys",
            "",
        ] {
            assert_eq!(found(ISSUER, uri), Err(DiscoveryError::Host), "{uri}");
        }
    }

    #[test]
    fn another_issuers_document_is_not_followed() {
        let uri = "https://login.example/keys";
        for issuer in [
            "https://login.example/tenant/v2.0/",
            "https://login.example",
            "",
        ] {
            assert_eq!(found(issuer, uri), Err(DiscoveryError::Issuer), "{issuer}");
        }
        for text in ["", "{}", "[]", r#"{"issuer": 1, "jwks_uri": "https://a"}"#] {
            let error = jwks_uri(text.as_bytes(), ISSUER, &[]);
            assert_eq!(error, Err(DiscoveryError::Malformed));
        }
    }
}
