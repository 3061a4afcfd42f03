use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;

const LIMIT: usize = 800;
/// What callers in the line may fill.
const IN_LINE: usize = LIMIT - LIMIT / FORWARDED_PART;

type Caller = Pin<Box<dyn Future<Output = Permit>>>;

/// A caller that has asked for room once, and whether it had it at once.
fn ask(window: &Arc<Window>, bytes: usize) -> (Caller, Option<Permit>) {
    let window = Arc::clone(window);
    let mut caller: Caller = Box::pin(async move { window.take_in_line(bytes, LIMIT).await });
    let permit = found(&mut caller);
    (caller, permit)
}

fn found(caller: &mut Caller) -> Option<Permit> {
    match caller.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

/// A window without room, and the permit that has all of it.
fn full() -> (Arc<Window>, Permit) {
    let window = Arc::new(Window::default());
    let (_, permit) = ask(&window, LIMIT);
    (window, permit.expect("an empty window has room"))
}

#[test]
fn room_goes_to_who_has_waited_longest() {
    let (window, all) = full();
    let (mut first, nothing) = ask(&window, 300);
    assert!(nothing.is_none());
    let (mut second, nothing) = ask(&window, 300);
    assert!(nothing.is_none());
    let (mut third, nothing) = ask(&window, 300);
    assert!(nothing.is_none());
    drop(all);
    let (one, two) = (found(&mut first), found(&mut second));
    assert!(one.is_some() && two.is_some());
    assert!(found(&mut third).is_none(), "900 of {IN_LINE} bytes");
    drop(two);
    assert!(found(&mut third).is_some());
}

#[test]
fn who_comes_while_others_wait_stands_behind_them() {
    let (window, all) = full();
    let (mut large, _) = ask(&window, 500);
    let (held, mut small) = {
        drop(all);
        // The line has its room; 300 are free for whoever comes while nobody stands in it.
        let held = found(&mut large).expect("room for the front of the line");
        let (waits, nothing) = ask(&window, 400);
        assert!(nothing.is_none());
        (held, waits)
    };
    assert!(!window.take(10, LIMIT), "10 bytes are free, but somebody waits for 400");
    let (mut last, nothing) = ask(&window, 10);
    assert!(nothing.is_none());
    drop(held);
    let room = found(&mut small);
    assert!(room.is_some() && found(&mut last).is_some());
}

#[test]
fn who_stops_waiting_holds_nobody_up_and_keeps_nothing() {
    let (window, all) = full();
    let (gives_up, _) = ask(&window, 600);
    let (told_too_late, _) = ask(&window, 600);
    let (mut last, _) = ask(&window, 600);
    drop(gives_up);
    drop(all);
    assert_eq!(window.used(), 600, "only the second has room");
    assert!(found(&mut last).is_none());
    drop(told_too_late);
    assert!(found(&mut last).is_some(), "what the second was given is the third's, once the second is gone");
    assert_eq!(window.used(), 0);
}

#[test]
fn who_stops_waiting_for_much_leaves_its_room_to_others_at_once() {
    let (window, all) = full();
    let (mut first, _) = ask(&window, 300);
    let (large, _) = ask(&window, 700);
    let (mut small, _) = ask(&window, 300);
    drop(all);
    let held = found(&mut first);
    assert!(held.is_some() && found(&mut small).is_none());
    drop(large);
    assert!(found(&mut small).is_some(), "without anything being given back");
    assert!(window.take(100, LIMIT), "nobody stands in line any more");
}

#[test]
fn a_line_leaves_room_for_what_is_forwarded() {
    let (window, all) = full();
    let callers: Vec<_> = (0..20).map(|_| ask(&window, 100).0).collect();
    drop(all);
    assert_eq!(window.used(), IN_LINE);
    assert!(!window.take(100, LIMIT));
    assert!(window.take_forwarded(100, LIMIT));
    window.give(100);
    drop(callers);
    assert_eq!(window.used(), 0);
}

#[test]
fn forwarded_writes_and_the_line_take_turns() {
    let window = Arc::new(Window::default());
    // They have all of it, and take whatever they can get as soon as they can.
    while window.take_forwarded(100, LIMIT) {}
    let mut forwarded = LIMIT / 100;
    let mut callers: Vec<_> = (0..20).map(|_| ask(&window, 100).0).collect();
    let mut answered = (0, 0);
    while answered.0 < 20 {
        assert!(forwarded > 0, "they are not kept out either");
        window.give(100);
        (forwarded, answered.1) = (forwarded - 1, answered.1 + 1);
        callers.retain_mut(|caller| found(caller).map(|permit| (drop(permit), answered.0 += 1)).is_none());
        while window.take_forwarded(100, LIMIT) {
            forwarded += 1;
        }
        assert!(answered.1 < 100, "{answered:?}: those in the line never have their turn");
    }
}

#[test]
fn a_write_that_is_larger_than_the_window_fits_an_empty_one() {
    let (window, all) = full();
    let (mut larger, nothing) = ask(&window, 10 * LIMIT);
    assert!(nothing.is_none());
    drop(all);
    let permit = found(&mut larger);
    assert_eq!(window.used(), 10 * LIMIT);
    drop(permit);
    assert!(window.take(1, LIMIT));
}

#[test]
fn it_is_empty_once_nothing_is_taken_and_nobody_came_before() {
    let (window, all) = full();
    let (mut waits, _) = ask(&window, 10);
    let mut empty: Pin<Box<dyn Future<Output = ()>>> = {
        let window = Arc::clone(&window);
        Box::pin(async move { window.until_empty().await })
    };
    let mut is_empty = || empty.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!is_empty());
    drop(all);
    let permit = found(&mut waits);
    assert!(permit.is_some() && !is_empty());
    drop(permit);
    let again = window.take(10, LIMIT);
    assert!(again && !is_empty(), "who needs room once more, before anybody looked, is waited for");
    window.give(10);
    assert!(is_empty());
    assert!(window.take(LIMIT, LIMIT), "who waited for it to be empty keeps nothing");
}

#[test]
fn what_was_handed_on_is_not_given_back_by_the_permit() {
    let (window, all) = full();
    assert_eq!(all.hand_on(), Room::Taken);
    assert_eq!(window.used(), LIMIT);
    window.give(LIMIT);
    assert_eq!(window.used(), 0);
}
