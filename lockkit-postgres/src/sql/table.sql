-- Strategy "table".
--
-- A lease row is free (no request), held by a request alone, held by a group of members (its request is %group%), or
-- expired (expires_at has passed: the next call that locks the row grants it on). `waiting`: the queue may have requests. No changing column has an index, so
-- that an update can stay on its page; `gen` changes only when a row has left its page, see moved().
CREATE TABLE IF NOT EXISTS @.lease (
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
CREATE SEQUENCE IF NOT EXISTS @.ticket AS bigint;
CREATE UNLOGGED TABLE IF NOT EXISTS @.waiter (
    ticket bigint NOT NULL DEFAULT nextval('@.ticket'),
    name text COLLATE "C" NOT NULL,
    request uuid PRIMARY KEY,
    client uuid NOT NULL,
    ttl bigint NOT NULL,
    label text NOT NULL
);

-- Added later; older functions know only of exclusive grants and waiters, and leave these as they are. Only where they
-- are missing, and in the order of each call's own locks: calls of other clients go on meanwhile.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '@.lease'::regclass AND attname = 'members') THEN
        ALTER TABLE @.lease
            -- How many members the last group has, and the token of the oldest: no other row is one. Where it has
            -- expired, its rows stay until the next group.
            ADD COLUMN members int NOT NULL DEFAULT 0,
            ADD COLUMN first_member bigint NOT NULL DEFAULT 0,
            -- The limit of a semaphore.
            ADD COLUMN permits int;
        ALTER TABLE @.waiter ADD COLUMN kind text NOT NULL DEFAULT 'exclusive';
    END IF;
END $$;
CREATE UNIQUE INDEX IF NOT EXISTS waiter_in_order ON @.waiter (name, ticket);

-- A member of a group: a grant that is held beside others. The lease row of the name has the marker %group% for its
-- request and the latest of the members' ends for its own, so that each call that knows of exclusive grants alone,
-- one of an older version too, finds the name held for as long as one of them is.
CREATE TABLE IF NOT EXISTS @.member (
    request uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    token bigint NOT NULL,
    client uuid NOT NULL,
    label text NOT NULL,
    granted_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- That of a counted grant.
    slot int,
    UNIQUE (name, token)
) WITH (fillfactor = 50);

-- A client with waiters says that it lives by one beat every third of `life` (milliseconds). `lost`
-- grows when its waiters were taken out of a queue, since it had not been heard of for a life.
CREATE UNLOGGED TABLE IF NOT EXISTS @.client (
    id uuid PRIMARY KEY,
    last_seen timestamptz NOT NULL,
    life bigint NOT NULL,
    beat bigint NOT NULL,
    lost bigint NOT NULL
) WITH (fillfactor = 20);

-- The crash barrier. A crash of the server, and the promotion of a standby, empty `marker`. Grants of a
-- ttl up to `ms` are not flushed: a crash may lose them, so after one nothing is granted until all of
-- them are over. Every token is at least `floor`.
CREATE TABLE IF NOT EXISTS @.barrier (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    floor bigint NOT NULL,
    ms bigint NOT NULL
);
INSERT INTO @.barrier (floor, ms) VALUES (0, 0) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE IF NOT EXISTS @.marker (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    open_at timestamptz NOT NULL,
    floor bigint NOT NULL,
    ms bigint NOT NULL
);

-- Has the barrier be at least as long as this ttl, and begins an epoch after a crash: durably, with the
-- transaction that it is called in.
CREATE OR REPLACE FUNCTION @.raise_barrier(in_ttl bigint) RETURNS @.marker LANGUAGE plpgsql AS $$
DECLARE
    b @.barrier%ROWTYPE;
    m @.marker%ROWTYPE;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    SELECT * INTO STRICT b FROM @.barrier WHERE one FOR UPDATE;
    SELECT * INTO m FROM @.marker WHERE one;
    IF NOT FOUND THEN
        -- Tokens count from the server's clock in microseconds: a new schema's are greater than those
        -- of the one before it, and each epoch is far beyond what a crash can lose.
        b.floor := greatest(b.floor + (1::bigint << 32),
            (1000000 * extract(epoch FROM clock_timestamp()))::bigint);
        m.open_at := clock_timestamp() + b.ms * interval '1 ms';
        INSERT INTO @.marker (open_at, floor, ms) VALUES (m.open_at, b.floor, b.ms);
    END IF;
    b.ms := greatest(b.ms, in_ttl);
    UPDATE @.barrier SET floor = b.floor, ms = b.ms WHERE one;
    UPDATE @.marker SET ms = b.ms WHERE one RETURNING * INTO m;
    RETURN m;
END $$;

-- Behind an open snapshot old versions of a row stay, and a search by name alone walks all of them. So
-- a row that has left its page gets a new `gen`, by which later searches begin on the page where it is.
CREATE OR REPLACE FUNCTION @.moved(in_name text, in_gen int, in_at tid) RETURNS void LANGUAGE sql AS $$
    UPDATE @.lease l SET gen = l.gen + CASE WHEN l.page_from IS NULL THEN 0 ELSE 1 END,
        page_from = format('(%s,0)', p)::tid, page_to = format('(%s,0)', p + 1)::tid
        FROM (SELECT split_part(ltrim(in_at::text, '('), ',', 1)::bigint AS p) page
        WHERE l.name = in_name AND l.gen = in_gen
$$;

-- Makes the row of a name. Only here is a name searched that may have none: the lock keeps a second row,
-- of another gen, from being made meanwhile.
CREATE OR REPLACE FUNCTION @.make(in_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7813254, hashtext(in_name));
    IF NOT EXISTS (SELECT FROM @.lease l WHERE l.name = in_name) THEN
        INSERT INTO @.lease (name) VALUES (in_name);
    END IF;
END $$;

%member%

-- Asks for a name: 'granted <token>', 'withdrawn', 'closed <ms>' until grants begin after a crash, or
-- 'held <ms> <label>' with the time until the holder's term is over.
CREATE OR REPLACE FUNCTION @.acquire(
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
        UPDATE @.lease e SET token = greatest(e.token + 1, b.floor), request = in_request,
            client = in_client, label = in_label, granted_at = clock_timestamp(),
            expires_at = clock_timestamp() + in_ttl * interval '1 ms'
            FROM @.marker b WHERE b.one AND b.open_at <= clock_timestamp()
                AND (in_ttl <= b.ms OR in_ttl > in_barrier) AND e.name = in_name
                AND e.gen = (SELECT g.gen FROM @.lease g WHERE g.name = in_name ORDER BY g.gen DESC LIMIT 1)
                AND NOT e.waiting AND (e.request IS NULL OR e.expires_at <= clock_timestamp())
                AND in_request <> ALL (e.dead)
            RETURNING e.token, e.gen, e.ctid, e.page_from IS NULL OR e.ctid < e.page_from OR e.ctid >= e.page_to
            INTO token, generation, at, moves;
        IF FOUND THEN
            IF moves THEN
                PERFORM @.moved(in_name, generation, at);
            END IF;
            -- Only now: a request that waits is not flushed.
            IF in_ttl > in_barrier THEN
                PERFORM set_config('synchronous_commit', 'on', true);
            END IF;
            RETURN 'granted ' || token;
        END IF;
        SELECT e.gen, e.token, e.request, e.label, e.expires_at, e.waiting, e.last_ticket, e.dead INTO l
            FROM @.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM @.make(in_name);
            CONTINUE;
        END IF;
        IF in_request = ANY (l.dead) THEN
            RETURN 'withdrawn';
        END IF;
        SELECT b.open_at, b.ms INTO m FROM @.marker b WHERE one;
        IF in_ttl <= in_barrier AND (m.ms IS NULL OR m.ms < in_ttl) THEN
            m := @.raise_barrier(in_ttl);
        ELSIF m.ms IS NULL THEN
            m := @.raise_barrier(0);
        END IF;
        -- Not now(): that is before the wait for the row. And after the first marker of a schema, which opens at once.
        t := clock_timestamp();
        IF l.request = in_request AND l.expires_at > t THEN
            UPDATE @.lease e SET expires_at = t + in_ttl * interval '1 ms'
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
            INSERT INTO @.waiter (name, request, client, ttl, label)
                VALUES (in_name, in_request, in_client, in_ttl, in_label) ON CONFLICT (request) DO NOTHING;
        END IF;
        IF l.request IS NULL OR l.expires_at <= t THEN
            IF m.open_at > t THEN
                UPDATE @.lease e SET waiting = true WHERE in_waits AND e.name = in_name AND e.gen = l.gen;
                RETURN format('closed %s', ceil(1000 * extract(epoch FROM m.open_at - t)));
            END IF;
            generation := l.gen;
            IF @.grant_next(in_name, generation, l.last_ticket, in_request, NULL, NULL) = in_request THEN
                SELECT e.token INTO token FROM @.lease e WHERE e.name = in_name AND e.gen >= generation;
                RETURN 'granted ' || token;
            END IF;
            SELECT e.request, e.label, e.expires_at INTO l
                FROM @.lease e WHERE e.name = in_name AND e.gen >= generation;
            -- Its waiters had left.
            CONTINUE WHEN l.request IS NULL OR l.expires_at <= t;
        ELSIF in_waits AND NOT l.waiting THEN
            UPDATE @.lease e SET waiting = true WHERE e.name = in_name AND e.gen = l.gen;
        END IF;
        RETURN format('held %s %s', ceil(1000 * date_part('epoch', l.expires_at - t)), l.label);
    END LOOP;
END $$;

-- Ends a request, granted or waiting: 'released', 'again' for the release that was answered so last, 'ended' for
-- one that was revoked or withdrawn before, or 'nothing'. A tombstone has a late copy of the request refused.
CREATE OR REPLACE FUNCTION @.leave(
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
        UPDATE @.lease e SET request = NULL, client = NULL, label = NULL, expires_at = NULL,
            released = in_request
            WHERE e.name = in_name
                AND e.gen = (SELECT g.gen FROM @.lease g WHERE g.name = in_name ORDER BY g.gen DESC LIMIT 1)
                AND e.request = in_request AND e.expires_at > clock_timestamp()
            RETURNING e.gen, e.waiting, e.last_ticket, e.ctid, e.ctid < e.page_from OR e.ctid >= e.page_to AS moves
            INTO l;
        IF FOUND THEN
            IF l.waiting THEN
                PERFORM @.grant_next(in_name, l.gen, l.last_ticket, NULL, NULL, NULL);
            ELSIF l.moves THEN
                PERFORM @.moved(in_name, l.gen, l.ctid);
            END IF;
            RETURN 'released';
        END IF;
    END IF;
    LOOP
        SELECT e.gen, e.request, e.expires_at, e.released, e.last_ticket, e.members INTO l
            FROM @.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
        EXIT WHEN FOUND OR NOT in_tombstone;
        PERFORM @.make(in_name);
    END LOOP;
    t := clock_timestamp();
    IF EXISTS (SELECT FROM @.lease e WHERE e.name = in_name AND e.gen = l.gen AND in_request = ANY (e.dead)) THEN
        RETURN 'ended';
    END IF;
    IF in_tombstone THEN
        PERFORM @.bury(in_name, l.gen, in_request, t);
    END IF;
    IF l.request = in_request THEN
        PERFORM @.grant_next(
            in_name, l.gen, l.last_ticket, NULL, CASE WHEN l.expires_at > t THEN in_request END, NULL);
        RETURN CASE WHEN l.expires_at > t THEN 'released' ELSE 'nothing' END;
    END IF;
    DELETE FROM @.waiter w WHERE w.request = in_request;
    IF FOUND AND l.request = %group% AND l.expires_at > t THEN
        -- It may have stood between the group and those who can join it.
        PERFORM @.grant_next(in_name, l.gen, l.last_ticket, NULL, NULL, l.members);
    END IF;
    RETURN CASE WHEN l.released = in_request THEN 'again' ELSE 'nothing' END;
END $$;

CREATE OR REPLACE FUNCTION @.renew(in_name text, in_request uuid, in_ttl bigint, in_barrier bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l @.lease%ROWTYPE;
    at tid;
BEGIN
    IF in_ttl > in_barrier THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE @.lease e SET expires_at = clock_timestamp() + in_ttl * interval '1 ms'
        WHERE e.name = in_name
            AND e.gen = (SELECT g.gen FROM @.lease g WHERE g.name = in_name ORDER BY g.gen DESC LIMIT 1)
            AND e.request = in_request AND e.expires_at > clock_timestamp()
        RETURNING e.gen, e.page_from, e.page_to, e.ctid INTO l.gen, l.page_from, l.page_to, at;
    IF NOT FOUND THEN
        -- A grant that moved to another gen meanwhile is searched again.
        SELECT * INTO l FROM @.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
        IF l.request IS DISTINCT FROM in_request OR l.expires_at <= clock_timestamp() THEN
            RETURN false;
        END IF;
        UPDATE @.lease e SET expires_at = clock_timestamp() + in_ttl * interval '1 ms'
            WHERE e.name = in_name AND e.gen = l.gen RETURNING e.ctid INTO at;
    END IF;
    IF l.page_from IS NULL OR at < l.page_from OR at >= l.page_to THEN
        PERFORM @.moved(in_name, l.gen, at);
    END IF;
    RETURN true;
END $$;

-- Ends the grant with this token, and tells its holder; the same call is told the same again.
CREATE OR REPLACE FUNCTION @.revoke(in_name text, in_token bigint, in_call uuid)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l @.lease%ROWTYPE;
    is_group boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    SELECT * INTO l FROM @.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
    is_group := l.request = %group%;
    IF l.revoked = in_call THEN
        RETURN true;
    END IF;
    IF is_group THEN
        SELECT i.request, i.client, i.token, i.expires_at INTO l.request, l.client, l.token, l.expires_at
            FROM @.member i WHERE i.name = in_name AND i.token = in_token AND i.token >= l.first_member;
    END IF;
    IF l.request IS NULL OR l.token <> in_token OR l.expires_at <= clock_timestamp() THEN
        RETURN false;
    END IF;
    -- A late copy of the request must not bring it back.
    IF is_group THEN
        PERFORM @.leave_member(in_name, l.request, true, true);
    ELSE
        PERFORM @.leave(in_name, l.request, true, true);
    END IF;
    UPDATE @.lease e SET revoked = in_call, released = NULL WHERE e.name = in_name AND e.gen >= l.gen;
    PERFORM pg_notify('lockkit_' || replace(l.client::text, '-', ''), format('lost %s', l.request));
    RETURN true;
END $$;

-- One beat for all waiters of a client; its `lost`, which has grown if they must ask again.
CREATE OR REPLACE FUNCTION @.beat(in_client uuid, in_beat bigint, in_life bigint, in_lost bigint)
RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO @.client AS c VALUES (in_client, clock_timestamp(), in_life, in_beat, in_lost + 1)
        ON CONFLICT (id) DO UPDATE SET last_seen = clock_timestamp(), life = in_life, beat = in_beat
        RETURNING c.lost
$$;

-- Grants on what has expired or is free of the names that a client waits for; in how many milliseconds
-- the first of the others expires. Never in one transaction with a beat: it would lock in another order.
CREATE OR REPLACE FUNCTION @.poke(in_names text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    seen @.lease%ROWTYPE;
    locked @.lease%ROWTYPE;
    soonest timestamptz;
BEGIN
    FOR seen IN SELECT l.* FROM unnest(in_names) AS n (name)
        CROSS JOIN LATERAL (SELECT * FROM @.lease g WHERE g.name = n.name ORDER BY g.gen DESC LIMIT 1) l
    LOOP
        IF seen.request IS NULL OR seen.expires_at <= clock_timestamp() OR seen.request = %group% THEN
            -- A row that is locked is being changed by a call that grants on.
            SELECT * INTO locked FROM @.lease l WHERE l.name = seen.name AND l.gen = seen.gen AND l.waiting
                AND (l.request IS NULL OR l.expires_at <= clock_timestamp() OR l.request = %group%)
                FOR UPDATE SKIP LOCKED;
            IF FOUND THEN
                -- A waiter of a client that is dead may keep those behind it out of a group.
                PERFORM @.grant_next(locked.name, locked.gen, locked.last_ticket, NULL, NULL,
                    CASE WHEN locked.request = %group% AND locked.expires_at > clock_timestamp()
                        THEN locked.members END);
            END IF;
        END IF;
        IF seen.request IS NOT NULL AND seen.expires_at > clock_timestamp() THEN
            soonest := least(soonest, seen.expires_at);
        END IF;
    END LOOP;
    RETURN greatest(0, ceil(1000 * extract(epoch FROM soonest - clock_timestamp())));
END $$;

-- Deletes the rows of names that begin with a prefix and were not used for a time; how many. Tokens go on:
-- a name that is used again begins above all that were deleted.
CREATE OR REPLACE FUNCTION @.forget(in_prefix text, in_unused_for interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    count bigint;
    most bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    WITH gone AS (
        DELETE FROM @.lease e WHERE starts_with(e.name, in_prefix) AND e.request IS NULL AND NOT e.waiting
            AND coalesce(e.granted_at, '-infinity') < clock_timestamp() - in_unused_for
            RETURNING e.name, e.token),
    members AS (DELETE FROM @.member i USING gone WHERE i.name = gone.name)
    SELECT count(*), max(token) INTO count, most FROM gone;
    UPDATE @.barrier SET floor = greatest(floor, most + 1) WHERE one;
    UPDATE @.marker SET floor = greatest(floor, most + 1) WHERE one;
    RETURN count;
END $$;

-- What a program of layout 1 calls.
CREATE OR REPLACE FUNCTION @.refuse() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the schema @ holds layout 2 of the strategy "table", newer than this program'
        USING ERRCODE = 'insufficient_privilege', HINT = 'upgrade this program';
END $$;
CREATE OR REPLACE FUNCTION @.acquire(text, text, bigint, bigint, text, text, boolean,
    OUT state text, OUT number bigint, OUT holder text) LANGUAGE sql AS $$
    SELECT @.refuse(); SELECT NULL::text, NULL::bigint, NULL::text
$$;
CREATE OR REPLACE FUNCTION @.leave(text, text, boolean) RETURNS boolean LANGUAGE sql AS $$
    SELECT @.refuse(); SELECT NULL::boolean
$$;
CREATE OR REPLACE FUNCTION @.renew(text, text, bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT @.refuse(); SELECT NULL::boolean
$$;
CREATE OR REPLACE FUNCTION @.revoke(text, bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT @.refuse(); SELECT NULL::boolean
$$;

CREATE OR REPLACE FUNCTION @.table_layout() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2';
