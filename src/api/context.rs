//! The text of a context: what a reader is given and a writer gives back. To clients it means nothing else.
//!
//! It is the MessagePack of a clock in base64 for URLs, without padding.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::problem::Problem;
use crate::core::limits;
use crate::core::model::Clock;
use crate::core::wire;

/// The text of a context.
pub(super) fn text(clock: &Clock) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(wire::encode_value(clock))
}

/// The context that a text stands for.
pub(super) fn parse(text: &str) -> Result<Clock, Problem> {
    let bad = |why: &str| {
        Problem::new(
            axum::http::StatusCode::BAD_REQUEST,
            "bad_context",
            format!(
                "the context is none that a node has given ({why}): read the key again and use what it says"
            ),
        )
    };
    if text.len() > limits::API_CONTEXT_CHARS_MAX {
        return Err(bad("it is too long"));
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("it is not base64 for URLs"))?;
    let clock: Clock = wire::decode_value(&bytes).map_err(|_| bad("it does not hold a clock"))?;
    clock.check().map_err(bad)?;
    Ok(clock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{Actor, Dot, DotRange};
    use uuid::Uuid;

    fn actor(n: usize) -> Actor {
        Actor(Uuid::from_u128(u128::MAX - n as u128))
    }

    #[test]
    fn a_context_comes_back_as_it_was() {
        let mut clock: Clock =
            [Dot { actor: actor(1), n: 1 }, Dot { actor: actor(2), n: 7 }].into_iter().collect();
        clock.add_range(DotRange { actor: actor(1), from: 100, upto: limits::DOT_MAX });
        for clock in [Clock::default(), clock] {
            let text = text(&clock);
            assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{text}");
            assert_eq!(parse(&text).expect("ours"), clock);
        }
    }

    #[test]
    fn the_largest_context_that_there_can_be_is_taken() {
        let mut clock = Clock::default();
        for n in 0..limits::CLOCK_ACTORS_MAX {
            clock.add_range(DotRange { actor: actor(n), from: 1, upto: limits::DOT_MAX - 10 });
            clock.add_range(DotRange { actor: actor(n), from: limits::DOT_MAX, upto: limits::DOT_MAX });
        }
        assert_eq!(clock.check(), Ok(()));
        assert_eq!(parse(&text(&clock)).expect("within the bounds"), clock);
    }

    #[test]
    fn what_no_node_has_given_is_refused() {
        let mut zero = Clock::default();
        zero.add(Dot { actor: actor(1), n: limits::DOT_MAX + 1 });
        let too_high = text(&zero);
        for text in
            ["x", "not a context!", "AAAA", "gaA=", &too_high, &"A".repeat(limits::API_CONTEXT_CHARS_MAX + 1)]
        {
            assert!(parse(text).is_err(), "{}", &text[..text.len().min(40)]);
        }
    }
}
