//! Agents, users and keys in SQLite, and the change feed over them.

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::{SqliteStore, instances, parse_list, parse_time, translate};
use crate::model::change::JoinTokenRecord;
use crate::model::{
    AgentProfile, AgentRecord, AgentState, AuthorityRecord, Instance, PartyVersion, UserRecord,
};
use crate::store::value::{corrupt, digest, no_head, parse_tags, refuse_nul, signed, unsigned};
use crate::store::{Changes, ENTITY_PAGE, RegistryStore, StoreError};

#[async_trait]
impl RegistryStore for SqliteStore {
    async fn changes_since(&self, epoch: u64, known_revision: u64) -> Result<Changes, StoreError> {
        // One read transaction: in WAL mode all of it sees one state of the database.
        let mut tx = self.readers.begin().await.map_err(translate)?;
        let since = signed(epoch);
        let head = sqlx::query("SELECT epoch, size FROM log_head WHERE one = 1")
            .fetch_optional(&mut *tx)
            .await
            .map_err(translate)?
            .ok_or_else(no_head)?;
        let agents = sqlx::query("SELECT * FROM agents WHERE epoch > $1")
            .bind(since)
            .fetch_all(&mut *tx)
            .await
            .map_err(translate)?;
        let users = sqlx::query("SELECT * FROM users WHERE epoch > $1")
            .bind(since)
            .fetch_all(&mut *tx)
            .await
            .map_err(translate)?;
        let keys = sqlx::query("SELECT * FROM instances WHERE epoch > $1")
            .bind(since)
            .fetch_all(&mut *tx)
            .await
            .map_err(translate)?;
        let authorities = super::authorities::since(&mut tx, since).await?;
        let revocations = super::revocations::since(&mut tx, since).await?;
        let revision = super::policy::news(&mut tx, known_revision).await?;
        let until = unsigned(head.try_get("epoch").map_err(translate)?)?;
        let entities = super::entities::changes(&mut tx, epoch, until, None, ENTITY_PAGE).await?;
        Ok(Changes {
            epoch: until,
            size: unsigned(head.try_get("size").map_err(translate)?)?,
            agents: agents.iter().map(agent).collect::<Result<_, _>>()?,
            users: users.iter().map(user).collect::<Result<_, _>>()?,
            instances: keys.iter().map(instances::read).collect::<Result<_, _>>()?,
            authorities,
            revocations,
            revision,
            entities,
        })
    }

    async fn instance(&self, id: Uuid) -> Result<Option<Instance>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        instances::find(&mut connection, id).await
    }

    async fn instances(
        &self,
        principal_id: &str,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Instance>, StoreError> {
        refuse_nul([&principal_id.to_owned()])?;
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        instances::list(&mut connection, principal_id, after, limit).await
    }

    async fn party_versions(
        &self,
        since: u64,
        until: u64,
        limit: u32,
    ) -> Result<Vec<PartyVersion>, StoreError> {
        super::parties::versions(&self.readers, since, until, limit).await
    }

    async fn authorities(&self) -> Result<Vec<AuthorityRecord>, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(translate)?;
        super::authorities::since(&mut connection, -1).await
    }

    async fn join_token(&self, id: &str) -> Result<Option<JoinTokenRecord>, StoreError> {
        refuse_nul([&id.to_owned()])?;
        let row = sqlx::query("SELECT * FROM join_tokens WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.readers)
            .await
            .map_err(translate)?;
        row.map(|row| {
            Ok(JoinTokenRecord {
                id: row.try_get("id").map_err(translate)?,
                secret_sha256: digest(row.try_get("secret_sha256").map_err(translate)?)?,
                principal_id: row.try_get("principal_id").map_err(translate)?,
                expire_time: parse_time(row.try_get("expire_time").map_err(translate)?)?,
                used: row.try_get("used").map_err(translate)?,
            })
        })
        .transpose()
    }
}

fn agent(row: &SqliteRow) -> Result<AgentRecord, StoreError> {
    let state: &str = row.try_get("state").map_err(translate)?;
    let limit = |name: &str| -> Result<Option<u32>, StoreError> {
        let stored: Option<i64> = row.try_get(name).map_err(translate)?;
        let number = stored.map(u32::try_from).transpose();
        number.map_err(|_| corrupt("a limit out of range"))
    };
    Ok(AgentRecord {
        id: row.try_get("id").map_err(translate)?,
        name: row.try_get("name").map_err(translate)?,
        state: AgentState::parse(state).ok_or_else(|| corrupt("an unknown agent state"))?,
        create_time: parse_time(row.try_get("create_time").map_err(translate)?)?,
        profile: AgentProfile {
            owner: row.try_get("owner").map_err(translate)?,
            roles: parse_list(row.try_get("roles").map_err(translate)?)?,
            zone: row.try_get("zone").map_err(translate)?,
            attributes: parse_tags(row.try_get("attributes").map_err(translate)?)?,
            audiences: parse_list(row.try_get("audiences").map_err(translate)?)?,
            certificate_lifetime_max_s: limit("certificate_lifetime_max_s")?,
            token_lifetime_max_s: limit("token_lifetime_max_s")?,
            delegation_depth_max: limit("delegation_depth_max")?,
        },
    })
}

fn user(row: &SqliteRow) -> Result<UserRecord, StoreError> {
    Ok(UserRecord {
        id: row.try_get("id").map_err(translate)?,
        spiffe_id: row.try_get("spiffe_id").map_err(translate)?,
        roles: parse_list(row.try_get("roles").map_err(translate)?)?,
        create_time: parse_time(row.try_get("create_time").map_err(translate)?)?,
    })
}
