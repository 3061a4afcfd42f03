//! The bytes of a snapshot: format version 1, described in FORMAT.md under "Key-value snapshot".

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, BufWriter, Read, Write};

use bytes::Bytes;

use super::command::MemberAttributes;
use super::history::{Edit, History, Revision};
use super::store::{Sizes, Store};

const MAGIC: [u8; 8] = *b"quoratkv";
const VERSION: u32 = 1;
const END: u32 = 0x444e_4521; // "!END"
const BUFFER_BYTES: usize = 64 << 10;
/// No field of ours is longer; a longer one is damage, not to be allocated for. In bytes.
const MAX_FIELD_BYTES: u32 = 64 << 20;

/// No store writes so often; beyond it, writing could not go on.
const MAX_REVISION: i64 = i64::MAX / 2;

/// What a snapshot holds.
pub(super) struct Image<'a> {
    revision: i64,
    compacted: i64,
    members: Cow<'a, BTreeMap<u64, MemberAttributes>>,
    keys: Cow<'a, BTreeMap<Bytes, History>>,
}

impl Store {
    pub(super) fn image(&self) -> Image<'_> {
        Image {
            revision: self.revision,
            compacted: self.compacted,
            members: Cow::Borrowed(&self.members),
            keys: Cow::Borrowed(&self.keys),
        }
    }
}

impl Image<'_> {
    pub(super) fn into_owned(self) -> Image<'static> {
        Image {
            revision: self.revision,
            compacted: self.compacted,
            members: Cow::Owned(self.members.into_owned()),
            keys: Cow::Owned(self.keys.into_owned()),
        }
    }
}

pub(super) fn write(image: &Image<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&image.revision.to_le_bytes())?;
    out.write_all(&image.compacted.to_le_bytes())?;
    write_len(&mut out, image.members.len())?;
    for member in image.members.values() {
        out.write_all(&member.id.to_le_bytes())?;
        write_bytes(&mut out, member.name.as_bytes())?;
        write_len(&mut out, member.client_urls.len())?;
        for url in &member.client_urls {
            write_bytes(&mut out, url.as_bytes())?;
        }
    }
    out.write_all(&(image.keys.len() as u64).to_le_bytes())?;
    for (key, history) in image.keys.iter() {
        write_bytes(&mut out, key)?;
        write_len(&mut out, history.edits().len())?;
        for edit in history.edits() {
            write_edit(&mut out, edit)?;
        }
    }
    out.write_all(&END.to_le_bytes())?;
    out.flush()
}

fn write_edit(out: &mut impl Write, edit: &Edit) -> io::Result<()> {
    for number in [edit.revision.main, edit.revision.sub, edit.created, edit.version, edit.lease] {
        out.write_all(&number.to_le_bytes())?;
    }
    match &edit.value {
        Some(value) => {
            out.write_all(&[1])?;
            write_bytes(out, value)
        }
        None => out.write_all(&[0]),
    }
}

fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_len(out, bytes.len())?;
    out.write_all(bytes)
}

fn write_len(out: &mut impl Write, len: usize) -> io::Result<()> {
    let len = u32::try_from(len).map_err(|_| damaged("a part has more than 4294967295 items"))?;
    out.write_all(&len.to_le_bytes())
}

/// Reads a snapshot; every number in it may be wrong.
pub(super) fn read(input: &mut dyn Read) -> io::Result<Store> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    if read_array::<8>(&mut input)? != MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    let version = read_u32(&mut input)?;
    if version != VERSION {
        return Err(damaged(&format!("it has version {version}, this program knows version {VERSION}")));
    }
    let revision = read_i64(&mut input)?;
    let compacted = read_i64(&mut input)?;
    if !(1..=MAX_REVISION).contains(&revision) || compacted < -1 || compacted > revision {
        return Err(damaged(&format!("revision {revision} and compacted revision {compacted} cannot be")));
    }
    let mut store = Store::new();
    store.revision = revision;
    store.compacted = compacted;
    for _ in 0..read_u32(&mut input)? {
        let member = read_member(&mut input)?;
        store.members.insert(member.id, member);
    }
    let keys = read_u64(&mut input)?;
    let mut changes = Vec::new();
    for _ in 0..keys {
        let (key, history) = read_key(&mut input, revision, compacted)?;
        if store.keys.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(damaged("its keys do not ascend"));
        }
        account(&mut store.sizes, &key, &history);
        let kept = history.edits().iter().filter(|edit| edit.revision.main > compacted);
        changes.extend(kept.map(|edit| (edit.revision, key.clone())));
        store.keys.insert(key, history);
    }
    if read_u32(&mut input)? != END {
        return Err(damaged("it does not end as one"));
    }
    changes.sort_unstable();
    store.changes = VecDeque::from(changes);
    Ok(store)
}

fn account(sizes: &mut Sizes, key: &[u8], history: &History) {
    sizes.total += history.edits().iter().map(|edit| edit.bytes(key)).sum::<u64>();
    sizes.live += history.at(i64::MAX).map_or(0, |edit| edit.bytes(key));
}

fn read_member(input: &mut impl Read) -> io::Result<MemberAttributes> {
    let id = read_u64(input)?;
    let name = read_string(input)?;
    let mut client_urls = Vec::new();
    for _ in 0..read_u32(input)? {
        client_urls.push(read_string(input)?);
    }
    Ok(MemberAttributes { id, name, client_urls })
}

fn read_key(input: &mut impl Read, newest: i64, compacted: i64) -> io::Result<(Bytes, History)> {
    let key = Bytes::from(read_bytes(input)?);
    let edits = read_u32(input)?;
    if key.is_empty() || edits == 0 {
        return Err(damaged("a key is empty or has no versions"));
    }
    let first = read_edit(input, newest)?;
    if first.value.is_none() {
        return Err(damaged("a key begins with a deletion"));
    }
    let mut last = first.revision;
    let mut history = History::new(first);
    for _ in 1..edits {
        let edit = read_edit(input, newest)?;
        if edit.revision <= last {
            return Err(damaged("the versions of a key do not ascend"));
        }
        // Compaction leaves one version up to its revision, and would never come back for another.
        if edit.revision.main <= compacted {
            return Err(damaged("a key has a version that compaction forgot"));
        }
        last = edit.revision;
        history.push(edit);
    }
    Ok((key, history))
}

fn read_edit(input: &mut impl Read, newest: i64) -> io::Result<Edit> {
    let revision = Revision { main: read_i64(input)?, sub: read_i64(input)? };
    let created = read_i64(input)?;
    let version = read_i64(input)?;
    let lease = read_i64(input)?;
    let value = match read_array::<1>(input)? {
        [0] => None,
        [1] => Some(Bytes::from(read_bytes(input)?)),
        _ => return Err(damaged("a version is neither a put nor a deletion")),
    };
    if revision.main > newest
        || revision.main < 1
        || revision.sub < 0
        || created > revision.main
        || version > revision.main
    {
        return Err(damaged(&format!("a version at revision {} cannot be at {newest}", revision.main)));
    }
    Ok(Edit { revision, created, version, lease, value })
}

fn read_string(input: &mut impl Read) -> io::Result<String> {
    String::from_utf8(read_bytes(input)?).map_err(|_| damaged("a name is not UTF-8"))
}

fn read_bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let len = read_u32(input)?;
    if len > MAX_FIELD_BYTES {
        return Err(damaged(&format!("a field of {len} bytes is over the limit of {MAX_FIELD_BYTES}")));
    }
    // Memory is taken as bytes arrive, not as the length promises them.
    let mut bytes = Vec::new();
    input.take(len.into()).read_to_end(&mut bytes)?;
    if bytes.len() < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    Ok(u32::from_le_bytes(read_array(input)?))
}

fn read_u64(input: &mut impl Read) -> io::Result<u64> {
    Ok(u64::from_le_bytes(read_array(input)?))
}

fn read_i64(input: &mut impl Read) -> io::Result<i64> {
    Ok(i64::from_le_bytes(read_array(input)?))
}

fn read_array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a snapshot of the key-value store: {what}"))
}
