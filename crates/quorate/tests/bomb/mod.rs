//! What a panic may be made with.

/// Panics when it is dropped, with another one.
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::panic_any(Self);
    }
}
