//! What a round finds out about threads, in memory laid out before it began.

use crate::memory::{NoMemory, try_vec};
use crate::report::{Comm, Divergent, NamedThread, Threads};
use crate::sys::ThreadInfo;
use crate::{Errno, Outcome};

/// Something to tell about a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadRecord {
    pub(super) tid: u32,
    pub(super) name: Comm,
    pub(super) outcome: Outcome,
}

/// Fixed room for findings, and for the thread ids that the coverage proof compares.
pub(super) struct Scratch {
    records: Vec<ThreadRecord>,
    pub(super) registered: FixedVec,
    pub(super) others: Others,
}

/// The threads of the process that are not registered.
pub(super) struct Others {
    /// Those that may run with privileges of their own.
    missed: Vec<NamedThread>,
    /// How many more of those the kernel counts, and why they cannot be named; no reason where they
    /// started or ended while they were listed.
    unnamed: usize,
    reason: Option<Errno>,
    /// The ids, as `/proc` has them, of those that do nothing with the credentials that they have.
    pub(super) harmless: FixedVec,
}

impl Scratch {
    /// Room for `threads` of each kind.
    pub(super) fn for_threads(threads: usize) -> Result<Self, NoMemory> {
        Ok(Self {
            records: try_vec(threads)?,
            registered: FixedVec(try_vec(threads)?),
            others: Others {
                missed: try_vec(threads)?,
                unnamed: 0,
                reason: None,
                harmless: FixedVec(try_vec(threads)?),
            },
        })
    }

    /// How many threads there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.records.capacity()
    }

    /// Whether all of `count` threads could be noted.
    pub(super) fn has_room_for(&self, count: usize) -> bool {
        count <= self.capacity()
    }

    /// Notes something, if there is room: an error that names a thousand threads and not the last
    /// few is still one.
    pub(super) fn record(&mut self, record: ThreadRecord) {
        if self.records.len() < self.records.capacity() {
            self.records.push(record);
        }
    }

    pub(super) fn records(&self) -> &[ThreadRecord] {
        &self.records
    }

    pub(super) fn records_mut(&mut self) -> &mut [ThreadRecord] {
        &mut self.records
    }

    /// The threads found. Allocates.
    pub(super) fn threads(&self) -> Result<Threads, NoMemory> {
        let mut threads = try_vec(self.records.len())?;
        threads.extend(self.records.iter().map(ThreadRecord::thread));
        Ok(Threads::named(threads))
    }

    /// The threads found, with what became of their calls. Allocates.
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

impl Others {
    /// Forgets what was found, and keeps the room.
    pub(super) fn clear(&mut self) {
        self.missed.clear();
        self.harmless.0.clear();
        (self.unnamed, self.reason) = (0, None);
    }

    /// Notes a thread that may run with privileges of its own. Where there is no room, it is one of
    /// those that are not named.
    pub(super) fn note(&mut self, tid: u32, info: ThreadInfo) {
        if self.missed.len() < self.missed.capacity() {
            self.missed.push(NamedThread::seen(tid, info));
        }
    }

    /// Notes how many there are in all by the kernel's count, `harmless` ones included.
    pub(super) fn count(&mut self, all: usize, harmless: usize, reason: Option<Errno>) {
        self.unnamed = all.saturating_sub(harmless + self.missed.len());
        self.reason = reason.filter(|_| self.unnamed > 0);
    }

    /// Whether each of those that were counted was listed.
    pub(super) fn is_whole(&self) -> bool {
        self.unnamed == 0
    }

    /// Whether there are none that may run with privileges of their own.
    pub(super) fn none_missed(&self) -> bool {
        self.missed.is_empty() && self.unnamed == 0
    }

    /// Those that may run with privileges of their own. Allocates.
    pub(super) fn threads(&self) -> Result<Threads, NoMemory> {
        let mut threads = try_vec(self.missed.len())?;
        threads.extend(self.missed.iter().cloned());
        Ok(Threads { unnamed: self.unnamed, reason: self.reason, ..Threads::named(threads) })
    }

    /// The same; just their number where there is no memory for the names.
    pub(super) fn threads_or_number(&self) -> Threads {
        self.threads().unwrap_or_else(|NoMemory| Threads {
            unnamed: self.unnamed + self.missed.len(),
            reason: Some(NoMemory.errno()),
            ..Threads::named(Vec::new())
        })
    }
}

/// Thread ids in a vector that never grows.
pub(super) struct FixedVec(Vec<u32>);

impl FixedVec {
    /// Returns whether there was room.
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

    /// Whether it holds `tid`. For one that is sorted.
    pub(super) fn contains(&self, tid: u32) -> bool {
        self.0.binary_search(&tid).is_ok()
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        &self.0
    }
}
