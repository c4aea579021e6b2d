-- The store of a fleet: many replicas on one database. Natural types for people who
-- query; see migrations/README.md. Texts that stand in an index are COLLATE "C": they
-- are compared byte by byte, and no update of the system's locale can break the index.

CREATE TABLE log_head (
    one      integer PRIMARY KEY CHECK (one = 1),
    log_id   uuid    NOT NULL,
    size     bigint NOT NULL,
    frontier bytea    NOT NULL,
    epoch    bigint NOT NULL
);

CREATE TABLE audit_events (
    sequence       bigint PRIMARY KEY,
    log_id         uuid NOT NULL,
    event_id       uuid NOT NULL,
    time           timestamptz NOT NULL,
    type           text NOT NULL,
    actor_type     text,
    actor_id       text COLLATE "C",
    instance_id    uuid,
    source         inet,
    action_type    text,
    action_id      text,
    resource_type  text,
    resource_id    text,
    effect         text,
    reason         text,
    policies       text[] NOT NULL,
    revision       bigint,
    session_id     text,
    task_id        text,
    user_id        text,
    correlation_id text,
    trace_id       text,
    leaf           bytea NOT NULL,
    leaf_hash      bytea NOT NULL
);

CREATE UNIQUE INDEX audit_events_event_id ON audit_events (event_id);
CREATE INDEX audit_events_actor ON audit_events (actor_id, sequence);
-- What was done to a resource: the few administrative acts alone, so that no decision pays.
CREATE INDEX audit_events_acts ON audit_events (resource_id, sequence) WHERE type = 'admin';
-- Time goes with the sequence, so a few bytes per block of rows do what a B-tree would,
-- for almost nothing at each insert.
CREATE INDEX audit_events_time ON audit_events USING brin (time)
    WITH (pages_per_range = 32, autosummarize = on);
-- Rows of a few KiB stay in one piece: out-of-line storage would cost a second table
-- and a second index at each insert.
ALTER TABLE audit_events SET (toast_tuple_target = 8160);

-- What a decision was made from, under the commitment in its leaf. Rows may be
-- destroyed; they cannot be changed.
CREATE TABLE audit_inputs (
    sequence bigint PRIMARY KEY,
    log_id   uuid NOT NULL,
    salt     bytea NOT NULL,
    inputs   bytea NOT NULL
);
ALTER TABLE audit_inputs SET (toast_tuple_target = 8160);

CREATE TABLE checkpoints (
    size   bigint PRIMARY KEY,
    log_id uuid NOT NULL,
    note   text NOT NULL
);

-- Full tiles of the Merkle tree (C2SP tlog-tiles): 256 hashes of 32 bytes and the root over
-- them. Derived from the leaves: rows may be deleted, and the server makes them again.
CREATE TABLE log_tiles (
    level  bigint NOT NULL,
    number bigint NOT NULL,
    log_id uuid NOT NULL,
    root   bytea NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (level, number)
);
-- Hashes do not compress.
ALTER TABLE log_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- Whose turn it is to sign checkpoints. `expire_time_ms` is by the database's clock; `term`
-- grows with each change of hands, and nothing is written under an older one.
CREATE TABLE log_signer (
    one            integer PRIMARY KEY CHECK (one = 1),
    log_id         uuid NOT NULL,
    holder         uuid NOT NULL,
    term           bigint NOT NULL,
    expire_time_ms bigint NOT NULL
);

-- `epoch` in the tables below is the epoch of the commit that changed the row last:
-- the change feed is "every row with an epoch greater than mine".
CREATE TABLE agents (
    id          text COLLATE "C" PRIMARY KEY,
    log_id      uuid NOT NULL,
    name        text COLLATE "C" NOT NULL UNIQUE,
    owner       text NOT NULL,
    roles       text[] NOT NULL,
    state       text NOT NULL,
    create_time timestamptz NOT NULL,
    zone        text NOT NULL,
    attributes  text NOT NULL,
    audiences   text[] NOT NULL,
    certificate_lifetime_max_s bigint,
    token_lifetime_max_s       bigint,
    delegation_depth_max       bigint,
    epoch       bigint NOT NULL
);
CREATE INDEX agents_epoch ON agents (epoch);

CREATE TABLE users (
    id          text COLLATE "C" PRIMARY KEY,
    log_id      uuid NOT NULL,
    spiffe_id   text COLLATE "C" NOT NULL UNIQUE,
    roles       text[] NOT NULL,
    create_time timestamptz NOT NULL,
    epoch       bigint NOT NULL
);
CREATE INDEX users_epoch ON users (epoch);

-- What was said of agents and users, in all versions: each holds from its epoch until the
-- next one of the same type and id. Rows are added, and nothing of them ever changes.
CREATE TABLE party_versions (
    epoch      bigint PRIMARY KEY,
    log_id     uuid NOT NULL,
    type       text NOT NULL,
    id         text COLLATE "C" NOT NULL,
    name       text NOT NULL,
    owner      text,
    zone       text,
    roles      text[] NOT NULL,
    attributes text NOT NULL
);

-- Enrolled keys. `generation` is that of a key's newest certificate and `used_generation`
-- the newest one that a call was made with; both move without the epoch.
CREATE TABLE instances (
    id              uuid PRIMARY KEY,
    log_id          uuid NOT NULL,
    principal_id    text COLLATE "C" NOT NULL,
    key_sha256      bytea NOT NULL UNIQUE,
    state           text NOT NULL,
    generation      bigint NOT NULL,
    used_generation bigint NOT NULL,
    recoveries      bigint NOT NULL,
    create_time     timestamptz NOT NULL,
    epoch           bigint NOT NULL
);
CREATE INDEX instances_epoch ON instances (epoch);
CREATE INDEX instances_principal ON instances (principal_id, id);

-- Certificates that were given, for as long as they hold: a revocation list names those of
-- revoked keys.
CREATE TABLE certificates (
    serial      text        PRIMARY KEY,
    log_id      uuid        NOT NULL,
    instance_id uuid        NOT NULL,
    not_after   timestamptz NOT NULL
);
CREATE INDEX certificates_instance ON certificates (instance_id);

-- The CAs since the first one was replaced: which one signs (`active`), and which are
-- trusted beside it. `chain` is PEM: the CA's own certificate first, the trust anchor last.
CREATE TABLE certificate_authorities (
    id             text COLLATE "C" PRIMARY KEY,
    log_id         uuid        NOT NULL,
    key_name       text        NOT NULL,
    chain          text        NOT NULL,
    state          text        NOT NULL,
    prepare_time   timestamptz NOT NULL,
    activate_time  timestamptz,
    supersede_time timestamptz,
    retire_time    timestamptz,
    epoch          bigint      NOT NULL
);
CREATE INDEX certificate_authorities_epoch ON certificate_authorities (epoch);
CREATE UNIQUE INDEX certificate_authorities_active ON certificate_authorities (state)
    WHERE state = 'active';

-- Access tokens and grants that are void before they end: one (type `token`), or all that a
-- principal got before `epoch`. Kept for as long as such a token could live.
CREATE TABLE token_revocations (
    type          text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL,
    log_id        uuid NOT NULL,
    expire_time   timestamptz NOT NULL,
    epoch         bigint NOT NULL,
    PRIMARY KEY (type, id)
);
CREATE INDEX token_revocations_epoch ON token_revocations (epoch);

CREATE TABLE join_tokens (
    id            text COLLATE "C" PRIMARY KEY,
    log_id        uuid NOT NULL,
    secret_sha256 bytea NOT NULL,
    principal_id  text NOT NULL,
    expire_time   timestamptz NOT NULL,
    used          boolean NOT NULL
);

-- Policy and schema files by content: a text that many revisions share stands once.
CREATE TABLE policy_texts (
    sha256 bytea PRIMARY KEY,
    log_id uuid NOT NULL,
    text   text NOT NULL
);

CREATE TABLE revisions (
    number         bigint PRIMARY KEY,
    log_id         uuid NOT NULL,
    author_type    text NOT NULL,
    author_id      text NOT NULL,
    approver_type  text,
    approver_id    text,
    message        text NOT NULL,
    apply_time     timestamptz NOT NULL,
    content_sha256 bytea NOT NULL,
    gates          text NOT NULL,
    policies       bigint NOT NULL,
    epoch          bigint NOT NULL,
    base_epoch     bigint NOT NULL,
    restores       bigint,
    commit_id      text,
    signature      text
);

-- What each revision changed: from `revision` on, the file has this text; NULL: it is
-- gone. So the files of a revision are, for each kind ('policy', 'schema', 'test') and name, the
-- row of the highest revision that is not above it. Rows are never changed.
CREATE TABLE revision_files (
    revision    bigint NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    log_id      uuid NOT NULL,
    text_sha256 bytea,
    PRIMARY KEY (revision, kind, name)
);

-- Candidates that one person wrote and another one has to approve, and what each changes
-- against its base revision. Apart from state and decided_by, which are set once, nothing of
-- it ever changes.
CREATE TABLE proposals (
    number          bigint      PRIMARY KEY,
    log_id          uuid        NOT NULL,
    state           text        NOT NULL,
    base_revision   bigint      NOT NULL,
    authors         jsonb       NOT NULL,
    message         text        NOT NULL,
    create_time     timestamptz NOT NULL,
    content_sha256  bytea       NOT NULL,
    policies        bigint      NOT NULL,
    decided_by_type text,
    decided_by_id   text,
    commit_id       text,
    signature       text
);

CREATE TABLE proposal_files (
    proposal    bigint NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    log_id      uuid NOT NULL,
    text_sha256 bytea,
    PRIMARY KEY (proposal, kind, name)
);

-- What each server process tells of itself, some seconds apart. Each writes its own row, and
-- forgets those of the dead after a day. No record: nothing is decided by it.
CREATE TABLE replicas (
    id            uuid PRIMARY KEY,
    log_id        uuid NOT NULL,
    name          text NOT NULL,
    version       text NOT NULL,
    revision      bigint NOT NULL,
    revision_time timestamptz NOT NULL,
    start_time    timestamptz NOT NULL,
    seen_time     timestamptz NOT NULL,
    stopped       boolean NOT NULL
);

-- Entities in all their versions. A version holds from `epoch` until `until_epoch`
-- (exclusive); the largest integer means that it still holds. Without content it says
-- that the entity is deleted. Rows are added, and `until_epoch` is set once; nothing else
-- ever changes. Contents are text, not jsonb: they are read back byte for byte.
CREATE TABLE entities (
    epoch       bigint NOT NULL,
    type        text COLLATE "C" NOT NULL,
    id          text COLLATE "C" NOT NULL,
    until_epoch bigint NOT NULL DEFAULT 9223372036854775807,
    log_id      uuid NOT NULL,
    parents     text,
    attributes  text,
    tags        text,
    PRIMARY KEY (epoch, type, id)
);
CREATE UNIQUE INDEX entities_uid ON entities (type, id, until_epoch);

CREATE TABLE blobs (
    name   text COLLATE "C" PRIMARY KEY,
    log_id uuid NOT NULL,
    value  bytea NOT NULL
);

CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_inputs_no_update BEFORE UPDATE ON audit_inputs
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
