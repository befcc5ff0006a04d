//! A plan as text: flat, so that people read and edit it, and strict, so that a name that is not known
//! is refused instead of meaning nothing.

use crate::{ClockFaults, Damage, FaultPlan, Full, Latency, PowerLoss};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The settings of a [`FaultPlan`] by their names. What is off is left out.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Text {
    block_bytes: u64,
    #[serde(default)]
    mixture: f64,
    #[serde(default)]
    garbage: f64,
    #[serde(default)]
    length_first: f64,
    #[serde(default)]
    stale_tail: bool,
    #[serde(default)]
    directory_subset: bool,
    #[serde(default, skip_serializing_if = "is_off")]
    read_error: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    write_error: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    sync_error: f64,
    #[serde(default)]
    failed_sync_loses: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    evict_clean: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    no_space: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    short_read: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    short_write: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    interrupted: f64,
    #[serde(default)]
    map_refused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    damage_files: Option<String>,
    #[serde(default, skip_serializing_if = "is_off")]
    bit_rot: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    latent_error: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    misdirected_write: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    lost_write: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    stale_block: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    wall_jump: f64,
    #[serde(default, skip_serializing_if = "is_off")]
    clock_jump: f64,
    cached_nanos: u64,
    device_nanos: u64,
    #[serde(default, skip_serializing_if = "is_off")]
    stall: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    full: Option<Full>,
}

/// A [`Full`] by its names.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FullText {
    begins_nanos: u64,
    lasts_nanos: u64,
    left_bytes: u64,
}

impl From<Full> for FullText {
    fn from(full: Full) -> FullText {
        FullText {
            begins_nanos: nanos(full.begins),
            lasts_nanos: nanos(full.lasts),
            left_bytes: full.left_bytes,
        }
    }
}

impl From<FullText> for Full {
    fn from(text: FullText) -> Full {
        Full {
            begins: Duration::from_nanos(text.begins_nanos),
            lasts: Duration::from_nanos(text.lasts_nanos),
            left_bytes: text.left_bytes,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it may skip so")]
fn is_off(rate: &f64) -> bool {
    *rate == 0.0
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

impl From<FaultPlan> for Text {
    fn from(plan: FaultPlan) -> Text {
        let FaultPlan { power, damage, clock, latency, .. } = plan;
        Text {
            block_bytes: power.block_bytes,
            mixture: power.mixture,
            garbage: power.garbage,
            length_first: power.length_first,
            stale_tail: power.stale_tail,
            directory_subset: power.directory_subset,
            read_error: plan.read_error,
            write_error: plan.write_error,
            sync_error: plan.sync_error,
            failed_sync_loses: plan.failed_sync_loses,
            evict_clean: plan.evict_clean,
            no_space: plan.no_space,
            short_read: plan.short_read,
            short_write: plan.short_write,
            interrupted: plan.interrupted,
            map_refused: plan.map_refused,
            damage_files: damage.files,
            bit_rot: damage.bit_rot,
            latent_error: damage.latent_error,
            misdirected_write: damage.misdirected_write,
            lost_write: damage.lost_write,
            stale_block: damage.stale_block,
            wall_jump: clock.wall_jump,
            clock_jump: clock.clock_jump,
            cached_nanos: nanos(latency.cached),
            device_nanos: nanos(latency.device),
            stall: latency.stall,
            full: plan.full,
        }
    }
}

/// No operation of a disk takes longer, unless it is stalled.
const NANOS_MAX: u64 = 1_000_000_000;

impl Text {
    /// How often something happens is a share of all times.
    fn check_shares(&self) -> Result<(), String> {
        let shares = [
            ("mixture", self.mixture),
            ("garbage", self.garbage),
            ("length_first", self.length_first),
            ("read_error", self.read_error),
            ("write_error", self.write_error),
            ("sync_error", self.sync_error),
            ("failed_sync_loses", self.failed_sync_loses),
            ("evict_clean", self.evict_clean),
            ("no_space", self.no_space),
            ("short_read", self.short_read),
            ("short_write", self.short_write),
            ("interrupted", self.interrupted),
            ("bit_rot", self.bit_rot),
            ("latent_error", self.latent_error),
            ("misdirected_write", self.misdirected_write),
            ("lost_write", self.lost_write),
            ("stale_block", self.stale_block),
            ("wall_jump", self.wall_jump),
            ("clock_jump", self.clock_jump),
            ("stall", self.stall),
        ];
        match shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, share)) => Err(format!("{name} is a share from 0 to 1, not {share}")),
            None => Ok(()),
        }
    }
}

impl TryFrom<Text> for FaultPlan {
    type Error = String;

    fn try_from(text: Text) -> Result<FaultPlan, String> {
        if !(512..=4096).contains(&text.block_bytes) {
            return Err(format!("block_bytes is 512 to 4096, not {}", text.block_bytes));
        }
        text.check_shares()?;
        for (name, nanos) in
            [("cached_nanos", text.cached_nanos), ("device_nanos", text.device_nanos)]
        {
            if nanos > NANOS_MAX {
                return Err(format!("{name} is at most {NANOS_MAX}, not {nanos}"));
            }
        }
        Ok(FaultPlan {
            power: PowerLoss {
                block_bytes: text.block_bytes,
                mixture: text.mixture,
                garbage: text.garbage,
                length_first: text.length_first,
                stale_tail: text.stale_tail,
                directory_subset: text.directory_subset,
            },
            read_error: text.read_error,
            write_error: text.write_error,
            sync_error: text.sync_error,
            failed_sync_loses: text.failed_sync_loses,
            evict_clean: text.evict_clean,
            no_space: text.no_space,
            full: text.full,
            short_read: text.short_read,
            short_write: text.short_write,
            interrupted: text.interrupted,
            map_refused: text.map_refused,
            damage: Damage {
                files: text.damage_files,
                bit_rot: text.bit_rot,
                latent_error: text.latent_error,
                misdirected_write: text.misdirected_write,
                lost_write: text.lost_write,
                stale_block: text.stale_block,
            },
            clock: ClockFaults { wall_jump: text.wall_jump, clock_jump: text.clock_jump },
            latency: Latency {
                cached: Duration::from_nanos(text.cached_nanos),
                device: Duration::from_nanos(text.device_nanos),
                stall: text.stall,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::FaultPlan;

    /// A setting that got lost on the way would make a replay another run.
    #[test]
    fn a_plan_is_read_as_it_was_written() {
        for seed in 0..300 {
            let mut plan = FaultPlan::draw(seed);
            plan.damage.files = (seed % 2 == 0).then(|| "wal-".into());
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<FaultPlan>(&text).unwrap(), plan, "{text}");
        }
    }

    #[test]
    fn what_is_off_may_be_left_out() {
        let text = r#"{ "block_bytes": 4096, "cached_nanos": 2000, "device_nanos": 200000 }"#;
        assert_eq!(serde_json::from_str::<FaultPlan>(text).unwrap(), FaultPlan::none());
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        let refused = |setting: &str, why: &str| {
            let text = format!(
                "{{\n\"block_bytes\": 512,\n{setting}\n\"cached_nanos\": 1, \"device_nanos\": 1\n}}"
            );
            let told = serde_json::from_str::<FaultPlan>(&text).unwrap_err().to_string();
            assert!(told.contains(why) && told.contains(" at line "), "{told:?}, not {why:?}");
        };
        refused("\"bit_rust\": 0.1,", "unknown field `bit_rust`");
        refused("\"full\": { \"begins\": 1 },", "unknown field `begins`");
        refused("\"lost_write\": \"often\",", "invalid type");
        let text = r#"{ "block_bytes": 100, "cached_nanos": 1, "device_nanos": 1 }"#;
        let told = serde_json::from_str::<FaultPlan>(text).unwrap_err().to_string();
        assert!(told.contains("block_bytes is 512 to 4096, not 100"), "{told}");
        for (setting, why) in [
            (r#""mixture": 7.5"#, "mixture is a share from 0 to 1, not 7.5"),
            (r#""stall": -1.0"#, "stall is a share from 0 to 1, not -1"),
        ] {
            let text = text.replace("100", "512").replacen('{', &format!("{{ {setting},"), 1);
            let told = serde_json::from_str::<FaultPlan>(&text).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
        let text = r#"{ "block_bytes": 512, "cached_nanos": 1, "device_nanos": 1000000001 }"#;
        let told = serde_json::from_str::<FaultPlan>(text).unwrap_err().to_string();
        assert!(told.contains("device_nanos is at most 1000000000"), "{told}");
    }
}
