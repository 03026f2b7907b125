//! Buffers for what a round finds out about threads. They are allocated before it and have a fixed size.

use crate::memory::{NoMemory, try_vec};
use crate::report::{Comm, Divergent, NamedThread, Threads};
use crate::sys::ThreadInfo;
use crate::{Errno, Outcome};

/// A thread that the result of the broadcast names.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadRecord {
    pub(super) tid: u32,
    pub(super) name: Comm,
    pub(super) outcome: Outcome,
}

/// The buffers of one attempt.
pub(super) struct Scratch {
    records: Vec<ThreadRecord>,
    pub(super) registered: FixedVec,
    pub(super) unregistered: Unregistered,
}

/// The threads of the process that are not registered.
pub(super) struct Unregistered {
    /// Those that may run with privileges of their own.
    missed: Vec<NamedThread>,
    /// How many more of those the kernel counts.
    unnamed: usize,
    /// Why those have no names. `None` if they started or ended while the threads were listed.
    reason: Option<Errno>,
    /// The ids in `/proc` of those that do not use their own credentials.
    pub(super) harmless: FixedVec,
}

impl Scratch {
    /// Allocates buffers for `threads` threads of each kind.
    pub(super) fn for_threads(threads: usize) -> Result<Self, NoMemory> {
        Ok(Self {
            records: try_vec(threads)?,
            registered: FixedVec(try_vec(threads)?),
            unregistered: Unregistered {
                missed: try_vec(threads)?,
                unnamed: 0,
                reason: None,
                harmless: FixedVec(try_vec(threads)?),
            },
        })
    }

    /// How many threads the buffers have room for.
    pub(super) fn capacity(&self) -> usize {
        self.records.capacity()
    }

    /// Whether the buffers have room for `count` threads.
    pub(super) fn has_room_for(&self, count: usize) -> bool {
        count <= self.capacity()
    }

    /// Adds a record, if there is room. An error that names a thousand threads may omit the last few.
    pub(super) fn record(&mut self, record: ThreadRecord) {
        if self.records.len() < self.records.capacity() {
            self.records.push(record);
        }
    }

    pub(super) fn records(&self) -> &[ThreadRecord] {
        &self.records
    }

    /// The threads in the records. Allocates.
    pub(super) fn threads(&self) -> Result<Threads, NoMemory> {
        let mut threads = try_vec(self.records.len())?;
        threads.extend(self.records.iter().map(ThreadRecord::thread));
        Ok(Threads::named(threads))
    }

    /// The threads in the records, with their outcomes. Allocates.
    pub(super) fn divergent(&self) -> Vec<Divergent> {
        let divergent = |f: &ThreadRecord| Divergent { thread: f.thread(), outcome: f.outcome };
        self.records.iter().map(divergent).collect()
    }
}

impl ThreadRecord {
    fn thread(&self) -> NamedThread {
        NamedThread::registered(self.tid, self.name)
    }
}

impl Unregistered {
    /// Removes all threads, and keeps the capacity.
    pub(super) fn clear(&mut self) {
        self.missed.clear();
        self.harmless.0.clear();
        (self.unnamed, self.reason) = (0, None);
    }

    /// Adds a thread that may run with privileges of its own. If there is no room, it is one of those that
    /// have no names.
    pub(super) fn add_missed(&mut self, tid: u32, info: ThreadInfo) {
        if self.missed.len() < self.missed.capacity() {
            self.missed.push(NamedThread::seen(tid, info));
        }
    }

    /// Sets how many there are by the kernel's count, including `harmless` ones.
    pub(super) fn set_count(&mut self, all: usize, harmless: usize, reason: Option<Errno>) {
        self.unnamed = all.saturating_sub(harmless + self.missed.len());
        self.reason = reason.filter(|_| self.unnamed > 0);
    }

    /// Whether each counted thread was listed.
    pub(super) fn is_complete(&self) -> bool {
        self.unnamed == 0
    }

    /// Whether no thread may run with privileges of its own.
    pub(super) fn none_missed(&self) -> bool {
        self.missed.is_empty() && self.unnamed == 0
    }

    /// The threads that may run with privileges of their own. Allocates.
    pub(super) fn threads(&self) -> Result<Threads, NoMemory> {
        let mut threads = try_vec(self.missed.len())?;
        threads.extend(self.missed.iter().cloned());
        Ok(Threads { unnamed: self.unnamed, reason: self.reason, ..Threads::named(threads) })
    }

    /// The same, or only their number if there is no memory for the names.
    pub(super) fn threads_or_number(&self) -> Threads {
        self.threads().unwrap_or_else(|NoMemory| Threads {
            unnamed: self.unnamed + self.missed.len(),
            reason: Some(NoMemory.errno()),
            ..Threads::named(Vec::new())
        })
    }
}

/// A vector of thread ids that never grows.
pub(super) struct FixedVec(Vec<u32>);

impl FixedVec {
    /// Returns `false` if there is no room.
    pub(super) fn push(&mut self, tid: u32) -> bool {
        let room = self.0.len() < self.0.capacity();
        if room {
            self.0.push(tid);
        }
        room
    }

    pub(super) fn sort(&mut self) {
        self.0.sort_unstable();
    }

    /// Whether it contains `tid`. It must be sorted.
    pub(super) fn contains(&self, tid: u32) -> bool {
        self.0.binary_search(&tid).is_ok()
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        &self.0
    }
}
