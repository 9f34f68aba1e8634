-- ?1 name, ?2 request, ?3 ttl, ?4 how long a waiter lives, ?5 label, ?6 whether the request waits.
-- A holder and waiters that were silent for too long leave.
UPDATE lease SET request = NULL, label = NULL FROM clock WHERE name = ?1 AND expires_at < now;
DELETE FROM waiter WHERE name = ?1 AND alive_until < (SELECT now FROM clock);
-- A replay of the holder's request finds its own grant.
UPDATE lease SET expires_at = now + ?3 FROM clock WHERE name = ?1 AND request = ?2;
-- The name is granted if it is free and no other request is first in the queue.
INSERT INTO lease (name, token, request, label, expires_at) SELECT ?1, 1, ?2, ?5, now + ?3 FROM clock
    WHERE NOT EXISTS (SELECT 1 FROM tombstone WHERE request = ?2)
        AND coalesce((SELECT request FROM waiter WHERE name = ?1 ORDER BY ticket LIMIT 1), ?2) = ?2
    ON CONFLICT (name) DO UPDATE SET token = token + 1, request = excluded.request,
        label = excluded.label, expires_at = excluded.expires_at
        WHERE lease.request IS NULL;
DELETE FROM waiter WHERE request = ?2 AND EXISTS (SELECT 1 FROM lease WHERE name = ?1 AND request = ?2);
-- Otherwise the request takes the last place in the queue, or keeps its own.
INSERT INTO waiter (name, request, alive_until) SELECT ?1, ?2, now + ?4 FROM clock
    WHERE ?6 AND NOT EXISTS (SELECT 1 FROM tombstone WHERE request = ?2)
        AND NOT EXISTS (SELECT 1 FROM lease WHERE name = ?1 AND request = ?2)
    ON CONFLICT (request) DO UPDATE SET alive_until = excluded.alive_until;
SELECT EXISTS (SELECT 1 FROM tombstone WHERE request = ?2) AS is_ended,
    (SELECT token FROM lease WHERE name = ?1 AND request = ?2) AS token,
    (SELECT label FROM lease WHERE name = ?1 AND request IS NOT NULL) AS holder;
