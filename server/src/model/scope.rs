//! What a delegation is good for: entries that name an action, or an action on one resource.

/// One entry of a scope, as `action` or `action:resource`.
///
/// It reads in one way or in none. An action of a namespace of its own is named whole, as
/// `Shop::Action::refund`. The name of an action has no colon: everything behind its first one
/// is the resource, which may have some. So an action whose own id has a colon is in no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeEntry<'a> {
    /// The action: its id or, of another namespace than `ZTA`, its type and id.
    pub action: &'a str,
    /// The id of the one resource; `None`: each one.
    pub resource: Option<&'a str>,
}

impl<'a> ScopeEntry<'a> {
    /// What an entry says; `None` where the action or the resource is empty.
    pub fn parse(entry: &'a str) -> Option<Self> {
        let id_at = type_len(entry);
        let (id, resource) = match entry[id_at..].split_once(':') {
            Some((id, resource)) => (id, Some(resource)),
            None => (&entry[id_at..], None),
        };
        let says = !id.is_empty() && resource != Some("");
        says.then(|| Self {
            action: &entry[..id_at + id.len()],
            resource,
        })
    }

    /// Whether whatever the other one covers is covered by this one.
    pub fn covers(&self, other: &ScopeEntry<'_>) -> bool {
        let is_wide = self.resource.is_none() || self.resource == other.resource;
        self.action == other.action && is_wide
    }
}

/// Bytes of the type that an entry begins with, such as `Shop::Action::`; 0 where it begins
/// with an id.
fn type_len(entry: &str) -> usize {
    let mut at = 0;
    while let Some((name, _)) = entry[at..].split_once("::") {
        if !is_identifier(name) {
            return 0;
        }
        at += name.len() + 2;
        if name == "Action" {
            return at;
        }
    }
    0
}

fn is_identifier(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(fits) && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_reads_in_one_way() {
        for (entry, action, resource) in [
            ("read", "read", None),
            ("read:a", "read", Some("a")),
            ("read:a:b", "read", Some("a:b")),
            ("read:a::b", "read", Some("a::b")),
            ("read::a", "read", Some(":a")),
            ("call_tool:mcp/web", "call_tool", Some("mcp/web")),
            ("Shop::Action::refund", "Shop::Action::refund", None),
            (
                "Shop::Action::refund:7:x",
                "Shop::Action::refund",
                Some("7:x"),
            ),
            ("A::B::Action::c:d", "A::B::Action::c", Some("d")),
            ("Action::c:d", "Action::c", Some("d")),
            // No type: `read:a` is no name of one.
            ("read:a::Action::b", "read", Some("a::Action::b")),
            ("Shop::refund", "Shop", Some(":refund")),
        ] {
            let parsed = ScopeEntry::parse(entry).expect(entry);
            assert_eq!(
                (parsed.action, parsed.resource),
                (action, resource),
                "{entry}"
            );
        }
        for entry in ["", ":", ":a", "read:", "Shop::Action::", "Shop::Action:::a"] {
            assert_eq!(ScopeEntry::parse(entry), None, "{entry}");
        }
    }

    proptest! {
        /// What is said of an action without a colon and a resource is read as just that.
        #[test]
        fn what_is_written_is_what_is_read(
            space in prop::sample::select(vec!["", "Shop::Action::", "A::B::Action::"]),
            id in "[a-z_/.]{1,6}",
            resource in prop::option::of("[a-z:/]{1,8}"),
        ) {
            let action = format!("{space}{id}");
            let entry = match &resource {
                Some(resource) => format!("{action}:{resource}"),
                None => action.clone(),
            };
            let parsed = ScopeEntry::parse(&entry).expect("says something");
            prop_assert_eq!(parsed.action, &*action);
            prop_assert_eq!(parsed.resource, resource.as_deref());
        }
    }
}
