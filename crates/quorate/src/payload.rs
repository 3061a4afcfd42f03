//! What serde can serialize is a [`Payload`], in the postcard format.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Payload, PayloadError};

impl<T: Serialize + DeserializeOwned + Send + 'static> Payload for T {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        let start = out.len();
        match postcard::to_extend(self, Appender(out)) {
            Ok(_) => Ok(()),
            Err(error) => {
                out.truncate(start);
                Err(PayloadError(error.to_string()))
            }
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, PayloadError> {
        let length = bytes.len();
        Self::decode_part(&bytes, 0..length)
    }

    fn decode_part(buffer: &Bytes, part: Range<usize>) -> Result<Self, PayloadError> {
        postcard::from_bytes(&buffer[part]).map_err(|error| PayloadError(error.to_string()))
    }
}

/// Lets postcard append to a borrowed vector.
struct Appender<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Appender<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}
