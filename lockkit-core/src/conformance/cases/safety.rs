//! Safety: tokens only grow.

use super::super::Challenge::Safety;
use super::super::case::{Case, Need, Verdict, require};
use super::super::context::Context;
use super::super::tap::Tap;

pub(super) const CASES: &[Case] = &[Case::new(
    "SF-15",
    Safety,
    "C4",
    "a token is greater than the last one after a release and after many expiries",
    |cx| Box::pin(tokens_grow(cx)),
)
.needs(&[Need::Ttl])];

async fn tokens_grow(cx: Context) -> Verdict {
    let lock = cx.lock("tokens").await?;
    let mut last = None;
    for _ in 0..20 {
        let guard = lock.acquire().await?;
        let token = Some(guard.token());
        require!(token > last, "{token:?} came after {last:?}, which was released");
        last = token;
        guard.release().await?;
    }
    for _ in 0..(if cx.is_virtual() { 100 } else { 20 }) {
        // Each holder is cut off, so that only the store's own expiry ends its lease.
        let tap = Tap::on(cx.connect().await?, &cx.clock);
        let lock = cx.locks_of(tap.clone()).lock(cx.name("tokens")).ttl(cx.short_ttl());
        let guard = lock.acquire().await?;
        let token = Some(guard.token());
        require!(token > last, "{token:?} came after {last:?}, which had expired or was released");
        last = token;
        tap.cut();
        guard.lost().await;
    }
    Ok(())
}
