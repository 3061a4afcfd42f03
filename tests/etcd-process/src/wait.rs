//! Waiting for other processes: always for something that is named, and never for ever.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that a cluster does by itself. Far beyond all of its time-outs: a machine can be slow, a
/// test must end.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Between two questions to another process, which has no way to tell us when its answer changes.
const POLL: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
///
/// # Panics
/// After [`LIMIT`], with what it waited for.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    in_time(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await
}

/// Waits for work that ends by itself.
///
/// # Panics
/// After [`LIMIT`], with what it waited for.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {LIMIT:?} in vain until {what}"),
    }
}

/// The same as [`until`] on a thread, of something that answers at once; `told` says more if it is in vain.
///
/// # Panics
/// After [`LIMIT`], with what it waited for.
pub fn until_on_thread<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(told) => assert!(began.elapsed() < LIMIT, "waited {LIMIT:?} in vain until {what}:\n{told}"),
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "waited 60s in vain until the sun rises in the west")]
    async fn what_never_comes_is_named() {
        until("the sun rises in the west", async || None::<()>).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_the_wait() {
        let mut asked = 0;
        let answer = until("the third question", async || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer.await, 3);
    }
}
