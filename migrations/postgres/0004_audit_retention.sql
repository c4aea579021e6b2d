-- Retention: what `zta audit prune` took away. Records below `size` are gone from audit_events and
-- audit_inputs; the hashes of their leaves stay in log_tiles, so every proof still is one. A row is
-- written in the transaction of the event that says so (`log_pruned`), before anything is dropped.
CREATE TABLE audit_pruned (
    size     bigint PRIMARY KEY CHECK (size > 0 AND size % 256 = 0),
    log_id   uuid NOT NULL,
    event_id uuid NOT NULL
);
CREATE TRIGGER audit_pruned_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_pruned
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();

-- Tiles are made again from leaves, and those above from those below; where the leaves are gone,
-- nothing makes their tiles again.
CREATE FUNCTION log_tiles_last_copy() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        IF EXISTS (SELECT FROM public.audit_pruned) THEN
            RAISE EXCEPTION 'the records of some tiles were pruned: these rows are all that is left to prove them';
        END IF;
        RETURN NULL;
    END IF;
    IF OLD.level = 0 AND OLD.number < (SELECT max(size) / 256 FROM public.audit_pruned) THEN
        RAISE EXCEPTION 'the records of tile 0/% were pruned: this row is all that is left to prove them', OLD.number;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER log_tiles_last_copy BEFORE UPDATE OR DELETE ON log_tiles
    FOR EACH ROW EXECUTE FUNCTION log_tiles_last_copy();
CREATE TRIGGER log_tiles_last_copies BEFORE TRUNCATE ON log_tiles
    FOR EACH STATEMENT EXECUTE FUNCTION log_tiles_last_copy();

-- The partitions of an audit table and where each ends, exclusive. By their names: that of one which
-- is dropped meanwhile is still a name.
CREATE FUNCTION audit_partitions(parent regclass) RETURNS TABLE (name text, until bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('public.%I', c.relname), (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''?(\d+)''?\)'))[1]::bigint
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = parent
$$;

-- Drops one partition of each audit table among those that audit_pruned says are pruned, the lowest
-- first; returns whether there are more. By the right of whoever calls it: the tables' owner. One at
-- a time, and it does not wait long for readers, because the writer waits behind it.
CREATE FUNCTION audit_prune() RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    below  bigint := COALESCE((SELECT max(size) FROM public.audit_pruned), 0);
    events text;
    inputs text;
BEGIN
    events := (SELECT p.name FROM public.audit_partitions('public.audit_events') p WHERE p.until <= below ORDER BY p.until LIMIT 1);
    inputs := (SELECT p.name FROM public.audit_partitions('public.audit_inputs') p WHERE p.until <= below ORDER BY p.until LIMIT 1);
    IF events IS NULL AND inputs IS NULL THEN
        RETURN false;
    END IF;
    -- Autovacuum gives way to whoever waits for longer than deadlock_timeout; nobody waits behind this.
    PERFORM set_config('lock_timeout', '2s', true);
    IF events IS NOT NULL THEN
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', events);
    END IF;
    IF inputs IS NOT NULL THEN
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', inputs);
    END IF;
    PERFORM set_config('lock_timeout', '200ms', true);
    -- The head first, as whoever writes: else each could hold what the other waits for.
    PERFORM FROM public.log_head WHERE one = 1 FOR UPDATE;
    LOCK TABLE ONLY public.audit_events, ONLY public.audit_inputs IN ACCESS EXCLUSIVE MODE;
    IF events IS NOT NULL THEN
        EXECUTE format('DROP TABLE %s', events);
    END IF;
    IF inputs IS NOT NULL THEN
        EXECUTE format('DROP TABLE %s', inputs);
    END IF;
    RETURN EXISTS (SELECT FROM public.audit_partitions('public.audit_inputs') p WHERE p.until <= below)
        OR EXISTS (SELECT FROM public.audit_partitions('public.audit_events') p WHERE p.until <= below);
EXCEPTION
    -- Another run dropped it meanwhile.
    WHEN undefined_table THEN
        RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION audit_prune() FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'zta_auditor') THEN
        GRANT SELECT ON audit_pruned TO zta_auditor;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'zta_service') THEN
        GRANT SELECT ON audit_pruned TO zta_service;
    END IF;
END $$;
