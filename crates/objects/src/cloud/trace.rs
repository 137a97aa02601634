//! What goes along with a call through layers that have no place for it: the condition under which an upload is finished,
//! and, on the way back, what the service said, and which generation of an object a copy made.
//!
//! Both travel with the task: a call and its retries are one task, whatever library is in between.

use std::cell::RefCell;
use std::time::Duration;

/// What a service said last, when that was no success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: u16,
    /// Its own word for what is wrong, `NoSuchKey` for one.
    pub(crate) code: String,
    /// Its sentence.
    pub(crate) message: String,
    /// The region in which the bucket is, when that is what was wrong.
    pub(crate) region: Option<String>,
    /// When it wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
}

/// The condition under which an object appears that was uploaded in parts, in the words of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    IfNoneMatch,
    IfMatch { etag: String, generation: Option<String> },
}

#[derive(Default)]
struct Trace {
    condition: Option<Condition>,
    said: Option<Said>,
    generation: Option<String>,
}

tokio::task_local! {
    static TRACE: RefCell<Trace>;
}

/// Runs `task` as a call of its own.
pub(crate) async fn scope<T>(task: impl Future<Output = T>) -> T {
    TRACE.scope(RefCell::default(), task).await
}

/// From here on in this call, what was uploaded in parts appears under `condition`.
pub(crate) fn set_condition(condition: Option<Condition>) {
    let _ = TRACE.try_with(|trace| trace.borrow_mut().condition = condition);
}

/// The condition of this call.
pub(crate) fn condition() -> Option<Condition> {
    TRACE.try_with(|trace| trace.borrow().condition.clone()).ok().flatten()
}

/// Takes down what the service said, or that it did not complain.
pub(crate) fn note(said: Option<Said>) {
    let _ = TRACE.try_with(|trace| trace.borrow_mut().said = said);
}

/// What the service said last in this call.
pub(crate) fn said() -> Option<Said> {
    TRACE.try_with(|trace| trace.borrow().said.clone()).ok().flatten()
}

/// Takes down which generation was made.
pub(crate) fn note_generation(generation: &str) {
    let _ = TRACE.try_with(|trace| trace.borrow_mut().generation = Some(generation.to_owned()));
}

/// The generation that was made last in this call.
pub(crate) fn generation() -> Option<String> {
    TRACE.try_with(|trace| trace.borrow().generation.clone()).ok().flatten()
}
