//! A relay between two nodes that speak TCP: it stalls, cuts and damages what passes, as a network might.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What passes in one read.
const PIECE_BYTES: usize = 16 << 10;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes towards the target until one is flipped; negative: none is.
    flip_after: AtomicI64,
    /// Bytes towards the target until every connection is cut; negative: none is.
    cut_after: AtomicI64,
    over: AtomicBool,
}

#[derive(Default)]
struct State {
    target: String,
    stalled: bool,
    sockets: Vec<TcpStream>,
}

/// A relay to one node.
pub(super) struct Relay {
    shared: Arc<Shared>,
    address: String,
}

impl Relay {
    pub(super) fn to(target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let state = State { target: target.to_owned(), ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            flip_after: AtomicI64::new(-1),
            cut_after: AtomicI64::new(-1),
            over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&accepting, &listener));
        Ok(Self { shared, address })
    }

    /// Where the relay listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// While stalled nothing passes, and nothing is closed.
    pub(super) fn stall(&self, stalled: bool) {
        self.shared.lock().stalled = stalled;
        self.shared.changed.notify_all();
    }

    /// Closes every connection.
    pub(super) fn cut(&self) {
        self.shared.cut();
    }

    /// Closes every connection once so many more bytes have passed.
    pub(super) fn cut_after(&self, bytes: i64) {
        self.shared.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// Flips a bit once so many more bytes have passed.
    pub(super) fn flip_after(&self, bytes: i64) {
        self.shared.flip_after.store(bytes, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.stall(false);
        self.shared.cut();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for socket in self.lock().sockets.drain(..) {
            // Closed already is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Waits while the relay is stalled.
    fn pass(&self) {
        let mut state = self.lock();
        while state.stalled {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for near in listener.incoming() {
        if shared.over.load(Ordering::SeqCst) {
            return;
        }
        let Ok(near) = near else { continue };
        let target = shared.lock().target.clone();
        let far = TcpStream::connect(target);
        let Ok(far) = far else { continue };
        // What passes is only as late as its ends make it.
        if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
            continue;
        }
        let pairs = || Ok::<_, io::Error>((near.try_clone()?, far.try_clone()?, near.try_clone()?, far.try_clone()?));
        let Ok((near_kept, far_kept, near_back, far_back)) = pairs() else { continue };
        shared.lock().sockets.extend([near_kept, far_kept]);
        let (there, back) = (Arc::clone(shared), Arc::clone(shared));
        thread::spawn(move || copy(&there, near, far, true));
        thread::spawn(move || copy(&back, far_back, near_back, false));
    }
}

/// Copies until one end closes.
fn copy(shared: &Shared, mut from: TcpStream, mut to: TcpStream, there: bool) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        shared.pass();
        let Ok(count @ 1..) = from.read(&mut piece) else { break };
        shared.pass();
        let length = i64::try_from(count).unwrap_or(i64::MAX);
        if there {
            if let Some(at) = due(&shared.flip_after, length) {
                piece[at] ^= 0x10;
            }
            if let Some(at) = due(&shared.cut_after, length) {
                // A part of a frame arrives.
                let _ = to.write_all(&piece[..at]);
                shared.cut();
                break;
            }
        }
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Counts down; where in these bytes zero is reached, if it is.
fn due(counter: &AtomicI64, length: i64) -> Option<usize> {
    let before = counter.load(Ordering::SeqCst);
    if before < 0 {
        return None;
    }
    counter.store(if before < length { -1 } else { before - length }, Ordering::SeqCst);
    usize::try_from(before).ok().filter(|_| before < length)
}
