//! Logs, traces and metrics. Nothing here ever sees a payload, a token or a secret.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, MeterProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{Config, LogFormat};
use crate::model::Decision;

/// Keeps the exporter of traces; flushes it at the end.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets up logs on standard error, and the export of traces if it is configured.
    ///
    /// # Errors
    /// A filter that does not parse, an endpoint that is none, or a second call.
    pub fn init(config: &Config) -> Result<Self, String> {
        let filter = EnvFilter::try_new(&config.log_level)
            .map_err(|e| format!("configuration: `log_level` is no filter: {e}"))?;
        // Colours are for a terminal; in a file they hide what they surround from a search.
        let marked = config.development_bearer.then_some(config.log_format);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || Lines(marked))
            .with_ansi(std::io::stderr().is_terminal());
        let lines = match config.log_format {
            LogFormat::Human => lines.with_target(false).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let traces = config.otlp_endpoint.as_deref().map(exporter).transpose()?;
        let spans = traces
            .as_ref()
            .map(|t| tracing_opentelemetry::layer().with_tracer(t.tracer("zta")));
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .with(spans)
            .try_init()
            .map_err(|e| format!("logging is set up already: {e}"))?;
        Ok(Self { traces })
    }

    /// Sends what is left.
    pub fn shutdown(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown_with_timeout(Duration::from_secs(2))
        {
            tracing::warn!(%error, "the last traces could not be exported");
        }
    }
}

/// What every log line and `/readyz` say of a server in the development mode.
pub(crate) const DEVELOPMENT_NOTICE: &str =
    "DEVELOPMENT MODE: takes bearer tokens that are bound to nothing";

/// Standard error; in the development mode every line says so.
struct Lines(Option<LogFormat>);

impl std::io::Write for Lines {
    /// The subscriber writes whole lines, one at a time.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut out = std::io::stderr().lock();
        match (self.0, line) {
            (None, _) => out.write_all(line)?,
            (Some(LogFormat::Json), [b'{', rest @ ..]) => {
                let marked = format!("{{\"development\":\"{DEVELOPMENT_NOTICE}\",");
                out.write_all(&[marked.as_bytes(), rest].concat())?;
            }
            (Some(_), _) => {
                let marked = format!("[{DEVELOPMENT_NOTICE}] ");
                out.write_all(&[marked.as_bytes(), line].concat())?;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn resource() -> Resource {
    Resource::builder().with_service_name("zta").build()
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(3))
        .build()
        .map_err(|e| format!("configuration: `otlp_endpoint`: {e}"))?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource())
        .build())
}

/// The counters of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Owned here: dropped, it would end the collection.
    _provider: Arc<SdkMeterProvider>,
    decisions: Counter<u64>,
    calls: Counter<u64>,
    call_seconds: Histogram<f64>,
}

impl Metrics {
    /// New counters, collected into a registry of their own.
    ///
    /// # Errors
    /// When the collector cannot be built.
    pub(crate) fn new() -> Result<Self, String> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .build()
            .map_err(|e| format!("metrics: {e}"))?;
        let provider = SdkMeterProvider::builder()
            .with_reader(exporter)
            .with_resource(resource())
            .build();
        let meter = provider.meter("zta");
        Ok(Self {
            registry,
            decisions: meter
                .u64_counter("zta_decisions")
                .with_description("Decisions on record, by effect and reason")
                .build(),
            calls: meter
                .u64_counter("zta_rpc_calls")
                .with_description("RPCs answered, by method and gRPC code")
                .build(),
            call_seconds: meter
                .f64_histogram("zta_rpc_duration")
                .with_unit("s")
                .with_description("Time to answer an RPC, by method")
                .with_boundaries(vec![
                    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                    0.5, 1.0, 5.0,
                ])
                .build(),
            _provider: Arc::new(provider),
        })
    }

    /// Counts a decision.
    pub(crate) fn decided(&self, decision: &Decision) {
        let reason = decision.verdict.deny.map_or("", |reason| reason.as_str());
        self.decisions.add(
            1,
            &[
                KeyValue::new("effect", decision.verdict.effect().as_str()),
                KeyValue::new("reason", reason),
            ],
        );
    }

    /// Counts an RPC. The method is one of ours, never a text of the caller.
    pub(crate) fn called(&self, method: &'static str, code: i32, elapsed: Duration) {
        let method = KeyValue::new("method", method);
        self.call_seconds
            .record(elapsed.as_secs_f64(), std::slice::from_ref(&method));
        self.calls
            .add(1, &[method, KeyValue::new("code", i64::from(code))]);
    }

    /// All counters in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::warn!(%error, "metrics could not be encoded");
        }
        String::from_utf8(out).unwrap_or_default()
    }
}
