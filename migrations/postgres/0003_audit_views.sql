-- The usual questions, as views: see migrations/README.md. They read what their caller may read, no more.

-- A leaf as JSON. jsonb knows no NUL: one in a leaf is shown as U+2400, so that no event, whatever
-- its texts are, can make a query over the log fail.
CREATE FUNCTION audit_leaf_json(leaf bytea) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN replace(convert_from(leaf, 'UTF8'), '\u0000', '\u2400')::jsonb;

-- On whose behalf, or NULL. The search comes first: most leaves say nothing of it, and reading
-- JSON is the dear part.
CREATE FUNCTION audit_delegation(leaf bytea) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN position('"delegation"'::bytea IN leaf) > 0
                THEN audit_leaf_json(leaf) #> '{detail,delegation}' END;

CREATE VIEW audit_activity WITH (security_invoker = true) AS
SELECT sequence, time, type, actor_type, actor_id, instance_id, source,
       audit_delegation(leaf) #>> '{subject,type}' AS subject_type,
       audit_delegation(leaf) #>> '{subject,id}' AS subject_id,
       action_type, action_id, resource_type, resource_id, effect, reason,
       session_id, task_id, user_id, revision, event_id
FROM audit_events WHERE actor_id IS NOT NULL;

CREATE VIEW audit_denials_by_policy WITH (security_invoker = true) AS
SELECT policy, e.sequence, e.time, e.type, e.actor_type, e.actor_id, e.action_type, e.action_id,
       e.resource_type, e.resource_id, e.reason, e.revision, e.event_id
FROM audit_events e LEFT JOIN LATERAL unnest(e.policies) AS policy ON true
WHERE e.effect = 'deny';

CREATE VIEW audit_delegations WITH (security_invoker = true) AS
SELECT sequence, time, type, actor_type, actor_id,
       told #>> '{subject,type}' AS subject_type, told #>> '{subject,id}' AS subject_id,
       told -> 'actors' AS actors,
       told #>> '{denied_by,party,type}' AS denied_type, told #>> '{denied_by,party,id}' AS denied_id,
       action_type, action_id, resource_type, resource_id, effect, reason, event_id
FROM (SELECT e.*, audit_delegation(e.leaf) AS told FROM audit_events e) AS e
WHERE jsonb_typeof(told) = 'object';

CREATE VIEW audit_first_uses WITH (security_invoker = true) AS
SELECT e.actor_type, e.actor_id, e.resource_type, e.resource_id,
       e.sequence, e.time, e.action_type, e.action_id, e.event_id
FROM (SELECT actor_type, actor_id, resource_type, resource_id, min(sequence) AS sequence
      FROM audit_events
      WHERE type = 'decision' AND effect = 'allow'
        AND actor_id IS NOT NULL AND resource_id IS NOT NULL
      GROUP BY actor_type, actor_id, resource_type, resource_id) AS first
JOIN audit_events e ON e.sequence = first.sequence;

CREATE VIEW audit_activity_by_hour WITH (security_invoker = true) AS
SELECT date_trunc('hour', time, 'UTC') AS hour, type, actor_type, actor_id, effect, count(*) AS events
FROM audit_events
GROUP BY date_trunc('hour', time, 'UTC'), type, actor_type, actor_id, effect;

-- Who may read the audit and nothing else. Like `zta_service`, the role is made by whoever sets the
-- database up. `log_head` and `log_tiles` let it verify the log; a registry, a policy, a key or a
-- join token it cannot see. The service role reads the views, too.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'zta_auditor') THEN
        GRANT SELECT ON audit_events, audit_inputs, checkpoints, log_head, log_tiles, audit_activity,
            audit_denials_by_policy, audit_delegations, audit_first_uses, audit_activity_by_hour TO zta_auditor;
        -- Which migrations are applied: `zta audit verify` asks before it reads.
        IF to_regclass('_sqlx_migrations') IS NOT NULL THEN
            GRANT SELECT ON _sqlx_migrations TO zta_auditor;
        END IF;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'zta_service') THEN
        GRANT SELECT ON audit_activity, audit_denials_by_policy, audit_delegations, audit_first_uses,
            audit_activity_by_hour TO zta_service;
    END IF;
END $$;
