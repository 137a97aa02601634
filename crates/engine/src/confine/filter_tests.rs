//! What the filters answer, read as the kernel reads them: on a processor that is emulated no kernel does, and a call that a
//! newer one does not have is made by another name there.

use super::*;

/// This processor's name in a filter (`AUDIT_ARCH_*` in linux/audit.h), and another's.
const ARCHITECTURES: [(u32, &str); 2] = [(0xC000_003E, "x86_64"), (0xC000_00B7, "aarch64")];

/// One call: `struct seccomp_data` of linux/seccomp.h.
struct Call {
    number: i64,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64, is_upper: bool| (if is_upper { value >> 32 } else { value }) as u32;
        match offset {
            0 => self.number as u32,
            4 => self.architecture,
            16..64 => half(self.arguments[(offset as usize - 16) / 8], offset % 8 == 4),
            _ => panic!("nothing of ours looks at byte {offset}"),
        }
    }
}

/// What `filter` returns for `call`; the instructions of linux/bpf_common.h that ours are made of.
fn run(filter: &BpfProgram, call: &Call) -> u32 {
    let (mut at, mut value) = (0, 0);
    loop {
        let step = &filter[at];
        at += 1;
        let mut jump = |is: bool| at += usize::from(if is { step.jt } else { step.jf });
        match step.code {
            0x20 => value = call.word(step.k),
            0x54 => value &= step.k,
            0x05 => at += step.k as usize,
            0x15 => jump(value == step.k),
            0x25 => jump(value > step.k),
            0x35 => jump(value >= step.k),
            0x06 => return step.k,
            other => panic!("an instruction that is not known: {other:#x}"),
        }
    }
}

/// What becomes of a call: the least of what all filters return, as none of ours has a lower action beside a higher one.
fn answer(way: Way, number: i64, arguments: &[i32]) -> Option<i32> {
    let mut all = [0; 6];
    for (to, from) in all.iter_mut().zip(arguments) {
        *to = u64::from(from.cast_unsigned());
    }
    let (architecture, _) = ARCHITECTURES.into_iter().find(|(_, name)| *name == std::env::consts::ARCH).unwrap();
    let call = Call { number, architecture, arguments: all };
    let least = filters(way).unwrap().iter().map(|filter| run(filter, &call)).min().unwrap();
    match least {
        libc::SECCOMP_RET_ALLOW => None,
        refused if refused & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO => {
            Some((refused & libc::SECCOMP_RET_DATA).cast_signed())
        }
        other => panic!("call {number} is answered with {other:#x}"),
    }
}

#[test]
fn each_call_is_answered_as_it_is_meant_on_this_processor() {
    let (forbidden, unknown) = (Some(libc::EPERM), Some(libc::ENOSYS));
    let (read, make, empty) = (libc::O_RDONLY, libc::O_WRONLY | libc::O_CREAT, libc::O_WRONLY | libc::O_TRUNC);
    let (inet, stream) = (libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    let table: &[(i64, &[i32], Option<i32>)] = &[
        (libc::SYS_read, &[], None),
        (libc::SYS_mmap, &[], None),
        (libc::SYS_futex, &[], None),
        (libc::SYS_execve, &[], None),
        (libc::SYS_exit_group, &[], None),
        (libc::SYS_clone, &[libc::CLONE_VM | libc::CLONE_THREAD], None),
        (libc::SYS_clone, &[libc::SIGCHLD], forbidden),
        (libc::SYS_clone3, &[], unknown),
        (libc::SYS_openat, &[libc::AT_FDCWD, 0, read], None),
        (libc::SYS_openat, &[libc::AT_FDCWD, 0, make], forbidden),
        (libc::SYS_openat, &[libc::AT_FDCWD, 0, empty], forbidden),
        (libc::SYS_openat2, &[], unknown),
        (libc::SYS_renameat, &[], forbidden),
        (libc::SYS_renameat2, &[], forbidden),
        (libc::SYS_unlinkat, &[], forbidden),
        (libc::SYS_fchmodat, &[], forbidden),
        (SYS_FCHMODAT2, &[], forbidden),
        (libc::SYS_kill, &[], forbidden),
        (libc::SYS_bind, &[], forbidden),
        (libc::SYS_socket, &[inet, stream, 0], forbidden),
        (libc::SYS_connect, &[], forbidden),
    ];
    for &(number, arguments, want) in table {
        assert_eq!(answer(Way::Nowhere, number, arguments), want, "call {number} with {arguments:?}");
    }
    for (number, arguments, want) in [
        (libc::SYS_connect, &[][..], None),
        (libc::SYS_socket, &[inet, stream, 0], None),
        (libc::SYS_socket, &[inet, stream, libc::IPPROTO_TCP], None),
        (libc::SYS_socket, &[inet, stream, libc::IPPROTO_UDP], forbidden),
        (libc::SYS_socket, &[inet, libc::SOCK_DGRAM, 0], forbidden),
        (libc::SYS_socket, &[libc::AF_INET6, stream, 0], forbidden),
        (libc::SYS_listen, &[], forbidden),
    ] {
        assert_eq!(answer(Way::Loopback, number, arguments), want, "call {number} with {arguments:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_older_names_of_a_call_are_answered_as_the_newer_ones() {
    for (number, arguments, want) in [
        (libc::SYS_open, &[0, libc::O_RDONLY][..], None),
        (libc::SYS_open, &[0, libc::O_WRONLY | libc::O_CREAT], Some(libc::EPERM)),
        (libc::SYS_open, &[0, libc::O_WRONLY | libc::O_TRUNC], Some(libc::EPERM)),
        (libc::SYS_fork, &[], Some(libc::EPERM)),
        (libc::SYS_rename, &[], Some(libc::EPERM)),
    ] {
        assert_eq!(answer(Way::Nowhere, number, arguments), want, "call {number} with {arguments:?}");
    }
}

#[test]
fn a_call_by_the_numbers_of_another_processor_ends_the_program() {
    for (architecture, name) in ARCHITECTURES {
        let call = Call { number: libc::SYS_read, architecture, arguments: [0; 6] };
        let killed =
            filters(Way::Nowhere).unwrap().iter().all(|filter| run(filter, &call) == libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(killed, name != std::env::consts::ARCH, "{name}");
    }
}
