//! What several backends need, once: for authors of any backend.
//!
//! A backend holds its store's protocol. Around it every store needs the same machines, and these are
//! here: a record for each request ([`Requests`]), the wait of a store whose waiters expire by themselves
//! ([`wait`]), the names that a client's waiters wait for ([`Awaited`]), work that is done once for all callers
//! that came before it ([`Gathered`]), a call whose answer is wanted although its caller has left ([`Asking`], [`Asked`]), removals that a store refused ([`Refused`]), one connection for many callers
//! ([`Connection`]), a task that serves all callers ([`Service`], [`Backoff`]), the term of a request on a
//! shared session ([`session_term`]), the time limit of a call ([`call_limit`], [`within`]), the grammar of a URL ([`Url`]) and the refusal of a bad setting
//! ([`check`]), certificates that may be replaced on disk ([`Tls`]), whether a server is new enough
//! ([`is_at_least`]), whether one side of a connection mistrusts the other's certificate ([`is_mistrust`]),
//! whether a store holds a layout that this client can share ([`check_layout`]), what an examination is made of
//! ([`examined`], [`refusal`], [`refusals`], [`is_this_machine`]) and where tokens begin ([`wall_micros`]).
//!
//! None of it knows a store. The interface may still change from one minor version to the next, until
//! backends outside this repository use it.

mod asking;
mod awaited;
mod calls;
mod connection;
mod examining;
mod gathered;
mod layout;
mod mistrust;
mod refused;
mod requests;
mod service;
mod session;
mod tls;
mod url;
mod version;
mod waiting;
mod wall;

pub use asking::{Answer, Asked, Asking};
pub use awaited::{Awaited, Waits};
pub use calls::{LONGEST_CALL, call_limit, within};
pub use connection::{Connection, Live};
pub use examining::{examined, is_this_machine, refusal, refusals};
pub use gathered::Gathered;
pub use layout::check_layout;
pub use mistrust::is_mistrust;
pub use refused::{Kept, REFUSED_FOR, Refused};
pub use requests::{Data, Entry, Notes, Record, Requests, Sending};
pub use service::{Alive, Backoff, Service};
pub use session::session_term;
pub use tls::{Certificates, Pem, Tls};
pub use url::{Servers, Url, check};
pub use version::is_at_least;
pub use waiting::{Mailbox, Notice, wait, waiter_life};
pub use wall::wall_micros;
