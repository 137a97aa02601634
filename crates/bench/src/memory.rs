//! What a step costs in memory.

/// Private, unshared memory of this process, in bytes: `RssAnon` of `/proc/self/status` (proc_pid_status(5)). Mapped
/// weights are not in it. Zero where the system does not tell.
pub fn private_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| parse(&status).unwrap_or(0))
}

fn parse(status: &str) -> Option<u64> {
    let kib: u64 =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_grows_by_what_is_touched() {
        assert_eq!(parse("Name:\tx\nRssAnon:\t     120 kB\nRssFile:\t 1 kB\n"), Some(120 * 1024));
        assert_eq!(parse("Name:\tx\n"), None);
        let before = private_bytes();
        let touched = std::hint::black_box(vec![1u8; 32 << 20]);
        assert!(private_bytes() >= before + (24 << 20));
        drop(touched);
    }
}
