//! The privileges that the server gives up before it reads the guest's first byte.

use std::collections::BTreeMap;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::device::CONNECTIONS_MAX;

/// Descriptors beside the sockets of connections: the guest's memory (509 parts at most, says the vhost-user library),
/// queues, the control channel, those of the program itself, and one of each connection that is just being handed over.
const OTHER_FDS: u64 = 509 + 128;

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// A limit, a capability, a flag.
    #[error("{what}: {source}")]
    System {
        /// The step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The filter.
    #[error("system call filter: {0}")]
    Filter(String),
}

/// The system calls that move bytes, in memory that is there or is mapped from descriptors that came over a socket.
/// None of them opens a file, makes a socket, starts a program or reaches another process.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Allowed commands of `fcntl`: a descriptor's flags, and duplicates of it.
const DESCRIPTOR_COMMANDS: [libc::c_int; 5] =
    [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];

/// Takes resources and privileges away from this process, which has one thread so far: the others inherit.
pub(crate) fn limit() -> Result<(), SandboxError> {
    let failed = |what| move |e: rustix::io::Errno| SandboxError::System { what, source: e.into() };
    let connections = u64::try_from(CONNECTIONS_MAX).unwrap_or(u64::MAX);
    let wanted = connections + OTHER_FDS;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        let source = std::io::Error::other(format!(
            "the limit is {}, {wanted} are needed",
            limit.maximum.unwrap_or_default()
        ));
        return Err(SandboxError::System { what: "open files", source });
    }
    let nofile = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    setrlimit(Resource::Nofile, nofile).map_err(failed("limit the open files"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(failed("forbid core dumps"))?;
    setrlimit(Resource::Fsize, none).map_err(failed("forbid writing to files"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("forbid being traced"))?;
    let nothing = CapabilitySet::empty();
    let sets = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
    rustix::thread::set_capabilities(None, sets).map_err(failed("drop capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))
}

/// Leaves this process, with all its threads, the system calls that it serves with.
pub(crate) fn filter() -> Result<(), SandboxError> {
    for filter in filters().map_err(SandboxError::Filter)? {
        apply_filter_all_threads(&filter).map_err(|e| SandboxError::Filter(e.to_string()))?;
    }
    Ok(())
}

/// Two filters, of which the stricter answer counts.
fn filters() -> Result<[BpfProgram; 2], String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let build = |rules: BTreeMap<i64, Vec<SeccompRule>>, others, listed| {
        SeccompFilter::new(rules, others, listed, arch)
            .and_then(BpfProgram::try_from)
            .map_err(|e| e.to_string())
    };
    // The flags of this one are behind a pointer that a filter cannot follow; the C library then takes the old one.
    let enosys = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or_default());
    let newer = build(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, enosys)?;

    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    rules.insert(libc::SYS_clone3, Vec::new());
    let condition = |argument, operator, value: libc::c_int| {
        let value = u64::try_from(value).unwrap_or_default();
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(|e| e.to_string())
    };
    let equal = |argument, value| condition(argument, SeccompCmpOp::Eq, value);
    let only = |argument, operator, value| {
        SeccompRule::new(vec![condition(argument, operator, value)?]).map_err(|e| e.to_string())
    };
    // Threads, no processes; a thread's name, no other setting; descriptors, no signals by way of them.
    let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or_default();
    rules.insert(libc::SYS_clone, vec![only(0, SeccompCmpOp::MaskedEq(thread), libc::CLONE_THREAD)?]);
    rules.insert(libc::SYS_prctl, vec![only(0, SeccompCmpOp::Eq, libc::PR_SET_NAME)?]);
    // Memory that holds data never becomes code.
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = u64::try_from(libc::PROT_EXEC).unwrap_or_default();
        rules.insert(number, vec![only(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    // The one option that a connection's socket is given; behind others are programs that run in the kernel.
    let option = SeccompRule::new(vec![equal(1, libc::SOL_SOCKET)?, equal(2, libc::SO_SNDBUF)?]);
    rules.insert(libc::SYS_setsockopt, vec![option.map_err(|e| e.to_string())?]);
    let commands = DESCRIPTOR_COMMANDS.map(|command| only(1, SeccompCmpOp::Eq, command));
    rules.insert(libc::SYS_fcntl, commands.into_iter().collect::<Result<_, _>>()?);
    let only = build(rules, SeccompAction::KillProcess, SeccompAction::Allow)?;
    Ok([newer, only])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// System calls that reach beyond the server's own descriptors.
    const NEVER: &[libc::c_long] = &[
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_statx,
        libc::SYS_ioctl,
        libc::SYS_memfd_create,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_prlimit64,
    ];

    #[test]
    fn nothing_that_reaches_further_is_allowed_and_the_filters_can_be_built() {
        assert!(NEVER.iter().all(|number| !ALLOWED.contains(number)));
        // These come with conditions, or not at all.
        for number in [
            libc::SYS_clone,
            libc::SYS_prctl,
            libc::SYS_fcntl,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_setsockopt,
        ] {
            assert!(!ALLOWED.contains(&number));
        }
        filters().unwrap();
    }

    /// Says what a restricted process is to try.
    const ATTEMPT: &str = "VMETTE_VSOCK_ATTEMPT";

    /// In the process that is restricted.
    fn attempt(what: &str) {
        use rustix::net::{AddressFamily, SocketType, socket, sockopt};
        use rustix::process::{Signal, getpid, kill_process};
        let (socket_of_its_own, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        limit().unwrap();
        filter().unwrap();
        // Whatever the answer is, there must be none.
        match what {
            "serve" => sockopt::set_socket_send_buffer_size(&socket_of_its_own, 4096).unwrap(),
            "file" => drop(std::fs::File::open("/etc/passwd")),
            "socket" => drop(socket(AddressFamily::UNIX, SocketType::STREAM, None)),
            "program" => drop(std::process::Command::new("/bin/true").status()),
            "signal" => drop(kill_process(getpid(), Signal::CONT)),
            "option" => drop(sockopt::set_socket_reuseaddr(&socket_of_its_own, true)),
            _ => panic!("{what}"),
        }
    }

    #[test]
    fn a_process_that_reaches_further_is_killed() {
        use std::os::unix::process::ExitStatusExt;
        if let Ok(what) = std::env::var(ATTEMPT) {
            return attempt(&what);
        }
        let end = |what: &str| {
            let mut program = std::process::Command::new(std::env::current_exe().unwrap());
            program.args([
                "--exact",
                "sandbox::tests::a_process_that_reaches_further_is_killed",
                "--nocapture",
            ]);
            program.env(ATTEMPT, what).output().unwrap().status
        };
        assert_eq!(end("serve").code(), Some(0));
        for what in ["file", "socket", "program", "signal", "option"] {
            assert_eq!(end(what).signal(), Some(libc::SIGSYS), "{what}");
        }
    }
}
