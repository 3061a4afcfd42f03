//! Ports that nobody listens on.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the system gives to outgoing connections.
const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// So many free ports in a row. Each call goes on behind the last one: what listened there may linger.
pub(crate) fn free(count: u16) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_process = u16::try_from(std::process::id() % 601).unwrap_or(0) * 29;
    loop {
        let skip = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = FIRST + of_process.wrapping_add(skip) % (COUNT - count);
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return (first..first + count).collect();
        }
    }
}
