//! The first start of a log: revision 1 and one administrator. What if we crash here:
//! each step is one transaction and is skipped by the next start if it is done.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::material::{Material, private_dir};
use super::{AppError, start_error};
use crate::audit::{AppendError, Audit, Record};
use crate::config::Config;
use crate::identity::public_key::PublicKey;
use crate::identity::spiffe::{PrincipalName, SpiffeId};
use crate::keys::{KeyAlgorithm, SigningKey as _, SoftwareKey};
use crate::model::{
    Change, EntityUid, Event, EventType, Instance, Revision, RevisionMeta, UserRecord,
};
use crate::pdp::Pdp;
use crate::policy::{PolicySource, builtin_source, compile, content_sha256};
use crate::store::SharedStore;

/// The first administrator's name.
const ADMINISTRATOR: &str = "admin";

/// What a first start made.
pub(super) struct FirstStart {
    pub(super) credential_dir: PathBuf,
    spiffe_id: String,
    instance_id: Uuid,
}

impl FirstStart {
    /// Completes the credential folder with the address, once it is known.
    pub(super) fn write_endpoint(&self, address: SocketAddr) -> std::io::Result<()> {
        let connect = if address.ip().is_unspecified() {
            SocketAddr::from(([127, 0, 0, 1], address.port()))
        } else {
            address
        };
        let text = json!({
            "endpoint": connect.to_string(),
            "spiffe_id": self.spiffe_id,
            "instance_id": self.instance_id.to_string(),
        });
        std::fs::write(self.credential_dir.join("zta.json"), format!("{text:#}\n"))
    }
}

/// Makes what a new log needs. `None` when everything is there already.
pub(super) async fn first_start(
    config: &Config,
    store: &SharedStore,
    audit: &Audit,
    material: &Material,
    now: OffsetDateTime,
) -> Result<Option<FirstStart>, AppError> {
    let changes = store.changes_since(0, 0).await?;
    if changes.revision.is_none() {
        let revision = revision_1(config, material, now)?;
        let event = Event::new(EventType::LogCreated, audit.log_id(), Uuid::now_v7(), now)
            .with_detail("revision", "1")
            .with_detail("content_sha256", hex::encode(revision.meta.content_sha256))
            .with_detail("origin", material.origin.as_str());
        append(audit, event, Change::ApplyRevision(Box::new(revision))).await?;
    }
    if !changes.users.is_empty() {
        return Ok(None);
    }
    administrator(config, audit, material, now).await
}

/// Another replica may do the same at the same time: then its work stands.
async fn append(audit: &Audit, event: Event, change: Change) -> Result<bool, AppError> {
    let record = Record {
        event,
        inputs: None,
        epoch: None,
        change: Some(change),
    };
    match audit.append(record).await {
        Ok(_) => Ok(true),
        Err(AppendError::Conflict(_)) => Ok(false),
        Err(error) => Err(start_error(error)),
    }
}

fn revision_1(
    config: &Config,
    material: &Material,
    now: OffsetDateTime,
) -> Result<Revision, AppError> {
    let source = match &config.policy_dir {
        Some(dir) => PolicySource::read(std::slice::from_ref(dir)).map_err(AppError::Start)?,
        None => builtin_source(),
    };
    let compiled = compile(&source).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|d| format!("{}:{}: {}", d.file, d.line, d.message))
            .collect();
        AppError::Start(format!(
            "the policies of the first start do not pass:\n{}",
            lines.join("\n")
        ))
    })?;
    Ok(Revision {
        meta: RevisionMeta {
            number: 1,
            author: EntityUid::new("ZTA::Zone", material.ca.trust_domain().as_str()),
            message: "first start".to_owned(),
            apply_time: now,
            content_sha256: content_sha256(&source),
            policies: compiled.policy_count(),
        },
        schema_files: source.schemas,
        chunks: compiled.chunks,
    })
}

async fn administrator(
    config: &Config,
    audit: &Audit,
    material: &Material,
    now: OffsetDateTime,
) -> Result<Option<FirstStart>, AppError> {
    let key = SoftwareKey::generate(KeyAlgorithm::EcdsaP256).map_err(start_error)?;
    let public = PublicKey::from_spki(key.public_key_spki_der()).map_err(start_error)?;
    let name = PrincipalName::parse(ADMINISTRATOR).map_err(start_error)?;
    let trust_domain = material.ca.trust_domain();
    let id = SpiffeId::user(trust_domain, &name);
    let lifetime = time::Duration::hours(24);
    let certificate = material
        .ca
        .issue_svid(&public, &id, lifetime, now)
        .map_err(start_error)?;
    let user = UserRecord {
        id: format!("{}#{ADMINISTRATOR}", trust_domain.uri()),
        spiffe_id: id.as_str().to_owned(),
        roles: vec!["administrator".to_owned()],
        create_time: now,
    };
    let instance = Instance {
        id: Uuid::new_v4(),
        principal_id: user.id.clone(),
        key_sha256: public.sha256(),
        generation: 1,
        revoked: false,
        create_time: now,
    };
    let dir = config.data_dir.join("admin");
    // The credential stands before the registry knows its key: a crash in between
    // leaves a credential without rights, never rights without a credential.
    private_dir(&dir).map_err(start_error)?;
    let key_pem = key.pkcs8_pem().map_err(start_error)?;
    write_private(&dir.join("key.pem"), &key_pem).map_err(start_error)?;
    std::fs::write(dir.join("cert.pem"), certificate.pem()).map_err(start_error)?;
    std::fs::write(dir.join("ca.pem"), material.ca.certificate_pem()).map_err(start_error)?;
    let mut event = Event::new(EventType::Enrolled, audit.log_id(), Uuid::now_v7(), now)
        .with_detail("certificate_serial", certificate.serial.as_str())
        .with_detail("roles", json!(user.roles));
    event.actor = Some(EntityUid::new("ZTA::User", &user.id));
    event.instance = Some(instance.id);
    let instance_id = instance.id;
    if !append(audit, event, Change::RegisterUser(user, instance)).await? {
        return Ok(None);
    }
    Ok(Some(FirstStart {
        credential_dir: dir,
        spiffe_id: id.as_str().to_owned(),
        instance_id,
    }))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// Puts the start on record, with what was configured (no secret is among it).
pub(super) async fn record_start(config: &Config, pdp: &Pdp) -> Result<(), AppError> {
    let now = (pdp.clock)();
    let event = pdp
        .event(EventType::ServerStarted, now)
        .with_detail("version", env!("CARGO_PKG_VERSION"))
        .with_detail(
            "store",
            if config.database_url.is_some() {
                "postgres"
            } else {
                "sqlite"
            },
        )
        .with_detail("plaintext", config.plaintext)
        .with_detail("redact", json!(config.redact));
    pdp.audit
        .append(Record::fact(event))
        .await
        .map(drop)
        .map_err(start_error)
}

/// Puts the stop on record.
pub(super) async fn record_stop(pdp: &Pdp) {
    let event = pdp.event(EventType::ServerStopped, (pdp.clock)());
    if let Err(error) = pdp.audit.append(Record::fact(event)).await {
        tracing::warn!(%error, "the stop could not be put on record");
    }
}
