//! The service `etcdserverpb.KV`.

use prost::Message;
use quorate::{ReadError, ReadPolicy};
use tonic::{Request, Response, Status};

use super::{Face, error};
use crate::mvcc::{
    Command, KvError, MAX_REQUEST_BYTES, Store, check_delete_range, check_put, check_range, check_txn, decode_response,
    is_long, is_read_only,
};
use crate::proto::request_op::Request as Op;
use crate::proto::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, Kv, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

impl Kv for Face {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.check_leader(request.metadata())?;
        let request = request.into_inner();
        check_range(&request)?;
        let policy = if request.serializable { ReadPolicy::Stale } else { ReadPolicy::ReadIndex };
        let apart = !request.range_end.is_empty();
        let read = self.look(policy, apart, move |store| store.range(&request)).await;
        let mut response = read.map_err(error::of_read)??;
        response.header = self.complete(response.header);
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.check_leader(request.metadata())?;
        let request = request.into_inner();
        check_put(&request)?;
        let mut response: PutResponse = self.write(Command::Put(request)).await?;
        response.header = self.complete(response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.check_leader(request.metadata())?;
        let request = request.into_inner();
        check_delete_range(&request)?;
        let mut response: DeleteRangeResponse = self.write(Command::DeleteRange(request)).await?;
        response.header = self.complete(response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.check_leader(request.metadata())?;
        let request = request.into_inner();
        check_txn(&request)?;
        let mut response: TxnResponse = if is_read_only(&request) {
            let policy = if is_serializable(&request) { ReadPolicy::Stale } else { ReadPolicy::ReadIndex };
            let apart = is_long(&request);
            let read = self.look(policy, apart, move |store| store.read_txn(&request)).await;
            read.map_err(error::of_read)??
        } else {
            self.write(Command::Txn(request)).await?
        };
        response.header = self.complete(response.header);
        Ok(Response::new(response))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.check_leader(request.metadata())?;
        let mut response: CompactionResponse = self.write(Command::Compaction(request.into_inner())).await?;
        response.header = self.complete(response.header);
        Ok(Response::new(response))
    }
}

impl Face {
    /// Reads the store; if that may take long, `apart`, on a thread that may block.
    async fn look<T: Send + 'static>(
        &self,
        policy: ReadPolicy,
        apart: bool,
        look: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        if apart {
            return self.raft.with_state_machine(policy, async move |store: &Store| look(store)).await;
        }
        self.raft.read(policy, look).await
    }

    /// Proposes a command and reads the store's answer.
    async fn write<M: Message + Default>(&self, command: Command) -> Result<M, Status> {
        let command = command.encode();
        if command.0.len() > MAX_REQUEST_BYTES {
            return Err(KvError::RequestTooLarge.into());
        }
        let written = self.raft.client_write(command).await.map_err(error::of_write)?;
        let response = decode_response(written.response)
            .map_err(|unreadable| Status::internal(format!("quorate: applied at {}: {unreadable}", written.log_id)))?;
        Ok(response?)
    }
}

/// Whether every read of a transaction may be stale. One without reads may not: its conditions are answers too.
fn is_serializable(txn: &TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure).peekable();
    ops.peek().is_some()
        && ops.all(|op| match &op.request {
            Some(Op::Range(request)) => request.serializable,
            Some(Op::Txn(request)) => is_serializable(request),
            Some(Op::Put(_) | Op::DeleteRange(_)) | None => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::RequestOp;

    fn read(serializable: bool) -> RequestOp {
        RequestOp { request: Some(Op::Range(RangeRequest { serializable, ..Default::default() })) }
    }

    fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { compare: vec![], success, failure }
    }

    #[test]
    fn a_transaction_may_be_stale_only_if_all_its_reads_may() {
        assert!(is_serializable(&txn(vec![read(true)], vec![read(true)])));
        assert!(!is_serializable(&txn(vec![read(true)], vec![read(false)])));
        assert!(!is_serializable(&txn(vec![], vec![])), "conditions alone are answered as of now");
        let within = |inner| RequestOp { request: Some(Op::Txn(inner)) };
        assert!(is_serializable(&txn(vec![within(txn(vec![read(true)], vec![]))], vec![])));
        assert!(!is_serializable(&txn(vec![within(txn(vec![], vec![]))], vec![])));
    }
}
