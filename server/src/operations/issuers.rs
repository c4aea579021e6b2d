//! The identity providers of this server: their rules, and their keys as they were last
//! fetched. Fetching is the work of `app`; here is only asked for it, and waited.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use time::{Duration, OffsetDateTime};
use tokio::sync::{Notify, watch};

use crate::identity::oidc::{
    Cached, IssuerRules, KeySet, OidcError, VouchedIdentity, claimed_issuer, rules_for, verify,
};
use crate::pdp::Clock;

/// How long a login waits for the issuer's keys.
const KEYS_WAIT: StdDuration = StdDuration::from_secs(8);

/// Why a provider's token proves nobody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Nothing else is wrong with it.
    #[error("{}", OidcError::Expired)]
    Expired,
    /// For the record.
    #[error("{0}")]
    Refused(OidcError),
}

impl From<OidcError> for IdentityError {
    fn from(error: OidcError) -> Self {
        match error {
            OidcError::Expired => Self::Expired,
            error => Self::Refused(error),
        }
    }
}

/// One provider.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// What is asked of its tokens, by their audience: one table at least.
    tables: Vec<IssuerRules>,
    /// How old its keys may become while it cannot be reached.
    pub(crate) stale_max: Duration,
    keys: watch::Sender<Cached>,
    wanted: Notify,
}

impl Issuer {
    /// A provider whose keys are not known yet. The tables are of the same issuer.
    pub(crate) fn new(tables: Vec<IssuerRules>, stale_max: Duration) -> Self {
        Self {
            tables,
            stale_max,
            keys: watch::Sender::default(),
            wanted: Notify::new(),
        }
    }

    /// What its tokens say in `iss`.
    pub(crate) fn name(&self) -> &str {
        self.tables.first().map_or("", |rules| &rules.issuer)
    }

    /// Completes when a login needs newer keys and the issuer may be asked for them.
    pub(crate) async fn wanted(&self, clock: &Clock) {
        loop {
            self.wanted.notified().await;
            if self.keys.borrow().may_refresh(clock()) {
                return;
            }
        }
    }

    /// The outcome of an attempt to fetch the keys.
    pub(crate) fn fetched(&self, attempt: Option<KeySet>, now: OffsetDateTime) {
        self.keys
            .send_modify(|keys| *keys = keys.after(attempt, now));
    }

    fn judge(&self, token: &str, now: OffsetDateTime) -> Result<VouchedIdentity, OidcError> {
        let keys = self.keys.borrow().usable(self.stale_max, now);
        let keys = keys.ok_or(OidcError::KeysUnavailable)?;
        verify(token, rules_for(token, &self.tables)?, &keys, now)
    }

    /// Whom a token proves. A key that is not known may be a new one: the issuer is asked
    /// once, however many calls wait for the answer.
    async fn identify(&self, token: &str, clock: &Clock) -> Result<VouchedIdentity, OidcError> {
        let mut attempts = self.keys.subscribe();
        match self.judge(token, clock()) {
            Err(error) if error.wants_keys() => {
                if !self.keys.borrow().may_refresh(clock()) {
                    return Err(error);
                }
                self.wanted.notify_one();
                let _ = tokio::time::timeout(KEYS_WAIT, attempts.changed()).await;
                self.judge(token, clock())
            }
            judged => judged,
        }
    }
}

/// All of them, by what their tokens say in `iss`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Issuers(BTreeMap<String, Arc<Issuer>>);

impl Issuers {
    /// These.
    pub(crate) fn new(issuers: impl IntoIterator<Item = Arc<Issuer>>) -> Self {
        let named = issuers.into_iter().map(|i| (i.name().to_owned(), i));
        Self(named.collect())
    }

    /// Whom a token proves.
    ///
    /// # Errors
    /// Why it proves nobody.
    pub(crate) async fn identify(
        &self,
        token: &str,
        clock: &Clock,
    ) -> Result<VouchedIdentity, IdentityError> {
        let issuer = claimed_issuer(token)?;
        let issuer = self.0.get(&issuer).ok_or(OidcError::Issuer)?;
        Ok(issuer.identify(token, clock).await?)
    }
}
