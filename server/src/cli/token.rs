//! `zta token …`: acting on somebody's behalf, and taking tokens back.

use std::io::Read as _;

use clap::Subcommand;
use serde_json::json;
use zta_client::v1;
use zta_client::v1::exchange_token_request::Exchange;
use zta_client::v1::revoke_tokens_request::Revoked;

use super::{Failure, Options, line, time_text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Let an agent act on your behalf: prints a grant, which only that agent can use.
    Delegate {
        /// Its name or SPIFFE ID.
        agent: String,
        /// What for, as `action` or `action:resource`; may be given several times. Without
        /// it, whatever both of you may do.
        #[arg(long = "scope", value_name = "ENTRY")]
        scope: Vec<String>,
        /// How long, in seconds, at most 3600; without it, as long as can be.
        #[arg(long, default_value_t = 0)]
        lifetime: u32,
        /// Why, for the record.
        #[arg(short, long, default_value = "")]
        note: String,
    },
    /// Turn a grant, read from the standard input, into an access token of yours: prints it
    /// with whom it is for. It is bound to your certificate.
    Act {
        /// A part of the grant's scope; may be given several times.
        #[arg(long = "scope", value_name = "ENTRY")]
        scope: Vec<String>,
        /// How long, in seconds, at most 600; without it, as long as can be.
        #[arg(long, default_value_t = 0)]
        lifetime: u32,
    },
    /// Make tokens void from the next decision on: all that somebody got until now, and that
    /// others got to act for them, or one.
    Revoke {
        #[command(flatten)]
        of: Of,
        /// Why, for the record.
        #[arg(short, long, default_value = "")]
        note: String,
    },
}

/// Whose tokens, or which one.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Of {
    /// An agent, by its SPIFFE ID.
    #[arg(long, value_name = "SPIFFE_ID")]
    agent: Option<String>,
    /// A person of an identity provider, by `<issuer>#<id>`.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// A service of an identity provider, by `<issuer>#<id>`.
    #[arg(long, value_name = "ID")]
    workload: Option<String>,
    /// One token or grant, by its id as the log has it (`detail.token_id` of a login).
    #[arg(long, value_name = "TOKEN_ID")]
    token: Option<String>,
}

/// A grant has at most 4 KiB; more is none.
const GRANT_BYTES_MAX: u64 = 8 * 1024;

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Delegate {
            agent,
            scope,
            lifetime,
            note,
        } => {
            let delegate = v1::Delegate {
                agent,
                scope,
                lifetime_s: lifetime,
                note,
            };
            let answer = exchange(options, Exchange::Delegate(delegate)).await?;
            if options.json {
                let expire_time = time_text(answer.expire_time);
                return line(json!({ "grant": answer.token, "expire_time": expire_time }));
            }
            line(answer.token)
        }
        Command::Act { scope, lifetime } => {
            let act = v1::Act {
                grant: grant()?,
                scope,
                lifetime_s: lifetime,
            };
            show(options, exchange(options, Exchange::Act(act)).await?)
        }
        Command::Revoke { of, note } => revoke(options, of, note).await,
    }
}

async fn revoke(options: &Options, of: Of, note: String) -> Result<(), Failure> {
    let principal = |kind: &str, id: Option<String>| {
        let entity = id.map(|id| v1::EntityRef {
            r#type: format!("ZTA::{kind}"),
            id,
        });
        entity.map(Revoked::Principal)
    };
    let revoked = principal("Agent", of.agent)
        .or_else(|| principal("User", of.user))
        .or_else(|| principal("Workload", of.workload))
        .or_else(|| of.token.map(Revoked::TokenId));
    let client = options.client()?;
    let request = v1::RevokeTokensRequest { revoked, note };
    let answer = client.authentication().revoke_tokens(request).await?;
    if options.json {
        let token = answer.into_inner().consistency_token.unwrap_or_default();
        return line(json!({ "revoked": true, "consistency_token": token.value }));
    }
    line("revoked: void on every replica from the next decision on")
}

/// From the standard input: an argument would be seen by everybody on the machine.
fn grant() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(GRANT_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|e| Failure::CouldNotRun(format!("cannot read the grant: {e}")))?;
    Ok(text.trim().to_owned())
}

async fn exchange(
    options: &Options,
    exchange: Exchange,
) -> Result<v1::ExchangeTokenResponse, Failure> {
    let request = v1::ExchangeTokenRequest {
        exchange: Some(exchange),
    };
    let client = options.client()?;
    let answer = client.authentication().exchange_token(request).await?;
    Ok(answer.into_inner())
}

fn show(options: &Options, answer: v1::ExchangeTokenResponse) -> Result<(), Failure> {
    let subject = answer.subject.unwrap_or_default();
    let actors: Vec<&str> = answer.actors.iter().map(|a| a.id.as_str()).collect();
    let expire_time = time_text(answer.expire_time);
    if options.json {
        return line(json!({
            "access_token": answer.token,
            "expire_time": expire_time,
            "subject": { "type": subject.r#type, "id": subject.id },
            "actors": actors,
            "scope": answer.scope,
        }));
    }
    line(format!("for      {}", subject.id))?;
    line(format!("acting   {}", actors.join(", for it ")))?;
    let scope = match answer.scope.as_slice() {
        [] => "whatever all of them may do".to_owned(),
        scope => scope.join(" "),
    };
    line(format!("scope    {scope}"))?;
    line(format!("until    {expire_time}"))?;
    line(format!("token    {}", answer.token))
}
