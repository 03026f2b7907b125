//! The process as the kernel sees it: its id, threads, signal handler and descriptors.

use core::ffi::{c_int, c_void};

use super::super::{Activity, SendError, ThreadCount};
use super::fork_detector::ForkDetector;
use super::main_stack::MainStack;
use super::signal::{Chain, Handler};
use super::stat_file::StatFile;
use super::sync::{AtomicU32, Ordering};
use super::thread_dir::ThreadDir;
use super::{nodelete, procfs, raw, signal};
use crate::report::Comm;
use crate::{Errno, Obstacle};

/// The process as the kernel sees it. There is one in each [`Runtime`](crate::runtime::Runtime).
pub(crate) struct Kernel {
    /// The process's id; 0 before `init`. Relaxed: set before the first thread registers, and in a forked
    /// child before `ForkDetector::set_known`.
    pid: AtomicU32,
    fork_detector: ForkDetector,
    stat: StatFile,
    chain: Chain,
    handler: Handler,
    main_stack: MainStack,
    /// The cores that this process may use; 0 before `init`. Relaxed: a hint.
    cores: AtomicU32,
}

impl Kernel {
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

    /// Initialises once per process, before the first thread registers. Allocates.
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

    /// The id of the process whose threads are registered. A child of `vfork`, or of `clone` with
    /// `CLONE_VM`, has the same memory and another id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Runs `reinit_after_fork` in one thread, while the others wait, if this is a child of a fork without
    /// hooks (a raw `clone`) in which it has not run.
    pub(crate) fn run_if_forked(&self, reinit_after_fork: impl FnOnce()) {
        self.fork_detector.run_if_forked(reinit_after_fork);
    }

    /// Reinitialises in a forked child.
    pub(crate) fn reinit_after_fork(&self) {
        self.stat.reset_after_fork();
        self.stat.open();
        // With the id 0, the kernel refuses each summons with an error.
        self.pid.store(raw::getpid().unwrap_or(0), Ordering::Relaxed);
        self.fork_detector.set_known();
    }

    /// Makes sure that the alternate signal stack of the calling thread `tid` stays mapped, if it is the
    /// main thread. The stack of any other thread is only unmapped by the thread itself.
    pub(crate) fn keep_signal_stack_mapped(&self, tid: u32) {
        if tid == self.pid() {
            self.main_stack.replace_std_stack();
        }
    }

    /// Whether the stat file is open.
    pub(crate) fn has_stat_file(&self) -> bool {
        self.stat.is_open()
    }

    /// Reopens the stat file, if the program has closed it; returns whether it is open then. Looks up a
    /// path, so no thread may be stopped.
    pub(crate) fn reopen_stat_file(&self) -> bool {
        self.stat.open()
    }

    pub(crate) fn cores(&self) -> usize {
        self.cores.load(Ordering::Relaxed) as usize
    }

    /// Makes psx's handler the one that receives the summons. Returns whether another one had replaced it.
    /// The caller holds the round's lock.
    pub(crate) fn confirm_handler(&self) -> Result<bool, Errno> {
        self.chain.confirm(self.handler)
    }

    /// The calling thread's id; `None` in a forked child that is not reinitialised, or if it cannot be
    /// read. Async-signal-safe.
    pub(crate) fn own_tid(&self) -> Option<u32> {
        if self.fork_detector.is_forked() { None } else { raw::gettid().ok() }
    }

    /// Sends a summons to the thread `tid`.
    pub(crate) fn summon(&self, tid: u32) -> Result<(), SendError> {
        signal::summon(self.pid(), tid, self.address())
    }

    /// Whether the signal is a summons for this `Kernel`.
    ///
    /// # Safety
    ///
    /// As [`signal::is_summons`].
    pub(crate) unsafe fn is_summons(&self, info: *const libc::siginfo_t) -> bool {
        // SAFETY: our caller's promise.
        unsafe { signal::is_summons(info, self.address()) }
    }

    /// Passes a signal that is not a summons to the handler that was installed before. Async-signal-safe.
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
        // SAFETY: our caller's promise.
        unsafe { self.chain.pass_on(signal, info, context) };
    }

    /// The id of the main thread, which may have ended.
    pub(crate) fn main_tid(&self) -> u32 {
        self.pid()
    }

    /// The kernel's thread count of the process, and whether the main thread has ended.
    pub(crate) fn thread_count(&self) -> Result<ThreadCount, Errno> {
        self.stat.thread_count()
    }

    /// The error for a thread count of zero, which Linux never returns, but an emulated kernel may.
    pub(crate) fn zero_count_error(&self) -> Errno {
        raw::FORGED
    }

    /// The list of the process's threads, while they are stopped.
    pub(crate) fn threads_in_stop(&self) -> Result<ThreadDir, Errno> {
        ThreadDir::open_in_stop()
    }

    /// The list of the process's threads, while they run: the lookup of `/proc` may wait for a file server.
    pub(crate) fn threads(&self) -> Result<ThreadDir, Errno> {
        ThreadDir::open()
    }

    /// Whether `/proc` is procfs, of any pid namespace.
    pub(crate) fn has_procfs(&self) -> bool {
        procfs::open_proc(procfs::Lookup::MayWait).is_ok()
    }

    /// The name of the thread `tid`, if it can be read. While the threads run.
    pub(crate) fn name(&self, tid: u32) -> Option<Comm> {
        let threads = self.threads().ok()?;
        let listed = threads.find(tid)?;
        threads.info(listed.proc_id).map(|info| info.name)
    }

    /// The calling thread's name.
    pub(crate) fn own_name(&self) -> Comm {
        raw::thread_name()
    }

    /// The activity of the thread `tid`; `None` if it cannot be read.
    pub(crate) fn activity(&self, tid: u32) -> Option<Activity> {
        self.threads().ok()?.activity(tid)
    }

    /// Whether signal 33 is queued for the thread `tid`; `None` if that cannot be read.
    pub(crate) fn has_pending_summons(&self, tid: u32) -> Option<bool> {
        ThreadDir::open().ok()?.has_pending(tid, signal::SUMMONS)
    }

    /// What keeps the thread `tid` from taking its signal; `None` if nothing is seen. While the threads run.
    pub(crate) fn obstacle(&self, tid: u32) -> Option<Obstacle> {
        self.threads().ok()?.obstacle(tid)
    }

    /// Whether no thread has the id `tid`. Makes no system call but futex.
    pub(crate) fn is_dead(&self, tid: u32) -> bool {
        super::futex::is_dead(tid)
    }

    /// The value in a summons by which two copies of psx in one process tell theirs apart.
    fn address(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }
}
