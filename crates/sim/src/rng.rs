//! Chance: one small generator an authority, all from one seed.

use std::time::Duration;

/// xoshiro256**, seeded by SplitMix64 (Blackman and Vigna).
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator of an authority of this seed.
    pub fn new(seed: u64, authority: u64) -> Self {
        let mut mix = seed ^ authority.wrapping_mul(0xa076_1d64_78bd_642f);
        let mut next = || {
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mix;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias is below 2^-32 for the small numbers asked for here.
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.below(1000) < u64::from(permille)
    }

    /// A time from `low` to `high`.
    pub fn time(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.between(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    /// About exponential around `mean`: most are short, a few are eight times as long.
    pub fn around(&mut self, mean: Duration) -> Duration {
        let eighth = mean.as_nanos() as u64 / 8;
        let doublings = self.bits().trailing_zeros().min(5);
        Duration::from_nanos(self.between(eighth, eighth * 6) << doublings) / 2
    }

    /// One of these.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Puts these into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_inside_their_bounds() {
        let mut rng = Rng::new(1, 2);
        let mut seen = [0; 4];
        for _ in 0..4000 {
            seen[rng.between(3, 6) as usize - 3] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    #[test]
    fn authorities_of_one_seed_differ() {
        assert_ne!(Rng::new(7, 1).bits(), Rng::new(7, 2).bits());
        assert_eq!(Rng::new(7, 1).bits(), Rng::new(7, 1).bits());
    }
}
