//! What is said over the wire: each protocol a file, all of them the same three words.

mod connector;
mod json;
mod oip;
mod rest;
mod status;
mod tensors;
mod tfs;

use std::time::Duration;

use engine::{Signature, Tensor};

use self::connector::Door;
use crate::address::{Address, Wire};
use crate::failure::Failure;
use crate::fit::{Names, Offer};
use crate::security::Secured;

/// The largest message that is taken of an endpoint.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What is asked for: a model as it is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) model: String,
    /// The endpoint's choice when not given.
    pub(crate) version: Option<u64>,
}

/// One question.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) target: &'a Target,
    /// Of the model as it is here.
    pub(crate) signature: &'a Signature,
    /// Of its tensors there.
    pub(crate) names: &'a Names,
    /// In the signature's order; their bytes are shared, not copied.
    pub(crate) inputs: &'a [Tensor],
    /// The endpoint is told as well.
    pub(crate) within: Duration,
}

/// One answer, not yet compared with what was wanted.
#[derive(Debug)]
pub(crate) struct Reply {
    /// By their names there.
    pub(crate) outputs: Vec<(String, Tensor)>,
    /// Which version answered; empty where the protocol does not say.
    pub(crate) version: String,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// An endpoint, connected to when it is needed. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Peer {
    speaks: Speaks,
    door: Door,
}

#[derive(Clone)]
enum Speaks {
    Oip(oip::Oip),
    TfsGrpc(tfs::Tfs),
    TfsHttp(Box<rest::Rest>),
}

impl Peer {
    /// An endpoint at `address`, on the runtime that the caller is in. Nothing is sent yet; connecting may take `within`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for an address that cannot be one.
    pub(crate) fn new(address: &Address, secured: &Secured, within: Duration) -> engine::Result<Self> {
        let door = Door::default();
        let line = || status::line(address, secured, &door, within);
        let speaks = match address.wire {
            Wire::Oip => Speaks::Oip(oip::Oip::new(line()?)),
            Wire::TfsGrpc => Speaks::TfsGrpc(tfs::Tfs::new(line()?)),
            Wire::TfsHttp => Speaks::TfsHttp(Box::new(rest::Rest::new(address, secured, &door, within))),
        };
        Ok(Self { speaks, door })
    }

    /// What it says of the model.
    pub(crate) async fn offer(&self, target: &Target) -> Result<Offer, Failure> {
        self.door.looked_at(match &self.speaks {
            Speaks::Oip(peer) => peer.offer(target).await,
            Speaks::TfsGrpc(peer) => peer.offer(target).await,
            Speaks::TfsHttp(peer) => peer.offer(target).await,
        })
    }

    /// What it answers.
    pub(crate) async fn infer(&self, asked: Asked<'_>) -> Result<Reply, Failure> {
        match &self.speaks {
            Speaks::Oip(peer) => peer.infer(asked).await,
            Speaks::TfsGrpc(peer) => peer.infer(asked).await,
            Speaks::TfsHttp(peer) => peer.infer(asked).await,
        }
    }
}
