//! Starts real `quorate` processes, loads them through the Rust etcd client, breaks them, and checks the history
//! that the clients saw. The tests of this package are the whole program: see `tests/`.

pub mod checker;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod rng;
pub mod wait;
pub mod workload;
