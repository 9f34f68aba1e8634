//! Fences over HTTP: a header for the token, and a tower layer before a service that writes.
//!
//! The client sends what it holds with every request, reads too: `Lockkit-Fencing-Token: 34`, or `34; shared`, or `34; slot=2`. The
//! layer refuses a stale request with 412 (Precondition Failed) and tells the newest token in the same header of its answer.
//!
//! ```
//! use lockkit_fence::http::{HEADER, access, value};
//! use lockkit_fence::{Access, FencingToken};
//!
//! let mut headers = http::HeaderMap::new();
//! headers.insert(HEADER, value(FencingToken::new(34)?));
//! assert_eq!(access(&headers)?, Some(Access::Exclusive(FencingToken::new(34)?)));
//! # Ok::<(), lockkit_fence::Error>(())
//! ```

mod header;
mod layer;

pub use header::{HEADER, access, value};
pub use layer::{FenceLayer, FenceService};
