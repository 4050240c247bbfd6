//! Vivaldi: every node finds a point such that distances between points are round trips.
//!
//! The springs, the adaptive step by both sides' error, and the height (the part of a round trip that is
//! the node's own access link, paid on every way) are those of Dabek, Cox, Kaashoek and Morris, "Vivaldi:
//! a decentralized network coordinate system" (SIGCOMM 2004, sections 3 and 5.4). The adjustment, half
//! the mean error of the latest samples added to every distance, is that of Lee, Zhang, Sahu and Saha,
//! "On suitability of Euclidean embedding for host-based network coordinate systems" (IEEE/ACM
//! Transactions on Networking, 2010). The pull towards the origin, which keeps all points from drifting
//! off together, is that of Ledlie, Gardner and Seltzer, "Network coordinates in the wild" (NSDI 2007).
//!
//! Added here: no sample moves a point farther than a quarter of the round trip that was measured, nor
//! farther than [`STEP_SECONDS_MAX`], whatever the other side claims of itself; two points on one spot part
//! in a direction that both derive from their keys, so nothing is random.
//!
//! All figures are seconds.

use crate::core::ids::NodeKey;
use crate::core::limits;

/// Dimensions of a point, beside its height. Round trips of the Internet need two to five.
pub(crate) const DIMENSIONS: usize = 4;
/// The share of the error that one sample mends when both sides are equally sure.
const STEP_SHARE: f64 = 0.25;
/// The share of a sample's error that enters the own error.
const ERROR_SHARE: f64 = 0.25;
/// The error of a node that knows nothing, and the largest there is.
pub(crate) const ERROR_MAX: f64 = 1.5;
/// Nobody is taken for surer than this: a claimed error of nought would pull with the whole weight.
pub(crate) const ERROR_MIN: f64 = 0.05;
/// The least height.
const HEIGHT_MIN: f64 = 1e-5;
/// Points nearer than this are on one spot.
const SAME_SPOT: f64 = 1e-6;
/// Samples that the adjustment is the mean of.
const ADJUSTMENT_SAMPLES: usize = 20;
/// Where the pull towards the origin would be one second a sample: it grows with the square of the distance.
const GRAVITY_SECONDS: f64 = 150.0;
/// The farthest that one sample moves a point.
pub(crate) const STEP_SECONDS_MAX: f64 = 0.05;

/// A node's point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Coordinate {
    pub(crate) position: [f64; DIMENSIONS],
    pub(crate) height: f64,
    pub(crate) adjustment: f64,
    /// How wrong its distances are, as a share of the round trip.
    pub(crate) error: f64,
}

impl Coordinate {
    /// Where a node is that has measured nothing.
    pub(crate) const ORIGIN: Self =
        Self { position: [0.0; DIMENSIONS], height: HEIGHT_MIN, adjustment: 0.0, error: ERROR_MAX };

    /// Whether all its figures are finite and within what a mesh on one planet can have.
    pub(crate) fn is_sound(&self) -> bool {
        let far = limits::ROUND_TRIP_MAX.as_secs_f64();
        let within = |x: &f64| x.is_finite() && x.abs() <= far;
        self.position.iter().chain([&self.height, &self.adjustment]).all(within)
            && self.height >= 0.0
            && (0.0..=ERROR_MAX).contains(&self.error)
    }

    /// The distance of the points, heights included.
    fn raw_distance(&self, other: &Self) -> f64 {
        length(&self.minus(other)) + self.height + other.height
    }

    /// The round trip that is to be expected between two nodes.
    pub(crate) fn distance(&self, other: &Self) -> f64 {
        let raw = self.raw_distance(other);
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }

    /// How far a point has moved, counting everything that changes its distances.
    #[cfg(test)]
    pub(crate) fn moved_since(&self, before: &Self) -> f64 {
        length(&self.minus(before))
            + (self.height - before.height).abs()
            + (self.adjustment - before.adjustment).abs()
    }

    fn minus(&self, other: &Self) -> [f64; DIMENSIONS] {
        std::array::from_fn(|n| self.position[n] - other.position[n])
    }
}

fn length(vector: &[f64; DIMENSIONS]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// A direction that two nodes agree on, one against the other: from the difference of their keys.
fn parting(own: &NodeKey, other: &NodeKey) -> [f64; DIMENSIONS] {
    let mut direction = [0.0; DIMENSIONS];
    for (n, (own, other)) in own.0.iter().zip(&other.0).enumerate() {
        direction[n % DIMENSIONS] += f64::from(*own) - f64::from(*other);
    }
    let size = length(&direction);
    if size == 0.0 {
        return std::array::from_fn(|n| if n == 0 { 1.0 } else { 0.0 });
    }
    direction.map(|x| x / size)
}

/// This node's point, and what moves it.
#[derive(Debug)]
pub(crate) struct Vivaldi {
    own: NodeKey,
    coordinate: Coordinate,
    /// The latest errors, oldest overwritten.
    errors: [f64; ADJUSTMENT_SAMPLES],
    next_error: usize,
}

impl Vivaldi {
    pub(crate) fn new(own: NodeKey) -> Self {
        Self { own, coordinate: Coordinate::ORIGIN, errors: [0.0; ADJUSTMENT_SAMPLES], next_error: 0 }
    }

    pub(crate) fn coordinate(&self) -> &Coordinate {
        &self.coordinate
    }

    /// Takes a round trip to a node with this coordinate, both checked by the caller. Returns whether the
    /// point is sound; one that is not has gone back to the origin.
    pub(crate) fn handle_sample(&mut self, other: NodeKey, at: &Coordinate, rtt: f64) -> bool {
        self.step(&other, at, rtt);
        self.adjust(at, rtt);
        self.sink();
        let sound = self.coordinate.is_sound();
        if !sound {
            *self = Self::new(self.own);
        }
        sound
    }

    fn step(&mut self, other: &NodeKey, at: &Coordinate, rtt: f64) {
        let own = &mut self.coordinate;
        let (mine, theirs) = (own.error.max(ERROR_MIN), at.error.max(ERROR_MIN));
        let weight = mine / (mine + theirs);
        let wrong = (own.distance(at) - rtt).abs() / rtt.max(SAME_SPOT);
        let share = ERROR_SHARE * weight;
        own.error = (wrong.min(ERROR_MAX) * share + own.error * (1.0 - share)).clamp(0.0, ERROR_MAX);

        let apart = own.raw_distance(at);
        let bound = (STEP_SHARE * rtt).min(STEP_SECONDS_MAX);
        let step = (STEP_SHARE * weight * (rtt - apart)).clamp(-bound, bound);
        let between = own.minus(at);
        if length(&between) < SAME_SPOT {
            let direction = parting(&self.own, other);
            own.position = std::array::from_fn(|n| own.position[n] + step * direction[n]);
            return;
        }
        // A unit step along [position, height]: heights count towards the distance from both sides.
        let size = length(&between) + own.height + at.height;
        own.position = std::array::from_fn(|n| own.position[n] + step * between[n] / size);
        own.height = (own.height + step * (own.height + at.height) / size).max(HEIGHT_MIN);
    }

    fn adjust(&mut self, at: &Coordinate, rtt: f64) {
        let bound = (rtt / 2.0).min(STEP_SECONDS_MAX);
        self.errors[self.next_error] = (rtt - self.coordinate.raw_distance(at)).clamp(-bound, bound);
        self.next_error = (self.next_error + 1) % ADJUSTMENT_SAMPLES;
        self.coordinate.adjustment = self.errors.iter().sum::<f64>() / (2 * ADJUSTMENT_SAMPLES) as f64;
    }

    fn sink(&mut self) {
        let far = length(&self.coordinate.position);
        if far > SAME_SPOT {
            let pull = ((far / GRAVITY_SECONDS) * (far / GRAVITY_SECONDS)).min(far);
            self.coordinate.position = self.coordinate.position.map(|x| x * (1.0 - pull / far));
        }
    }

    #[cfg(test)]
    pub(crate) fn poison(&mut self, value: f64) {
        self.coordinate.position[0] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> NodeKey {
        crate::core::ids::NodeId::new(&format!("n{n}")).expect("valid").key()
    }

    /// Round trips in seconds between the nodes of three regions, with an access link of their own.
    fn world(nodes: usize) -> Vec<Vec<f64>> {
        const BETWEEN: [[f64; 3]; 3] = [[0.001, 0.080, 0.210], [0.080, 0.001, 0.150], [0.210, 0.150, 0.001]];
        let access = |n: usize| 0.0002 * (n % 4) as f64;
        let rtt = |a: usize, b: usize| BETWEEN[a % 3][b % 3] + access(a) + access(b);
        (0..nodes).map(|a| (0..nodes).map(|b| rtt(a, b)).collect()).collect()
    }

    /// Every node measures a partner a round; coordinates are told every `told_every` rounds.
    fn settled(rtts: &[Vec<f64>], rounds: usize, told_every: usize) -> Vec<Vivaldi> {
        let count = rtts.len();
        let mut nodes: Vec<_> = (0..count).map(|n| Vivaldi::new(key(n))).collect();
        let mut told: Vec<_> = nodes.iter().map(|n| *n.coordinate()).collect();
        for round in 0..rounds {
            for n in 0..count {
                let other = (n + 1 + round % (count - 1)) % count;
                // Up to a tenth of jitter, the same in every run.
                let jitter = 1.0 + 0.1 * (((round * 31 + n * 17) % 11) as f64 / 11.0);
                assert!(nodes[n].handle_sample(key(other), &told[other], rtts[n][other] * jitter));
            }
            if round % told_every == 0 {
                told = nodes.iter().map(|n| *n.coordinate()).collect();
            }
        }
        nodes
    }

    /// The median and the 90th percentile of the relative errors of all estimates across regions.
    fn errors(rtts: &[Vec<f64>], nodes: &[Vivaldi]) -> (f64, f64) {
        let mut errors = Vec::new();
        for a in 0..nodes.len() {
            for b in (0..nodes.len()).filter(|b| a % 3 != b % 3) {
                let estimate = nodes[a].coordinate().distance(nodes[b].coordinate());
                errors.push((estimate - rtts[a][b] * 1.05).abs() / (rtts[a][b] * 1.05));
            }
        }
        errors.sort_by(f64::total_cmp);
        (errors[errors.len() / 2], errors[errors.len() * 9 / 10])
    }

    #[test]
    fn three_regions_are_estimated_to_within_a_tenth_also_when_coordinates_come_now_and_then() {
        let rtts = world(30);
        for told_every in [1, 2] {
            let nodes = settled(&rtts, 600, told_every);
            let (median, most) = errors(&rtts, &nodes);
            assert!(median < 0.10 && most < 0.15, "told every {told_every}: {median:.3} {most:.3}");
            let inside = nodes[0].coordinate().distance(nodes[3].coordinate());
            assert!(inside < 0.02, "one region is near itself: {inside}");
            assert!(nodes.iter().all(|n| n.coordinate().error < 0.5), "and the nodes know it");
        }
    }

    #[test]
    fn one_sample_moves_a_point_no_farther_than_a_quarter_of_the_round_trip() {
        let far = Coordinate { position: [9.0; DIMENSIONS], height: 9.0, adjustment: -9.0, error: 0.0 };
        for (at, rtt) in [(far, 0.001), (far, 9.9), (Coordinate::ORIGIN, 9.9), (Coordinate::ORIGIN, 0.004)] {
            let rtts = world(12);
            for node in &mut settled(&rtts, 200, 1) {
                let before = *node.coordinate();
                assert!(node.handle_sample(key(99), &at, rtt));
                let after = node.coordinate();
                let moved = length(&after.minus(&before)) + (after.height - before.height).abs();
                assert!(moved <= (rtt / 4.0).min(STEP_SECONDS_MAX) + 1e-6, "{moved} for {rtt}");
                let adjusted = (after.adjustment - before.adjustment).abs();
                assert!(adjusted <= STEP_SECONDS_MAX / ADJUSTMENT_SAMPLES as f64, "{adjusted}");
            }
        }
    }

    #[test]
    fn one_liar_among_many_does_not_spoil_the_estimates_of_the_others() {
        let rtts = world(30);
        let mut nodes = settled(&rtts, 600, 1);
        let lie = Coordinate { position: [9.0, -9.0, 9.0, -9.0], height: 0.0, adjustment: 9.0, error: 0.0 };
        for round in 0..600 {
            let told: Vec<_> = nodes.iter().map(|n| *n.coordinate()).collect();
            for n in 0..29 {
                let other = (n + 1 + round % 29) % 30;
                // Node 29 lies about where it is; that it answers, and how fast, is measured.
                let at = if other == 29 { &lie } else { &told[other] };
                nodes[n].handle_sample(key(other), at, rtts[n][other] * 1.05);
            }
        }
        let (median, most) = errors(&rtts[..29], &nodes[..29]);
        assert!(median < 0.15 && most < 0.3, "{median:.3} {most:.3}");
    }

    #[test]
    fn two_nodes_on_one_spot_part_in_opposite_directions_and_always_the_same() {
        let (mut a, mut b) = (Vivaldi::new(key(1)), Vivaldi::new(key(2)));
        a.handle_sample(key(2), &Coordinate::ORIGIN, 0.1);
        b.handle_sample(key(1), &Coordinate::ORIGIN, 0.1);
        let apart = a.coordinate().raw_distance(b.coordinate());
        let steps = length(&a.coordinate().position) + length(&b.coordinate().position);
        assert!((apart - steps).abs() < 1e-4, "{apart} {steps}");
        let mut again = Vivaldi::new(key(1));
        again.handle_sample(key(2), &Coordinate::ORIGIN, 0.1);
        assert_eq!(a.coordinate(), again.coordinate());
    }

    #[test]
    fn row_122_a_poisoned_own_coordinate_goes_back_to_the_origin() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            let mut node = Vivaldi::new(key(1));
            node.handle_sample(key(2), &Coordinate::ORIGIN, 0.1);
            node.poison(value);
            assert!(!node.handle_sample(key(2), &Coordinate::ORIGIN, 0.1), "{value}");
            assert_eq!(*node.coordinate(), Coordinate::ORIGIN);
            assert!(node.handle_sample(key(2), &Coordinate::ORIGIN, 0.1));
        }
    }
}
