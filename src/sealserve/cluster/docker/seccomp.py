"""Seccomp profile of a container with gramine-direct: Docker's calls that the image's programs need, and one more.

gramine-direct disables address space randomization for itself with ``personality(ADDR_NO_RANDOMIZE)``. Docker's
default profile rejects this call. gramine-sgx does not use it. Gramine's own profile is Docker's profile of August
2022 with only this addition. This profile is for x86-64 and a container without capabilities. It omits calls of other
architectures, calls that require a capability, and unused calls (io_uring, kernel keys, other processes' memory).

Source: Gramine 1.9, ``pal/src/host/linux/pal_main.c`` (personality), ``scripts/docker_seccomp_aug_2022.json``; moby,
``profiles/seccomp/default.json``; personality(2); docs.docker.com/engine/security/seccomp.
"""

from typing import Any, Final

ADDR_NO_RANDOMIZE: Final = 0x0040000
_ASK: Final = 0xFFFFFFFF
"""``personality`` with this argument changes nothing and returns the current value."""

_NAMESPACES: Final = 0x7E020000
"""The flags of clone(2) that create namespaces. The kernel requires a capability for them in any case."""

_ENOSYS: Final = 38

_CALLS: Final = """
accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres clock_gettime
clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fstat fstatfs fsync
ftruncate futex futex_waitv get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage
getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1
inotify_rm_watch ioctl kill lchown lgetxattr link linkat listen listxattr llistxattr lseek lstat madvise membarrier
memfd_create mincore mkdir mkdirat mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap
nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_tid_address setfsgid setfsuid
setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt
setuid shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink
symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
utimensat utimes vfork wait4 waitid write writev
"""

_LOCAL, _IPV4, _IPV6, _NETLINK = 1, 2, 10, 16
"""Address families (socket(2)): Unix, IPv4, IPv6, and netlink, which the C library uses to list addresses."""


def gramine_direct_profile() -> dict[str, Any]:
    """Return the profile in the form that ``--security-opt seccomp=FILE`` accepts."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}],
        "syscalls": [
            {"names": sorted(_CALLS.split()), "action": "SCMP_ACT_ALLOW"},
            *(_when("socket", 0, family) for family in (_LOCAL, _IPV4, _IPV6, _NETLINK)),
            *(_when("personality", 0, value) for value in (0, ADDR_NO_RANDOMIZE, _ASK)),
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": _NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            },
            # clone3 has its flags in memory, which a filter cannot read. With ENOSYS, the C library uses clone instead.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def _when(call: str, argument: int, value: int) -> dict[str, Any]:
    return {
        "names": [call],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": argument, "value": value, "op": "SCMP_CMP_EQ"}],
    }
