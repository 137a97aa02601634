//! Dead letters: looking at them, and putting them back.

use std::collections::HashSet;

use aws_sdk_sqs::types::MessageAttributeValue;
use engine::Result;

use super::history::{REASON, unmarked};
use super::service::{Letter, Outgoing};
use super::{LEISURE, SqsQueue};
use crate::Task;
use crate::body::{self, Content};
use crate::queue::DeadLetter;

/// The most that the service hands out at once.
const BATCH: i32 = 10;
/// How long those that were looked at stay hidden, so that each is seen once.
const LOOK_S: i32 = 60;
/// Long enough that the service asks all of its machines.
const WAIT_S: i32 = 1;

impl SqsQueue {
    pub(super) fn list_dead(&self, count_max: usize) -> Result<Vec<DeadLetter>> {
        let mut found = Vec::new();
        self.walk_dead(&mut |letter| {
            found.push(self.told(letter));
            Ok(if found.len() < count_max { Walk::Keep } else { Walk::End })
        })?;
        found.truncate(count_max);
        Ok(found)
    }

    /// Puts every dead letter that is wanted back: first sent to the queue, without its history, then deleted.
    pub(super) fn redrive_dead(&self, wanted: &dyn Fn(&str) -> bool) -> Result<u64> {
        let mut count = 0;
        self.walk_dead(&mut |letter| {
            if !wanted(&self.told(letter).id) {
                return Ok(Walk::Keep);
            }
            let (body, group, attributes) = (letter.body.clone(), letter.group.clone(), unmarked(&letter.attributes));
            self.service.send(&self.url, Outgoing { body, delay_s: 0, group, attributes }, LEISURE)?;
            count += 1;
            Ok(Walk::Remove)
        })?;
        Ok(count)
    }

    /// Shows `see` every dead letter once, and lets go of those that are kept.
    fn walk_dead(&self, see: &mut dyn FnMut(&Letter) -> Result<Walk>) -> Result<()> {
        let dead_url = &self.policy()?.dead_url;
        let (mut seen, mut kept) = (HashSet::new(), Vec::new());
        let walked = 'walk: loop {
            let letters = match self.service.receive(dead_url, (BATCH, LOOK_S, WAIT_S), &|| true) {
                Ok(letters) => letters,
                Err(error) => break Err(error),
            };
            // Nothing new: the rest is what was seen already, back because this took so long.
            if !letters.iter().any(|letter| !seen.contains(&letter.id)) {
                kept.extend(letters.into_iter().map(|letter| letter.handle));
                break Ok(());
            }
            let mut at_end = false;
            for letter in letters {
                let walk = if at_end || !seen.insert(letter.id.clone()) { Ok(Walk::Keep) } else { see(&letter) };
                match walk.and_then(|walk| {
                    if let Walk::Remove = walk {
                        self.service.delete(dead_url, &letter.handle, LEISURE)?;
                    }
                    Ok(walk)
                }) {
                    Ok(Walk::Remove) => {}
                    Ok(Walk::Keep) => kept.push(letter.handle),
                    Ok(Walk::End) => {
                        kept.push(letter.handle);
                        at_end = true;
                    }
                    Err(error) => break 'walk Err(error),
                }
            }
            if at_end {
                break Ok(());
            }
        };
        for handle in kept {
            // Those that cannot be let go of come back by themselves.
            if let Err(error) = self.service.hide(dead_url, &handle, 0, LEISURE) {
                tracing::debug!(%error, "a dead letter stays hidden for a while");
            }
        }
        walked
    }

    fn told(&self, letter: &Letter) -> DeadLetter {
        let task = match body::read(&letter.body, &letter.id, &self.options.template) {
            Ok(Content::Tasks(tasks)) if tasks.len() == 1 => tasks.into_iter().next(),
            _ => None,
        };
        let said = letter.attributes.get(REASON).and_then(MessageAttributeValue::string_value);
        let reason = said.unwrap_or("no reason is with it: the queue's own policy took it, or somebody else sent it");
        let (id, input) = match task {
            Some(task) => (task.id.clone(), Some(task.shown_input().into_owned())),
            None => (letter.id.clone(), Task::shown_input_of(&letter.body)),
        };
        DeadLetter { id, input, reason: reason.to_owned() }
    }
}

/// What becomes of a dead letter that was looked at.
enum Walk {
    Keep,
    Remove,
    /// Kept, and no more are looked at.
    End,
}
