-- The embedded store. One file holds one log; log_id stands in each table all the
-- same, so that exports of several logs can be told apart. Times are RFC 3339 in UTC
-- with six digits, UUIDs lower-case text, lists JSON: see migrations/README.md.

CREATE TABLE log_head (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    log_id   TEXT    NOT NULL,
    size     INTEGER NOT NULL,
    frontier BLOB    NOT NULL,
    epoch    INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_events (
    sequence       INTEGER PRIMARY KEY,
    log_id         TEXT NOT NULL,
    event_id       TEXT NOT NULL,
    time           TEXT NOT NULL,
    type           TEXT NOT NULL,
    actor_type     TEXT,
    actor_id       TEXT,
    instance_id    TEXT,
    source         TEXT,
    action_type    TEXT,
    action_id      TEXT,
    resource_type  TEXT,
    resource_id    TEXT,
    effect         TEXT,
    reason         TEXT,
    policies       TEXT NOT NULL,
    revision       INTEGER,
    session_id     TEXT,
    task_id        TEXT,
    user_id        TEXT,
    correlation_id TEXT,
    trace_id       TEXT,
    leaf           BLOB NOT NULL,
    leaf_hash      BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX audit_events_event_id ON audit_events (event_id);
CREATE INDEX audit_events_actor ON audit_events (actor_id, sequence);
CREATE INDEX audit_events_time ON audit_events (time);
-- What was done to a resource: the few administrative acts alone, so that no decision pays.
CREATE INDEX audit_events_acts ON audit_events (resource_id, sequence) WHERE type = 'admin';

CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END;
CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END;
-- INSERT OR REPLACE deletes the row in its way without a DELETE that a trigger sees.
CREATE TRIGGER audit_events_no_replace BEFORE INSERT ON audit_events
WHEN EXISTS (SELECT 1 FROM audit_events
             WHERE sequence = NEW.sequence OR event_id = NEW.event_id)
BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END;

-- What a decision was made from, under the commitment in its leaf. Rows may be
-- destroyed; they cannot be changed.
CREATE TABLE audit_inputs (
    sequence INTEGER PRIMARY KEY,
    log_id   TEXT NOT NULL,
    salt     BLOB NOT NULL,
    inputs   BLOB NOT NULL
) STRICT;

CREATE TRIGGER audit_inputs_no_update BEFORE UPDATE ON audit_inputs
BEGIN SELECT RAISE(ABORT, 'audit_inputs is append-only, apart from DELETE'); END;

CREATE TABLE checkpoints (
    size   INTEGER PRIMARY KEY,
    log_id TEXT NOT NULL,
    note   TEXT NOT NULL
) STRICT;

CREATE TRIGGER checkpoints_no_update BEFORE UPDATE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'checkpoints is append-only'); END;
CREATE TRIGGER checkpoints_no_delete BEFORE DELETE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'checkpoints is append-only'); END;

-- Full tiles of the Merkle tree (C2SP tlog-tiles): 256 hashes of 32 bytes and the root over
-- them. Derived from the leaves: rows may be deleted, and the server makes them again.
CREATE TABLE log_tiles (
    level  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    log_id TEXT NOT NULL,
    root   BLOB NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (level, number)
) STRICT;

-- Whose turn it is to sign checkpoints. `expire_time_ms` is by the database's clock; `term`
-- grows with each change of hands, and nothing is written under an older one.
CREATE TABLE log_signer (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    log_id         TEXT NOT NULL,
    holder         TEXT NOT NULL,
    term           INTEGER NOT NULL,
    expire_time_ms INTEGER NOT NULL
) STRICT;

-- `epoch` in the tables below is the epoch of the commit that changed the row last:
-- the change feed is "every row with an epoch greater than mine".
CREATE TABLE agents (
    id          TEXT PRIMARY KEY,
    log_id      TEXT NOT NULL,
    name        TEXT NOT NULL UNIQUE,
    owner       TEXT NOT NULL,
    roles       TEXT NOT NULL,
    state       TEXT NOT NULL,
    create_time TEXT NOT NULL,
    zone        TEXT NOT NULL,
    attributes  TEXT NOT NULL,
    audiences   TEXT NOT NULL,
    certificate_lifetime_max_s INTEGER,
    token_lifetime_max_s       INTEGER,
    delegation_depth_max       INTEGER,
    epoch       INTEGER NOT NULL
) STRICT;
CREATE INDEX agents_epoch ON agents (epoch);

CREATE TABLE users (
    id          TEXT PRIMARY KEY,
    log_id      TEXT NOT NULL,
    spiffe_id   TEXT NOT NULL UNIQUE,
    roles       TEXT NOT NULL,
    create_time TEXT NOT NULL,
    epoch       INTEGER NOT NULL
) STRICT;
CREATE INDEX users_epoch ON users (epoch);

-- What was said of agents and users, in all versions: each holds from its epoch until the
-- next one of the same type and id. Rows are added, and nothing of them ever changes.
CREATE TABLE party_versions (
    epoch      INTEGER PRIMARY KEY,
    log_id     TEXT NOT NULL,
    type       TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    owner      TEXT,
    zone       TEXT,
    roles      TEXT NOT NULL,
    attributes TEXT NOT NULL
) STRICT;

-- Enrolled keys. `generation` is that of a key's newest certificate and `used_generation`
-- the newest one that a call was made with; both move without the epoch.
CREATE TABLE instances (
    id              TEXT PRIMARY KEY,
    log_id          TEXT NOT NULL,
    principal_id    TEXT NOT NULL,
    key_sha256      BLOB NOT NULL UNIQUE,
    state           TEXT NOT NULL,
    generation      INTEGER NOT NULL,
    used_generation INTEGER NOT NULL,
    recoveries      INTEGER NOT NULL,
    create_time     TEXT NOT NULL,
    epoch           INTEGER NOT NULL
) STRICT;
CREATE INDEX instances_epoch ON instances (epoch);
CREATE INDEX instances_principal ON instances (principal_id, id);

-- Certificates that were given, for as long as they hold: a revocation list names those of
-- revoked keys.
CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    log_id      TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    not_after   TEXT NOT NULL
) STRICT;
CREATE INDEX certificates_instance ON certificates (instance_id);

-- The CAs since the first one was replaced: which one signs (`active`), and which are
-- trusted beside it. `chain` is PEM: the CA's own certificate first, the trust anchor last.
CREATE TABLE certificate_authorities (
    id             TEXT PRIMARY KEY,
    log_id         TEXT NOT NULL,
    key_name       TEXT NOT NULL,
    chain          TEXT NOT NULL,
    state          TEXT NOT NULL,
    prepare_time   TEXT NOT NULL,
    activate_time  TEXT,
    supersede_time TEXT,
    retire_time    TEXT,
    epoch          INTEGER NOT NULL
) STRICT;
CREATE INDEX certificate_authorities_epoch ON certificate_authorities (epoch);
CREATE UNIQUE INDEX certificate_authorities_active ON certificate_authorities (state)
    WHERE state = 'active';

-- Access tokens and grants that are void before they end: one (type `token`), or all that a
-- principal got before `epoch`. Kept for as long as such a token could live.
CREATE TABLE token_revocations (
    type          TEXT NOT NULL,
    id            TEXT NOT NULL,
    log_id        TEXT NOT NULL,
    expire_time   TEXT NOT NULL,
    epoch         INTEGER NOT NULL,
    PRIMARY KEY (type, id)
) STRICT;
CREATE INDEX token_revocations_epoch ON token_revocations (epoch);

CREATE TABLE join_tokens (
    id            TEXT PRIMARY KEY,
    log_id        TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL,
    principal_id  TEXT NOT NULL,
    expire_time   TEXT NOT NULL,
    used          INTEGER NOT NULL
) STRICT;

-- Policy and schema files by content: a text that many revisions share stands once.
CREATE TABLE policy_texts (
    sha256 BLOB PRIMARY KEY,
    log_id TEXT NOT NULL,
    text   TEXT NOT NULL
) STRICT;

CREATE TABLE revisions (
    number         INTEGER PRIMARY KEY,
    log_id         TEXT NOT NULL,
    author_type    TEXT NOT NULL,
    author_id      TEXT NOT NULL,
    approver_type  TEXT,
    approver_id    TEXT,
    message        TEXT NOT NULL,
    apply_time     TEXT NOT NULL,
    content_sha256 BLOB NOT NULL,
    gates          TEXT    NOT NULL,
    policies       INTEGER NOT NULL,
    epoch          INTEGER NOT NULL,
    base_epoch     INTEGER NOT NULL,
    restores       INTEGER,
    commit_id      TEXT,
    signature      TEXT
) STRICT;

-- What each revision changed: from `revision` on, the file has this text; NULL: it is
-- gone. So the files of a revision are, for each kind ('policy', 'schema', 'test') and name, the
-- row of the highest revision that is not above it. Rows are never changed.
CREATE TABLE revision_files (
    revision    INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    log_id      TEXT NOT NULL,
    text_sha256 BLOB,
    PRIMARY KEY (revision, kind, name)
) STRICT, WITHOUT ROWID;

-- Candidates that one person wrote and another one has to approve, and what each changes
-- against its base revision. Apart from state and decided_by, which are set once, nothing of
-- it ever changes.
CREATE TABLE proposals (
    number          INTEGER PRIMARY KEY,
    log_id          TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    base_revision   INTEGER NOT NULL,
    authors         TEXT    NOT NULL,
    message         TEXT    NOT NULL,
    create_time     TEXT    NOT NULL,
    content_sha256  BLOB    NOT NULL,
    policies        INTEGER NOT NULL,
    decided_by_type TEXT,
    decided_by_id   TEXT,
    commit_id       TEXT,
    signature       TEXT
) STRICT;

CREATE TABLE proposal_files (
    proposal    INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    log_id      TEXT NOT NULL,
    text_sha256 BLOB,
    PRIMARY KEY (proposal, kind, name)
) STRICT, WITHOUT ROWID;

-- What each server process tells of itself, some seconds apart. Each writes its own row, and
-- forgets those of the dead after a day. No record: nothing is decided by it.
CREATE TABLE replicas (
    id            TEXT PRIMARY KEY,
    log_id        TEXT NOT NULL,
    name          TEXT NOT NULL,
    version       TEXT NOT NULL,
    revision      INTEGER NOT NULL,
    revision_time TEXT NOT NULL,
    start_time    TEXT NOT NULL,
    seen_time     TEXT NOT NULL,
    stopped       INTEGER NOT NULL
) STRICT;

-- Entities in all their versions. A version holds from `epoch` until `until_epoch`
-- (exclusive); the largest integer means that it still holds. Without content it says
-- that the entity is deleted. Rows are added, and `until_epoch` is set once; nothing else
-- ever changes.
CREATE TABLE entities (
    epoch       INTEGER NOT NULL,
    type        TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    until_epoch INTEGER NOT NULL DEFAULT 9223372036854775807,
    log_id      TEXT    NOT NULL,
    parents     TEXT,
    attributes  TEXT,
    tags        TEXT,
    PRIMARY KEY (epoch, type, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX entities_uid ON entities (type, id, until_epoch);

CREATE TABLE blobs (
    name   TEXT PRIMARY KEY,
    log_id TEXT NOT NULL,
    value  BLOB NOT NULL
) STRICT;
