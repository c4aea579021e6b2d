//! Wake-ups for the change feed.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Mutex;

/// What a commit that moved the epoch notifies.
pub(super) const CHANNEL: &str = "zta_changes";
/// A wake-up comes at least this often: notifications sent while the connection was
/// down are lost, and a pooler may swallow them all.
const TICK: Duration = Duration::from_secs(1);

pub(super) struct Notices {
    pool: PgPool,
    listener: Mutex<Option<PgListener>>,
}

impl Notices {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options);
        Self {
            pool,
            listener: Mutex::new(None),
        }
    }

    /// Returns when something may have changed, at the latest after [`TICK`].
    pub(super) async fn wait(&self) {
        // An error needs no handling of its own: the tick goes on, the next call
        // connects again.
        let notified = async {
            if self.notified().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(TICK, notified).await;
    }

    async fn notified(&self) -> Result<(), sqlx::Error> {
        let mut slot = self.listener.lock().await;
        let Some(listener) = slot.as_mut() else {
            let mut listener = PgListener::connect_with(&self.pool).await?;
            listener.listen(CHANNEL).await?;
            *slot = Some(listener);
            // What was sent before we listened is lost, so this is a wake-up too.
            return Ok(());
        };
        // `None` tells of a connection that was lost and made anew.
        let received = listener.try_recv().await;
        if received.is_err() {
            *slot = None;
        }
        received.map(drop)
    }

    pub(super) async fn close(&self) {
        // Ends a wait that holds the listener, whose connection the pool waits for.
        let closing = self.pool.close();
        self.listener.lock().await.take();
        closing.await;
    }
}
