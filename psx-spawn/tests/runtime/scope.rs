//! Which calls change the calling thread, and so need a broadcast, and which change the process, as the
//! documentation of `psx::syscall6` says.

use std::ffi::{CStr, c_long};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::{fs, process};

use psx::{Divergence, Divergent, Errno, Outcome};
use psx_test_support::raw::{limit, must, set_limit, syscall};
use psx_test_support::threads::start_idlers;
use psx_test_support::{Case, Ending, Line, Probe, procfs, root, seccomp};

use crate::kernel::STRICT;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("scope::of_the_thread", |_| {
            for setting in OF_THE_THREAD {
                setting.is_the_threads();
            }
        }),
        Case::new("scope::of_the_thread_secure_bits", |_| SECURE_BITS.is_the_threads()).needs(root),
        Case::new("scope::of_the_thread_memory_policy", |_| MEMORY_POLICY.is_the_threads()).needs(
            || match (MEMORY_POLICY.get)() {
                0 => Ok(()),
                _ => Err("needs a kernel with memory policies, and the default one".into()),
            },
        ),
        Case::new("scope::of_the_thread_processors", |_| AFFINITY.is_the_threads()).needs(|| {
            match (AFFINITY.get)() {
                1 => Err("needs more than the first processor".into()),
                _ => Ok(()),
            }
        }),
        Case::new("scope::of_the_process", |_| {
            for setting in OF_THE_PROCESS {
                setting.is_the_processes();
            }
        }),
        Case::new("scope::of_the_process_root", |_| {
            CHROOT.is_the_processes();
        })
        .needs(root),
        Case::new("scope::of_the_process_pivot_root", pivot_root).needs(root),
        // From then on `chdir` is the thread's own.
        Case::new("scope::of_a_thread_that_has_unshared_its_folder", |_| {
            let other = Probe::start();
            must(libc::SYS_unshare, [libc::CLONE_FS as usize, 0, 0, 0, 0, 0]);
            let before = other.ask(working_folder);
            std::env::set_current_dir("/usr").unwrap();
            assert_eq!(other.ask(working_folder), before);
            assert_ne!(working_folder(), before);
        }),
        Case::new("scope::a_process_group_means_each_of_its_threads", |_| {
            const PRIO_PGRP: usize = 1;
            const IOPRIO_WHO_PGRP: usize = 2;
            let other = Probe::start();
            // The child leads a process group.
            must(libc::SYS_setpriority, [PRIO_PGRP, 0, 7, 0, 0, 0]);
            must(libc::SYS_ioprio_set, [IOPRIO_WHO_PGRP, 0, BEST_EFFORT_7, 0, 0, 0]);
            assert_eq!(other.ask(NICE.get), 20 - 7);
            assert_eq!(other.ask(IO_PRIORITY.get), BEST_EFFORT_7);
        }),
        // Where a call takes a thread's id, only 0 means the calling thread.
        Case::new("scope::an_id_names_one_thread", |line| {
            start_idlers(3);
            let main = process::id() as usize;
            // SAFETY: numbers only.
            unsafe { psx::syscall3(libc::SYS_setpriority, 0, main, 9).unwrap() };
            line.pause("main");
            // SAFETY: numbers only.
            unsafe { psx::syscall3(libc::SYS_setpriority, 0, 0, 11).unwrap() };
            line.pause("each");
        })
        .check(|child| {
            child.inspect("main", |child| {
                for task in child.tasks() {
                    let wanted = if task.tid == child.pid() { 9 } else { 0 };
                    assert_eq!(nice(task.tid), wanted, "{}", task.tid);
                }
            });
            child.inspect("each", |child| {
                assert_eq!(child.tasks().len(), 4);
                assert!(child.tasks().iter().all(|task| nice(task.tid) == 11));
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("scope::some_return_what_was_before", |_| {
            start_idlers(2);
            call(libc::SYS_setfsuid, [65534, 0, 0]).unwrap();
            let lenient = STRICT.divergence(Divergence::Report);
            // SAFETY: a number.
            let report = unsafe { lenient.syscall(libc::SYS_setfsuid, [65534, 0, 0, 0, 0, 0]) };
            let report = report.unwrap();
            assert_eq!(report.value(), 65534);
            let outcomes: Vec<_> = report.divergent().iter().map(Divergent::outcome).collect();
            assert_eq!(outcomes, [Outcome::Returned(0); 2]);
        })
        .needs(root),
        Case::new("scope::descriptors_of_each_thread", |_| {
            let other = Probe::start();
            // SAFETY: a flag. No file is open that threads share.
            unsafe { psx::syscall3(libc::SYS_unshare, libc::CLONE_FILES as usize, 0, 0) }.unwrap();
            let file = fs::File::open("/").unwrap();
            let fd = file.as_raw_fd();
            // SAFETY: the call only reads.
            assert_eq!(other.ask(move || unsafe { libc::fcntl(fd, libc::F_GETFD) }), -1);
        }),
        // Each thread then has another filter than the caller.
        Case::new("scope::filters_of_a_broadcast_differ", |_| {
            start_idlers(2);
            let threads = || procfs::tids(process::id());
            let install = || {
                seccomp::no_new_privs();
                seccomp::install(&[seccomp::ALLOW]);
                Ok(0)
            };
            // SAFETY: two system calls.
            unsafe { STRICT.run(install) }.unwrap();
            let sync = libc::SECCOMP_FILTER_FLAG_TSYNC;
            let refused = seccomp::install_with(&[seccomp::ALLOW], sync) as u32;
            assert!(refused != process::id() && threads().contains(&refused), "{refused}");
        }),
    ]
}

/// Something that a system call sets, and how to read it.
struct Setting {
    name: &'static str,
    set: fn() -> Result<usize, Errno>,
    get: fn() -> usize,
}

impl Setting {
    /// A plain call changes the calling thread alone, and a broadcast the others too.
    fn is_the_threads(&self) {
        let other = Probe::start();
        let before = other.ask(self.get);
        self.set_here();
        assert_eq!(other.ask(self.get), before, "{} of another thread", self.name);
        assert_ne!((self.get)(), before, "{} of this thread", self.name);
        // SAFETY: one system call, for a setting that any thread may have.
        unsafe { STRICT.run(self.set) }.unwrap_or_else(|e| panic!("{}: {e}", self.name));
        assert_eq!(other.ask(self.get), (self.get)(), "{} after a broadcast", self.name);
    }

    /// A plain call changes the other threads as well.
    fn is_the_processes(&self) {
        let other = Probe::start();
        let before = other.ask(self.get);
        self.set_here();
        assert_ne!(other.ask(self.get), before, "{}", self.name);
        assert_eq!(other.ask(self.get), (self.get)(), "{}", self.name);
    }

    fn set_here(&self) {
        (self.set)().unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }
}

const OF_THE_THREAD: [Setting; 9] = [
    NICE,
    IO_PRIORITY,
    Setting {
        name: "sched_setscheduler",
        set: || {
            let priority = libc::sched_param { sched_priority: 0 };
            let priority = (&raw const priority) as usize;
            call(libc::SYS_sched_setscheduler, [0, libc::SCHED_BATCH as usize, priority])
        },
        get: || read(libc::SYS_sched_getscheduler, [0, 0, 0]),
    },
    Setting {
        name: "personality",
        // It returns the value before, which differs.
        set: || call(libc::SYS_personality, [libc::UNAME26 as usize, 0, 0]).map(|_| 0),
        get: || read(libc::SYS_personality, [0xffff_ffff, 0, 0]),
    },
    Setting {
        name: "PR_SET_NAME",
        set: || prctl(libc::PR_SET_NAME, c"scope".as_ptr() as usize),
        get: || {
            let mut name = [0_u8; 16];
            prctl(libc::PR_GET_NAME, (&raw mut name) as usize).unwrap();
            name.iter().map(|&byte| usize::from(byte)).sum()
        },
    },
    Setting {
        name: "PR_SET_TIMERSLACK",
        set: || prctl(libc::PR_SET_TIMERSLACK, 77_777),
        get: || prctl(libc::PR_GET_TIMERSLACK, 0).unwrap(),
    },
    Setting {
        name: "PR_SET_PDEATHSIG",
        set: || prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1 as usize),
        get: || {
            let mut signal = 0_i32;
            prctl(libc::PR_GET_PDEATHSIG, (&raw mut signal) as usize).unwrap();
            signal as usize
        },
    },
    Setting {
        name: "PR_SET_KEEPCAPS",
        set: || prctl(libc::PR_SET_KEEPCAPS, 1),
        get: || prctl(libc::PR_GET_KEEPCAPS, 0).unwrap(),
    },
    Setting {
        name: "PR_SET_NO_NEW_PRIVS",
        set: || prctl(libc::PR_SET_NO_NEW_PRIVS, 1),
        get: || prctl(libc::PR_GET_NO_NEW_PRIVS, 0).unwrap(),
    },
];

const OF_THE_PROCESS: [Setting; 6] = [
    Setting {
        name: "chdir",
        set: || call(libc::SYS_chdir, [c"/usr".as_ptr() as usize, 0, 0]),
        get: working_folder,
    },
    Setting {
        name: "umask",
        set: || call(libc::SYS_umask, [0o70, 0, 0]),
        get: || {
            // umask(2) would set it.
            procfs::this_task().field("Umask").parse().unwrap()
        },
    },
    Setting {
        name: "setrlimit",
        set: || {
            set_limit(libc::RLIMIT_NOFILE, [77, 777]);
            Ok(0)
        },
        get: || limit(libc::RLIMIT_NOFILE)[0] as usize,
    },
    Setting {
        name: "PR_SET_DUMPABLE",
        set: || prctl(libc::PR_SET_DUMPABLE, 0),
        get: || prctl(libc::PR_GET_DUMPABLE, 0).unwrap(),
    },
    Setting {
        name: "PR_SET_CHILD_SUBREAPER",
        set: || prctl(libc::PR_SET_CHILD_SUBREAPER, 1),
        get: || {
            let mut is_one = 0_i32;
            prctl(libc::PR_GET_CHILD_SUBREAPER, (&raw mut is_one) as usize).unwrap();
            is_one as usize
        },
    },
    Setting {
        name: "PR_SET_THP_DISABLE",
        set: || prctl(libc::PR_SET_THP_DISABLE, 1),
        get: || prctl(libc::PR_GET_THP_DISABLE, 0).unwrap(),
    },
];

const NICE: Setting = Setting {
    name: "setpriority(PRIO_PROCESS)",
    set: || call(libc::SYS_setpriority, [0, 0, 5]),
    // The bare call returns 20 less the value.
    get: || read(libc::SYS_getpriority, [0, 0, 0]),
};

const IO_PRIORITY: Setting = Setting {
    name: "ioprio_set(IOPRIO_WHO_PROCESS)",
    set: || call(libc::SYS_ioprio_set, [1, 0, BEST_EFFORT_7]),
    get: || read(libc::SYS_ioprio_get, [1, 0, 0]),
};

/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)`
const BEST_EFFORT_7: usize = 2 << 13 | 7;

const SECURE_BITS: Setting = Setting {
    name: "PR_SET_SECUREBITS",
    set: || prctl(libc::PR_SET_SECUREBITS, 1),
    get: || prctl(libc::PR_GET_SECUREBITS, 0).unwrap(),
};

const MEMORY_POLICY: Setting = Setting {
    name: "set_mempolicy",
    set: || call(libc::SYS_set_mempolicy, [libc::MPOL_LOCAL as usize, 0, 0]),
    get: || {
        let mut mode = 0_i32;
        let got = call(libc::SYS_get_mempolicy, [(&raw mut mode) as usize, 0, 0]);
        got.map_or(usize::MAX, |_| mode as usize)
    },
};

/// To the first processor.
const AFFINITY: Setting = Setting {
    name: "sched_setaffinity",
    set: || {
        let first = 1_u64;
        call(libc::SYS_sched_setaffinity, [0, 8, (&raw const first) as usize])
    },
    get: || {
        let mut set = [0_u64; 16];
        read(libc::SYS_sched_getaffinity, [0, size_of_val(&set), (&raw mut set) as usize]);
        set[0] as usize
    },
};

const CHROOT: Setting = Setting {
    name: "chroot",
    set: || call(libc::SYS_chroot, [c"/usr".as_ptr() as usize, 0, 0]),
    get: root_folder,
};

fn pivot_root(_: &Line) {
    must(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]);
    let mount = |what: &CStr, on: &CStr, kind: &CStr, flags: libc::c_ulong| {
        let [what, on, kind] = [what, on, kind].map(|text| text.as_ptr().addr());
        must(libc::SYS_mount, [what, on, kind, flags as usize, 0, 0]);
    };
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE);
    mount(c"none", c"/mnt", c"tmpfs", 0);
    std::env::set_current_dir("/mnt").unwrap();
    let pivot = Setting {
        name: "pivot_root",
        set: || {
            let here = c".".as_ptr() as usize;
            call(libc::SYS_pivot_root, [here, here, 0])
        },
        get: || fs::metadata("/usr").is_ok().into(),
    };
    pivot.is_the_processes();
    assert!(fs::metadata("/usr").is_err());
}

fn working_folder() -> usize {
    fs::metadata(".").unwrap().ino() as usize
}

fn root_folder() -> usize {
    fs::metadata("/").unwrap().ino() as usize
}

/// The nice value of any thread.
fn nice(tid: u32) -> i32 {
    20 - must(libc::SYS_getpriority, [0, tid as usize, 0, 0, 0, 0]) as i32
}

fn prctl(option: i32, argument: usize) -> Result<usize, Errno> {
    call(libc::SYS_prctl, [option as usize, argument, 0])
}

/// A call of this file: what its pointers point to outlives it.
fn call(nr: c_long, [a, b, c]: [usize; 3]) -> Result<usize, Errno> {
    // SAFETY: as above.
    unsafe { syscall(nr, [a, b, c, 0, 0, 0]) }
}

fn read(nr: c_long, args: [usize; 3]) -> usize {
    call(nr, args).unwrap()
}
