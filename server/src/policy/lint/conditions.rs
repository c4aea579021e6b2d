//! What a policy's own text says: conditions that exclude each other, a permit without any
//! bound, a forbid that can err.

use std::collections::{HashMap, HashSet};

use cedar_policy_core::ast::{
    ActionConstraint, BinaryOp, EntityReference, Expr, ExprKind, Literal,
    PrincipalOrResourceConstraint as Constraint, UnaryOp, Var,
};

use super::Found;
use crate::policy::entry::{Entry, source_text};

pub(super) fn lint(entry: &Entry) -> Vec<Found> {
    let contradiction = contradiction(entry).map(|why| Found {
        lint: "contradiction",
        message: format!("`{}` never matches: {why}", entry.id()),
        help: "correct the condition, or delete the policy",
        // A permit that never matches permits too little; a forbid, too much.
        error: entry.forbids(),
    });
    let found = [contradiction, unbounded(entry), can_error(entry)];
    found.into_iter().flatten().collect()
}

/// Two conditions, or the scope and one, that cannot both be true.
fn contradiction(entry: &Entry) -> Option<String> {
    let conditions = entry.conditions();
    let all: HashSet<&Expr> = conditions.iter().copied().collect();
    for condition in &conditions {
        if let ExprKind::UnaryApp {
            op: UnaryOp::Not,
            arg,
        } = condition.expr_kind()
            && all.contains(&**arg)
        {
            return Some(format!(
                "`{}` must be both true and false",
                source_text(arg)
            ));
        }
    }
    let mut equals: HashMap<Expr, &Literal> = HashMap::new();
    let (principal, resource) = (
        entry.policy.principal_constraint(),
        entry.policy.resource_constraint(),
    );
    let scope = [
        (Var::Principal, exact(principal.as_inner())),
        (Var::Resource, exact(resource.as_inner())),
    ];
    let literals: Vec<(Expr, Literal)> = scope
        .into_iter()
        .filter_map(|(var, literal)| Some((Expr::var(var), literal?)))
        .collect();
    for (what, literal) in &literals {
        equals.insert(what.clone(), literal);
    }
    for condition in &conditions {
        let Some((what, literal)) = equality(condition) else {
            continue;
        };
        let other = equals.entry(what.clone()).or_insert(literal);
        if *other != literal {
            let what = source_text(what);
            return Some(format!(
                "`{what}` must equal both `{other}` and `{literal}`"
            ));
        }
    }
    None
}

/// The one entity that a scope admits.
fn exact(constraint: &Constraint) -> Option<Literal> {
    match constraint {
        Constraint::Eq(EntityReference::EUID(uid)) => Some(Literal::EntityUID(uid.clone())),
        _ => None,
    }
}

/// `what == literal`, either way round.
fn equality(expr: &Expr) -> Option<(&Expr, &Literal)> {
    let ExprKind::BinaryApp {
        op: BinaryOp::Eq,
        arg1,
        arg2,
    } = expr.expr_kind()
    else {
        return None;
    };
    match (arg1.expr_kind(), arg2.expr_kind()) {
        (ExprKind::Lit(_), ExprKind::Lit(_)) => None,
        (_, ExprKind::Lit(literal)) => Some((arg1, literal)),
        (ExprKind::Lit(literal), _) => Some((arg2, literal)),
        _ => None,
    }
}

fn unbounded(entry: &Entry) -> Option<Found> {
    let free = |constraint: &Constraint| matches!(constraint, Constraint::Any);
    let (principal, resource) = (
        entry.policy.principal_constraint(),
        entry.policy.resource_constraint(),
    );
    let unbounded = !entry.forbids()
        && free(principal.as_inner())
        && matches!(entry.policy.action_constraint(), ActionConstraint::Any)
        && free(resource.as_inner());
    unbounded.then(|| Found {
        lint: "unbounded_permit",
        message: format!(
            "`{}` permits everybody everything on everything, administrative acts included, \
             as far as its conditions go",
            entry.id()
        ),
        help: "name the principals, the actions or the resources in its scope",
        error: false,
    })
}

/// Arithmetic that can overflow. Cedar skips a policy that errs; here a forbid that errs
/// denies, whatever it is about.
fn can_error(entry: &Entry) -> Option<Found> {
    if !entry.forbids() {
        return None;
    }
    let conditions = entry.conditions();
    let culprit = conditions
        .iter()
        .flat_map(|condition| condition.subexpressions())
        .find(|expr| overflows(expr))?;
    Some(Found {
        lint: "forbid_can_error",
        message: format!(
            "`{}`: `{}` can be out of range; then whoever its scope names is denied",
            entry.id(),
            source_text(culprit)
        ),
        help: "compare without arithmetic, or bound the values before",
        error: false,
    })
}

fn overflows(expr: &Expr) -> bool {
    match expr.expr_kind() {
        ExprKind::BinaryApp { op, .. } => {
            matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul)
        }
        ExprKind::UnaryApp { op, arg } => {
            *op == UnaryOp::Neg && !matches!(arg.expr_kind(), ExprKind::Lit(_))
        }
        ExprKind::ExtensionFunctionApp { fn_name, .. } => {
            matches!(
                fn_name.to_string().as_str(),
                "offset" | "durationSince" | "toDate"
            )
        }
        _ => false,
    }
}
