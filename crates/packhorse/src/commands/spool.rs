//! Where videos that are elsewhere are kept while they are read, as it is typed.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use work::{LazySpool, Spool};

use crate::exit::Exit;
use crate::node;
use crate::places::Outside;

#[derive(clap::Args)]
pub(super) struct SpoolArgs {
    /// Where what is fetched of videos in buckets and on web servers is kept while they are read [default: packhorse-spool
    /// in the user's cache]
    #[arg(long, env = "PACKHORSE_SPOOL", value_name = "FOLDER")]
    spool: Option<PathBuf>,
    /// Bytes that they may take there at once
    #[arg(long, env = "PACKHORSE_SPOOL_MAX", default_value_t = 20_000_000_000, value_name = "BYTES")]
    spool_max: u64,
    /// Videos of so many bytes are fetched whole before they are decoded, which is one request; larger ones are read while
    /// they are decoded
    #[arg(long, env = "PACKHORSE_SPOOL_WHOLE", default_value_t = work::spool::WHOLE_BYTES_MAX, value_name = "BYTES")]
    spool_whole: u64,
}

impl SpoolArgs {
    /// Somewhere to fetch videos to. Without a place for it only files are read, which is all that many are for.
    pub(super) fn open(&self, outside: &Arc<Outside>) -> Result<Option<LazySpool>, Exit> {
        let folder = self.spool.clone().or_else(|| node::user_cache("packhorse-spool"));
        let Some(folder) = folder else {
            tracing::warn!("there is no XDG_CACHE_HOME and no HOME: give --spool to read videos of buckets");
            return Ok(None);
        };
        let (outside, bytes_max, whole_bytes_max) = (Arc::clone(outside), self.spool_max, self.spool_whole);
        let lazy: LazySpool = LazyLock::new(Box::new(move || {
            let network = outside.network().map_err(|exit| engine::Error::invalid(exit.reason()))?;
            let mut spool = Spool::open(network, &folder, bytes_max)?;
            spool.whole_bytes_max = whole_bytes_max;
            Ok(spool)
        }));
        if self.spool.is_some() {
            // What was typed is told at once when it is wrong.
            lazy.as_ref().map_err(Exit::configuration)?;
        }
        Ok(Some(lazy))
    }
}
