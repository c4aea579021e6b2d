//! Conditions that many policies have, kept once.
//!
//! Rules for hundreds of agents say the same of each: a set of 100,000 policies has few
//! different conditions. Kept once they take less memory, and what a request evaluates is
//! in the processor's cache already, whichever policies it meets.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use cedar_policy_core::ast::{
    Annotations, Expr, ExprBuilder, ExprKind, Policy, PolicyID, Template,
};
use cedar_policy_core::expr_builder::ExprBuilder as _;

/// The conditions of one compilation.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    seen: Mutex<HashSet<Arc<Expr>>>,
    no_annotations: Arc<Annotations>,
}

impl Sharing {
    /// The policy under another id, its conditions shared. Without annotations, which
    /// Cedar does not look at and which take more than the rest.
    pub(super) fn compact(&self, policy: &Policy, id: PolicyID) -> Policy {
        let template = policy.template();
        let condition = template.non_scope_constraints_arc();
        let compact = Template::new_shared(
            id.clone(),
            template.loc().cloned(),
            Arc::clone(&self.no_annotations),
            template.effect(),
            template.principal_constraint().clone(),
            template.action_constraint().clone(),
            template.resource_constraint().clone(),
            condition.map(|condition| self.share(condition)),
        );
        // Only a template with slots is no policy.
        Template::try_as_policy(Arc::new(compact)).unwrap_or_else(|_| policy.new_id(id))
    }

    /// The same expression, as another policy has it.
    fn share(&self, expr: &Arc<Expr>) -> Arc<Expr> {
        if let Some(known) = self.known(expr) {
            return known;
        }
        // Parts of `&&` are shared also where the whole is not.
        let expr = match expr.expr_kind() {
            ExprKind::And { left, right } => {
                let parts = (self.share(left), self.share(right));
                let whole = ExprBuilder::new()
                    .with_maybe_source_loc(expr.source_loc())
                    .and((*parts.0).clone(), (*parts.1).clone());
                // The builder may simplify; what policies mean is not its affair.
                if whole == **expr {
                    Arc::new(whole)
                } else {
                    Arc::clone(expr)
                }
            }
            _ => Arc::clone(expr),
        };
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(Arc::clone(&expr));
        expr
    }

    /// One that is equal and written in the same way: explanations show the text.
    fn known(&self, expr: &Arc<Expr>) -> Option<Arc<Expr>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.get(expr)?;
        let text = |expr: &Expr| {
            expr.source_loc()
                .and_then(|l| l.snippet().map(str::to_owned))
        };
        (text(known) == text(expr)).then(|| Arc::clone(known))
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy_core::parser::parse_policyset;

    use super::*;
    use crate::policy::entry::source_text;

    #[test]
    fn equal_conditions_are_one_and_say_the_same() {
        let conditions = [
            "when { context.a && context.b }",
            "when { context.a && context.b }",
            "when { context.a && context.c } unless { context.a }",
            "when { !context.a }",
            "when { true && true && context.a }",
            "",
        ];
        let text: String = conditions
            .map(|c| format!("@x(\"y\") permit (principal, action, resource) {c};"))
            .concat();
        let set = parse_policyset(&text).expect("policies");
        let sharing = Sharing::default();
        let compact: Vec<(Policy, Policy)> = (0..conditions.len())
            .map(|n| {
                let id = PolicyID::from_string(format!("policy{n}"));
                let policy = set.get(&id).expect("a policy").clone();
                let other = sharing.compact(&policy, PolicyID::from_string(format!("p{n}")));
                (policy, other)
            })
            .collect();
        for (before, after) in &compact {
            assert_eq!(before.condition(), after.condition());
            let text = |p: &Policy| p.non_scope_constraints().map(source_text);
            assert_eq!(text(before), text(after));
        }
        let condition = |n: usize| compact[n].1.non_scope_constraints_arc().expect("one");
        assert!(Arc::ptr_eq(condition(0), condition(1)));
        assert_eq!(compact[3].1.id().to_string(), "p3");
        assert_eq!(compact[3].1.annotations().count(), 0);
    }
}
