-- The fences of lockkit-fence for SQLite 3.37 and newer: for each resource, the newest tokens that it has seen.
-- Run it once, by sqlx's migrator, refinery, Flyway or the shell.

-- `slot` is -1 for exclusive and shared grants, and the slot of a semaphore's grant otherwise. 0 means that no token was seen. In a STRICT table
-- tokens cannot become texts, which would compare as such.
CREATE TABLE IF NOT EXISTS lockkit_fence (
    resource TEXT NOT NULL,
    slot INTEGER NOT NULL DEFAULT -1,
    exclusive INTEGER NOT NULL DEFAULT 0,
    shared INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (resource, slot)
) STRICT;
