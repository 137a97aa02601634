//! What services and connections say, as errors of ours: the thing, the reason and the fix.

use std::error::Error as StdError;

use engine::{Error, ErrorKind};
use object_store::client::{HttpError, HttpErrorKind};

use crate::cloud::trace::Said;

/// `error` and what caused it, each said once.
pub fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The first cause of `error` that is a `T`.
pub fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        at = error.source();
    }
    None
}

/// `error` of a store as one of ours. `said` is what the service said last, `asker` whose credentials were used.
pub(crate) fn convert(error: &object_store::Error, said: Option<Said>, asker: &str) -> Error {
    use object_store::Error as Of;
    if let Some(own) = cause::<Error>(error) {
        return own.clone();
    }
    if let Some(said) = said {
        return answered(&said, asker);
    }
    if let Some(failed) = cause::<HttpError>(error) {
        return unreachable(failed);
    }
    let kind = match error {
        Of::NotFound { .. } => ErrorKind::NotFound,
        Of::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        Of::Precondition { .. } | Of::NotModified { .. } => ErrorKind::FailedPrecondition,
        Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => ErrorKind::Forbidden,
        Of::NotSupported { .. } | Of::NotImplemented { .. } => ErrorKind::Unsupported,
        Of::InvalidPath { .. } | Of::UnknownConfigurationKey { .. } => ErrorKind::InvalidInput,
        // Answers that cannot be read, mostly: another try may get a better one.
        _ => ErrorKind::Unavailable,
    };
    // Which part of the library it came from is nobody's matter.
    let told = if let Of::Generic { source, .. } = error { causes(&**source) } else { causes(error) };
    Error::new(kind, told)
}

/// A service that answered, and not with what was asked for.
pub(crate) fn answered(said: &Said, asker: &str) -> Error {
    let Said { status, code, message, region, .. } = said;
    let words = match (&**code, &**message) {
        ("", "") => format!("the answer is {status}"),
        (code, "") => format!("{code} ({status})"),
        ("", message) => format!("{message} ({status})"),
        (code, message) => format!("{code}: {message} ({status})"),
    };
    if let Some(region) = region.as_ref().filter(|_| matches!(status, 301 | 307 | 400)) {
        return Error::invalid(format!("the bucket is in {region}; set AWS_REGION={region} and try again: {words}"));
    }
    let refused = |fix: &str| Error::forbidden(format!("{words}; asked with {asker}; {fix}"));
    let throttled = || Error {
        retry_after: said.retry_after,
        ..Error::new(ErrorKind::Exhausted, format!("{words}; ask less often"))
    };
    match (&**code, status) {
        ("NoSuchBucket" | "ContainerNotFound", _) => {
            Error::not_found(format!("there is no such bucket; check its name, and the endpoint and account: {words}"))
        }
        ("InvalidAccessKeyId", _) => refused("the service does not know this key; give other credentials"),
        ("SignatureDoesNotMatch" | "AuthenticationFailed", _) => {
            refused("the secret is not the key's; give it again, without a line's end")
        }
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "ExpiredTokenException", _) => {
            refused("get new credentials; these are over")
        }
        ("RequestTimeTooSkewed", _) => refused("set this machine's clock"),
        ("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "Md5Mismatch", _) => {
            Error::corrupt(format!("the bytes were changed on their way: {words}"))
        }
        ("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "ServerBusy", _) | (_, 429) => {
            throttled()
        }
        ("BlobAlreadyExists", _) => Error::new(ErrorKind::AlreadyExists, "it is there already"),
        (_, 401 | 403) => refused("let them do this, or give other credentials"),
        (_, 404 | 410) => Error::not_found("it is not there"),
        (_, 409) => Error::unavailable(format!("something else was written at the same time; try again: {words}")),
        (_, 412 | 304) => Error::new(ErrorKind::FailedPrecondition, "it is not what it was: it was replaced meanwhile"),
        (_, 416) => Error::invalid(format!("it has no such bytes: {words}")),
        (_, 501 | 405) => Error::unsupported(words),
        (_, 408 | 500..) => Error { retry_after: said.retry_after, ..Error::unavailable(words) },
        _ => Error::invalid(words),
    }
}

/// A service that did not answer.
pub(crate) fn unreachable(error: &HttpError) -> Error {
    let why = match error.kind() {
        HttpErrorKind::Connect => "it cannot be reached",
        HttpErrorKind::Timeout => "it did not answer in time",
        HttpErrorKind::Interrupted | HttpErrorKind::Request => "the connection was cut",
        _ => "asking it failed",
    };
    Error::unavailable(format!("{why}: {}", causes(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_services_say_becomes_what_a_caller_can_do() {
        let said = |status: u16, code: &str| Said { status, code: code.to_owned(), ..Said::default() };
        for (status, code, kind, says) in [
            (404, "NoSuchKey", ErrorKind::NotFound, "not there"),
            (404, "", ErrorKind::NotFound, "not there"),
            (404, "NoSuchBucket", ErrorKind::NotFound, "no such bucket"),
            (403, "AccessDenied", ErrorKind::Forbidden, "asked with a key; let them"),
            (403, "InvalidAccessKeyId", ErrorKind::Forbidden, "does not know this key"),
            (403, "SignatureDoesNotMatch", ErrorKind::Forbidden, "secret"),
            (400, "ExpiredToken", ErrorKind::Forbidden, "new credentials"),
            (401, "", ErrorKind::Forbidden, "other credentials"),
            (403, "RequestTimeTooSkewed", ErrorKind::Forbidden, "clock"),
            (503, "SlowDown", ErrorKind::Exhausted, "less often"),
            (429, "", ErrorKind::Exhausted, "less often"),
            (503, "ServiceUnavailable", ErrorKind::Unavailable, "503"),
            (500, "InternalError", ErrorKind::Unavailable, "InternalError"),
            (408, "RequestTimeout", ErrorKind::Unavailable, "RequestTimeout"),
            (409, "ConditionalRequestConflict", ErrorKind::Unavailable, "try again"),
            (409, "BlobAlreadyExists", ErrorKind::AlreadyExists, "there already"),
            (412, "PreconditionFailed", ErrorKind::FailedPrecondition, "replaced"),
            (416, "InvalidRange", ErrorKind::InvalidInput, "no such bytes"),
            (400, "BadDigest", ErrorKind::Corrupt, "changed on their way"),
            (400, "EntityTooSmall", ErrorKind::InvalidInput, "EntityTooSmall"),
            (501, "NotImplemented", ErrorKind::Unsupported, "NotImplemented"),
        ] {
            let error = answered(&said(status, code), "a key");
            assert_eq!(error.kind, kind, "{status} {code}: {error}");
            assert!(error.message.contains(says), "{status} {code}: {error}");
        }
        let elsewhere = Said { region: Some("eu-west-1".to_owned()), ..said(301, "PermanentRedirect") };
        assert!(answered(&elsewhere, "a key").message.contains("AWS_REGION=eu-west-1"));
    }
}
