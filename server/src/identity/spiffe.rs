//! SPIFFE IDs, the names in certificates and in Cedar.
//!
//! The grammar is that of the SPIFFE ID standard (lower-case trust domain, no
//! percent encoding, no empty or dot segments). Nothing is normalised: a text
//! that is not already an ID is refused, so that one principal has one name.

use std::fmt;

/// Bytes of a SPIFFE ID, by the standard.
const ID_LEN_MAX: usize = 2048;
/// Bytes of a trust domain, by the standard.
const TRUST_DOMAIN_LEN_MAX: usize = 255;
/// Characters of a principal's name, by the contract of `AgentService`.
const NAME_LEN_MAX: usize = 63;
const SCHEME: &str = "spiffe://";

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpiffeError {
    /// It does not begin with `spiffe://`.
    #[error("a SPIFFE ID begins with `spiffe://`")]
    Scheme,
    /// The trust domain is empty, too long, or has other characters.
    #[error("a trust domain is 1 to 255 characters of a-z, 0-9, `.`, `-`, `_`")]
    TrustDomain,
    /// The path has an empty, `.` or `..` segment, or other characters.
    #[error("a SPIFFE path is segments of a-z, A-Z, 0-9, `.`, `-`, `_`, none empty, `.` or `..`")]
    Path,
    /// It is longer than 2048 bytes.
    #[error("a SPIFFE ID is at most 2048 bytes")]
    Length,
    /// The name of an agent or user has another form.
    #[error(
        "a name is 1 to 63 characters of a-z, 0-9, `-`, `_`, `.`, beginning with a letter or digit"
    )]
    Name,
}

/// A trust domain: the realm of one CA.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TrustDomain(String);

impl TrustDomain {
    /// Parses a bare trust domain, such as `zta.local`.
    pub(crate) fn parse(text: &str) -> Result<Self, SpiffeError> {
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > TRUST_DOMAIN_LEN_MAX || !text.bytes().all(allowed) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(text.to_owned()))
    }

    /// The bare name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://<trust domain>`: the CA's own ID, and the issuer of tokens.
    pub(crate) fn uri(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an agent or a user, unique among its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PrincipalName(String);

impl PrincipalName {
    /// Parses a name as `AgentService.Register` takes it.
    pub(crate) fn parse(text: &str) -> Result<Self, SpiffeError> {
        let letter_or_digit = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let allowed = |c: u8| letter_or_digit(c) || matches!(c, b'-' | b'_' | b'.');
        let first_fits = text.bytes().next().is_some_and(letter_or_digit);
        if !first_fits || text.len() > NAME_LEN_MAX || !text.bytes().all(allowed) {
            return Err(SpiffeError::Name);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of principal an ID names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpiffeKind {
    /// `spiffe://<trust domain>/agent/<name>`
    Agent(PrincipalName),
    /// `spiffe://<trust domain>/user/<name>`
    User(PrincipalName),
    /// Any other path.
    Other,
}

/// A SPIFFE ID with a path, exactly as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SpiffeId {
    text: String,
    path_at: usize,
}

impl SpiffeId {
    /// Parses an ID. One without a path names a trust domain, not a principal, and is refused.
    pub(crate) fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > ID_LEN_MAX {
            return Err(SpiffeError::Length);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        TrustDomain::parse(domain)?;
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let fits =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed);
        if !path.split('/').all(fits) {
            return Err(SpiffeError::Path);
        }
        Ok(Self {
            text: text.to_owned(),
            path_at: SCHEME.len() + domain.len(),
        })
    }

    /// The ID of the agent `name`.
    pub(crate) fn agent(trust_domain: &TrustDomain, name: &PrincipalName) -> Self {
        Self::of(trust_domain, "agent", name)
    }

    /// The ID of the user `name` (the local administrator, for one).
    pub(crate) fn user(trust_domain: &TrustDomain, name: &PrincipalName) -> Self {
        Self::of(trust_domain, "user", name)
    }

    // Shorter than the limit by construction: 9 + 255 + 7 + 63.
    fn of(trust_domain: &TrustDomain, kind: &str, name: &PrincipalName) -> Self {
        let uri = trust_domain.uri();
        Self {
            text: format!("{uri}/{kind}/{name}"),
            path_at: uri.len(),
        }
    }

    /// The whole ID.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// The path, beginning with `/`.
    pub(crate) fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// Whether the ID belongs to `trust_domain`.
    pub(crate) fn is_in(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain() == trust_domain.as_str()
    }

    /// The kind of principal, with its name.
    pub(crate) fn kind(&self) -> SpiffeKind {
        let named = |prefix| {
            let name = self.path().strip_prefix(prefix)?;
            PrincipalName::parse(name).ok()
        };
        if let Some(name) = named("/agent/") {
            SpiffeKind::Agent(name)
        } else if let Some(name) = named("/user/") {
            SpiffeKind::User(name)
        } else {
            SpiffeKind::Other
        }
    }

    /// The last path segment, for people.
    pub(crate) fn last_segment(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_contracts_examples_parse() {
        let id = SpiffeId::parse("spiffe://zta.local/agent/research").expect("an ID");
        assert_eq!(id.trust_domain(), "zta.local");
        assert_eq!(id.path(), "/agent/research");
        assert_eq!(id.last_segment(), "research");
        let name = PrincipalName::parse("research").expect("a name");
        assert_eq!(id.kind(), SpiffeKind::Agent(name));
        let id = SpiffeId::parse("spiffe://zta.local/user/admin").expect("an ID");
        let name = PrincipalName::parse("admin").expect("a name");
        assert_eq!(id.kind(), SpiffeKind::User(name));
    }

    #[test]
    fn other_paths_are_no_agent() {
        for path in [
            "ns/a/sa/b",
            "agent/a/b",
            "agent/Upper",
            "agent/-x",
            "agents/a",
            "agent",
        ] {
            let id = SpiffeId::parse(&format!("spiffe://td/{path}")).expect(path);
            assert_eq!(id.kind(), SpiffeKind::Other, "{path}");
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused_by_name() {
        use SpiffeError::{Length, Path, Scheme, TrustDomain};
        let long = format!("spiffe://td/{}", "a".repeat(ID_LEN_MAX));
        for (text, error) in [
            ("", Scheme),
            ("https://td/a", Scheme),
            ("SPIFFE://td/a", Scheme),
            (" spiffe://td/a", Scheme),
            ("spiffe:///a", TrustDomain),
            ("spiffe://TD/a", TrustDomain),
            ("spiffe://td:8443/a", TrustDomain),
            ("spiffe://user@td/a", TrustDomain),
            ("spiffe://td", Path),
            ("spiffe://td/", Path),
            ("spiffe://td/a/", Path),
            ("spiffe://td//a", Path),
            ("spiffe://td/./a", Path),
            ("spiffe://td/../a", Path),
            ("spiffe://td/a%2fb", Path),
            ("spiffe://td/a?b", Path),
            ("spiffe://td/a#b", Path),
            ("spiffe://td/a b", Path),
            ("spiffe://td/a\0", Path),
            ("spiffe://td/a\n", Path),
            ("spiffe://td/\u{e4}", Path),
            (&long, Length),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn names_keep_to_the_contract() {
        for good in ["a", "0", "research", "a-b_c.d", &"a".repeat(63)] {
            assert!(PrincipalName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "_a",
            ".a",
            "A",
            "a/b",
            "a b",
            "a\n",
            "\u{e4}",
            &"a".repeat(64),
        ] {
            assert_eq!(PrincipalName::parse(bad), Err(SpiffeError::Name), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_to_itself_or_not_at_all(text in ".{0,60}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), text);
            }
        }

        #[test]
        fn near_ids_split_and_join(text in "spiffe://[a-zA-Z.%_-]{0,6}(/[a-zA-Z0-9.%_-]{0,4}){0,3}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                let domain = TrustDomain::parse(id.trust_domain()).expect("part of an ID");
                prop_assert_eq!(format!("{}{}", domain.uri(), id.path()), text);
                let plain = id.path().split('/').skip(1).all(|s| !matches!(s, "" | "." | ".."));
                prop_assert!(plain && !id.path().is_empty());
                prop_assert!(!id.as_str().contains('%'));
            }
        }

        #[test]
        fn a_name_survives_its_id(domain in "[a-z0-9._-]{1,20}", name in "[a-z0-9][a-z0-9._-]{0,62}") {
            let domain = TrustDomain::parse(&domain).expect("a trust domain");
            let name = PrincipalName::parse(&name).expect("a name");
            for (id, kind) in [
                (SpiffeId::agent(&domain, &name), SpiffeKind::Agent(name.clone())),
                (SpiffeId::user(&domain, &name), SpiffeKind::User(name.clone())),
            ] {
                prop_assert_eq!(SpiffeId::parse(id.as_str()), Ok(id.clone()));
                prop_assert_eq!(id.kind(), kind);
                prop_assert!(id.is_in(&domain));
            }
        }
    }
}
