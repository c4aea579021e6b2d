//! `Test` of `zta.v1.PolicyService`.

use tonic::{Response, Status};
use zta_proto::v1;

use super::authorization::wire_reason;
use super::policies::{candidate, files, wire_diagnostics};
use crate::api::status::limit;
use crate::identity::registry::Credential;
use crate::model::Effect;
use crate::operations::Operations;
use crate::policy::limits::FILES_MAX;
use crate::policy::{Coverage, PolicyCoverage, TestReport, TestResult};

pub(super) async fn test(
    operations: &Operations,
    credential: &Credential,
    request: v1::TestRequest,
) -> Result<Response<v1::TestResponse>, Status> {
    let v1::TestRequest {
        source,
        patch,
        tests,
    } = request;
    if tests.len() > FILES_MAX {
        return Err(limit("tests", tests.len(), FILES_MAX));
    }
    let candidate = match (source, patch) {
        (None, None) => None,
        (source, patch) => Some(candidate(source, patch)?),
    };
    let found = operations
        .test_policy(credential, candidate, files(tests))
        .await?;
    Ok(Response::new(match found {
        Ok(report) => wire_report(report),
        Err(errors) => v1::TestResponse {
            errors: wire_diagnostics(&errors),
            ..v1::TestResponse::default()
        },
    }))
}

fn wire_report(report: TestReport) -> v1::TestResponse {
    v1::TestResponse {
        errors: Vec::new(),
        results: report.results.into_iter().map(wire_result).collect(),
        coverage: report.coverage.map(wire_coverage),
    }
}

fn wire_result(result: TestResult) -> v1::TestResult {
    let effect = match result.effect {
        Some(Effect::Allow) => v1::Effect::Allow,
        Some(Effect::Deny) => v1::Effect::Deny,
        None => v1::Effect::Unspecified,
    };
    v1::TestResult {
        file: result.file,
        line: result.line,
        column: result.column,
        name: result.name,
        mismatches: result
            .mismatches
            .into_iter()
            .map(|m| v1::TestMismatch {
                what: m.what.to_owned(),
                expected: m.expected,
                actual: m.actual,
            })
            .collect(),
        effect: effect.into(),
        reason: result.reason.map_or(0, |reason| wire_reason(reason).into()),
        policy_ids: result.policies,
        obligations: result.obligations,
        message: result.message,
    }
}

/// Of a limited set, so that no count is beyond 32 bits.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn wire_coverage(coverage: Coverage) -> v1::TestCoverage {
    v1::TestCoverage {
        policies: count(coverage.policies),
        policies_covered: count(coverage.policies_covered),
        conditions: count(coverage.conditions),
        conditions_covered: count(coverage.conditions_covered),
        missing: coverage.missing.into_iter().map(wire_missing).collect(),
        missing_total: count(coverage.missing_total),
    }
}

fn wire_missing(missing: PolicyCoverage) -> v1::PolicyCoverage {
    let (file, line) = missing.place.unwrap_or_default();
    let conditions = missing.conditions.into_iter();
    v1::PolicyCoverage {
        policy_id: missing.id,
        file,
        line,
        matched: missing.matched,
        determined: missing.determined,
        conditions: conditions
            .map(|c| v1::ConditionCoverage {
                text: c.text,
                held: c.held,
                failed: c.failed,
            })
            .collect(),
    }
}
