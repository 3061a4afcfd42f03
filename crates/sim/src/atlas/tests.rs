//! What is done to disks, and what the operator does about it.

use super::*;
use crate::trial::{cluster, cluster_with};

#[test]
fn nothing_is_armed_on_a_disk_that_is_damaged_already() {
    let armed = |damaged: bool, outdated: bool| {
        let mut world = cluster_with(3, |options| options.mends = false);
        let place = &mut world.places[1];
        (place.impaired, place.damaged, place.hurt.outdated) = (damaged, damaged, outdated);
        world.disk_fault(Fault::LostWrite, 1);
        (world.places[1].disk.armed(), world.places[1].fragile)
    };
    assert_eq!(armed(false, false), (Some(Armed::LostWrite), true), "otherwise nothing is shown");
    assert_eq!(armed(true, false), (None, false));
    assert_eq!(armed(true, true), (None, false));
}

#[test]
fn a_majority_of_lost_voters_is_not_sound() {
    let mut world = cluster(7);
    let membership = {
        let leader = world.leader().and_then(|at| world.places[at].running.as_ref()).expect("it leads");
        leader.node.core().membership().clone()
    };
    (0..5).for_each(|at| world.places[at].impaired = true);
    let left =
        |leaving: &[u64]| without(&membership.target().voter_ids(), &leaving.iter().map(|id| NodeId(*id)).collect());
    assert!(!world.is_sound_majority(&membership, &left(&[1])), "four of the six that stay are lost");
    assert!(!world.is_sound_majority(&membership, &left(&[1, 2, 3])), "two of four");
    assert!(world.is_sound_majority(&membership, &left(&[1, 2, 3, 4])), "one of three");
    assert!(world.is_sound_majority(&membership, &left(&[1, 2, 3, 4, 5])), "all that are lost leave at once");
}
