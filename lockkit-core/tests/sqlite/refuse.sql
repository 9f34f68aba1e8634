-- Has the store refuse to change rows of the names that stand in the table `refused`.
CREATE TABLE IF NOT EXISTS refused (name BLOB PRIMARY KEY) STRICT

CREATE TRIGGER IF NOT EXISTS lease_refused BEFORE UPDATE ON lease
WHEN EXISTS (SELECT 1 FROM refused WHERE name = old.name)
BEGIN SELECT RAISE(ABORT, 'the name is refused'); END

CREATE TRIGGER IF NOT EXISTS waiter_refused BEFORE DELETE ON waiter
WHEN EXISTS (SELECT 1 FROM refused WHERE name = old.name)
BEGIN SELECT RAISE(ABORT, 'the name is refused'); END
