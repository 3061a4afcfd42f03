//! What is measured: Quorate, its opponents, and what neither can pass.

pub(crate) mod echo;
pub(crate) mod library;
pub(crate) mod light;
pub(crate) mod openraft;
pub(crate) mod ports;
pub(crate) mod processes;
pub(crate) mod servers;
