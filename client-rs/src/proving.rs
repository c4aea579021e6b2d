//! Proves the client's key again, as often as the server asks for it, by itself.

use std::{sync::Weak, time::Duration};

use crate::{client::Inner, renewal};

/// The first look, when the server's interval is not known yet; the handshake is a proof.
const FIRST: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Where the server never asks: another server may be behind the name tomorrow.
const LOOK: Duration = Duration::from_secs(3600);

/// Runs until the client is gone, which aborts it.
pub(crate) async fn keep_proved(client: Weak<Inner>) {
    let mut pause = FIRST;
    let mut failures = 0;
    let mut interval: Option<Duration> = None;
    loop {
        tokio::time::sleep(pause).await;
        let Some(client) = client.upgrade() else {
            return;
        };
        let asked = match interval {
            // To ask how often is no proof, and not on record.
            None => client.proof_interval().await,
            Some(_) => client.prove().await,
        };
        pause = match asked {
            Ok(found) => {
                failures = 0;
                interval = (!found.is_zero()).then_some(found);
                // Twice as often as it must be: one that fails has time for another try.
                interval.map_or(LOOK, |interval| interval.mul_f64(renewal::random(0.4, 0.5)))
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "cannot prove the key again");
                let doubled = RETRY_MIN.saturating_mul(1 << u32::min(failures - 1, 10));
                let wait = doubled.min(RETRY_MAX);
                interval.map_or(wait, |interval| wait.min(interval.mul_f64(0.2)))
            }
        };
    }
}
