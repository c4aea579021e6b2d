//! The policy enforcement point (PEP) around a tool.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use serde_json::{Map, Value};
use tonic::Code;
use zta_proto::v1;

use crate::{
    arguments::Arguments,
    client::Client,
    decision::{Decision, Denied, IDENTITY_REFUSED, UNAVAILABLE},
    error::{ArgumentsError, Error},
    outcome::{Outcome, Reporter},
};

const TIMEOUT: Duration = Duration::from_secs(1);

type CarriedOut = Result<(), Box<dyn std::error::Error>>;
type CarryOut = dyn Fn(&v1::Obligation, &Decision) -> CarriedOut + Send + Sync;
type Obligations = BTreeMap<String, Arc<CarryOut>>;

/// Lets a tool run only after the server allowed exactly this call.
///
/// Everything else is a deny: an error, a timeout, an answer that is not plainly an allow
/// of this request, an obligation that was not registered or failed. The real cause goes
/// to [`tracing`], without arguments; the caller reads a [`Denied`].
///
/// Cheap to clone. The methods that say something about the calls (`session`, `user`, …)
/// return a guard of their own, so that one may be made for each run:
///
/// ```no_run
/// # async fn example(client: zta_client::Client) -> Result<(), zta_client::Denied> {
/// use zta_client::Guard;
///
/// let guard = Guard::new(client).session("run-7").user("alice");
/// let arguments = serde_json::json!({"query": "zero trust"});
/// let found = guard
///     .run("web_search", &arguments, || async { search(&arguments).await })
///     .await?;
/// # Ok(())
/// # }
/// # async fn search(_: &serde_json::Value) -> Vec<String> { Vec::new() }
/// ```
///
/// It is cooperative: code in the process can call the tool without it. Where that
/// matters, enforce on the side of the resource as well.
#[derive(Clone)]
pub struct Guard {
    client: Client,
    timeout: Duration,
    session_id: String,
    task_id: String,
    user: String,
    traceparent: String,
    fresh: Option<v1::ConsistencyToken>,
    context: Map<String, Value>,
    obligations: Arc<Obligations>,
    /// Shared by the guards that were made of one.
    reporter: Option<Arc<Reporter>>,
}

impl Guard {
    /// A guard under the client's identity.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            timeout: TIMEOUT,
            session_id: String::new(),
            task_id: String::new(),
            user: String::new(),
            traceparent: String::new(),
            fresh: None,
            context: Map::new(),
            obligations: Arc::default(),
            reporter: Some(Arc::new(Reporter::new())),
        }
    }

    /// How long a decision may take before it is a deny; one second if not said.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The name of this run of calls; the server scopes it to the agent.
    #[must_use]
    pub fn session(mut self, session_id: impl Into<String>) -> Self {
        self.session_id = session_id.into();
        self
    }

    /// The task that the calls belong to.
    #[must_use]
    pub fn task(mut self, task_id: impl Into<String>) -> Self {
        self.task_id = task_id.into();
        self
    }

    /// On whose behalf the agent says that it acts. Unproven.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// The W3C `traceparent` that is recorded with the decision.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = traceparent.into();
        self
    }

    /// Decides no earlier than this state of the log: the `consistency_token` of another
    /// answer, for example of the change that shall already count. A server that does not
    /// reach it within two seconds refuses; with the usual timeout of one second the guard
    /// denies before that.
    #[must_use]
    pub fn at_least_as_fresh(mut self, consistency_token: impl Into<String>) -> Self {
        let value = consistency_token.into();
        self.fresh = Some(v1::ConsistencyToken { value });
        self
    }

    /// The agent framework in use.
    #[must_use]
    pub fn framework(self, framework: &str) -> Self {
        self.said("framework", framework)
    }

    /// The agent's name inside its framework.
    #[must_use]
    pub fn agent_name(self, name: &str) -> Self {
        self.said("agent_name", name)
    }

    /// Where the tool comes from, for example `mcp:github`.
    #[must_use]
    pub fn origin(self, origin: &str) -> Self {
        self.said("origin", origin)
    }

    /// The tool's name as the model sees it, where it differs.
    #[must_use]
    pub fn tool_name(self, name: &str) -> Self {
        self.said("tool_name", name)
    }

    fn said(mut self, key: &str, value: &str) -> Self {
        self.context.insert(key.to_owned(), value.into());
        self
    }

    /// Tells the server nothing of what becomes of the calls.
    #[must_use]
    pub fn without_outcomes(mut self) -> Self {
        self.reporter = None;
        self
    }

    /// Registers an obligation that this process can carry out. It is carried out before
    /// the tool runs; if it fails, the tool does not run. A decision that asks for an
    /// obligation that is not registered is a deny.
    #[must_use]
    pub fn obligation<F>(mut self, name: impl Into<String>, carry_out: F) -> Self
    where
        F: Fn(&v1::Obligation, &Decision) -> Result<(), Box<dyn std::error::Error>>
            + Send
            + Sync
            + 'static,
    {
        Arc::make_mut(&mut self.obligations).insert(name.into(), Arc::new(carry_out));
        self
    }

    /// Decides one call of a tool. `Ok` is always an allow, with its obligations carried
    /// out; it is good for one execution with these arguments.
    ///
    /// # Errors
    /// The call must not happen.
    pub async fn authorize<A>(&self, tool: &str, arguments: A) -> Result<Decision, Denied>
    where
        A: TryInto<Arguments>,
        ArgumentsError: From<A::Error>,
    {
        let arguments = arguments.try_into().map_err(|error| {
            let error = ArgumentsError::from(error);
            tracing::warn!(tool, %error, "denied: unfit arguments");
            Denied::undecided(error.to_string(), "INVALID_ARGUMENTS")
        })?;
        let request = self
            .request(tool, &arguments)
            .map_err(|error| no_decision(tool, &error))?;
        let correlation_id = request.correlation_id.clone();
        let decision = self
            .client
            .authorize_within(request, self.timeout)
            .await
            .map_err(|error| no_decision(tool, &error))?;
        if !decision.is_allowed() {
            return Err(Denied::decided(decision));
        }
        if decision.decision_id.is_empty() || decision.correlation_id != correlation_id {
            tracing::error!(tool, "denied: the answer is not one to this request");
            return Err(Denied::undecided(UNAVAILABLE, "ANSWER_MISMATCHED"));
        }
        self.carry_out(tool, &decision)?;
        Ok(decision)
    }

    /// Runs `function` if, and only after, the call was allowed. It runs at most once.
    ///
    /// On record it ends well when it returns; of one that may fail, [`Self::try_run`]
    /// tells the difference.
    ///
    /// # Errors
    /// The call was not allowed; `function` did not run.
    pub async fn run<A, F, Fut, T>(
        &self,
        tool: &str,
        arguments: A,
        function: F,
    ) -> Result<T, Denied>
    where
        A: TryInto<Arguments>,
        ArgumentsError: From<A::Error>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = T>,
    {
        let decision = self.authorize(tool, arguments).await?;
        let running = Running::new(self, &decision);
        let value = function().await;
        running.ended(Outcome::ok());
        Ok(value)
    }

    /// As [`Self::run`], for a function that may fail: its `Err` is on record as an error.
    ///
    /// # Errors
    /// The call was not allowed; `function` did not run.
    pub async fn try_run<A, F, Fut, T, E>(
        &self,
        tool: &str,
        arguments: A,
        function: F,
    ) -> Result<Result<T, E>, Denied>
    where
        A: TryInto<Arguments>,
        ArgumentsError: From<A::Error>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let decision = self.authorize(tool, arguments).await?;
        let running = Running::new(self, &decision);
        let result = function().await;
        running.ended(match result {
            Ok(_) => Outcome::ok(),
            Err(_) => Outcome::error(""),
        });
        Ok(result)
    }

    /// Tells the server what became of a call that [`Self::authorize`] allowed. It does not
    /// wait, and no call fails of it; what cannot be told is counted.
    pub fn report(&self, decision: &Decision, outcome: Outcome) {
        if let Some(reporter) = self.reporter.as_ref().filter(|_| decision.is_allowed()) {
            reporter.put(&self.client, decision, outcome);
        }
    }

    /// How many outcomes the server was not told of: too many at once, or refused.
    #[must_use]
    pub fn outcomes_lost(&self) -> u64 {
        self.reporter.as_ref().map_or(0, |reporter| reporter.lost())
    }

    /// Waits until the server was told of all outcomes; whether that came about in time.
    pub async fn flush_outcomes(&self, timeout: Duration) -> bool {
        match &self.reporter {
            Some(reporter) => reporter.flush(timeout).await,
            None => true,
        }
    }

    fn request(&self, tool: &str, arguments: &Arguments) -> Result<v1::AuthorizeRequest, Error> {
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| Error::Answer("no randomness"))?;
        Ok(v1::AuthorizeRequest {
            action: Some(v1::EntityRef {
                r#type: "ZTA::Action".to_owned(),
                id: "call_tool".to_owned(),
            }),
            resource: Some(v1::EntityRef {
                r#type: "ZTA::Tool".to_owned(),
                id: tool.to_owned(),
            }),
            arguments_json: arguments.json().as_bytes().to_vec(),
            arguments_sha256: arguments.sha256().to_vec(),
            context_json: Value::Object(self.context.clone()).to_string().into_bytes(),
            session_id: self.session_id.clone(),
            task_id: self.task_id.clone(),
            user: self.user.clone(),
            correlation_id: format!("{:032x}", u128::from_be_bytes(id)),
            supported_obligations: self.obligations.keys().cloned().collect(),
            traceparent: self.traceparent.clone(),
            at_least_as_fresh: self.fresh.clone(),
            ..v1::AuthorizeRequest::default()
        })
    }

    fn carry_out(&self, tool: &str, decision: &Decision) -> Result<(), Denied> {
        let refuse = || Denied::undecided(UNAVAILABLE, "OBLIGATION_UNSUPPORTED");
        // All are looked up before any is carried out.
        let handlers: Vec<_> = decision
            .obligations
            .iter()
            .map(|obligation| Some((self.obligations.get(&obligation.name)?, obligation)))
            .collect::<Option<_>>()
            .ok_or_else(|| {
                tracing::error!(tool, "denied: the allow asks for an unknown obligation");
                refuse()
            })?;
        for (handler, obligation) in handlers {
            handler(obligation, decision).map_err(|_| {
                let name = obligation.name.as_str();
                tracing::error!(tool, obligation = name, "denied: the obligation failed");
                refuse()
            })?;
        }
        Ok(())
    }
}

/// A call under way. Dropped before its end, by a panic or because nobody waits for it any
/// more, it counts as failed.
struct Running<'a> {
    guard: &'a Guard,
    decision: &'a Decision,
    began: Instant,
    ended: bool,
}

impl<'a> Running<'a> {
    fn new(guard: &'a Guard, decision: &'a Decision) -> Self {
        Self {
            guard,
            decision,
            began: Instant::now(),
            ended: false,
        }
    }

    fn ended(mut self, outcome: Outcome) {
        self.ended = true;
        let outcome = outcome.duration(self.began.elapsed());
        self.guard.report(self.decision, outcome);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let class = match std::thread::panicking() {
                true => "panicked",
                false => "cancelled",
            };
            let outcome = Outcome::error(class).duration(self.began.elapsed());
            self.guard.report(self.decision, outcome);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("client", &self.client)
            .field("session_id", &self.session_id)
            .field("obligations", &self.obligations.keys())
            .finish_non_exhaustive()
    }
}

/// The deny for a call without a decision. The server's sentence is not logged: it may
/// name what was sent.
fn no_decision(tool: &str, error: &Error) -> Denied {
    let code = error.code().unwrap_or(Code::Unknown);
    let reason = error
        .reason()
        .map_or_else(|| code_name(code), str::to_owned);
    let problem = match error {
        Error::Rpc(rpc) => rpc.transport().unwrap_or_default().to_owned(),
        other => other.to_string(),
    };
    tracing::warn!(tool, ?code, reason, problem, "denied: no decision");
    let message = match code {
        Code::Unauthenticated | Code::PermissionDenied => IDENTITY_REFUSED,
        _ => UNAVAILABLE,
    };
    Denied::undecided(message, reason)
}

/// The code as the other clients write it, for example `DEADLINE_EXCEEDED`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}
