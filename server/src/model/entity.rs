//! Stored entities as plain data: what policies know of the world beside the registry.

use super::arguments::Arguments;
use super::request::EntityUid;

/// An entity with its content. The two texts are canonical: JSON objects without blanks,
/// keys in byte order, sets sorted and without doubles, decimals as strings, and nothing
/// in them that the schema it was put under does not declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntity {
    /// Its type and id.
    pub uid: EntityUid,
    /// What it is in, directly; sorted, without doubles.
    pub parents: Vec<EntityUid>,
    /// Its attributes, a JSON object.
    pub attributes: String,
    /// Its tags, a JSON object.
    pub tags: String,
}

/// An entity as a caller gives it: JSON, not yet read by a schema.
#[derive(Clone, Debug)]
pub struct GivenEntity {
    /// Its type and id.
    pub uid: EntityUid,
    /// What it is in, directly.
    pub parents: Vec<EntityUid>,
    /// Its attributes.
    pub attributes: Arguments,
    /// Its tags.
    pub tags: Arguments,
}

/// One version of an entity as the change feed brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityVersion {
    /// It is new or changed.
    Put(StoredEntity),
    /// It is deleted.
    Deleted(EntityUid),
}

impl EntityVersion {
    /// Whose version it is.
    pub fn uid(&self) -> &EntityUid {
        match self {
            Self::Put(entity) => &entity.uid,
            Self::Deleted(uid) => uid,
        }
    }
}

/// The place of a version in the feed: its epoch, then type and id, byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityCursor {
    /// The epoch of the version.
    pub epoch: u64,
    /// Whose version it is.
    pub uid: EntityUid,
}

/// A page of the feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntityPage {
    /// Versions in the order of the feed.
    pub versions: Vec<EntityVersion>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<EntityCursor>,
}

impl StoredEntity {
    /// The line of canonical JSON that stands for it in the digest of a change.
    pub fn digest_line(&self) -> String {
        let text = |s: &str| serde_json::Value::from(s).to_string();
        let uid = |uid: &EntityUid| {
            let (id, ty) = (text(&uid.id), text(&uid.ty));
            format!("{{\"id\":{id},\"type\":{ty}}}")
        };
        let parents: Vec<String> = self.parents.iter().map(uid).collect();
        format!(
            "{{\"attributes\":{},\"id\":{},\"parents\":[{}],\"tags\":{},\"type\":{}}}\n",
            self.attributes,
            text(&self.uid.id),
            parents.join(","),
            self.tags,
            text(&self.uid.ty),
        )
    }
}
