//! This node's own health: a score that rises when it looks as if the fault were its own, and stretches
//! what it expects of others (Dadgar, Phillips, Currey: "Lifeguard", DSN-W 2018, section IV.A).
//!
//! It rises with a probe that failed although not even the helpers answered, with a timer that fired late,
//! and with a suspicion about this node itself; it falls with every answered probe.

/// The highest score: waits are at most eight times as long.
pub(super) const SCORE_MAX: u8 = 7;

/// The score, 0 while all is well.
#[derive(Debug, Default)]
pub(super) struct Health {
    score: u8,
}

impl Health {
    pub(super) fn score(&self) -> u8 {
        self.score
    }

    /// By how much probes and waits are stretched.
    pub(super) fn factor(&self) -> u32 {
        u32::from(self.score) + 1
    }

    pub(super) fn worsen(&mut self, by: u8) {
        self.score = self.score.saturating_add(by).min(SCORE_MAX);
    }

    pub(super) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_between_its_ends_and_stretches_by_one_more_than_itself() {
        let mut health = Health::default();
        health.improve();
        assert_eq!((health.score(), health.factor()), (0, 1));
        health.worsen(3);
        assert_eq!((health.score(), health.factor()), (3, 4));
        health.worsen(200);
        assert_eq!((health.score(), health.factor()), (SCORE_MAX, 8));
        health.improve();
        assert_eq!(health.score(), SCORE_MAX - 1);
    }
}
