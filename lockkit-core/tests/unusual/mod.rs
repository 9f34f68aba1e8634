//! Stores that keep the contract, each in an unusual manner, for the suite to acquit.

pub(crate) mod fixture;
pub(crate) mod manner;
pub(crate) mod provider;
