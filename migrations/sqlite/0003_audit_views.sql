-- The usual questions, as views: see migrations/README.md. The same columns as on Postgres.

CREATE VIEW audit_activity AS
SELECT sequence, time, type, actor_type, actor_id, instance_id, source,
       CASE WHEN instr(leaf, CAST('"delegation"' AS BLOB)) > 0
            THEN json_extract(CAST(leaf AS TEXT), '$.detail.delegation.subject.type') END AS subject_type,
       CASE WHEN instr(leaf, CAST('"delegation"' AS BLOB)) > 0
            THEN json_extract(CAST(leaf AS TEXT), '$.detail.delegation.subject.id') END AS subject_id,
       action_type, action_id, resource_type, resource_id, effect, reason,
       session_id, task_id, user_id, revision, event_id
FROM audit_events WHERE actor_id IS NOT NULL;

CREATE VIEW audit_denials_by_policy AS
SELECT p.value AS policy, e.sequence, e.time, e.type, e.actor_type, e.actor_id, e.action_type, e.action_id,
       e.resource_type, e.resource_id, e.reason, e.revision, e.event_id
FROM audit_events e LEFT JOIN json_each(e.policies) AS p
WHERE e.effect = 'deny';

CREATE VIEW audit_delegations AS
SELECT sequence, time, type, actor_type, actor_id,
       json_extract(told, '$.subject.type') AS subject_type, json_extract(told, '$.subject.id') AS subject_id,
       json_extract(told, '$.actors') AS actors,
       json_extract(told, '$.denied_by.party.type') AS denied_type,
       json_extract(told, '$.denied_by.party.id') AS denied_id,
       action_type, action_id, resource_type, resource_id, effect, reason, event_id
FROM (SELECT e.*, CASE WHEN instr(e.leaf, CAST('"delegation"' AS BLOB)) > 0
                             AND json_type(CAST(e.leaf AS TEXT), '$.detail.delegation') = 'object'
                       THEN json_extract(CAST(e.leaf AS TEXT), '$.detail.delegation') END AS told
      FROM audit_events e) AS e
WHERE told IS NOT NULL;

CREATE VIEW audit_first_uses AS
SELECT e.actor_type, e.actor_id, e.resource_type, e.resource_id,
       e.sequence, e.time, e.action_type, e.action_id, e.event_id
FROM (SELECT actor_type, actor_id, resource_type, resource_id, min(sequence) AS sequence
      FROM audit_events
      WHERE type = 'decision' AND effect = 'allow'
        AND actor_id IS NOT NULL AND resource_id IS NOT NULL
      GROUP BY actor_type, actor_id, resource_type, resource_id) AS first
JOIN audit_events e ON e.sequence = first.sequence;

CREATE VIEW audit_activity_by_hour AS
SELECT substr(time, 1, 13) || ':00:00.000000Z' AS hour, type, actor_type, actor_id, effect, count(*) AS events
FROM audit_events
GROUP BY substr(time, 1, 13), type, actor_type, actor_id, effect;
