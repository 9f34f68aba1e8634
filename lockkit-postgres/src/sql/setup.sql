-- lockkit's objects. Run it again at any time, also by several at once.
BEGIN;
SELECT pg_advisory_xact_lock(7813254103221);
CREATE SCHEMA IF NOT EXISTS @;

-- The tables of layout 1 must not be taken for these.
DO $$ BEGIN
    IF to_regclass('@.tombstone') IS NOT NULL THEN
        RAISE EXCEPTION 'the schema @ holds layout 1 of the strategy "table"'
            USING HINT = 'stop the programs that use it, and run PostgresConfig::migration_sql()';
    END IF;
END $$;

%table%

-- Strategy "advisory": a token is the epoch in its high bits and a plain sequence in its low ones.
-- A crash may take the sequence back; it always empties the unlogged table, and the epoch grows.
CREATE SEQUENCE IF NOT EXISTS @.token AS bigint MAXVALUE 4398046511103;
CREATE TABLE IF NOT EXISTS @.epoch (one boolean PRIMARY KEY DEFAULT true CHECK (one), number bigint NOT NULL);
INSERT INTO @.epoch (number) VALUES (0) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE IF NOT EXISTS @.no_crash_since (one boolean PRIMARY KEY DEFAULT true CHECK (one));

-- The epoch of this session, for all its life: a crash of the server ends the session too.
CREATE OR REPLACE FUNCTION @.enter() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found_epoch bigint;
BEGIN
    SELECT e.number INTO found_epoch FROM @.epoch e, @.no_crash_since;
    IF FOUND THEN
        RETURN found_epoch;
    END IF;
    PERFORM set_config('synchronous_commit', 'on', true);
    SELECT e.number INTO STRICT found_epoch FROM @.epoch e FOR UPDATE;
    -- Another may have been here while we waited for the row.
    IF NOT EXISTS (SELECT FROM @.no_crash_since) THEN
        found_epoch := found_epoch + 1;
        UPDATE @.epoch SET number = found_epoch;
        INSERT INTO @.no_crash_since DEFAULT VALUES;
    END IF;
    RETURN found_epoch;
END $$;

-- A token inside a transaction of the caller's; null until somebody has entered since a crash.
CREATE OR REPLACE FUNCTION @.next_token() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (e.number << 42) + nextval('@.token') FROM @.epoch e, @.no_crash_since
$$;

-- The fence: for each resource, the newest token that wrote to it.
CREATE TABLE IF NOT EXISTS @.fence (resource text PRIMARY KEY, token bigint NOT NULL);

-- To be called in the transaction of the write, before it: raises LK001 for a token that is older
-- than the newest one seen for the resource, and remembers a newer one.
CREATE OR REPLACE FUNCTION @.fence(in_resource text, in_token bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    INSERT INTO @.fence AS f VALUES (in_resource, in_token)
        ON CONFLICT (resource) DO UPDATE SET token = greatest(f.token, excluded.token)
        RETURNING f.token INTO newest;
    IF newest > in_token THEN
        RAISE EXCEPTION 'token % is older than %, the newest seen for %', in_token, newest, in_resource
            USING ERRCODE = 'LK001', DETAIL = newest, HINT = 'the lock was lost: stop the work that it protected';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION @.lockkit_version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
COMMIT;
