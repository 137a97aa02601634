//! Following the repository: what came, changed and went since the last look.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use engine::{ErrorKind, Result};
use store::repository::{Listed, Source, Version};

use super::Residency;
use super::change::{known, log_refusal};
use crate::catalog::{Catalog, Entry, Known, State};
use crate::metrics::Metrics;

/// Models that are ready within so long of one another take over together: the catalogue is replaced as a whole, which
/// takes as long as it has models.
const TOGETHER: Duration = Duration::from_secs(1);

impl Residency {
    /// Looks at the repository again: new and changed versions are packed where they must be, made warm and then take over;
    /// versions that went are dropped when their requests are done. A model of which no version that is wanted can be
    /// served keeps what it had, as long as that is there. What may take long comes last, so that it keeps nothing else
    /// waiting, and whatever is ready after a second takes over then. Returns how many entries changed.
    ///
    /// # Errors
    /// When the repository cannot be read; then everything stays as it is.
    pub fn poll(&self) -> Result<usize> {
        let (later, mut changed) = self.poll_briefly()?;
        let mut later = later.into_iter().peekable();
        while later.peek().is_some() {
            let (_changing, begun) = (self.changing(), Instant::now());
            let mut after = (*self.catalog()).clone();
            for (name, listed) in later.by_ref() {
                let old = after.remove(&name).unwrap_or_default();
                let (known, different) = self.looked_at(&name, &listed, &old);
                after.insert(name, known);
                changed += different;
                if begun.elapsed() >= TOGETHER {
                    break;
                }
            }
            changed += self.take_over(after);
        }
        Ok(changed)
    }

    /// What of a look is done soon, and what is left: models with versions that are packed or fetched first. Those stay as
    /// they were.
    fn poll_briefly(&self) -> Result<(Vec<(String, Listed)>, usize)> {
        let _changing = self.changing();
        let before = self.catalog();
        let none = Known::default();
        let (mut after, mut later, mut changed) = (Catalog::new(), Vec::new(), 0);
        for (name, listed) in self.repository.list()? {
            let old = before.get(&name);
            if self.takes_long(&listed, old.unwrap_or(&none)) {
                after.extend(old.map(|old| (name.clone(), old.clone())));
                later.push((name, listed));
            } else {
                let (known, different) = self.looked_at(&name, &listed, old.unwrap_or(&none));
                changed += different;
                after.insert(name, known);
            }
        }
        // Labels and reasons change without a version; a look that found nothing new costs nothing to publish either.
        changed += self.take_over(after);
        Ok((later, changed))
    }

    /// Whether something that `listed` has, and that is not served yet as far as `old` tells, is packed or fetched.
    fn takes_long(&self, listed: &Listed, old: &Known) -> bool {
        let is_new = |version: &u64| {
            let (found, known) = (&listed.versions[version], old.versions.get(version));
            let elsewhere = self.fetches() || matches!(found.source, Source::File { .. });
            elsewhere && known.is_none_or(|known| known.stamp != found.stamp || worth_another_try(known, found))
        };
        listed.refusal.is_none() && listed.wanted().iter().any(is_new)
    }

    /// Publishes `after`. How many versions are not known any more.
    fn take_over(&self, after: Catalog) -> usize {
        let before = self.catalog();
        let ids = |catalog: &Catalog| -> BTreeSet<u64> {
            catalog.values().flat_map(Known::served).map(|(_, model)| model.id()).collect()
        };
        let gone = ids(&before).difference(&ids(&after)).count();
        (0..gone).for_each(|_| self.count(Metrics::model_unloaded));
        let forgotten = |(name, known): (&String, &Known)| {
            let left = after.get(name);
            known
                .versions
                .keys()
                .filter(|version| !left.is_some_and(|left| left.versions.contains_key(version)))
                .count()
        };
        let forgotten = before.iter().map(forgotten).sum();
        self.publish(after);
        forgotten
    }

    /// The model called `name` as `listed` has it, given what it was; and how many of its versions are new.
    fn looked_at(&self, name: &str, listed: &Listed, old: &Known) -> (Known, usize) {
        let mut new = known(name, listed);
        log_refusal(name, &new, old.refusal.as_ref());
        let mut changed = 0;
        for version in listed.wanted().into_iter().filter(|_| listed.refusal.is_none()) {
            let found = &listed.versions[&version];
            let known = old.versions.get(&version).filter(|old| old.stamp == found.stamp);
            let entry = match known {
                Some(known) if !worth_another_try(known, found) => known.clone(),
                _ => {
                    let state = self.packed(name, version, found, &listed.settings);
                    // What nobody asked for of late is fetched when somebody does.
                    let idle = self.fetches() && !state.is_pinned() && !old.served().any(|(_, old)| old.is_bound());
                    let state = if idle { state } else { self.warm(state) };
                    changed += usize::from(known.is_none() || matches!(state, State::Served(_)));
                    Entry { stamp: found.stamp.clone(), state }
                }
            };
            new.versions.insert(version, entry);
        }
        let settling = new.versions.values().any(|entry| matches!(entry.state, State::Packing));
        if new.served().next().is_none() && !settling {
            let kept = old
                .versions
                .iter()
                .filter(|(version, entry)| entry.served().is_some() && listed.versions.contains_key(version));
            for (&version, entry) in kept {
                tracing::warn!(model = %name, version, "goes on as it was, as what came instead cannot be served");
                let stamp = listed.versions[&version].stamp.clone();
                new.versions.insert(version, Entry { stamp, state: entry.state.clone() });
            }
        }
        (new, changed)
    }
}

/// Whether a version that is not served may be by now, though nothing about it changed: a pack may have been repaired, a
/// disk have room again.
fn worth_another_try(known: &Entry, found: &Version) -> bool {
    match &known.state {
        State::Served(_) | State::Packing => false,
        State::Unserved(error) => {
            let passing = [ErrorKind::Exhausted, ErrorKind::Internal].contains(&error.kind);
            passing || matches!(found.source, Source::Pack)
        }
    }
}
