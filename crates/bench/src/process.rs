//! What a process takes of the machine, as the kernel tells it.

use std::time::Duration;

use engine::{Error, Result};

/// What a process has in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it, mapped files too: `Rss` of `/proc/ID/smaps_rollup`.
    pub resident_bytes: u64,
    /// What no file backs: `Anonymous` there.
    pub private_bytes: u64,
}

/// What the process `id` has in memory, page by page. The sums of `/proc/ID/status` may lag behind by some pages a
/// thread; these do not (proc_pid_smaps(5)).
///
/// # Errors
/// [`Unavailable`](engine::ErrorKind::Unavailable) when there is no such process.
pub fn memory_of(id: u32) -> Result<Memory> {
    let path = format!("/proc/{id}/smaps_rollup");
    let text = read(&path)?;
    let sums = kib(&text, "Rss:").zip(kib(&text, "Anonymous:"));
    let sums =
        sums.map(|(resident, private)| Memory { resident_bytes: resident * 1024, private_bytes: private * 1024 });
    sums.ok_or_else(|| Error::internal(format!("{path} is not as the manual says")))
}

/// Private, unshared memory of this process, in bytes: `RssAnon` of `/proc/self/status` (proc_pid_status(5)). Mapped
/// weights are not in it. Zero where the system does not tell.
pub fn private_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| kib(&status, "RssAnon:").unwrap_or(0) * 1024)
}

/// The number of kibibytes behind `name`.
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// CPU time that the process `id` and its threads have used: `utime` and `stime` of `/proc/ID/stat` (proc_pid_stat(5)),
/// which the kernel counts in hundredths of a second.
///
/// # Errors
/// [`Unavailable`](engine::ErrorKind::Unavailable) when there is no such process.
pub fn cpu_of(id: u32) -> Result<Duration> {
    const TICKS_PER_S: f64 = 100.0;
    let path = format!("/proc/{id}/stat");
    let text = read(&path)?;
    // The second field is the program's name in parentheses, and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let spent = ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) as f64 / TICKS_PER_S);
    spent.map(Duration::from_secs_f64).ok_or_else(|| Error::internal(format!("{path} is not as the manual says")))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::unavailable(format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn memory_grows_by_what_is_touched() {
        assert_eq!(kib("Name:\tx\nRssAnon:\t     120 kB\nRssFile:\t 1 kB\n", "RssAnon:"), Some(120));
        assert_eq!(kib("Name:\tx\n", "RssAnon:"), None);
        let (private, all) = (private_bytes(), memory_of(std::process::id()).unwrap());
        let touched = std::hint::black_box(vec![1u8; 32 << 20]);
        assert!(private_bytes() >= private + (24 << 20));
        let grown = memory_of(std::process::id()).unwrap();
        assert!(grown.private_bytes >= all.private_bytes + (24 << 20), "{all:?} {grown:?}");
        assert!(grown.resident_bytes >= all.resident_bytes + (24 << 20), "{all:?} {grown:?}");
        drop(touched);
    }

    #[test]
    fn cpu_time_of_a_process_grows_with_its_work() {
        let before = cpu_of(std::process::id()).unwrap();
        let begun = Instant::now();
        while cpu_of(std::process::id()).unwrap() == before {
            assert!(begun.elapsed() < Duration::from_secs(60), "the clock stands still");
            std::hint::black_box((0..1_000_000u64).sum::<u64>());
        }
    }
}
