//! A client's connection that hands answers to the system together.
//!
//! A batch of writes is applied at once, and answers all of its clients: each call in a task of its own, which wakes the
//! connection's task, which would make a system call (some 5 µs, and as much again for the client) before the next call
//! has had its turn.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

/// More than this is written without waiting for a flush: four frames of HTTP/2.
const GATHERED_BYTES: usize = 64 << 10;

/// A connection whose writes wait until every task that can run now has run.
#[derive(Debug)]
pub(crate) struct Gathered<T> {
    inner: T,
    /// Not yet written from `written` on.
    bytes: Vec<u8>,
    written: usize,
    /// A flush has let other tasks run.
    gave_way: bool,
}

impl<T> Gathered<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, bytes: Vec::new(), written: 0, gave_way: false }
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Writes all there is.
    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(context, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        (self.written, self.gave_way) = (0, false);
        self.bytes.clear();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= GATHERED_BYTES {
            ready!(self.poll_written(context))?;
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.bytes.is_empty() && !self.gave_way {
            // Comes back behind all that waits for this thread.
            self.gave_way = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_written(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, bytes)
    }
}

impl Connected for Gathered<TcpStream> {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts its writes, and takes a few bytes of each.
    struct Slow {
        taken: Vec<u8>,
        writes: usize,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(4);
            self.taken.extend_from_slice(&bytes[..count]);
            self.writes += 1;
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn writes_are_kept_until_a_flush_and_arrive_in_order() {
        let mut to = Gathered::new(Slow { taken: Vec::new(), writes: 0 });
        to.write_all(b"hello ").await.unwrap();
        to.write_all(b"world").await.unwrap();
        assert_eq!(to.inner.writes, 0);
        to.flush().await.unwrap();
        assert_eq!((to.inner.taken.as_slice(), to.inner.writes), (&b"hello world"[..], 3));
        to.write_all(b"!").await.unwrap();
        to.shutdown().await.unwrap();
        assert_eq!(to.inner.taken.as_slice(), b"hello world!");
    }

    #[tokio::test]
    async fn no_more_is_kept_than_the_limit_and_one_write() {
        let mut to = Gathered::new(Slow { taken: Vec::new(), writes: 0 });
        to.write_all(&vec![7; GATHERED_BYTES]).await.unwrap();
        to.write_all(b"more").await.unwrap();
        assert_eq!((to.inner.taken.len(), to.bytes.len()), (GATHERED_BYTES, 4));
    }

    #[tokio::test]
    async fn what_comes_is_read_as_it_is() {
        let mut from = Gathered::new(&b"abc"[..]);
        let mut text = String::new();
        from.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "abc");
    }
}
