//! What a person reads when bytes cannot be accepted: what was being read, where, and what to do.

use std::error::Error;

use quorate_core::{GroupId, LeaderId, LogId};
use quorate_wire::{EntryError, WireError};

#[test]
fn every_error_says_what_was_read_and_what_was_wrong() {
    let at = |index: u64| LogId::new(LeaderId::new(1, 2), index);
    let said = [
        (WireError::Short { what: "vote", at: 3, wanted: 8 }, "vote: 8 bytes wanted at offset 3"),
        (WireError::Trailing { what: "vote", left: 2 }, "vote: 2 bytes left over"),
        (WireError::UnknownKind { kind: 77 }, "kind 77: the peer speaks a newer version, upgrade this node"),
        (WireError::UnknownFeatures { what: "append", bits: 2 }, "append: requires unknown features 0x0002"),
        (WireError::Value { field: "phase", value: 9 }, "phase: 9 is not a possible value"),
        (WireError::Order { what: "voters" }, "voters: not in ascending order"),
        (WireError::Text { what: "address", at: 5 }, "address: the text at offset 5 is not UTF-8"),
        (WireError::TooLong { what: "address", length: 300, limit: 255 }, "300 bytes long, at most 255"),
        (WireError::TooDeep, "nested deeper than"),
        (WireError::Gap { prev: at(1), next: at(3) }, "entry 1-2.3 does not follow 1-2.1"),
        (EntryError::Length { at: 16 }.into(), "entry at offset 16: length"),
        (EntryError::Checksum { at: 16, stored: 1, computed: 2 }.into(), "0x00000001 stored, 0x00000002 computed"),
        (EntryError::Group { at: 16, found: GroupId(4) }.into(), "belongs to group 4"),
        (EntryError::Kind { at: 16, kind: 9 }.into(), "unknown kind 9"),
        (EntryError::Gap { at: 16 }.into(), "does not follow the one before it"),
    ];
    for (error, words) in said {
        assert!(error.to_string().contains(words), "{error}");
        let is_newer = matches!(error, WireError::UnknownKind { .. } | WireError::UnknownFeatures { .. });
        assert_eq!(error.is_from_newer_version(), is_newer, "{error}");
        assert_eq!(error.source().is_some(), matches!(error, WireError::Entry(_)), "{error}");
    }
}
