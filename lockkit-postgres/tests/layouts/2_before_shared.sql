-- Recorded: what PostgresConfig::setup_sql gave before shared locks (commit 4817be8 and before).
-- lockkit's objects. Run it again at any time, also by several at once.
BEGIN;
SELECT pg_advisory_xact_lock(7813254103221);
CREATE SCHEMA IF NOT EXISTS lockkit;

-- The tables of layout 1 must not be taken for these.
DO $$ BEGIN
    IF to_regclass('lockkit.tombstone') IS NOT NULL THEN
        RAISE EXCEPTION 'the schema lockkit holds layout 1 of the strategy "table"'
            USING HINT = 'stop the programs that use it, and run PostgresConfig::migration_sql()';
    END IF;
END $$;

-- Strategy "table".
--
-- A lease row is free (no request), held, or expired (expires_at has passed: the next call that locks
-- the row grants it on). `waiting`: the queue may have requests. No changing column has an index, so
-- that an update can stay on its page; `gen` changes only when a row has left its page, see moved().
CREATE TABLE IF NOT EXISTS lockkit.lease (
    name text COLLATE "C" NOT NULL,
    gen int NOT NULL DEFAULT 0,
    token bigint NOT NULL DEFAULT 0,
    request uuid,
    client uuid,
    label text,
    granted_at timestamptz,
    expires_at timestamptz,
    waiting boolean NOT NULL DEFAULT false,
    last_ticket bigint NOT NULL DEFAULT 0,
    -- The request that released last: a repeated release is told what the first was.
    released uuid,
    -- The call that revoked last, for the same reason.
    revoked uuid,
    -- Requests that have ended and may still arrive, each until when.
    dead uuid[] NOT NULL DEFAULT '{}',
    dead_until timestamptz[] NOT NULL DEFAULT '{}',
    -- The first place of the page on which the row lies, and the first behind it.
    page_from tid,
    page_to tid,
    PRIMARY KEY (name, gen)
) WITH (fillfactor = 20);

-- A waiting request. Its row never changes; the smallest ticket is granted first. The sequence is a logged
-- one: that of an unlogged table begins again after a crash, and `last_ticket` would stand before it.
CREATE SEQUENCE IF NOT EXISTS lockkit.ticket AS bigint;
CREATE UNLOGGED TABLE IF NOT EXISTS lockkit.waiter (
    ticket bigint NOT NULL DEFAULT nextval('lockkit.ticket'),
    name text COLLATE "C" NOT NULL,
    request uuid PRIMARY KEY,
    client uuid NOT NULL,
    ttl bigint NOT NULL,
    label text NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS waiter_in_order ON lockkit.waiter (name, ticket);

-- A client with waiters says that it lives by one beat every third of `life` (milliseconds). `lost`
-- grows when its waiters were taken out of a queue, since it had not been heard of for a life.
CREATE UNLOGGED TABLE IF NOT EXISTS lockkit.client (
    id uuid PRIMARY KEY,
    last_seen timestamptz NOT NULL,
    life bigint NOT NULL,
    beat bigint NOT NULL,
    lost bigint NOT NULL
) WITH (fillfactor = 20);

-- The crash barrier. A crash of the server, and the promotion of a standby, empty `marker`. Grants of a
-- ttl up to `ms` are not flushed: a crash may lose them, so after one nothing is granted until all of
-- them are over. Every token is at least `floor`.
CREATE TABLE IF NOT EXISTS lockkit.barrier (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    floor bigint NOT NULL,
    ms bigint NOT NULL
);
INSERT INTO lockkit.barrier (floor, ms) VALUES (0, 0) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE IF NOT EXISTS lockkit.marker (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    open_at timestamptz NOT NULL,
    floor bigint NOT NULL,
    ms bigint NOT NULL
);

-- Has the barrier be at least as long as this ttl, and begins an epoch after a crash: durably, with the
-- transaction that it is called in.
CREATE OR REPLACE FUNCTION lockkit.raise_barrier(in_ttl bigint) RETURNS lockkit.marker LANGUAGE plpgsql AS $$
DECLARE
    b lockkit.barrier%ROWTYPE;
    m lockkit.marker%ROWTYPE;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    SELECT * INTO STRICT b FROM lockkit.barrier WHERE one FOR UPDATE;
    SELECT * INTO m FROM lockkit.marker WHERE one;
    IF NOT FOUND THEN
        -- Tokens count from the server's clock in microseconds: a new schema's are greater than those
        -- of the one before it, and each epoch is far beyond what a crash can lose.
        b.floor := greatest(b.floor + (1::bigint << 32),
            (1000000 * extract(epoch FROM clock_timestamp()))::bigint);
        m.open_at := clock_timestamp() + b.ms * interval '1 ms';
        INSERT INTO lockkit.marker (open_at, floor, ms) VALUES (m.open_at, b.floor, b.ms);
    END IF;
    b.ms := greatest(b.ms, in_ttl);
    UPDATE lockkit.barrier SET floor = b.floor, ms = b.ms WHERE one;
    UPDATE lockkit.marker SET ms = b.ms WHERE one RETURNING * INTO m;
    RETURN m;
END $$;

-- Behind an open snapshot old versions of a row stay, and a search by name alone walks all of them. So
-- a row that has left its page gets a new `gen`, by which later searches begin on the page where it is.
CREATE OR REPLACE FUNCTION lockkit.moved(in_name text, in_gen int, in_at tid) RETURNS void LANGUAGE sql AS $$
    UPDATE lockkit.lease l SET gen = l.gen + CASE WHEN l.page_from IS NULL THEN 0 ELSE 1 END,
        page_from = format('(%s,0)', p)::tid, page_to = format('(%s,0)', p + 1)::tid
        FROM (SELECT split_part(ltrim(in_at::text, '('), ',', 1)::bigint AS p) page
        WHERE l.name = in_name AND l.gen = in_gen
$$;

-- Makes the row of a name. Only here is a name searched that may have none: the lock keeps a second row,
-- of another gen, from being made meanwhile.
CREATE OR REPLACE FUNCTION lockkit.make(in_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7813254, hashtext(in_name));
    IF NOT EXISTS (SELECT FROM lockkit.lease l WHERE l.name = in_name) THEN
        INSERT INTO lockkit.lease (name) VALUES (in_name);
    END IF;
END $$;

-- Gives a name, whose row of this `gen` the caller has locked, to the first waiter behind `in_last` that lives, or
-- frees it. `in_asks` is the request that asks just now, `in_released` the one that ends.
CREATE OR REPLACE FUNCTION lockkit.grant_next(
    in_name text, in_gen int, in_last bigint, in_asks uuid, in_released uuid
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    m record;
    h record;
    c record;
    moves boolean;
    at tid;
    token bigint;
    t timestamptz := clock_timestamp();
BEGIN
    SELECT b.open_at, b.floor, b.ms INTO m FROM lockkit.marker b WHERE one;
    LOOP
        -- The LIMIT within has the client searched by its key, however few clients there were at first.
        SELECT w.ctid AS place, w.ticket, w.request, w.client, w.ttl, w.label, k.last_seen, k.life, k.beat INTO h
            FROM lockkit.waiter w LEFT JOIN LATERAL
                (SELECT i.last_seen, i.life, i.beat FROM lockkit.client i WHERE i.id = w.client LIMIT 1) k ON true
            WHERE w.name = in_name AND w.ticket > in_last ORDER BY w.ticket LIMIT 1;
        IF NOT FOUND OR m.open_at IS NULL OR m.open_at > clock_timestamp() THEN
            UPDATE lockkit.lease e SET request = NULL, client = NULL, label = NULL, expires_at = NULL,
                waiting = h.request IS NOT NULL, released = coalesce(in_released, e.released)
                WHERE e.name = in_name AND e.gen = in_gen
                RETURNING e.page_from IS NULL OR e.ctid < e.page_from OR e.ctid >= e.page_to, e.ctid
                INTO moves, at;
            EXIT;
        END IF;
        IF h.request IS DISTINCT FROM in_asks
            AND coalesce(h.last_seen + h.life * interval '1 ms' <= t, true) THEN
            -- Not heard of for a life. A row that another call has locked is being written: it lives.
            SELECT k.last_seen, k.life, k.beat INTO c FROM lockkit.client k WHERE k.id = h.client
                FOR NO KEY UPDATE SKIP LOCKED;
            IF FOUND AND c.last_seen + c.life * interval '1 ms' > clock_timestamp() THEN
                h.last_seen := c.last_seen;
                h.beat := c.beat;
            ELSIF FOUND OR h.last_seen IS NULL THEN
                UPDATE lockkit.client k SET lost = k.lost + 1 WHERE k.id = h.client;
                DELETE FROM lockkit.waiter w WHERE w.name = in_name AND w.client = h.client;
                CONTINUE;
            END IF;
        END IF;
        -- By the barrier that is there: clients may be set to different ones.
        IF h.ttl > m.ms THEN
            PERFORM set_config('synchronous_commit', 'on', true);
        END IF;
        DELETE FROM lockkit.waiter w WHERE w.ctid = h.place;
        -- A client that is told counts from when it sent its beat, which is before the beat was seen.
        UPDATE lockkit.lease e SET token = greatest(e.token + 1, m.floor), request = h.request,
            client = h.client, label = h.label, granted_at = t, last_ticket = h.ticket, waiting = true,
            released = coalesce(in_released, e.released),
            expires_at = CASE WHEN h.request = in_asks THEN t ELSE h.last_seen END
                + h.ttl * interval '1 ms'
            WHERE e.name = in_name AND e.gen = in_gen
            RETURNING e.page_from IS NULL OR e.ctid < e.page_from OR e.ctid >= e.page_to, e.ctid, e.token
            INTO moves, at, token;
        IF h.request IS DISTINCT FROM in_asks THEN
            PERFORM pg_notify('lockkit_' || replace(h.client::text, '-', ''),
                format('grant %s %s %s', h.request, token, h.beat));
        END IF;
        EXIT;
    END LOOP;
    IF moves THEN
        PERFORM lockkit.moved(in_name, in_gen, at);
    END IF;
    RETURN h.request;
END $$;

-- Asks for a name: 'granted <token>', 'withdrawn', 'closed <ms>' until grants begin after a crash, or
-- 'held <ms> <label>' with the time until the holder's term is over.
CREATE OR REPLACE FUNCTION lockkit.acquire(
    in_name text, in_request uuid, in_client uuid, in_ttl bigint, in_label text, in_waits boolean,
    in_barrier bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    l record;
    m record;
    t timestamptz;
    token bigint;
    generation int;
    moves boolean;
    at tid;
BEGIN
    LOOP
        -- Free, and no request waits: one update. A withdrawal is seen in the row itself; another table
        -- would be read as it was before the wait for the row.
        UPDATE lockkit.lease e SET token = greatest(e.token + 1, b.floor), request = in_request,
            client = in_client, label = in_label, granted_at = clock_timestamp(),
            expires_at = clock_timestamp() + in_ttl * interval '1 ms'
            FROM lockkit.marker b WHERE b.one AND b.open_at <= clock_timestamp()
                AND (in_ttl <= b.ms OR in_ttl > in_barrier) AND e.name = in_name
                AND e.gen = (SELECT g.gen FROM lockkit.lease g WHERE g.name = in_name ORDER BY g.gen DESC LIMIT 1)
                AND NOT e.waiting AND (e.request IS NULL OR e.expires_at <= clock_timestamp())
                AND in_request <> ALL (e.dead)
            RETURNING e.token, e.gen, e.ctid, e.page_from IS NULL OR e.ctid < e.page_from OR e.ctid >= e.page_to
            INTO token, generation, at, moves;
        IF FOUND THEN
            IF moves THEN
                PERFORM lockkit.moved(in_name, generation, at);
            END IF;
            -- Only now: a request that waits is not flushed.
            IF in_ttl > in_barrier THEN
                PERFORM set_config('synchronous_commit', 'on', true);
            END IF;
            RETURN 'granted ' || token;
        END IF;
        SELECT e.gen, e.token, e.request, e.label, e.expires_at, e.waiting, e.last_ticket, e.dead INTO l
            FROM lockkit.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM lockkit.make(in_name);
            CONTINUE;
        END IF;
        IF in_request = ANY (l.dead) THEN
            RETURN 'withdrawn';
        END IF;
        SELECT b.open_at, b.ms INTO m FROM lockkit.marker b WHERE one;
        IF in_ttl <= in_barrier AND (m.ms IS NULL OR m.ms < in_ttl) THEN
            m := lockkit.raise_barrier(in_ttl);
        ELSIF m.ms IS NULL THEN
            m := lockkit.raise_barrier(0);
        END IF;
        -- Not now(): that is before the wait for the row. And after the first marker of a schema, which opens at once.
        t := clock_timestamp();
        IF l.request = in_request AND l.expires_at > t THEN
            UPDATE lockkit.lease e SET expires_at = t + in_ttl * interval '1 ms'
                WHERE e.name = in_name AND e.gen = l.gen;
            IF in_ttl > in_barrier THEN
                PERFORM set_config('synchronous_commit', 'on', true);
            END IF;
            RETURN 'granted ' || l.token;
        END IF;
        IF (l.request IS NULL OR l.expires_at <= t) AND NOT l.waiting AND m.open_at <= t THEN
            -- Its row is ours until the end of this call: the update finds it free.
            CONTINUE;
        END IF;
        IF in_waits THEN
            INSERT INTO lockkit.waiter (name, request, client, ttl, label)
                VALUES (in_name, in_request, in_client, in_ttl, in_label) ON CONFLICT (request) DO NOTHING;
        END IF;
        IF l.request IS NULL OR l.expires_at <= t THEN
            IF m.open_at > t THEN
                UPDATE lockkit.lease e SET waiting = true WHERE in_waits AND e.name = in_name AND e.gen = l.gen;
                RETURN format('closed %s', ceil(1000 * extract(epoch FROM m.open_at - t)));
            END IF;
            generation := l.gen;
            IF lockkit.grant_next(in_name, generation, l.last_ticket, in_request, NULL) = in_request THEN
                SELECT e.token INTO token FROM lockkit.lease e WHERE e.name = in_name AND e.gen >= generation;
                RETURN 'granted ' || token;
            END IF;
            SELECT e.request, e.label, e.expires_at INTO l
                FROM lockkit.lease e WHERE e.name = in_name AND e.gen >= generation;
            -- Its waiters had left.
            CONTINUE WHEN l.request IS NULL OR l.expires_at <= t;
        ELSIF in_waits AND NOT l.waiting THEN
            UPDATE lockkit.lease e SET waiting = true WHERE e.name = in_name AND e.gen = l.gen;
        END IF;
        RETURN format('held %s %s', ceil(1000 * date_part('epoch', l.expires_at - t)), l.label);
    END LOOP;
END $$;

-- Ends a request, granted or waiting: 'released', 'again' for the release that was answered so last, 'ended' for
-- one that was revoked or withdrawn before, or 'nothing'. A tombstone has a late copy of the request refused.
CREATE OR REPLACE FUNCTION lockkit.leave(
    in_name text, in_request uuid, in_tombstone boolean, in_flush boolean
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    l record;
    t timestamptz;
BEGIN
    IF in_flush THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF NOT in_tombstone THEN
        UPDATE lockkit.lease e SET request = NULL, client = NULL, label = NULL, expires_at = NULL,
            released = in_request
            WHERE e.name = in_name
                AND e.gen = (SELECT g.gen FROM lockkit.lease g WHERE g.name = in_name ORDER BY g.gen DESC LIMIT 1)
                AND e.request = in_request AND e.expires_at > clock_timestamp()
            RETURNING e.gen, e.waiting, e.last_ticket, e.ctid, e.ctid < e.page_from OR e.ctid >= e.page_to AS moves
            INTO l;
        IF FOUND THEN
            IF l.waiting THEN
                PERFORM lockkit.grant_next(in_name, l.gen, l.last_ticket, NULL, NULL);
            ELSIF l.moves THEN
                PERFORM lockkit.moved(in_name, l.gen, l.ctid);
            END IF;
            RETURN 'released';
        END IF;
    END IF;
    LOOP
        SELECT e.gen, e.request, e.expires_at, e.released, e.last_ticket INTO l
            FROM lockkit.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
        EXIT WHEN FOUND OR NOT in_tombstone;
        PERFORM lockkit.make(in_name);
    END LOOP;
    t := clock_timestamp();
    IF EXISTS (SELECT FROM lockkit.lease e WHERE e.name = in_name AND e.gen = l.gen AND in_request = ANY (e.dead)) THEN
        RETURN 'ended';
    END IF;
    IF in_tombstone THEN
        UPDATE lockkit.lease e SET (dead, dead_until) = (
                SELECT array_agg(d.request) || in_request, array_agg(d.until) || t + interval '120 s'
                FROM unnest(e.dead, e.dead_until) AS d (request, until)
                WHERE d.until > t AND d.request <> in_request)
            WHERE e.name = in_name AND e.gen = l.gen;
    END IF;
    IF l.request = in_request THEN
        PERFORM lockkit.grant_next(in_name, l.gen, l.last_ticket, NULL, CASE WHEN l.expires_at > t THEN in_request END);
        RETURN CASE WHEN l.expires_at > t THEN 'released' ELSE 'nothing' END;
    END IF;
    DELETE FROM lockkit.waiter w WHERE w.request = in_request;
    RETURN CASE WHEN l.released = in_request THEN 'again' ELSE 'nothing' END;
END $$;

CREATE OR REPLACE FUNCTION lockkit.renew(in_name text, in_request uuid, in_ttl bigint, in_barrier bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l lockkit.lease%ROWTYPE;
    at tid;
BEGIN
    IF in_ttl > in_barrier THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE lockkit.lease e SET expires_at = clock_timestamp() + in_ttl * interval '1 ms'
        WHERE e.name = in_name
            AND e.gen = (SELECT g.gen FROM lockkit.lease g WHERE g.name = in_name ORDER BY g.gen DESC LIMIT 1)
            AND e.request = in_request AND e.expires_at > clock_timestamp()
        RETURNING e.gen, e.page_from, e.page_to, e.ctid INTO l.gen, l.page_from, l.page_to, at;
    IF NOT FOUND THEN
        -- A grant that moved to another gen meanwhile is searched again.
        SELECT * INTO l FROM lockkit.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
        IF l.request IS DISTINCT FROM in_request OR l.expires_at <= clock_timestamp() THEN
            RETURN false;
        END IF;
        UPDATE lockkit.lease e SET expires_at = clock_timestamp() + in_ttl * interval '1 ms'
            WHERE e.name = in_name AND e.gen = l.gen RETURNING e.ctid INTO at;
    END IF;
    IF l.page_from IS NULL OR at < l.page_from OR at >= l.page_to THEN
        PERFORM lockkit.moved(in_name, l.gen, at);
    END IF;
    RETURN true;
END $$;

-- Ends the grant with this token, and tells its holder; the same call is told the same again.
CREATE OR REPLACE FUNCTION lockkit.revoke(in_name text, in_token bigint, in_call uuid)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l lockkit.lease%ROWTYPE;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    SELECT * INTO l FROM lockkit.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
    IF l.revoked = in_call THEN
        RETURN true;
    END IF;
    IF l.request IS NULL OR l.token <> in_token OR l.expires_at <= clock_timestamp() THEN
        RETURN false;
    END IF;
    -- A late copy of the request must not bring it back.
    PERFORM lockkit.leave(in_name, l.request, true, true);
    UPDATE lockkit.lease e SET revoked = in_call, released = NULL WHERE e.name = in_name AND e.gen >= l.gen;
    PERFORM pg_notify('lockkit_' || replace(l.client::text, '-', ''), format('lost %s', l.request));
    RETURN true;
END $$;

-- One beat for all waiters of a client; its `lost`, which has grown if they must ask again.
CREATE OR REPLACE FUNCTION lockkit.beat(in_client uuid, in_beat bigint, in_life bigint, in_lost bigint)
RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO lockkit.client AS c VALUES (in_client, clock_timestamp(), in_life, in_beat, in_lost + 1)
        ON CONFLICT (id) DO UPDATE SET last_seen = clock_timestamp(), life = in_life, beat = in_beat
        RETURNING c.lost
$$;

-- Grants on what has expired or is free of the names that a client waits for; in how many milliseconds
-- the first of the others expires. Never in one transaction with a beat: it would lock in another order.
CREATE OR REPLACE FUNCTION lockkit.poke(in_names text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    seen lockkit.lease%ROWTYPE;
    locked lockkit.lease%ROWTYPE;
    soonest timestamptz;
BEGIN
    FOR seen IN SELECT l.* FROM unnest(in_names) AS n (name)
        CROSS JOIN LATERAL (SELECT * FROM lockkit.lease g WHERE g.name = n.name ORDER BY g.gen DESC LIMIT 1) l
    LOOP
        IF seen.request IS NULL OR seen.expires_at <= clock_timestamp() THEN
            -- A row that is locked is being changed by a call that grants on.
            SELECT * INTO locked FROM lockkit.lease l WHERE l.name = seen.name AND l.gen = seen.gen AND l.waiting
                AND (l.request IS NULL OR l.expires_at <= clock_timestamp()) FOR UPDATE SKIP LOCKED;
            IF FOUND THEN
                PERFORM lockkit.grant_next(locked.name, locked.gen, locked.last_ticket, NULL, NULL);
            END IF;
        ELSE
            soonest := least(soonest, seen.expires_at);
        END IF;
    END LOOP;
    RETURN greatest(0, ceil(1000 * extract(epoch FROM soonest - clock_timestamp())));
END $$;

-- Deletes the rows of names that begin with a prefix and were not used for a time; how many. Tokens go on:
-- a name that is used again begins above all that were deleted.
CREATE OR REPLACE FUNCTION lockkit.forget(in_prefix text, in_unused_for interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    count bigint;
    most bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    WITH gone AS (
        DELETE FROM lockkit.lease e WHERE starts_with(e.name, in_prefix) AND e.request IS NULL AND NOT e.waiting
            AND coalesce(e.granted_at, '-infinity') < clock_timestamp() - in_unused_for
            RETURNING e.token)
    SELECT count(*), max(token) INTO count, most FROM gone;
    UPDATE lockkit.barrier SET floor = greatest(floor, most + 1) WHERE one;
    UPDATE lockkit.marker SET floor = greatest(floor, most + 1) WHERE one;
    RETURN count;
END $$;

-- What a program of layout 1 calls.
CREATE OR REPLACE FUNCTION lockkit.refuse() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the schema lockkit holds layout 2 of the strategy "table", newer than this program'
        USING ERRCODE = 'insufficient_privilege', HINT = 'upgrade this program';
END $$;
CREATE OR REPLACE FUNCTION lockkit.acquire(text, text, bigint, bigint, text, text, boolean,
    OUT state text, OUT number bigint, OUT holder text) LANGUAGE sql AS $$
    SELECT lockkit.refuse(); SELECT NULL::text, NULL::bigint, NULL::text
$$;
CREATE OR REPLACE FUNCTION lockkit.leave(text, text, boolean) RETURNS boolean LANGUAGE sql AS $$
    SELECT lockkit.refuse(); SELECT NULL::boolean
$$;
CREATE OR REPLACE FUNCTION lockkit.renew(text, text, bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT lockkit.refuse(); SELECT NULL::boolean
$$;
CREATE OR REPLACE FUNCTION lockkit.revoke(text, bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT lockkit.refuse(); SELECT NULL::boolean
$$;

CREATE OR REPLACE FUNCTION lockkit.table_layout() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2';


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


-- The fence: for each resource, the newest token that wrote to it.
CREATE TABLE IF NOT EXISTS lockkit.fence (resource text PRIMARY KEY, token bigint NOT NULL);

-- To be called in the transaction of the write, before it: raises LK001 for a token that is older
-- than the newest one seen for the resource, and remembers a newer one.
CREATE OR REPLACE FUNCTION lockkit.fence(in_resource text, in_token bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    INSERT INTO lockkit.fence AS f VALUES (in_resource, in_token)
        ON CONFLICT (resource) DO UPDATE SET token = greatest(f.token, excluded.token)
        RETURNING f.token INTO newest;
    IF newest > in_token THEN
        RAISE EXCEPTION 'token % is older than %, the newest seen for %', in_token, newest, in_resource
            USING ERRCODE = 'LK001', DETAIL = newest, HINT = 'the lock was lost: stop the work that it protected';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION lockkit.lockkit_version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
COMMIT;
