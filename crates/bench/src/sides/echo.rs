//! The limit: the same clients, and a task that answers without doing anything.

use tokio::sync::{mpsc, oneshot};

use crate::args::Options;
use crate::measure::{Client, Load, Trial, client_runtime, measure, server_runtime};

/// Requests taken from the channel at once; more than 4096 clients can have in flight does not help.
const BATCH: usize = 1024;

#[derive(Clone)]
struct EchoClient(mpsc::UnboundedSender<oneshot::Sender<()>>);

impl Client for EchoClient {
    async fn call(&self) -> Result<u64, String> {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).map_err(|_| "the echo task is gone".to_owned())?;
        answered.await.map_err(|_| "the echo task dropped a request".to_owned())?;
        Ok(1)
    }
}

/// One trial of the echo.
pub(crate) fn trial(options: &Options, load: Load<'_>) -> Result<Trial, String> {
    let servers = server_runtime(options)?;
    let runtime = client_runtime(options)?;
    let (requests, mut inbox) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    servers.spawn(async move {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            for answer in batch.drain(..) {
                // A client that has stopped no longer waits.
                let _ = answer.send(());
            }
        }
    });
    measure(options, &runtime, load, &EchoClient(requests))
}
