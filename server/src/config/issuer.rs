//! `[[issuers]]`: the identity providers whose tokens are taken for a login.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Config;

/// The algorithms that may be configured. All are asymmetric: `none` and HMAC are no
/// signatures of a provider.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];
/// Issuers of one server.
const ISSUERS_MAX: usize = 32;
/// How old a token may be at most, and how long stale keys may serve: a day.
const DAY_S: u32 = 86_400;
/// Attributes of one issuer's principals: they stand in each of their access tokens.
const ATTRIBUTES_MAX: usize = 16;

/// One identity provider.
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    /// What else policies see of its principals, as tags: the tag's name, and the claim
    /// (or its place) with the value.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
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
    /// Why another table cannot stand beside it. Those of one issuer are told apart by the
    /// audience, and have one way to its keys and one meaning of its ids.
    fn clash(&self, other: &Self) -> Option<String> {
        if self.issuer != other.issuer {
            return None;
        }
        let of = |why: &str| Some(format!("of `{}`, which is there twice: {why}", self.issuer));
        if let Some(both) = other.audiences.iter().find(|a| self.audiences.contains(a)) {
            return of(&format!(
                "no issuer twice with the same audience, and `{both}` is in both tables"
            ));
        }
        let keys = |table: &Self| {
            let Self {
                jwks_uri,
                hosts,
                ca_file,
                keys_stale_max_s,
                ..
            } = table.clone();
            (jwks_uri, hosts, ca_file, keys_stale_max_s)
        };
        if keys(self) != keys(other) {
            return of(
                "`jwks_uri`, `hosts`, `ca_file` and `keys_stale_max_s` must be the same in all \
                 its tables: its keys are fetched once",
            );
        }
        // Else the id that one claim gives to somebody could be another one's by the other.
        if self.principal == other.principal && self.id_claim != other.id_claim {
            return of("`id_claim` must be the same in all its tables for the same `principal`");
        }
        None
    }

    /// What is wrong with it, and what would be right.
    fn defect(&self) -> Option<String> {
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
        let attributes = &self.attributes;
        let unnamed = |(name, claim): (&String, &String)| name.is_empty() || claim.is_empty();
        if attributes.len() > ATTRIBUTES_MAX || attributes.iter().any(unnamed) {
            return of(
                "attributes",
                &format!("must be at most {ATTRIBUTES_MAX}, each with a name and a claim"),
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

impl Config {
    /// What is wrong with who may log in how: the setting, and what would be right.
    pub(super) fn identity_defect(&self) -> Option<(&'static str, String)> {
        if self.development_bearer && !self.listen.ip().is_loopback() {
            let why = "is for loopback only; listen on 127.0.0.1, or leave it out and have \
                       clients prove their keys";
            return Some(("development_bearer", why.to_owned()));
        }
        let is_authority = |name: &String| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
            !name.is_empty() && name.chars().all(fits)
        };
        if !self.external_names.iter().all(is_authority) {
            let why = "has an entry that is not `host` or `host:port`, such as \
                       `zta.example.com`";
            return Some(("external_names", why.to_owned()));
        }
        if let Some(why) = self.issuers.iter().find_map(IssuerConfig::defect) {
            return Some(("issuers", why));
        }
        if self.issuers.len() > ISSUERS_MAX {
            let why = format!("must be at most {ISSUERS_MAX}");
            return Some(("issuers", why));
        }
        let earlier = |n: usize| self.issuers.iter().take(n);
        let tables = self.issuers.iter().enumerate();
        let mut pairs = tables.flat_map(|(n, table)| earlier(n).map(move |before| (before, table)));
        let why = pairs.find_map(|(before, table)| before.clash(table));
        why.map(|why| ("issuers", why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("zta.toml");
        std::fs::write(&file, text).expect("write");
        Config::read(Some(&file))
    }

    const ISSUER: &str = r#"
[[issuers]]
issuer = "https://Login.example/Tenant"
audiences = ["zta"]
principal = "user"
groups_claim = "groups"
[issuers.roles]
"/Crew/Researchers.EU" = ["researcher"]
[issuers.required_claims]
Tid = "T"
"#;

    #[test]
    fn an_issuer_is_read_as_it_is_written() {
        let config = read(ISSUER).expect("read");
        let issuer = &config.issuers[0];
        assert_eq!(issuer.issuer, "https://Login.example/Tenant");
        assert_eq!(issuer.roles["/Crew/Researchers.EU"], ["researcher"]);
        assert_eq!(issuer.required_claims["Tid"], "T");
        assert_eq!(
            (&*issuer.id_claim, issuer.principal),
            ("sub", IssuerPrincipal::User)
        );
        assert!(issuer.token_types.is_empty() && issuer.algorithms.len() == 4);
    }

    #[test]
    fn an_issuer_that_cannot_be_trusted_refuses_the_start() {
        for (old, new, why) in [
            ("https://", "http://", "`https` URL"),
            ("Tenant", "Tenant?x", "`https` URL"),
            ("https://Login", "https://me@Login", "`https` URL"),
            ("[\"zta\"]", "[]", "whatever service"),
            ("[\"zta\"]", "[\"\"]", "whatever service"),
            ("audiences", "audience", "audience"),
            ("principal = \"user\"", "", "principal"),
            ("\"user\"", "\"agent\"", "agent"),
            (
                "\"user\"",
                "\"user\"\nalgorithms = [\"none\"]",
                "algorithms",
            ),
            (
                "\"user\"",
                "\"user\"\nalgorithms = [\"RS256\", \"HS256\"]",
                "algorithms",
            ),
            ("\"user\"", "\"user\"\nalgorithms = []", "algorithms"),
            ("\"user\"", "\"user\"\njwks_uri = \"http://a\"", "jwks_uri"),
            ("\"user\"", "\"user\"\nhosts = [\"https://a\"]", "hosts"),
            (
                "\"user\"",
                "\"user\"\nkeys_stale_max_s = 86401",
                "keys_stale_max_s",
            ),
            (
                "\"user\"",
                "\"user\"\ntoken_age_max_s = 0",
                "token_age_max_s",
            ),
            ("groups_claim = \"groups\"", "", "groups_claim"),
            (
                "[issuers.required_claims]",
                "[issuers.attributes]\nx = \"\"\n[issuers.required_claims]",
                "attributes",
            ),
        ] {
            assert!(ISSUER.contains(old), "{old}");
            let error = read(&ISSUER.replacen(old, new, 1))
                .expect_err(new)
                .to_string();
            assert!(error.contains(why), "{new}: {error}");
        }
        let twice = read(&format!("{ISSUER}{ISSUER}"))
            .expect_err("twice")
            .to_string();
        assert!(twice.contains("no issuer twice"), "{twice}");
    }

    #[test]
    fn an_issuer_stands_twice_with_another_audience_only() {
        let second = |old: &str, new: &str| {
            let other = ISSUER.replacen("[\"zta\"]", "[\"services\"]", 1);
            let other = other.replacen("\"user\"", "\"workload\"", 1);
            assert!(other.contains(old), "{old}");
            read(&format!("{ISSUER}{}", other.replacen(old, new, 1)))
        };
        assert_eq!(second("", "").expect("two").issuers.len(), 2);
        second("\"workload\"", "\"user\"").expect("two of people");
        second("\"workload\"", "\"workload\"\nid_claim = \"azp\"").expect("of others");
        for (old, new, why) in [
            ("[\"services\"]", "[\"services\", \"zta\"]", "same audience"),
            ("\"workload\"", "\"user\"\nid_claim = \"name\"", "id_claim"),
            (
                "\"workload\"",
                "\"workload\"\nhosts = [\"keys.example\"]",
                "fetched once",
            ),
            (
                "\"workload\"",
                "\"workload\"\nca_file = \"ca.pem\"",
                "fetched once",
            ),
            (
                "\"workload\"",
                "\"workload\"\nkeys_stale_max_s = 60",
                "fetched once",
            ),
        ] {
            let error = second(old, new).expect_err(new).to_string();
            assert!(error.contains(why), "{new}: {error}");
        }
    }
}
