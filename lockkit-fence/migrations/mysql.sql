-- The fences of lockkit-fence for MySQL and MariaDB: for each resource, the newest tokens that it has seen.
-- Run it once, by sqlx's migrator, refinery, Flyway or the client.

-- `resource` is binary, so that names that differ in case or in blanks at their end are two resources. `slot` is -1 for exclusive and
-- shared grants, and the slot of a semaphore's grant otherwise. 0 means that no token was seen. InnoDB has transactions.
CREATE TABLE IF NOT EXISTS lockkit_fence (
    resource VARBINARY(255) NOT NULL,
    slot BIGINT NOT NULL DEFAULT -1,
    exclusive BIGINT NOT NULL DEFAULT 0,
    shared BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (resource, slot)
) ENGINE = InnoDB;
