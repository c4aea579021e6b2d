//! Publishes the revocation lists: at once after a revocation, and at half of a list's life.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;

use super::tasks::Tasks;
use crate::api::http::RevocationLists;
use crate::identity::authorities::Authorities;
use crate::identity::ca::crl::{CRL_LIFETIME, Crl, Revocations};
use crate::pdp::Pdp;
use crate::store::SharedStore;

/// Entries of one list. With more of them no list is made, and the last one runs out:
/// one that leaves somebody out would say that he is good.
const ENTRIES_MAX: u32 = 200_000;
/// Between two tries after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks when much changes.
const PAUSE: Duration = Duration::from_millis(50);
/// How long certificates are remembered beyond their end, for clocks that are behind.
const REMEMBERED: time::Duration = time::Duration::HOUR;

/// The lists in force, if there are any yet.
pub(super) type Published = watch::Sender<Option<Arc<RevocationLists>>>;

impl Tasks {
    /// Signs the revocation lists and keeps them fresh.
    pub(super) fn publish_revocations(
        &mut self,
        store: &SharedStore,
        pdp: &Arc<Pdp>,
        authorities: Authorities,
        published: Published,
    ) {
        let mut publisher = Publisher {
            store: Arc::clone(store),
            authorities,
            found: HashMap::new(),
            last: None,
        };
        let (pdp, half) = (Arc::clone(pdp), CRL_LIFETIME / 2);
        self.spawn("the revocation lists", async move {
            let mut states = pdp.replica.subscribe();
            let mut sets = publisher.authorities.subscribe();
            loop {
                states.mark_unchanged();
                sets.mark_unchanged();
                let now = (pdp.clock)();
                let wait = match publisher.publish(now, half).await {
                    Ok(Some(lists)) => {
                        drop(published.send_replace(Some(Arc::new(lists))));
                        publisher.due(half, now)
                    }
                    Ok(None) => publisher.due(half, now),
                    Err(error) => {
                        tracing::error!(%error, "no revocation list could be made; trying again");
                        RETRY
                    }
                };
                // Changes of entities and policies end the wait, too; a look is one query.
                tokio::select! {
                    _ = states.changed() => {}
                    _ = sets.changed() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

struct Publisher {
    store: SharedStore,
    authorities: Authorities,
    /// When each certificate was first found to be revoked.
    found: HashMap<String, OffsetDateTime>,
    last: Option<Last>,
}

/// What was published last.
struct Last {
    serials: Vec<String>,
    issuers: Vec<Vec<u8>>,
    at: OffsetDateTime,
}

impl Publisher {
    /// New lists, if those in force are older than `half` or say something else.
    async fn publish(
        &mut self,
        now: OffsetDateTime,
        half: time::Duration,
    ) -> Result<Option<RevocationLists>, String> {
        let limit = ENTRIES_MAX + 1;
        let revoked = self.store.revoked_certificates(now, limit).await;
        let revoked = revoked.map_err(|e| e.to_string())?;
        if revoked.serials.len() > ENTRIES_MAX as usize {
            return Err(format!("more than {ENTRIES_MAX} certificates are revoked"));
        }
        let cas = self.authorities.current();
        let issuers = cas.issuers();
        let current = self.last.as_ref().is_some_and(|last| {
            last.serials == revoked.serials && last.issuers == issuers && now - last.at < half
        });
        if current {
            return Ok(None);
        }
        let before = std::mem::take(&mut self.found);
        let mut entries = Vec::with_capacity(revoked.serials.len());
        for serial in &revoked.serials {
            let at = *before.get(serial).unwrap_or(&now);
            let bytes = hex::decode(serial).map_err(|_| format!("serial `{serial}` is no hex"))?;
            self.found.insert(serial.clone(), at);
            entries.push((bytes, at));
        }
        let revocations = Revocations {
            log_size: revoked.size,
            revoked: entries,
        };
        // A hundred thousand entries take a moment to write.
        let lists = tokio::task::spawn_blocking(move || cas.revocation_lists(&revocations, now));
        let lists = lists.await.map_err(|e| e.to_string())?;
        let lists = lists.map_err(|e| e.to_string())?;
        if let Err(error) = self.store.forget_certificates(now - REMEMBERED).await {
            tracing::warn!(%error, "ended certificates could not be forgotten");
        }
        self.last = Some(Last {
            serials: revoked.serials,
            issuers,
            at: now,
        });
        Ok(lists.first().map(|first| RevocationLists {
            der: first.der.clone(),
            pem: lists.iter().map(Crl::pem).collect(),
        }))
    }

    /// How long the lists in force need no look, if nothing changes.
    fn due(&self, half: time::Duration, now: OffsetDateTime) -> Duration {
        let left = self.last.as_ref().map(|last| half - (now - last.at));
        left.and_then(|left| Duration::try_from(left).ok())
            .unwrap_or(RETRY)
    }
}
