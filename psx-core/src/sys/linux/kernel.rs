//! What the kernel does for a round: carry summonses, count threads.

use core::ffi::{c_int, c_void};

use super::super::{Activity, SendError, ThreadCount};
use super::fork_detector::ForkDetector;
use super::main_stack::MainStack;
use super::signal::{Chain, Handler};
use super::stat_file::StatFile;
use super::sync::{AtomicU32, Ordering};
use super::thread_dir::ThreadDir;
use super::{nodelete, procfs, raw, signal};
use crate::Errno;
use crate::report::Comm;

/// The process as the kernel sees it. One a registry.
pub(crate) struct Kernel {
    /// The process's id. Relaxed: set before the first thread registers, and in a child before the
    /// fork's mark says that it is known.
    pid: AtomicU32,
    fork_detector: ForkDetector,
    stat: StatFile,
    chain: Chain,
    handler: Handler,
    main_stack: MainStack,
    /// Cores that this process may use; 0 before it was asked. Relaxed: a hint.
    cores: AtomicU32,
}

impl Kernel {
    /// The process whose summonses `handler` takes.
    pub(crate) const fn new(handler: Handler) -> Self {
        Self {
            handler,
            pid: AtomicU32::new(0),
            fork_detector: ForkDetector::new(),
            stat: StatFile::new(),
            chain: Chain::new(),
            main_stack: MainStack::new(),
            cores: AtomicU32::new(0),
        }
    }

    /// Makes acquaintance with the process, as early as there is a thread to register. Allocates.
    pub(crate) fn init(&self) -> Result<(), Errno> {
        if self.pid.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        let pid = raw::getpid()?;
        nodelete::keep_loaded(self.handler as *const ())?;
        self.stat.open();
        self.fork_detector.install();
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.cores.store(cores, Ordering::Relaxed);
        self.pid.store(pid, Ordering::Relaxed);
        Ok(())
    }

    /// The id of the process that the registry is about. A child of `vfork`, or of `clone` with
    /// `CLONE_VM`, has the same memory and another id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Runs `reinit_after_fork` if this process was forked behind the libc's back and is not known yet: in
    /// one of its threads, while the others wait.
    pub(crate) fn run_if_forked(&self, reinit_after_fork: impl FnOnce()) {
        self.fork_detector.run_if_forked(reinit_after_fork);
    }

    /// Starts afresh in a forked child.
    pub(crate) fn reinit_after_fork(&self) {
        self.stat.reset_after_fork();
        self.stat.open();
        // Without an id the kernel refuses each summons, and says so.
        self.pid.store(raw::getpid().unwrap_or(0), Ordering::Relaxed);
        self.fork_detector.set_known();
    }

    /// Makes sure that the signal stack of the calling thread `tid` stays mapped, where it is the main
    /// thread: no other thread's is unmapped by a thread that it does not belong to.
    pub(crate) fn keep_signal_stack_mapped(&self, tid: u32) {
        if tid == self.pid.load(Ordering::Relaxed) {
            self.main_stack.replace_std_stack();
        }
    }

    /// Whether there is nothing to be opened again.
    pub(crate) fn has_stat_file(&self) -> bool {
        self.stat.is_open()
    }

    /// Opens again what a program may have closed. Looks up a path, so it comes before anything is
    /// frozen. Returns whether it could.
    pub(crate) fn reopen_stat_file(&self) -> bool {
        self.stat.open()
    }

    pub(crate) fn cores(&self) -> usize {
        self.cores.load(Ordering::Relaxed) as usize
    }

    /// Sees to it that a summons reaches our handler. Returns whether another had taken its place. The
    /// caller holds the round's lock.
    pub(crate) fn confirm_handler(&self) -> Result<bool, Errno> {
        self.chain.confirm(self.handler)
    }

    /// The calling thread's id, if it is a thread of the process that the registry is about, and not
    /// of a child that was forked behind the libc's back. Async-signal-safe.
    pub(crate) fn own_tid(&self) -> Option<u32> {
        if self.fork_detector.is_forked() { None } else { raw::gettid().ok() }
    }

    /// Asks the thread `tid` to answer the round.
    pub(crate) fn summon(&self, tid: u32) -> Result<(), SendError> {
        signal::summon(self.pid.load(Ordering::Relaxed), tid, self.address())
    }

    /// Whether the signal at hand is a summons of ours.
    ///
    /// # Safety
    ///
    /// As [`signal::is_summons`].
    pub(crate) unsafe fn is_summons(&self, info: *const libc::siginfo_t) -> bool {
        // SAFETY: passed on from our caller.
        unsafe { signal::is_summons(info, self.address()) }
    }

    /// Hands a signal that is none of ours to the handler that was there before. Async-signal-safe.
    ///
    /// # Safety
    ///
    /// As [`Chain::pass_on`].
    pub(crate) unsafe fn pass_on(
        &self,
        signal: c_int,
        info: *mut libc::siginfo_t,
        context: *mut c_void,
    ) {
        // SAFETY: passed on from our caller.
        unsafe { self.chain.pass_on(signal, info, context) };
    }

    /// The id of the main thread, whether it still runs or not.
    pub(crate) fn main_tid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// How many threads the process has, and whether the main thread is one that has ended.
    pub(crate) fn thread_count(&self) -> Result<ThreadCount, Errno> {
        self.stat.thread_count()
    }

    /// What to say of a count of zero: no Linux has that, but a kernel that poses as one may.
    pub(crate) fn zero_count_error(&self) -> Errno {
        Errno::from_raw(libc::ENOSYS)
    }

    /// The list of the process's threads, for while they are stopped. Closed when dropped.
    pub(crate) fn threads_in_stop(&self) -> Result<ThreadDir, Errno> {
        ThreadDir::open_in_stop()
    }

    /// The same for while they run: the lookup of `/proc` may wait for a file server.
    pub(crate) fn threads(&self) -> Result<ThreadDir, Errno> {
        ThreadDir::open()
    }

    /// Whether `/proc` is the kernel's, whatever processes it shows.
    pub(crate) fn has_procfs(&self) -> bool {
        procfs::open_proc(procfs::Lookup::MayWait).is_ok()
    }

    /// The name of the thread `tid`, where it can be read. For while the threads run.
    pub(crate) fn name(&self, tid: u32) -> Option<Comm> {
        let threads = self.threads().ok()?;
        let listed = threads.find(tid)?;
        threads.info(listed.proc_id).map(|info| info.name)
    }

    /// The name of the calling thread.
    pub(crate) fn own_name(&self) -> Comm {
        raw::thread_name()
    }

    /// Whether the thread `tid` has run; `None` where that cannot be read.
    pub(crate) fn activity(&self, tid: u32) -> Option<Activity> {
        ThreadDir::open().ok()?.activity(tid)
    }

    /// Whether the thread `tid` has ended. Needs no system call but futex.
    pub(crate) fn is_dead(&self, tid: u32) -> bool {
        super::futex::is_dead(tid)
    }

    /// What a summons carries, so that two copies of psx in one process tell theirs apart.
    fn address(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }
}
