//! Several files as one input: of each its number, its length, and its bytes without the zeros at its end.

use std::ops::Range;

/// Longest file, in bytes.
const MAX_FILE_BYTES: u32 = 128 << 10;
/// Most files of an input.
const MAX_FILES: usize = 8;
/// Number, length, length of the bytes that follow.
const HEAD_BYTES: usize = 16;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) number: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Files as one input.
pub(crate) fn join(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    for File { number, bytes } in files {
        let stored = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&(stored as u32).to_le_bytes());
        out.extend_from_slice(&bytes[..stored]);
    }
    out
}

/// The files of an input; every input is some.
pub(crate) fn split(input: &[u8]) -> Vec<File> {
    let file = |(number, full, range): (u64, u32, Range<usize>)| {
        let mut bytes = input[range].to_vec();
        bytes.resize(full as usize, 0);
        File { number, bytes }
    };
    places(input).into_iter().map(file).collect()
}

fn places(input: &[u8]) -> Vec<(u64, u32, Range<usize>)> {
    let (mut at, mut found) = (0, Vec::new());
    while let Some((number, rest)) = input.get(at..).and_then(<[u8]>::split_first_chunk)
        && let Some((full, rest)) = rest.split_first_chunk()
        && let Some((stored, rest)) = rest.split_first_chunk()
        && found.len() < MAX_FILES
    {
        let stored = (u32::from_le_bytes(*stored).min(MAX_FILE_BYTES) as usize).min(rest.len());
        let full = u32::from_le_bytes(*full).min(MAX_FILE_BYTES);
        let start = at + HEAD_BYTES;
        found.push((u64::from_le_bytes(*number), full, start..start + stored));
        at = start + stored;
    }
    found
}

/// A file within an input that is to be changed.
pub(crate) struct Part<'a> {
    home: &'a mut [u8],
    pub(crate) number: u64,
    /// All of the file, zeros included.
    pub(crate) stored: Vec<u8>,
}

impl Part<'_> {
    /// Takes over what was changed, as far as the input has room for it.
    pub(crate) fn put_back(self) {
        let length = self.home.len().min(self.stored.len());
        self.home[..length].copy_from_slice(&self.stored[..length]);
    }
}

/// Access to the files of an input.
pub(crate) struct Parts;

impl Parts {
    /// The files, to be changed.
    pub(crate) fn of_mut(input: &mut [u8]) -> Vec<Part<'_>> {
        let places = places(input);
        let (mut rest, mut at, mut parts) = (input, 0, Vec::new());
        for (number, full, range) in places {
            let (_, tail) = std::mem::take(&mut rest).split_at_mut(range.start - at);
            let (home, tail) = tail.split_at_mut(range.len());
            let mut stored = home.to_vec();
            stored.resize(full as usize, 0);
            parts.push(Part { home, number, stored });
            (rest, at) = (tail, range.end);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_what_they_were() {
        let files = vec![
            File { number: 1, bytes: vec![1, 2, 0, 3, 0, 0] },
            File { number: u64::MAX, bytes: vec![0; 9] },
            File { number: 3, bytes: vec![7] },
        ];
        let mut input = join(&files);
        assert_eq!(split(&input), files);
        for mut part in Parts::of_mut(&mut input) {
            if part.number == 3 {
                part.stored[0] = 8;
            }
            part.put_back();
        }
        assert_eq!(split(&input)[2].bytes, [8]);
        assert_eq!(split(&input)[..2], files[..2]);
    }

    #[test]
    fn no_input_is_larger_than_the_limits() {
        let input = [[0xff; HEAD_BYTES]; 20].concat();
        let files = split(&input);
        assert!(files.iter().all(|file| file.bytes.len() <= MAX_FILE_BYTES as usize));
        assert!(files.len() <= MAX_FILES);
    }
}
