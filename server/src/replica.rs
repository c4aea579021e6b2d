//! What this replica knows, all of one epoch: registry, policies and entities in one
//! immutable value, so that no decision mixes two states. The one consumer of the store's change
//! feed.
//!
//! Nothing depends on notifications: the audit writer compares epochs under the head
//! row's lock, and a decision of an older epoch is made again after [`Replica::catch_up`].

mod parties;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::identity::registry::Registry;
use crate::model::authority::{self, AuthorityRecord};
use crate::model::revision::{Digest, FileChange, RevisionNews};
use crate::model::{EntityPage, EntityVersion, RevisionMeta, SourceFile};
use crate::policy::{
    Compiled, EntityMap, EntityTypes, Pip, PolicySource, SharedSet, compile, compile_passed,
    content_sha256, gates_id,
};
use crate::store::{Changes, ENTITY_PAGE, SharedStore, StoreError};

/// How long a request waits for a state that it demands.
pub(crate) const FRESH_WAIT: Duration = Duration::from_secs(2);
/// How often the head is looked at meanwhile, by all who wait together.
const FRESH_POLL: Duration = Duration::from_millis(50);

/// A revision in force.
#[derive(Debug)]
pub(crate) struct ActiveRevision {
    pub(crate) meta: RevisionMeta,
    pub(crate) compiled: Arc<SharedSet>,
}

/// Everything that a decision looks at.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The epoch that it holds in; 0 before the store was read.
    pub(crate) epoch: u64,
    pub(crate) registry: Arc<Registry>,
    /// `None` before the first revision is applied; then nothing is decided.
    pub(crate) revision: Option<Arc<ActiveRevision>>,
    /// The CAs on record, in the order in which they were prepared.
    pub(crate) authorities: Arc<[AuthorityRecord]>,
    /// Stored entities, read by the schema of the revision.
    pub(crate) entities: EntityMap,
}

impl State {
    /// Whether the stored entities fit a candidate's schema. Exact for a change of this
    /// epoch, and as cheap as what the schema changed.
    ///
    /// # Errors
    /// The first ten that do not, each with what does not.
    pub(crate) fn fits(&self, candidate: &Compiled) -> Result<(), Vec<String>> {
        let Some(revision) = &self.revision else {
            return Ok(());
        };
        let (before, after) = (revision.compiled.entity_types(), candidate.entity_types());
        if self.entities.is_empty() || Arc::ptr_eq(before, after) {
            return Ok(());
        }
        self.entities.under(before, after).map(drop)
    }
}

impl State {
    /// Where policies get attributes from.
    pub(crate) fn pip(&self) -> Pip<'_> {
        Pip {
            stored: &self.entities,
            parties: self,
        }
    }
}

/// Holds the newest state.
pub(crate) struct Replica {
    store: SharedStore,
    current: ArcSwap<State>,
    /// One refresh at a time; the others wait for its result.
    refresh: Mutex<()>,
    /// The largest size of the log that the current state is known to cover: nothing in
    /// the log below it has an epoch that the state has not.
    covered: AtomicU64,
    /// When the head was last looked at for those who wait for a state.
    looked: Mutex<Option<Instant>>,
    /// Counts states, for those who wait for one.
    states: watch::Sender<u64>,
    /// Sets that this process has compiled and not yet seen in force, by the digest of
    /// their content. Whoever offers one keeps it alive: a candidate that is not applied
    /// is gone with its call.
    offers: std::sync::Mutex<Vec<(Digest, Weak<SharedSet>)>>,
}

impl Replica {
    /// A replica that knows nothing yet; [`Self::load`] reads the store.
    pub(crate) fn new(store: SharedStore) -> Self {
        let empty = State {
            epoch: 0,
            registry: Arc::default(),
            revision: None,
            authorities: Arc::default(),
            entities: EntityMap::default(),
        };
        Self {
            store,
            current: ArcSwap::from_pointee(empty),
            refresh: Mutex::new(()),
            covered: AtomicU64::new(0),
            looked: Mutex::new(None),
            states: watch::Sender::new(0),
            offers: std::sync::Mutex::default(),
        }
    }

    /// Loads the state from the store. Seconds for a large revision.
    ///
    /// # Errors
    /// When the store cannot be read, or the revision in force does not compile.
    pub(crate) async fn load(self: &Arc<Self>) -> Result<(), StoreError> {
        let epoch = self.store.head().await?.epoch;
        self.catch_up(epoch).await
    }

    /// Returns once [`Self::load`] has succeeded.
    pub(crate) async fn loaded(&self) {
        // The sender is our own, so it cannot be gone.
        let _ = self.states.subscribe().wait_for(|states| *states > 0).await;
    }

    /// Tells whoever waits of each new state.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.states.subscribe()
    }

    /// The newest state. No lock.
    pub(crate) fn current(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Returns once the state is at least of that epoch.
    ///
    /// # Errors
    /// When the store cannot be read; the state stays as it was.
    pub(crate) async fn catch_up(self: &Arc<Self>, epoch: u64) -> Result<(), StoreError> {
        if self.current.load().epoch >= epoch {
            return Ok(());
        }
        // A task of its own: a caller that gives up waiting must not throw away what
        // takes seconds to compile, only for the next one to begin it again.
        tokio::spawn(Arc::clone(self).refresh_to(epoch))
            .await
            .map_err(|e| StoreError::Unavailable(format!("catching up failed: {e}")))?
    }

    async fn refresh_to(self: Arc<Self>, epoch: u64) -> Result<(), StoreError> {
        let _one = self.refresh.lock().await;
        let current = self.current();
        if current.epoch >= epoch {
            return Ok(());
        }
        let known = current.revision.as_ref().map_or(0, |r| r.meta.number);
        let changes = self.store.changes_since(current.epoch, known).await?;
        let size = changes.size;
        let next = self.advance(current, changes).await?;
        let reached = next.epoch;
        self.current.store(Arc::new(next));
        tracing::debug!(epoch = reached, "caught up with the store");
        self.saw(size, reached);
        self.states.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Whether the store has moved on since `epoch`; the state is then of a later one.
    /// Asked before a refusal that never meets the head row's lock, such as of a key
    /// that another replica may have enrolled a moment ago.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn is_newer_than(self: &Arc<Self>, epoch: u64) -> Result<bool, StoreError> {
        if self.current.load().epoch <= epoch {
            let head = self.store.head().await?;
            self.catch_up(head.epoch).await?;
            self.saw(head.size, head.epoch);
        }
        Ok(self.current.load().epoch > epoch)
    }

    /// Tells of a head of the log that was seen, by reading it or by a commit of our own.
    pub(crate) fn saw(&self, size: u64, epoch: u64) {
        if self.current.load().epoch >= epoch {
            self.covered.fetch_max(size, Ordering::AcqRel);
        }
    }

    /// Waits until the log has at least that size and the state covers it; whether it
    /// came to that within [`FRESH_WAIT`]. Asks nobody where that is known already.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn reach(self: &Arc<Self>, size: u64) -> Result<bool, StoreError> {
        if self.covers(size) {
            return Ok(true);
        }
        // The limit holds for a large revision that is being compiled, too: that goes on.
        match tokio::time::timeout(FRESH_WAIT, self.look_until(size)).await {
            Ok(looked) => looked.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    async fn look_until(self: &Arc<Self>, size: u64) -> Result<(), StoreError> {
        let mut states = self.states.subscribe();
        loop {
            self.look().await?;
            if self.covers(size) {
                return Ok(());
            }
            // A change of another replica wakes us; a mere decision does not.
            let _ = tokio::time::timeout(FRESH_POLL, states.changed()).await;
        }
    }

    fn covers(&self, size: u64) -> bool {
        self.covered.load(Ordering::Acquire) >= size
    }

    /// Reads the head and catches up with it, unless another call has done so since this
    /// one asked: all who wait share one look.
    async fn look(self: &Arc<Self>) -> Result<(), StoreError> {
        let asked = Instant::now();
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|at| at >= asked) {
            return Ok(());
        }
        let now = Instant::now();
        let head = self.store.head().await?;
        self.catch_up(head.epoch).await?;
        self.saw(head.size, head.epoch);
        *looked = Some(now);
        Ok(())
    }

    /// Keeps up with other replicas. Never ends; a failing store is tried again.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            self.store.wait_for_change().await;
            let result = match self.store.head().await {
                Ok(head) => {
                    let caught_up = self.catch_up(head.epoch).await;
                    self.saw(head.size, head.epoch);
                    caught_up
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "the change feed could not be read; decisions wait for it");
            }
        }
    }

    /// Offers a compiled candidate for the case that it comes into force, so that it is
    /// not compiled twice. It stays the caller's, who keeps it until it knows.
    pub(crate) fn offer(&self, content_sha256: Digest, candidate: &Arc<SharedSet>) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|(_, offered)| offered.strong_count() > 0);
        offers.push((content_sha256, Arc::downgrade(candidate)));
    }

    fn take_offer(&self, content_sha256: &Digest) -> Option<Arc<SharedSet>> {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = offers.iter().position(|(d, _)| d == content_sha256)?;
        offers.swap_remove(at).1.upgrade()
    }

    async fn advance(&self, state: Arc<State>, changes: Changes) -> Result<State, StoreError> {
        let registry = Arc::new(state.registry.with(&changes));
        let authorities = authority::with(&state.authorities, &changes.authorities);
        let revision = match changes.revision {
            None => state.revision.clone(),
            Some(news) => Some(Arc::new(self.revision(&state, news).await?)),
        };
        let entities = advance_entities(
            &self.store,
            &state,
            revision.as_deref(),
            changes.epoch,
            changes.entities,
        )
        .await?;
        Ok(State {
            epoch: changes.epoch,
            registry,
            revision,
            authorities,
            entities,
        })
    }

    /// A revision that has come into force: an offer, or what the changes make of ours.
    async fn revision(
        &self,
        state: &State,
        news: RevisionNews,
    ) -> Result<ActiveRevision, StoreError> {
        let meta = news.meta;
        if let Some(compiled) = self.take_offer(&meta.content_sha256) {
            return Ok(ActiveRevision { meta, compiled });
        }
        let before = state.revision.clone();
        let source = match &before {
            Some(before) if news.since != 0 => before.compiled.source().clone(),
            _ => PolicySource::default(),
        };
        let texts = self.missing_texts(&source, &news.changes).await?;
        let (changes, expected) = (news.changes, meta.content_sha256);
        let passed = meta.gates == gates_id();
        // Compiling a large revision takes seconds; other calls go on meanwhile.
        let work = move || {
            let source = source.with_changes(with_texts(&source, changes, texts));
            if content_sha256(&source) != expected {
                return Err("the texts are not those that were applied".to_owned());
            }
            let before = before.as_ref().map(|b| &**b.compiled);
            // Applied by a server of another version, it has to pass again here.
            let compiled = match passed {
                true => compile_passed(&source, before),
                false => compile(&source, before),
            };
            compiled.map_err(|errors| {
                let first = errors.first().map(|d| d.message.clone());
                format!("it does not compile here: {}", first.unwrap_or_default())
            })
        };
        let number = meta.number;
        let bad = |why: String| StoreError::Corrupt(format!("revision {number}: {why}"));
        let compiled = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| bad(format!("compiling failed: {e}")))?
            .map_err(bad)?;
        Ok(ActiveRevision {
            meta,
            compiled: SharedSet::new(compiled),
        })
    }

    /// The texts of changed files that no file of ours has.
    async fn missing_texts(
        &self,
        source: &PolicySource,
        changes: &[FileChange<Digest>],
    ) -> Result<HashMap<Digest, Arc<str>>, StoreError> {
        let ours: HashSet<&Digest> = source.files().map(|(_, file)| file.sha256()).collect();
        let wanted: HashSet<Digest> = changes.iter().filter_map(|c| c.content).collect();
        let missing: Vec<Digest> = wanted.into_iter().filter(|d| !ours.contains(d)).collect();
        let found = self.store.texts(&missing).await?;
        Ok(missing.into_iter().zip(found).collect())
    }
}

/// Changes with their files. One whose text is missing would read as a file that is gone;
/// the digest over the whole content, which is compared next, refuses that.
fn with_texts(
    source: &PolicySource,
    changes: Vec<FileChange<Digest>>,
    mut texts: HashMap<Digest, Arc<str>>,
) -> Vec<FileChange<SourceFile>> {
    for (_, file) in source.files() {
        texts.insert(*file.sha256(), Arc::clone(file.text()));
    }
    let file = |change: FileChange<Digest>| {
        let text = change.content.and_then(|digest| texts.get(&digest));
        FileChange {
            content: text.map(|text| SourceFile::new(change.name.as_str(), Arc::clone(text))),
            kind: change.kind,
            name: change.name,
        }
    };
    changes.into_iter().map(file).collect()
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
