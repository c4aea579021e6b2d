//! The requests that go with the generated policies, and what each answer must be.

use serde_json::json;
use zta_proto::v1;

use crate::{
    Result,
    policies::{self, CELL},
    random::Random,
    requests::{self, Case, Expected},
};

const SEED: u64 = 0x7265_7173;

/// So many requests of the generator's agent against [`policies::scoped`], spread over all
/// cells of the set. Of eight, six are allowed, one is not permitted, one is forbidden.
///
/// # Errors
/// The set has no whole cell, or a defect of the generator.
pub fn pool(policies: usize, requests: usize) -> Result<Vec<Case>> {
    let cells = policies / CELL;
    if cells == 0 {
        return Err(format!("the generated policies come in cells of {CELL}").into());
    }
    let mut random = Random::new(SEED);
    let case = |n| case(random.below(cells), n);
    (0..requests).map(case).collect()
}

fn case(cell: usize, n: usize) -> Result<Case> {
    let tool = policies::tool(cell);
    let (context, expected) = match n % 8 {
        // Permitted by role and as the agent.
        0..5 => (
            json!({"framework": "bench", "tool_name": tool}),
            Expected::Allow,
        ),
        // By role alone.
        5 => (
            json!({"framework": "another", "tool_name": tool}),
            Expected::Allow,
        ),
        6 => (
            json!({"framework": "another"}),
            Expected::Deny(v1::DenyReason::NotPermitted),
        ),
        _ => (
            json!({"framework": "bench", "tool_name": tool, "origin": "mcp:untrusted-7"}),
            Expected::Deny(v1::DenyReason::Forbidden),
        ),
    };
    let request = requests::call(&tool, &context, n)?;
    Ok(Case { request, expected })
}

/// A request that only one policy of [`policies::unscoped`] permits, the middle one.
///
/// # Errors
/// A defect of the generator.
pub fn unscoped(policies: usize, n: usize) -> Result<Case> {
    let planner = format!("planner-{}", policies / 2);
    let context = json!({"framework": "bench", "agent_name": planner});
    Ok(Case {
        request: requests::call("any_tool", &context, n)?,
        expected: Expected::Allow,
    })
}

/// The plainest request for a cell's tool, which is allowed as long as the cell is not
/// locked down.
///
/// # Errors
/// A defect of the generator.
pub fn plain(cell: usize) -> Result<v1::AuthorizeRequest> {
    Ok(case(cell, 0)?.request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inprocess::Engine;

    #[test]
    fn every_policy_validates_and_every_answer_is_as_expected() {
        for policies in [10, 1000] {
            let engine = Engine::compile(&policies::scoped(policies)).expect("it validates");
            for case in pool(policies, 256).expect("pool") {
                let question = Engine::question(&case.request).expect("a question");
                let found = engine.decide(&question).expect("a verdict");
                assert_eq!(found, case.expected, "{case:?}");
            }
        }
        assert!(pool(9, 1).is_err());
    }

    #[test]
    fn a_lockdown_forbids() {
        let mut source = policies::scoped(100);
        source.policies[0] = policies::file_of(3, 100, true);
        let engine = Engine::compile(&source).expect("it validates");
        for (cell, expected) in [
            (2, Expected::Allow),
            (3, Expected::Deny(v1::DenyReason::Forbidden)),
        ] {
            let request = plain(cell).expect("a request");
            let question = Engine::question(&request).expect("a question");
            assert_eq!(engine.decide(&question).expect("a verdict"), expected);
        }
    }

    #[test]
    fn one_of_the_unscoped_policies_permits() {
        let engine = Engine::compile(&policies::unscoped(100)).expect("it validates");
        let case = unscoped(100, 0).expect("a case");
        let question = Engine::question(&case.request).expect("a question");
        assert_eq!(engine.decide(&question).expect("a verdict"), case.expected);
    }

    #[test]
    fn the_pool_is_the_same_each_time_and_spreads() {
        let (one, two) = (pool(1000, 400).expect("pool"), pool(1000, 400).expect("p"));
        let tools = |pool: &[Case]| -> Vec<String> {
            let tool = |case: &Case| case.request.resource.as_ref().map(|r| r.id.clone());
            pool.iter().filter_map(tool).collect()
        };
        assert_eq!(tools(&one), tools(&two));
        let distinct: std::collections::BTreeSet<_> = tools(&one).into_iter().collect();
        assert!(distinct.len() > 90, "{}", distinct.len());
    }
}
