-- Grants on: to one request alone, or to all members of a group.

-- Has a late copy of a request refused, whose name's row the caller has locked.
CREATE OR REPLACE FUNCTION @.bury(in_name text, in_gen int, in_request uuid, in_now timestamptz)
RETURNS void LANGUAGE sql AS $$
    UPDATE @.lease e SET (dead, dead_until) = (
            SELECT array_agg(d.request) || in_request, array_agg(d.until) || in_now + interval '120 s'
            FROM unnest(e.dead, e.dead_until) AS d (request, until)
            WHERE d.until > in_now AND d.request <> in_request)
        WHERE e.name = in_name AND e.gen = in_gen
$$;

-- The row of a name, which the caller has locked, with no members: what an expired group has left is gone.
CREATE OR REPLACE FUNCTION @.without_members(g @.lease) RETURNS @.lease LANGUAGE plpgsql AS $$
BEGIN
    IF g.members > 0 THEN
        DELETE FROM @.member i WHERE i.name = g.name AND i.token >= g.first_member;
        g.members := 0;
    END IF;
    RETURN g;
END $$;

-- The same row with one member more, which is written.
CREATE OR REPLACE FUNCTION @.join(
    g @.lease, in_request uuid, in_client uuid, in_label text, in_now timestamptz, in_ends timestamptz,
    in_floor bigint
) RETURNS @.lease LANGUAGE plpgsql AS $$
BEGIN
    g.token := greatest(g.token + 1, in_floor);
    INSERT INTO @.member (request, name, token, client, label, granted_at, expires_at)
        VALUES (in_request, g.name, g.token, in_client, in_label, in_now, in_ends)
        -- A grant of the same request that has ended.
        ON CONFLICT (request) DO UPDATE SET name = excluded.name, token = excluded.token,
            client = excluded.client, label = excluded.label, granted_at = excluded.granted_at,
            expires_at = excluded.expires_at, slot = NULL;
    IF g.members = 0 THEN
        g.first_member := g.token;
        g.expires_at := in_ends;
    END IF;
    g.members := g.members + 1;
    g.granted_at := in_now;
    g.expires_at := greatest(g.expires_at, in_ends);
    RETURN g;
END $$;

-- The same row without the members whose ends have passed.
CREATE OR REPLACE FUNCTION @.pruned(g @.lease, in_now timestamptz) RETURNS @.lease LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM @.member i WHERE i.name = g.name AND i.token >= g.first_member AND i.expires_at <= in_now;
    SELECT count(*), coalesce(min(i.token), g.first_member), max(i.expires_at)
        INTO g.members, g.first_member, g.expires_at
        FROM @.member i WHERE i.name = g.name AND i.token >= g.first_member;
    RETURN g;
END $$;

-- Writes the row of a name that a group holds.
CREATE OR REPLACE FUNCTION @.keep_group(g @.lease) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moves boolean;
    at tid;
BEGIN
    UPDATE @.lease e SET token = g.token, request = %group%, client = NULL, label = NULL,
        granted_at = g.granted_at, expires_at = g.expires_at, waiting = g.waiting,
        last_ticket = g.last_ticket, released = g.released, members = g.members,
        first_member = g.first_member
        WHERE e.name = g.name AND e.gen = g.gen
        RETURNING e.page_from IS NULL OR e.ctid < e.page_from OR e.ctid >= e.page_to, e.ctid INTO moves, at;
    IF moves THEN
        PERFORM @.moved(g.name, g.gen, at);
    END IF;
END $$;

-- Has a member of the group that holds this name end later; its token, unless it has ended.
CREATE OR REPLACE FUNCTION @.extend(g @.lease, in_request uuid, in_now timestamptz, in_ttl bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    token bigint;
BEGIN
    UPDATE @.member i SET expires_at = in_now + in_ttl * interval '1 ms'
        WHERE i.request = in_request AND i.name = g.name AND i.token >= g.first_member AND i.expires_at > in_now
        RETURNING i.token INTO token;
    IF FOUND THEN
        g.expires_at := greatest(g.expires_at, in_now + in_ttl * interval '1 ms');
        PERFORM @.keep_group(g);
    END IF;
    RETURN token;
END $$;

-- Gives a name, whose row of this `gen` the caller has locked, to the first waiter behind `in_last` that lives, or
-- frees it. A group goes on to the waiters behind it, up to the first that wants the name alone. `in_asks` is the
-- request that asks just now, `in_released` the one that ends. `in_members` is how many hold the name; null: no group
-- does. The request that was granted the name alone, if any.
CREATE OR REPLACE FUNCTION @.grant_next(
    in_name text, in_gen int, in_last bigint, in_asks uuid, in_released uuid, in_members int
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    m record;
    h record;
    c record;
    -- The group's row, once a member has joined it here.
    g @.lease%ROWTYPE;
    is_group boolean := coalesce(in_members > 0, false);
    moves boolean;
    at tid;
    token bigint;
    t timestamptz := clock_timestamp();
BEGIN
    SELECT b.open_at, b.floor, b.ms INTO m FROM @.marker b WHERE one;
    LOOP
        -- The LIMIT within has the client searched by its key, however few clients there were at first.
        SELECT w.ctid AS place, w.ticket, w.request, w.client, w.ttl, w.label, w.kind, k.last_seen, k.life, k.beat
            INTO h FROM @.waiter w LEFT JOIN LATERAL
                (SELECT i.last_seen, i.life, i.beat FROM @.client i WHERE i.id = w.client LIMIT 1) k ON true
            WHERE w.name = in_name AND w.ticket > in_last ORDER BY w.ticket LIMIT 1;
        EXIT WHEN NOT FOUND OR m.open_at IS NULL OR m.open_at > clock_timestamp();
        IF h.request IS DISTINCT FROM in_asks
            AND coalesce(h.last_seen + h.life * interval '1 ms' <= t, true) THEN
            -- Not heard of for a life. A row that another call has locked is being written: it lives.
            SELECT k.last_seen, k.life, k.beat INTO c FROM @.client k WHERE k.id = h.client
                FOR NO KEY UPDATE SKIP LOCKED;
            IF FOUND AND c.last_seen + c.life * interval '1 ms' > clock_timestamp() THEN
                h.last_seen := c.last_seen;
                h.beat := c.beat;
            ELSIF FOUND OR h.last_seen IS NULL THEN
                UPDATE @.client k SET lost = k.lost + 1 WHERE k.id = h.client;
                DELETE FROM @.waiter w WHERE w.name = in_name AND w.client = h.client;
                CONTINUE;
            END IF;
        END IF;
        EXIT WHEN is_group AND h.kind = 'exclusive';
        -- By the barrier that is there: clients may be set to different ones.
        IF h.ttl > m.ms THEN
            PERFORM set_config('synchronous_commit', 'on', true);
        END IF;
        DELETE FROM @.waiter w WHERE w.ctid = h.place;
        IF h.kind <> 'exclusive' THEN
            IF g.name IS NULL THEN
                SELECT * INTO STRICT g FROM @.lease e WHERE e.name = in_name AND e.gen = in_gen;
                g.members := coalesce(in_members, g.members);
                IF NOT is_group THEN
                    g := @.without_members(g);
                END IF;
            END IF;
            g := @.join(g, h.request, h.client, h.label, t,
                CASE WHEN h.request = in_asks THEN t ELSE h.last_seen END + h.ttl * interval '1 ms', m.floor);
            is_group := true;
            in_last := h.ticket;
            token := g.token;
        ELSE
            -- A client that is told counts from when it sent its beat, which is before the beat was seen.
            UPDATE @.lease e SET token = greatest(e.token + 1, m.floor), request = h.request,
                client = h.client, label = h.label, granted_at = t, last_ticket = h.ticket, waiting = true,
                released = coalesce(in_released, e.released), members = coalesce(in_members, e.members),
                expires_at = CASE WHEN h.request = in_asks THEN t ELSE h.last_seen END
                    + h.ttl * interval '1 ms'
                WHERE e.name = in_name AND e.gen = in_gen
                RETURNING e.page_from IS NULL OR e.ctid < e.page_from OR e.ctid >= e.page_to, e.ctid, e.token
                INTO moves, at, token;
        END IF;
        IF h.request IS DISTINCT FROM in_asks THEN
            PERFORM pg_notify('lockkit_' || replace(h.client::text, '-', ''),
                format('grant %s %s %s', h.request, token, h.beat));
        END IF;
        IF h.kind = 'exclusive' THEN
            IF moves THEN
                PERFORM @.moved(in_name, in_gen, at);
            END IF;
            RETURN h.request;
        END IF;
    END LOOP;
    IF g.name IS NOT NULL THEN
        g.waiting := h.request IS NOT NULL;
        g.last_ticket := in_last;
        g.released := coalesce(in_released, g.released);
        PERFORM @.keep_group(g);
    ELSIF is_group THEN
        UPDATE @.lease e SET waiting = false
            WHERE e.name = in_name AND e.gen = in_gen AND e.waiting AND h.request IS NULL;
    ELSE
        UPDATE @.lease e SET request = NULL, client = NULL, label = NULL, expires_at = NULL,
            waiting = h.request IS NOT NULL, released = coalesce(in_released, e.released),
            members = coalesce(in_members, e.members)
            WHERE e.name = in_name AND e.gen = in_gen
            RETURNING e.page_from IS NULL OR e.ctid < e.page_from OR e.ctid >= e.page_to, e.ctid
            INTO moves, at;
        IF moves THEN
            PERFORM @.moved(in_name, in_gen, at);
        END IF;
    END IF;
    RETURN NULL;
END $$;

-- Asks for a name beside others of this kind; answers as `acquire`.
CREATE OR REPLACE FUNCTION @.acquire_member(
    in_name text, in_request uuid, in_client uuid, in_ttl bigint, in_label text, in_waits boolean,
    in_barrier bigint, in_kind text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    l @.lease%ROWTYPE;
    m record;
    t timestamptz;
    token bigint;
    is_group boolean;
    is_free boolean;
BEGIN
    LOOP
        SELECT * INTO l FROM @.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM @.make(in_name);
            CONTINUE;
        END IF;
        IF in_request = ANY (l.dead) THEN
            RETURN 'withdrawn';
        END IF;
        SELECT b.open_at, b.floor, b.ms INTO m FROM @.marker b WHERE one;
        IF in_ttl <= in_barrier AND (m.ms IS NULL OR m.ms < in_ttl) THEN
            m := @.raise_barrier(in_ttl);
        ELSIF m.ms IS NULL THEN
            m := @.raise_barrier(0);
        END IF;
        t := clock_timestamp();
        is_free := l.request IS NULL OR l.expires_at <= t;
        is_group := NOT is_free AND l.request = %group%;
        IF NOT is_free AND l.request = in_request THEN
            -- A function of an older version granted on, and gave it the name alone.
            RETURN @.acquire(in_name, in_request, in_client, in_ttl, in_label, in_waits, in_barrier);
        END IF;
        token := CASE WHEN is_group THEN @.extend(l, in_request, t, in_ttl) END;
        IF token IS NULL AND (is_group OR is_free) AND NOT l.waiting AND m.open_at <= t THEN
            IF is_free THEN
                l := @.without_members(l);
            END IF;
            l := @.join(l, in_request, in_client, in_label, t, t + in_ttl * interval '1 ms', m.floor);
            PERFORM @.keep_group(l);
            token := l.token;
        END IF;
        IF token IS NULL AND in_waits THEN
            INSERT INTO @.waiter (name, request, client, ttl, label, kind)
                VALUES (in_name, in_request, in_client, in_ttl, in_label, in_kind)
                ON CONFLICT (request) DO NOTHING;
        END IF;
        IF token IS NULL AND (is_group OR is_free) THEN
            IF m.open_at > t THEN
                UPDATE @.lease e SET waiting = true WHERE in_waits AND e.name = in_name AND e.gen = l.gen;
                RETURN format('closed %s', ceil(1000 * extract(epoch FROM m.open_at - t)));
            END IF;
            PERFORM @.grant_next(
                in_name, l.gen, l.last_ticket, in_request, NULL, CASE WHEN is_group THEN l.members END);
            SELECT i.token INTO token FROM @.member i
                WHERE i.request = in_request AND i.name = in_name AND i.token > l.token;
            SELECT * INTO l FROM @.lease e WHERE e.name = in_name AND e.gen >= l.gen;
            -- Its waiters had left.
            CONTINUE WHEN token IS NULL AND NOT l.waiting;
        ELSIF token IS NULL AND in_waits AND NOT l.waiting THEN
            UPDATE @.lease e SET waiting = true WHERE e.name = in_name AND e.gen = l.gen;
        END IF;
        IF token IS NULL THEN
            RETURN format('held %s %s', ceil(1000 * date_part('epoch', l.expires_at - t)), l.label);
        END IF;
        -- Only now: a request that waits is not flushed.
        IF in_ttl > in_barrier THEN
            PERFORM set_config('synchronous_commit', 'on', true);
        END IF;
        RETURN 'granted ' || token;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION @.renew_member(in_name text, in_request uuid, in_ttl bigint, in_barrier bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l @.lease%ROWTYPE;
    t timestamptz;
BEGIN
    SELECT * INTO l FROM @.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
    t := clock_timestamp();
    IF l.request = %group% AND @.extend(l, in_request, t, in_ttl) IS NOT NULL THEN
        IF in_ttl > in_barrier THEN
            PERFORM set_config('synchronous_commit', 'on', true);
        END IF;
        RETURN true;
    END IF;
    -- Perhaps it has the name alone.
    RETURN @.renew(in_name, in_request, in_ttl, in_barrier);
END $$;

-- Ends a request that holds beside others, or waits to; answers as `leave`.
CREATE OR REPLACE FUNCTION @.leave_member(
    in_name text, in_request uuid, in_tombstone boolean, in_flush boolean
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    l @.lease%ROWTYPE;
    gone record;
    t timestamptz;
BEGIN
    SELECT * INTO l FROM @.lease e WHERE e.name = in_name ORDER BY e.gen DESC LIMIT 1 FOR UPDATE;
    t := clock_timestamp();
    DELETE FROM @.member i WHERE i.request = in_request AND i.name = in_name
        RETURNING i.token, i.expires_at INTO gone;
    IF NOT FOUND OR l.request IS DISTINCT FROM %group% OR gone.token < l.first_member THEN
        RETURN @.leave(in_name, in_request, in_tombstone, in_flush);
    END IF;
    IF in_flush THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF in_tombstone THEN
        PERFORM @.bury(in_name, l.gen, in_request, t);
    END IF;
    l.members := l.members - 1;
    IF l.members > 0 AND (gone.expires_at >= l.expires_at OR l.expires_at <= t) THEN
        -- None of the others may last as long, or live.
        l := @.pruned(l, t);
    END IF;
    l.released := CASE WHEN gone.expires_at > t THEN in_request ELSE l.released END;
    IF l.members > 0 THEN
        PERFORM @.keep_group(l);
    ELSE
        PERFORM @.grant_next(in_name, l.gen, l.last_ticket, NULL, l.released, 0);
    END IF;
    RETURN CASE WHEN gone.expires_at > t THEN 'released' ELSE 'nothing' END;
END $$;
