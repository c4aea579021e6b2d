//! `[[issuers]]`: the identity providers whose tokens are taken for a login.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// The algorithms that may be configured. All are asymmetric: `none` and HMAC are no
/// signatures of a provider.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];
/// Issuers of one server.
pub(super) const ISSUERS_MAX: usize = 32;
/// How old a token may be at most, and how long stale keys may serve: a day.
const DAY_S: u32 = 86_400;

/// One identity provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer's URL, exactly as its tokens have it in `iss`.
    pub issuer: String,
    /// A token's `aud` is or holds one of these: what the provider knows this server by.
    pub audiences: Vec<String>,
    /// What its subjects are.
    pub principal: IssuerPrincipal,
    /// The signature algorithms that are taken.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<String>,
    /// The values of the header `typ` that are taken, such as `at+jwt`; empty: any.
    #[serde(default)]
    pub token_types: Vec<String>,
    /// Where its keys are; without it by its discovery document.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// Hosts beside the issuer's own that its keys may be on: `host` or `host:port`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The claim that identifies the principal, for good.
    #[serde(default = "subject")]
    pub id_claim: String,
    /// The claim with its name.
    #[serde(default)]
    pub name_claim: Option<String>,
    /// The claim with its groups. Beginning with `/` a place, such as `/realm_access/roles`.
    #[serde(default)]
    pub groups_claim: Option<String>,
    /// Which roles a group gives. Groups that are not listed give none.
    #[serde(default)]
    pub roles: BTreeMap<String, Vec<String>>,
    /// Claims that must have these values, such as `tid`.
    #[serde(default)]
    pub required_claims: BTreeMap<String, String>,
    /// The PEM file with the CAs of its web server; without it the public ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How old a token may be, at most a day.
    #[serde(default = "two_hours")]
    pub token_age_max_s: u32,
    /// How long its last keys are used while it cannot be reached, at most a day.
    #[serde(default = "day")]
    pub keys_stale_max_s: u32,
}

/// What the subjects of an issuer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerPrincipal {
    /// People.
    User,
    /// Services.
    Workload,
}

fn algorithms() -> Vec<String> {
    ["RS256", "PS256", "ES256", "EdDSA"]
        .map(str::to_owned)
        .to_vec()
}

fn subject() -> String {
    "sub".to_owned()
}

const fn two_hours() -> u32 {
    7_200
}

const fn day() -> u32 {
    DAY_S
}

impl IssuerConfig {
    /// What is wrong with it, and what would be right.
    pub(super) fn defect(&self) -> Option<String> {
        let of = |key: &str, why: &str| Some(format!("of `{}`: `{key}` {why}", self.issuer));
        if !is_https(&self.issuer) || self.issuer.contains('?') || self.issuer.len() > 512 {
            return of(
                "issuer",
                "must be an `https` URL without query and fragment",
            );
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return of(
                "audiences",
                "must name what the provider knows this server by; else each of its tokens, \
                 for whatever service, would be taken",
            );
        }
        let known = |name: &String| ALGORITHMS.contains(&name.as_str());
        if self.algorithms.is_empty() || !self.algorithms.iter().all(known) {
            return of(
                "algorithms",
                &format!("must be some of {}", ALGORITHMS.join(", ")),
            );
        }
        if self.jwks_uri.as_deref().is_some_and(|uri| !is_https(uri)) {
            return of("jwks_uri", "must be an `https` URL");
        }
        let is_host = |host: &String| is_https(&format!("https://{host}")) && !host.contains('/');
        if !self.hosts.iter().all(is_host) {
            return of("hosts", "must hold `host` or `host:port`");
        }
        let claims = [
            Some(&self.id_claim),
            self.name_claim.as_ref(),
            self.groups_claim.as_ref(),
        ];
        if claims.into_iter().flatten().any(String::is_empty) {
            return of("id_claim, name_claim, groups_claim", "must not be empty");
        }
        if self.groups_claim.is_none() && !self.roles.is_empty() {
            return of(
                "roles",
                "need `groups_claim`: from what else should they follow?",
            );
        }
        if !(1..=DAY_S).contains(&self.token_age_max_s) {
            return of("token_age_max_s", "must be 1 to 86400");
        }
        if !(1..=DAY_S).contains(&self.keys_stale_max_s) {
            return of("keys_stale_max_s", "must be 1 to 86400");
        }
        None
    }
}

fn is_https(url: &str) -> bool {
    let fits = |c: char| c.is_ascii_graphic() && !"@#\\\"<>{}|^`".contains(c);
    let rest = url.strip_prefix("https://");
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?']))
        && url.chars().all(fits)
}
