//! What became of an input.

use std::fmt::Display;

/// What became of an input. Two inputs of different shapes went different ways, as far as errors tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether all of it was accepted.
    pub accepted: bool,
    /// How many layers of it were.
    pub depth: u32,
    /// A fingerprint of the way that it went.
    pub shape: u64,
}

impl Outcome {
    /// A layer was accepted.
    pub(crate) fn deeper(&mut self) {
        self.depth += 1;
        self.shape = self.shape.wrapping_mul(31).wrapping_add(1);
    }

    /// All was accepted.
    pub(crate) fn accept(&mut self) {
        self.deeper();
        self.accepted = true;
    }

    /// Something was refused with these words; those with digits say nothing about the way.
    pub(crate) fn refused(&mut self, error: impl Display) {
        let text = error.to_string();
        for word in text.split_whitespace().filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit())) {
            self.way(word);
        }
    }

    /// A word about the way.
    pub(crate) fn way(&mut self, word: &str) {
        for byte in word.bytes() {
            self.shape = (self.shape ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// A layer with this result.
    pub(crate) fn took<T, E: Display>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                self.deeper();
                Some(value)
            }
            Err(error) => {
                self.refused(error);
                None
            }
        }
    }
}
