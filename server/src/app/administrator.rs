//! The first administrator's credential, in `<data_dir>/admin`.
//!
//! Its certificate is kept fresh as long as the folder stays there: whoever reads this
//! folder can read the CA's key beside it, so nothing is given away, and an administrator
//! who calls the server once a month is not locked out. Moved elsewhere, the credential
//! lives by its client's own renewals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::bootstrap::append;
use super::material::{Material, private_dir};
use super::{AppError, start_error};
use crate::audit::{Audit, Record};
use crate::config::Config;
use crate::identity::ca::CaChain;
use crate::identity::peer::PeerCertificate;
use crate::identity::public_key::PublicKey;
use crate::identity::spiffe::{PrincipalName, SpiffeId, TrustDomain};
use crate::keys::{KeyAlgorithm, SigningKey as _, SoftwareKey, pem};
use crate::model::change::{CertificateRecord, Renewal};
use crate::model::{
    Change, EntityUid, Event, EventType, Instance, InstanceState, Principal, PrincipalKind,
    Standing, UserRecord,
};
use crate::pdp::Pdp;
use crate::store::SharedStore;

/// The first administrator's name.
const ADMINISTRATOR: &str = "admin";
/// How long each certificate is good for.
const LIFETIME: Duration = Duration::hours(24);

/// What a first start made.
pub(super) struct FirstStart {
    pub(super) credential_dir: PathBuf,
    spiffe_id: String,
    instance_id: Uuid,
}

impl FirstStart {
    /// Tells the credential's clients where the server is, as far as it is known.
    fn write_endpoint(&self, address: SocketAddr) -> std::io::Result<()> {
        let text = json!({
            "endpoint": reachable(address).to_string(),
            "spiffe_id": self.spiffe_id,
            "instance_id": self.instance_id.to_string(),
        });
        write_private(
            &self.credential_dir.join("zta.json"),
            &format!("{text:#}\n"),
        )
    }
}

/// The roles of the first administrator.
const ROLES: [&str; 1] = ["administrator"];

/// The first administrator, as policies see it.
pub(super) fn principal(trust_domain: &TrustDomain) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        id: format!("{}#{ADMINISTRATOR}", trust_domain.uri()),
        name: ADMINISTRATOR.to_owned(),
        roles: ROLES.map(str::to_owned).to_vec(),
        owner: String::new(),
        zone: String::new(),
        attributes: Arc::default(),
        state: Standing::Active,
        instance: None,
    }
}

/// Makes the first administrator: a person with an enrolled key, whose rights come from
/// `policies/admin.cedar`. `None` when another replica made one meanwhile.
pub(super) async fn create(
    config: &Config,
    audit: &Audit,
    material: &Material,
    now: OffsetDateTime,
) -> Result<Option<FirstStart>, AppError> {
    let made = write_credential(config, material, now)?;
    let user = UserRecord {
        id: principal(material.ca.trust_domain()).id,
        spiffe_id: made.first.spiffe_id.clone(),
        roles: ROLES.map(str::to_owned).to_vec(),
        create_time: now,
    };
    let event = made
        .event(audit, now)
        .with_detail("roles", json!(user.roles));
    let change = Change::RegisterUser(user, made.instance, made.certificate);
    let done = append(audit, event, change).await?;
    if !done {
        // Another replica made one: this key is nobody's.
        std::fs::remove_dir_all(&made.first.credential_dir).map_err(start_error)?;
        return Ok(None);
    }
    Ok(Some(made.first))
}

/// Makes the first administrator another key, unless the one in its folder is active: the way
/// back in where the last key was revoked or lost. Gives nothing away: who starts the server
/// has the CA's key. Roles and policies stay as they are on record.
pub(super) async fn create_again(
    config: &Config,
    pdp: &Arc<Pdp>,
    material: &Material,
    now: OffsetDateTime,
) -> Result<Option<FirstStart>, AppError> {
    let key = std::fs::read_to_string(config.data_dir.join("admin").join("key.pem"));
    let key = key.map(zeroize::Zeroizing::new);
    let public = key.ok().and_then(|key| public_key(&key));
    let state = pdp.replica.current();
    let known = public.and_then(|key| state.registry.instance(&key.sha256()));
    if known.is_some_and(|key| key.state == InstanceState::Active) {
        tracing::info!("the administrator's key is active; no new one was made");
        return Ok(None);
    }
    let made = write_credential(config, material, now)?;
    let event = made.event(&pdp.audit, now);
    let event = event.with_detail("new_administrator", true);
    let change = Change::AddUserKey(made.instance, made.certificate);
    if !append(&pdp.audit, event, change).await? {
        let text = "there is no administrator on record to make a new key for";
        return Err(AppError::Start(text.to_owned()));
    }
    // The next call is to find the key.
    pdp.replica.is_newer_than(state.epoch).await?;
    Ok(Some(made.first))
}

/// A credential whose key is on no record yet.
struct Written {
    first: FirstStart,
    instance: Instance,
    certificate: CertificateRecord,
}

impl Written {
    fn event(&self, audit: &Audit, now: OffsetDateTime) -> Event {
        let serial = self.certificate.serial.as_str();
        let event = Event::new(EventType::Enrolled, audit.log_id(), Uuid::now_v7(), now);
        let mut event = event.with_detail("certificate_serial", serial);
        event.actor = Some(EntityUid::new("ZTA::User", &self.instance.principal_id));
        event.instance = Some(self.instance.id);
        event
    }
}

/// Writes a new credential of the first administrator. It stands before the registry knows
/// its key: a crash in between leaves a credential without rights, never rights without a
/// credential.
fn write_credential(
    config: &Config,
    material: &Material,
    now: OffsetDateTime,
) -> Result<Written, AppError> {
    let key = SoftwareKey::generate(KeyAlgorithm::EcdsaP256).map_err(start_error)?;
    let public = PublicKey::from_spki(key.public_key_spki_der()).map_err(start_error)?;
    let name = PrincipalName::parse(ADMINISTRATOR).map_err(start_error)?;
    let trust_domain = material.ca.trust_domain();
    let id = SpiffeId::user(trust_domain, &name);
    let certificate = material
        .ca
        .signing()
        .issue_svid(&public, &id, 1, LIFETIME, now)
        .map_err(start_error)?;
    let user_id = principal(trust_domain).id;
    let instance = Instance::new(Uuid::new_v4(), user_id, public.sha256(), now);
    let dir = config.data_dir.join("admin");
    private_dir(&dir).map_err(start_error)?;
    let key_pem = key.pkcs8_pem().map_err(start_error)?;
    write_private(&dir.join("key.pem"), &key_pem).map_err(start_error)?;
    write_private(&dir.join("cert.pem"), &certificate.pem()).map_err(start_error)?;
    write_private(&dir.join("ca.pem"), &material.ca.current().bundle_pem()).map_err(start_error)?;
    let first = FirstStart {
        credential_dir: dir,
        spiffe_id: id.as_str().to_owned(),
        instance_id: instance.id,
    };
    // With the port not known yet: a crash before it is must not cost the credential.
    first.write_endpoint(config.listen).map_err(start_error)?;
    Ok(Written {
        first,
        certificate: certificate.record(instance.id),
        instance,
    })
}

/// The public half of the key in a credential folder.
fn public_key(key_pem: &str) -> Option<PublicKey> {
    let der = pem::decode("PRIVATE KEY", key_pem)?;
    let key = SoftwareKey::from_pkcs8(KeyAlgorithm::EcdsaP256, &der)?;
    PublicKey::from_spki(key.public_key_spki_der()).ok()
}

/// Puts the server's present address into the credential folder, if it is here.
pub(super) fn refresh_endpoint(config: &Config, address: SocketAddr) -> std::io::Result<()> {
    let file = config.data_dir.join("admin").join("zta.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        return Ok(());
    };
    let mut credential: serde_json::Value = serde_json::from_str(&text)?;
    credential["endpoint"] = reachable(address).to_string().into();
    write_private(&file, &format!("{credential:#}\n"))
}

/// Where a local client finds a server that listens there.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], address.port()))
    } else {
        address
    }
}

/// Replaces a file by one for its owner alone. A reader, or a crash, meets the old one or
/// the new one, never half of it.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = path.with_added_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(fresh, path)
}

/// Issues the next certificate for the key in the folder, if there is one there, it is
/// still enrolled, and its certificate has less than half of its life left or is from
/// another CA than the one that signs now. Keeps the trust bundle beside it current.
///
/// # Errors
/// Why it could not; the credential is as it was.
pub(super) async fn refresh(
    config: &Config,
    store: &SharedStore,
    pdp: &Pdp,
    material: &Material,
) -> Result<(), String> {
    let dir = config.data_dir.join("admin");
    let Ok(key) = std::fs::read_to_string(dir.join("key.pem")) else {
        return Ok(());
    };
    let key = zeroize::Zeroizing::new(key);
    let now = (pdp.clock)();
    let current = std::fs::read_to_string(dir.join("cert.pem")).unwrap_or_default();
    // The first of the file: intermediates follow it.
    let current = CaChain::from_pem(current.as_bytes()).ok();
    let current = current.filter(|chain| material.ca.signing().issued(chain.own()));
    let current = current.and_then(|chain| PeerCertificate::from_der(chain.own()).ok());
    // The bundle first: a new certificate beside an old one might not reach the server.
    let bundle = material.ca.current().bundle_pem();
    let known = std::fs::read_to_string(dir.join("ca.pem")).unwrap_or_default();
    if known != bundle {
        write_private(&dir.join("ca.pem"), &bundle).map_err(|e| e.to_string())?;
    }
    if current.is_some_and(|c| c.not_after() - now > LIFETIME / 2) {
        return Ok(());
    }
    let public = public_key(&key).ok_or("key.pem holds no P-256 key")?;
    let state = pdp.replica.current();
    let enrolled = state
        .registry
        .instance(&public.sha256())
        .filter(|i| i.state == InstanceState::Active);
    let instance = enrolled.ok_or("the key is not enrolled any more")?;
    // The generations are the store's. Asked from the newest one: this folder is the
    // server's own, and a copy of it that was renewed elsewhere is the operator's.
    let stored = store.instance(instance.id).await.map_err(|e| e.to_string());
    let presented = stored?.ok_or("the key is not stored")?.generation;
    let user = state
        .registry
        .user(&instance.principal_id)
        .ok_or("the key is no user's")?;
    let id = SpiffeId::parse(&user.spiffe_id).map_err(|e| e.to_string())?;
    let certificate = material
        .ca
        .signing()
        .issue_svid(&public, &id, presented + 1, LIFETIME, now)
        .map_err(|e| e.to_string())?;
    let mut event = pdp
        .event(EventType::Renewed, now)
        .with_detail("certificate_serial", certificate.serial.as_str());
    event.actor = Some(EntityUid::new("ZTA::User", &user.id));
    event.instance = Some(instance.id);
    let change = Change::Renew(Renewal {
        certificate: certificate.record(instance.id),
        presented,
        generation: presented + 1,
        recoveries_max: None,
    });
    let record = Record::change(event, change);
    match pdp.audit.append(record).await {
        Ok(appended) => pdp
            .replica
            .catch_up(appended.epoch)
            .await
            .map_err(|e| e.to_string())?,
        Err(error) => return Err(error.to_string()),
    }
    write_private(&dir.join("cert.pem"), &certificate.pem()).map_err(|e| e.to_string())
}
