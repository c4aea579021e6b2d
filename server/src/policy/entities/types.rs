//! What a schema declares of the entities that can be stored: attributes, tags, parents,
//! and which types a request may bring. Other than [`super::super::shape`], which refuses
//! them because a model writes what it reads, a shape here may refer to entities: what it
//! reads was put by an administrator.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::Schema;
use cedar_policy_core::ast::EntityType;
use cedar_policy_core::validator::types::{AttributeType, EntityKind, Type};
use cedar_policy_core::validator::{ValidatorEntityType, ValidatorEntityTypeKind, ValidatorSchema};

use crate::model::request::NAMESPACE;

/// The types of namespace `ZTA` whose entities can be stored. All others in it belong to
/// the server: what is in a role, or who an agent is, comes from the registry alone.
const OPEN_TYPES: [&str; 4] = ["ZTA::Group", "ZTA::Model", "ZTA::Resource", "ZTA::Tool"];
/// The annotation of an entity type whose entities a request may bring.
const SUPPLIABLE: &str = "request_suppliable";

/// Extension types of Cedar, by the function that makes their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extension {
    Decimal,
    Ip,
    Datetime,
    Duration,
}

/// A type that stored JSON is read by.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Bool,
    Long,
    String,
    Extension(Extension),
    Entity(Arc<Target>),
    Set(Box<Shape>),
    Record(BTreeMap<String, Field>),
}

/// An attribute.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) shape: Shape,
    pub(super) required: bool,
}

/// What a reference refers to.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    pub(super) name: Arc<str>,
    /// The ids of an enumerated type; of others any id will do.
    pub(super) ids: Option<BTreeSet<String>>,
}

/// What the schema says about one entity type. Equal declarations read equal texts
/// alike: all that reading looks at is in here.
#[derive(Debug, PartialEq)]
pub(super) struct Declared {
    pub(super) own: Arc<Target>,
    pub(super) attributes: BTreeMap<String, Field>,
    pub(super) tags: Option<Shape>,
    /// By type name: what such an entity may be in.
    pub(super) parents: HashMap<Arc<str>, Arc<Target>>,
}

/// The entity types of a schema.
#[derive(Debug, Default)]
pub struct EntityTypes {
    declared: HashMap<String, Result<Arc<Declared>, &'static str>>,
    suppliable: BTreeSet<String>,
}

/// Whether entities of a type belong to the server and are never stored.
pub(super) fn is_reserved(ty: &str) -> bool {
    let is_action = ty == "Action" || ty.ends_with("::Action");
    let is_ours = ty == NAMESPACE || ty.starts_with("ZTA::");
    is_action || (is_ours && !OPEN_TYPES.contains(&ty))
}

impl EntityTypes {
    /// Reads the entity types of a schema. `namespaces` is the schema in Cedar's JSON
    /// form, where alone the annotations are left.
    pub(in crate::policy) fn new<'a>(
        schema: &Schema,
        namespaces: impl IntoIterator<Item = (&'a String, &'a serde_json::Value)>,
    ) -> Self {
        let schema: &ValidatorSchema = schema.as_ref();
        let targets: HashMap<&EntityType, Arc<Target>> = schema
            .entity_types()
            .map(|t| (t.name(), target(t)))
            .collect();
        let declared = schema.entity_types().map(|ty| {
            let declared = declare(schema, ty, &targets).map(Arc::new);
            (ty.name().to_string(), declared)
        });
        let declared = declared.collect();
        let mut suppliable = BTreeSet::new();
        for (namespace, defined) in namespaces {
            let types = defined.get("entityTypes").and_then(|t| t.as_object());
            for (base, ty) in types.into_iter().flatten() {
                let annotated = ty.get("annotations").and_then(|a| a.get(SUPPLIABLE));
                let name = match namespace.as_str() {
                    "" => base.clone(),
                    namespace => format!("{namespace}::{base}"),
                };
                if annotated.is_some() && !name.starts_with("ZTA::") {
                    suppliable.insert(name);
                }
            }
        }
        Self {
            declared,
            suppliable,
        }
    }

    /// The types whose entities a request may bring: those of the user's own that the
    /// schema marks with `@request_suppliable`.
    pub fn suppliable(&self) -> &BTreeSet<String> {
        &self.suppliable
    }

    /// What the schema says about a type.
    ///
    /// # Errors
    /// Why entities of that type cannot be stored.
    pub(super) fn declared(&self, ty: &str) -> Result<&Arc<Declared>, String> {
        match self.declared.get(ty) {
            Some(Ok(declared)) => Ok(declared),
            Some(Err(why)) => Err(format!("the type `{ty}` {why}")),
            None => Err(format!("the type `{ty}` is not in the schema in force")),
        }
    }
}

fn target(ty: &ValidatorEntityType) -> Arc<Target> {
    let ids = match &ty.kind {
        ValidatorEntityTypeKind::Enum(ids) => {
            let id = |id: &cedar_policy_core::ast::Eid| AsRef::<str>::as_ref(id).to_owned();
            Some(ids.iter().map(id).collect())
        }
        ValidatorEntityTypeKind::Standard(_) | ValidatorEntityTypeKind::External => None,
    };
    Arc::new(Target {
        name: ty.name().to_string().into(),
        ids,
    })
}

type Targets<'a> = HashMap<&'a EntityType, Arc<Target>>;

fn declare(
    schema: &ValidatorSchema,
    ty: &ValidatorEntityType,
    targets: &Targets<'_>,
) -> Result<Declared, &'static str> {
    if ty.is_external() {
        return Err("is declared external, so its entities cannot be read");
    }
    let parents = schema.ancestors(ty.name()).into_iter().flatten();
    let parents = parents.filter_map(|name| targets.get(name));
    Ok(Declared {
        own: targets.get(ty.name()).cloned().ok_or("is not declared")?,
        attributes: fields(ty.attributes().iter(), targets)?,
        tags: ty.tag_type().map(|ty| shape(ty, targets)).transpose()?,
        parents: parents
            .map(|target| (Arc::clone(&target.name), Arc::clone(target)))
            .collect(),
    })
}

fn fields<'a, N: std::fmt::Display + 'a>(
    attributes: impl Iterator<Item = (&'a N, &'a AttributeType)>,
    targets: &Targets<'_>,
) -> Result<BTreeMap<String, Field>, &'static str> {
    let field = |(name, attribute): (&N, &AttributeType)| {
        let field = Field {
            shape: shape(&attribute.attr_type, targets)?,
            required: attribute.is_required(),
        };
        Ok((name.to_string(), field))
    };
    attributes.map(field).collect()
}

fn shape(ty: &Type, targets: &Targets<'_>) -> Result<Shape, &'static str> {
    const OTHER: &str = "has an attribute or tags of a type that no JSON can be read by";
    Ok(match ty {
        Type::Bool(_) => Shape::Bool,
        Type::Long => Shape::Long,
        Type::String => Shape::String,
        Type::Entity(EntityKind::Entity(lub)) => {
            let target = lub.get_single_entity().and_then(|name| targets.get(name));
            Shape::Entity(Arc::clone(target.ok_or(OTHER)?))
        }
        Type::Set { element_type } => {
            let element = element_type.as_ref().ok_or(OTHER)?;
            Shape::Set(Box::new(shape(element, targets)?))
        }
        Type::Record { attrs, .. } => Shape::Record(fields(attrs.iter(), targets)?),
        Type::ExtensionType { name } => Shape::Extension(match name.to_string().as_str() {
            "decimal" => Extension::Decimal,
            "ipaddr" => Extension::Ip,
            "datetime" => Extension::Datetime,
            "duration" => Extension::Duration,
            _ => return Err(OTHER),
        }),
        Type::Entity(EntityKind::AnyEntity) | Type::Never => return Err(OTHER),
    })
}
