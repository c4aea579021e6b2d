//! What can go wrong, for a reader and for a program.

use std::{error::Error as StdError, io, path::PathBuf, time::Duration};

use tonic::Code;
use tonic_types::StatusExt as _;

use crate::log::LogError;

const DOMAIN: &str = "zta";

/// An error of this crate. For an enforcement point every one of them means deny.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A credential folder, or a file of it, cannot be used.
    #[error("credential `{}`: {problem}", path.display())]
    Credential {
        /// The folder or the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A server address that is not `host:port`, or not one that may be used so.
    #[error("server `{server}`: {problem}")]
    Server {
        /// The address as given.
        server: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The join token is malformed; it was not shown to any server.
    #[error("the join token {0}")]
    JoinToken(&'static str),
    /// The server cannot prove that it made the join token; the token was not shown to it.
    #[error(
        "server `{server}` is not the one that made the join token: \
         none of its CA certificates has the token's fingerprint"
    )]
    WrongServer {
        /// The address as given.
        server: String,
    },
    /// The server cannot be reached, or does not speak as expected.
    #[error("cannot reach server `{server}`: {source}")]
    Unreachable {
        /// The address as given.
        server: String,
        /// What happened.
        source: io::Error,
    },
    /// The server refused the call, or the call did not get through.
    #[error(transparent)]
    Rpc(#[from] Box<RpcError>),
    /// The tool's arguments are not fit to be sent.
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    /// The server's answer does not hold what it must.
    #[error("the server's answer holds {0}")]
    Answer(&'static str),
    /// The log, or something said of it, is not to be believed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The TLS configuration cannot be made.
    #[error("cannot configure TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Error {
    /// The `ErrorInfo` reason of the server, for example `REVISION_CONFLICT`
    /// (see [`v1::ErrorReason`](crate::v1::ErrorReason)).
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Rpc(error) => error.reason(),
            _ => None,
        }
    }

    /// The gRPC status code, if the error came from a call.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc(error) => Some(error.code()),
            _ => None,
        }
    }

    /// Whether the same call can succeed later, with nothing changed by the caller.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Rpc(error) => error.is_retriable(),
            Self::Unreachable { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn credential(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Credential {
            path: path.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn unreachable(
        server: &impl ToString,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Unreachable {
            server: server.to_string(),
            source: io::Error::other(source),
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Rpc(Box::new(RpcError::from(status)))
    }
}

/// A call that ended without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe())]
pub struct RpcError {
    code: Code,
    reason: Option<String>,
    message: String,
    retry_delay: Option<Duration>,
    fields: Vec<(String, String)>,
    transport: Option<String>,
}

impl RpcError {
    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The `ErrorInfo` reason, when the server gave one in the domain `zta`.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The server's sentence. It may name what the caller sent.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How long the server asks to wait before trying again.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.retry_delay
    }

    /// The fields of the request that are wrong, each with a description.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// What went wrong below gRPC (connection, TLS), when the call never reached the server
    /// or its answer never came back. Holds nothing that was sent.
    pub fn transport(&self) -> Option<&str> {
        self.transport.as_deref()
    }

    /// Whether the same call can succeed later, with nothing changed by the caller.
    pub fn is_retriable(&self) -> bool {
        match self.code {
            Code::Unavailable | Code::DeadlineExceeded => true,
            Code::ResourceExhausted => self.reason() == Some("RATE_LIMITED"),
            _ => self.transport.is_some(),
        }
    }

    fn describe(&self) -> String {
        let name = self
            .reason
            .clone()
            .unwrap_or_else(|| format!("{:?}", self.code));
        let mut text = match &self.transport {
            Some(problem) => format!("the call did not get through: {problem}"),
            None if self.message.is_empty() => name,
            None => format!("{} ({name})", self.message),
        };
        for (field, problem) in &self.fields {
            text.push_str(&format!("; `{field}`: {problem}"));
        }
        text
    }
}

impl From<tonic::Status> for RpcError {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let fields = details.bad_request().map(|bad| {
            bad.field_violations
                .iter()
                .map(|v| (v.field.clone(), v.description.clone()))
                .collect()
        });
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()),
            message: status.message().to_owned(),
            retry_delay: details.retry_info().and_then(|info| info.retry_delay),
            fields: fields.unwrap_or_default(),
            transport: transport_problem(&status),
        }
    }
}

/// The innermost causes of a failed connection; tonic's own message is `transport error`.
fn transport_problem(status: &tonic::Status) -> Option<String> {
    let mut source = status.source()?;
    // A status of ours (a deadline) on its way through tonic is not a connection's failure.
    if source.is::<tonic::Status>() {
        return None;
    }
    let mut texts = vec![source.to_string()];
    while let Some(next) = source.source() {
        let text = next.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
        source = next;
    }
    Some(texts.join(": "))
}

/// Why tool arguments cannot be sent. None of these quotes the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentsError {
    /// Not UTF-8.
    #[error("the arguments are not UTF-8")]
    NotUtf8,
    /// Not JSON.
    #[error("the arguments are not JSON")]
    NotJson,
    /// JSON, but not an object.
    #[error("the arguments are not a JSON object")]
    NotAnObject,
    /// A key stands twice in one object.
    #[error("the arguments hold a key twice")]
    DuplicateKey,
    /// Nested deeper than [`DEPTH_MAX`](crate::arguments::DEPTH_MAX).
    #[error("the arguments are nested deeper than 32 levels")]
    TooDeep,
    /// Longer than [`BYTES_MAX`](crate::arguments::BYTES_MAX).
    #[error("the arguments are longer than 262144 bytes")]
    TooLong,
}

impl From<std::convert::Infallible> for ArgumentsError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str, domain: &str) -> tonic::Status {
        let mut details = ErrorDetails::with_error_info(reason, domain, []);
        details.set_retry_info(Some(Duration::from_secs(2)));
        details.add_bad_request_violation("name", "too long");
        tonic::Status::with_error_details(code, "no", details)
    }

    #[test]
    fn the_reason_is_exposed_when_it_is_ours() {
        let error = Error::from(status(Code::AlreadyExists, "AGENT_EXISTS", "zta"));
        assert_eq!(error.reason(), Some("AGENT_EXISTS"));
        assert_eq!(error.code(), Some(Code::AlreadyExists));
        assert!(!error.is_retriable());
        assert_eq!(error.to_string(), "no (AGENT_EXISTS); `name`: too long");
        let Error::Rpc(rpc) = error else {
            panic!("an RPC error")
        };
        assert_eq!(rpc.retry_delay(), Some(Duration::from_secs(2)));
        let foreign = Error::from(status(Code::AlreadyExists, "AGENT_EXISTS", "proxy.example"));
        assert_eq!(foreign.reason(), None);
    }

    #[test]
    fn what_may_pass_is_retriable_and_a_limit_is_not() {
        for (code, reason, retriable) in [
            (Code::Unavailable, "STORE_UNAVAILABLE", true),
            (Code::DeadlineExceeded, "", true),
            (Code::ResourceExhausted, "RATE_LIMITED", true),
            (Code::ResourceExhausted, "LIMIT_EXCEEDED", false),
            (Code::PermissionDenied, "NOT_PERMITTED", false),
            (Code::Unauthenticated, "KEY_UNKNOWN", false),
            (Code::Internal, "INTERNAL", false),
        ] {
            let error = Error::from(status(code, reason, "zta"));
            assert_eq!(error.is_retriable(), retriable, "{code:?} {reason}");
        }
    }
}
