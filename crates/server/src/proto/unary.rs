//! One unary call: a request's bytes in, its answer's bytes out.
//!
//! Nearly every request is one message in one frame. It is decoded where it lies, and its answer is one frame and the
//! status, without the buffers and futures that tonic has for streams of messages: with a thousand calls in flight those do
//! not fit the processor's caches. Whatever comes otherwise (in pieces, compressed, too large, malformed) is tonic's.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap, HeaderValue, header::CONTENT_TYPE};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::service::{MAX_MESSAGE_BYTES, Unary};

/// Before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Answers a request by `method`.
pub(super) async fn unary<Req, Resp, Fut>(
    request: http::Request<Body>,
    method: impl FnOnce(Request<Req>) -> Fut + Clone + Send + 'static,
) -> http::Response<Body>
where
    Req: Message + Default + 'static,
    Resp: Message + Default + 'static,
    Fut: Future<Output = Result<Response<Resp>, Status>> + Send + 'static,
{
    let (head, mut body) = request.into_parts();
    let taken = match whole(&head.headers, &mut body).await {
        Ok(message) => match Req::decode(message.slice(PREFIX_BYTES..)) {
            Ok(decoded) => {
                let request = Request::from_parts(MetadataMap::from_headers(head.headers), head.extensions, decoded);
                return answer(method(request).await);
            }
            Err(_) => Taken { bytes: message, error: None },
        },
        Err(taken) => taken,
    };
    let request = http::Request::from_parts(head, Body::new(PutBack { taken, rest: body }));
    Box::pin(async move {
        let codec = ProstCodec::<Resp, Req>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE_BYTES);
        grpc.unary(Unary(move |request: Request<Req>| method.clone()(request)), request).await
    })
    .await
}

/// What was read of a body.
struct Taken {
    bytes: Bytes,
    error: Option<Status>,
}

/// The request's message with its prefix, if that is all there is and it is not compressed; else what was read.
async fn whole(headers: &HeaderMap, body: &mut Body) -> Result<Bytes, Taken> {
    let mut bytes = Bytes::new();
    if headers.contains_key("grpc-encoding") {
        return Err(Taken { bytes, error: None });
    }
    loop {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            None => break,
            Some(Err(error)) => return Err(Taken { bytes, error: Some(error) }),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) if bytes.is_empty() && is_one_message(&data) => bytes = data,
                Ok(data) => return Err(Taken { bytes: joined(&bytes, data), error: None }),
                // Trailers: nothing follows.
                Err(_) => break,
            },
        }
        if body.is_end_stream() {
            break;
        }
    }
    if bytes.is_empty() { Err(Taken { bytes, error: None }) } else { Ok(bytes) }
}

/// Whether these are the prefix and all bytes of a message that tonic would read.
fn is_one_message(bytes: &[u8]) -> bool {
    let Some(([compressed, length @ ..], message)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return false };
    *compressed == 0 && u32::from_be_bytes(*length) as usize == message.len() && message.len() <= MAX_MESSAGE_BYTES
}

fn joined(first: &Bytes, second: Bytes) -> Bytes {
    if first.is_empty() { second } else { [first.as_ref(), second.as_ref()].concat().into() }
}

/// A body of which some was read already.
struct PutBack {
    taken: Taken,
    rest: Body,
}

impl HttpBody for PutBack {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.taken.bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.taken.bytes)))));
        }
        if let Some(error) = self.taken.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut self.rest).poll_frame(context)
    }
}

/// The response to a call that ended so.
fn answer<M: Message>(result: Result<Response<M>, Status>) -> http::Response<Body> {
    let (metadata, message, extensions) = match result {
        Ok(response) => response.into_parts(),
        Err(status) => return status.into_http(),
    };
    let length = message.encoded_len();
    let Ok(prefix) = u32::try_from(length) else {
        return Status::resource_exhausted(format!("quorate: an answer of {length} bytes is too large")).into_http();
    };
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    message.encode_raw(&mut bytes);
    let mut response = http::Response::new(Body::new(Answer { message: Some(bytes.freeze()), ended: false }));
    *response.headers_mut() = metadata.into_headers();
    *response.extensions_mut() = extensions;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A message, and that the call succeeded.
struct Answer {
    message: Option<Bytes>,
    ended: bool,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tonic::Code;

    use super::*;
    use crate::proto::{PutRequest, PutResponse, ResponseHeader};

    /// A body of these frames.
    struct Frames(VecDeque<Bytes>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    fn framed(message: &impl Message) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.put_u32(message.encoded_len() as u32);
        message.encode_raw(&mut bytes);
        bytes
    }

    fn a_put() -> PutRequest {
        PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v"), ..PutRequest::default() }
    }

    async fn put(request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        assert_eq!(request.into_inner(), a_put());
        let header = Some(ResponseHeader { revision: 7, ..ResponseHeader::default() });
        Ok(Response::new(PutResponse { header, prev_kv: None }))
    }

    /// Status and message of the answer to a request of these frames.
    async fn ask(frames: Vec<Vec<u8>>, headers: &[(&'static str, &'static str)]) -> (Code, Option<PutResponse>) {
        let mut request = http::Request::new(Body::new(Frames(frames.into_iter().map(Bytes::from).collect())));
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        let response = unary(request, put).await;
        let (head, mut body) = response.into_parts();
        assert_eq!(head.headers[CONTENT_TYPE], "application/grpc");
        let (mut data, mut trailers) = (Vec::new(), head.headers);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame.unwrap().into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        let code = Status::from_header_map(&trailers).unwrap().code();
        let message = (!data.is_empty()).then(|| {
            assert!(is_one_message(&data));
            PutResponse::decode(&data[PREFIX_BYTES..]).unwrap()
        });
        (code, message)
    }

    #[tokio::test]
    async fn a_request_is_answered_however_it_is_cut() {
        let bytes = framed(&a_put());
        for frames in [
            vec![bytes.clone()],
            vec![bytes.clone(), vec![]],
            vec![bytes[..3].to_vec(), bytes[3..].to_vec()],
            vec![bytes[..7].to_vec(), vec![], bytes[7..].to_vec()],
        ] {
            let (code, message) = ask(frames, &[]).await;
            assert_eq!((code, message.unwrap().header.unwrap().revision), (Code::Ok, 7));
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_as_tonic_does() {
        let bytes = framed(&a_put());
        let malformed = [&[0, 0, 0, 0, 2][..], &[0x0a, 9]].concat();
        assert_eq!(ask(vec![malformed], &[]).await.0, Code::Internal);
        assert_eq!(ask(vec![], &[]).await.0, Code::Internal, "no message");
        let compressed = [&[1][..], &bytes[1..]].concat();
        assert_eq!(ask(vec![compressed], &[]).await.0, Code::Internal);
        assert_eq!(ask(vec![bytes], &[("grpc-encoding", "gzip")]).await.0, Code::Unimplemented);
        let mut large = vec![0];
        large.put_u32(MAX_MESSAGE_BYTES as u32 + 1);
        large.resize(PREFIX_BYTES + MAX_MESSAGE_BYTES + 1, 0);
        assert_eq!(ask(vec![large], &[]).await.0, Code::OutOfRange);
    }
}
