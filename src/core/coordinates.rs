//! How far other nodes are: round trips that were measured, and for those that were not, an estimate from
//! coordinates that nodes tell each other.
//!
//! A measurement is the median of the latest [`limits::ROUND_TRIP_SAMPLES`] and counts for
//! [`limits::ROUND_TRIP_FRESH`]; it goes before any estimate. Every measurement of a node whose coordinate
//! is known also moves this node's own coordinate ([`vivaldi`]). It is told in the packets of gossip, to
//! whoever is probed or probes: the cost of a node does not grow with the mesh.
//!
//! Nothing that comes in is trusted: round trips out of range and coordinates that are not finite, too far
//! or of other dimensions are refused and counted, and change nothing. This room does not know who is
//! alive, measures nothing itself and sends nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::vivaldi::{Coordinate, DIMENSIONS, ERROR_MAX, Vivaldi};
use super::ids::NodeKey;
use super::limits;
use super::time::Instant;

mod vivaldi;

/// An estimate between nodes that are less sure of themselves than this is none.
const TRUSTED_ERROR_MAX: f64 = 0.75;
/// One peer moves the own coordinate at most so often: the neighbour in the ring, which is measured all the
/// time, must not outweigh all others.
const PULL_PAUSE: Duration = Duration::from_secs(4);
/// Between nodes so near each other an estimate may be wrong by more than that share: in milliseconds it is
/// little.
const NEAR_SECONDS: f64 = 0.005;

/// What was refused, since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// Round trips out of range.
    pub(crate) round_trips: u64,
    /// Coordinates of others that are no coordinates.
    pub(crate) coordinates: u64,
    /// How often the own coordinate had become unsound and began anew.
    pub(crate) resets: u64,
}

/// What is known of another node.
#[derive(Debug, Default)]
struct Peer {
    /// The latest round trips in seconds, oldest first.
    samples: VecDeque<f64>,
    measured: Instant,
    coordinate: Option<Coordinate>,
    /// When it last moved the own coordinate.
    pulled: Option<Instant>,
}

impl Peer {
    fn median(&self) -> Option<f64> {
        let mut sorted: Vec<_> = self.samples.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then(|| sorted[(sorted.len() - 1) / 2])
    }
}

/// How far everybody is.
#[derive(Debug)]
pub(crate) struct Coordinates {
    vivaldi: Vivaldi,
    peers: BTreeMap<NodeKey, Peer>,
    refusals: Refusals,
}

impl Coordinates {
    pub(crate) fn new(own: NodeKey) -> Self {
        Self { vivaldi: Vivaldi::new(own), peers: BTreeMap::new(), refusals: Refusals::default() }
    }

    pub(crate) fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// Takes a measured round trip in seconds. Returns whether it is the first of this node for a while.
    pub(crate) fn handle_round_trip(&mut self, key: NodeKey, seconds: f64, now: Instant) -> bool {
        let sound = (0.0..=limits::ROUND_TRIP_MAX.as_secs_f64()).contains(&seconds);
        let full = !self.peers.contains_key(&key) && self.peers.len() >= limits::PEERS_MAX;
        if !sound || full {
            self.refusals.round_trips += 1;
            return false;
        }
        let peer = self.peers.entry(key).or_default();
        if now.since(peer.measured) > limits::ROUND_TRIP_FRESH {
            peer.samples.clear();
        }
        let is_first = peer.samples.is_empty();
        if peer.samples.len() >= limits::ROUND_TRIP_SAMPLES {
            peer.samples.pop_front();
        }
        peer.samples.push_back(seconds);
        peer.measured = now;
        let is_due = peer.pulled.is_none_or(|at| now.since(at) >= PULL_PAUSE);
        let sample = peer.coordinate.zip(peer.median()).filter(|_| is_due);
        if let Some((coordinate, rtt)) = sample {
            peer.pulled = Some(now);
            if !self.vivaldi.handle_sample(key, &coordinate, rtt) {
                self.refusals.resets += 1;
            }
        }
        is_first
    }

    /// Takes what a node tells as its coordinate. One that is none is refused, and the one before is kept.
    pub(crate) fn handle_coordinate(&mut self, key: NodeKey, told: &[u8]) {
        let full = !self.peers.contains_key(&key) && self.peers.len() >= limits::PEERS_MAX;
        match decode(told) {
            Some(coordinate) if !full => self.peers.entry(key).or_default().coordinate = Some(coordinate),
            Some(_) | None => self.refusals.coordinates += 1,
        }
    }

    /// This node's coordinate as it travels.
    pub(crate) fn told(&self) -> Vec<u8> {
        encode(self.vivaldi.coordinate())
    }

    /// The round trip that is to be expected: measured if that is fresh, else estimated, else as it was
    /// measured last.
    pub(crate) fn expected(&self, key: &NodeKey, now: Instant) -> Option<Duration> {
        let peer = self.peers.get(key)?;
        let is_fresh = now.since(peer.measured) <= limits::ROUND_TRIP_FRESH;
        let measured = peer.median();
        let fresh = measured.filter(|_| is_fresh);
        let seconds = fresh.or_else(|| estimate(self.vivaldi.coordinate(), peer.coordinate.as_ref()?));
        seconds.or(measured).map(Duration::from_secs_f64)
    }

    /// Whether a node was measured within the last `span`.
    pub(crate) fn is_measured(&self, key: &NodeKey, span: Duration, now: Instant) -> bool {
        self.peers.get(key).is_some_and(|peer| !peer.samples.is_empty() && now.since(peer.measured) <= span)
    }

    /// The round trip that is to be expected between two other nodes.
    pub(crate) fn between(&self, one: &NodeKey, other: &NodeKey) -> Option<Duration> {
        let at = |key| self.peers.get(key)?.coordinate;
        estimate(&at(one)?, &at(other)?).map(Duration::from_secs_f64)
    }

    pub(crate) fn forget(&mut self, key: &NodeKey) {
        self.peers.remove(key);
    }
}

fn estimate(one: &Coordinate, other: &Coordinate) -> Option<f64> {
    let seconds = one.distance(other);
    let knows_something = one.error < ERROR_MAX && other.error < ERROR_MAX;
    let is_sure = one.error <= TRUSTED_ERROR_MAX && other.error <= TRUSTED_ERROR_MAX;
    let trusted = is_sure || (knows_something && seconds <= NEAR_SECONDS);
    (trusted && seconds <= limits::ROUND_TRIP_MAX.as_secs_f64()).then_some(seconds)
}

/// A coordinate as it travels: position, height, adjustment, error, each the upper three bytes of a
/// single-precision number, big end first: within microseconds of a tenth of a second, which is what tells
/// the nodes of one place from each other.
fn encode(coordinate: &Coordinate) -> Vec<u8> {
    let Coordinate { position, height, adjustment, error } = *coordinate;
    let figures = position.into_iter().chain([height, adjustment, error]);
    figures.flat_map(|figure| upper_bytes(figure as f32)).collect()
}

/// The nearest number that has three bytes.
fn upper_bytes(figure: f32) -> [u8; 3] {
    let [a, b, c, _] = figure.to_bits().saturating_add(0x80).to_be_bytes();
    [a, b, c]
}

fn decode(told: &[u8]) -> Option<Coordinate> {
    if told.len() != limits::COORDINATE_BYTES_MAX {
        return None;
    }
    let figure = |n: usize| f64::from(f32::from_be_bytes([told[3 * n], told[3 * n + 1], told[3 * n + 2], 0]));
    let position = std::array::from_fn(figure);
    let [height, adjustment, error] = [0, 1, 2].map(|n| figure(DIMENSIONS + n));
    // Rounding may have lifted an error just beyond the largest there is.
    let error = if error > ERROR_MAX && error < ERROR_MAX * 1.01 { ERROR_MAX } else { error };
    Some(Coordinate { position, height, adjustment, error }).filter(Coordinate::is_sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> NodeKey {
        NodeKey([n; 16])
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn told(position: &[f32], height: f32, adjustment: f32, error: f32) -> Vec<u8> {
        let figures = position.iter().copied().chain([height, adjustment, error]);
        figures.flat_map(upper_bytes).collect()
    }

    /// A node that has measured its one peer often.
    fn pair() -> Coordinates {
        let mut own = Coordinates::new(key(1));
        own.handle_coordinate(key(2), &told(&[0.03, 0.0, 0.0, 0.0], 1e-4, 0.0, 0.1));
        for n in 0..100 {
            own.handle_round_trip(key(2), 0.05, at(n));
        }
        own
    }

    #[test]
    fn a_coordinate_survives_its_way_in_few_bytes() {
        let coordinate =
            Coordinate { position: [0.1, -0.2, 0.3, -0.4], height: 0.01, adjustment: -0.001, error: 1.5 };
        let bytes = encode(&coordinate);
        assert_eq!(bytes.len(), limits::COORDINATE_BYTES_MAX);
        let decoded = decode(&bytes).expect("sound");
        assert!(decoded.moved_since(&coordinate) < 1e-4 && (decoded.error - 1.5).abs() < 1e-4);
        assert!(decode(&encode(&Coordinate::ORIGIN)).is_some());
    }

    #[test]
    fn row_122_an_impossible_round_trip_is_refused_and_counted() {
        let mut own = pair();
        let before = *own.vivaldi.coordinate();
        for seconds in [-0.001, -1e300, 10.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(!own.handle_round_trip(key(2), seconds, at(100)), "{seconds}");
        }
        assert_eq!(own.refusals().round_trips, 6);
        assert_eq!(*own.vivaldi.coordinate(), before);
        assert_eq!(own.expected(&key(2), at(100)), Some(Duration::from_millis(50)));
    }

    #[test]
    fn row_122_and_123_a_rogue_coordinate_is_refused_counted_and_never_kept() {
        let good = told(&[0.03, 0.0, 0.0, 0.0], 1e-4, 0.0, 0.1);
        let rogue = [
            told(&[f32::NAN, 0.0, 0.0, 0.0], 0.0, 0.0, 0.1),
            told(&[0.0, f32::INFINITY, 0.0, 0.0], 0.0, 0.0, 0.1),
            told(&[0.0, 0.0, 11.0, 0.0], 0.0, 0.0, 0.1),
            told(&[0.0, 0.0, 0.0], 0.0, 0.0, 0.1),
            told(&[0.0, 0.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.1),
            told(&[0.0; DIMENSIONS], -0.1, 0.0, 0.1),
            told(&[0.0; DIMENSIONS], f32::NAN, 0.0, 0.1),
            told(&[0.0; DIMENSIONS], 0.0, -11.0, 0.1),
            told(&[0.0; DIMENSIONS], 0.0, 0.0, -0.1),
            told(&[0.0; DIMENSIONS], 0.0, 0.0, f32::NAN),
            told(&[0.0; DIMENSIONS], 0.0, 0.0, 1.6),
            told(&[0.0; 1000], 0.0, 0.0, 0.1),
            good[..good.len() - 1].to_vec(),
            Vec::new(),
            b"junk".to_vec(),
        ];
        let mut own = pair();
        let kept = own.peers[&key(2)].coordinate;
        for (n, rogue) in rogue.iter().enumerate() {
            own.handle_coordinate(key(2), rogue);
            own.handle_coordinate(key(3), rogue);
            assert_eq!(own.refusals().coordinates, 2 * (n as u64 + 1), "{rogue:?}");
        }
        assert_eq!(own.peers[&key(2)].coordinate, kept);
        assert!(!own.peers.contains_key(&key(3)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            proptest::prop_assert!(decode(&bytes).is_none_or(|c| c.is_sound()));
        }
    }

    #[test]
    fn row_122_a_poisoned_own_coordinate_is_reset_counted_and_never_told() {
        let mut own = pair();
        own.vivaldi.poison(f64::NAN);
        own.handle_round_trip(key(2), 0.05, at(101));
        assert_eq!(own.refusals().resets, 1);
        assert!(own.vivaldi.coordinate().is_sound());
        assert!(decode(&own.told()).is_some());
    }

    #[test]
    fn the_median_passes_over_a_round_trip_that_was_held_up() {
        let mut own = Coordinates::new(key(1));
        for seconds in [0.05, 2.0, 0.05, 0.051] {
            own.handle_round_trip(key(2), seconds, at(1));
        }
        assert_eq!(own.expected(&key(2), at(1)), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_fresh_measurement_goes_before_the_estimate_and_that_before_an_old_measurement() {
        let mut own = pair();
        own.handle_coordinate(key(3), &told(&[0.5, 0.0, 0.0, 0.0], 1e-4, 0.0, 0.1));
        let near = own.expected(&key(2), at(100)).expect("measured");
        assert_eq!(near, Duration::from_millis(50));
        let far = own.expected(&key(3), at(100)).expect("estimated");
        assert!(far > Duration::from_millis(300), "{far:?}");
        own.handle_coordinate(key(2), &told(&[0.9, 0.0, 0.0, 0.0], 1e-4, 0.0, 0.1));
        assert_eq!(own.expected(&key(2), at(100)), Some(near));
        assert!(own.expected(&key(2), at(1000)).expect("estimated") > Duration::from_millis(700));
        own.handle_coordinate(key(2), &told(&[0.9, 0.0, 0.0, 0.0], 1e-4, 0.0, 1.5));
        assert_eq!(
            own.expected(&key(2), at(1000)),
            Some(near),
            "better than the word of one who is not sure"
        );
        assert_eq!(own.expected(&key(9), at(1)), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut own = Coordinates::new(key(1));
        for n in 0..limits::PEERS_MAX + 10 {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
            own.handle_round_trip(NodeKey(bytes), 0.01, at(1));
            own.handle_coordinate(NodeKey(bytes), &encode(&Coordinate::ORIGIN));
        }
        assert_eq!(own.peers.len(), limits::PEERS_MAX);
        assert_eq!((own.refusals().round_trips, own.refusals().coordinates), (10, 10));
        own.forget(&NodeKey([0; 16]));
        assert!(own.handle_round_trip(key(200), 0.01, at(1)));
    }
}
