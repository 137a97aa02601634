//! Work that is long for a thread that drives many connections: it is done on another one meanwhile.

use engine::{Error, Result};

/// Reading or writing less than this as text takes no longer than handing it to another thread and back.
const HERE_BYTES_MAX: usize = 64 << 10;

/// What `work`, which reads or writes so many `bytes`, comes to.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when it panics, or when the server ends first.
pub(crate) async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if bytes <= HERE_BYTES_MAX {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::internal("the request could not be read to its end, or its answer written"))
}
