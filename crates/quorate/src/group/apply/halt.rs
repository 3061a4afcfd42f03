//! The end of an apply queue: who waits until nothing of its machine runs any more, and what is cut short meanwhile.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::Work;

/// Counts a queue's work on threads that may block, from the moment it is handed over until it and all that it held are
/// gone.
#[derive(Default)]
pub(super) struct Apart {
    under_way: Mutex<usize>,
    /// One of them is gone.
    ended: Condvar,
}

impl Apart {
    pub(super) fn count(self: &Arc<Self>, work: Work) -> Counted {
        *self.under_way.lock() += 1;
        Counted { work, entered: Entered(Arc::clone(self)) }
    }

    pub(super) fn is_idle(&self) -> bool {
        *self.under_way.lock() == 0
    }

    /// Waits until there is none. Blocks.
    pub(super) fn wait(&self) {
        let mut under_way = self.under_way.lock();
        while *under_way > 0 {
            self.ended.wait(&mut under_way);
        }
    }
}

/// Work under way. All that it holds is gone when it is said to have ended, also if the runtime drops it unrun: the fields
/// are dropped in this order.
pub(super) struct Counted {
    work: Work,
    entered: Entered,
}

impl Counted {
    pub(super) fn run(self) {
        let Self { work, entered } = self;
        work();
        drop(entered);
    }
}

struct Entered(Arc<Apart>);

impl Drop for Entered {
    fn drop(&mut self) {
        *self.0.under_way.lock() -= 1;
        self.0.ended.notify_all();
    }
}

/// What a machine writes a snapshot to or reads one from: fails once the queue is over, so that whoever stops the node
/// does not wait for the rest.
pub(super) struct UntilOver<'a, T> {
    pub(super) over: &'a AtomicBool,
    pub(super) bytes: T,
}

impl<T> UntilOver<'_, T> {
    pub(super) fn check(&self) -> io::Result<()> {
        match self.over.load(Ordering::Acquire) {
            true => Err(io::Error::other("the group is over")),
            false => Ok(()),
        }
    }
}

impl<T: Read> Read for UntilOver<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.bytes.read(buffer)
    }
}

impl<T: Write> Write for UntilOver<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.bytes.flush()
    }
}
