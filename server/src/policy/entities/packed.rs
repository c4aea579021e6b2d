//! Entities in few bytes: one allocation each, with type and attribute names as numbers.
//! A million of Cedar's own would take 1.5 GB; these take some 150 MB and are unpacked
//! when a request reaches them.
//!
//! ```text
//! entity  = text(id) count {reference} count {name value} count {text(key) value}
//! reference = type text(id)
//! text    = length bytes          lengths, counts, types and names are varints
//! value   = kind …                kinds below; a Long is a zigzag varint
//! ```

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use cedar_policy_core::ast::{Eid, Entity, EntityType, EntityUID, Literal, PartialValue, Value};

use super::types::Extension;
use super::value::{Content, extension_value};

const FALSE: u8 = 0;
const TRUE: u8 = 1;
const LONG: u8 = 2;
const STRING: u8 = 3;
const ENTITY: u8 = 4;
const SET: u8 = 5;
const RECORD: u8 = 6;
/// And the number of the extension.
const EXTENSION: u8 = 16;

/// The names that packed entities refer to by number. Grows, never shrinks: schemas have
/// few names.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    types: Vec<(EntityType, Arc<str>)>,
    by_type: HashMap<EntityType, u32>,
    by_text: HashMap<Arc<str>, u32>,
    attributes: Vec<Arc<str>>,
    by_attribute: HashMap<Arc<str>, u32>,
}

impl Names {
    /// The number of a type, if any entity ever had it.
    pub(super) fn number(&self, ty: &EntityType) -> Option<u32> {
        self.by_type.get(ty).copied()
    }

    /// The same by its name.
    pub(super) fn number_of(&self, ty: &str) -> Option<u32> {
        self.by_text.get(ty).copied()
    }

    pub(super) fn entity_type(&self, number: u32) -> Option<&EntityType> {
        Some(&self.types.get(number as usize)?.0)
    }

    pub(super) fn type_text(&self, number: u32) -> Option<&Arc<str>> {
        Some(&self.types.get(number as usize)?.1)
    }

    fn attribute(&self, number: u32) -> Option<&Arc<str>> {
        self.attributes.get(number as usize)
    }

    /// The number of a type, a new one if need be; `None` for what is no type.
    pub(super) fn add_type(names: &mut Arc<Self>, ty: &str) -> Option<u32> {
        if let Some(number) = names.by_text.get(ty) {
            return Some(*number);
        }
        let parsed: EntityType = ty.parse().ok()?;
        let names = Arc::make_mut(names);
        let number = u32::try_from(names.types.len()).ok()?;
        let text: Arc<str> = ty.into();
        names.types.push((parsed.clone(), Arc::clone(&text)));
        names.by_type.insert(parsed, number);
        names.by_text.insert(text, number);
        Some(number)
    }

    fn add_attribute(names: &mut Arc<Self>, attribute: &str) -> Option<u32> {
        if let Some(number) = names.by_attribute.get(attribute) {
            return Some(*number);
        }
        let names = Arc::make_mut(names);
        let number = u32::try_from(names.attributes.len()).ok()?;
        let text: Arc<str> = attribute.into();
        names.attributes.push(Arc::clone(&text));
        names.by_attribute.insert(text, number);
        Some(number)
    }
}

/// A packed entity, found by its id within its type.
#[derive(Clone, Debug)]
pub(super) struct Packed(Arc<[u8]>);

impl Packed {
    /// The id. Never fails for what [`pack`] made.
    pub(super) fn id(&self) -> &str {
        Reader(&self.0).text().unwrap_or_default()
    }

    /// All of it, to compare.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its parents, as type number and id.
    pub(super) fn parents(&self) -> impl Iterator<Item = (u32, &str)> {
        let mut reader = Reader(&self.0);
        let count = reader.text().and_then(|_| reader.number()).unwrap_or(0);
        (0..count).map_while(move |_| reader.reference())
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Packed {}

impl Hash for Packed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl Borrow<str> for Packed {
    fn borrow(&self) -> &str {
        self.id()
    }
}

/// An entity's content, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) id: String,
    /// Type names and ids, sorted.
    pub(super) parents: Vec<(Arc<str>, String)>,
    pub(super) attributes: BTreeMap<String, Content>,
    pub(super) tags: BTreeMap<String, Content>,
}

/// Packs an entity; new names are added. `None` for a type that is no type.
pub(super) fn pack(names: &mut Arc<Names>, entity: &Unpacked) -> Option<Packed> {
    let mut out = Vec::with_capacity(128);
    put_text(&mut out, &entity.id);
    put_count(&mut out, entity.parents.len());
    for (ty, id) in &entity.parents {
        put_number(&mut out, Names::add_type(names, ty)?.into());
        put_text(&mut out, id);
    }
    put_record(&mut out, names, &entity.attributes)?;
    put_count(&mut out, entity.tags.len());
    for (key, value) in &entity.tags {
        put_text(&mut out, key);
        put_value(&mut out, names, value)?;
    }
    Some(Packed(out.into()))
}

fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

fn put_count(out: &mut Vec<u8>, n: usize) {
    put_number(out, n as u64);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_record(
    out: &mut Vec<u8>,
    names: &mut Arc<Names>,
    fields: &BTreeMap<String, Content>,
) -> Option<()> {
    put_count(out, fields.len());
    for (name, value) in fields {
        put_number(out, Names::add_attribute(names, name)?.into());
        put_value(out, names, value)?;
    }
    Some(())
}

fn put_value(out: &mut Vec<u8>, names: &mut Arc<Names>, value: &Content) -> Option<()> {
    match value {
        Content::Bool(b) => out.push(if *b { TRUE } else { FALSE }),
        Content::Long(n) => {
            out.push(LONG);
            put_number(out, (n.cast_unsigned() << 1) ^ (n >> 63).cast_unsigned());
        }
        Content::String(text) => {
            out.push(STRING);
            put_text(out, text);
        }
        Content::Extension(extension, text) => {
            out.push(EXTENSION + extension.number());
            put_text(out, text);
        }
        Content::Entity(ty, id) => {
            out.push(ENTITY);
            put_number(out, Names::add_type(names, ty)?.into());
            put_text(out, id);
        }
        Content::Set(items) => {
            out.push(SET);
            put_count(out, items.len());
            for item in items {
                put_value(out, names, item)?;
            }
        }
        Content::Record(fields) => {
            out.push(RECORD);
            put_record(out, names, fields)?;
        }
    }
    Some(())
}

/// Reads packed bytes. `None` where they end too early, which those that we packed never do.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (mut n, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(n);
            }
            shift += 7;
        }
    }

    fn name(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn reference(&mut self) -> Option<(u32, &'a str)> {
        Some((self.name()?, self.text()?))
    }

    fn long(&mut self) -> Option<i64> {
        let n = self.number()?;
        Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    fn content(&mut self, names: &Names) -> Option<Content> {
        Some(match self.byte()? {
            FALSE => Content::Bool(false),
            TRUE => Content::Bool(true),
            LONG => Content::Long(self.long()?),
            STRING => Content::String(self.text()?.to_owned()),
            ENTITY => {
                let (ty, id) = self.reference()?;
                Content::Entity(Arc::clone(names.type_text(ty)?), id.to_owned())
            }
            SET => {
                let items = (0..self.number()?).map(|_| self.content(names));
                Content::Set(items.collect::<Option<_>>()?)
            }
            RECORD => Content::Record(self.record(names)?),
            kind => {
                let extension = Extension::of(kind.checked_sub(EXTENSION)?)?;
                Content::Extension(extension, self.text()?.to_owned())
            }
        })
    }

    fn record(&mut self, names: &Names) -> Option<BTreeMap<String, Content>> {
        let fields = (0..self.number()?).map(|_| {
            let name = names.attribute(self.name()?)?.to_string();
            Some((name, self.content(names)?))
        });
        fields.collect()
    }

    fn value(&mut self, names: &Names, references: &mut Vec<EntityUID>) -> Option<Value> {
        Some(match self.byte()? {
            FALSE => Literal::Bool(false).into(),
            TRUE => Literal::Bool(true).into(),
            LONG => Literal::Long(self.long()?).into(),
            STRING => Literal::String(self.text()?.into()).into(),
            ENTITY => {
                let uid = self.uid(names)?;
                references.push(uid.clone());
                Literal::from(uid).into()
            }
            SET => {
                let count = self.number()?;
                let items = (0..count).map(|_| self.value(names, references));
                Value::set(items.collect::<Option<Vec<_>>>()?, None)
            }
            RECORD => {
                let count = self.number()?;
                let fields = (0..count).map(|_| {
                    let name = names.attribute(self.name()?)?;
                    Some((&**name, self.value(names, references)?))
                });
                Value::record(fields.collect::<Option<Vec<_>>>()?, None)
            }
            kind => extension_value(Extension::of(kind.checked_sub(EXTENSION)?)?, self.text()?)?,
        })
    }

    fn uid(&mut self, names: &Names) -> Option<EntityUID> {
        let (ty, id) = self.reference()?;
        Some(uid_of(names.entity_type(ty)?, id))
    }
}

/// A reference of Cedar's.
pub(super) fn uid_of(ty: &EntityType, id: &str) -> EntityUID {
    EntityUID::from_components(ty.clone(), Eid::new(id), None)
}

impl Packed {
    /// All of it; `None` only for bytes that [`pack`] did not make.
    pub(super) fn unpack(&self, names: &Names) -> Option<Unpacked> {
        let mut reader = Reader(&self.0);
        let id = reader.text()?.to_owned();
        let parents = (0..reader.number()?).map(|_| {
            let (ty, id) = reader.reference()?;
            Some((Arc::clone(names.type_text(ty)?), id.to_owned()))
        });
        let parents = parents.collect::<Option<_>>()?;
        let attributes = reader.record(names)?;
        let tags = (0..reader.number()?).map(|_| {
            let key = reader.text()?.to_owned();
            Some((key, reader.content(names)?))
        });
        Some(Unpacked {
            id,
            parents,
            attributes,
            tags: tags.collect::<Option<_>>()?,
        })
    }

    /// As Cedar's own, with its parents and without further ancestors. What it refers to
    /// is added to `references`.
    pub(super) fn entity(
        &self,
        names: &Names,
        ty: &EntityType,
        references: &mut Vec<EntityUID>,
    ) -> Option<Entity> {
        let mut reader = Reader(&self.0);
        let uid = uid_of(ty, reader.text()?);
        let parents = (0..reader.number()?).map(|_| reader.uid(names));
        let parents = parents.collect::<Option<_>>()?;
        let attributes = (0..reader.number()?).map(|_| {
            let name = names.attribute(reader.name()?)?;
            let value = PartialValue::Value(reader.value(names, references)?);
            Some(((**name).into(), value))
        });
        let attributes: Vec<_> = attributes.collect::<Option<_>>()?;
        let tags = (0..reader.number()?).map(|_| {
            let key = reader.text()?.into();
            Some((key, PartialValue::Value(reader.value(names, references)?)))
        });
        Some(Entity::new_with_attr_partial_value(
            uid,
            attributes,
            std::collections::HashSet::new(),
            parents,
            tags.collect::<Option<Vec<_>>>()?,
        ))
    }
}
