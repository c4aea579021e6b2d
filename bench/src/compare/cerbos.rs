//! A Cerbos PDP as a child process, and its generator.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::{translate::Check, wire};
use crate::{
    Result,
    load::{self, Round, Shape},
    memory::{self, Memory},
};

/// Compiling 30,000 files takes it minutes.
const START_TIMEOUT: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(50);

/// The process; ends with this value.
pub(super) struct Cerbos {
    child: Child,
    channels: Vec<Channel>,
    /// From exec to the first right answer.
    pub(super) load_s: f64,
}

impl Cerbos {
    /// Starts it on a folder of policies and waits for a right answer to `first`.
    pub(super) async fn start(
        binary: &Path,
        policies: &Path,
        dir: &Path,
        audit: bool,
        connections: usize,
        first: &Check,
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let port = free_port()?;
        let config = dir.join("config.json");
        fs::write(&config, settings(policies, dir, port, audit)?.to_string())?;
        let log = File::create(dir.join("cerbos.log"))?;
        let begin = Instant::now();
        let child = Command::new(binary)
            .args(["server", "--log-level=warn", "--config"])
            .arg(&config)
            .env("CERBOS_NO_TELEMETRY", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start `{}`: {e}", binary.display()))?;
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
        let mut cerbos = Self {
            child,
            channels: (0..connections).map(|_| endpoint.connect_lazy()).collect(),
            load_s: 0.0,
        };
        cerbos.wait_for(first, begin, dir).await?;
        cerbos.load_s = begin.elapsed().as_secs_f64();
        Ok(cerbos)
    }

    async fn wait_for(&mut self, first: &Check, begin: Instant, dir: &Path) -> Result<()> {
        loop {
            let problem = match wire::check(&self.channels[0], first.request.clone()).await {
                Ok(answer) => return first.verify(&answer),
                Err(status) => status.to_string(),
            };
            let ended = self.child.try_wait()?;
            if ended.is_some() || begin.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(dir.join("cerbos.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(10)..].join("\n");
                return Err(format!("Cerbos does not answer: {problem}\n{tail}").into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        memory::of_process(self.child.id())
    }

    /// As [`load::drive`].
    pub(super) async fn drive(
        &self,
        pool: &Arc<Vec<Check>>,
        shape: Shape,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<Round> {
        let begin = Instant::now() + warm_up;
        let end = begin + duration;
        let mut callers = JoinSet::new();
        for (nth, channel) in self.channels.iter().take(shape.connections).enumerate() {
            for mth in 0..shape.in_flight {
                let first = (nth * shape.in_flight + mth) * 7;
                callers.spawn(call(channel.clone(), Arc::clone(pool), first, begin, end));
            }
        }
        let mut latencies_us = Vec::new();
        while let Some(caller) = callers.join_next().await {
            latencies_us.extend(caller??);
        }
        Ok(load::summarize(latencies_us, duration))
    }
}

impl Drop for Cerbos {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn call(
    channel: Channel,
    pool: Arc<Vec<Check>>,
    first: usize,
    begin: Instant,
    end: Instant,
) -> Result<Vec<u32>> {
    let mut latencies_us = Vec::new();
    for n in first.. {
        let mut check = pool[n % pool.len()].clone();
        check.request.request_id = format!("{first}-{n}");
        let asked = Instant::now();
        let answer = wire::check(&channel, check.request.clone()).await?;
        let answered = Instant::now();
        check.verify(&answer)?;
        if answered > end {
            break;
        }
        if answered >= begin {
            let latency_us = answered.duration_since(asked).as_micros();
            latencies_us.push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        }
    }
    Ok(latencies_us)
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn settings(policies: &Path, dir: &Path, port: u16, audit: bool) -> Result<serde_json::Value> {
    Ok(json!({
        "server": {
            "grpcListenAddr": format!("127.0.0.1:{port}"),
            "httpListenAddr": format!("127.0.0.1:{}", free_port()?),
        },
        "storage": {
            "driver": "disk",
            "disk": {"directory": policies, "watchForChanges": false},
        },
        "telemetry": {"disabled": true},
        "audit": {
            "enabled": audit,
            "accessLogsEnabled": audit,
            "decisionLogsEnabled": audit,
            "backend": "local",
            "local": {"storagePath": dir.join("audit")},
        },
    }))
}
