//! Places of every kind that can be started here, by one suite; and what networks do to them.

#![expect(clippy::unwrap_used, reason = "the whole of this crate is tests")]

mod servers;

mod buckets;
mod clouds;
mod credentials;
mod folders;
mod hurry;
mod instance;
mod web;
