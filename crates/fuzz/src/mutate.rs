//! How valid bytes become hostile ones.

use crate::rng::Rng;

/// Longest input that is made, in bytes.
pub const MAX_INPUT_BYTES: usize = 256 << 10;
/// What files are written in.
const SECTOR_BYTES: usize = 512;
/// Most changes to one input.
const MAX_CHANGES: usize = 5;
/// Numbers at which lengths, counts and indexes break.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    3,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    64 << 20,
    (64 << 20) + 52,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Changes `input` in a few places; `other` is another input to take parts of.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    // Most inputs are changed once or twice: more would rarely get past the first check.
    let changes = 1 + rng.below(MAX_CHANGES).min(rng.below(MAX_CHANGES));
    for _ in 0..changes {
        change(input, other, rng);
    }
    input.truncate(MAX_INPUT_BYTES);
}

fn change(input: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    if input.is_empty() {
        input.extend_from_slice(other);
    }
    let at = place(input, rng);
    match rng.below(13) {
        0 => flip(input, at, rng),
        1 => set(input, at, &[rng.number() as u8]),
        2 => set(input, at, &[*rng.pick(&[0, 1, 2, 7, 8, 0x7f, 0x80, 0xff])]),
        3..=5 => edge(input, at, rng),
        6 => nudge(input, at, rng),
        7 => input.truncate(at),
        8 => {
            let copy = part(input, rng).to_vec();
            insert(input, at, &copy);
        }
        9 => {
            let end = (at + 1 + rng.below(64)).min(input.len());
            input.drain(at..end);
        }
        10 => {
            let from = rng.below(other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        11 => set(input, at, part(other, rng)),
        _ => insert(input, at, part(other, rng)),
    }
}

/// Somewhere in the input, rather where there is something else than zeros, and half of the time near the start of the input
/// or of one of its sectors: a log has its batches at those, and is refused for nearly any change to its first bytes.
fn place(input: &[u8], rng: &mut Rng) -> usize {
    let mut at = 0;
    for _ in 0..8 {
        at = if rng.one_in(2) {
            let sector = if rng.one_in(4) { 0 } else { SECTOR_BYTES * rng.below(input.len().div_ceil(SECTOR_BYTES)) };
            sector + rng.below(input.len().saturating_sub(sector).min(128))
        } else {
            rng.below(input.len())
        };
        if rng.one_in(2) {
            at &= !3;
        }
        let end = (at + 8).min(input.len());
        if input[at..end].iter().any(|byte| *byte != 0) {
            break;
        }
    }
    at
}

fn part<'a>(bytes: &'a [u8], rng: &mut Rng) -> &'a [u8] {
    let from = rng.below(bytes.len());
    let length = if rng.one_in(4) { 1 + rng.below(bytes.len()) } else { 1 + rng.below(64) };
    &bytes[from..(from + length).min(bytes.len())]
}

fn flip(input: &mut [u8], at: usize, rng: &mut Rng) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

fn set(input: &mut [u8], at: usize, bytes: &[u8]) {
    let length = bytes.len().min(input.len().saturating_sub(at));
    input[at..at + length].copy_from_slice(&bytes[..length]);
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let at = at.min(input.len());
    input.splice(at..at, bytes.iter().copied());
}

/// Puts an edge value, or one near the input's own length, where a field of two, four or eight bytes may be.
fn edge(input: &mut [u8], at: usize, rng: &mut Rng) {
    let own = input.len().wrapping_sub(rng.below(24)) as u64;
    let rest = input.len().saturating_sub(at).wrapping_sub(rng.below(24)) as u64;
    let known = *rng.pick(&EDGES);
    let value = *rng.pick(&[known, known, own, rest]);
    let width = *rng.pick(&[2, 4, 4, 8, 8]);
    set(input, at, &value.to_le_bytes()[..width]);
}

/// Adds a small number to a field of one, two, four or eight bytes.
fn nudge(input: &mut [u8], at: usize, rng: &mut Rng) {
    let width = *rng.pick(&[1, 2, 4, 8]);
    let Some(field) = input.get_mut(at..at + width) else { return };
    let mut number = [0; 8];
    number[..width].copy_from_slice(field);
    let by = *rng.pick(&[1, 2, 4, 8, 24, 52, 512]);
    let number = u64::from_le_bytes(number);
    let number = if rng.one_in(2) { number.wrapping_add(by) } else { number.wrapping_sub(by) };
    field.copy_from_slice(&number.to_le_bytes()[..width]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_inputs_and_another_seed_others() {
        let run = |seed| {
            let (mut rng, mut input) = (Rng::new(seed), b"some bytes that are valid".to_vec());
            for _ in 0..200 {
                mutate(&mut input, b"others", &mut rng);
            }
            input
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn nothing_is_too_short_to_be_changed() {
        let mut rng = Rng::new(3);
        for length in 0..12 {
            for _ in 0..500 {
                let mut input = vec![0; length];
                mutate(&mut input, &[], &mut rng);
                assert!(input.len() <= MAX_INPUT_BYTES);
            }
        }
    }
}
