//! The world of a test file: who is registered, and what is stored.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr as _;
use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::case::At;
use super::file::{EntityText, PrincipalText, TestFile};
use crate::model::arguments::Arguments;
use crate::model::{
    EntityUid, EntityVersion, GivenEntity, Party, Principal, PrincipalKind, Standing,
};
use crate::policy::compile::Compiled;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::entities::EntityMap;
use crate::policy::evaluate::Parties;

/// The agents and users of a test file.
#[derive(Debug, Default)]
pub(super) struct Registry(HashMap<(&'static str, String), Principal>);

impl Registry {
    /// Of these.
    pub(super) fn of<'p>(principals: impl Iterator<Item = &'p Principal>) -> Self {
        let keyed = principals.map(|p| ((p.kind.cedar_type(), p.id.clone()), p.clone()));
        Self(keyed.collect())
    }
}

/// As the registry of a server: it knows agents and users, and of users names and roles.
impl Parties for Registry {
    fn party(&self, ty: &str, id: &str) -> Option<Party> {
        let kinds = [PrincipalKind::Agent, PrincipalKind::User];
        let kind = kinds.into_iter().find(|kind| kind.cedar_type() == ty)?;
        let found = self.0.get(&(kind.cedar_type(), id.to_owned()))?;
        let agent = kind == PrincipalKind::Agent;
        Some(Party {
            name: found.name.clone(),
            owner: agent.then(|| found.owner.clone()),
            zone: agent.then(|| found.zone.clone()),
            attributes: match agent {
                true => Arc::clone(&found.attributes),
                false => Arc::default(),
            },
            roles: found.roles.clone(),
        })
    }
}

/// What the cases of a file can name.
pub(super) struct World<'c> {
    compiled: &'c Compiled,
    pub(super) principals: BTreeMap<String, Principal>,
    pub(super) entities: BTreeMap<String, GivenEntity>,
    pub(super) registry: Arc<Registry>,
    /// All entities of the file, stored.
    all: EntityMap,
    /// Stored ones by the names of those that are not.
    without: HashMap<Vec<String>, EntityMap>,
}

impl<'c> World<'c> {
    /// Reads the fixtures of a file.
    ///
    /// # Errors
    /// All that are no good, each with its place.
    pub(super) fn new(
        compiled: &'c Compiled,
        file: &TestFile,
        at: &At,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let mut principals = BTreeMap::new();
        for (name, text) in &file.principals {
            match principal(&text.value) {
                Ok(principal) => {
                    principals.insert(name.clone(), principal);
                }
                Err(why) => errors.push(at.of(text).wrong(format!("`{name}`: {why}"), "")),
            }
        }
        let mut entities = BTreeMap::new();
        for (name, text) in &file.entities {
            let at = at.of(text);
            let mut wrong = |why| errors.push(at.wrong(format!("`{name}`: {why}"), ""));
            match entity(&text.value) {
                Ok(given) => {
                    let types = compiled.entity_types();
                    // Alone, so that what is wrong has its own place. A request may bring
                    // what cannot be stored no more than what does not fit.
                    match EntityMap::default().put(types, std::slice::from_ref(&given)) {
                        Ok(_) => drop(entities.insert(name.clone(), given)),
                        Err(why) => wrong(why.to_string()),
                    }
                }
                Err(why) => wrong(why),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let given: Vec<GivenEntity> = entities.values().cloned().collect();
        let all = stored(compiled, &given)
            .map_err(|why| vec![at.wrong(format!("the entities of the file: {why}"), "")])?;
        Ok(Self {
            compiled,
            registry: Arc::new(Registry::of(principals.values())),
            principals,
            entities,
            all,
            without: HashMap::new(),
        })
    }

    /// The stored entities without some, by their sorted names.
    ///
    /// # Errors
    /// A defect.
    pub(super) fn stored_without(&mut self, names: Vec<String>) -> Result<EntityMap, String> {
        if names.is_empty() {
            return Ok(self.all.clone());
        }
        if let Some(known) = self.without.get(&names) {
            return Ok(known.clone());
        }
        let gone = names.iter().filter_map(|name| self.entities.get(name));
        let gone: Vec<_> = gone
            .map(|entity| EntityVersion::Deleted(entity.uid.clone()))
            .collect();
        let types = self.compiled.entity_types();
        let map = self.all.with(types, &gone).map_err(|e| e.to_string())?;
        self.without.insert(names, map.clone());
        Ok(map)
    }
}

/// Entities as a server stores them.
///
/// # Errors
/// What does not fit the schema, or a cycle.
pub(super) fn stored(compiled: &Compiled, given: &[GivenEntity]) -> Result<EntityMap, String> {
    let types = compiled.entity_types();
    let empty = EntityMap::default();
    let put = empty.put(types, given).map_err(|e| e.to_string())?;
    let versions: Vec<_> = put.into_iter().map(EntityVersion::Put).collect();
    empty.with(types, &versions).map_err(|e| e.to_string())
}

/// Somebody who may act.
pub(super) fn active(kind: PrincipalKind, id: &str, name: Option<&str>) -> Principal {
    let last = id.rsplit(['/', '#']).next().unwrap_or_default();
    Principal {
        kind,
        id: id.to_owned(),
        name: name.unwrap_or(last).to_owned(),
        roles: Vec::new(),
        owner: String::new(),
        zone: String::new(),
        attributes: Arc::default(),
        state: Standing::Active,
        instance: None::<Uuid>,
    }
}

fn principal(text: &PrincipalText) -> Result<Principal, String> {
    let (kind, id) = match (&text.agent, &text.user, &text.workload) {
        (Some(id), None, None) => (PrincipalKind::Agent, id),
        (None, Some(id), None) => (PrincipalKind::User, id),
        (None, None, Some(id)) => (PrincipalKind::Workload, id),
        _ => return Err("give exactly one of `agent`, `user` and `workload`, with its id".into()),
    };
    let of_agents = !text.owner.is_empty() || !text.zone.is_empty();
    if kind != PrincipalKind::Agent && of_agents {
        return Err("only an agent has `owner` and `zone`".to_owned());
    }
    Ok(Principal {
        roles: text.roles.clone(),
        owner: text.owner.clone(),
        zone: text.zone.clone(),
        attributes: Arc::new(text.attributes.clone()),
        ..active(kind, id, text.name.as_deref())
    })
}

fn entity(text: &EntityText) -> Result<GivenEntity, String> {
    let parents: Result<Vec<EntityUid>, String> = text.parents.iter().map(|p| uid(p)).collect();
    Ok(GivenEntity {
        uid: uid(&text.uid)?,
        parents: parents?,
        attributes: object(&text.attributes).map_err(|e| format!("attributes: {e}"))?,
        tags: object(&text.tags).map_err(|e| format!("tags: {e}"))?,
    })
}

/// An object as a caller would send it.
///
/// # Errors
/// As [`Arguments::parse`].
pub(super) fn object(fields: &Map<String, Value>) -> Result<Arguments, String> {
    Arguments::parse(Value::Object(fields.clone()).to_string().as_bytes())
}

/// A reference as Cedar writes it.
///
/// # Errors
/// A sentence with the text.
pub(super) fn uid(text: &str) -> Result<EntityUid, String> {
    let uid = cedar_policy::EntityUid::from_str(text)
        .map_err(|_| format!("`{text}` is no entity; write it as in Cedar: Type::\"id\""))?;
    let id: &str = uid.id().as_ref();
    Ok(EntityUid::new(uid.type_name().to_string(), id))
}
