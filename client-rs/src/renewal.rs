//! Keeps a client's certificate fresh: at half of its life, with jitter, by itself.

use std::{
    sync::Weak,
    time::{Duration, SystemTime},
};

use aws_lc_rs::rand;

use crate::{client::Inner, credential::Validity};

/// Looks are short: the wall clock may jump, and a laptop may sleep.
const PAUSE_MAX: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
const JITTER: f64 = 0.1;

/// When to renew: at half of the lifetime, moved by up to a tenth of it, so that a fleet
/// that was enrolled together does not renew together. `jitter` is from -1 to 1.
pub(crate) fn due(validity: Validity, jitter: f64) -> SystemTime {
    validity.not_before + lifetime(validity).mul_f64(0.5 + JITTER * jitter.clamp(-1.0, 1.0))
}

fn lifetime(validity: Validity) -> Duration {
    let lifetime = validity.not_after.duration_since(validity.not_before);
    lifetime.unwrap_or(Duration::ZERO)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a certificate's life is told by the wall clock; this is the client's one reading of it"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Runs until the client is gone. The client owns the task and aborts it when it goes;
/// a renewal that is cut off then is made good by the next process.
pub(crate) async fn keep_renewed(client: Weak<Inner>) {
    let mut renewed_at: Option<Validity> = None;
    let mut due_time = SystemTime::UNIX_EPOCH;
    let mut failures = 0;
    loop {
        let pause = {
            let Some(client) = client.upgrade() else {
                return;
            };
            let Some(credential) = client.credential() else {
                return;
            };
            let validity = credential.validity();
            if renewed_at != Some(validity) {
                due_time = due(validity, random(-1.0, 1.0));
                if renewed_at.is_some() {
                    // Not at once again, even if the server dates certificates far back.
                    due_time = due_time.max(now() + lifetime(validity).mul_f64(JITTER));
                }
                renewed_at = Some(validity);
            }
            match due_time.duration_since(now()) {
                Ok(left) if !left.is_zero() => left.clamp(PAUSE_MIN, PAUSE_MAX),
                _ => match client.renew().await {
                    Ok(()) => {
                        failures = 0;
                        tracing::info!(agent = credential.spiffe_id(), "renewed the certificate");
                        PAUSE_MIN
                    }
                    Err(error) => {
                        failures += 1;
                        report(&error, credential.spiffe_id(), validity);
                        backoff(failures)
                    }
                },
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn report(error: &crate::Error, spiffe_id: &str, validity: Validity) {
    let left_s = validity
        .not_after
        .duration_since(now())
        .map(|d| d.as_secs());
    let reason = error.reason().unwrap_or_default();
    match left_s {
        Ok(left_s) => tracing::warn!(
            agent = spiffe_id,
            left_s,
            reason,
            %error,
            "cannot renew the certificate"
        ),
        Err(_) => tracing::error!(
            agent = spiffe_id,
            reason,
            %error,
            "the certificate has expired and is not recovered; enroll again"
        ),
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(RETRY_MAX).mul_f64(random(0.5, 1.0))
}

/// Without randomness there is no jitter, which does no harm.
pub(crate) fn random(from: f64, to: f64) -> f64 {
    let mut bytes = [0; 4];
    let _ = rand::fill(&mut bytes);
    from + (to - from) * (f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_about_half_way() {
        let not_before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let validity = Validity {
            not_before,
            not_after: not_before + Duration::from_secs(3_600),
        };
        for (jitter, after_s) in [(0.0, 1_800), (-1.0, 1_440), (1.0, 2_160), (9.0, 2_160)] {
            let after = due(validity, jitter).duration_since(not_before);
            assert_eq!(after.expect("later").as_secs(), after_s, "{jitter}");
        }
        let upside_down = Validity {
            not_before,
            not_after: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(due(upside_down, 0.0), not_before);
    }

    #[test]
    fn retries_slow_down_and_stay_bounded() {
        assert!(backoff(1) <= RETRY_MIN);
        assert!(backoff(8) >= RETRY_MAX / 2);
        assert!(backoff(u32::MAX) <= RETRY_MAX);
        let spread: std::collections::BTreeSet<_> = (0..16).map(|_| backoff(5)).collect();
        assert!(spread.len() > 1);
    }
}
