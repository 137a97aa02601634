//! The binary as its users meet it: real commands, real videos, real models, real signals, disks that are really full.
//!
//! A test has a folder and a queue of its own and shares nothing with the others, so that they run side by side.

#![expect(clippy::unwrap_used, reason = "the whole of this crate is tests, its harness too")]

mod harness;

mod bad_input;
mod buckets;
mod clouds;
mod demo;
mod draining;
mod forms;
mod full_disk;
mod hot;
mod interrupted;
mod migration;
mod packs;
mod remote;
mod repositories;
#[path = "../../objects/tests/servers/mod.rs"]
mod servers;
mod serving;
mod text;
mod torn;
mod upkeep;
mod usage;
