//! What it costs to prove: one record among a million, and the whole log anew.

use std::{path::Path, time::Instant};

use zta_client::{Client, LogKey};
use zta_proto::v1;

use crate::{
    Result, device,
    lifecycle::fill,
    load::percentile,
    measure::{Plan, Target},
    random::Random,
    report::Report,
    requests,
    server::RealServer,
    setup,
};

/// Proofs that are asked for, one after the other.
const PROOFS: usize = 2000;
const SEED: u64 = 0x5a54_4132;

/// Runs this part.
///
/// # Errors
/// The server does not come up, or something does not verify.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut server = RealServer::start(binary, &device::durable_dir(), None).await?;
    let credential = setup::prepare(&server).await?;
    let target = Target::new("log", &credential, server.endpoint(), requests::pool()?)?;
    let leaves = fill(&target, plan.sizes.leaves).await?;
    drop(target);
    let admin = server.admin()?;
    let size = signed(&admin, leaves).await?;
    let (p50_ms, p99_ms) = proofs(&admin, size).await?;
    say(&format!(
        "a proof among {size} records: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
    ));
    report.figure("proof_ms_p50", p50_ms, 2);
    report.figure("proof_ms_p99", p99_ms, 2);
    drop(admin);
    server.stop().await?;

    let started = Instant::now();
    let exported = server.export_audit()?;
    let export_s = started.elapsed().as_secs_f64();
    let mut rates = Vec::new();
    for _ in 0..plan.rounds {
        let started = Instant::now();
        server.verify_export(&exported)?;
        rates.push(size as f64 / started.elapsed().as_secs_f64());
    }
    let rate = crate::load::median(rates);
    say(&format!(
        "exported {size} records in {export_s:.1} s, verified at {rate:.0}/s"
    ));
    report.figure("export_leaves_per_s", size as f64 / export_s, 0);
    report.figure("verify_leaves_per_s", rate, 0);
    let proof = server.verify_audit()?;
    report.verified("audit", proof.lines().next().unwrap_or_default());
    Ok(())
}

/// How many records are signed, once that are so many.
async fn signed(admin: &Client, leaves: u64) -> Result<u64> {
    loop {
        let request = v1::GetCheckpointRequest {};
        let size = admin.audit().get_checkpoint(request).await?;
        let size = size.into_inner().size;
        if size >= leaves {
            return Ok(size);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Median and 99th percentile of receipts in milliseconds: each is a call over mutual TLS, decided,
/// on record, made from tiles, and verified here.
async fn proofs(admin: &Client, size: u64) -> Result<(f64, f64)> {
    let request = v1::ListEventsRequest {
        types: vec!["log_created".to_owned()],
        ..Default::default()
    };
    let created = admin.audit().list_events(request).await?.into_inner();
    let leaf = created.events.first().ok_or("the log has no beginning")?;
    let leaf: serde_json::Value = serde_json::from_slice(&leaf.leaf)?;
    let key = leaf["detail"]["vkey"].as_str().unwrap_or_default();
    let key = LogKey::parse(key)?;
    let mut random = Random::new(SEED);
    let mut took = Vec::new();
    for _ in 0..PROOFS {
        let sequence = random.below(usize::try_from(size)?) as u64;
        let started = Instant::now();
        let receipt = admin.receipt(sequence).await?;
        took.push(u32::try_from(started.elapsed().as_micros())?);
        if key.verify_receipt(&receipt)?.sequence != sequence {
            return Err("the receipt of another record".into());
        }
    }
    took.sort_unstable();
    Ok((
        percentile(&took, 50) / 1000.0,
        percentile(&took, 99) / 1000.0,
    ))
}
