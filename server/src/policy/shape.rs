//! The declared types of an action's context, read from the schema's JSON form: what
//! model-controlled JSON is converted by. A shape never holds an entity type: data does
//! not become an entity.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A Cedar type that JSON data can be converted to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Bool,
    Long,
    String,
    Decimal,
    Datetime,
    Duration,
    Ip,
    Set(Box<Shape>),
    Record(BTreeMap<String, Attribute>),
}

/// An attribute of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attribute {
    pub(super) shape: Shape,
    pub(super) required: bool,
}

/// The schema's namespaces in JSON form, all fragments merged.
pub(super) struct SchemaJson {
    namespaces: Map<String, Value>,
}

/// How deep common types may refer to each other.
const DEPTH_MAX: usize = 32;

impl SchemaJson {
    pub(super) fn new(fragments: impl IntoIterator<Item = Value>) -> Self {
        let mut namespaces = Map::new();
        for fragment in fragments {
            if let Value::Object(map) = fragment {
                namespaces.extend(map);
            }
        }
        Self { namespaces }
    }

    /// The namespaces by name, in Cedar's JSON form.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.namespaces.iter()
    }

    /// The attributes of an action's context, as JSON types; `None` for an unknown action.
    pub(super) fn action_context(&self, namespace: &str, id: &str) -> Option<&Value> {
        self.namespaces
            .get(namespace)?
            .get("actions")?
            .get(id)?
            .get("appliesTo")?
            .get("context")
    }

    /// The shape of an action's context. What the server alone fills in, `zta`, may hold
    /// entities, since no data is converted to it; its shape is left empty.
    ///
    /// # Errors
    /// As [`Self::shape`].
    pub(super) fn context_shape(&self, namespace: &str, ty: &Value) -> Result<Shape, String> {
        let Some((home, record)) = self.record_of(namespace, ty) else {
            return self.shape(namespace, ty);
        };
        let mut record = record.clone();
        if let Some(zta) = record.pointer_mut("/attributes/zta") {
            *zta = json!({"type": "Record", "attributes": {}});
        }
        self.shape(home, &record)
    }

    /// The record that a type is by its names, and the namespace that it is written in.
    fn record_of<'a>(&'a self, namespace: &'a str, ty: &'a Value) -> Option<(&'a str, &'a Value)> {
        let (mut home, mut ty) = (namespace, ty);
        for _ in 0..DEPTH_MAX {
            let kind = ty.get("type")?.as_str()?;
            let name = match kind {
                "Record" => return Some((home, ty)),
                "EntityOrCommon" => ty.get("name")?.as_str()?,
                name => name,
            };
            let (homes, base) = match name.rsplit_once("::") {
                Some((home, base)) => (vec![home], base),
                None => (vec![home, ""], name),
            };
            let common = |home| {
                let common = self.namespaces.get(home)?.get("commonTypes")?.get(base)?;
                Some((home, common))
            };
            (home, ty) = homes.into_iter().find_map(common)?;
        }
        None
    }

    /// The shape of a JSON type.
    ///
    /// # Errors
    /// Says which part of the type data cannot be converted to.
    pub(super) fn shape(&self, namespace: &str, ty: &Value) -> Result<Shape, String> {
        self.shape_at(namespace, ty, 0)
    }

    fn shape_at(&self, namespace: &str, ty: &Value, depth: usize) -> Result<Shape, String> {
        if depth > DEPTH_MAX {
            return Err("the type refers to other types too deeply".to_owned());
        }
        let text = |key: &str| ty.get(key).and_then(Value::as_str);
        let kind = text("type").ok_or("a type without a name")?;
        match kind {
            "Record" => self.record(namespace, ty, depth),
            "Set" => {
                let element = ty.get("element").ok_or("a set without an element type")?;
                Ok(Shape::Set(Box::new(self.shape_at(
                    namespace,
                    element,
                    depth + 1,
                )?)))
            }
            "Extension" | "EntityOrCommon" => self.named(
                namespace,
                text("name").ok_or("a type without a name")?,
                depth,
            ),
            "Entity" => Err(format!(
                "`{}` is an entity type, and tool arguments never become entities",
                text("name").unwrap_or_default()
            )),
            other => self.named(namespace, other, depth),
        }
    }

    fn record(&self, namespace: &str, ty: &Value, depth: usize) -> Result<Shape, String> {
        let mut attributes = BTreeMap::new();
        let declared = ty
            .get("attributes")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        for (name, attribute) in declared {
            let shape = self
                .shape_at(namespace, &attribute, depth + 1)
                .map_err(|e| format!("`{name}`: {e}"))?;
            let required = attribute
                .get("required")
                .and_then(Value::as_bool)
                .unwrap_or(true);
            attributes.insert(name, Attribute { shape, required });
        }
        Ok(Shape::Record(attributes))
    }

    /// A name as Cedar resolves it: a common type of the namespace, then of the empty
    /// one, then a primitive or extension type. An entity type shadows a primitive.
    fn named(&self, namespace: &str, name: &str, depth: usize) -> Result<Shape, String> {
        let (home, base) = match name.rsplit_once("::") {
            Some(("__cedar", base)) => return primitive(base).ok_or_else(|| unknown(name)),
            Some((home, base)) => (vec![home], base),
            None => (vec![namespace, ""], name),
        };
        for home in home {
            let Some(defined) = self.namespaces.get(home) else {
                continue;
            };
            if let Some(common) = defined.get("commonTypes").and_then(|c| c.get(base)) {
                return self.shape_at(home, common, depth + 1);
            }
            if defined
                .get("entityTypes")
                .and_then(|e| e.get(base))
                .is_some()
            {
                return Err(format!(
                    "`{name}` is an entity type, and tool arguments never become entities"
                ));
            }
        }
        if name.contains("::") {
            Err(unknown(name))
        } else {
            primitive(name).ok_or_else(|| unknown(name))
        }
    }
}

fn unknown(name: &str) -> String {
    format!("the type `{name}` is not known")
}

fn primitive(name: &str) -> Option<Shape> {
    Some(match name {
        "Bool" | "Boolean" => Shape::Bool,
        "Long" => Shape::Long,
        "String" => Shape::String,
        "decimal" => Shape::Decimal,
        "datetime" => Shape::Datetime,
        "duration" => Shape::Duration,
        "ipaddr" => Shape::Ip,
        _ => return None,
    })
}
