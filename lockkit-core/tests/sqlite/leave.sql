-- ?1 name, ?2 request, ?6 whether a sending of the request may still arrive.
-- Nothing is delivered later than 120 s after it was sent.
DELETE FROM tombstone WHERE until < (SELECT now FROM clock);
INSERT INTO tombstone SELECT ?2, now + 120000 FROM clock WHERE ?6 ON CONFLICT DO NOTHING;
DELETE FROM waiter WHERE request = ?2;
UPDATE lease SET request = NULL, label = NULL,
    released = CASE WHEN expires_at >= now THEN request END FROM clock
    WHERE name = ?1 AND request = ?2;
DELETE FROM waiter WHERE name = ?1 AND alive_until < (SELECT now FROM clock);
SELECT EXISTS (SELECT 1 FROM lease WHERE name = ?1 AND released = ?2) AS had_grant,
    (SELECT request FROM waiter WHERE name = ?1 ORDER BY ticket LIMIT 1) AS next;
