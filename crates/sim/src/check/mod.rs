//! Checkers of histories: [`linearizable`] searches an order of operations that explains all answers, for any object
//! that a [`Model`] describes.
//!
//! For a state machine of your own, write a [`Model`] of it, keep what clients asked by number, and hand both with what
//! they were [`Told`](crate::Told) to [`linearizable`] in [`Simulation::check`](crate::Simulation::check).

pub mod ledger;
pub mod models;
mod wgl;

pub use wgl::{Checked, Model, Timed, Verdict, linearizable};
