-- What the server may do when it works under a role of its own, `zta_service`, which owns nothing: of the
-- audit it can only add. The role is made by whoever sets the database up, before this runs
-- (deploy/compose/postgres-init.sh). Where there is none, the server works as the owner, and append-only
-- rests on the triggers alone. A later migration that makes a table grants it here likewise.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zta_service') THEN
        RETURN;
    END IF;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO zta_service;
    -- It reads partitions through their tables alone, the first one like those that are made later.
    REVOKE ALL ON audit_events_0, audit_inputs_0 FROM zta_service;
    GRANT INSERT ON log_head, audit_events, audit_inputs, checkpoints, agents, users, party_versions, instances, certificates,
        certificate_authorities, token_revocations, join_tokens, policy_texts, revisions, revision_files, proposals, proposal_files,
        entities, blobs, replicas, log_tiles, log_signer TO zta_service;
    GRANT UPDATE ON log_head, agents, users, instances, certificate_authorities, token_revocations, join_tokens, replicas, log_signer TO zta_service;
    GRANT DELETE ON certificates, token_revocations, replicas TO zta_service;
    GRANT UPDATE (state, decided_by_type, decided_by_id) ON proposals TO zta_service;
    GRANT UPDATE (until_epoch) ON entities TO zta_service;
    GRANT EXECUTE ON FUNCTION audit_extend(bigint) TO zta_service;
END $$;
