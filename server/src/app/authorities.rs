//! Follows the replacement of the CA: what is signed by, what is trusted, and what is shown.
//! The administrator's own certificate follows with it.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::administrator;
use super::material::Material;
use super::tasks::Tasks;
use crate::api::tls::TlsReload;
use crate::config::Config;
use crate::model::AuthorityRecord;
use crate::pdp::Pdp;
use crate::store::SharedStore;

/// Between two tries after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// How often the administrator's certificate is looked at.
const ADMINISTRATOR_INTERVAL: Duration = Duration::from_secs(3600);

impl Tasks {
    /// Keeps the CAs of this replica those on record.
    pub(super) fn follow_authorities(
        &mut self,
        config: &Config,
        (pdp, store): (&Arc<Pdp>, &SharedStore),
        material: &Material,
        reload: Option<TlsReload>,
    ) {
        let mut follower = Follower {
            config: config.clone(),
            pdp: Arc::clone(pdp),
            store: Arc::clone(store),
            material: material.clone(),
            reload,
            followed: None,
            refreshed: None,
        };
        self.spawn("the replacement of the CA", async move {
            let mut states = follower.pdp.replica.subscribe();
            loop {
                states.mark_unchanged();
                let wait = match follower.follow().await {
                    Ok(()) => ADMINISTRATOR_INTERVAL,
                    Err(error) => {
                        tracing::error!(%error, "the CAs on record cannot be followed; trying again");
                        RETRY
                    }
                };
                let _ = tokio::time::timeout(wait, states.changed()).await;
            }
        });
    }
}

struct Follower {
    config: Config,
    pdp: Arc<Pdp>,
    store: SharedStore,
    material: Material,
    /// Where there is TLS.
    reload: Option<TlsReload>,
    /// What was followed last.
    followed: Option<Arc<[AuthorityRecord]>>,
    /// When the administrator's certificate was looked at last.
    refreshed: Option<OffsetDateTime>,
}

impl Follower {
    async fn follow(&mut self) -> Result<(), String> {
        let now = (self.pdp.clock)();
        let records = Arc::clone(&self.pdp.replica.current().authorities);
        if self.followed.as_ref() == Some(&records) {
            if self
                .refreshed
                .is_none_or(|at| now - at >= ADMINISTRATOR_INTERVAL)
            {
                self.refresh_administrator(now).await;
            }
            return Ok(());
        }
        let followed = self.material.ca.follow(&records).await;
        // Even where the new key is not here: what is trusted has changed.
        if let Some(reload) = &self.reload {
            self.material.renew_tls(reload, now)?;
        }
        write_bundle(&self.config, &self.material).map_err(|e| e.to_string())?;
        followed.map_err(|e| e.to_string())?;
        self.refresh_administrator(now).await;
        self.followed = Some(records);
        Ok(())
    }

    /// Keeps the first administrator's certificate fresh while its folder is here.
    async fn refresh_administrator(&mut self, now: OffsetDateTime) {
        self.refreshed = Some(now);
        let (config, store) = (&self.config, &self.store);
        let done = administrator::refresh(config, store, &self.pdp, &self.material);
        if let Err(error) = done.await {
            tracing::warn!(%error, "the administrator's certificate could not be renewed");
        }
    }
}

/// The trust bundle for `zta health`, which trusts nothing else.
pub(super) fn write_bundle(config: &Config, material: &Material) -> std::io::Result<()> {
    let bundle = material.ca.current().bundle_pem();
    administrator::write_private(&config.data_dir.join("ca.pem"), &bundle)
}
