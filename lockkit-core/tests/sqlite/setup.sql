-- The time in milliseconds by the clock of the host, which all clients of the file share. It goes on
-- over a restart of the host. A request's own clock begins again there, so it could not be stored.
CREATE VIEW IF NOT EXISTS clock AS SELECT CAST(round(1000 * unixepoch('subsec')) AS INTEGER) AS now;
-- A row for each name. It is never deleted, because the token of its name must go on growing.
CREATE TABLE IF NOT EXISTS lease (
    name BLOB PRIMARY KEY,
    token INTEGER NOT NULL,
    request BLOB,
    label TEXT,
    expires_at INTEGER,
    -- The last request that gave its grant back in time: its repeated release hears the same answer.
    released BLOB
) STRICT;
-- The queue. A waiter stays until `alive_until`, and asks again long before.
CREATE TABLE IF NOT EXISTS waiter (
    ticket INTEGER PRIMARY KEY AUTOINCREMENT,
    name BLOB NOT NULL,
    request BLOB NOT NULL UNIQUE,
    alive_until INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS waiter_of_name ON waiter (name, ticket);
-- Requests that have ended and of which a sending may still arrive.
CREATE TABLE IF NOT EXISTS tombstone (request BLOB PRIMARY KEY, until INTEGER NOT NULL) STRICT;
