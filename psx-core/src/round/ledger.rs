//! What a round finds out about threads, in memory laid out before it began.

use crate::Outcome;
use crate::memory::{NoMemory, try_vec};
use crate::report::{Comm, Divergent, NamedThread, Threads};

/// Something to tell about a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding {
    pub(super) tid: u32,
    pub(super) name: Comm,
    pub(super) outcome: Outcome,
}

/// Fixed room for findings, and for the thread ids that the coverage proof compares.
pub(super) struct Ledger {
    findings: Vec<Finding>,
    pub(super) registered: FixedVec,
    pub(super) harmless: FixedVec,
}

impl Ledger {
    /// Room for `threads` of each kind.
    pub(super) fn for_threads(threads: usize) -> Result<Self, NoMemory> {
        Ok(Self {
            findings: try_vec(threads)?,
            registered: FixedVec(try_vec(threads)?),
            harmless: FixedVec(try_vec(threads)?),
        })
    }

    /// How many threads there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.findings.capacity()
    }

    /// Notes something, if there is room: an error that names a thousand threads and not the last
    /// few is still one.
    pub(super) fn note(&mut self, finding: Finding) {
        if self.findings.len() < self.findings.capacity() {
            self.findings.push(finding);
        }
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub(super) fn findings_mut(&mut self) -> &mut [Finding] {
        &mut self.findings
    }

    /// The threads found. Allocates.
    pub(super) fn threads(&self) -> Result<Threads, NoMemory> {
        let mut threads = try_vec(self.findings.len())?;
        threads.extend(self.findings.iter().map(Finding::thread));
        Ok(Threads(threads.into_boxed_slice()))
    }

    /// The threads found, with what became of their calls. Allocates.
    pub(super) fn divergent(&self) -> Vec<Divergent> {
        let divergent = |f: &Finding| Divergent { thread: f.thread(), outcome: f.outcome };
        self.findings.iter().map(divergent).collect()
    }
}

impl Finding {
    fn thread(&self) -> NamedThread {
        NamedThread { tid: self.tid, name: self.name }
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
