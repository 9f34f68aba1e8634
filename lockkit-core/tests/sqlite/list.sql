-- ?1 prefix, ?2 the name to begin after, ?3 how many.
SELECT seen.name, token, label, expires_at - now AS expires_in,
    (SELECT count(*) FROM waiter WHERE waiter.name = seen.name AND alive_until >= now) AS waiters
    FROM clock, (SELECT name FROM lease UNION SELECT name FROM waiter) AS seen
    LEFT JOIN lease ON lease.name = seen.name AND request IS NOT NULL AND expires_at >= now
    WHERE substr(seen.name, 1, length(?1)) = ?1 AND seen.name > ?2
        AND (token IS NOT NULL OR waiters > 0) ORDER BY seen.name LIMIT ?3;
