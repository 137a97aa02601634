//! What a child process may do that reads what strangers sent. It is in force before the program's first instruction.
//!
//! Limits of the kernel bound memory, time and files. A filter of system calls takes the network, new processes, other
//! processes and changes of the file system away; where the kernel allows it, the child also has a network of its own
//! with nothing in it. One that is to read what is elsewhere has in it a way to whoever started it, and no other.

mod loopback;
pub use loopback::{LOOPBACK, Loopback};

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::UnshareFlags;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::{Error, Result};

/// How far a child may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of its address space, libraries and all.
    pub memory_bytes: u64,
    /// CPU time.
    pub cpu_s: u64,
    /// Of any file that it writes; pipes are no files.
    pub file_bytes: u64,
    /// Open files.
    pub files: u64,
}

/// Has `command` start its program within `bounds`. Nothing that the program inherits is changed in this process.
///
/// # Errors
/// [`Internal`](crate::ErrorKind::Internal) when the filter cannot be made for this processor. Whatever the kernel does
/// not know or allow is left out silently: a container's own walls then are what there is.
pub fn confine(command: &mut Command, bounds: &Bounds) -> Result<()> {
    before(command, bounds, Way::Nowhere, || {
        leave_the_network();
        Ok(())
    })
}

/// As [`confine`], with a loopback of its own on which the program reaches what this process answers at
/// [`LOOPBACK`], and nothing else: it can make no other kind of socket, and none that listens.
///
/// The program is not started where it cannot have a network of its own, so that the filter that lets it connect never
/// lets it connect to anything of this machine's.
///
/// # Errors
/// As [`confine`]; [`Unavailable`](crate::ErrorKind::Unavailable) when there are no sockets to be had.
pub fn confine_with_loopback(command: &mut Command, bounds: &Bounds) -> Result<Loopback> {
    let (loopback, theirs) = loopback::pair()?;
    before(command, bounds, Way::Loopback, move || {
        if !leave_the_network() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        loopback::hand_over(&theirs)
    })?;
    Ok(loopback)
}

/// Where a child's filter lets it connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nowhere,
    /// Anything in its network, which is to be its own.
    Loopback,
}

/// Has `command` do `network` and then take on `bounds` and the filters before it becomes its program. `network` makes only
/// system calls: no memory is allocated in it, no lock taken.
#[expect(unsafe_code, reason = "only code between fork and exec can confine the child before it runs")]
fn before(
    command: &mut Command,
    bounds: &Bounds,
    way: Way,
    network: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> Result<()> {
    let filters = filters(way).map_err(|error| Error::internal(format!("no filter of system calls: {error}")))?;
    let limits = [
        (Resource::As, bounds.memory_bytes),
        (Resource::Cpu, bounds.cpu_s),
        (Resource::Fsize, bounds.file_bytes),
        (Resource::Nofile, bounds.files),
        // A crash of a decoder is told by its signal; its memory is nothing to keep.
        (Resource::Core, 0),
    ];
    let apply = move || {
        for (resource, most) in limits {
            lower(resource, most);
        }
        network()?;
        for filter in &filters {
            install(filter);
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on values that exist since before the fork or lie on the
    // stack: no memory is allocated (an error is a number or a kind), no lock is taken and nothing of the parent's is
    // dropped, so it does not matter what other threads held when this one forked.
    unsafe { command.pre_exec(apply) };
    Ok(())
}

/// Lowers a limit to `most`, unless it is lower already.
fn lower(resource: Resource, most: u64) {
    let now = getrlimit(resource);
    let least = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    // Lowering is always allowed.
    let _ = setrlimit(resource, Rlimit { current: least(now.current), maximum: least(now.maximum) });
}

/// Moves the process into a network with nothing in it: at once where it has the right, else by way of a user namespace
/// where anyone may make one. `false` where neither is allowed.
#[expect(unsafe_code, reason = "leaving a namespace can break what the process had there")]
fn leave_the_network() -> bool {
    for flags in [UnshareFlags::NEWNET, UnshareFlags::NEWUSER | UnshareFlags::NEWNET] {
        // SAFETY: the process has one thread, has opened nothing in the network, and is about to become another program.
        if unsafe { rustix::thread::unshare_unsafe(flags) }.is_ok() {
            return true;
        }
    }
    false
}

/// Installs a filter for the calling thread and all that comes of it.
#[expect(unsafe_code, reason = "the standard library has no such calls")]
fn install(filter: &BpfProgram) {
    // Since Linux 5.16 filters do not slow the processor down by themselves; before that only with this flag.
    const SPEC_ALLOW: libc::c_ulong = 1 << 2;
    let program = libc::sock_fprog {
        // A filter of this module has a few hundred instructions; the kernel takes 4096.
        len: u16::try_from(filter.len()).unwrap_or(0),
        filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: both calls take plain numbers and a program that outlives them and that the kernel only reads; the two
    // structures of a filter's instruction are the kernel's `struct sock_filter`.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, SPEC_ALLOW, &raw const program);
        }
    }
}

/// Refused as if for want of permission.
const FORBIDDEN: &[i64] = &[
    // The network.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Other processes.
    libc::SYS_kill,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    // The system.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    // Names of files.
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
];

/// The same number on all processors; not in `libc` for each of them.
const SYS_FCHMODAT2: i64 = 452;

/// The older names of some of them, which newer processors (aarch64) never had.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_OLD: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_creat,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_OLD: &[i64] = &[];

/// The calls that open a file by its name, and which of their arguments are the flags.
#[cfg(target_arch = "x86_64")]
const OPENS: &[(i64, u8)] = &[(libc::SYS_openat, 2), (libc::SYS_open, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OPENS: &[(i64, u8)] = &[(libc::SYS_openat, 2)];

/// Their flags lie in memory, where a filter cannot look; told that there is no such call, the C library uses an older one.
const UNKNOWN: &[i64] = &[libc::SYS_clone3, libc::SYS_openat2];

/// The filters, each with an answer of its own.
fn filters(way: Way) -> std::result::Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let number = |value: i32| u64::from(value.unsigned_abs());
    // Threads are no new processes.
    let no_thread = condition(0, number(libc::CLONE_THREAD), 0)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().chain(FORBIDDEN_OLD).map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![no_thread]);
    for &(call, flags) in OPENS {
        // A file is not made, and not emptied.
        let creates = condition(flags, number(libc::O_CREAT), number(libc::O_CREAT))?;
        let empties = condition(flags, number(libc::O_TRUNC), number(libc::O_TRUNC))?;
        rules.insert(call, vec![creates, empties]);
    }
    if way == Way::Loopback {
        rules.remove(&libc::SYS_connect);
        rules.insert(libc::SYS_socket, no_stream()?);
    }
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let forbidden = program(rules, errno(libc::EPERM))?;
    let unknown = program(UNKNOWN.iter().map(|&call| (call, Vec::new())).collect(), errno(libc::ENOSYS))?;
    Ok(vec![forbidden, unknown])
}

/// That a socket is to be anything else than one of TCP over IPv4.
fn no_stream() -> std::result::Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let unlike = |index, value: i32| {
        let length = SeccompCmpArgLen::Dword;
        SeccompCondition::new(index, length, SeccompCmpOp::Ne, u64::from(value.unsigned_abs()))
    };
    let no_internet = SeccompRule::new(vec![unlike(0, libc::AF_INET)?])?;
    // Neither none, which is TCP then, nor TCP by its name.
    let no_tcp = SeccompRule::new(vec![unlike(2, 0)?, unlike(2, libc::IPPROTO_TCP)?])?;
    // The type is in the lowest four bits (SOCK_TYPE_MASK in the kernel's linux/net.h), and flags are above them.
    let stream = u64::from(libc::SOCK_STREAM.unsigned_abs());
    let no_stream = [1, 2, 4, 8].map(|bit| condition(1, bit, !stream & bit));
    let rules = no_stream.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    Ok([vec![no_internet, no_tcp], rules].concat())
}

/// That argument `index`, under `mask`, is `value`.
fn condition(index: u8, mask: u64, value: u64) -> std::result::Result<SeccompRule, seccompiler::BackendError> {
    let masked = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, masked, value)?])
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    action: SeccompAction,
) -> std::result::Result<BpfProgram, seccompiler::BackendError> {
    let processor = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, processor)?.try_into()
}

#[cfg(test)]
mod filter_tests;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    const BOUNDS: Bounds = Bounds { memory_bytes: 1 << 30, cpu_s: 60, file_bytes: 0, files: 32 };

    /// Python with `script`, which makes any system call.
    fn python_of(script: &str) -> Command {
        // The program itself: what is called `python3` may be a script that starts others.
        let find = Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output().unwrap();
        let mut command = Command::new(String::from_utf8(find.stdout).unwrap());
        command.args(["-I", "-S", "-c", script]).stdin(Stdio::null());
        command
    }

    /// Runs `script`; says how it ended and what it wrote.
    fn python(script: &str, bounds: &Bounds) -> (Option<i32>, Option<i32>, String) {
        let mut command = python_of(script);
        confine(&mut command, bounds).unwrap();
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), output.status.signal(), said)
    }

    #[test]
    fn what_a_decoder_needs_works() {
        let script = "import threading, sys\n\
            t = threading.Thread(target=lambda: sys.stdout.write('thread ')); t.start(); t.join()\n\
            open('/proc/self/status').read(); x = bytes(64 << 20); print(len(x))";
        assert_eq!(python(script, &BOUNDS), (Some(0), None, "thread 67108864\n".to_owned()));
    }

    #[test]
    fn what_it_does_not_need_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, "x").unwrap();
        let path = there.display();
        let table = [
            "import socket; socket.socket()".to_owned(),
            "import socket; socket.socketpair()".to_owned(),
            "import os; os.fork()".to_owned(),
            "import os; os.kill(os.getppid(), 0)".to_owned(),
            format!("open('{path}.new', 'w')"),
            format!("open('{path}', 'w')"),
            format!("import os; os.unlink('{path}')"),
            format!("import os; os.rename('{path}', '{path}.other')"),
            format!("import os; os.mkdir('{path}.folder')"),
            format!("import os; os.truncate('{path}', 0)"),
            format!("import os; os.chmod('{path}', 0)"),
            format!("import os; os.fchmod(os.open('{path}', os.O_RDONLY), 0)"),
            format!("import os; os.setxattr('{path}', 'user.x', b'')"),
        ];
        for script in table {
            let (code, _, said) = python(&script, &BOUNDS);
            assert!(code == Some(1) && said.contains("PermissionError"), "{script}: {code:?} {said}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(&there).unwrap(), b"x");
    }

    #[test]
    fn a_child_with_a_loopback_reaches_whoever_started_it() {
        let script = format!(
            "import socket; s = socket.create_connection(('127.0.0.1', {})); s.sendall(b'ping'); print(s.recv(9), end='')",
            LOOPBACK.port()
        );
        // Two at once have the same address, each in a network of its own.
        std::thread::scope(|scope| {
            for answer in ["one", "two"] {
                let script = &script;
                scope.spawn(move || {
                    let mut command = python_of(script);
                    let loopback = confine_with_loopback(&mut command, &BOUNDS).unwrap();
                    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                    let listener = loopback.listener().unwrap();
                    // One that does not come has failed.
                    let (limit, mut comes) =
                        (Timespec { tv_sec: 60, tv_nsec: 0 }, [PollFd::new(&listener, PollFlags::IN)]);
                    assert_eq!(poll(&mut comes, Some(&limit)), Ok(1));
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut asked = [0; 4];
                    stream.read_exact(&mut asked).unwrap();
                    stream.write_all(answer.as_bytes()).unwrap();
                    let output = child.wait_with_output().unwrap();
                    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                    assert_eq!((&asked, &*said), (b"ping", &*format!("b'{answer}'")));
                });
            }
        });
    }

    #[test]
    fn a_child_with_a_loopback_reaches_nobody_else() {
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        let (refused, forbidden) = ("ConnectionRefusedError", "PermissionError");
        let table = [
            // Of the machine's own loopback, and of the world.
            (format!("socket.create_connection(('127.0.0.1', {port}))"), refused),
            ("socket.create_connection(('192.0.2.1', 80), 5)".to_owned(), "Network is unreachable"),
            ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)".to_owned(), forbidden),
            ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)".to_owned(), forbidden),
            ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)".to_owned(), forbidden),
            ("socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET)".to_owned(), forbidden),
            // SCTP, and TCP by several ways at once.
            ("socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)".to_owned(), forbidden),
            ("socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)".to_owned(), forbidden),
            ("socket.socket(socket.AF_INET6, socket.SOCK_STREAM)".to_owned(), forbidden),
            ("socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)".to_owned(), forbidden),
            ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)".to_owned(), forbidden),
            ("socket.socketpair()".to_owned(), forbidden),
            ("socket.socket().bind(('127.0.0.1', 0))".to_owned(), forbidden),
            ("socket.socket().listen()".to_owned(), forbidden),
            ("__import__('os').fork()".to_owned(), forbidden),
        ];
        for (script, want) in table {
            let mut command = python_of(&format!("import socket; {script}"));
            let loopback = confine_with_loopback(&mut command, &BOUNDS).unwrap();
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && said.contains(want), "{script}: {said}");
            drop(loopback.listener().unwrap());
        }
        host.set_nonblocking(true).unwrap();
        assert_eq!(host.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn bounds_hold() {
        let (code, _, said) = python("bytes(900 << 20)", &Bounds { memory_bytes: 400 << 20, ..BOUNDS });
        assert!(code == Some(1) && said.contains("MemoryError"), "{code:?} {said}");
        let (code, signal, said) = python("while True: pass", &Bounds { cpu_s: 1, ..BOUNDS });
        assert!(matches!(signal, Some(libc::SIGXCPU | libc::SIGKILL)), "{code:?} {signal:?} {said}");
        let many = "f = [open('/dev/null') for _ in range(99)]";
        let (code, _, said) = python(many, &BOUNDS);
        assert!(code == Some(1) && said.contains("Too many open files"), "{code:?} {said}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = format!("f = open('{}', 'r+b', buffering=0); f.write(b'xx')", file.path().display());
        let (code, signal, said) = python(&write, &Bounds { file_bytes: 1, ..BOUNDS });
        // Python has SIGXFSZ ignored, so that the write is cut or fails.
        assert!(std::fs::read(file.path()).unwrap().len() <= 1, "{code:?} {signal:?} {said}");
    }
}
