//! Members that are out because of their certificate.

use foca::{Message, State};

use super::bench::{Bench, news, start_of};
use super::*;

#[test]
fn an_expelled_member_is_failed_at_once_and_nobodys_word_brings_it_back() {
    let mut bench = Bench::of(5);
    bench.it.expel(key(3));
    bench.drain();
    assert_eq!(bench.status(3), Some(MemberStatus::Failed), "without a suspicion");
    let later = start_of(2);
    bench.hear(3, Message::Ping(4), &[]);
    bench.hear_gossip(4, &[news(3, 7, State::Alive)]);
    for teller in [3, 4] {
        bench.it.apply_entries(key(teller), &[alive(3, later)]);
    }
    bench.drain();
    assert_eq!(bench.changes(3), [MemberStatus::Failed]);

    bench.it.readmit(&key(3));
    bench.it.apply_entries(key(3), &[alive(3, later)]);
    bench.drain();
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
}

#[test]
fn a_node_that_was_never_heard_of_can_be_expelled_and_no_more_than_there_may_be_members() {
    let mut bench = Bench::of(5);
    bench.it.expel(key(9));
    bench.it.apply_entries(key(2), &[alive(9, start_of(1))]);
    bench.drain();
    assert_eq!(bench.status(9), None);
    for n in 0..2 * limits::PEERS_MAX {
        let key = NodeKey(std::array::from_fn(|i| if i < 8 { n.to_le_bytes()[i] } else { 0xee }));
        bench.it.expel(key);
    }
    assert_eq!(bench.it.expelled.len(), limits::PEERS_MAX);
}
