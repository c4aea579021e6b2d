//! The schema in force and all that follows from it alone: what each action takes, which
//! tools are declared. Kept by the digest of its files: a change of policies does not
//! touch it.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{Schema, SchemaFragment};
use cedar_policy_core::ast::{Eid, Entity, EntityType, EntityUID};
use cedar_policy_core::entities::{Dereference, Entities};
use cedar_policy_core::validator::Validator;
use miette::Diagnostic as _;

use super::actions::{ActionInfo, actions, tools};
use super::declarations::within_limits;
use super::diagnostic::{Diagnostic, located, plain};
use super::entities::EntityTypes;
use super::shape::SchemaJson;
use super::source::BUILTIN_SCHEMA;
use crate::model::request::NAMESPACE;
use crate::model::{EntityUid, SourceFile};

/// What policies can speak of.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// The files that it was made of: names and digests.
    files: Vec<(String, [u8; 32])>,
    pub(super) schema: Schema,
    pub(super) validator: Validator,
    pub(super) actions: HashMap<EntityUid, ActionInfo>,
    /// The schema's actions with all that they are in.
    action_entities: Entities,
    /// The entity types by name: to parse a name takes longer than to decide.
    pub(super) types: HashMap<String, EntityType>,
    /// A declared tool's id to its own action.
    pub(super) tools: HashMap<String, EntityUid>,
    /// What is declared of entities that can be stored.
    pub(super) entity_types: Arc<EntityTypes>,
}

impl Vocabulary {
    /// Reads the schema files, beside the built-in one.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(super) fn new(files: &[SourceFile]) -> Result<Self, Vec<Diagnostic>> {
        let (schema, json) = parse(files)?;
        let actions = actions(&schema, &json)?;
        let tools = tools(&actions)?;
        Ok(Self {
            files: key(files),
            entity_types: Arc::new(EntityTypes::new(&schema, json.namespaces())),
            types: schema
                .as_ref()
                .entity_type_names()
                .map(|ty| (ty.to_string(), ty.clone()))
                .collect(),
            action_entities: schema
                .action_entities()
                .map_err(|e| vec![plain(e.to_string(), "")])?
                .as_ref()
                .clone(),
            validator: Validator::new(schema.as_ref().clone()),
            schema,
            actions,
            tools,
        })
    }

    /// Our reference to an entity as Cedar's. The id is taken as it is.
    ///
    /// # Errors
    /// When the type is no Cedar name.
    pub(super) fn uid(&self, ty: &str, id: &str) -> Result<EntityUID, String> {
        let ty = match self.types.get(ty) {
            Some(known) => known.clone(),
            None => ty
                .parse()
                .map_err(|e| format!("`{ty}` is no entity type: {e}"))?,
        };
        Ok(EntityUID::from_components(ty, Eid::new(id), None))
    }

    /// An action of the schema as an entity.
    pub(super) fn action_entity(&self, uid: &EntityUID) -> Option<Arc<Entity>> {
        match self.action_entities.entity(uid) {
            Dereference::Data(entity) => Some(Arc::new(entity.clone())),
            _ => None,
        }
    }

    /// Whether it is the one of these files.
    pub(super) fn is_of(&self, files: &[SourceFile]) -> bool {
        self.files == key(files)
    }
}

fn key(files: &[SourceFile]) -> Vec<(String, [u8; 32])> {
    let key = |file: &SourceFile| (file.name.clone(), *file.sha256());
    files.iter().map(key).collect()
}

fn parse(files: &[SourceFile]) -> Result<(Schema, SchemaJson), Vec<Diagnostic>> {
    let builtin = SourceFile::new("(built in)", BUILTIN_SCHEMA);
    let mut fragments = Vec::new();
    let mut json = Vec::new();
    let mut errors = Vec::new();
    for (i, file) in std::iter::once(&builtin).chain(files).enumerate() {
        match SchemaFragment::from_cedarschema_str(file.text()) {
            Ok((fragment, _)) => {
                let reserved = fragment.namespaces().flatten().any(|n| {
                    let name = n.to_string();
                    name == NAMESPACE || name.starts_with("ZTA::")
                });
                if i > 0 && reserved {
                    errors.push(Diagnostic {
                        file: file.name.clone(),
                        message: "the namespace `ZTA` is built in and cannot be declared".into(),
                        help: "declare your types in a namespace of your own".into(),
                        ..Diagnostic::default()
                    });
                }
                match fragment.clone().to_json_value() {
                    Ok(value) => json.push(value),
                    Err(e) => errors.push(located(file, &e)),
                }
                fragments.push(fragment);
            }
            Err(e) => errors.push(located(file, &e)),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    within_limits(&json)
        .map_err(|why| vec![plain(why, "declare less, or less within each other")])?;
    let schema = Schema::from_schema_fragments(fragments).map_err(|e| {
        vec![plain(
            e.to_string(),
            &e.help().map(|h| h.to_string()).unwrap_or_default(),
        )]
    })?;
    Ok((schema, SchemaJson::new(json)))
}
