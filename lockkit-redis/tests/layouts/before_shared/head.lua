-- The keys of a lock: itself, its queue, its tombstones, its last token.
local L = KEYS[1]
local Q, X, F = '{' .. L .. '}:n', '{' .. L .. '}:d', '{' .. L .. '}:t'
