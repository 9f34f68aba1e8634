-- What the strategy "advisory" needs, beside objects of an older version. Where the schema @ has a counter of tokens
-- of its own, that joins the one of the database, so that the tokens of a name grow whatever the schema: stop the
-- programs that use the strategy in this database first. An older one that goes on in the schema @ is refused
-- at each call.
BEGIN;
SELECT pg_advisory_xact_lock(7813254103221);
SET LOCAL synchronous_commit = on;

%advisory%

DO $$ BEGIN
    IF '@' <> 'lockkit' AND to_regclass('@.token') IS NOT NULL THEN
        -- The next session begins an epoch above both.
        UPDATE lockkit.epoch SET number = greatest(number, (SELECT number FROM @.epoch));
        DELETE FROM lockkit.no_crash_since;
        ALTER SEQUENCE @.token RENAME TO token_1;
    END IF;
END $$;
COMMIT;
