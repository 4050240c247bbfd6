//! How far the current version of a blueprint has come, for those who ask.

use super::super::Mesh;
use super::clients::Answer;
use crate::core::ids::AgentName;
use crate::core::model::Beside;
use crate::core::placement;
use crate::core::wire::{CanaryStatus, DesiredAnswer, RolloutStatus, StandbyStatus};

impl Mesh {
    /// How far the current version of a blueprint has come.
    pub(super) fn rollout(&mut self, name: &AgentName) -> Answer {
        let scene = self.scene();
        let landscape = scene.landscape(&self.desired, &self.desired.blueprints);
        let plan = placement::plan(landscape);
        let record = self.known_blueprint(name)?;
        let hold = record.canary().map(|(canary, _)| canary.hold);
        let canary = placement::stage(landscape, record).zip(hold).map(|(stage, hold)| {
            let (began, held) = self.trial_times(name).unzip();
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let failed = plan.roll_back.get(name).map(|why| format!("being taken back: {why}"));
            let holding = || format!("hold: {} of {} s", held.unwrap_or_default().as_secs(), hold.as_secs());
            CanaryStatus {
                step: count(stage.step),
                steps: count(stage.steps),
                percent: stage.percent,
                share: count(stage.share),
                updated: count(stage.updated),
                tally: stage.tally,
                began,
                held,
                hold,
                waits_for: failed.or(stage.waits_for).unwrap_or_else(holding),
            }
        });
        let beside = placement::standby(landscape, record).map(|standby| StandbyStatus {
            stage: standby.stage,
            wanted: u32::try_from(standby.wanted).unwrap_or(u32::MAX),
            steady: u32::try_from(standby.steady).unwrap_or(u32::MAX),
            waits_for: match (standby.stage, plan.roll_back.get(name)) {
                (_, Some(why)) => format!("being taken back: {why}"),
                (Beside::Serves, None) => "the version before ends".to_owned(),
                (Beside::Waits, None) => standby.waits_for.unwrap_or_else(|| "nothing".to_owned()),
            },
        });
        let status = self.status_of_blueprint(record, &plan);
        Ok(DesiredAnswer::Rollout(Box::new(RolloutStatus { status, canary, beside })))
    }
}
