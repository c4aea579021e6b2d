//! `zta user …`

use clap::Subcommand;
use serde_json::json;
use zta_client::v1;

use super::agent::shown::{key_json, keys_table};
use super::{Failure, Options, line, table, time_text};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a join token for a person: one use, ten minutes. Printed once; `zta agent enroll`
    /// takes it. The roles of somebody who is on record stay as they are.
    Invite {
        /// The user's name or id.
        user: String,
        /// A role of a new user, for example `administrator`; may be given several times.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Why, for the record.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// List the users.
    List,
    /// List the keys of a user.
    Keys {
        /// The user's name or id.
        user: String,
    },
    /// End all keys and join tokens of a user for good, or one key.
    Revoke {
        /// The user's name or id.
        user: String,
        /// The one key to end.
        #[arg(long = "key", value_name = "ID", default_value = "")]
        instance_id: String,
        /// Why, for the record.
        #[arg(long, default_value = "")]
        note: String,
        /// Go on although nobody would be left with a key who may invite users. The way back
        /// in is `zta serve --new-administrator`.
        #[arg(long)]
        force: bool,
    },
}

pub(super) async fn run(options: &Options, command: Command) -> Result<(), Failure> {
    match command {
        Command::Invite { user, roles, note } => {
            let request = v1::InviteRequest { user, roles, note };
            let answer = options.client()?.users().invite(request).await?;
            let answer = answer.into_inner();
            if options.json {
                return line(json!({
                    "join_token": answer.join_token,
                    "expire_time": time_text(answer.expire_time),
                    "user": user_json(&answer.user.unwrap_or_default()),
                }));
            }
            line(answer.join_token)
        }
        Command::List => list(options).await,
        Command::Keys { user } => keys(options, &user).await,
        Command::Revoke {
            user,
            instance_id,
            note,
            force,
        } => {
            let what = match instance_id.is_empty() {
                true => "revoked all keys of",
                false => "revoked a key of",
            };
            let request = v1::RevokeKeysRequest {
                user,
                instance_id,
                note,
                force,
            };
            let answer = options.client()?.users().revoke_keys(request).await?;
            let user = answer.into_inner().user.unwrap_or_default();
            match options.json {
                true => line(user_json(&user)),
                false => line(format!("{what} {}", user.id)),
            }
        }
    }
}

fn user_json(user: &v1::User) -> serde_json::Value {
    json!({
        "name": user.name,
        "id": user.id,
        "spiffe_id": user.spiffe_id,
        "roles": user.roles,
        "keys": user.keys,
        "create_time": time_text(user.create_time),
    })
}

async fn list(options: &Options) -> Result<(), Failure> {
    let client = options.client()?;
    let mut users = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::UserServiceListRequest {
            page_size: 1000,
            page_token,
        };
        let page = client.users().list(request).await?.into_inner();
        users.extend(page.users);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if options.json {
        return users.iter().try_for_each(|user| line(user_json(user)));
    }
    let row = |user: &v1::User| {
        vec![
            user.name.clone(),
            user.roles.join(", "),
            user.keys.to_string(),
            time_text(user.create_time),
            user.id.clone(),
        ]
    };
    let rows: Vec<_> = users.iter().map(row).collect();
    table(&["NAME", "ROLES", "KEYS", "SINCE", "ID"], &rows)
}

async fn keys(options: &Options, user: &str) -> Result<(), Failure> {
    let client = options.client()?;
    let mut keys = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListKeysRequest {
            user: user.to_owned(),
            page_size: 1000,
            page_token,
        };
        let page = client.users().list_keys(request).await?.into_inner();
        keys.extend(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match options.json {
        true => keys.iter().try_for_each(|key| line(key_json(key))),
        false => keys_table(&keys),
    }
}
