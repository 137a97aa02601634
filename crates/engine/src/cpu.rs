//! The processor at hand: how many lanes it carries, where a lane may run, and what its graphs are laid out for.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The cores this process may run on, at most as many as the cgroup's CPU quota pays for.
pub fn lane_cores() -> Vec<usize> {
    // The standard library reads both the affinity mask and the cgroup's quota (v1 and v2).
    let paid = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let allowed = sched_getaffinity(None).map_or_else(
        |_| (0..paid).collect(),
        |set| (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect::<Vec<_>>(),
    );
    allowed.into_iter().take(paid.max(1)).collect()
}

/// Ties the calling thread to `core`. A refusal costs speed, not correctness, so it is reported and not an error.
pub fn pin_to(core: usize) -> bool {
    keep_to(&[core])
}

/// As [`pin_to`], to any of `cores`. Threads and processes that it starts from then on are kept to the same.
pub fn keep_to(cores: &[usize]) -> bool {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    sched_setaffinity(None, &set).is_ok()
}

/// CPU time the calling thread has used since it started.
pub fn thread_cpu() -> Duration {
    duration(ClockId::ThreadCPUTime)
}

/// CPU time all threads of this process have used, without children.
pub fn process_cpu() -> Duration {
    duration(ClockId::ProcessCPUTime)
}

fn duration(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// What a graph with a blocked convolution layout is laid out for, for example `x86_64-avx512`.
///
/// ONNX Runtime's block size follows the widest vector unit it may use (`MlasNchwcGetBlockSize` in its
/// `core/mlas/lib`), so a graph laid out for one width computes nonsense on another: the target is part of a
/// program's identity.
pub fn target() -> String {
    format!("{}-{}", std::env::consts::ARCH, vector_unit())
}

#[cfg(target_arch = "x86_64")]
fn vector_unit() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") {
        "avx512"
    } else if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        "avx2"
    } else if std::arch::is_x86_feature_detected!("avx") {
        "avx"
    } else {
        "sse"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_unit() -> &'static str {
    "baseline"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_lane_and_a_thread_can_be_pinned_to_its_core() {
        let cores = lane_cores();
        assert!(!cores.is_empty());
        std::thread::spawn(move || {
            assert!(pin_to(cores[0]));
            let set = sched_getaffinity(None).unwrap();
            assert_eq!(set.count(), 1);
            assert!(set.is_set(cores[0]));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn cpu_clocks_only_move_forward() {
        let before = (thread_cpu(), process_cpu());
        let sum: u64 = std::hint::black_box((0..2_000_000u64).sum());
        assert!(sum > 0);
        assert!(thread_cpu() > before.0);
        assert!(process_cpu() > before.1);
    }
}
