//! Unit tests of `memory.rs`.

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn room_is_given_back_when_it_is_dropped() {
    let budget = Budget::new(10, PATIENCE);
    let first = budget.take(6).unwrap();
    assert!(budget.take(5).is_none());
    let second = budget.take(4).unwrap();
    assert_eq!(budget.used(), 10);
    drop(first);
    assert_eq!(budget.used(), 4);
    drop(second);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_single_holder_may_exceed_the_limit() {
    let budget = Budget::new(10, PATIENCE);
    let mut room = budget.take(50).unwrap();
    assert!(room.grow(50));
    assert!(budget.take(1).is_none());
    assert_eq!(budget.used(), 100);
}

#[test]
fn room_can_be_taken_beyond_the_limit_and_counts() {
    let budget = Budget::new(1, PATIENCE);
    let rooms = [budget.take_anyway(1), budget.take_anyway(1)];
    assert_eq!(budget.used(), 2);
    assert!(budget.take(1).is_none());
    drop(rooms);
    assert_eq!(budget.used(), 0);
}

#[test]
fn sizes_that_overflow_do_not_fit() {
    let budget = Budget::new(10, PATIENCE);
    let _room = budget.take(1).unwrap();
    assert!(budget.take(usize::MAX).is_none());
    assert_eq!(budget.used(), 1);
}

#[test]
fn only_holders_that_began_long_ago_must_give_up_when_others_need_room() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let budget = Budget::new(1, Duration::from_millis(1));
        let old = Instant::now();
        std::thread::sleep(Duration::from_millis(3));
        let _room = budget.take(1).unwrap();
        let gives_up = |began| tokio::time::timeout(Duration::from_millis(5), budget.runs_out(began));
        assert!(gives_up(old).await.is_err(), "nobody needs room yet");
        assert!(budget.take(1).is_none());
        assert!(gives_up(old).await.is_ok());
        assert!(gives_up(Instant::now()).await.is_err(), "this holder has just begun");
    });
}

#[test]
fn memory_grows_with_the_bytes_that_arrive() {
    let (budget, whole) = (Budget::new(1 << 30, PATIENCE), 1 << 29);
    let mut body = Body::default();
    assert!(body.push(&[1; 1000], whole, &budget));
    assert!(body.data.capacity() < 10_000);
    assert_eq!((body.bytes(), budget.used()), (&[1; 1000][..], 1000));
    drop(body);
    assert_eq!(budget.used(), 0);
}

#[test]
fn small_requests_need_no_room_and_large_ones_do() {
    let budget = Budget::new(1, PATIENCE);
    let _room = budget.take(1).unwrap();
    assert!(Body::default().push(&[0; SMALL_REQUEST], SMALL_REQUEST, &budget));
    assert!(!Body::default().push(&[0; 10], SMALL_REQUEST + 1, &budget));
}
