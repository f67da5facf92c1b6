"""The system calls of a container with gramine-direct: what Docker admits for the image's other programs, and one more.

gramine-direct turns address space randomisation off for itself by ``personality(ADDR_NO_RANDOMIZE)``, which Docker's
default profile refuses; gramine-sgx does not. Gramine's own profile is Docker's of August 2022 with just that added.
This one is for x86-64 and a container without capabilities: calls of other architectures, calls that need a capability,
and what nothing here uses (io_uring, kernel keys, other processes' memory) are left out.

Source: Gramine 1.9, ``pal/src/host/linux/pal_main.c`` (personality), ``scripts/docker_seccomp_aug_2022.json``; moby,
``profiles/seccomp/default.json``; personality(2); docs.docker.com/engine/security/seccomp.
"""

from typing import Any, Final

ADDR_NO_RANDOMIZE: Final = 0x0040000
_ASK: Final = 0xFFFFFFFF
"""``personality`` with this argument changes nothing, and returns what is set."""

_NAMESPACES: Final = 0x7E020000
"""The flags of clone(2) that make namespaces: the kernel wants a capability for them in any case."""

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
"""Address families (socket(2)): Unix, IPv4, IPv6, and netlink, by which the C library lists addresses."""


def gramine_direct_profile() -> dict[str, Any]:
    """Return the profile, as ``--security-opt seccomp=FILE`` takes it."""
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
            # Its flags are in memory, where a filter cannot look: the C library then takes clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def _when(call: str, argument: int, value: int) -> dict[str, Any]:
    return {
        "names": [call],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": argument, "value": value, "op": "SCMP_CMP_EQ"}],
    }
