//! What senders were told of their messages and what receivers have written down, and whatever of it breaks a promise.
//!
//! A sender gives its messages of one conversation growing numbers, and sends the next once it knows what came of the
//! one before, or that it will never know. So nothing here depends on a clock.

use std::collections::{BTreeMap, BTreeSet};

use shoal::core::model::Guarantee;

/// What a sender was told of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was taken in: it is on a disk, or in the agent's mailbox.
    Accepted,
    /// It was refused, which may leave open whether it was handled; or there was no answer.
    Nothing,
}

/// One message of a sender.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) conversation: String,
    pub(crate) number: u64,
    pub(crate) guarantee: Guarantee,
    pub(crate) told: Told,
}

/// One line of what a receiver has written down.
#[derive(Debug, Clone)]
pub(crate) struct Handled {
    pub(crate) conversation: String,
    pub(crate) number: u64,
    /// The message's id, as the receiver was given it.
    pub(crate) id: String,
}

/// A promise that was not kept, about a number of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Breach {
    /// Taken in to be delivered at least once, and never handled.
    Lost(String, u64),
    /// Sent to be delivered at most once, and handled again.
    Doubled(String, u64),
    /// Handled for the first time after a later one of its conversation.
    Overtaken(String, u64),
    /// Handled under two ids: what came again was another message.
    Reminted(String, u64),
    /// Handled, and sent by nobody.
    FromNowhere(String, u64),
}

/// All breaches, in the order in which they are found. What one receiver handled is in the order in which it did; a
/// conversation has one receiver.
pub(crate) fn breaches(sent: &[Sent], handled: &[Handled]) -> Vec<Breach> {
    let sent: BTreeMap<_, _> =
        sent.iter().map(|sent| ((sent.conversation.as_str(), sent.number), sent)).collect();
    let mut ids: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut breaches = Vec::new();
    for Handled { conversation, number, id } in handled {
        let key = (conversation.as_str(), *number);
        let breach = |kind: fn(String, u64) -> Breach| kind(conversation.clone(), *number);
        let Some(sent) = sent.get(&key) else {
            breaches.push(breach(Breach::FromNowhere));
            continue;
        };
        if let Some(first) = ids.insert(key, id) {
            match sent.guarantee {
                Guarantee::AtMostOnce => breaches.push(breach(Breach::Doubled)),
                Guarantee::AtLeastOnce if first != id => breaches.push(breach(Breach::Reminted)),
                Guarantee::AtLeastOnce => {}
            }
            continue;
        }
        let latest = latest.entry(conversation).or_insert(*number);
        if *number < *latest {
            breaches.push(breach(Breach::Overtaken));
        }
        *latest = (*latest).max(*number);
    }
    let is_promised = |sent: &&&Sent| sent.guarantee == Guarantee::AtLeastOnce && sent.told == Told::Accepted;
    let handled: BTreeSet<_> = ids.into_keys().collect();
    let lost = sent.values().filter(is_promised);
    let lost = lost.filter(|sent| !handled.contains(&(sent.conversation.as_str(), sent.number)));
    breaches.extend(lost.map(|sent| Breach::Lost(sent.conversation.clone(), sent.number)));
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages 1, 2, 3 of a conversation, all taken in.
    fn three(guarantee: Guarantee) -> Vec<Sent> {
        let sent = |number| Sent { conversation: "c".to_owned(), number, guarantee, told: Told::Accepted };
        (1..=3).map(sent).collect()
    }

    /// They are handled in this order.
    fn handled(numbers: &[u64]) -> Vec<Handled> {
        let line = |number: &u64| Handled {
            conversation: "c".to_owned(),
            number: *number,
            id: format!("id-{number}"),
        };
        numbers.iter().map(line).collect()
    }

    fn found(guarantee: Guarantee, numbers: &[u64]) -> Vec<Breach> {
        breaches(&three(guarantee), &handled(numbers))
    }

    fn about(kind: fn(String, u64) -> Breach, number: u64) -> Vec<Breach> {
        vec![kind("c".to_owned(), number)]
    }

    #[test]
    fn a_history_as_it_should_be_breaks_nothing() {
        assert_eq!(found(Guarantee::AtLeastOnce, &[1, 2, 3]), []);
        assert_eq!(found(Guarantee::AtMostOnce, &[1, 2, 3]), []);
        assert_eq!(breaches(&[], &[]), []);
    }

    #[test]
    fn a_promised_message_that_was_never_handled_is_lost_and_one_without_a_promise_is_not() {
        assert_eq!(found(Guarantee::AtLeastOnce, &[1, 3]), about(Breach::Lost, 2));
        assert_eq!(found(Guarantee::AtMostOnce, &[1, 3]), []);
        let mut sent = three(Guarantee::AtLeastOnce);
        sent[1].told = Told::Nothing;
        assert_eq!(breaches(&sent, &handled(&[1, 3])), []);
        assert_eq!(breaches(&sent, &handled(&[1, 2, 3])), [], "it may have been taken in");
    }

    #[test]
    fn what_is_handled_again_is_doubled_where_it_may_come_once_only() {
        assert_eq!(found(Guarantee::AtMostOnce, &[1, 2, 3, 2]), about(Breach::Doubled, 2));
        assert_eq!(found(Guarantee::AtLeastOnce, &[1, 2, 1, 2, 3, 2]), []);
        let mut again = handled(&[1, 2, 3, 2]);
        again[3].id = "another".to_owned();
        assert_eq!(breaches(&three(Guarantee::AtLeastOnce), &again), about(Breach::Reminted, 2));
        let mut sent = three(Guarantee::AtMostOnce);
        sent[1].told = Told::Nothing;
        assert_eq!(breaches(&sent, &handled(&[1, 2, 2, 3])), about(Breach::Doubled, 2), "also unanswered");
    }

    #[test]
    fn two_that_are_swapped_are_out_of_order_and_those_of_two_conversations_are_not() {
        assert_eq!(found(Guarantee::AtLeastOnce, &[2, 1, 3]), about(Breach::Overtaken, 1));
        assert_eq!(found(Guarantee::AtMostOnce, &[1, 3, 2]), about(Breach::Overtaken, 2));
        let mut sent = three(Guarantee::AtLeastOnce);
        sent[0].conversation = "d".to_owned();
        let mut lines = handled(&[2, 1, 3]);
        lines[1].conversation = "d".to_owned();
        assert_eq!(breaches(&sent, &lines), []);
    }

    #[test]
    fn what_nobody_has_sent_is_from_nowhere() {
        assert_eq!(found(Guarantee::AtLeastOnce, &[1, 2, 3, 4]), about(Breach::FromNowhere, 4));
    }
}
