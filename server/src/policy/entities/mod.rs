//! Entities that policies can look at beside the registry (PIP): stored ones, in a
//! persistent map, and those that a request may bring. Pure: the store is elsewhere.
//!
//! | file | what |
//! |---|---|
//! | `types` | what a schema declares of them |
//! | `value` | JSON to typed contents and back, by the declared type |
//! | `packed` | few bytes for each |
//! | this | the map, and what may be put into it |
//! | `slice` | what one request can reach, as Cedar's entities |

mod packed;
mod slice;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{Entity, EntityType};

use self::packed::{Names, Packed, Unpacked, pack};
pub use self::slice::SliceError;
pub use self::types::EntityTypes;
use self::types::is_reserved;
use self::value::{clip, json, parse_stored, record, tags};
use super::limits::{ANCESTORS_MAX, ENTITIES_MAX, ENTITY_BYTES_MAX, ENTITY_PARENTS_MAX};
use super::sharded::Sharded;
use crate::model::arguments::{Arguments, Json};
use crate::model::{EntityUid, EntityVersion, GivenEntity, StoredEntity};

/// Why entities cannot be put, or cannot come with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntityError {
    /// Entities of that type belong to the server, or cannot come with a request.
    #[error("{0}")]
    Reserved(String),
    /// One does not fit the schema in force, or the hierarchy would have a cycle.
    #[error("{0}")]
    Invalid(String),
    /// A request brings an entity that is stored.
    #[error("the entity {0} is stored; a request cannot bring another one in its place")]
    Stored(EntityUid),
    /// A documented limit is exceeded.
    #[error("{name}: {size}, at most {max} are allowed")]
    Limit {
        /// The limit.
        name: &'static str,
        /// What was given.
        size: usize,
        /// What is allowed.
        max: usize,
    },
}

/// Entities of one type, by id.
type OfType = Arc<Sharded<Packed, ()>>;

/// Stored entities. Immutable for its readers: a change makes another map that shares
/// what did not change.
#[derive(Clone, Default)]
pub struct EntityMap {
    names: Arc<Names>,
    /// By the number of their type.
    types: Vec<Option<OfType>>,
    len: usize,
}

impl std::fmt::Debug for EntityMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EntityMap({} entities)", self.len)
    }
}

/// What cannot be packed or unpacked, which nothing that came this far ever is.
fn broken() -> EntityError {
    EntityError::Invalid("an entity has a type that is no type".to_owned())
}

impl EntityMap {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether an entity is stored.
    pub fn contains(&self, uid: &EntityUid) -> bool {
        let number = self.names.number_of(&uid.ty);
        number.is_some_and(|number| self.find(number, &uid.id).is_some())
    }

    /// An entity as it is stored.
    pub fn get(&self, uid: &EntityUid) -> Option<StoredEntity> {
        let packed = self.find(self.names.number_of(&uid.ty)?, &uid.id)?;
        Some(stored(uid.ty.clone(), packed.unpack(&self.names)?))
    }

    /// The ids of a type that come after `after`, in byte order, at most `limit`. Walks
    /// all of the type.
    pub fn ids(&self, ty: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let mut lowest: BinaryHeap<&str> = BinaryHeap::new();
        for id in self
            .iter(ty)
            .filter(|id| after.is_none_or(|after| *id > after))
        {
            if lowest.len() < limit {
                lowest.push(id);
            } else if let Some(mut highest) = lowest.peek_mut()
                && id < *highest
            {
                *highest = id;
            }
        }
        let sorted = lowest.into_sorted_vec();
        sorted.into_iter().map(str::to_owned).collect()
    }

    /// The ids of a type, in no order.
    pub fn iter(&self, ty: &str) -> impl Iterator<Item = &str> {
        let number = self.names.number_of(ty);
        let of_type = number.and_then(|number| self.of_type(number));
        let entries = of_type.map(|of_type| of_type.iter());
        entries
            .into_iter()
            .flatten()
            .map(|(packed, ())| packed.id())
    }

    fn of_type(&self, number: u32) -> Option<&OfType> {
        self.types.get(number as usize)?.as_ref()
    }

    fn find(&self, number: u32, id: &str) -> Option<&Packed> {
        let (packed, ()) = self.of_type(number)?.get_key_value(id)?;
        Some(packed)
    }

    fn insert(&mut self, ty: &str, packed: Packed) -> Result<(), EntityError> {
        let number = Names::add_type(&mut self.names, ty).ok_or_else(broken)? as usize;
        if self.types.len() <= number {
            self.types.resize(number + 1, None);
        }
        let of_type = self.types.get_mut(number).ok_or_else(broken)?;
        let of_type = Arc::make_mut(of_type.get_or_insert_default());
        // A key that is there would stay, and with it the old content.
        let known = of_type.remove(packed.id()).is_some();
        of_type.insert(packed, ());
        self.len += usize::from(!known);
        Ok(())
    }

    fn remove(&mut self, uid: &EntityUid) {
        let number = self.names.number_of(&uid.ty);
        let of_type = number.and_then(|n| self.types.get_mut(n as usize)?.as_mut());
        if let Some(of_type) = of_type
            && of_type.get(uid.id.as_str()).is_some()
        {
            Arc::make_mut(of_type).remove(uid.id.as_str());
            self.len -= 1;
        }
    }

    /// The map after these changes, whose texts are read by the schema in force.
    ///
    /// # Errors
    /// When a text does not fit: then the store does not hold what was put.
    pub fn with(
        &self,
        types: &EntityTypes,
        versions: &[EntityVersion],
    ) -> Result<Self, EntityError> {
        let mut next = self.clone();
        next.apply(types, versions)?;
        Ok(next)
    }

    /// As [`EntityMap::with`], in place.
    ///
    /// # Errors
    /// Likewise; the map is then good for nothing.
    pub fn apply(
        &mut self,
        types: &EntityTypes,
        versions: &[EntityVersion],
    ) -> Result<(), EntityError> {
        for version in versions {
            match version {
                EntityVersion::Put(entity) => {
                    let unpacked = read_stored(types, entity)?;
                    let packed = pack(&mut self.names, &unpacked).ok_or_else(broken)?;
                    self.insert(&entity.uid.ty, packed)?;
                }
                EntityVersion::Deleted(uid) => self.remove(uid),
            }
        }
        Ok(())
    }

    /// The map under another schema: entities of types that are declared otherwise than
    /// before are read again.
    ///
    /// # Errors
    /// The first ten entities that do not fit, each with what does not.
    pub fn under(&self, before: &EntityTypes, after: &EntityTypes) -> Result<Self, Vec<String>> {
        let mut next = self.clone();
        let mut misfits = Vec::new();
        for (number, of_type) in self.types.iter().enumerate() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let (Some(of_type), Some(ty)) = (of_type, self.names.type_text(number)) else {
                continue;
            };
            let same = match (before.declared(ty), after.declared(ty)) {
                (Ok(before), Ok(after)) => before == after,
                _ => false,
            };
            if same {
                continue;
            }
            for (packed, ()) in of_type.iter() {
                if let Err(why) = next.read_again(after, ty, packed) {
                    misfits.push(why);
                }
                if misfits.len() >= MISFITS_MAX {
                    return Err(misfits);
                }
            }
        }
        if misfits.is_empty() {
            Ok(next)
        } else {
            Err(misfits)
        }
    }

    fn read_again(&mut self, types: &EntityTypes, ty: &str, packed: &Packed) -> Result<(), String> {
        let unpacked = packed.unpack(&self.names).ok_or("cannot be unpacked")?;
        let entity = stored(ty.to_owned(), unpacked);
        let unpacked = read_stored(types, &entity).map_err(|e| e.to_string())?;
        let packed = pack(&mut self.names, &unpacked).ok_or("cannot be packed")?;
        self.insert(ty, packed).map_err(|e| e.to_string())
    }

    /// What putting these entities would change: those that are new or different,
    /// canonical, in the order of type and id.
    ///
    /// # Errors
    /// The first that cannot be put, by its place in the list.
    pub fn put(
        &self,
        types: &EntityTypes,
        given: &[GivenEntity],
    ) -> Result<Vec<StoredEntity>, EntityError> {
        let mut next = self.clone();
        let (mut changed, mut seen) = (Vec::new(), HashSet::new());
        for (n, entity) in given.iter().enumerate() {
            let at =
                |why: String| format!("entities[{n}] {}: {why}", clip(&entity.uid.to_string()));
            let located = |error| match error {
                EntityError::Reserved(why) => EntityError::Reserved(at(why)),
                EntityError::Invalid(why) => EntityError::Invalid(at(why)),
                other @ (EntityError::Limit { .. } | EntityError::Stored(_)) => other,
            };
            if !seen.insert(&entity.uid) {
                return Err(EntityError::Invalid(at(
                    "stands twice in the list".to_owned()
                )));
            }
            let unpacked = read_given(types, entity).map_err(located)?;
            let packed = pack(&mut next.names, &unpacked).ok_or_else(broken)?;
            let number = next.names.number_of(&entity.uid.ty);
            let old = number.and_then(|number| self.find(number, &entity.uid.id));
            if old.is_none_or(|old| old.bytes() != packed.bytes()) {
                next.insert(&entity.uid.ty, packed)?;
                changed.push((n, stored(entity.uid.ty.clone(), unpacked)));
            }
        }
        if next.len > ENTITIES_MAX {
            let (name, max) = ("entities_max", ENTITIES_MAX);
            let size = next.len;
            return Err(EntityError::Limit { name, size, max });
        }
        for (n, entity) in &changed {
            let at = |why| format!("entities[{n}] {}: {why}", clip(&entity.uid.to_string()));
            next.acyclic(&entity.uid)
                .map_err(|why| EntityError::Invalid(at(why)))?;
        }
        let mut changed: Vec<_> = changed.into_iter().map(|(_, entity)| entity).collect();
        changed.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
        Ok(changed)
    }

    /// Which of these are stored, each once, in the order of type and id.
    pub fn stored_of(&self, uids: &[EntityUid]) -> Vec<EntityUid> {
        let mut found: Vec<_> = uids
            .iter()
            .filter(|uid| self.contains(uid))
            .cloned()
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Refuses an entity that is in itself, or in more than a request may reach. A cycle
    /// that a put makes runs through one of the entities that it changes.
    fn acyclic(&self, uid: &EntityUid) -> Result<(), String> {
        let Some(ty) = self.names.number_of(&uid.ty) else {
            return Ok(());
        };
        let mut seen: HashSet<(u32, &str)> = HashSet::new();
        let mut next: Vec<(u32, &str)> = vec![(ty, &uid.id)];
        while let Some((number, id)) = next.pop() {
            let parents = self.find(number, id).map(Packed::parents);
            for above in parents.into_iter().flatten() {
                if above == (ty, uid.id.as_str()) {
                    return Err("is in itself, directly or through others".to_owned());
                }
                if seen.insert(above) {
                    next.push(above);
                }
                if seen.len() > ANCESTORS_MAX {
                    return Err(format!("is in more than {ANCESTORS_MAX} others"));
                }
            }
        }
        Ok(())
    }
}

/// Misfits of one refusal.
const MISFITS_MAX: usize = 10;

fn stored(ty: String, unpacked: Unpacked) -> StoredEntity {
    let parents = unpacked.parents.into_iter();
    StoredEntity {
        attributes: json(&unpacked.attributes),
        tags: json(&unpacked.tags),
        parents: parents.map(|(ty, id)| EntityUid::new(&*ty, id)).collect(),
        uid: EntityUid::new(ty, unpacked.id),
    }
}

fn read_stored(types: &EntityTypes, entity: &StoredEntity) -> Result<Unpacked, EntityError> {
    let read = || {
        let attributes = parse_stored(&entity.attributes)?;
        let tags = parse_stored(&entity.tags)?;
        read(types, &entity.uid, &entity.parents, attributes, tags)
    };
    read().map_err(|why| EntityError::Invalid(format!("{}: {why}", entity.uid)))
}

fn read_given(types: &EntityTypes, given: &GivenEntity) -> Result<Unpacked, EntityError> {
    let ty = &given.uid.ty;
    if is_reserved(ty) {
        let why = format!("entities of type `{}` belong to the server", clip(ty));
        return Err(EntityError::Reserved(why));
    }
    if given.parents.len() > ENTITY_PARENTS_MAX {
        return Err(EntityError::Limit {
            name: "entity_parents_max",
            size: given.parents.len(),
            max: ENTITY_PARENTS_MAX,
        });
    }
    let fields = |json: &Arguments| -> Vec<(String, Json)> { json.fields().to_vec() };
    let (attributes, tags) = (fields(&given.attributes), fields(&given.tags));
    let unpacked =
        read(types, &given.uid, &given.parents, attributes, tags).map_err(EntityError::Invalid)?;
    let size = json(&unpacked.attributes).len() + json(&unpacked.tags).len();
    if size > ENTITY_BYTES_MAX {
        return Err(EntityError::Limit {
            name: "entity_bytes_max",
            size,
            max: ENTITY_BYTES_MAX,
        });
    }
    Ok(unpacked)
}

/// Reads an entity by the schema.
fn read(
    types: &EntityTypes,
    uid: &EntityUid,
    parents: &[EntityUid],
    attributes: Vec<(String, Json)>,
    given_tags: Vec<(String, Json)>,
) -> Result<Unpacked, String> {
    let declared = types.declared(&uid.ty)?;
    declared.own.admit(&uid.id)?;
    let mut above = Vec::with_capacity(parents.len());
    for parent in parents {
        let Some(target) = declared.parents.get(parent.ty.as_str()) else {
            let (ty, of) = (clip(&parent.ty), &uid.ty);
            return Err(format!("`parents`: `{of}` is not declared to be in `{ty}`"));
        };
        let refused = |why| format!("`parents`: {} {why}", clip(&parent.to_string()));
        target.admit(&parent.id).map_err(refused)?;
        above.push((Arc::clone(&target.name), parent.id.clone()));
    }
    above.sort_unstable();
    above.dedup();
    Ok(Unpacked {
        id: uid.id.clone(),
        parents: above,
        attributes: record(attributes, &declared.attributes, "attributes")?,
        tags: tags(given_tags, declared.tags.as_ref())?,
    })
}

impl EntityTypes {
    /// An entity that a request brings, as Cedar's own. Whether one of that uid is stored
    /// is for the caller to ask.
    ///
    /// # Errors
    /// A type that the schema does not mark as suppliable, or a content that does not fit.
    pub(in crate::policy) fn request_entity(
        &self,
        given: &GivenEntity,
    ) -> Result<Entity, EntityError> {
        let ty = &given.uid.ty;
        if !self.suppliable().contains(ty) {
            let why = format!("a request cannot bring entities of type `{}`", clip(ty));
            return Err(EntityError::Reserved(why));
        }
        let unpacked = read_given(self, given)?;
        let mut names = Arc::default();
        let packed = pack(&mut names, &unpacked).ok_or_else(broken)?;
        let ty: EntityType = ty.parse().map_err(|_| broken())?;
        packed
            .entity(&names, &ty, &mut Vec::new())
            .ok_or_else(broken)
    }
}
