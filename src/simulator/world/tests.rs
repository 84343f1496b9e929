//! One world at every start, what filters leave of it, and what commands change.

use std::collections::HashSet;

use super::*;

fn placement() -> Placement {
    Placement {
        plan: Plan::listed(CATALOGUE[1]),
        periods: 2,
        days: None,
        open: false,
        test_flow: false,
    }
}

#[test]
fn every_start_makes_the_same_world_of_105_different_orders() {
    let world = World::new();
    assert_eq!(world, World::new());
    assert_eq!(world.orders.len(), 105);
    let codes: HashSet<_> = world.orders.iter().map(|order| &order.code).collect();
    assert_eq!(codes.len(), 105);
    let devices: HashSet<_> = world.orders.iter().map(|order| &order.device).collect();
    assert!(devices.len() >= 20, "{}", devices.len());
    assert!(world.devices.iter().all(|device| device.len() == 20));
}

#[test]
fn filters_narrow_and_an_empty_one_does_not() {
    let world = World::new();
    let all = world.find(&Filter::default()).len();
    assert_eq!(all, 105);
    let by_status = |status| {
        let filter = Filter {
            status,
            ..Filter::default()
        };
        world.find(&filter).len()
    };
    assert_eq!(by_status("1") + by_status("2") + by_status("3"), all);
    assert_eq!(by_status("9"), 0);
    let filter = Filter {
        device: NAMED_DEVICES[0],
        code: "L201903030000000626",
        ..Filter::default()
    };
    assert_eq!(world.find(&filter).len(), 1);
}

#[test]
fn a_renewal_moves_the_end_of_an_order_in_use() {
    let mut world = World::new();
    let open = Placement {
        open: true,
        ..placement()
    };
    let code = world.place(NAMED_DEVICES[1], &open, 1_000);
    assert_eq!(
        world.renew(&code, 1, 5_000),
        Ok(Some(1_000 + 90 * calendar::DAY))
    );
    assert_eq!(world.renew("L0", 1, 5_000), Err(()));
}

#[test]
fn an_ended_order_is_not_renewed() {
    let mut world = World::new();
    let ended = world.orders.iter().find(|o| o.status == Status::Ended);
    let code = ended.unwrap().code.clone();
    assert_eq!(world.renew(&code, 1, 5_000), Ok(None));
}

#[test]
fn a_pause_stops_what_was_in_use() {
    let mut world = World::new();
    let open = Placement {
        open: true,
        ..placement()
    };
    world.place(NAMED_DEVICES[1], &open, 1_000);
    assert!(world.pause(NAMED_DEVICES[1]) > 0);
    assert_eq!(world.in_use(NAMED_DEVICES[1]), None);
    assert_eq!(world.pause(NAMED_DEVICES[1]), 0);
}
