//! One policy as it is kept ready: Cedar's form of it, what its annotations say, and how
//! much of the entities its conditions can reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy_core::ast::{
    Annotation, AnyId, BinaryOp, EntityUID, Expr, ExprKind, Literal, Policy, Var,
};

use crate::model::decision::Annotations;

/// A policy ready to be evaluated. Immutable and shared by all revisions that hold it.
#[derive(Debug)]
pub(super) struct Entry {
    /// Static or linked; its id is the `@id`.
    pub(super) policy: Policy,
    /// From `@obligation`, sorted, each once.
    pub(super) obligations: Box<[String]>,
    /// All annotations but `@id`, if there are any.
    pub(super) annotations: Option<Arc<Annotations>>,
    /// How far its conditions look into stored entities.
    pub(super) reach: Reach,
}

/// What of the entities a policy's conditions can look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// How many references in a row are followed, counted from principal, resource and
    /// the literals: 1 for `principal.manager.name`, 0 for `principal.name`.
    pub(super) levels: u32,
    /// Entities that it names and looks into.
    pub(super) literals: Box<[Arc<EntityUID>]>,
    /// Whether it looks into principal, action or resource.
    pub(super) variables: bool,
}

impl Entry {
    /// A policy with the annotations that it has itself.
    pub(super) fn new(policy: Policy) -> Self {
        let own = policy.clone();
        Self::of(policy, own.annotations())
    }

    /// Reads what the annotations say and how far the conditions look.
    pub(super) fn of<'a>(
        policy: Policy,
        annotations: impl Iterator<Item = (&'a AnyId, &'a Annotation)>,
    ) -> Self {
        let annotations: BTreeMap<String, String> = annotations
            .map(|(key, value)| (key.to_string(), value.val.to_string()))
            .filter(|(key, _)| key != "id")
            .collect();
        let asked = annotations.get("obligation").map_or("", String::as_str);
        let mut obligations: Vec<String> = asked
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        obligations.sort_unstable();
        obligations.dedup();
        let mut reach = policy
            .non_scope_constraints()
            .map(Reach::of)
            .unwrap_or_default();
        // What a template's slots stand for may be looked into like a literal.
        let linked = policy.env().values().cloned().map(Arc::new);
        reach.literals = reach.literals.into_iter().chain(linked).collect();
        let annotations = (!annotations.is_empty()).then(|| {
            Arc::new(Annotations {
                policy: policy.id().to_string(),
                annotations,
            })
        });
        Self {
            policy,
            obligations: obligations.into(),
            annotations,
            reach,
        }
    }

    /// Its `@id`.
    pub(super) fn id(&self) -> &str {
        self.policy.id().as_ref()
    }

    /// Whether it forbids.
    pub(super) fn forbids(&self) -> bool {
        self.policy.effect() == cedar_policy_core::ast::Effect::Forbid
    }

    /// The value of an annotation.
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        let annotations = &self.annotations.as_ref()?.annotations;
        annotations.get(key).map(String::as_str)
    }

    /// The parts of its conditions that must all hold, in the order in which Cedar looks
    /// at them: each `when` and `unless`, cut at `&&`.
    pub(super) fn conditions(&self) -> Vec<&Expr> {
        let mut parts = Vec::new();
        let mut open: Vec<&Expr> = self.policy.non_scope_constraints().into_iter().collect();
        while let Some(expr) = open.pop() {
            match expr.expr_kind() {
                ExprKind::And { left, right } => open.extend([&**right, &**left]),
                _ => parts.push(expr),
            }
        }
        parts
    }
}

/// The source text of an expression, in one line and at most [`TEXT_BYTES_MAX`] bytes.
pub(super) fn source_text(expr: &Expr) -> String {
    let text = match expr.source_loc().and_then(|loc| loc.snippet()) {
        Some(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        None => expr.to_string(),
    };
    match text
        .char_indices()
        .map(|(at, _)| at)
        .find(|at| *at > TEXT_BYTES_MAX - 4)
    {
        Some(end) if text.len() > TEXT_BYTES_MAX => format!("{}…", &text[..end]),
        _ => text,
    }
}

/// Bytes of a condition's text in an answer.
const TEXT_BYTES_MAX: usize = 512;

impl Reach {
    /// Whether it looks into any entity.
    pub(super) fn looks(&self) -> bool {
        self.variables || !self.literals.is_empty()
    }

    /// How far an expression looks.
    fn of(expr: &Expr) -> Self {
        let mut walk = Walk::default();
        walk.steps(expr, false);
        walk.literals.sort_unstable();
        walk.literals.dedup();
        Self {
            levels: walk.steps_max.saturating_sub(1),
            literals: walk.literals.into(),
            variables: walk.variables,
        }
    }
}

#[derive(Default)]
struct Walk {
    /// The most look-ups in a row.
    steps_max: u32,
    literals: Vec<Arc<EntityUID>>,
    variables: bool,
}

impl Walk {
    /// How many look-ups in a row may lie behind an expression's value, where that may be
    /// an entity or hold one; `None` in the context: data never becomes an entity, and the
    /// parties of a delegation, which it holds, are in every slice and refer to roles only. Rather too many than too few: an attribute of a record counts like one
    /// of an entity, for the types are not known here. `looked_into` says whether the
    /// value, or a part of it, is looked into further up.
    fn steps(&mut self, expr: &Expr, looked_into: bool) -> Option<u32> {
        let all = |walk: &mut Self, parts: &mut dyn Iterator<Item = &Expr>| {
            parts.filter_map(|part| walk.steps(part, looked_into)).max()
        };
        let steps = match expr.expr_kind() {
            ExprKind::Var(Var::Context) => return None,
            ExprKind::Var(_) => {
                self.variables |= looked_into;
                None
            }
            ExprKind::GetAttr { expr, .. } => return self.look_up(expr),
            ExprKind::If {
                test_expr,
                then_expr,
                else_expr,
            } => {
                self.steps(test_expr, false);
                all(self, &mut [&**then_expr, &**else_expr].into_iter())
            }
            ExprKind::Set(elements) => all(self, &mut elements.iter()),
            ExprKind::Record(fields) => all(self, &mut fields.values()),
            ExprKind::BinaryApp { op, arg1, arg2 } => {
                self.steps(arg2, false);
                match op {
                    BinaryOp::GetTag => return self.look_up(arg1),
                    BinaryOp::In | BinaryOp::HasTag => self.look_up(arg1),
                    _ => self.steps(arg1, false),
                };
                None
            }
            ExprKind::Lit(Literal::EntityUID(uid)) => {
                if looked_into {
                    self.literals.push(Arc::clone(uid));
                }
                None
            }
            _ => {
                self.tests(expr);
                None
            }
        };
        Some(steps.unwrap_or(0))
    }

    /// The parts of an expression whose value is no entity.
    fn tests(&mut self, expr: &Expr) {
        match expr.expr_kind() {
            ExprKind::HasAttr { expr, .. } => drop(self.look_up(expr)),
            ExprKind::ExtHasAttr { expr, attrs } => {
                if let Some(steps) = self.look_up(expr) {
                    let more = u32::try_from(attrs.len()).unwrap_or(u32::MAX);
                    self.note(steps.saturating_add(more) - 1);
                }
            }
            ExprKind::And { left, right } | ExprKind::Or { left, right } => {
                self.steps(left, false);
                self.steps(right, false);
            }
            ExprKind::UnaryApp { arg: expr, .. }
            | ExprKind::Like { expr, .. }
            | ExprKind::Is { expr, .. } => drop(self.steps(expr, false)),
            ExprKind::ExtensionFunctionApp { args, .. } => {
                for arg in args.iter() {
                    self.steps(arg, false);
                }
            }
            _ => {}
        }
    }

    /// A look-up in the value of an expression.
    fn look_up(&mut self, base: &Expr) -> Option<u32> {
        let steps = self.steps(base, true)?.saturating_add(1);
        self.note(steps);
        Some(steps)
    }

    fn note(&mut self, steps: u32) {
        self.steps_max = self.steps_max.max(steps);
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy_core::parser::parse_policy;

    use super::*;

    fn entry(conditions: &str) -> Entry {
        let text = format!("permit (principal, action, resource) {conditions};");
        Entry::new(parse_policy(None, &text).expect("a policy").into())
    }

    #[test]
    fn how_far_a_policy_looks() {
        for (conditions, levels, literals) in [
            ("", 0, 0),
            ("when { principal.name == \"a\" }", 0, 0),
            ("when { principal in G::\"g\" }", 0, 0),
            ("when { principal.boss.name == \"a\" }", 1, 0),
            ("when { resource.owner in principal.team }", 1, 0),
            ("when { principal has boss.team.name }", 2, 0),
            ("when { U::\"u\".boss.name == \"a\" }", 1, 1),
            ("when { U::\"u\" in G::\"g\" && U::\"u\" has x }", 0, 1),
            ("when { context.a.b.c.d }", 0, 0),
            (
                "when { (if context.x then principal else U::\"u\").boss.boss.a }",
                2,
                1,
            ),
            ("when { {a: principal.boss}.a.name == \"a\" }", 2, 0),
            (
                "when { resource.hasTag(\"t\") && resource.getTag(\"t\").boss.a }",
                2,
                0,
            ),
            ("unless { principal.a.b == resource.c }", 1, 0),
        ] {
            let reach = entry(conditions).reach;
            let found = (reach.levels, reach.literals.len());
            assert_eq!(found, (levels, literals), "{conditions}");
        }
    }

    #[test]
    fn conditions_are_cut_at_and_and_shown_as_they_are_written() {
        let entry = entry(
            "when { context.a && (context.b ||\n context.c) && 1 < 2 } unless { principal.d } when { true }",
        );
        let texts: Vec<String> = entry.conditions().into_iter().map(source_text).collect();
        assert_eq!(
            texts,
            [
                "context.a",
                "context.b || context.c",
                "1 < 2",
                "unless { principal.d }",
                "true"
            ]
        );
        let long = format!("when {{ \"{}\" == \"é\" }}", "é".repeat(400));
        let text = source_text(self::entry(&long).conditions()[0]);
        assert!(
            text.len() <= TEXT_BYTES_MAX && text.ends_with('…'),
            "{text}"
        );
    }
}
