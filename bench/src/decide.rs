//! Policy evaluation alone: no network, no identity, no record. Few and very many
//! policies alternate; then the worst case, in which none of very many is scoped.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crate::{
    Result,
    inprocess::{Engine, Question},
    load::median,
    measure::Plan,
    policies,
    report::Report,
    requests::{Case, Expected},
    workload,
};

/// More than a processor's caches hold of the policies, when there are very many.
const REQUESTS: usize = 8192;
const WORST_REQUESTS: usize = 16;

struct Subject {
    engine: Engine,
    questions: Vec<(Question, Expected)>,
}

impl Subject {
    fn new(
        source: &zta_proto::v1::PolicySource,
        pool: &[Case],
        compile_s: &mut f64,
    ) -> Result<Self> {
        let begin = Instant::now();
        let engine = Engine::compile(source)?;
        *compile_s = begin.elapsed().as_secs_f64();
        let question = |case: &Case| Ok((Engine::question(&case.request)?, case.expected));
        let questions = pool.iter().map(question).collect::<Result<_>>()?;
        Ok(Self { engine, questions })
    }

    /// The median time of one evaluation in microseconds, over whole passes until `time`
    /// is over.
    fn p50_us(&self, time: Duration) -> Result<f64> {
        let end = Instant::now() + time;
        let mut times_us = Vec::new();
        while times_us.is_empty() || Instant::now() < end {
            for (question, expected) in &self.questions {
                let begin = Instant::now();
                let found = black_box(self.engine.decide(black_box(question))?);
                times_us.push(begin.elapsed().as_secs_f64() * 1e6);
                if found != *expected {
                    return Err(format!("expected {expected:?}, found {found:?}").into());
                }
            }
        }
        Ok(median(times_us))
    }
}

/// Runs this part.
///
/// # Errors
/// A set does not compile, or a verdict is wrong.
pub(crate) fn run(plan: &Plan, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut compile_s = 0.0;
    let sizes = plan.sizes.decide;
    let mut subjects = Vec::new();
    for size in sizes {
        let pool = workload::pool(size, REQUESTS)?;
        let subject = Subject::new(&policies::scoped(size), &pool, &mut compile_s)?;
        // The first pass finds the caches cold.
        subject.p50_us(Duration::ZERO)?;
        subjects.push(subject);
    }
    report.figure(format!("compile_s_{}", sizes[1]), compile_s, 2);
    let mut found = [Vec::new(), Vec::new()];
    for nth in 1..=plan.rounds {
        for ((subject, size), found) in subjects.iter().zip(sizes).zip(&mut found) {
            let p50_us = subject.p50_us(plan.duration / 2)?;
            say(&format!(
                "decide round {nth}/{}: {size:>7} policies {p50_us:>9.2} us",
                plan.rounds
            ));
            found.push(p50_us);
        }
    }
    let [few, many] = found;
    let pairs = many.iter().zip(&few);
    let ratio = median(pairs.map(|(many, few)| many / few).collect());
    report.figure(format!("decide_us_{}", sizes[0]), median(few), 2);
    report.figure(format!("decide_us_{}", sizes[1]), median(many), 2);
    report.figure(format!("decide_{}_vs_{}", sizes[1], sizes[0]), ratio, 3);
    drop(subjects);
    worst(plan, report, say)
}

fn worst(plan: &Plan, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    let size = plan.sizes.decide[1];
    let pool = (0..WORST_REQUESTS).map(|n| workload::unscoped(size, n));
    let pool: Vec<Case> = pool.collect::<Result<_>>()?;
    let mut compile_s = 0.0;
    let subject = Subject::new(&policies::unscoped(size), &pool, &mut compile_s)?;
    let p50_us = subject.p50_us(plan.duration)?;
    say(&format!(
        "decide, nothing scoped: {size} policies {p50_us:.0} us (compiled in {compile_s:.1} s)"
    ));
    report.figure(format!("decide_us_worst_{size}"), p50_us, 0);
    report.figure(format!("compile_s_worst_{size}"), compile_s, 2);
    Ok(())
}
