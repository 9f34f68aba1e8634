//! Mistakes that were written down before any case was made to catch them, over names, tokens, terms,
//! ends, queues, operators, clients, links and long times.
//!
//! One that no case catches has none named: it survives, as an ignored trial of `broken.rs` shows. Four do.
//! No store promises its waiters a word of what is removed by hand, nor their places over a restart,
//! which ends the connections on which a late copy could come.

use super::flaw::Flaw;
use super::unseen_calls::unseen_calls;
use super::unseen_clients::unseen_clients;
use super::unseen_ends::unseen_ends;
use super::unseen_links::UNSEEN_LINKS;
use super::unseen_names::UNSEEN_NAMES;
use super::unseen_operators::unseen_operators;
use super::unseen_queues::unseen_queues;
use super::unseen_terms::unseen_terms;
use super::unseen_tokens::UNSEEN_TOKENS;

pub(crate) fn unseen_flaws() -> Vec<Flaw> {
    [
        UNSEEN_NAMES.to_vec(),
        UNSEEN_TOKENS.to_vec(),
        unseen_terms(),
        unseen_ends(),
        unseen_queues(),
        unseen_operators(),
        unseen_clients(),
        unseen_calls(),
        UNSEEN_LINKS.to_vec(),
    ]
    .concat()
}
