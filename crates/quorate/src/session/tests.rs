//! The table against a model that keeps everything in lists and searches them.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{LeaderId, LogId};
use quorate_wire::{SessionHeader, SessionOpening, WireError};

use super::table::{Answer, LogPlace, SessionLimits, SessionRefusal, SessionTable, Verdict};

fn at(index: u64, time: u64) -> LogPlace {
    LogPlace { index, time }
}

fn opening(nanos: u64, max_in_flight: u32) -> SessionOpening {
    SessionOpening { time_to_live: Duration::from_nanos(nanos), max_in_flight }
}

fn header(session: u64, serial: u64, low: u64) -> SessionHeader {
    SessionHeader { session, serial, low }
}

fn answer(index: u64, text: &'static [u8]) -> Answer {
    Answer { log_id: LogId::new(LeaderId::new(1, 1), index), response: Some(Bytes::from_static(text)) }
}

fn encoded(table: &SessionTable) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.encode(&mut bytes);
    bytes
}

/// A table of session 1, opened at time 100 to live for 50, with 4 serials in flight.
fn table() -> SessionTable {
    let mut table = SessionTable::new(SessionLimits::V1);
    table.open(at(1, 100), opening(50, 4));
    table
}

#[test]
fn a_repeated_serial_is_answered_and_not_applied() {
    let mut table = table();
    assert_eq!(table.command(at(2, 100), header(1, 1, 1)), Verdict::Apply);
    table.remember(header(1, 1, 1), answer(2, b"one"));
    assert_eq!(table.command(at(3, 100), header(1, 1, 1)), Verdict::Answered(answer(2, b"one")));
    assert_eq!((table.sessions(), table.answers()), (1, 1));
}

#[test]
fn serials_may_come_in_any_order_within_the_window() {
    let mut table = table();
    for (index, serial) in [(2, 4), (3, 1), (4, 3)] {
        assert_eq!(table.command(at(index, 100), header(1, serial, 1)), Verdict::Apply);
        table.remember(header(1, serial, 1), answer(index, b"x"));
    }
    let refused = Verdict::Refused(SessionRefusal::TooManyInFlight);
    assert_eq!(table.command(at(5, 100), header(1, 5, 1)), refused);
    assert_eq!(table.command(at(6, 100), header(1, u64::MAX, 1)), refused);
    assert_eq!(table.command(at(7, 100), header(1, 2, 1)), Verdict::Apply);
    table.remember(header(1, 2, 1), answer(7, b"x"));
    assert_eq!(table.command(at(8, 100), header(1, 5, 2)), Verdict::Apply, "the window moved with the low mark");
}

#[test]
fn below_the_low_mark_nothing_is_kept_and_nothing_is_applied() {
    let mut table = table();
    for serial in 1..=3 {
        assert_eq!(table.command(at(1 + serial, 100), header(1, serial, 1)), Verdict::Apply);
        table.remember(header(1, serial, 1), answer(1 + serial, b"x"));
    }
    assert_eq!(table.command(at(5, 100), header(1, 4, 3)), Verdict::Apply);
    assert_eq!(table.answers(), 1, "only that of serial 3");
    let acknowledged = Verdict::Refused(SessionRefusal::Acknowledged);
    assert_eq!(table.command(at(6, 100), header(1, 2, 1)), acknowledged, "a delayed copy, its low mark is older");
    assert_eq!(table.command(at(7, 100), header(1, 0, 1)), acknowledged, "serials start at 1");
    assert_eq!(table.command(at(8, 100), header(1, 9, u64::MAX)), acknowledged, "a client that acknowledges ahead");
    assert_eq!(table.answers(), 0);
}

#[test]
fn a_session_expires_after_its_time_and_is_not_opened_again() {
    let mut table = table();
    assert_eq!(table.command(at(2, 150), header(1, 1, 1)), Verdict::Apply, "its last moment");
    table.remember(header(1, 1, 1), answer(2, b"x"));
    assert!(table.keep(at(3, 190), &[1]), "kept to 240");
    assert_eq!(table.command(at(4, 240), header(1, 1, 1)), Verdict::Answered(answer(2, b"x")), "kept to 290");
    table.advance(291);
    assert_eq!((table.sessions(), table.answers()), (0, 0));
    let expired = Verdict::Refused(SessionRefusal::Expired);
    assert_eq!(table.command(at(5, 291), header(1, 1, 1)), expired);
    assert_eq!(table.command(at(6, 291), header(1, 2, 1)), expired);
    assert!(!table.keep(at(7, 291), &[1]));
    assert!(table.is_empty());
}

#[test]
fn what_an_entry_says_does_not_save_a_session_that_its_time_expired() {
    let mut table = table();
    assert!(!table.keep(at(2, 151), &[1]));
}

#[test]
fn a_time_to_live_without_end_does_not_overflow() {
    let mut table = SessionTable::new(SessionLimits::V1);
    table.open(at(1, u64::MAX - 5), SessionOpening { time_to_live: Duration::MAX, max_in_flight: 1 });
    table.advance(u64::MAX);
    assert_eq!(table.sessions(), 1);
}

#[test]
fn the_least_recently_active_session_makes_room_for_a_new_one() {
    let mut table = SessionTable::new(SessionLimits { sessions: 2, answer_bytes: 1 << 20 });
    table.open(at(1, 100), opening(50, 4));
    table.open(at(2, 100), opening(1000, 4));
    assert!(table.keep(at(3, 100), &[1]));
    table.open(at(4, 100), opening(50, 4));
    assert!(table.keep(at(5, 100), &[1, 4]));
    assert!(!table.keep(at(6, 100), &[2]), "it was named last by entry 2");
}

#[test]
fn answers_that_are_too_many_bytes_cost_the_least_recently_active_their_session() {
    let mut table = SessionTable::new(SessionLimits { sessions: 9, answer_bytes: 2 * (128 + 100) });
    for id in 1..=3 {
        table.open(at(id, 100), opening(50, 4));
    }
    let large = Bytes::from(vec![7; 100]);
    for (index, id) in [(4, 3), (5, 2), (6, 1)] {
        assert_eq!(table.command(at(index, 100), header(id, 1, 1)), Verdict::Apply);
        let log_id = LogId::new(LeaderId::new(1, 1), index);
        table.remember(header(id, 1, 1), Answer { log_id, response: Some(large.clone()) });
    }
    assert!(!table.keep(at(7, 100), &[3]));
    assert_eq!((table.sessions(), table.answers()), (2, 2));
    let huge = Answer { log_id: LogId::new(LeaderId::new(1, 1), 8), response: Some(vec![7; 1000].into()) };
    assert_eq!(table.command(at(8, 100), header(2, 2, 1)), Verdict::Apply);
    table.remember(header(2, 2, 1), huge);
    assert_eq!((table.sessions(), table.answers()), (0, 0), "one answer above the limit is not kept either");
}

#[test]
fn closing_forgets_and_may_be_repeated() {
    let mut table = table();
    table.close(at(2, 100), &[1, 7]);
    table.close(at(3, 100), &[1]);
    assert_eq!(table, SessionTable::new(SessionLimits::V1));
}

#[test]
fn bytes_that_are_no_table_are_refused() {
    let mut table = table();
    table.command(at(2, 100), header(1, 2, 1));
    table.remember(header(1, 2, 1), answer(2, b"x"));
    table.command(at(3, 100), header(1, 3, 1));
    table.remember(header(1, 3, 1), Answer { log_id: LogId::ZERO, response: None });
    table.open(at(4, 100), opening(50, 4));
    let bytes = encoded(&table);
    let decode = |bytes: &[u8]| SessionTable::decode(SessionLimits::V1, bytes);
    assert_eq!(decode(&bytes), Ok(table));
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(matches!(decode(&[&bytes[..], b"x"].concat()), Err(WireError::Trailing { .. })));
    let with = |at: usize, number: u64| {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        decode(&bytes)
    };
    assert!(matches!(with(0, u64::MAX), Err(WireError::Short { .. })), "a count that lies");
    assert!(with(8, 4).is_err(), "an id greater than the last activity");
    assert!(matches!(with(52, u64::MAX), Err(WireError::Short { .. })), "a count of answers that lies");
    assert!(matches!(with(60, 0), Err(WireError::Value { field: "session.serial", .. })), "below the low mark");
    assert!(matches!(with(60, 3), Err(WireError::Value { field: "session.serial", .. })), "twice the same serial");
    assert!(matches!(with(60, 5), Err(WireError::Value { field: "session.serial", .. })), "outside of the window");
    let few = SessionLimits { sessions: 1, ..SessionLimits::V1 };
    assert!(matches!(SessionTable::decode(few, &bytes), Err(WireError::TooLong { .. })));
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            // Neither panics nor takes memory; what is accepted can be used.
            if let Ok(mut table) = decode(&bytes) {
                table.command(LogPlace { index: 9, time: 100 }, header(1, 2, 3));
                table.advance(u64::MAX);
            }
        }
    }
}

#[test]
fn only_entries_that_every_node_can_apply_are_taken_from_clients() {
    use quorate_wire::{EntryKind, MAX_PAYLOAD_BYTES, SESSION_HEADER_BYTES};

    use super::check_session_entry as check;

    let (mut opened, mut command) = (Vec::new(), Vec::new());
    opening(1, 1).encode(&mut opened);
    header(1, 1, 1).encode(&mut command);
    assert_eq!(check(EntryKind::Command, &Bytes::new()), Ok(Some(0)));
    assert_eq!(check(EntryKind::SessionCommand, &command.into()), Ok(Some(SESSION_HEADER_BYTES)));
    assert_eq!(check(EntryKind::OpenSession, &opened.into()), Ok(None));
    let short = Bytes::from_static(b"short");
    for kind in [
        EntryKind::Blank,
        EntryKind::Membership,
        EntryKind::OpenSession,
        EntryKind::SessionCommand,
        EntryKind::KeepSessions,
        EntryKind::CloseSessions,
    ] {
        assert!(check(kind, &short).is_err(), "{kind:?}");
    }
    assert!(check(EntryKind::Command, &vec![0; MAX_PAYLOAD_BYTES + 1].into()).is_err());
}

// ---- the model ----

struct ModelSession {
    id: u64,
    time_to_live: u64,
    max_in_flight: u64,
    low: u64,
    active: LogPlace,
    answers: Vec<(u64, Answer)>,
}

struct Model {
    limits: SessionLimits,
    sessions: Vec<ModelSession>,
}

impl Model {
    fn advance(&mut self, time: u64) {
        self.sessions.retain(|session| time <= session.active.time + session.time_to_live);
    }

    fn evict(&mut self) {
        let oldest = self.sessions.iter().map(|session| session.active.index).min().unwrap();
        self.sessions.retain(|session| session.active.index != oldest);
    }

    fn touch(&mut self, at: LogPlace, id: u64) -> Option<&mut ModelSession> {
        let session = self.sessions.iter_mut().find(|session| session.id == id)?;
        session.active = at;
        Some(session)
    }

    fn command(&mut self, at: LogPlace, header: SessionHeader) -> Verdict {
        self.advance(at.time);
        let Some(session) = self.touch(at, header.session) else {
            return Verdict::Refused(SessionRefusal::Expired);
        };
        session.low = session.low.max(header.low);
        let low = session.low;
        session.answers.retain(|(serial, _)| *serial >= low);
        if let Some((_, answer)) = session.answers.iter().find(|(serial, _)| *serial == header.serial) {
            return Verdict::Answered(answer.clone());
        }
        match header.serial {
            serial if serial < low => Verdict::Refused(SessionRefusal::Acknowledged),
            serial if serial - low >= session.max_in_flight => Verdict::Refused(SessionRefusal::TooManyInFlight),
            _ => Verdict::Apply,
        }
    }

    fn remember(&mut self, header: SessionHeader, answer: Answer) {
        let session = self.sessions.iter_mut().find(|session| session.id == header.session).unwrap();
        session.answers.push((header.serial, answer));
        let cost = |answer: &Answer| 128 + answer.response.as_ref().map_or(0, |bytes| bytes.len() as u64);
        while !self.sessions.is_empty()
            && self.sessions.iter().flat_map(|s| &s.answers).map(|(_, answer)| cost(answer)).sum::<u64>()
                > self.limits.answer_bytes
        {
            self.evict();
        }
    }

    fn open(&mut self, at: LogPlace, opening: SessionOpening) {
        self.advance(at.time);
        if self.sessions.len() == self.limits.sessions {
            self.evict();
        }
        self.sessions.push(ModelSession {
            id: at.index,
            time_to_live: opening.time_to_live.as_nanos() as u64,
            max_in_flight: opening.max_in_flight.into(),
            low: 1,
            active: at,
            answers: Vec::new(),
        });
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Plays one log on a model, on a table, and on tables that a snapshot replaces at random places.
fn play(seed: u64) -> [u64; 5] {
    let mut rng = Rng(seed);
    let limits = SessionLimits { sessions: 2 + rng.below(4) as usize, answer_bytes: 1500 + rng.below(1000) };
    let mut model = Model { limits, sessions: Vec::new() };
    let mut table = SessionTable::new(limits);
    let mut restored = table.clone();
    let (mut time, mut seen) = (1000, [0; 5]);
    for index in 1..400 {
        time += [0, 0, 0, 1, 5, 40][rng.below(6) as usize];
        let place = at(index, time);
        let known = model.sessions.len() as u64;
        let id = match rng.below(8) {
            0 => 1 + rng.below(index),
            _ if known > 0 => model.sessions[rng.below(known) as usize].id,
            _ => 1,
        };
        match rng.below(12) {
            0 | 1 => {
                let opening = opening(1 + rng.below(100), 1 + rng.below(4) as u32);
                model.open(place, opening);
                [&mut table, &mut restored].into_iter().for_each(|table| table.open(place, opening));
            }
            2 => {
                model.advance(time);
                let lived = model.touch(place, id).is_some();
                assert_eq!([&mut table, &mut restored].map(|table| table.keep(place, &[id])), [lived; 2]);
            }
            3 => {
                model.advance(time);
                model.sessions.retain(|session| session.id != id);
                [&mut table, &mut restored].into_iter().for_each(|table| table.close(place, &[id]));
            }
            4 => {
                model.advance(time);
                [&mut table, &mut restored].into_iter().for_each(|table| table.advance(time));
            }
            _ => {
                let low = model.sessions.iter().find(|session| session.id == id).map_or(1, |session| session.low);
                let header = header(id, (low + rng.below(6)).saturating_sub(1), low + rng.below(3) / 2);
                let verdict = model.command(place, header);
                assert_eq!(table.command(place, header), verdict, "seed {seed}, entry {index}");
                assert_eq!(restored.command(place, header), verdict, "seed {seed}, entry {index}, restored");
                if verdict == Verdict::Apply {
                    let response = (rng.below(9) > 0).then(|| vec![index as u8; rng.below(300) as usize].into());
                    let answer = Answer { log_id: LogId::new(LeaderId::new(1, 1), index), response };
                    model.remember(header, answer.clone());
                    [&mut table, &mut restored].into_iter().for_each(|table| table.remember(header, answer.clone()));
                }
                seen[match verdict {
                    Verdict::Apply => 0,
                    Verdict::Answered(_) => 1,
                    Verdict::Refused(SessionRefusal::Expired) => 2,
                    Verdict::Refused(SessionRefusal::Acknowledged) => 3,
                    Verdict::Refused(SessionRefusal::TooManyInFlight) => 4,
                }] += 1;
            }
        }
        if rng.below(20) == 0 {
            restored = SessionTable::decode(limits, &encoded(&restored)).unwrap();
        }
        let answers: usize = model.sessions.iter().map(|session| session.answers.len()).sum();
        assert_eq!((table.sessions(), table.answers()), (model.sessions.len() as u64, answers as u64), "seed {seed}");
        assert_eq!(table, restored, "seed {seed}, entry {index}: indexes and counts are rebuilt");
        assert_eq!(encoded(&table), encoded(&restored), "seed {seed}, entry {index}");
    }
    seen
}

#[test]
fn the_table_does_what_the_model_does_wherever_snapshots_are_taken() {
    let mut seen = [0; 5];
    for seed in 0..300 {
        let one = play(seed);
        seen.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
    }
    assert!(seen.iter().all(|times| *times > 500), "every verdict was reached often: {seen:?}");
}
