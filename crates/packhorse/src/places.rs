//! Where tasks come from and where results go, as people type it: here, or at a service.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use objects::Network;
use work::queue::{Options, SqsOptions, SqsQueue};
use work::{BucketStore, FolderStore, ObjectStore, SqliteQueue, TaskQueue};

use crate::exit::Exit;
use crate::node;

/// What talking to services takes, started at the first need.
#[derive(Default)]
pub(crate) struct Outside {
    network: OnceLock<Arc<Network>>,
    /// Set once; guards no other data.
    in_a_hurry: AtomicBool,
}

impl Outside {
    pub(crate) fn network(&self) -> Result<&Arc<Network>, Exit> {
        if self.network.get().is_none() {
            let fresh = node::network(false)?;
            let network = self.network.get_or_init(|| fresh);
            // Either this sees that there is a hurry, or whoever is in one sees the network.
            if self.in_a_hurry.load(Ordering::SeqCst) {
                network.hurry();
            }
        }
        self.network.get().ok_or_else(|| Exit::Failed("the network is gone".to_owned()))
    }

    /// From now on nobody waits long for a place that does not answer.
    pub(crate) fn hurry(&self) {
        self.in_a_hurry.store(true, Ordering::SeqCst);
        if let Some(network) = self.network.get() {
            network.hurry();
        }
    }

    /// The queue at `text`: a file, or SQS.
    pub(crate) fn queue(&self, text: &str, options: SqsOptions) -> Result<Arc<dyn TaskQueue>, Exit> {
        Ok(match file(text) {
            Some(path) => {
                Arc::new(SqliteQueue::open(&path, Options::default()).map_err(|error| Exit::configuration(&error))?)
            }
            None => {
                Arc::new(SqsQueue::open(self.network()?, text, options).map_err(|error| Exit::configuration(&error))?)
            }
        })
    }

    /// The place for results at `text`: a folder, or a bucket.
    pub(crate) fn output(&self, text: &str) -> Result<Arc<dyn ObjectStore>, Exit> {
        Ok(match file(text) {
            Some(path) => Arc::new(FolderStore::open(&path).map_err(|error| Exit::configuration(&error))?),
            None if text.starts_with("http") => {
                let fix = "give a folder, or s3://, gs:// or az://";
                return Err(Exit::Configuration(format!("{text}: nothing can be written to a web server; {fix}")));
            }
            None => {
                Arc::new(BucketStore::new(self.network()?.place(text).map_err(|error| Exit::configuration(&error))?))
            }
        })
    }
}

/// The path that `text` is, unless it is a URL of somewhere else.
pub(crate) fn file(text: &str) -> Option<PathBuf> {
    match text.split_once("://") {
        None => Some(Path::new(text).to_owned()),
        Some(("file", path)) => Some(Path::new(path).to_owned()),
        Some(_) => None,
    }
}
