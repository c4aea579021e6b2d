//! `zta agent …`

pub(super) mod shown;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use zta_client::v1;

use super::{Failure, Options, line, table, time_text};
use shown::{agent_json, state};

/// Fields of an agent that an update can name.
mod field {
    pub(super) const OWNER: &str = "owner";
    pub(super) const ROLES: &str = "roles";
    pub(super) const ZONE: &str = "zone";
    pub(super) const ATTRIBUTES: &str = "attributes";
    pub(super) const AUDIENCES: &str = "audiences";
    pub(super) const CERTIFICATE_LIFETIME: &str = "certificate_lifetime_max_s";
    pub(super) const TOKEN_LIFETIME: &str = "token_lifetime_max_s";
    pub(super) const DELEGATION_DEPTH: &str = "delegation_depth_max";
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register an agent. Registering again never changes one.
    Register {
        /// Its name, part of its SPIFFE ID.
        name: String,
        #[command(flatten)]
        profile: Profile,
    },
    /// Change what is known of an agent. What is given replaces what was there; what is not
    /// given stays.
    Update {
        /// The agent's name or SPIFFE ID.
        agent: String,
        #[command(flatten)]
        profile: Profile,
        /// Make a field empty, or lift a limit; may be given several times.
        #[arg(long, value_name = "FIELD", value_parser = [
            field::OWNER, field::ROLES, field::ZONE, field::ATTRIBUTES, field::AUDIENCES,
            field::CERTIFICATE_LIFETIME, field::TOKEN_LIFETIME, field::DELEGATION_DEPTH,
        ])]
        clear: Vec<String>,
        /// Why, for the record.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// List the agents.
    List,
    /// Show an agent with its keys and what was done about it last.
    Show {
        /// The agent's name or SPIFFE ID.
        agent: String,
    },
    /// List the keys of an agent.
    Keys {
        /// The agent's name or SPIFFE ID.
        agent: String,
    },
    /// Make a join token: one use, ten minutes. Printed once.
    #[command(visible_alias = "join-token")]
    Token {
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
    /// Deny every decision of an agent until it is reinstated.
    Suspend(Contain),
    /// Deny every decision of an agent under suspicion until it is reinstated.
    Isolate(Contain),
    /// Make a suspended or isolated agent active again, or unlock one of its keys.
    Reinstate(ContainKey),
    /// End all keys of an agent, or one. It can be enrolled again with a new join token.
    Revoke(ContainKey),
    /// End an agent for good; no other one will ever have its name.
    Ban(Contain),
}

/// What is known of an agent.
#[derive(Debug, clap::Args)]
pub(crate) struct Profile {
    /// A role; may be given several times.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Who is responsible for it, a name for people.
    #[arg(long)]
    owner: Option<String>,
    /// The trust zone that it works in: `principal.zone` in policies.
    #[arg(long)]
    zone: Option<String>,
    /// A tag in policies; may be given several times.
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// For whom it may ask tokens; may be given several times.
    #[arg(long = "audience", value_name = "AUDIENCE")]
    audiences: Vec<String>,
    /// The longest life of its certificates.
    #[arg(long, value_name = "SECONDS")]
    certificate_lifetime_max_s: Option<u32>,
    /// The longest life of its access tokens.
    #[arg(long, value_name = "SECONDS")]
    token_lifetime_max_s: Option<u32>,
    /// How many agents may act after it in a chain of delegations; 0: none.
    #[arg(long, value_name = "AGENTS")]
    delegation_depth_max: Option<u32>,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("is not of the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
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

/// Whom or which key, and why.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainKey {
    #[command(flatten)]
    contain: Contain,
    /// Only this key; `zta agent keys` lists them.
    #[arg(long = "key", value_name = "ID", default_value = "")]
    instance_id: String,
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Register { name, profile } => register(options, name, profile).await,
        Command::Update {
            agent,
            profile,
            clear,
            note,
        } => update(options, agent, profile, clear, note).await,
        Command::List => list(options).await,
        Command::Show { agent } => shown::show(options, agent).await,
        Command::Keys { agent } => shown::keys(options, &agent).await,
        Command::Token { agent } => token(options, agent).await,
        Command::Enroll { token, out } => enroll(options, &token, &out).await,
        Command::Suspend(contain) => suspend(options, contain).await,
        Command::Isolate(contain) => isolate(options, contain).await,
        Command::Reinstate(contain) => reinstate(options, contain).await,
        Command::Revoke(contain) => revoke(options, contain).await,
        Command::Ban(contain) => ban(options, contain).await,
    }
}

async fn register(options: &Options, name: String, profile: Profile) -> Result<(), Failure> {
    let request = v1::RegisterRequest {
        name,
        roles: profile.roles,
        owner: profile.owner.unwrap_or_default(),
        zone: profile.zone.unwrap_or_default(),
        attributes: profile.attributes.into_iter().collect(),
        audiences: profile.audiences,
        certificate_lifetime_max_s: profile.certificate_lifetime_max_s,
        token_lifetime_max_s: profile.token_lifetime_max_s,
        delegation_depth_max: profile.delegation_depth_max,
    };
    let answer = options.client()?.agents().register(request).await?;
    done(options, answer.into_inner().agent, "registered")
}

async fn update(
    options: &Options,
    agent: String,
    profile: Profile,
    clear: Vec<String>,
    note: String,
) -> Result<(), Failure> {
    let given = [
        (field::OWNER, profile.owner.is_some()),
        (field::ROLES, !profile.roles.is_empty()),
        (field::ZONE, profile.zone.is_some()),
        (field::ATTRIBUTES, !profile.attributes.is_empty()),
        (field::AUDIENCES, !profile.audiences.is_empty()),
        (
            field::CERTIFICATE_LIFETIME,
            profile.certificate_lifetime_max_s.is_some(),
        ),
        (
            field::TOKEN_LIFETIME,
            profile.token_lifetime_max_s.is_some(),
        ),
        (
            field::DELEGATION_DEPTH,
            profile.delegation_depth_max.is_some(),
        ),
    ];
    let mut paths = clear;
    for (field, _) in given.into_iter().filter(|(_, given)| *given) {
        if paths.iter().any(|path| path == field) {
            let text = format!("`{field}` is to be cleared and set; choose one");
            return Err(Failure::CouldNotRun(text));
        }
        paths.push(field.to_owned());
    }
    if paths.is_empty() {
        let text = "nothing to change: name what is to be set, or `--clear FIELD`";
        return Err(Failure::CouldNotRun(text.to_owned()));
    }
    let (name, spiffe_id) = match agent.starts_with("spiffe://") {
        true => (String::new(), agent),
        false => (agent, String::new()),
    };
    let agent = v1::Agent {
        name,
        spiffe_id,
        roles: profile.roles,
        owner: profile.owner.unwrap_or_default(),
        zone: profile.zone.unwrap_or_default(),
        attributes: profile.attributes.into_iter().collect(),
        audiences: profile.audiences,
        certificate_lifetime_max_s: profile.certificate_lifetime_max_s,
        token_lifetime_max_s: profile.token_lifetime_max_s,
        delegation_depth_max: profile.delegation_depth_max,
        ..v1::Agent::default()
    };
    let request = v1::UpdateRequest {
        agent: Some(agent),
        update_mask: Some(prost_types::FieldMask { paths }),
        note,
    };
    let answer = options.client()?.agents().update(request).await?;
    done(options, answer.into_inner().agent, "updated")
}

async fn token(options: &Options, agent: String) -> Result<(), Failure> {
    let request = v1::CreateJoinTokenRequest { agent };
    let answer = options
        .client()?
        .agents()
        .create_join_token(request)
        .await?;
    let answer = answer.into_inner();
    if options.json {
        return line(json!({
            "join_token": answer.join_token,
            "expire_time": time_text(answer.expire_time),
        }));
    }
    line(answer.join_token)
}

async fn suspend(options: &Options, contain: Contain) -> Result<(), Failure> {
    let Contain { agent, note } = contain;
    let request = v1::SuspendRequest { agent, note };
    let answer = options.client()?.agents().suspend(request).await?;
    done(options, answer.into_inner().agent, "suspended")
}

async fn isolate(options: &Options, contain: Contain) -> Result<(), Failure> {
    let Contain { agent, note } = contain;
    let request = v1::IsolateRequest { agent, note };
    let answer = options.client()?.agents().isolate(request).await?;
    done(options, answer.into_inner().agent, "isolated")
}

async fn reinstate(options: &Options, contain: ContainKey) -> Result<(), Failure> {
    let ContainKey {
        contain: Contain { agent, note },
        instance_id,
    } = contain;
    let what = match instance_id.is_empty() {
        true => "reinstated",
        false => "unlocked a key of",
    };
    let request = v1::ReinstateRequest {
        agent,
        note,
        instance_id,
    };
    let answer = options.client()?.agents().reinstate(request).await?;
    done(options, answer.into_inner().agent, what)
}

async fn revoke(options: &Options, contain: ContainKey) -> Result<(), Failure> {
    let ContainKey {
        contain: Contain { agent, note },
        instance_id,
    } = contain;
    let what = match instance_id.is_empty() {
        true => "revoked",
        false => "revoked a key of",
    };
    let request = v1::RevokeRequest {
        agent,
        note,
        instance_id,
    };
    let answer = options.client()?.agents().revoke(request).await?;
    done(options, answer.into_inner().agent, what)
}

async fn ban(options: &Options, contain: Contain) -> Result<(), Failure> {
    let Contain { agent, note } = contain;
    let request = v1::BanRequest { agent, note };
    let answer = options.client()?.agents().ban(request).await?;
    done(options, answer.into_inner().agent, "banned")
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

fn done(options: &Options, agent: Option<v1::Agent>, what: &str) -> Result<(), Failure> {
    let agent = agent.unwrap_or_default();
    if options.json {
        line(agent_json(&agent))
    } else {
        line(format!("{what} {}", agent.spiffe_id))
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
                a.zone.clone(),
                a.instances.to_string(),
                a.spiffe_id.clone(),
            ]
        })
        .collect();
    table(
        &["NAME", "STATE", "ROLES", "ZONE", "KEYS", "SPIFFE ID"],
        &rows,
    )
}
