//! `zta policy test`: runs the tests of policy folders here, or on a server. Exit code 0 if
//! all pass, 1 if one fails, 2 if they could not be run.

mod junit;
mod shown;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use zta_client::v1;
use zta_server::model::SourceFile;
use zta_server::policy::{Coverage, PolicySource, compile};

use self::shown::{Shown, coverage_of, shown_coverage, shown_result};
use super::policy::{Offer, diagnostic_of, offer, show};
use super::{Failure, Options, line};

/// What to test, and how to tell of it.
#[derive(Debug, Args)]
pub(crate) struct Request {
    /// Folders with `*.cedar`, `*.cedarschema`, `*.test.yaml` and `*.test.json` files. With
    /// `--on-server` none means the revision in force.
    folders: Vec<PathBuf>,
    /// Run them on the server: what the folders change against the revision in force.
    #[arg(long)]
    on_server: bool,
    /// Run this test file in place of those in the folders; may be given several times.
    #[arg(long = "tests", value_name = "FILE")]
    tests: Vec<PathBuf>,
    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Name what no test has reached.
    #[arg(long)]
    coverage: bool,
    /// Fail if the tests reach less than this of the policies and conditions.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    coverage_min: Option<u32>,
}

/// Runs the tests and tells of them.
pub(super) async fn test(options: &Options, request: Request) -> Result<(), Failure> {
    let tests = request.tests.iter().map(|path| test_file(path));
    let tests: Vec<SourceFile> = tests.collect::<Result<_, _>>()?;
    let (results, coverage) = match request.on_server {
        true => on_server(options, &request.folders, tests).await?,
        false => here(options, &request.folders, tests)?,
    };
    if results.is_empty() {
        let text = "there is no test: put cases into `*.test.yaml` beside the policies";
        return Err(Failure::CouldNotRun(text.to_owned()));
    }
    if let Some(path) = &request.junit {
        let unwritten = |e| Failure::CouldNotRun(format!("`{}`: {e}", path.display()));
        std::fs::write(path, junit::xml(&results)).map_err(unwritten)?;
    }
    let failed = results.iter().filter(|r| !r.passed()).count();
    let low = request.coverage_min.filter(|min| coverage.percent() < *min);
    let missing = request.coverage || low.is_some();
    if options.json {
        let tests: Vec<_> = results.iter().map(Shown::json).collect();
        let (count, covered) = (results.len(), shown_coverage(&coverage, missing));
        line(json!({"tests": count, "failed": failed, "results": tests, "coverage": covered}))?;
    } else {
        tell(&results, failed, &coverage, missing)?;
    }
    match (failed, low) {
        (0, None) => Ok(()),
        (0, Some(min)) => {
            let percent = coverage.percent();
            Err(Failure::No(format!(
                "the tests reach {percent} %, at least {min} are asked for"
            )))
        }
        (failed, _) => Err(Failure::No(format!(
            "{failed} of {} tests fail",
            results.len()
        ))),
    }
}

fn tell(
    results: &[Shown],
    failed: usize,
    coverage: &Coverage,
    missing: bool,
) -> Result<(), Failure> {
    for result in results.iter().filter(|result| !result.passed()) {
        line(result.text())?;
    }
    line(format!(
        "{} tests: {} pass, {failed} fail",
        results.len(),
        results.len() - failed
    ))?;
    line(format!(
        "{} of {} policies determined a decision, {} of {} conditions were true and false: {} % reached",
        coverage.policies_covered,
        coverage.policies,
        coverage.conditions_covered,
        coverage.conditions,
        coverage.percent()
    ))?;
    if missing {
        coverage
            .missing
            .iter()
            .try_for_each(|m| line(coverage_of(m)))?;
        let more = coverage.missing_total - coverage.missing.len();
        if more > 0 {
            line(format!("… and {more} more"))?;
        }
    }
    Ok(())
}

fn test_file(path: &Path) -> Result<SourceFile, Failure> {
    let unread = |e| Failure::CouldNotRun(format!("cannot read `{}`: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(unread)?;
    Ok(SourceFile::new(path.to_string_lossy(), text))
}

type Found = (Vec<Shown>, Coverage);

/// With the engine of this binary.
fn here(options: &Options, folders: &[PathBuf], tests: Vec<SourceFile>) -> Result<Found, Failure> {
    if folders.is_empty() {
        let text = "name the policy folders, or test the revision in force with --on-server";
        return Err(Failure::CouldNotRun(text.to_owned()));
    }
    let source = PolicySource::read(folders).map_err(Failure::CouldNotRun)?;
    let source = match tests.is_empty() {
        true => source,
        false => source.with_tests(tests),
    };
    let ran = compile(&source, None)
        .and_then(|compiled| compiled.run_tests(&source.tests, true, &|| false));
    match ran {
        Ok(report) => {
            let results = report.results.into_iter().map(Shown::from).collect();
            Ok((results, report.coverage.unwrap_or_default()))
        }
        Err(errors) => {
            show(options, "error", &errors)?;
            Err(could_not(errors.len()))
        }
    }
}

async fn on_server(
    options: &Options,
    folders: &[PathBuf],
    tests: Vec<SourceFile>,
) -> Result<Found, Failure> {
    let client = options.client()?;
    let patch = match folders.is_empty() {
        true => None,
        false => {
            let Offer { patch, .. } = offer(options, &client, folders, None).await?;
            Some(patch)
        }
    };
    let wire = |file: SourceFile| v1::SourceFile {
        text: file.text().to_string(),
        name: file.name,
    };
    let request = v1::TestRequest {
        source: None,
        patch,
        tests: tests.into_iter().map(wire).collect(),
    };
    let answer = client.policies().test(request).await?.into_inner();
    if !answer.errors.is_empty() {
        let errors: Vec<_> = answer.errors.into_iter().map(diagnostic_of).collect();
        show(options, "error", &errors)?;
        return Err(could_not(errors.len()));
    }
    let results = answer.results.into_iter().map(shown_result).collect();
    let coverage = answer.coverage.unwrap_or_default();
    Ok((results, shown::coverage_from(coverage)))
}

fn could_not(errors: usize) -> Failure {
    Failure::CouldNotRun(format!("{errors} errors; no test was run"))
}
