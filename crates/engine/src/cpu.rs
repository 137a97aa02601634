//! The processor at hand: how many lanes it carries, where a lane may run, and what its graphs are laid out for.

use std::time::Duration;

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};
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

/// The core that the calling thread is on; it may be on another the moment after.
pub fn core_here() -> usize {
    sched_getcpu()
}

/// What a thread that steps back is as nice as.
const NICE: i32 = 10;
/// How long such a thread would like to run in one go. From Linux 6.12 on, who wakes up and wants to run for a shorter time
/// takes its core at once, where it would wait for the end of a slice, at times for milliseconds (`PREEMPT_SHORT` in
/// `kernel/sched/features.h`); others wait for it for as long, so it is not as long as it may be. Kernels before that
/// do not read it.
const LONG_SLICE: Duration = Duration::from_millis(20);
/// How long a thread would like to run that never does so for long: the least that the kernel takes.
const SHORT_SLICE: Duration = Duration::from_micros(100);

/// Lowers the calling thread's priority, so that it takes no time that others want. A refusal costs them a little time, no
/// more.
pub fn step_back() {
    // On Linux a thread's id stands for the thread alone here.
    let thread: Pid = gettid();
    let _ = setpriority_process(Some(thread), NICE);
    ask_for_slice(LONG_SLICE);
}

/// Has the calling thread take a core at once when it wakes up, from who computes there; for threads that do little each
/// time. Its share of the cores stays what it is. A refusal costs it a little time, no more.
pub fn be_prompt() {
    ask_for_slice(SHORT_SLICE);
}

#[expect(unsafe_code, reason = "no library has this call of the kernel's")]
fn ask_for_slice(slice: Duration) {
    let Ok(nice) = getpriority_process(Some(gettid())) else { return };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: sched_setattr(2) reads `size` bytes of what the second argument points at, which lives until the call returns,
    // and writes only where the kernel knows a smaller structure: the field `size`, of our own copy.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
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
    fn how_long_a_thread_would_run_is_known_to_the_kernel() {
        let check = |ask: fn(), nice: i32, wanted: Duration| {
            let asked = std::thread::spawn(move || {
                ask();
                let told = std::fs::read_to_string("/proc/thread-self/sched").unwrap_or_default();
                (getpriority_process(Some(gettid())).unwrap(), told)
            });
            let (now, told) = asked.join().unwrap();
            assert_eq!(now, nice);
            // Since Linux 6.12, and not where the kernel is built without its numbers.
            let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
            let slice = told.lines().find(|line| line.starts_with("se.slice"));
            if let Some(slice) = slice.filter(|_| (numbers.next(), numbers.next()) >= (Some(6), Some(12))) {
                assert!(slice.ends_with(&wanted.as_nanos().to_string()), "{slice}");
            }
        };
        let own = getpriority_process(Some(gettid())).unwrap();
        check(step_back, NICE.max(own), LONG_SLICE);
        check(be_prompt, own, SHORT_SLICE);
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
