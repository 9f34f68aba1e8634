//! Which safeguards the modelled protocol has.

/// The protocol for so long, with some of its safeguards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protocol {
    pub(super) ticks: u32,
    /// How many messages may arrive twice.
    pub(super) duplicates: u8,
    /// Only the holder's own release and renewal touch a grant.
    pub(super) grant_check: bool,
    /// A term counts from before its request was sent.
    pub(super) term_from_sending: bool,
    /// The resource refuses older tokens.
    pub(super) fence: bool,
    /// The token is drawn by the grant, not before it.
    pub(super) token_by_grant: bool,
}

pub(super) const SAFE: Protocol = Protocol {
    ticks: 3,
    duplicates: 1,
    grant_check: true,
    term_from_sending: true,
    fence: true,
    token_by_grant: true,
};
