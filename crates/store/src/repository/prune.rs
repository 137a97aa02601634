//! Which packs of a cache go. A pack's file in the index is marked by every server whose repository names what it was made of,
//! as it starts and as long as it runs; what nobody marks any more is of a model that was replaced or went.
//!
//! First a pack's entry goes, then what no entry needs: whoever is killed in between leaves files that the next one collects.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use engine::Result;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use crate::atomic::io_error;
use crate::folder::read_dir;
use crate::lock::Hold;
use crate::remote::CacheBytes;
use crate::upkeep::gc;
use crate::{Manifest, Store};

/// How often whoever serves marks what it has.
pub(super) const MARK_EVERY: Duration = Duration::from_secs(3600);
/// What nobody has marked for so long goes; a server that is down for less packs nothing again.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// What was marked since is of a server that runs, and stays whatever the cache takes. Also how long files stay that nothing
/// needs, as what a pack under way is made of.
const IN_USE: Duration = Duration::from_secs(3 * 3600);

/// What was removed of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Packs.
    pub packs: usize,
    /// Bytes of files that no other pack needs.
    pub bytes: u64,
}

/// One pack.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    marked: SystemTime,
    /// Relative to the store; none of one that cannot be read.
    files: Vec<PathBuf>,
}

/// Marks the file at `path`, a pack's entry or what one is made of, unless it was marked just now.
pub(super) fn mark(path: &Path) {
    let marked = path.metadata().and_then(|metadata| metadata.modified());
    let fresh = marked.is_ok_and(|marked| marked.elapsed().is_ok_and(|age| age < MARK_EVERY / 2));
    if !fresh {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // Another user's may not let itself be marked; then it is packed again one day.
        let _ = utimensat(CWD, path, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
    }
}

pub(super) fn prune(store: &Store, index: &Path, bytes_max: CacheBytes) -> Result<Pruned> {
    let now = gc::now(store)?;
    let mut kept = entries(index)?;
    let sizes = sizes(store, &kept)?;
    let bytes_max = bytes_max.of(store.root(), sizes.values().sum())?;
    let doomed = doomed(&kept, &sizes, now, bytes_max);
    let mut pruned = Pruned::default();
    let mut gone = HashSet::new();
    for which in doomed {
        let _held = store.lock(Hold::Alone)?;
        // Somebody may have marked it since it was looked at.
        let entry = &kept[which];
        let same = entry.path.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|at| at == entry.marked);
        if same {
            std::fs::remove_file(&entry.path).map_err(|source| io_error(&entry.path, "cannot be removed", &source))?;
            gone.insert(which);
            pruned.packs += 1;
        }
    }
    let mut place = 0..;
    kept.retain(|_| place.next().is_none_or(|which| !gone.contains(&which)));
    let needed = kept.into_iter().flat_map(|entry| entry.files).collect();
    pruned.bytes = gc::unneeded(store, &needed, (now, IN_USE), false)?.files.iter().map(|file| file.bytes).sum();
    Ok(pruned)
}

/// Every pack in the index.
fn entries(index: &Path) -> Result<Vec<Kept>> {
    let mut entries = Vec::new();
    for name in read_dir(index)?.iter().filter(|name| name.ends_with(".json")) {
        let path = index.join(name);
        let Ok(marked) = path.metadata().and_then(|metadata| metadata.modified()) else { continue };
        // One that cannot be read is packed again before it is used, and needs nothing.
        let manifest = std::fs::read(&path).ok().and_then(|text| Manifest::parse(&text).ok());
        let files = manifest.and_then(|manifest| manifest.content().ok()).unwrap_or_default();
        entries.push(Kept { path, marked, files });
    }
    Ok(entries)
}

/// What each file takes that a pack needs.
fn sizes(store: &Store, kept: &[Kept]) -> Result<HashMap<PathBuf, u64>> {
    let mut sizes = HashMap::new();
    for file in kept.iter().flat_map(|entry| &entry.files) {
        if !sizes.contains_key(file) {
            let path = store.root().join(file);
            let bytes = match path.metadata() {
                Ok(metadata) => metadata.len(),
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => 0,
                Err(source) => return Err(io_error(&path, "cannot be looked at", &source)),
            };
            sizes.insert(file.clone(), bytes);
        }
    }
    Ok(sizes)
}

/// Which of `kept` go at `now`, when all may take `bytes_max`. Pure.
fn doomed(kept: &[Kept], sizes: &HashMap<PathBuf, u64>, now: SystemTime, bytes_max: u64) -> Vec<usize> {
    // A clock that was set back makes nothing old.
    let age = |which: usize| now.duration_since(kept[which].marked).unwrap_or_default();
    let mut users: HashMap<&PathBuf, usize> = HashMap::new();
    for file in kept.iter().flat_map(|entry| &entry.files) {
        *users.entry(file).or_default() += 1;
    }
    let mut bytes: u64 = users.keys().filter_map(|file| sizes.get(*file)).sum();
    let mut oldest: Vec<usize> = (0..kept.len()).filter(|&which| age(which) >= IN_USE).collect();
    oldest.sort_by_key(|&which| std::cmp::Reverse(age(which)));
    let mut doomed = Vec::new();
    for which in oldest {
        if age(which) < KEPT && bytes <= bytes_max {
            break;
        }
        doomed.push(which);
        for file in &kept[which].files {
            if let Some(left) = users.get_mut(file) {
                *left -= 1;
                bytes -= if *left == 0 { sizes.get(file).copied().unwrap_or(0) } else { 0 };
            }
        }
    }
    doomed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::tests::{Place, model};

    const HOUR: Duration = Duration::from_secs(3600);

    #[track_caller]
    fn check(entries: &[(u32, &[&str])], bytes_max: u64, want: &[usize]) {
        let now = SystemTime::UNIX_EPOCH + KEPT * 10;
        let kept: Vec<Kept> = entries
            .iter()
            .map(|(hours, files)| Kept {
                path: PathBuf::new(),
                marked: now - HOUR * *hours,
                files: files.iter().map(PathBuf::from).collect(),
            })
            .collect();
        let sizes = kept.iter().flat_map(|entry| &entry.files).map(|file| (file.clone(), 10)).collect();
        assert_eq!(doomed(&kept, &sizes, now, bytes_max), want);
    }

    #[test]
    fn what_is_forgotten_goes_and_sooner_when_there_is_no_room() {
        let week = 7 * 24;
        check(&[(0, &["a"]), (week - 1, &["b"]), (week, &["c"])], 1000, &[2]);
        check(&[(1, &["a"]), (5, &["b"]), (9, &["c"])], 30, &[]);
        check(&[(1, &["a"]), (5, &["b"]), (9, &["c"])], 20, &[2]);
        check(&[(1, &["a"]), (5, &["b"]), (9, &["c"])], 0, &[2, 1]);
        // What others share frees nothing.
        check(&[(1, &["trunk", "a"]), (5, &["trunk", "b"]), (9, &["trunk"])], 20, &[2, 1]);
        check(&[(week, &["a"]), (week * 2, &["a"])], 1000, &[1, 0]);
        check(&[(week, &[])], 1000, &[0]);
    }

    fn age(path: &Path, age: Duration) {
        let time = SystemTime::now() - age;
        std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_pack_goes_with_what_it_alone_needs() {
        let fixture = Place::new();
        let index = fixture.store.root().join("index");
        std::fs::create_dir_all(&index).unwrap();
        for (name, head) in [("old", 1), ("new", 2)] {
            let (manifest, _) = fixture.pack(name, &model(head));
            std::fs::write(index.join(format!("{name}.json")), serde_json::to_vec(&manifest).unwrap()).unwrap();
            std::fs::remove_file(fixture.store.manifest_path(name, 1)).unwrap();
        }
        std::fs::write(index.join("torn.json"), "{").unwrap();
        let before = fixture.files();
        before.iter().for_each(|file| age(&fixture.store.root().join(file), IN_USE * 2));
        let prune = || prune(&fixture.store, &index, CacheBytes::AtMost(u64::MAX)).unwrap();
        age(&index.join("old.json"), KEPT + HOUR);
        age(&index.join("torn.json"), KEPT + HOUR);
        mark(&index.join("new.json"));
        let pruned = prune();
        assert_eq!(pruned.packs, 2);
        assert!(pruned.bytes > 0);
        let manifest = Manifest::parse(&std::fs::read(index.join("new.json")).unwrap()).unwrap();
        assert!(fixture.store.holds(&manifest), "it took what another pack needs");
        assert_eq!(prune(), Pruned::default());
        mark(&index.join("new.json"));
        assert!(index.join("new.json").metadata().unwrap().modified().unwrap().elapsed().unwrap() < HOUR);
    }
}
