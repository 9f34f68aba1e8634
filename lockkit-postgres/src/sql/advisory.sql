-- Strategy "advisory", in one schema whatever the schema of the rest: its locks are the database's, so its tokens
-- come from one counter. A token is the epoch in its high bits and a plain sequence in its low ones.
-- A crash may take the sequence back; it always empties the unlogged table, and the epoch grows.
CREATE SCHEMA IF NOT EXISTS lockkit;
CREATE SEQUENCE IF NOT EXISTS lockkit.token AS bigint MAXVALUE 4398046511103;
CREATE TABLE IF NOT EXISTS lockkit.epoch (one boolean PRIMARY KEY DEFAULT true CHECK (one), number bigint NOT NULL);
INSERT INTO lockkit.epoch (number) VALUES (0) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE IF NOT EXISTS lockkit.no_crash_since (one boolean PRIMARY KEY DEFAULT true CHECK (one));

-- The epoch of this session, for all its life: a crash of the server ends the session too.
CREATE OR REPLACE FUNCTION lockkit.enter() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found_epoch bigint;
BEGIN
    SELECT e.number INTO found_epoch FROM lockkit.epoch e, lockkit.no_crash_since;
    IF FOUND THEN
        RETURN found_epoch;
    END IF;
    PERFORM set_config('synchronous_commit', 'on', true);
    SELECT e.number INTO STRICT found_epoch FROM lockkit.epoch e FOR UPDATE;
    -- Another may have been here while we waited for the row.
    IF NOT EXISTS (SELECT FROM lockkit.no_crash_since) THEN
        found_epoch := found_epoch + 1;
        UPDATE lockkit.epoch SET number = found_epoch;
        INSERT INTO lockkit.no_crash_since DEFAULT VALUES;
    END IF;
    RETURN found_epoch;
END $$;

-- A token inside a transaction of the caller's; null until a client has entered since a crash.
CREATE OR REPLACE FUNCTION lockkit.next_token() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (e.number << 42) + nextval('lockkit.token') FROM lockkit.epoch e, lockkit.no_crash_since
$$;

-- Whether this session holds the key.
CREATE OR REPLACE FUNCTION lockkit.holds(in_key bigint) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (
        SELECT FROM pg_locks l
        WHERE l.pid = pg_backend_pid() AND l.granted AND l.locktype = 'advisory' AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (l.classid::bigint << 32) | l.objid::bigint = in_key)
$$;

-- Waits for a key for so many milliseconds: 1 taken at once, 2 taken after a wait, 0 not taken. It catches its own
-- end, so that neither a wait that is over nor one that is cancelled leaves a line in the server's log.
CREATE OR REPLACE FUNCTION lockkit.wait(in_key bigint, in_ms int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_lock(in_key) THEN
        RETURN 1;
    END IF;
    PERFORM set_config('lock_timeout', in_ms::text, true);
    PERFORM pg_advisory_lock(in_key);
    RETURN 2;
EXCEPTION WHEN lock_not_available OR query_canceled THEN
    -- The lock may have come at the very end.
    IF NOT pg_try_advisory_lock(in_key) THEN
        RETURN 0;
    END IF;
    -- Back to what the wait left: the lock, or nothing.
    PERFORM pg_advisory_unlock(in_key);
    RETURN CASE WHEN lockkit.holds(in_key) THEN 2 ELSE 0 END;
END $$;

-- The same beside others that share the key.
CREATE OR REPLACE FUNCTION lockkit.wait_shared(in_key bigint, in_ms int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_lock_shared(in_key) THEN
        RETURN 1;
    END IF;
    PERFORM set_config('lock_timeout', in_ms::text, true);
    PERFORM pg_advisory_lock_shared(in_key);
    RETURN 2;
EXCEPTION WHEN lock_not_available OR query_canceled THEN
    IF NOT pg_try_advisory_lock_shared(in_key) THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_unlock_shared(in_key);
    RETURN CASE WHEN lockkit.holds(in_key) THEN 2 ELSE 0 END;
END $$;

-- The key of a name, for clients outside Rust: HKDF (RFC 5869) with SHA-256 and no salt, as sqlx derives it, whose first
-- eight bytes are the key, the lowest first.
CREATE OR REPLACE FUNCTION lockkit.key(in_name text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    -- HMAC by hand, so that no extension is needed: its two pads, here for a key of nothing but zeros.
    inner_pad bytea := decode(repeat('36', 64), 'hex');
    outer_pad bytea := decode(repeat('5c', 64), 'hex');
    derived bytea;
    key bigint := 0;
BEGIN
    derived := sha256(outer_pad || sha256(inner_pad || convert_to(in_name, 'UTF8')));
    FOR i IN 0..31 LOOP
        inner_pad := set_byte(inner_pad, i, get_byte(derived, i) # get_byte(inner_pad, i));
        outer_pad := set_byte(outer_pad, i, get_byte(derived, i) # get_byte(outer_pad, i));
    END LOOP;
    derived := sha256(outer_pad || sha256(inner_pad
        || convert_to('SQLx (Rust) Postgres advisory lock', 'UTF8') || '\x01'::bytea));
    FOR i IN REVERSE 7..0 LOOP
        key := (key << 8) | get_byte(derived, i);
    END LOOP;
    RETURN key;
END $$;
