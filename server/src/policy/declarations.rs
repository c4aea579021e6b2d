//! Limits of what a schema declares, looked at before Cedar builds it. A schema of a few
//! kilobytes can cost hours and all memory: Cedar writes common types out wherever they
//! are used, lists every ancestor of every type, and checks a policy once for each kind of
//! request that its scope admits.
//!
//! Measured on the project's machine, each limit alone keeps a compile below about three
//! seconds.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::limits::{
    DECLARATIONS_MAX, ENVIRONMENTS_MAX, TYPE_ANCESTORS_MAX, TYPE_LEVELS_MAX, TYPE_PARTS_MAX,
};

/// Whether schemas in Cedar's JSON form are within the limits.
///
/// # Errors
/// Names the limit that is exceeded.
pub(super) fn within_limits(schemas: &[Value]) -> Result<(), String> {
    let mut declared = Declared::default();
    for (namespace, body) in schemas.iter().filter_map(Value::as_object).flatten() {
        declared.add(namespace, body);
    }
    let declarations = declared.entities.len() + declared.actions.len();
    over("entity types and actions", declarations, DECLARATIONS_MAX)?;
    let environments = declared.environments;
    let what = "combinations of a principal type, an action and a resource type";
    over(what, environments, ENVIRONMENTS_MAX)?;
    let parents = declared.entities.values().chain(declared.actions.values());
    let names = declared.entities.keys().chain(declared.actions.keys());
    let graph = names.map(String::as_str).zip(parents).collect();
    let what = "pairs of a type or an action and one that it is in, directly or not";
    over(what, ancestors(&graph), TYPE_ANCESTORS_MAX)?;
    let size = declared.size();
    over(
        "levels of types within each other",
        size.levels,
        TYPE_LEVELS_MAX,
    )?;
    let what = "parts of types, with common types written out wherever they are used";
    over(what, size.parts, TYPE_PARTS_MAX)
}

fn over(what: &str, count: usize, max: usize) -> Result<(), String> {
    if count <= max {
        return Ok(());
    }
    Err(format!("the schema has more than {max} {what}"))
}

/// What the schemas declare, by full names.
#[derive(Default)]
struct Declared<'s> {
    /// Each with what it is in.
    entities: HashMap<String, Vec<String>>,
    actions: HashMap<String, Vec<String>>,
    commons: HashMap<String, (&'s str, &'s Value)>,
    /// Types that Cedar writes out: shapes, tags and contexts, each in its namespace.
    types: Vec<(&'s str, &'s Value)>,
    environments: usize,
}

impl<'s> Declared<'s> {
    fn add(&mut self, namespace: &'s str, body: &'s Value) {
        for (name, entity) in members(body, "entityTypes") {
            let parents = list(entity, "memberOfTypes").filter_map(Value::as_str);
            let parents = parents.map(|parent| full(namespace, parent)).collect();
            self.entities.insert(full(namespace, name), parents);
            for part in ["shape", "tags"] {
                self.types
                    .extend(entity.get(part).map(|ty| (namespace, ty)));
            }
        }
        for (id, action) in members(body, "actions") {
            let uid = |ty: Option<&str>, id: &str| match ty {
                Some(ty) => format!("{}::{id:?}", full(namespace, ty)),
                None => format!("{}::{id:?}", full(namespace, "Action")),
            };
            let text = |value: &'s Value, key: &str| value.get(key).and_then(Value::as_str);
            let parents = list(action, "memberOf");
            let parents = parents.map(|p| uid(text(p, "type"), text(p, "id").unwrap_or_default()));
            self.actions.insert(uid(None, id), parents.collect());
            let Some(applies) = action.get("appliesTo") else {
                continue;
            };
            let (principals, resources) = (
                list(applies, "principalTypes").count(),
                list(applies, "resourceTypes").count(),
            );
            self.environments = self
                .environments
                .saturating_add(principals.saturating_mul(resources));
            self.types
                .extend(applies.get("context").map(|ty| (namespace, ty)));
        }
        for (name, ty) in members(body, "commonTypes") {
            self.commons.insert(full(namespace, name), (namespace, ty));
        }
    }

    /// The size of all types together, once written out.
    fn size(&self) -> Size {
        let mut known = HashMap::new();
        let mut total = Size::default();
        for (namespace, ty) in self.types.iter().chain(self.commons.values()) {
            total = total.beside(self.of(namespace, ty, 0, &mut known));
        }
        total
    }

    /// The size of one type, `level` levels inside another one.
    fn of(&self, namespace: &str, ty: &Value, level: usize, known: &mut Known) -> Size {
        if level > TYPE_LEVELS_MAX {
            return Size {
                parts: 0,
                levels: level,
            };
        }
        let mut inside = Size::default();
        match ty {
            Value::Object(map) => {
                for part in map.values() {
                    inside = inside.beside(self.of(namespace, part, level + 1, known));
                }
            }
            Value::Array(list) => {
                for part in list {
                    inside = inside.beside(self.of(namespace, part, level + 1, known));
                }
            }
            Value::String(name) => return self.common(namespace, name, level, known),
            _ => {}
        }
        Size {
            parts: inside.parts.saturating_add(1),
            levels: inside.levels + 1,
        }
    }

    fn common(&self, namespace: &str, name: &str, level: usize, known: &mut Known) -> Size {
        let names = [full(namespace, name), name.to_owned()];
        let found = names
            .into_iter()
            .find(|name| self.commons.contains_key(name));
        let Some(name) = found else {
            return Size::default();
        };
        if let Some(size) = known.get(&name) {
            return *size;
        }
        // A cycle counts once; Cedar refuses it by name.
        known.insert(name.clone(), Size::default());
        let (namespace, ty) = self.commons[&name];
        let size = self.of(namespace, ty, level + 1, known);
        known.insert(name, size);
        size
    }
}

type Known = HashMap<String, Size>;

/// How large a type is with its common types written out.
#[derive(Clone, Copy, Default)]
struct Size {
    parts: usize,
    levels: usize,
}

impl Size {
    fn beside(self, other: Self) -> Self {
        Self {
            parts: self.parts.saturating_add(other.parts),
            levels: self.levels.max(other.levels),
        }
    }
}

fn members<'v>(body: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    body.get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// A name as it reads outside its namespace.
fn full(namespace: &str, name: &str) -> String {
    if namespace.is_empty() || name.contains("::") {
        name.to_owned()
    } else {
        format!("{namespace}::{name}")
    }
}

/// How many pairs of a node and one above it there are; stops counting beyond the limit.
fn ancestors(graph: &HashMap<&str, &Vec<String>>) -> usize {
    let mut pairs = 0;
    for start in graph.keys() {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut open = vec![*start];
        while let Some(node) = open.pop() {
            let parents = graph
                .get(node)
                .into_iter()
                .flat_map(|parents| parents.iter());
            for parent in parents.map(String::as_str).collect::<BTreeSet<_>>() {
                if seen.insert(parent) {
                    open.push(parent);
                    pairs += 1;
                }
            }
            if pairs > TYPE_ANCESTORS_MAX {
                return pairs;
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::{PolicySource, compile};
    use crate::model::SourceFile;

    /// What the gates say about a schema, within a few seconds.
    fn says(schema: &str) -> String {
        let policy = "@id(\"a\") permit (principal, action, resource);";
        let source = PolicySource::new(
            vec![SourceFile::new("a.cedar", policy)],
            vec![SourceFile::new("a.cedarschema", schema)],
        );
        match compile(&source, None) {
            Ok(_) => String::new(),
            Err(errors) => errors[0].message.clone(),
        }
    }

    fn chain(n: usize, item: impl Fn(usize, usize) -> String) -> String {
        let items: String = (1..n).map(|i| item(i, i - 1)).collect();
        format!("namespace A {{ entity T; entity T0; type C0 = Long; action a0; {items} }}")
    }

    #[test]
    fn a_schema_that_would_take_hours_is_refused_by_its_limit() {
        let types = |n| chain(n, |i, before| format!("entity T{i} in [T{before}];"));
        assert_eq!(says(&types(400)), "");
        assert!(says(&types(600)).contains("that it is in"));
        assert!(says(&types(4_900)).contains("that it is in"));
        let actions = chain(600, |i, before| format!("action a{i} in [a{before}];"));
        assert!(says(&actions).contains("that it is in"));
        let flat = |n| chain(n, |i, _| format!("entity T{i};"));
        assert_eq!(says(&flat(4_900)), "");
        assert!(says(&flat(5_001)).contains("entity types and actions"));
        let doubled = |n| {
            let types = chain(n, |i, b| {
                format!("type C{i} = {{ a: C{b}, b: Set<A::C{b}> }};")
            });
            types.replace("entity T;", &format!("entity T {{ x: C{} }};", n - 1))
        };
        assert_eq!(says(&doubled(10)), "");
        assert!(says(&doubled(60)).contains("written out"));
        let deep = |n| chain(n, |i, before| format!("type C{i} = {{ a: C{before} }};"));
        assert_eq!(says(&deep(100)), "");
        assert!(says(&deep(100_000)).contains("levels of types"));
        let names: Vec<String> = (0..300).map(|i| format!("T{i}")).collect();
        let names = names.join(", ");
        let wide = format!(
            "namespace A {{ entity {names}; action a appliesTo \
             {{ principal: [{names}], resource: [{names}], context: ZTA::CallContext }}; }}"
        );
        assert!(says(&wide).contains("combinations"));
        let cycle = "namespace A { type B = { c: C }; type C = { b: B }; entity T { b: B }; }";
        assert!(says(cycle).contains("cycle"), "{}", says(cycle));
    }
}
