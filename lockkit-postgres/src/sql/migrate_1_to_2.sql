-- From layout 1 of the strategy "table" to layout 2. Stop the programs that use the strategy first: one that
-- goes on is refused at each call, and its locks run out. What is held keeps its end and its token;
-- waiters ask again. Advisory locks are not touched.
BEGIN;
SELECT pg_advisory_xact_lock(7813254103221);
ALTER TABLE @.lease RENAME TO lease_1;
ALTER TABLE @.lease_1 RENAME CONSTRAINT lease_pkey TO lease_1_pkey;
DROP TABLE @.waiter, @.tombstone;
DROP FUNCTION @.acquire(text, text, bigint, bigint, text, text, boolean);
DROP FUNCTION @.leave(text, text, boolean);
DROP FUNCTION @.renew(text, text, bigint);
DROP FUNCTION @.revoke(text, bigint);
DROP FUNCTION @.hand_on(text, boolean, timestamptz);

%table%

INSERT INTO @.lease (name, token, request, label, granted_at, expires_at)
    SELECT name, token, request::uuid, label, granted_at, expires_at FROM @.lease_1;
DROP TABLE @.lease_1;

COMMIT;
