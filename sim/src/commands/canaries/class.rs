//! Classes of what can go wrong: what a canary needs to be found, and what `run --without` switches
//! off.

use lightning_faults::FaultClass;
use lightning_sim::simulation::{Crash, Plan};

/// What a canary needs to be found, and what `run --without` switches off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Found whatever is switched off.
    None,
    Preemption,
    Kill,
    PowerLoss,
    Fault(FaultClass),
}

impl Class {
    pub(super) fn parse(name: &str) -> Result<Class, String> {
        match name {
            "none" => Ok(Class::None),
            "preemption" => Ok(Class::Preemption),
            "kill" => Ok(Class::Kill),
            "power-loss" => Ok(Class::PowerLoss),
            other => other.parse().map(Class::Fault).map_err(|known| {
                format!("no class {other:?}: none, preemption, kill, power-loss, {known}")
            }),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::None => "none",
            Class::Preemption => "preemption",
            Class::Kill => "kill",
            Class::PowerLoss => "power-loss",
            Class::Fault(class) => class.name(),
        }
    }

    /// A class for `--without`.
    pub(crate) fn to_switch_off(name: &str) -> Result<Class, String> {
        match Class::parse(name)? {
            Class::None => Err(format!("{name:?} cannot be switched off")),
            class => Ok(class),
        }
    }

    /// Takes the class out of a run. Each boot still ends where it would have ended.
    pub(crate) fn switch_off(self, plan: &mut Plan) {
        let instead = |from, to, plan: &mut Plan| {
            for (_, crash) in plan.boots.iter_mut().filter_map(|boot| boot.crash.as_mut()) {
                *crash = if *crash == from { to } else { *crash };
            }
        };
        match self {
            Class::None => {}
            Class::Preemption => plan.switch_preemption_off(),
            Class::Kill => instead(Crash::Killed, Crash::PowerLoss, plan),
            Class::PowerLoss => instead(Crash::PowerLoss, Crash::Killed, plan),
            Class::Fault(class) => plan.switch_off(class),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_off_changes_how_boots_end_but_not_when() {
        let plan = (0..).map(Plan::draw).find(|p| p.boots.len() > 6).expect("a long plan");
        let mut calm = plan.clone();
        for class in ["preemption", "power-loss", "sync-error"] {
            Class::to_switch_off(class).expect("a class").switch_off(&mut calm);
        }
        let crashes = |plan: &Plan| plan.boots.iter().filter_map(|b| b.crash).collect::<Vec<_>>();
        let (before, after) = (crashes(&plan), crashes(&calm));
        assert!(before.len() > 5 && before.len() == after.len());
        assert!(after.iter().all(|(_, crash)| *crash == Crash::Killed));
        assert!(after.iter().zip(&before).all(|(a, b)| a.0 == b.0));
        assert!(calm.scheduling.preempt == 0.0 && calm.faults.sync_error == 0.0);
        assert!(Class::to_switch_off("none").is_err() && Class::to_switch_off("luck").is_err());
    }
}
