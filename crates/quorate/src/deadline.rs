//! Deadlines of callers: a moment and a duration, which may be one that no clock reaches.

use std::time::{Duration, Instant};

/// What a longer duration means: about 30 years. A clock that counts further is not to be had everywhere.
const NO_LIMIT: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment so long after `start`. `Duration::MAX` is no limit, and no overflow.
pub(crate) fn later(start: Instant, after: Duration) -> Instant {
    start + after.min(NO_LIMIT)
}

/// The moment so long from now, see [`later`].
pub(crate) fn from_now(after: Duration) -> Instant {
    later(Instant::now(), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_far_away_and_leaves_room_to_reckon_with() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_millis(5)), now + Duration::from_millis(5));
        let far = later(now, Duration::MAX);
        assert!(far > now + NO_LIMIT / 2);
        assert!(later(far, Duration::MAX) > far);
    }
}
