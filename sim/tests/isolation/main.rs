//! Is the checker of isolation itself right? It must find every anomaly where one is, and accuse
//! nobody where none is.

mod beside;
mod build;
mod executor;
mod planted;
mod random;
mod threads;
