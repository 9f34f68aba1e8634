-- What two clients of commit f896b58 left under the strategy "table", read once: one had released the name
-- `released` and held `held` with 8.8 s left, the other waited for `held` and lived for 2.8 s more. <left> and <life> are
-- the milliseconds that a test gives them.
INSERT INTO lockkit.lease (name, token, request, label, wake, granted_at, expires_at, released) VALUES
    ('released', 1, NULL, NULL, NULL, clock_timestamp(), NULL, 'bd286c3372e4645990611c9f206ceaee'),
    ('held', 1, 'f3ad35b02848f651afeac33fcfd2cbb5', 'recorded holder', 'lockkit_95f9bfe86a35ceb6',
        clock_timestamp(), clock_timestamp() + interval '<left> ms', NULL);
INSERT INTO lockkit.waiter (name, request, wake, alive_until) VALUES
    ('held', '7da6d6eaf243ea13f1297c5b9edbb243', 'lockkit_497de12bd3e7da66',
        clock_timestamp() + interval '<life> ms');
