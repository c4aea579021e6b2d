//! What this replica knows, all of one epoch: registry, policies and entities in one
//! immutable value, so that no decision mixes two states. The one consumer of the store's change
//! feed.
//!
//! Nothing depends on notifications: the audit writer compares epochs under the head
//! row's lock, and a decision of an older epoch is made again after [`Replica::catch_up`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::identity::registry::Registry;
use crate::model::{EntityPage, EntityVersion, RevisionMeta};
use crate::policy::{Compiled, EntityMap, EntityTypes, PolicySource, compile, content_sha256};
use crate::store::{Changes, ENTITY_PAGE, SharedStore, StoreError};

/// A revision in force.
#[derive(Debug)]
pub(crate) struct ActiveRevision {
    pub(crate) meta: RevisionMeta,
    pub(crate) compiled: Compiled,
}

/// Everything that a decision looks at.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The epoch that it holds in.
    pub(crate) epoch: u64,
    pub(crate) registry: Arc<Registry>,
    /// `None` before the first revision is applied; then nothing is decided.
    pub(crate) revision: Option<Arc<ActiveRevision>>,
    /// Stored entities, read by the schema of the revision.
    pub(crate) entities: EntityMap,
}

/// Holds the newest state.
pub(crate) struct Replica {
    store: SharedStore,
    current: ArcSwap<State>,
    /// One refresh at a time; the others wait for its result.
    refresh: Mutex<()>,
}

impl Replica {
    /// Loads the state from the store.
    ///
    /// # Errors
    /// When the store cannot be read, or the revision in force does not compile.
    pub(crate) async fn load(store: SharedStore) -> Result<Self, StoreError> {
        let empty = State {
            epoch: 0,
            registry: Arc::default(),
            revision: None,
            entities: EntityMap::default(),
        };
        let changes = store.changes_since(0, 0).await?;
        let current = ArcSwap::from_pointee(advance(&store, &empty, changes).await?);
        Ok(Self {
            store,
            current,
            refresh: Mutex::new(()),
        })
    }

    /// The newest state. No lock.
    pub(crate) fn current(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Returns once the state is at least of that epoch.
    ///
    /// # Errors
    /// When the store cannot be read; the state stays as it was.
    pub(crate) async fn catch_up(&self, epoch: u64) -> Result<(), StoreError> {
        if self.current.load().epoch >= epoch {
            return Ok(());
        }
        let _one = self.refresh.lock().await;
        let current = self.current();
        if current.epoch >= epoch {
            return Ok(());
        }
        let known = current.revision.as_ref().map_or(0, |r| r.meta.number);
        let changes = self.store.changes_since(current.epoch, known).await?;
        let next = advance(&self.store, &current, changes).await?;
        tracing::debug!(epoch = next.epoch, "caught up with the store");
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// Whether the store has moved on since `epoch`; the state is then of a later one.
    /// Asked before a refusal that never meets the head row's lock, such as of a key
    /// that another replica may have enrolled a moment ago.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn is_newer_than(&self, epoch: u64) -> Result<bool, StoreError> {
        if self.current.load().epoch <= epoch {
            self.catch_up(self.store.head().await?.epoch).await?;
        }
        Ok(self.current.load().epoch > epoch)
    }

    /// Keeps up with other replicas. Never ends; a failing store is tried again.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            self.store.wait_for_change().await;
            let seen = self.current.load().epoch;
            let result = match self.store.head().await {
                Ok(head) if head.epoch > seen => self.catch_up(head.epoch).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "the change feed could not be read; decisions wait for it");
            }
        }
    }
}

async fn advance(
    store: &SharedStore,
    state: &State,
    changes: Changes,
) -> Result<State, StoreError> {
    let registry = Arc::new(state.registry.with(&changes));
    let revision = match changes.revision {
        None => state.revision.clone(),
        Some(stored) => {
            let source = PolicySource {
                policies: stored.policy_files(),
                schemas: stored.schema_files,
            };
            if content_sha256(&source) != stored.meta.content_sha256 {
                let number = stored.meta.number;
                let what =
                    format!("the texts of revision {number} are not those that were applied");
                return Err(StoreError::Corrupt(what));
            }
            // Compiling a large revision takes seconds; other calls go on meanwhile.
            let compiled = tokio::task::spawn_blocking(move || compile(&source, None))
                .await
                .map_err(|e| StoreError::Corrupt(format!("compiling a revision failed: {e}")))?
                .map_err(|errors| {
                    let first = errors
                        .first()
                        .map(|d| d.message.clone())
                        .unwrap_or_default();
                    let number = stored.meta.number;
                    StoreError::Corrupt(format!("revision {number} does not compile here: {first}"))
                })?;
            Some(Arc::new(ActiveRevision {
                meta: stored.meta,
                compiled,
            }))
        }
    };
    let entities = advance_entities(
        store,
        state,
        revision.as_deref(),
        changes.epoch,
        changes.entities,
    );
    Ok(State {
        epoch: changes.epoch,
        registry,
        entities: entities.await?,
        revision,
    })
}

/// The entities of `epoch`. Those that changed come in pages, the next one read while one
/// is made part of the map: a million at the start are never held twice.
async fn advance_entities(
    store: &SharedStore,
    state: &State,
    revision: Option<&ActiveRevision>,
    epoch: u64,
    first: EntityPage,
) -> Result<EntityMap, StoreError> {
    let mut entities = state.entities.clone();
    let Some(revision) = revision else {
        return match first.versions.is_empty() {
            true => Ok(entities),
            false => Err(corrupt("entities are stored, but no revision".to_owned())),
        };
    };
    let types = revision.compiled.entity_types();
    let mut page = Some(first);
    while let Some(EntityPage { versions, next }) = page {
        let following = async {
            match &next {
                Some(after) => store
                    .entity_changes(state.epoch, epoch, Some(after), ENTITY_PAGE)
                    .await
                    .map(Some),
                None => Ok(None),
            }
        };
        let (applied, following) = tokio::join!(apply(entities, types, versions), following);
        entities = applied?;
        page = following?;
    }
    match &state.revision {
        Some(before) if !Arc::ptr_eq(before.compiled.entity_types(), types) => {
            read_again(entities, before.compiled.entity_types(), types).await
        }
        _ => Ok(entities),
    }
}

/// Versions of this many entities or fewer are quickly read.
const FEW: usize = 64;

async fn apply(
    mut entities: EntityMap,
    types: &Arc<EntityTypes>,
    versions: Vec<EntityVersion>,
) -> Result<EntityMap, StoreError> {
    let types = Arc::clone(types);
    let few = versions.len() <= FEW;
    let work = move || match entities.apply(&types, &versions) {
        Ok(()) => Ok(entities),
        Err(error) => Err(corrupt(format!("a stored entity does not fit: {error}"))),
    };
    if few { work() } else { blocking(work).await? }
}

/// Under another schema the same texts may mean other values. Apply refused a schema that
/// they do not fit.
async fn read_again(
    entities: EntityMap,
    before: &Arc<EntityTypes>,
    after: &Arc<EntityTypes>,
) -> Result<EntityMap, StoreError> {
    if entities.is_empty() {
        return Ok(entities);
    }
    let (before, after) = (Arc::clone(before), Arc::clone(after));
    blocking(move || entities.under(&before, &after))
        .await?
        .map_err(|misfits| {
            corrupt(format!(
                "stored entities do not fit: {}",
                misfits.join("; ")
            ))
        })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| corrupt(format!("a worker failed: {e}")))
}

fn corrupt(what: String) -> StoreError {
    StoreError::Corrupt(what)
}
