//! A row of the table: the fault, how the process that suffers it is started, what must come out.

use std::fmt;
use std::time::Duration;

use crate::judge::Outcome;
use crate::raw;
use crate::stage::Stage;

/// FAULTS.md's limit: a case that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// One row.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it is called in the table.
    pub(crate) fault: &'static str,
    expected: &'static [Expected],
    /// What its process does.
    pub(crate) body: fn(&Stage),
    pub(crate) start: Start,
    pub(crate) limit: Duration,
    /// It measures time, or takes what other cases need: nothing else runs meanwhile.
    pub(crate) alone: bool,
    /// What the machine must offer, and what it is called.
    pub(crate) needs: (fn() -> bool, &'static str),
    /// It takes the right to raise a hard limit, which not every root has.
    raises_limit: bool,
    /// glibc's own broadcast must fail under it; where it does not, the fault is not built right.
    pub(crate) bites: bool,
}

/// How a case's process is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// As whoever runs the table.
    AsIs,
    /// As root, or not at all.
    Root,
    /// As uid 1000, or as whoever runs the table if that is not root.
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

/// What must come out of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    Ok,
    /// An error of this kind, whose text has this in it.
    Clean(&'static str, &'static str),
    /// Either is right: the fault lets both happen.
    OkOrClean,
    /// The process ends with this status.
    Exit(i32),
    /// The process aborts, having said this.
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
    /// Why `outcome` is not this. `text` is the error, or how the process ended and what it said.
    pub(crate) fn refusal(self, outcome: Outcome, text: &str) -> Option<String> {
        let met = match self {
            Self::Ok => outcome == Outcome::Ok,
            Self::Clean(kind, part) => {
                outcome == Outcome::Clean && text.starts_with(kind) && text.contains(part)
            }
            Self::OkOrClean => matches!(outcome, Outcome::Ok | Outcome::Clean),
            Self::Exit(_) | Self::Abort(_) => outcome == Outcome::Ended,
        };
        (!met).then(|| format!("wanted {self:?}, got {outcome}: {text}"))
    }
}

impl Case {
    pub(crate) const fn new(
        name: &'static str,
        fault: &'static str,
        expected: &'static [Expected],
        body: fn(&Stage),
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
            bites: false,
        }
    }

    /// What it needs and the machine, or who runs the table, does not have.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let (is_there, what) = self.needs;
        if self.start.needs_root() && raw::users()[1] != 0 {
            Some("root")
        } else {
            (!is_there()).then_some(what)
        }
    }

    /// Whether it takes a right that this machine's root does not have.
    pub(crate) fn lacks_right(&self) -> bool {
        self.raises_limit && !raw::may_have(raw::CAP_SYS_RESOURCE)
    }

    /// What must come out of each call that the body makes, in order.
    pub(crate) fn expected(&self) -> &'static [Expected] {
        if self.lacks_right() { &[Expected::Clean("Unreachable", "crew-7")] } else { self.expected }
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

    pub(crate) const fn bites(self) -> Self {
        Self { bites: true, ..self }
    }
}
