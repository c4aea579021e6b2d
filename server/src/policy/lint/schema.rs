//! What a schema declares and nobody uses. Of the user's own namespaces; looked at whole,
//! and over when each is found used.

use std::collections::{BTreeSet, HashSet};

use cedar_policy_core::ast::{ActionConstraint, EntityType, EntityUID};
use cedar_policy_core::validator::ValidatorSchema;
use cedar_policy_core::validator::types::{EntityKind, Type};

use crate::model::request::NAMESPACE;
use crate::policy::compile::Compiled;
use crate::policy::diagnostic::Diagnostic;

pub(super) fn lint(set: &Compiled) -> Vec<Diagnostic> {
    if set.source().schemas.is_empty() {
        return Vec::new();
    }
    let schema: &ValidatorSchema = set.vocabulary.schema.as_ref();
    let mut found = unused_actions(set);
    found.extend(unused_types(set, schema));
    found
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(NAMESPACE)
        .is_some_and(|rest| rest.starts_with("::"))
}

/// Actions that no permit can be about: asked for, they are always denied.
fn unused_actions(set: &Compiled) -> Vec<Diagnostic> {
    let actions = set.vocabulary.actions.iter();
    let mut open: Vec<_> = actions.filter(|(uid, _)| !is_ours(&uid.ty)).collect();
    for (_, _, entry) in set.placed() {
        if open.is_empty() {
            break;
        }
        if entry.forbids() {
            continue;
        }
        match entry.policy.action_constraint() {
            ActionConstraint::Any => open.clear(),
            ActionConstraint::Eq(uid) => open.retain(|(_, info)| info.uid != *uid),
            ActionConstraint::In(list) => open.retain(|(_, info)| {
                let within = |uid: &EntityUID| list.iter().any(|group| **group == *uid);
                !within(&info.uid) && !info.ancestors.iter().any(within)
            }),
        }
    }
    let mut names: Vec<_> = open.into_iter().map(|(uid, _)| uid).collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|uid| {
            let message = format!("no policy permits {uid}: whoever asks for it is denied");
            declared(
                set,
                "unused_action",
                message,
                "action",
                &uid.id,
                "permit it, or do not declare it",
            )
        })
        .collect()
}

/// Entity types that no request and no policy's look at one can come to.
fn unused_types(set: &Compiled, schema: &ValidatorSchema) -> Vec<Diagnostic> {
    let mut used: HashSet<EntityType> = HashSet::new();
    let mut open: Vec<EntityType> = Vec::new();
    for action in schema.action_ids() {
        open.extend(action.applies_to_principals().cloned());
        open.extend(action.applies_to_resources().cloned());
        if let Some(context) = action.context() {
            references(context, &mut open);
        }
    }
    while let Some(ty) = open.pop() {
        if !used.insert(ty.clone()) {
            continue;
        }
        open.extend(schema.ancestors(&ty).into_iter().flatten().cloned());
        let Some(declared) = schema.get_entity_type(&ty) else {
            continue;
        };
        for (_, attribute) in declared.attributes().iter() {
            references(&attribute.attr_type, &mut open);
        }
        if let Some(tags) = declared.tag_type() {
            references(tags, &mut open);
        }
    }
    let all: BTreeSet<String> = schema
        .entity_types()
        .filter(|ty| !used.contains(ty.name()))
        .map(|ty| ty.name().to_string())
        .filter(|name| !is_ours(name))
        .collect();
    all.into_iter()
        .map(|name| {
            let base = name.rsplit("::").next().unwrap_or_default();
            let message = format!(
                "the entity type `{name}` is used by no action and by no type that one uses"
            );
            declared(
                set,
                "unused_type",
                message,
                "entity",
                base,
                "use it, or do not declare it",
            )
        })
        .collect()
}

/// The entity types that a type refers to.
fn references(ty: &Type, found: &mut Vec<EntityType>) {
    match ty {
        Type::Entity(EntityKind::Entity(lub)) => found.extend(lub.get_single_entity().cloned()),
        Type::Set {
            element_type: Some(element),
        } => references(element, found),
        Type::Record { attrs, .. } => {
            let attributes = attrs.iter();
            attributes.for_each(|(_, attribute)| references(&attribute.attr_type, found));
        }
        _ => {}
    }
}

/// A lint about a declaration, at the line that it stands in as far as the text tells.
fn declared(
    set: &Compiled,
    lint: &str,
    message: String,
    keyword: &str,
    name: &str,
    help: &str,
) -> Diagnostic {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let declares = |line: &str| {
        let rest = line.trim_start().strip_prefix(keyword);
        let rest = rest.filter(|rest| rest.starts_with(char::is_whitespace));
        // The names stand before what they are in, apply to, or consist of.
        let names = rest.and_then(|rest| rest.split(['=', '{', '[', ';']).next());
        let words = names
            .into_iter()
            .flat_map(|names| names.split(|c| !is_word(c)));
        let mut words = words.take_while(|word| *word != "in" && *word != "appliesTo");
        words.any(|word| word == name)
    };
    let place = set.source().schemas.iter().find_map(|file| {
        let line = file.text().lines().position(declares)?;
        Some((
            file.name.clone(),
            u32::try_from(line + 1).unwrap_or(u32::MAX),
        ))
    });
    let (file, line) = place.unwrap_or_default();
    Diagnostic {
        file,
        line,
        message,
        help: help.to_owned(),
        lint: lint.to_owned(),
        ..Diagnostic::default()
    }
}
