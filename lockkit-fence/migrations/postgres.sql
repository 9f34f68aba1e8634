-- The fences of lockkit-fence for PostgreSQL: for each resource, the newest tokens that it has seen.
-- Run it once, by sqlx's migrator, refinery, Flyway or psql. It holds no BEGIN and no COMMIT of its own.

-- `slot` is -1 for exclusive and shared grants, and the slot of a semaphore's grant otherwise. 0 means that no token was seen.
CREATE TABLE IF NOT EXISTS lockkit_fence (
    resource text NOT NULL,
    slot bigint NOT NULL DEFAULT -1,
    exclusive bigint NOT NULL DEFAULT 0,
    shared bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (resource, slot)
);

-- For programs in other languages: call it first in the transaction of the write. It raises SQLSTATE LK001 for a stale token, with
-- the newest token as its detail. `in_kind` is exclusive or shared; a semaphore's grant is exclusive in its slot.
CREATE OR REPLACE FUNCTION lockkit_fence_raise(
    in_resource text, in_token bigint, in_kind text DEFAULT 'exclusive', in_slot bigint DEFAULT -1
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    seen lockkit_fence;
BEGIN
    IF in_token IS NULL OR in_token < 1 THEN
        RAISE EXCEPTION '% is no fencing token: a token lies between 1 and 9223372036854775807', in_token
            USING ERRCODE = '22023';
    END IF;
    IF in_kind IS NULL OR in_kind NOT IN ('exclusive', 'shared') THEN
        RAISE EXCEPTION '% is no kind of grant: exclusive or shared', in_kind USING ERRCODE = '22023';
    END IF;
    -- It creates and locks the row. The rule decides on what is there then.
    INSERT INTO lockkit_fence AS f (resource, slot) VALUES (in_resource, in_slot)
        ON CONFLICT (resource, slot) DO UPDATE SET exclusive = f.exclusive
        RETURNING f.* INTO seen;
    IF in_kind = 'exclusive' AND (in_token < seen.exclusive OR in_token <= seen.shared)
        OR in_kind = 'shared' AND in_token <= seen.exclusive
    THEN
        RAISE EXCEPTION 'token % is stale: token % has been seen for %',
            in_token, greatest(seen.exclusive, CASE WHEN in_kind = 'exclusive' THEN seen.shared END), in_resource
            USING ERRCODE = 'LK001',
            DETAIL = greatest(seen.exclusive, CASE WHEN in_kind = 'exclusive' THEN seen.shared END)::text,
            HINT = 'the lock was lost: stop the work that it protected';
    END IF;
    UPDATE lockkit_fence AS f SET
        exclusive = CASE WHEN in_kind = 'exclusive' THEN in_token ELSE f.exclusive END,
        shared = CASE WHEN in_kind = 'shared' THEN greatest(f.shared, in_token) ELSE f.shared END
    WHERE f.resource = in_resource AND f.slot = in_slot;
END $$;
