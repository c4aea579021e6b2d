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

-- How wide partitions of the audit are that are made from now on: a multiple of 65,536, so
-- that each holds whole tiles of two levels. Only the owner of the tables changes it.
CREATE TABLE audit_layout (
    one             integer PRIMARY KEY CHECK (one = 1),
    partition_width bigint NOT NULL CHECK (partition_width > 0 AND partition_width % 65536 = 0)
);
INSERT INTO audit_layout VALUES (1, 4194304);

-- Partitioned by sequence; `audit_extend` makes the partitions. What cannot stand here stands
-- there: the unique index on event_id, the triggers of statements, storage parameters.
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
) PARTITION BY RANGE (sequence);

CREATE INDEX audit_events_actor ON audit_events (actor_id, sequence);
-- What was done to a resource: the few administrative acts alone, so that no decision pays.
CREATE INDEX audit_events_acts ON audit_events (resource_id, sequence) WHERE type = 'admin';
-- Time goes with the sequence, so a few bytes per block of rows do what a B-tree would,
-- for almost nothing at each insert.
CREATE INDEX audit_events_time ON audit_events USING brin (time)
    WITH (pages_per_range = 32, autosummarize = on);

-- What a decision was made from, under the commitment in its leaf. Rows may be
-- destroyed; they cannot be changed.
CREATE TABLE audit_inputs (
    sequence bigint PRIMARY KEY,
    log_id   uuid NOT NULL,
    salt     bytea NOT NULL,
    inputs   bytea NOT NULL
) PARTITION BY RANGE (sequence);

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

-- Where the last partition ends, exclusive; 0 without one.
CREATE FUNCTION audit_partitions_end() RETURNS bigint LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(max((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''?(\d+)''?\)'))[1]::bigint), 0)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'public.audit_events'::regclass
$$;

-- One partition of each audit table, from `first` on. Made beside the tables and then attached: that
-- waits for nobody who reads or writes, and nobody waits for it. A statement's trigger does not reach
-- from the table to its partitions, so each has its own; rights do reach, so none has any.
CREATE FUNCTION audit_add_partition(first bigint, until bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    events text := 'audit_events_' || first;
    inputs text := 'audit_inputs_' || first;
BEGIN
    -- Rows of a few KiB stay in one piece: out-of-line storage would cost a second table and a
    -- second index at each insert.
    EXECUTE format('CREATE TABLE public.%I (LIKE public.audit_events INCLUDING ALL) WITH (toast_tuple_target = 8160)', events);
    EXECUTE format('CREATE TABLE public.%I (LIKE public.audit_inputs INCLUDING ALL) WITH (toast_tuple_target = 8160)', inputs);
    EXECUTE format('CREATE UNIQUE INDEX %I ON public.%I (event_id)', events || '_event_id', events);
    EXECUTE format('CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.%I
        FOR EACH STATEMENT EXECUTE FUNCTION public.audit_append_only()', events);
    EXECUTE format('CREATE TRIGGER audit_inputs_no_update BEFORE UPDATE ON public.%I
        FOR EACH STATEMENT EXECUTE FUNCTION public.audit_append_only()', inputs);
    EXECUTE format('REVOKE ALL ON public.%I, public.%I FROM PUBLIC', events, inputs);
    EXECUTE format('ALTER TABLE public.audit_events ATTACH PARTITION public.%I FOR VALUES FROM (%s) TO (%s)', events, first, until);
    EXECUTE format('ALTER TABLE public.audit_inputs ATTACH PARTITION public.%I FOR VALUES FROM (%s) TO (%s)', inputs, first, until);
END $$;
REVOKE EXECUTE ON FUNCTION audit_add_partition(bigint, bigint) FROM PUBLIC;

-- Sees to it that there are partitions for sequences below `needed`, and for half a partition more;
-- returns up to where no further call is needed. The server calls it with the head locked. By the
-- right of the tables' owner, but it makes nothing except the next partitions, and none that is
-- further from the head than any batch reaches.
CREATE FUNCTION audit_extend(needed bigint) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    width bigint := (SELECT partition_width FROM public.audit_layout);
    ends  bigint := public.audit_partitions_end();
BEGIN
    IF needed - 65536 > COALESCE((SELECT size FROM public.log_head), 0) THEN
        RAISE EXCEPTION 'sequence % is too far from the head of the log', needed;
    END IF;
    BEGIN
        WHILE ends < needed + width / 2 LOOP
            -- Whoever else makes one is awaited here, and what it made is seen after it.
            LOCK TABLE public.audit_events IN SHARE UPDATE EXCLUSIVE MODE;
            ends := public.audit_partitions_end();
            EXIT WHEN ends >= needed + width / 2;
            PERFORM public.audit_add_partition(ends, ends + width);
            ends := ends + width;
        END LOOP;
    EXCEPTION WHEN lock_not_available THEN
        -- Somebody does maintenance on the tables. There is time while the last partition lasts.
        ends := public.audit_partitions_end();
        IF ends < needed THEN
            RAISE;
        END IF;
        RETURN needed;
    END;
    RETURN ends - width / 2;
END $$;
REVOKE EXECUTE ON FUNCTION audit_extend(bigint) FROM PUBLIC;
SELECT audit_extend(0);
