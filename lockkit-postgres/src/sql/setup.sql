-- lockkit's objects. Run it again at any time, also by several at once.
BEGIN;
SELECT pg_advisory_xact_lock(7813254103221);
CREATE SCHEMA IF NOT EXISTS @;

-- Strategy "table": a row for each name, never deleted, for its token must go on growing.
CREATE TABLE IF NOT EXISTS @.lease (
    name text COLLATE "C" PRIMARY KEY,
    token bigint NOT NULL DEFAULT 0,
    request text,
    label text,
    wake text,
    granted_at timestamptz,
    expires_at timestamptz,
    released text
) WITH (fillfactor = 50);
-- Those that wait, each for as long as it says that it lives; a crash of the server may forget them.
CREATE UNLOGGED TABLE IF NOT EXISTS @.waiter (
    name text COLLATE "C" NOT NULL,
    request text NOT NULL,
    ticket bigint GENERATED ALWAYS AS IDENTITY,
    wake text,
    alive_until timestamptz NOT NULL,
    PRIMARY KEY (name, request)
) WITH (fillfactor = 50);
-- Requests that have ended and may still arrive.
CREATE UNLOGGED TABLE IF NOT EXISTS @.tombstone (
    request text PRIMARY KEY,
    until timestamptz NOT NULL
);

CREATE OR REPLACE FUNCTION @.acquire(
    in_name text, in_request text, in_ttl bigint, in_life bigint, in_wake text, in_label text,
    in_waits boolean,
    OUT state text, OUT number bigint, OUT holder text
) LANGUAGE plpgsql AS $$
DECLARE
    entry @.lease%ROWTYPE;
    head @.waiter%ROWTYPE;
    t timestamptz;
    is_free boolean;
BEGIN
    SELECT * INTO entry FROM @.lease l WHERE l.name = in_name FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO @.lease (name) VALUES (in_name) ON CONFLICT DO NOTHING;
        SELECT * INTO STRICT entry FROM @.lease l WHERE l.name = in_name FOR UPDATE;
    END IF;
    -- Not now(): that is before the wait for the row.
    t := clock_timestamp();
    IF EXISTS (SELECT FROM @.tombstone b WHERE b.request = in_request) THEN
        state := 'withdrawn';
        RETURN;
    END IF;
    is_free := entry.request IS NULL OR entry.expires_at <= t;
    IF NOT is_free AND entry.request = in_request THEN
        UPDATE @.lease l SET expires_at = t + in_ttl * interval '1 ms' WHERE l.name = in_name;
        state := 'granted';
        number := entry.token;
        RETURN;
    END IF;
    DELETE FROM @.waiter w
        WHERE w.name = in_name AND w.alive_until <= t AND w.request <> in_request;
    SELECT * INTO head FROM @.waiter w WHERE w.name = in_name ORDER BY w.ticket LIMIT 1;
    IF is_free AND (head.request IS NULL OR head.request = in_request) THEN
        IF head.request IS NOT NULL THEN
            DELETE FROM @.waiter w WHERE w.name = in_name AND w.request = in_request;
        END IF;
        UPDATE @.lease l SET token = l.token + 1, request = in_request, label = in_label,
            wake = in_wake, granted_at = t, expires_at = t + in_ttl * interval '1 ms'
            WHERE l.name = in_name;
        state := 'granted';
        number := entry.token + 1;
        RETURN;
    END IF;
    state := 'held';
    holder := CASE WHEN NOT is_free THEN entry.label END;
    IF in_waits THEN
        INSERT INTO @.waiter (name, request, wake, alive_until)
            VALUES (in_name, in_request, in_wake, t + in_life * interval '1 ms')
            ON CONFLICT ON CONSTRAINT waiter_pkey
            DO UPDATE SET alive_until = excluded.alive_until, wake = excluded.wake;
        -- When to ask again: the head at the holder's end, the others at the head's if it is its turn.
        IF is_free THEN
            number := 1000 * extract(epoch FROM head.alive_until - t);
        ELSIF head.request IS NULL OR head.request = in_request THEN
            number := 1000 * extract(epoch FROM entry.expires_at - t);
        END IF;
    END IF;
END $$;

-- Tells the next in the queue; of a free name, it keeps it for that one for a moment.
CREATE OR REPLACE FUNCTION @.hand_on(in_name text, in_is_free boolean, in_t timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    waiting @.waiter%ROWTYPE;
    is_head boolean := true;
BEGIN
    DELETE FROM @.waiter w WHERE w.name = in_name AND w.alive_until <= in_t;
    FOR waiting IN SELECT * FROM @.waiter w WHERE w.name = in_name ORDER BY w.ticket LIMIT 2 LOOP
        IF is_head THEN
            -- One that cannot be woken comes by itself, within its life.
            IF waiting.wake IS NOT NULL AND in_is_free THEN
                UPDATE @.waiter w SET alive_until = in_t + interval '1500 ms'
                    WHERE w.name = in_name AND w.request = waiting.request;
            END IF;
            PERFORM pg_notify(waiting.wake, 'go ' || waiting.request)
                WHERE waiting.wake IS NOT NULL;
        ELSIF in_is_free THEN
            PERFORM pg_notify(waiting.wake, 'arm ' || waiting.request || ' 1500')
                WHERE waiting.wake IS NOT NULL;
        END IF;
        is_head := false;
    END LOOP;
END $$;

-- Ends a request, granted or waiting; whether it held the name.
CREATE OR REPLACE FUNCTION @.leave(in_name text, in_request text, in_tombstone boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    entry @.lease%ROWTYPE;
    head text;
    held boolean;
    t timestamptz;
BEGIN
    IF in_tombstone THEN
        -- What is to be ended may be the first acquire of the name: its row is seen once it commits.
        INSERT INTO @.lease (name) VALUES (in_name) ON CONFLICT DO NOTHING;
    END IF;
    SELECT * INTO entry FROM @.lease l WHERE l.name = in_name FOR UPDATE;
    t := clock_timestamp();
    IF in_tombstone THEN
        INSERT INTO @.tombstone VALUES (in_request, t + interval '120 s') ON CONFLICT DO NOTHING;
        DELETE FROM @.tombstone b WHERE b.until < t;
    END IF;
    held := coalesce(entry.request = in_request, false);
    SELECT w.request INTO head FROM @.waiter w WHERE w.name = in_name ORDER BY w.ticket LIMIT 1;
    DELETE FROM @.waiter w WHERE w.name = in_name AND w.request = in_request;
    IF held THEN
        -- What comes after it in the log is flushed after it: no flush of its own is needed.
        PERFORM set_config('synchronous_commit', 'off', true);
        UPDATE @.lease l SET request = NULL, label = NULL, wake = NULL, expires_at = NULL,
            released = CASE WHEN entry.expires_at > t THEN in_request END WHERE l.name = in_name;
        PERFORM @.hand_on(in_name, true, t);
        RETURN entry.expires_at > t;
    ELSIF head = in_request THEN
        PERFORM @.hand_on(in_name, entry.request IS NULL OR entry.expires_at <= t, t);
    END IF;
    -- A repeated release is told what the first one was.
    RETURN coalesce(entry.released = in_request, false);
END $$;

CREATE OR REPLACE FUNCTION @.renew(in_name text, in_request text, in_ttl bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM @.lease l WHERE l.name = in_name FOR UPDATE;
    UPDATE @.lease l SET expires_at = clock_timestamp() + in_ttl * interval '1 ms'
        WHERE l.name = in_name AND l.request = in_request AND l.expires_at > clock_timestamp();
    RETURN FOUND;
END $$;

-- Ends the grant with this token, and tells its holder.
CREATE OR REPLACE FUNCTION @.revoke(in_name text, in_token bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    entry @.lease%ROWTYPE;
BEGIN
    SELECT * INTO entry FROM @.lease l WHERE l.name = in_name FOR UPDATE;
    IF entry.request IS NULL OR entry.token <> in_token OR entry.expires_at <= clock_timestamp() THEN
        RETURN false;
    END IF;
    PERFORM @.leave(in_name, entry.request, true);
    UPDATE @.lease l SET released = NULL WHERE l.name = in_name;
    PERFORM pg_notify(entry.wake, 'lost ' || entry.request) WHERE entry.wake IS NOT NULL;
    RETURN true;
END $$;

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
