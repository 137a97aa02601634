//! What the service says, as errors of ours: the thing, the reason and the fix.

use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use engine::{Error, ErrorKind};
use objects::{cause, causes};

/// `error` as one of ours; `asker` is whose credentials were used.
pub(super) fn explain<E>(error: &SdkError<E, HttpResponse>, asker: &str) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(said) => {
            let code = said.err().code().unwrap_or_default();
            answered(said.raw().status().as_u16(), code, said.err().message().unwrap_or_default(), asker)
        }
        SdkError::TimeoutError(_) => Error::unavailable("the queue's service did not answer in time"),
        // Finding credentials is a part of it, and says in its own words why there are none.
        other => cause::<Error>(other)
            .cloned()
            .unwrap_or_else(|| Error::unavailable(format!("the queue's service cannot be reached: {}", causes(other)))),
    }
}

fn answered(status: u16, code: &str, message: &str, asker: &str) -> Error {
    // The older protocol's names have a namespace before them.
    let code = code.rsplit(['.', '#']).next().unwrap_or_default();
    let words = match (code, message) {
        ("", "") => format!("the answer is {status}"),
        (code, message) => format!("{code}: {message} ({status})"),
    };
    let kind = match (code, status) {
        ("ReceiptHandleIsInvalid" | "MessageNotInflight", _) => ErrorKind::Cancelled,
        ("QueueDoesNotExist" | "NonExistentQueue" | "QueueDeletedRecently", _) => {
            return Error::not_found(format!(
                "there is no such queue; check its address, its region and whose account is asked: {words}"
            ));
        }
        ("OverLimit", _) => {
            return Error::new(ErrorKind::Exhausted, format!("too many messages are in flight; wait: {words}"));
        }
        ("RequestThrottled" | "ThrottlingException" | "Throttling" | "KmsThrottled", _) | (_, 429) => {
            ErrorKind::Exhausted
        }
        (_, 401 | 403) | ("AccessDeniedException" | "AccessDenied" | "KmsAccessDenied", _) => {
            return Error::forbidden(format!(
                "{words}; asked with {asker}; let them do this, or give other credentials"
            ));
        }
        (_, 500..) | (_, 408) => ErrorKind::Unavailable,
        _ => ErrorKind::InvalidInput,
    };
    Error::new(kind, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_says_becomes_what_a_caller_can_do() {
        for (status, code, kind, says) in [
            (400, "ReceiptHandleIsInvalid", ErrorKind::Cancelled, "Receipt"),
            (400, "com.amazonaws.sqs#MessageNotInflight", ErrorKind::Cancelled, "NotInflight"),
            (400, "AWS.SimpleQueueService.NonExistentQueue", ErrorKind::NotFound, "no such queue"),
            (400, "OverLimit", ErrorKind::Exhausted, "in flight"),
            (400, "ThrottlingException", ErrorKind::Exhausted, "Throttling"),
            (403, "AccessDenied", ErrorKind::Forbidden, "asked with a key"),
            (400, "AccessDeniedException", ErrorKind::Forbidden, "asked with a key"),
            (503, "", ErrorKind::Unavailable, "503"),
            (400, "InvalidMessageContents", ErrorKind::InvalidInput, "InvalidMessageContents"),
        ] {
            let error = answered(status, code, "why", "a key");
            assert_eq!(error.kind, kind, "{status} {code}: {error}");
            assert!(error.message.contains(says), "{status} {code}: {error}");
        }
    }
}
