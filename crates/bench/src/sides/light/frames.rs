//! The few bytes of HTTP/2 (RFC 9113) and HPACK (RFC 7541) that unary gRPC calls are made of.

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before every frame's payload.
pub(super) const HEAD_BYTES: usize = 9;
/// Window of a connection, and of a stream, before anybody says otherwise.
pub(super) const FIRST_WINDOW: u32 = 65_535;
/// Greatest window.
pub(super) const MOST_WINDOW: u32 = (1 << 31) - 1;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

/// Flags: of HEADERS and DATA, of SETTINGS and PING, of HEADERS; of DATA and HEADERS, and of HEADERS.
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 32;

/// Settings: the size of the sender's table of headers, streams at once, the window of new streams.
pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_STREAMS: u16 = 3;
pub(super) const STREAM_WINDOW: u16 = 4;

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn write(self, to: &mut Vec<u8>) {
        // Lengths have 24 bits.
        to.extend_from_slice(&(self.length as u32).to_be_bytes()[1..]);
        to.extend_from_slice(&[self.kind, self.flags]);
        to.extend_from_slice(&self.stream.to_be_bytes());
    }

    /// The front of `bytes` as a head and its payload; `None` while they are not all there.
    pub(super) fn split(bytes: &[u8]) -> Option<(Head, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [a, b, c, kind, flags, d, e, f, g] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes([d, e, f, g]) & MOST_WINDOW;
        Some((Head { length, kind, flags, stream }, rest.get(..length)?))
    }
}

/// A whole frame.
pub(super) fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    Head { length: payload.len(), kind, flags, stream }.write(to);
    to.extend_from_slice(payload);
}

/// The settings in a payload.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.as_chunks::<6>().0.iter().map(|[a, b, c, d, e, f]| {
        let value = u32::from_be_bytes([*c, *d, *e, *f]);
        (u16::from_be_bytes([*a, *b]), value)
    })
}

/// The payload without padding and priority; `None` if it has less than it says.
pub(super) fn unpadded(head: Head, payload: &[u8]) -> Option<&[u8]> {
    let mut rest = payload;
    let mut padding = 0;
    if head.flags & PADDED != 0 {
        let (length, after) = rest.split_first()?;
        (padding, rest) = (usize::from(*length), after);
    }
    if head.kind == HEADERS && head.flags & PRIORITY != 0 {
        rest = rest.get(5..)?;
    }
    rest.get(..rest.len().checked_sub(padding)?)
}

/// The headers of a call, for the first on a connection and for all later ones, which name those that the first had
/// the server keep.
#[derive(Clone, Debug)]
pub(super) struct CallHeaders {
    pub(super) first: Vec<u8>,
    pub(super) later: Vec<u8>,
}

impl CallHeaders {
    /// Of calls of `path` at `authority`, both shorter than 127 bytes.
    pub(super) fn new(path: &str, authority: &str) -> Self {
        // `:method: POST` and `:scheme: http` of the static table.
        let mut first = vec![0x83, 0x86];
        let kept: [(u8, &str, &str); 5] = [
            (4, "", path),
            (1, "", authority),
            (31, "", "application/grpc"),
            (0, "te", "trailers"),
            (58, "", "quorate-bench"),
        ];
        for (name_at, name, value) in kept {
            // Literal, to be kept; the name is in the static table or follows.
            first.push(0x40 | name_at);
            if name_at == 0 {
                string(&mut first, name);
            }
            string(&mut first, value);
        }
        // What was kept last is number 62.
        let later = [0x83, 0x86].into_iter().chain((62..67).rev().map(|at| 0x80 | at)).collect();
        Self { first, later }
    }
}

/// A string without Huffman's code.
fn string(to: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() < 127, "longer ones have a longer length");
    to.push(text.len() as u8);
    to.extend_from_slice(text.as_bytes());
}

/// What a block of headers says of a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// `:status` is 200.
    pub(super) http_ok: bool,
    /// `grpc-status` is there, and 0.
    pub(super) grpc_ok: bool,
    /// What else is said, as far as it is written in plain letters.
    pub(super) said: String,
}

/// Names and values that matter, plain and in Huffman's code.
const GRPC_STATUS: [&[u8]; 2] = [b"grpc-status", &[0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f]];
const ZERO: [&[u8]; 2] = [b"0", &[0x07]];

/// Reads a block of headers of a peer that was told to keep none: then every field is in it or in the static table, and
/// the block means the same wherever it stands. `None` if it is no such block.
pub(super) fn answer(mut block: &[u8]) -> Option<Answer> {
    let mut answer = Answer::default();
    while let Some(&first) = block.first() {
        if first & 0x80 != 0 {
            let at = number(&mut block, 7)?;
            // Of the static table: 61 fields, of which 8 is `:status: 200`.
            if at == 0 || at > 61 {
                return None;
            }
            answer.http_ok |= at == 8;
        } else if first & 0xe0 == 0x20 {
            // The size of the table: what was asked for.
            if number(&mut block, 5)? != 0 {
                return None;
            }
        } else {
            let at = number(&mut block, if first & 0x40 != 0 { 6 } else { 4 })?;
            let name = if at == 0 { coded(&mut block)? } else { (false, &b""[..]) };
            let value = coded(&mut block)?;
            let is_status = at == 0 && name.1 == GRPC_STATUS[usize::from(name.0)];
            if is_status && value.1 == ZERO[usize::from(value.0)] {
                answer.grpc_ok = true;
            } else if at == 0 {
                let plain = |(huffman, text): (bool, &[u8])| {
                    if huffman { format!("{text:02x?}") } else { String::from_utf8_lossy(text).into_owned() }
                };
                let name = if is_status { "grpc-status".to_owned() } else { plain(name) };
                answer.said += &format!("{name}: {} ", plain(value));
            }
        }
    }
    Some(answer)
}

/// A number whose first byte leaves it so many bits; `None` if it is cut off, or longer than any length here.
fn number(block: &mut &[u8], bits: u8) -> Option<usize> {
    let most = (1_usize << bits) - 1;
    let (first, mut rest) = block.split_first()?;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return None;
            }
        }
    }
    *block = rest;
    Some(value)
}

/// A string, and whether it is in Huffman's code.
fn coded<'a>(block: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let huffman = block.first()? & 0x80 != 0;
    let length = number(block, 7)?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some((huffman, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_it_is_all_there() {
        let mut bytes = Vec::new();
        frame(&mut bytes, DATA, END_STREAM, 7, b"four");
        assert_eq!(Head::split(&bytes[..12]), None);
        let head = Head { length: 4, kind: DATA, flags: END_STREAM, stream: 7 };
        assert_eq!(Head::split(&bytes), Some((head, &b"four"[..])));
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        let head = |kind, flags| Head { length: 0, kind, flags, stream: 1 };
        assert_eq!(unpadded(head(DATA, PADDED), &[2, b'a', 0, 0]), Some(&b"a"[..]));
        assert_eq!(unpadded(head(HEADERS, PADDED | PRIORITY), &[1, 0, 0, 0, 0, 0, b'a', 0]), Some(&b"a"[..]));
        assert_eq!(unpadded(head(DATA, PADDED), &[4, b'a']), None);
    }

    #[test]
    fn a_status_is_read_plain_and_in_huffmans_code() {
        let plain = [&[0x20, 0x88, 0x00, 11][..], b"grpc-status", &[1, b'0']].concat();
        let ok = Answer { http_ok: true, grpc_ok: true, said: String::new() };
        assert_eq!(answer(&plain), Some(ok));
        let huffman = [&[0x40, 0x88][..], GRPC_STATUS[1], &[0x81, 0x07]].concat();
        assert!(answer(&huffman).unwrap().grpc_ok);
    }

    #[test]
    fn an_error_is_told_in_its_own_words() {
        let status = [&[0x88, 0x40, 0x88][..], GRPC_STATUS[1], &[2, b'1', b'4']].concat();
        let message = [&[0x00, 12][..], b"grpc-message", &[9], b"no leader"].concat();
        let answer = answer(&[status, message].concat()).unwrap();
        assert!(answer.http_ok && !answer.grpc_ok);
        assert_eq!(answer.said, "grpc-status: 14 grpc-message: no leader ");
    }

    #[test]
    fn what_names_a_kept_header_or_ends_early_is_refused() {
        assert_eq!(answer(&[0xbe]), None, "62: the first of a table that the peer was told not to have");
        assert_eq!(answer(&[0x00, 11, b'g']), None);
        assert_eq!(answer(&[0x3f, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn later_calls_name_what_the_first_had_kept() {
        let headers = CallHeaders::new("/a.B/C", "here:1");
        assert_eq!(headers.later, [0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe]);
        assert!(headers.first.windows(6).any(|text| text == b"/a.B/C"));
    }
}
