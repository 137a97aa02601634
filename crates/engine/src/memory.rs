//! The memory at hand, which is what the machine has or less where a cgroup says so, and what this process takes of it.

use std::path::Path;

use crate::blocks;

/// The bytes of memory that this process may use: the least of what the machine has and what the control groups that
/// it is in allow it, in version 2 (`memory.max`) or 1 (`memory.limit_in_bytes`).
pub fn allowed_bytes() -> u64 {
    let (root, proc) = (Path::new("/sys/fs/cgroup"), Path::new("/proc"));
    let groups = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let machine = std::fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| total_bytes(&text));
    let limit = limit_bytes(root, &groups);
    // A machine that tells neither is taken to be a small one.
    machine.into_iter().chain(limit).min().unwrap_or(1 << 30)
}

/// `MemTotal` of proc_meminfo(5).
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of the groups in `groups`, the text of `/proc/self/cgroup` (cgroups(7)), and of all above them. In
/// a container the path may be the host's, which is not there; then the folders that are there speak for themselves.
fn limit_bytes(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            names if names.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        let within = Path::new(path.trim_start_matches('/'));
        // A group without a limit says "max", which is no number; in version 1 it is a number past any machine.
        let limit = |group: &Path| std::fs::read_to_string(base.join(group).join(file)).ok()?.trim().parse().ok();
        within.ancestors().filter_map(limit).collect()
    });
    limits.min()
}

/// What this process has in memory at present, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What no file backs, and the page tables, which grow with what is mapped: nobody but this process can give it back.
    pub private_bytes: u64,
    /// Pages of mapped files. The kernel may take them at any time, and reads them again when they are touched.
    pub mapped_bytes: u64,
}

/// What this process has in memory, from `/proc/self/status` (proc_pid_status(5)): some tens of microseconds. Zero where
/// the system does not tell.
pub fn usage() -> Usage {
    usage_in(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn usage_in(status: &str) -> Usage {
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    Usage { private_bytes: bytes("RssAnon:") + bytes("VmPTE:"), mapped_bytes: bytes("RssFile:") }
}

/// Bytes of the C library's heap and of [`blocks`] that are in use, in this process as a whole. The runtimes allocate
/// there as we do, so what something takes is what this grows by while it is made, give or take what other threads do
/// meanwhile.
///
/// Every arena of the heap is locked and looked through for it, which takes up to milliseconds.
#[expect(unsafe_code, reason = "the C library's statistics")]
pub fn heap_bytes() -> u64 {
    // SAFETY: mallinfo2 takes nothing, may be called from any thread, and returns a plain structure.
    let about = unsafe { libc::mallinfo2() };
    (about.uordblks + about.hblkhd + blocks::lent_bytes()) as u64
}

/// Gives back to the system what of the C library's heap is free, and all [`blocks`] that lie ready. It takes
/// milliseconds, and whoever allocates meanwhile may wait that long.
#[expect(unsafe_code, reason = "a call of the C library")]
pub fn trim_heap() {
    // SAFETY: malloc_trim takes a number and may be called from any thread; it touches free memory alone.
    unsafe { libc::malloc_trim(0) };
    blocks::release();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_told() {
        let status = "Name:\tx\nVmPTE:\t      12 kB\nRssAnon:\t     120 kB\nRssFile:\t    2048 kB\n";
        assert_eq!(usage_in(status), Usage { private_bytes: 132 << 10, mapped_bytes: 2 << 20 });
        assert_eq!(usage_in(""), Usage::default());
        const BYTES: usize = 64 << 20;
        let (heap, private) = (heap_bytes(), usage().private_bytes);
        let taken = std::hint::black_box(vec![1u8; BYTES]);
        // Other tests come and go meanwhile.
        let most = BYTES as u64 * 3 / 4;
        assert!(heap_bytes() > heap + most && usage().private_bytes > private + most);
        drop(taken);
        trim_heap();
    }

    #[test]
    fn the_least_limit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (path, text) in [
            ("memory.max", "max\n"),
            ("pod/memory.max", "2000\n"),
            ("pod/one/memory.max", "max\n"),
            ("pod/two/memory.max", "1000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/old/memory.limit_in_bytes", "3000\n"),
        ] {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        }
        for (groups, want) in [
            ("", None),
            ("0::/\n", None),
            ("0::/pod\n", Some(2000)),
            ("0::/pod/one\n", Some(2000)),
            ("0::/pod/two\n", Some(1000)),
            // The host's path, which is not there.
            ("0::/pod/gone/deeper\n", Some(2000)),
            ("5:cpu:/old\n3:memory:/old\n0::/\n", Some(3000)),
            ("3:memory:/gone\n", Some(9_223_372_036_854_771_712)),
            ("no line of this file\n", None),
        ] {
            assert_eq!(limit_bytes(root, groups), want, "{groups}");
        }
    }

    #[test]
    fn what_the_machine_has() {
        assert_eq!(total_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
        assert!(allowed_bytes() > 1 << 20);
    }
}
