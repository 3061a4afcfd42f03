//! Checkers of histories: [`linearizable`] searches an order of operations that explains all answers, for any object
//! that a [`Model`] describes.

pub mod ledger;
pub mod models;
mod wgl;

pub use wgl::{Checked, Model, Timed, Verdict, linearizable};
