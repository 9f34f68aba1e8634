-- ?1 name, ?2 token. A replay of the request that held the name must not come back.
INSERT INTO tombstone SELECT request, now + 120000 FROM lease, clock
    WHERE name = ?1 AND token = ?2 AND request IS NOT NULL AND expires_at >= now
    ON CONFLICT DO NOTHING;
UPDATE lease SET request = NULL, label = NULL
    FROM clock WHERE name = ?1 AND token = ?2 AND request IS NOT NULL AND expires_at >= now
    RETURNING token;
