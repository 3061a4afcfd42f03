//! Disks that misbehave: [`MemDisk`] for tests and simulators, [`LossyDisk`] for tests that kill processes.

mod lossy;
mod mem;
mod world;

pub use lossy::LossyDisk;
pub use mem::{Fault, MemDisk, Replay};
pub use world::Crash;
