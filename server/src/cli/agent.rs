//! `zta agent …`

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use zta_client::v1;

use super::{Failure, Options, line, table, time_text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register an agent. Registering again never changes one.
    Register {
        /// Its name, part of its SPIFFE ID.
        name: String,
        /// A role; may be given several times.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Who is responsible for it, a name for people.
        #[arg(long, default_value = "")]
        owner: String,
    },
    /// Make a join token: one use, ten minutes. Printed once.
    JoinToken {
        /// The agent's name or SPIFFE ID.
        agent: String,
    },
    /// Enrol: make a key, prove it, and write a credential folder.
    Enroll {
        /// The join token.
        #[arg(long, env = "ZTA_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        /// The folder to write; it must not exist or be empty.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// List the agents.
    List,
    /// Deny every decision of an agent until it is reinstated.
    Suspend(Contain),
    /// Deny every decision of an agent under suspicion until it is reinstated.
    Isolate(Contain),
    /// Make a suspended or isolated agent active again.
    Reinstate(Contain),
    /// End an agent for good.
    Revoke(Contain),
}

/// Whom, and why.
#[derive(Debug, clap::Args)]
pub(crate) struct Contain {
    /// The agent's name or SPIFFE ID.
    agent: String,
    /// Why, for the record.
    #[arg(long, default_value = "")]
    note: String,
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Register { name, roles, owner } => {
            let request = v1::RegisterRequest { name, roles, owner };
            let answer = options
                .client()?
                .agents()
                .register(request)
                .await?
                .into_inner();
            show(options, answer.agent, "registered")
        }
        Command::JoinToken { agent } => {
            let request = v1::CreateJoinTokenRequest { agent };
            let answer = options
                .client()?
                .agents()
                .create_join_token(request)
                .await?
                .into_inner();
            if options.json {
                return line(
                    json!({ "join_token": answer.join_token, "expire_time": time_text(answer.expire_time) }),
                );
            }
            line(answer.join_token)
        }
        Command::Enroll { token, out } => enroll(options, &token, &out).await,
        Command::List => list(options).await,
        Command::Suspend(contain) => suspend(options, contain).await,
        Command::Isolate(contain) => isolate(options, contain).await,
        Command::Reinstate(contain) => reinstate(options, contain).await,
        Command::Revoke(contain) => revoke(options, contain).await,
    }
}

async fn suspend(options: &Options, contain: Contain) -> Result<(), Failure> {
    let Contain { agent, note } = contain;
    let request = v1::SuspendRequest { agent, note };
    let answer = options
        .client()?
        .agents()
        .suspend(request)
        .await?
        .into_inner();
    show(options, answer.agent, "suspended")
}

async fn isolate(options: &Options, contain: Contain) -> Result<(), Failure> {
    let Contain { agent, note } = contain;
    let request = v1::IsolateRequest { agent, note };
    let answer = options
        .client()?
        .agents()
        .isolate(request)
        .await?
        .into_inner();
    show(options, answer.agent, "isolated")
}

async fn reinstate(options: &Options, contain: Contain) -> Result<(), Failure> {
    let Contain { agent, note } = contain;
    let request = v1::ReinstateRequest { agent, note };
    let answer = options
        .client()?
        .agents()
        .reinstate(request)
        .await?
        .into_inner();
    show(options, answer.agent, "reinstated")
}

async fn revoke(options: &Options, contain: Contain) -> Result<(), Failure> {
    let Contain { agent, note } = contain;
    let request = v1::RevokeRequest { agent, note };
    let answer = options
        .client()?
        .agents()
        .revoke(request)
        .await?
        .into_inner();
    show(options, answer.agent, "revoked")
}

async fn enroll(options: &Options, token: &str, out: &std::path::Path) -> Result<(), Failure> {
    let server = options.server.as_deref().ok_or_else(|| {
        Failure::CouldNotRun("name the server with --server HOST:PORT or ZTA_SERVER".to_owned())
    })?;
    let credential = zta_client::enroll(server, token, out).await?;
    if options.json {
        return line(json!({
            "spiffe_id": credential.spiffe_id(),
            "instance_id": credential.instance_id(),
            "credential": out,
        }));
    }
    line(format!(
        "enrolled {} in {}",
        credential.spiffe_id(),
        out.display()
    ))
}

fn agent_json(agent: &v1::Agent) -> serde_json::Value {
    json!({
        "name": agent.name,
        "spiffe_id": agent.spiffe_id,
        "state": state(agent),
        "roles": agent.roles,
        "owner": agent.owner,
        "instances": agent.instances,
        "create_time": time_text(agent.create_time),
    })
}

fn state(agent: &v1::Agent) -> String {
    agent
        .state()
        .as_str_name()
        .trim_start_matches("AGENT_STATE_")
        .to_ascii_lowercase()
}

fn show(options: &Options, agent: Option<v1::Agent>, done: &str) -> Result<(), Failure> {
    let agent = agent.unwrap_or_default();
    if options.json {
        line(agent_json(&agent))
    } else {
        line(format!("{done} {}", agent.spiffe_id))
    }
}

async fn list(options: &Options) -> Result<(), Failure> {
    let client = options.client()?;
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::AgentServiceListRequest {
            page_size: 1000,
            page_token,
        };
        let page = client.agents().list(request).await?.into_inner();
        agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if options.json {
        return agents.iter().try_for_each(|agent| line(agent_json(agent)));
    }
    let rows: Vec<Vec<String>> = agents
        .iter()
        .map(|a| {
            vec![
                a.name.clone(),
                state(a),
                a.roles.join(","),
                a.instances.to_string(),
                a.spiffe_id.clone(),
            ]
        })
        .collect();
    table(&["NAME", "STATE", "ROLES", "KEYS", "SPIFFE ID"], &rows)
}
