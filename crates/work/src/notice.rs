//! Notices that an instance is about to be taken away, which come by its metadata and not as a signal.

use std::thread::JoinHandle;
use std::time::Duration;

use engine::{Error, Result};
use serde::Deserialize;

use crate::Stop;

/// Between two looks. A Spot instance is told two minutes before its end, and asking more often is asking too often.
const POLL: Duration = Duration::from_secs(5);

/// What may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A Spot instance is wanted back.
    Spot,
    /// A Spot instance is at a higher risk of that.
    Rebalance,
    /// Its Auto Scaling group takes the instance out.
    ScaleIn,
}

impl Notice {
    /// Where the metadata tells it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Spot => "meta-data/spot/instance-action",
            Self::Rebalance => "meta-data/events/recommendations/rebalance",
            Self::ScaleIn => "meta-data/autoscaling/target-lifecycle-state",
        }
    }

    /// What `answer` comes to, for people, when it is a notice.
    pub fn read(self, answer: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Action {
            action: String,
            #[serde(default)]
            time: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Recommendation {
            notice_time: String,
        }
        match self {
            Self::Spot => {
                let Action { action, time } = serde_json::from_str(answer).ok()?;
                let known = matches!(&*action, "terminate" | "stop" | "hibernate");
                known.then(|| format!("this Spot instance is wanted back ({action}, {time})"))
            }
            Self::Rebalance => {
                let Recommendation { notice_time } = serde_json::from_str(answer).ok()?;
                Some(format!("this Spot instance is likely to be wanted back (told at {notice_time})"))
            }
            Self::ScaleIn => {
                (answer.trim() == "Terminated").then(|| "the Auto Scaling group takes this instance out".to_owned())
            }
        }
    }
}

/// A thread that looks for notices; it ends with this.
pub struct Watch {
    done: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks for `notices` with `ask`, which says what the metadata has at a path, and calls `given` with the first that
    /// comes. Whatever goes wrong is told and tried again.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when the system gives no thread.
    pub fn start(
        notices: Vec<Notice>,
        ask: impl Fn(&str) -> Result<Option<String>> + Send + 'static,
        given: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        let done = Stop::new();
        let ended = done.clone();
        let thread = std::thread::Builder::new().name("notices".to_owned()).spawn(move || {
            if let Some(notice) = look(&notices, &ask, &ended, POLL) {
                given(notice);
            }
        });
        let thread = thread.map_err(|error| Error::internal(format!("no thread for notices: {error}")))?;
        Ok(Self { done, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.request();
        // A thread that panicked has told so.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The first notice, unless `done` comes first.
fn look(
    notices: &[Notice],
    ask: &dyn Fn(&str) -> Result<Option<String>>,
    done: &Stop,
    pause: Duration,
) -> Option<String> {
    let mut failing = false;
    loop {
        let mut failed = None;
        for notice in notices {
            match ask(notice.path()) {
                Ok(answer) => {
                    if let Some(notice) = answer.and_then(|answer| notice.read(&answer)) {
                        return Some(notice);
                    }
                }
                Err(error) => failed = Some(error),
            }
            if done.requested() {
                return None;
            }
        }
        match &failed {
            Some(error) if !failing => tracing::warn!(%error, "notices cannot be looked for; the work goes on"),
            None if failing => tracing::info!("notices can be looked for again"),
            _ => {}
        }
        failing = failed.is_some();
        if done.wait(pause) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn notices_are_told_from_what_is_none() {
        use Notice::*;
        for (notice, answer, want) in [
            (Spot, r#"{"action": "terminate", "time": "2026-01-02T03:04:05Z"}"#, true),
            (Spot, r#"{"action": "stop", "time": "2026-01-02T03:04:05Z", "more": 1}"#, true),
            (Spot, r#"{"action": "hibernate"}"#, true),
            (Spot, r#"{"action": "none"}"#, false),
            (Spot, "<html>sign in</html>", false),
            (Spot, "", false),
            (Rebalance, r#"{"noticeTime": "2026-01-02T03:04:05Z"}"#, true),
            (Rebalance, "{}", false),
            (ScaleIn, "Terminated\n", true),
            (ScaleIn, "InService", false),
            (ScaleIn, "Warmed:Stopped", false),
        ] {
            assert_eq!(notice.read(answer).is_some(), want, "{notice:?} {answer}");
        }
    }

    #[test]
    fn what_fails_is_looked_for_again_until_there_is_one() {
        let answers = Mutex::new(vec![
            Ok(Some(r#"{"action": "terminate", "time": "now"}"#.to_owned())),
            Ok(None),
            Err(Error::unavailable("gone")),
            Err(Error::unavailable("gone")),
            Ok(None),
        ]);
        let ask = |path: &str| {
            assert_eq!(path, "meta-data/spot/instance-action");
            answers.lock().unwrap().pop().unwrap()
        };
        let found = look(&[Notice::Spot], &ask, &Stop::new(), Duration::ZERO);
        assert!(found.unwrap().contains("terminate"));
        assert!(answers.lock().unwrap().is_empty());
        let stopped = Stop::new();
        stopped.request();
        assert_eq!(look(&[Notice::Spot], &|_| Ok(None), &stopped, POLL), None);
    }
}
