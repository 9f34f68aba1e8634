//! Scripts behind the fence's own lines.

use std::fmt;
use std::sync::LazyLock;

const FENCE: &str = include_str!("fence.lua");

pub(super) static NOTHING: LazyLock<FencedScript> = LazyLock::new(|| FencedScript::new(""));
pub(super) static SET: LazyLock<FencedScript> =
    LazyLock::new(|| FencedScript::new("redis.call('SET', KEYS[1], ARGV[1])"));
pub(super) static DELETE: LazyLock<FencedScript> =
    LazyLock::new(|| FencedScript::new("return redis.call('DEL', KEYS[1])"));
pub(super) static INCREMENT: LazyLock<FencedScript> =
    LazyLock::new(|| FencedScript::new("return redis.call('INCRBY', KEYS[1], ARGV[1])"));

/// A script of the caller's that runs only with a token that is not stale.
///
/// It sees its own `KEYS` and `ARGV`, and may return one value.
pub struct FencedScript(pub(super) redis::Script);

impl FencedScript {
    /// This code, behind the fence's own lines. Keep it: it is sent once, and then called by its hash.
    pub fn new(code: &str) -> Self {
        Self(redis::Script::new(&format!("{FENCE}{code}\nend\nreturn {{1, work()}}\n")))
    }
}

impl fmt::Debug for FencedScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FencedScript({})", self.0.get_hash())
    }
}
