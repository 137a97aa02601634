//! The one way out that a child may be given: a loopback of its own, and on it a listener whose other end is ours.
//!
//! A socket belongs to the network in which it was made, and may be handed on. So the child makes a listener in a network
//! that has nothing else in it, hands it out and becomes its program, which can connect to that listener and to nothing
//! else; whoever has the listener here answers what it asks.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, bind, listen, recvmsg, sendmsg, socket_with, socketpair,
};

use crate::{Error, Result};

/// Where a child's own listener is, in the child's network.
pub const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// The end at which the listener of a child arrives.
#[derive(Debug)]
pub struct Loopback {
    ours: OwnedFd,
}

/// Both ends of what the listener is handed over by; the second is the child's, and closed when it becomes its program.
pub(super) fn pair() -> Result<(Loopback, OwnedFd)> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|error| Error::unavailable(format!("no pair of sockets: {error}")))?;
    Ok((Loopback { ours }, theirs))
}

impl Loopback {
    /// The child's listener, once the child was started.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when it did not hand one over.
    pub fn listener(self) -> Result<TcpListener> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // It was sent before the program began, for which whoever started the child has waited.
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        recvmsg(&self.ours, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)
            .map_err(|error| Error::internal(format!("a child handed no listener over: {error}")))?;
        let listener = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        listener.map(TcpListener::from).ok_or_else(|| Error::internal("a child handed no listener over"))
    }
}

/// Makes the listener in the network that the process just moved into, and hands it over by `theirs`. Only system calls,
/// on what lies on the stack: it runs between fork and exec.
pub(super) fn hand_over(theirs: &OwnedFd) -> io::Result<()> {
    raise()?;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &LOOPBACK)?;
    listen(&listener, BACKLOG)?;
    let handed = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&handed)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(theirs, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Has the loopback of the process's own network work; a new one's does not.
#[expect(unsafe_code, reason = "no library has a call for it")]
fn raise() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: plain numbers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads the structure that the call is documented to take (netdevice(7)), which lives until it returns.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
