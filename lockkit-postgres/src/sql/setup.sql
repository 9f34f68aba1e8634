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

%advisory%

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
