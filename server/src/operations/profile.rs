//! What an administrator says of an agent: the fields of it, each with its bounds.

use serde_json::{Map, Value, json};

use super::{OperationError, text_field};
use crate::identity::spiffe::PrincipalName;
use crate::model::AgentProfile;

/// Roles of one agent.
const ROLES_MAX: usize = 64;
/// Attributes of one agent.
const ATTRIBUTES_MAX: usize = 64;
/// Audiences of one agent.
const AUDIENCES_MAX: usize = 16;
/// Bytes of a value, an audience or a name for people.
const TEXT_BYTES_MAX: usize = 256;
/// Agents after one in a chain of delegations.
const DEPTH_MAX: u32 = 16;

/// A part of a profile that can be changed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProfileField {
    Owner,
    Roles,
    Zone,
    Attributes,
    Audiences,
    CertificateLifetime,
    TokenLifetime,
    DelegationDepth,
}

impl ProfileField {
    /// Each of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Owner,
        Self::Roles,
        Self::Zone,
        Self::Attributes,
        Self::Audiences,
        Self::CertificateLifetime,
        Self::TokenLifetime,
        Self::DelegationDepth,
    ];

    /// Its name on the wire and on record.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Roles => "roles",
            Self::Zone => "zone",
            Self::Attributes => "attributes",
            Self::Audiences => "audiences",
            Self::CertificateLifetime => "certificate_lifetime_max_s",
            Self::TokenLifetime => "token_lifetime_max_s",
            Self::DelegationDepth => "delegation_depth_max",
        }
    }

    /// The one of that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Takes this part over from another profile.
    pub(super) fn take(self, profile: &mut AgentProfile, from: &AgentProfile) {
        match self {
            Self::Owner => profile.owner.clone_from(&from.owner),
            Self::Roles => profile.roles.clone_from(&from.roles),
            Self::Zone => profile.zone.clone_from(&from.zone),
            Self::Attributes => profile.attributes.clone_from(&from.attributes),
            Self::Audiences => profile.audiences.clone_from(&from.audiences),
            Self::CertificateLifetime => {
                profile.certificate_lifetime_max_s = from.certificate_lifetime_max_s;
            }
            Self::TokenLifetime => profile.token_lifetime_max_s = from.token_lifetime_max_s,
            Self::DelegationDepth => profile.delegation_depth_max = from.delegation_depth_max,
        }
    }

    fn value(self, profile: &AgentProfile) -> Value {
        match self {
            Self::Owner => json!(profile.owner),
            Self::Roles => json!(profile.roles),
            Self::Zone => json!(profile.zone),
            Self::Attributes => json!(*profile.attributes),
            Self::Audiences => json!(profile.audiences),
            Self::CertificateLifetime => json!(profile.certificate_lifetime_max_s),
            Self::TokenLifetime => json!(profile.token_lifetime_max_s),
            Self::DelegationDepth => json!(profile.delegation_depth_max),
        }
    }

    fn is_empty(self, profile: &AgentProfile) -> bool {
        let empty = AgentProfile::default();
        self.value(profile) == self.value(&empty)
    }
}

/// What the record says of these parts of a profile.
pub(super) fn told(profile: &AgentProfile, fields: &[ProfileField]) -> Map<String, Value> {
    let pair = |field: &ProfileField| (field.name().to_owned(), field.value(profile));
    fields.iter().map(pair).collect()
}

/// Those parts of a profile that say something, and the two that always stand on record.
pub(super) fn spoken(profile: &AgentProfile) -> Vec<ProfileField> {
    let says = |field: &ProfileField| {
        matches!(field, ProfileField::Owner | ProfileField::Roles) || !field.is_empty(profile)
    };
    ProfileField::ALL.into_iter().filter(says).collect()
}

/// A profile within its bounds.
///
/// # Errors
/// The first field that is not, with what would be right.
pub(super) fn bounded(profile: &AgentProfile) -> Result<(), OperationError> {
    text_field("owner", &profile.owner, TEXT_BYTES_MAX)?;
    at_most("roles", profile.roles.len(), ROLES_MAX)?;
    for role in &profile.roles {
        name("roles", role)?;
    }
    if !profile.zone.is_empty() {
        name("zone", &profile.zone)?;
    }
    at_most("attributes", profile.attributes.len(), ATTRIBUTES_MAX)?;
    for (key, value) in &*profile.attributes {
        name("attributes", key)?;
        text_field("attributes", value, TEXT_BYTES_MAX)?;
    }
    at_most("audiences", profile.audiences.len(), AUDIENCES_MAX)?;
    for audience in &profile.audiences {
        text_field("audiences", audience, TEXT_BYTES_MAX)?;
        if audience.is_empty() || audience.contains(char::is_whitespace) {
            return Err(field("audiences", "an audience has no blanks".to_owned()));
        }
    }
    let within = |field_name, value: Option<u32>, (min, max)| match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(field(field_name, format!("must be {min} to {max}")))
        }
        _ => Ok(()),
    };
    let certificates = profile.certificate_lifetime_max_s;
    within("certificate_lifetime_max_s", certificates, (2, 86_400))?;
    let tokens = profile.token_lifetime_max_s;
    within("token_lifetime_max_s", tokens, (10, 600))?;
    let depth = profile.delegation_depth_max;
    within("delegation_depth_max", depth, (0, DEPTH_MAX))
}

fn field(field: &'static str, why: String) -> OperationError {
    OperationError::Field { field, why }
}

fn at_most(name: &'static str, len: usize, max: usize) -> Result<(), OperationError> {
    match len <= max {
        true => Ok(()),
        false => Err(field(
            name,
            format!("{len} of them, at most {max} are allowed"),
        )),
    }
}

fn name(of: &'static str, text: &str) -> Result<(), OperationError> {
    PrincipalName::parse(text)
        .map(drop)
        .map_err(|e| field(of, e.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Arc<BTreeMap<String, String>> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Arc::new(pairs.iter().map(own).collect())
    }

    #[test]
    fn a_profile_is_bounded_in_each_field() {
        let text = "x".repeat(TEXT_BYTES_MAX);
        let full = AgentProfile {
            owner: text.clone(),
            roles: vec!["a-role".to_owned(); ROLES_MAX],
            zone: "lab.7".to_owned(),
            attributes: attributes(&[("level", &text), ("empty", "")]),
            audiences: vec!["https://api.example".to_owned(); AUDIENCES_MAX],
            certificate_lifetime_max_s: Some(86_400),
            token_lifetime_max_s: Some(10),
            delegation_depth_max: Some(0),
        };
        bounded(&full).expect("within its bounds");
        bounded(&AgentProfile::default()).expect("empty");
        let long = text + "x";
        let change = |change: &dyn Fn(&mut AgentProfile)| {
            let mut profile = full.clone();
            change(&mut profile);
            match bounded(&profile) {
                Err(OperationError::Field { field, .. }) => field,
                other => panic!("{other:?}: {profile:?}"),
            }
        };
        let many: Vec<String> = (0..=ATTRIBUTES_MAX).map(|n| format!("k{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
        type Wrong<'a> = (&'a str, &'a dyn Fn(&mut AgentProfile));
        let wrong: [Wrong<'_>; 16] = [
            ("owner", &|p| p.owner = "a\u{7}".to_owned()),
            ("owner", &|p| p.owner.clone_from(&long)),
            ("roles", &|p| p.roles.push("one-more".to_owned())),
            ("roles", &|p| p.roles[0] = "Not A Name".to_owned()),
            ("zone", &|p| p.zone = "no zone".to_owned()),
            ("attributes", &|p| p.attributes = attributes(&many)),
            ("attributes", &|p| p.attributes = attributes(&[("Key", "")])),
            ("attributes", &|p| {
                p.attributes = attributes(&[("key", &long)])
            }),
            ("audiences", &|p| p.audiences.push("x".to_owned())),
            ("audiences", &|p| p.audiences[0] = "a b".to_owned()),
            ("audiences", &|p| p.audiences[0].clear()),
            ("certificate_lifetime_max_s", &|p| {
                p.certificate_lifetime_max_s = Some(1)
            }),
            ("certificate_lifetime_max_s", &|p| {
                p.certificate_lifetime_max_s = Some(86_401)
            }),
            ("token_lifetime_max_s", &|p| {
                p.token_lifetime_max_s = Some(9)
            }),
            ("token_lifetime_max_s", &|p| {
                p.token_lifetime_max_s = Some(601)
            }),
            ("delegation_depth_max", &|p| {
                p.delegation_depth_max = Some(17)
            }),
        ];
        for (field, wrong) in wrong {
            assert_eq!(change(wrong), field);
        }
    }

    #[test]
    fn one_field_is_changed_and_no_other() {
        let other = AgentProfile {
            owner: "b".to_owned(),
            roles: vec!["r".to_owned()],
            zone: "z".to_owned(),
            attributes: attributes(&[("k", "v")]),
            audiences: vec!["a".to_owned()],
            certificate_lifetime_max_s: Some(60),
            token_lifetime_max_s: Some(60),
            delegation_depth_max: Some(1),
        };
        for field in ProfileField::ALL {
            assert_eq!(ProfileField::parse(field.name()), Some(field));
            let mut profile = AgentProfile::default();
            field.take(&mut profile, &other);
            let changed: Vec<_> = ProfileField::ALL
                .into_iter()
                .filter(|f| !f.is_empty(&profile))
                .collect();
            assert_eq!(changed, [field]);
        }
        assert_eq!(ProfileField::parse("state"), None);
    }
}
