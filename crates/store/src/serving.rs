//! How a model wants to be served: settings that belong to the model and not to the server.

use serde::{Deserialize, Serialize};

/// How a model wants to be served. What is absent is left to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Serving {
    /// The most items of a batch; `Some(0)` and `Some(1)` never batch. At most what the model was seen to take.
    pub max_batch_size: Option<u64>,
    /// Sizes at which a batch leaves at once (Triton's `preferred_batch_size`); ascending.
    pub preferred_batch_sizes: Vec<u64>,
    /// The longest that a request is held back to fill a batch; absent is automatic, 0 is never.
    pub max_queue_delay_us: Option<u64>,
    /// Requests that may wait.
    pub queue_capacity: Option<usize>,
    /// The longest wait, in milliseconds.
    pub queue_time_limit_ms: Option<u64>,
    /// Where requests without a priority stand; 1 is first. Absent is the middle.
    pub default_priority: Option<u32>,
    /// How many priorities there are; a larger one in a request counts as the last. 0: priorities are not used, and
    /// every request stands where it came. Absent: any number is taken as it is.
    pub priority_levels: Option<u32>,
    /// Which models go first when lanes are short.
    pub latency_class: Option<LatencyClass>,
    /// Whether the model is made ready at the start and stays in memory.
    pub pin: Option<bool>,
}

/// How much a model's answers are waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatencyClass {
    /// Somebody looks at a screen.
    Interactive,
    /// What a model is in when nothing is said.
    #[default]
    Standard,
    /// It has to be done, but not now.
    Background,
}

impl Serving {
    /// These settings, and where one is absent that of `other`.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        let preferred = if self.preferred_batch_sizes.is_empty() { other } else { &self };
        Self {
            preferred_batch_sizes: preferred.preferred_batch_sizes.clone(),
            max_batch_size: self.max_batch_size.or(other.max_batch_size),
            max_queue_delay_us: self.max_queue_delay_us.or(other.max_queue_delay_us),
            queue_capacity: self.queue_capacity.or(other.queue_capacity),
            queue_time_limit_ms: self.queue_time_limit_ms.or(other.queue_time_limit_ms),
            default_priority: self.default_priority.or(other.default_priority),
            priority_levels: self.priority_levels.or(other.priority_levels),
            latency_class: self.latency_class.or(other.latency_class),
            pin: self.pin.or(other.pin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wins_over_the_other_field_by_field() {
        let serving = |json: &str| serde_json::from_str::<Serving>(json).unwrap();
        for (one, other, want) in [
            ("{}", "{}", "{}"),
            (r#"{"max-batch-size": 0}"#, r#"{"max-batch-size": 8}"#, r#"{"max-batch-size": 0}"#),
            (
                r#"{"preferred-batch-sizes": [2], "latency-class": "background"}"#,
                r#"{"preferred-batch-sizes": [4, 8], "queue-capacity": 3}"#,
                r#"{"preferred-batch-sizes": [2], "latency-class": "background", "queue-capacity": 3}"#,
            ),
            ("{}", r#"{"preferred-batch-sizes": [4]}"#, r#"{"preferred-batch-sizes": [4]}"#),
            (
                r#"{"max-queue-delay-us": 0, "default-priority": 2}"#,
                r#"{"max-queue-delay-us": 9, "queue-time-limit-ms": 5, "priority-levels": 3}"#,
                r#"{"max-queue-delay-us": 0, "default-priority": 2, "queue-time-limit-ms": 5, "priority-levels": 3}"#,
            ),
        ] {
            assert_eq!(serving(one).or(&serving(other)), serving(want), "{one} or {other}");
        }
        assert!(serde_json::from_str::<Serving>(r#"{"max_batch_size": 1}"#).is_err(), "names are kebab-case");
    }
}
