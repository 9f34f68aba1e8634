-- What two clients of commit f896b58 left under the strategy "advisory", read once, beside the locks of their
-- sessions: 4398046511106, that of the holder of `held`, was the last token.
UPDATE lockkit.epoch SET number = 1;
INSERT INTO lockkit.no_crash_since DEFAULT VALUES;
SELECT setval('lockkit.token', 2);
