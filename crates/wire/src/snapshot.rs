//! What stands before a snapshot's content, on its way and on disk. The layout is in FORMAT.md, "Snapshots".

use bytes::BufMut;
use quorate_core::{AppendHeader, Incarnation, Round, SnapshotMeta, StartId, StreamId};

use crate::WireError;
use crate::codec::{Reader, put_block, put_duration, put_log_id, put_vote};
use crate::membership::{encode_membership, read_membership};

/// Appends the encoding of a snapshot's meta.
pub fn encode_snapshot_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    put_block(out, |out| {
        put_log_id(out, meta.last_log_id);
        put_log_id(out, meta.membership_log_id);
        encode_membership(&meta.membership, out);
    });
}

/// Decodes what [`encode_snapshot_meta`] wrote.
///
/// # Errors
/// Names what is wrong.
pub fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, WireError> {
    let mut reader = Reader::new("snapshot meta", bytes);
    let mut fields = reader.block("snapshot meta")?;
    reader.finish()?;
    let last_log_id = fields.log_id()?;
    let membership_log_id = fields.log_id()?;
    let membership = read_membership(&mut fields)?;
    Ok(SnapshotMeta { last_log_id, membership_log_id, membership })
}

/// Appends the encoding of the header that travels with a snapshot.
pub fn encode_append_header(header: &AppendHeader, out: &mut Vec<u8>) {
    put_block(out, |out| put_append_header(out, header));
}

/// Decodes what [`encode_append_header`] wrote.
///
/// # Errors
/// Names what is wrong.
pub fn decode_append_header(bytes: &[u8]) -> Result<AppendHeader, WireError> {
    let mut reader = Reader::new("append header", bytes);
    let mut fields = reader.block("append header")?;
    reader.finish()?;
    read_append_header(&mut fields)
}

/// Writes the header's fields, without a block around them.
pub(crate) fn put_append_header(out: &mut Vec<u8>, header: &AppendHeader) {
    put_vote(out, header.vote);
    out.put_u64_le(header.stream.0);
    out.put_u64_le(header.round.0);
    out.put_u64_le(header.commit);
    put_duration(out, header.lease);
    out.put_u128_le(header.named.map_or(0, |named| named.0));
    put_start(out, header.heard);
}

/// Writes which start of a node is meant, if any.
pub(crate) fn put_start(out: &mut Vec<u8>, start: Option<StartId>) {
    out.put_u8(u8::from(start.is_some()));
    if let Some(start) = start {
        out.put_u64_le(start.0);
    }
}

/// Reads which start of a node is meant, if any.
pub(crate) fn read_start(reader: &mut Reader<'_>) -> Result<Option<StartId>, WireError> {
    reader.flag("start that lost entries")?.then(|| reader.u64().map(StartId)).transpose()
}

/// Reads the header's fields.
pub(crate) fn read_append_header(reader: &mut Reader<'_>) -> Result<AppendHeader, WireError> {
    Ok(AppendHeader {
        vote: reader.committed_vote()?,
        stream: StreamId(reader.u64()?),
        round: Round(reader.u64()?),
        commit: reader.ordinal("commit")?,
        lease: reader.duration()?,
        named: Some(Incarnation(reader.u128()?)).filter(|named| named.0 != 0),
        heard: read_start(reader)?,
    })
}
