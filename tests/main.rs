//! Integration tests, one binary. `--features integration_tests` adds the heavy half.
#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods, missing_docs)]

mod api;
mod blobs;
mod bulk;
mod child;
mod damage;
mod errors;
mod faulty;
mod feed;
mod files;
mod full_disk;
mod golden;
mod hints;
mod injected;
mod kill;
mod kinds;
mod layering;
mod model;
mod outside;
mod outside_tests;
mod random;
mod retention;
mod scans;
mod seeds;
mod space;
mod sweep;
mod threads;
mod transactions;
