//! `zta serve` and `zta migrate`.

use zta_server::app;
use zta_server::telemetry::Telemetry;

use super::{Failure, Options, line};

pub(super) async fn serve(options: &Options, new_administrator: bool) -> Result<(), Failure> {
    let config = options.server_config()?;
    let telemetry = Telemetry::init(&config).map_err(Failure::CouldNotRun)?;
    let result = app::serve(config, new_administrator, stop_signal()).await;
    telemetry.shutdown();
    result.map_err(|e| Failure::CouldNotRun(e.to_string()))
}

pub(super) async fn migrate(options: &Options) -> Result<(), Failure> {
    let config = options.server_config()?;
    app::migrate(&config)
        .await
        .map_err(|e| Failure::CouldNotRun(e.to_string()))?;
    line("the database schema is up to date")
}

/// Completes at SIGTERM or SIGINT.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut wait = tokio::task::JoinSet::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        match signal(kind) {
            Ok(mut signal) => {
                wait.spawn(async move {
                    signal.recv().await;
                });
            }
            Err(error) => tracing::warn!(%error, "a stop signal cannot be heard"),
        }
    }
    if wait.join_next().await.is_none() {
        std::future::pending::<()>().await;
    }
}
