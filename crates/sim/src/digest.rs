//! The trace hash: 128 bits over everything that happens, the same on every build of the same code.

use std::fmt;

/// A hash that takes in words and bytes. Not cryptographic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    a: u64,
    b: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { a: 0x2d35_8dcc_aa6c_78a5, b: 0x8bb8_4b93_962e_acc9 }
    }
}

fn fold(x: u64, y: u64) -> u64 {
    let product = u128::from(x) * u128::from(y);
    (product as u64) ^ (product >> 64) as u64
}

impl Digest {
    /// Takes in a word.
    pub fn word(&mut self, word: u64) {
        self.a = fold(self.a ^ word, 0x9e37_79b9_7f4a_7c15 ^ self.b);
        self.b = (self.b ^ word.rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(23) ^ self.a;
    }

    /// Takes in bytes, and their number.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.word(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let mut rest = [0; 8];
        rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.word(u64::from_le_bytes(rest));
        self.word(bytes.len() as u64);
    }

    /// The hash so far.
    pub fn value(&self) -> u128 {
        let mut end = *self;
        end.word(0);
        (u128::from(end.a) << 64) | u128::from(end.b)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.value())
    }
}

/// The hash of some bytes, in one word.
pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.bytes(bytes);
    digest.value() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_length_count() {
        let of = |words: &[u64]| {
            let mut digest = Digest::default();
            words.iter().for_each(|word| digest.word(*word));
            digest.value()
        };
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[0]), of(&[0, 0]));
        assert_ne!(hash_of(b"a"), hash_of(b"a\0"));
    }
}
