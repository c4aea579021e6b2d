-- Retention: what `zta audit prune` took away. Records below `size` are gone from audit_events and
-- audit_inputs; the hashes of their leaves stay in log_tiles, so every proof still is one. A row is
-- written in the transaction of the event that says so (`log_pruned`), before anything is deleted.
CREATE TABLE audit_pruned (
    size     INTEGER PRIMARY KEY CHECK (size > 0 AND size % 256 = 0),
    log_id   TEXT NOT NULL,
    event_id TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_pruned_no_update BEFORE UPDATE ON audit_pruned
BEGIN SELECT RAISE(ABORT, 'audit_pruned is append-only'); END;
CREATE TRIGGER audit_pruned_no_delete BEFORE DELETE ON audit_pruned
BEGIN SELECT RAISE(ABORT, 'audit_pruned is append-only'); END;
CREATE TRIGGER audit_pruned_no_replace BEFORE INSERT ON audit_pruned
WHEN EXISTS (SELECT 1 FROM audit_pruned WHERE size = NEW.size)
BEGIN SELECT RAISE(ABORT, 'audit_pruned is append-only'); END;

DROP TRIGGER audit_events_no_delete;
CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
WHEN OLD.sequence >= COALESCE((SELECT max(size) FROM audit_pruned), 0)
BEGIN SELECT RAISE(ABORT, 'audit_events is append-only'); END;

-- Tiles are made again from leaves, and those above from those below; where the leaves are gone,
-- nothing makes their tiles again.
CREATE TRIGGER log_tiles_no_delete BEFORE DELETE ON log_tiles
WHEN OLD.level = 0 AND OLD.number < (SELECT max(size) / 256 FROM audit_pruned)
BEGIN SELECT RAISE(ABORT, 'the records of this tile were pruned: the row is all that is left to prove them'); END;
CREATE TRIGGER log_tiles_no_update BEFORE UPDATE ON log_tiles
WHEN (OLD.level = 0 AND OLD.number < (SELECT max(size) / 256 FROM audit_pruned))
    OR (NEW.level = 0 AND NEW.number < (SELECT max(size) / 256 FROM audit_pruned))
BEGIN SELECT RAISE(ABORT, 'the records of this tile were pruned: the row is all that is left to prove them'); END;
-- INSERT OR REPLACE deletes the row in its way without a DELETE that a trigger sees. One that is
-- there stays, whoever brings it again.
CREATE TRIGGER log_tiles_no_replace BEFORE INSERT ON log_tiles
WHEN EXISTS (SELECT 1 FROM log_tiles WHERE level = NEW.level AND number = NEW.number)
BEGIN SELECT RAISE(IGNORE); END;
