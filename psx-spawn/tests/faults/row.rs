//! A row of the table: the fault, how the process that it is applied to is started, the expected outcome.

use std::fmt;
use std::time::Duration;

use psx_test_support::process;

use crate::context::Context;
use crate::oracle::Outcome;
use crate::raw;

/// A row that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// Its name in the table.
    pub(crate) fault: &'static str,
    expected: &'static [Expected],
    /// What its process does.
    pub(crate) body: fn(&Context),
    pub(crate) start: Start,
    pub(crate) limit: Duration,
    /// It measures time, or uses what other rows need: no other row runs at the same time.
    pub(crate) alone: bool,
    /// What the machine must have, and its name.
    needs: (fn() -> bool, &'static str),
    /// It needs the right to raise a hard limit, which not every root has.
    raises_limit: bool,
    /// glibc's own broadcast must fail under it; where it does not, the fault is not effective.
    pub(crate) fails_on_glibc: bool,
}

/// How a row's process is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// As the user who runs the table.
    AsIs,
    /// As root, or not at all.
    Root,
    /// As uid 1000, or as the user who runs the table if that is not root.
    Plain,
    /// By uid 1000, from a set-user-ID-root file.
    SetUserId,
    /// The same, under `ulimit -i 0`.
    SetUserIdNoQueue,
}

impl Start {
    fn needs_root(self) -> bool {
        !matches!(self, Self::AsIs | Self::Plain)
    }
}

/// The expected outcome of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    Ok,
    /// An error of this kind, whose text contains this.
    Clean(&'static str, &'static str),
    /// Either: the fault permits both.
    OkOrClean,
    /// The process ends with this status.
    Exit(i32),
    /// The process aborts after it has printed this.
    Abort(&'static str),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Clean(..) => "CLEAN",
            Self::OkOrClean => "OK or CLEAN",
            Self::Exit(_) | Self::Abort(_) => "ENDED",
        })
    }
}

impl Expected {
    /// Why `outcome` is not this. `text` is the error, or how the process ended and what it printed.
    pub(crate) fn mismatch(self, outcome: Outcome, text: &str) -> Option<String> {
        let met = match self {
            Self::Ok => outcome == Outcome::Ok,
            Self::Clean(kind, part) => {
                outcome == Outcome::Clean && text.starts_with(kind) && text.contains(part)
            }
            Self::OkOrClean => matches!(outcome, Outcome::Ok | Outcome::Clean),
            Self::Exit(_) | Self::Abort(_) => outcome == Outcome::Ended,
        };
        (!met).then(|| format!("expected {self:?}, got {outcome}: {text}"))
    }
}

impl Row {
    pub(crate) const fn new(
        name: &'static str,
        fault: &'static str,
        expected: &'static [Expected],
        body: fn(&Context),
    ) -> Self {
        Self {
            name,
            fault,
            expected,
            body,
            start: Start::AsIs,
            limit: LIMIT,
            alone: false,
            needs: (|| true, ""),
            raises_limit: false,
            fails_on_glibc: false,
        }
    }

    /// For `Case::needs`.
    pub(crate) fn check_needs(&self) -> Result<(), String> {
        let (is_there, what) = self.needs;
        if self.start.needs_root() {
            process::root()?;
        }
        if is_there() { Ok(()) } else { Err(format!("needs {what}")) }
    }

    /// Whether it needs a right that this machine's root does not have.
    pub(crate) fn lacks_right(&self) -> bool {
        self.raises_limit && !raw::may_have(raw::CAP_SYS_RESOURCE)
    }

    /// The expected outcome of each call that the body makes, in order.
    pub(crate) fn expected(&self) -> &'static [Expected] {
        if self.lacks_right() {
            &[Expected::Clean("Unreachable", "probe-7")]
        } else {
            self.expected
        }
    }

    pub(crate) const fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    pub(crate) const fn seconds(self, limit: u64) -> Self {
        Self { limit: Duration::from_secs(limit), ..self }
    }

    pub(crate) const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    pub(crate) const fn needs(self, is_there: fn() -> bool, what: &'static str) -> Self {
        Self { needs: (is_there, what), ..self }
    }

    pub(crate) const fn raises_limit(self) -> Self {
        Self { raises_limit: true, ..self }
    }

    pub(crate) const fn fails_on_glibc(self) -> Self {
        Self { fails_on_glibc: true, ..self }
    }
}
