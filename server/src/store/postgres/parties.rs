//! What was said of agents and users, in all its versions, in Postgres.

use sqlx::{PgConnection, PgPool, Row as _};

use super::changes::At;
use super::error::translate;
use crate::model::{AgentRecord, EntityUid, Party, PartyVersion, PrincipalKind, UserRecord};
use crate::store::StoreError;
use crate::store::value::{corrupt, parse_tags, signed, tags_text, unsigned};

/// What is said of an agent from this epoch on.
pub(super) async fn of_agent(
    tx: &mut PgConnection,
    at: &At,
    agent: &AgentRecord,
) -> Result<(), StoreError> {
    let profile = &agent.profile;
    sqlx::query(
        "INSERT INTO party_versions (epoch, log_id, type, id, name, owner, zone, roles, attributes) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(at.epoch)
    .bind(at.log_id)
    .bind(PrincipalKind::Agent.as_str())
    .bind(&agent.id)
    .bind(&agent.name)
    .bind(&profile.owner)
    .bind(&profile.zone)
    .bind(&profile.roles)
    .bind(tags_text(&profile.attributes)?)
    .execute(tx)
    .await
    .map(drop)
    .map_err(translate)
}

/// What is said of a user from this epoch on.
pub(super) async fn of_user(
    tx: &mut PgConnection,
    at: &At,
    user: &UserRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO party_versions (epoch, log_id, type, id, name, roles, attributes) \
         VALUES ($1, $2, $3, $4, $5, $6, '{}')",
    )
    .bind(at.epoch)
    .bind(at.log_id)
    .bind(PrincipalKind::User.as_str())
    .bind(&user.id)
    .bind(user.name())
    .bind(&user.roles)
    .execute(tx)
    .await
    .map(drop)
    .map_err(translate)
}

/// See [`crate::store::RegistryStore::party_versions`].
pub(super) async fn versions(
    readers: &PgPool,
    since: u64,
    until: u64,
    limit: u32,
) -> Result<Vec<PartyVersion>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM party_versions WHERE epoch > $1 AND epoch <= $2 ORDER BY epoch LIMIT $3",
    )
    .bind(signed(since))
    .bind(signed(until))
    .bind(i64::from(limit))
    .fetch_all(readers)
    .await
    .map_err(translate)?;
    rows.iter().map(version).collect()
}

fn version(row: &sqlx::postgres::PgRow) -> Result<PartyVersion, StoreError> {
    let text = |name: &str| row.try_get::<String, _>(name).map_err(translate);
    let optional = |name: &str| row.try_get::<Option<String>, _>(name).map_err(translate);
    let kind = PrincipalKind::parse(&text("type")?);
    let kind = kind.ok_or_else(|| corrupt("a party of no known type"))?;
    Ok(PartyVersion {
        epoch: unsigned(row.try_get("epoch").map_err(translate)?)?,
        uid: EntityUid::new(kind.cedar_type(), text("id")?),
        party: Party {
            name: text("name")?,
            owner: optional("owner")?,
            zone: optional("zone")?,
            attributes: parse_tags(&text("attributes")?)?,
            roles: row.try_get("roles").map_err(translate)?,
        },
    })
}
